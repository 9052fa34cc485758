//! The click log in the store: append-only, each record once.

use super::sql::{Connection, Value, values};
use super::{Store, StoreError};
use beckon_shared::click::{Record, Sourced};
use beckon_shared::control::{LogSummary, SlotSummary, SourceSummary};
use beckon_shared::digest::sha256_hex;
use std::collections::{BTreeMap, HashSet};

/// Records per transaction: small enough that curves of a running run wait for a moment only.
const BATCH: usize = 2_000;

/// What adding records did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Added {
    /// Stored now.
    pub n_accepted: u64,
    /// There already (same impression id, or same content for records without an id).
    pub n_duplicates: u64,
}

/// Which records to read.
#[derive(Debug, Clone, Default)]
pub struct RecordQuery {
    /// Of this data set only.
    pub source: Option<String>,
    /// Leave out this many.
    pub offset: u64,
    /// At most this many.
    pub limit: u64,
}

/// Word for the kind of evidence, the `kind` of the JSON.
fn kind(record: &Record) -> &'static str {
    match record {
        Record::Impression(_) => "impression",
        Record::Pane(_) => "pane",
        Record::Counts(_) => "counts",
        Record::Demonstration(_) => "demonstration",
    }
}

fn key(sourced: &Sourced, json: &str) -> String {
    if let Record::Impression(impression) = &sourced.record {
        return format!("i:{}", impression.impression_id);
    }
    format!("h:{}", sha256_hex(format!("{}\0{json}", sourced.source).as_bytes()))
}

/// The first of each set of records that the store would count as one, in order.
pub fn without_duplicates(records: Vec<Sourced>) -> Vec<Sourced> {
    let mut seen = HashSet::new();
    // a record that JSON cannot hold is refused by the store; here it is kept
    records
        .into_iter()
        .filter(|r| serde_json::to_string(&r.record).map_or(true, |json| seen.insert(key(r, &json))))
        .collect()
}

impl Store {
    /// Adds records in order, each batch of 2,000 atomically and synced to disk before this returns. A second record
    /// with a known key is counted and left out, so an import that broke off can simply be repeated.
    ///
    /// # Errors
    /// [`StoreError::Database`], on a full disk say; batches before the failing one stay.
    pub fn add_records(&self, records: &[Sourced]) -> Result<Added, StoreError> {
        let mut added = Added::default();
        for batch in records.chunks(BATCH) {
            let now = self.writer().transaction(|transaction| {
                // one import after the other, so that an id that can be seen is above every one that comes later
                transaction.lock_table("records")?;
                add_batch(transaction, batch)
            })?;
            added.n_accepted += now.n_accepted;
            added.n_duplicates += now.n_duplicates;
        }
        Ok(added)
    }

    /// Number of records of all kinds.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn n_records(&self) -> Result<u64, StoreError> {
        self.reader().value("SELECT count(*) FROM records", values![])
    }

    /// Id of the newest record; 0 where there is none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn last_record_id(&self) -> Result<i64, StoreError> {
        self.reader().value("SELECT coalesce(max(id), 0) FROM records", values![])
    }

    /// All records up to and including `last_id`, in the order they were added: the data of a run.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn records_up_to(&self, last_id: i64) -> Result<Vec<Sourced>, StoreError> {
        self.select_records("SELECT id, source, json FROM records WHERE id <= ?1 ORDER BY id", values![last_id])
    }

    /// A page of records in the order they were added.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn records(&self, query: &RecordQuery) -> Result<Vec<Sourced>, StoreError> {
        let RecordQuery { source, limit, offset } = query;
        match source {
            None => self.select_records(
                "SELECT id, source, json FROM records ORDER BY id LIMIT ?1 OFFSET ?2",
                values![*limit, *offset],
            ),
            Some(source) => self.select_records(
                "SELECT id, source, json FROM records WHERE source = ?3 ORDER BY id LIMIT ?1 OFFSET ?2",
                values![*limit, *offset, source],
            ),
        }
    }

    fn select_records(&self, sql: &str, values: &[Value]) -> Result<Vec<Sourced>, StoreError> {
        self.reader().rows(sql, values, |mut row| {
            let (id, source, json): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let damaged = |source| StoreError::Damaged { what: format!("record {id}"), source };
            Ok(Sourced { source, record: serde_json::from_str(&json).map_err(damaged)? })
        })
    }

    /// What is in the log.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn summary(&self) -> Result<LogSummary, StoreError> {
        let mut reader = self.reader();
        let (sources, slots, n_users): (Vec<SourceSummary>, Vec<SlotSummary>, u64) = reader.snapshot(|snapshot| {
            let sql = "SELECT source, kind, count(*), CAST(coalesce(sum(simulated), 0) AS BIGINT) FROM records \
                       GROUP BY source, kind ORDER BY source, kind";
            let sources = snapshot.rows(sql, values![], |mut row| {
                let (source, kind) = (row.get(0)?, row.get(1)?);
                Ok(SourceSummary { source, kind, n_records: row.get(2)?, n_simulated: row.get(3)? })
            })?;
            let sql = "SELECT slot, n_impressions, n_clicks FROM slot_counts ORDER BY slot";
            let slots = snapshot.rows(sql, values![], |mut row| {
                Ok(SlotSummary { slot: row.get(0)?, n_impressions: row.get(1)?, n_clicks: row.get(2)? })
            })?;
            let sql = "SELECT count(DISTINCT user_hash) FROM records WHERE user_hash IS NOT NULL";
            Ok((sources, slots, snapshot.value(sql, values![])?))
        })?;
        let impressions = || sources.iter().filter(|s| s.kind == "impression");
        Ok(LogSummary {
            n_records: sources.iter().map(|s| s.n_records).sum(),
            n_impressions: impressions().map(|s| s.n_records).sum(),
            n_simulated: impressions().map(|s| s.n_simulated).sum(),
            n_users,
            n_clicks: slots.iter().map(|s| s.n_clicks).sum(),
            slots,
            sources,
        })
    }
}

fn add_batch(transaction: &mut Connection, batch: &[Sourced]) -> Result<Added, StoreError> {
    let insert = "INSERT INTO records (source, kind, key, simulated, user_hash, json) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
                  ON CONFLICT (key) DO NOTHING";
    let count = "INSERT INTO slot_counts (slot, n_impressions, n_clicks) VALUES (?1, ?2, ?3) ON CONFLICT (slot) DO UPDATE SET \
                 n_impressions = slot_counts.n_impressions + excluded.n_impressions, \
                 n_clicks = slot_counts.n_clicks + excluded.n_clicks";
    let mut added = Added::default();
    let mut slots: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    for sourced in batch {
        let json = serde_json::to_string(&sourced.record)
            .map_err(|source| StoreError::Damaged { what: format!("a record of {}", sourced.source), source })?;
        let (simulated, user_hash) = match &sourced.record {
            Record::Impression(impression) => (impression.simulated, Some(&impression.user_hash)),
            _ => (false, None),
        };
        let key = key(sourced, &json);
        let values = values![&sourced.source, kind(&sourced.record), key, simulated, user_hash, json];
        if transaction.execute(insert, values)? == 0 {
            added.n_duplicates += 1;
            continue;
        }
        added.n_accepted += 1;
        if let Record::Impression(impression) = &sourced.record {
            for (slot_idx, slot) in impression.slate.iter().enumerate() {
                // a click proves that the slot was seen
                let shown = slot.clicked || slot.visible != Some(false);
                let (n_impressions, n_clicks) = slots.entry(slot_idx).or_default();
                *n_impressions += u64::from(shown);
                *n_clicks += u64::from(slot.clicked);
            }
        }
    }
    for (slot_idx, (n_impressions, n_clicks)) in slots {
        transaction.execute(count, values![slot_idx, n_impressions, n_clicks])?;
    }
    Ok(added)
}
