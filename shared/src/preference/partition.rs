//! Train against held out: by user, prompt or test, and by time; never by row. Method B.1.1, pitfall C.
//!
//! The side of a group follows from its name alone, so what one run held out no later run learns from. Of a
//! data set with enough impressions the latest are split off too: learning ends before judging begins. What
//! falls between (early records of held-out groups, late ones of the others) is used by neither.
//!
//! [`check`] looks for leaks in the finished partition; it knows nothing of how the partition was made.

use super::config::{SplitConfig, SplitKey};
use crate::click::{Impression, Record};
use crate::digest::sha256;
use crate::prompt::{Prompt, Role};
use std::collections::{BTreeMap, HashSet};

/// Something that stands on both sides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Leak {
    /// A user, query or test.
    #[error("the split leaks: {group} stands on both sides")]
    Group {
        /// Its key.
        group: String,
    },
    /// An impression.
    #[error("the split leaks: impression {id} stands on both sides")]
    Impression {
        /// Its id.
        id: String,
    },
    /// The future.
    #[error(
        "the split leaks: training data of {source_name} ends at {train_millis} ms, after held-out data begins at {held_out_millis} ms"
    )]
    Time {
        /// Data set.
        source_name: String,
        /// Latest of the train side.
        train_millis: i64,
        /// Earliest of the held-out side.
        held_out_millis: i64,
    },
}

/// Records of one data set after the split.
#[derive(Debug, Clone, Default)]
pub struct Partition<'a> {
    /// To learn from.
    pub train: Vec<&'a Record>,
    /// To judge by.
    pub held_out: Vec<&'a Record>,
    /// Used by neither, for the sake of time.
    pub n_between: usize,
    /// Impressions from this time on are not learnt from, milliseconds since 1970 UTC; absent where time was
    /// not split.
    pub held_out_from: Option<i64>,
}

/// What keeps a record together with others: a user's, a query's (shared by all sources) or a test's key.
pub fn group(record: &Record, by: SplitKey) -> String {
    match record {
        Record::Impression(impression) if by == SplitKey::User => format!("user:{}", impression.user_hash),
        Record::Impression(impression) => format!("query:{}", beginning(&impression.prompt)),
        Record::Pane(pane) => format!("query:{}", beginning(&pane.prompt)),
        Record::Demonstration(demonstration) => format!("query:{}", beginning(&demonstration.prompt)),
        Record::Counts(counts) => {
            format!("test:{}", counts.group.split_once('/').map_or(counts.group.as_str(), |(test, _)| test))
        }
    }
}

/// The first user turn, by which conversations are grouped.
pub fn beginning(prompt: &Prompt) -> String {
    let first = prompt.turns.iter().find(|turn| turn.role == Role::User);
    first.map_or_else(String::new, |turn| turn.text.trim().to_lowercase())
}

fn is_held_out(group: &str, percent: u64) -> bool {
    let hash = sha256(group.as_bytes());
    let bytes: [u8; 8] = std::array::from_fn(|i| hash[i]);
    u64::from_le_bytes(bytes) % 100 < percent
}

fn impression(record: &Record) -> Option<&Impression> {
    if let Record::Impression(impression) = record { Some(impression) } else { None }
}

/// The time from which on nothing is learnt: the (100 - latest) percentile of the impressions' times.
fn cut(records: &[&Record], config: &SplitConfig) -> Option<i64> {
    let mut times: Vec<i64> = records.iter().filter_map(|r| impression(r)).map(|i| i.time_millis).collect();
    if times.len() < config.min_timed || config.latest_percent == 0 || times.is_empty() {
        return None;
    }
    times.sort_unstable();
    let rank = times.len() * (100 - config.latest_percent as usize) / 100;
    let at = times[rank.min(times.len() - 1)];
    // all of one moment: there is no before
    (at > times[0]).then_some(at)
}

/// Splits the records of one data set.
pub fn partition<'a>(records: &[&'a Record], config: &SplitConfig) -> Partition<'a> {
    let mut parts = Partition { held_out_from: cut(records, config), ..Partition::default() };
    for record in records {
        let held_out = is_held_out(&group(record, config.by), config.held_out_percent);
        let time = impression(record).map(|i| i.time_millis);
        let late = time.zip(parts.held_out_from).map(|(time, from)| time >= from);
        match (held_out, late) {
            (false, None | Some(false)) => parts.train.push(record),
            (true, None | Some(true)) => parts.held_out.push(record),
            _ => parts.n_between += 1,
        }
    }
    parts
}

/// Looks for a group or an impression on both sides of any data set, and for a train side that ends after
/// its held-out side begins where the partition says that time was split.
///
/// # Errors
/// The first leak found.
pub fn check(parts: &BTreeMap<&str, Partition>, by: SplitKey) -> Result<(), Leak> {
    let (mut groups, mut ids) = (HashSet::new(), HashSet::new());
    for record in parts.values().flat_map(|p| &p.train) {
        groups.insert(group(record, by));
        ids.extend(impression(record).map(|i| i.impression_id.as_str()));
    }
    for record in parts.values().flat_map(|p| &p.held_out) {
        let group = group(record, by);
        if groups.contains(&group) {
            return Err(Leak::Group { group });
        }
        if let Some(id) = impression(record).map(|i| i.impression_id.as_str()).filter(|id| ids.contains(id)) {
            return Err(Leak::Impression { id: id.to_owned() });
        }
    }
    for (source, part) in parts.iter().filter(|(_, p)| p.held_out_from.is_some()) {
        let times = |side: &[&Record]| -> Vec<i64> {
            side.iter().filter_map(|r| impression(r)).map(|i| i.time_millis).collect()
        };
        let (last, first) = (times(&part.train).into_iter().max(), times(&part.held_out).into_iter().min());
        if let (Some(train_millis), Some(held_out_millis)) = (last, first)
            && train_millis >= held_out_millis
        {
            return Err(Leak::Time { source_name: (*source).to_owned(), train_millis, held_out_millis });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
