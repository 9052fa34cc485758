//! Where a run comes from: hash of its records, command, commit, attribution of the data sets.

use beckon_shared::click::{Record, Sourced};
use beckon_shared::control::RunConfig;
use beckon_shared::digest::sha256_hex;
use std::collections::BTreeMap;

/// What the caller knows of a run beside its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Command that makes the run again.
    pub command: String,
    /// Commit of the code, where known.
    pub commit: Option<String>,
}

impl Origin {
    /// The command of `beckon loop` for a configuration, without its data; the commit is the one that
    /// the build was told by `BECKON_COMMIT`.
    pub fn of(config: &RunConfig) -> Self {
        let preset = format!("{:?}", config.preset).to_lowercase();
        Self {
            command: format!("beckon loop --preset {preset} --seed {}", config.seed),
            commit: option_env!("BECKON_COMMIT").filter(|c| !c.is_empty()).map(str::to_owned),
        }
    }
}

/// SHA-256 over the records as JSON lines in their order, hex.
pub fn data_hash(records: &[Sourced]) -> String {
    let mut lines = Vec::new();
    for record in records {
        // a record is strings, numbers and lists, so it has a JSON form
        lines.extend(serde_json::to_vec(record).unwrap_or_default());
        lines.push(b'\n');
    }
    sha256_hex(&lines)
}

/// Data sets and their record counts, by name.
pub fn sources(records: &[Sourced]) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for record in records {
        *counts.entry(&record.source).or_default() += 1;
    }
    counts.into_iter().map(|(source, n)| (source.to_owned(), n)).collect()
}

/// Whether there are clicks, and all of them were simulated.
pub fn is_simulated(records: &[Sourced]) -> bool {
    !records.is_empty() && records.iter().all(|r| matches!(&r.record, Record::Impression(i) if i.simulated))
}

/// Attribution of the known data sets among `sources`.
pub fn attribution(sources: &[(String, u64)]) -> Vec<String> {
    const KNOWN: [(&str, &str); 4] = [
        ("mimics", "MIMICS and MIMICS-Duo (Zamani et al. 2020; Tavakoli et al. 2022), Microsoft, MIT licence"),
        ("upworthy", "The Upworthy Research Archive (Matias et al. 2021), CC BY 4.0"),
        ("conversations", "TREC CAsT 2022 and iKAT 2023-25, NIST and track organisers, MIT licence"),
        ("open-bandit", "Open Bandit Dataset (Saito et al. 2020), ZOZO, CC BY 4.0"),
    ];
    let is_there = |prefix: &str| sources.iter().any(|(source, _)| source.starts_with(prefix));
    KNOWN.iter().filter(|(prefix, _)| is_there(prefix)).map(|(_, text)| (*text).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::World;

    fn log(n: usize) -> Vec<Sourced> {
        let impressions = World::new(0).generate_log(n, 5, 0);
        impressions.into_iter().map(|i| Sourced { source: "log".into(), record: Record::Impression(i) }).collect()
    }

    #[test]
    fn the_hash_sees_every_record_and_their_order() {
        let mut records = log(4);
        let hash = data_hash(&records);
        assert_eq!(hash, data_hash(&log(4)));
        records.swap(0, 1);
        assert_ne!(hash, data_hash(&records));
        assert_ne!(hash, data_hash(&log(3)));
    }

    #[test]
    fn one_real_click_record_makes_a_log_real() {
        let mut records = log(3);
        assert!(is_simulated(&records));
        if let Record::Impression(i) = &mut records[1].record {
            i.simulated = false;
        }
        assert!(!is_simulated(&records));
        assert!(!is_simulated(&[]));
    }

    #[test]
    fn each_known_source_is_attributed_once() {
        let sources = [("mimics-duo".to_owned(), 3), ("mimics-intents".to_owned(), 4), ("log".to_owned(), 1)];
        assert_eq!(attribution(&sources).len(), 1);
    }
}
