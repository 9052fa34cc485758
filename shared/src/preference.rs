//! From records to what the stages learn from (method B.1.4, B.1.5). Second arrow of the loop.
//!
//! Each kind of evidence has its file; this one holds the types, the split and the scale of weights.
//! The side of a group depends on its name alone: what one run held out, no later run learns from.

mod counts;
mod demonstrations;
mod impressions;
mod panes;

use crate::click::{Record, Sourced};
use crate::digest::sha256;
use crate::prompt::{Prompt, Role};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// A suggestion to imitate, SFT's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SftExample {
    /// Data set.
    pub source: String,
    /// Split key: user, query or test.
    pub group: String,
    /// The conversation so far.
    pub prompt: Prompt,
    /// What to write.
    pub suggestion: String,
    /// Evidence for it, relative; mean 1 over a data set.
    pub weight: f32,
}

/// Two suggestions for one prompt, GaRM's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Data set.
    pub source: String,
    /// Split key: user, query or test.
    pub group: String,
    /// The conversation so far.
    pub prompt: Prompt,
    /// The one with more evidence.
    pub chosen: String,
    /// The other.
    pub rejected: String,
    /// P(chosen is preferred), in (0.5, 1].
    pub label: f32,
    /// Mean 1 over a data set.
    pub weight: f32,
}

/// An absolute engagement level of one suggestion, GaRM's anchor (method B.2.4 A; thresholds 0 and 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// Data set.
    pub source: String,
    /// Split key: user, query or test.
    pub group: String,
    /// The conversation so far.
    pub prompt: Prompt,
    /// The suggestion.
    pub suggestion: String,
    /// 0 no click, 1 click, 2 satisfied click (or the data set's lower, middle, upper level).
    pub level: u8,
    /// Mean 1 over a data set.
    pub weight: f32,
}

/// One side of a split.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Split {
    /// SFT examples.
    pub sft: Vec<SftExample>,
    /// Preference pairs.
    pub pairs: Vec<Pair>,
    /// Anchors.
    pub anchors: Vec<Anchor>,
    /// Distinct prompts to write suggestions for (conversation-like sources only, no `Counts`).
    pub prompts: Vec<Prompt>,
}

/// Preferences of a log, split by group (user, query or test), never by row.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Dataset {
    /// To learn from.
    pub train: Split,
    /// To judge by.
    pub held_out: Split,
}

/// Share of groups that are held out, in percent.
const HELD_OUT_PERCENT: u64 = 15;
/// Largest inverse-propensity weight (M of method B.1.2); the examination floor is its inverse.
const MAX_POSITION_WEIGHT: f64 = 5.0;
/// Label of a hard pair: 1 - epsilon of method B.1.4.
const HARD_LABEL: f32 = 0.98;
/// Soft pairs nearer to a coin's are dropped: |2y - 1| of method B.1.4.
const MIN_CONTRAST: f64 = 0.1;

/// Preferences of a log. The order of records changes nothing; `seed` draws which pairs are kept
/// where a prompt or test has too many.
pub fn dataset_from_records(records: &[Sourced], seed: u64) -> Dataset {
    let (held_out, train): (Vec<_>, Vec<_>) = records.iter().partition(|sourced| is_held_out(&group(&sourced.record)));
    Dataset { train: split(train, seed), held_out: split(held_out, seed) }
}

/// Whose record it is: a user's, a query's (shared by all sources) or a test's. Conversations are
/// grouped by how they began.
fn group(record: &Record) -> String {
    match record {
        Record::Impression(impression) => format!("user:{}", impression.user_hash),
        Record::Pane(pane) => format!("query:{}", beginning(&pane.prompt)),
        Record::Demonstration(demonstration) => format!("query:{}", beginning(&demonstration.prompt)),
        Record::Counts(counts) => {
            format!("test:{}", counts.group.split_once('/').map_or(counts.group.as_str(), |(test, _)| test))
        }
    }
}

fn beginning(prompt: &Prompt) -> String {
    let first = prompt.turns.iter().find(|turn| turn.role == Role::User);
    first.map_or_else(String::new, |turn| turn.text.trim().to_lowercase())
}

fn is_held_out(group: &str) -> bool {
    let hash = sha256(group.as_bytes());
    let bytes: [u8; 8] = std::array::from_fn(|i| hash[i]);
    u64::from_le_bytes(bytes) % 100 < HELD_OUT_PERCENT
}

/// Preferences of one side.
fn split(records: Vec<&Sourced>, seed: u64) -> Split {
    let mut by_source: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for sourced in &records {
        by_source.entry(&sourced.source).or_default().push(&sourced.record);
    }
    let mut split = Split::default();
    for (source, records) in by_source {
        let mut part = Split::default();
        impressions::add(source, &records, seed, &mut part);
        panes::add(source, &records, &mut part);
        counts::add(source, &records, seed, &mut part);
        demonstrations::add(source, &records, &mut part);
        part.settle();
        split.sft.extend(part.sft);
        split.pairs.extend(part.pairs);
        split.anchors.extend(part.anchors);
        split.prompts.extend(part.prompts);
    }
    let mut seen = HashSet::new();
    split.prompts.retain(|prompt| seen.insert(prompt.clone()));
    split
}

impl Split {
    /// Brings one source into a fixed order and its weights to mean 1.
    fn settle(&mut self) {
        self.sft.sort_by_cached_key(|e| (e.group.clone(), key(&e.prompt), e.suggestion.clone()));
        self.pairs.sort_by_cached_key(|p| {
            (p.group.clone(), key(&p.prompt), p.chosen.clone(), p.rejected.clone(), p.label.to_bits())
        });
        self.anchors.sort_by_cached_key(|a| (a.group.clone(), key(&a.prompt), a.suggestion.clone(), a.level));
        self.prompts.sort_by_cached_key(key);
        self.prompts.dedup();
        scale(self.sft.iter_mut().map(|e| &mut e.weight).collect());
        scale(self.pairs.iter_mut().map(|p| &mut p.weight).collect());
        scale(self.anchors.iter_mut().map(|a| &mut a.weight).collect());
    }
}

/// A prompt as text, to sort and to look up by.
fn key(prompt: &Prompt) -> String {
    prompt.turns.iter().map(|turn| format!("{:?}:{}\n", turn.role, turn.text)).collect()
}

fn scale(weights: Vec<&mut f32>) {
    let mean = weights.iter().map(|w| f64::from(**w)).sum::<f64>() / weights.len() as f64;
    if mean > 0.0 {
        weights.into_iter().for_each(|w| *w = (f64::from(*w) / mean) as f32);
    }
}

/// At most `n` of `items`, drawn without replacement.
fn at_most<T>(mut items: Vec<T>, n: usize, rng: &mut ChaCha8Rng) -> Vec<T> {
    if items.len() > n {
        items.shuffle(rng);
        items.truncate(n);
    }
    items
}

#[cfg(test)]
mod tests;
