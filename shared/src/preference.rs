//! From records to what the stages learn from (method B.1.1 to B.1.5). Second arrow of the loop.
//!
//! ```text
//! records ─ filter ─► partition ─ leak check ─► train ──┬─ click model, prior of rates
//!                                     └──────► held out ┴─► pairs, anchors, SFT examples
//! ```
//!
//! | file | what |
//! | --- | --- |
//! | `filter` | bots, refreshes, what nobody saw (B.1.1) |
//! | `partition` | by user, prompt or test, and by time; the leak check |
//! | `impressions`, `rates` | slate pairs, satisfied clicks, anchors; pairs of smoothed rates |
//! | `panes`, `counts`, `demonstrations` | what public sets carry |
//! | `imitation` | SFT examples, by [`crate::distill`] |
//! | [`config`], [`report`] | every choice; what was left out, and why |
//!
//! The click model and the prior of click rates are fitted on the train side and used on both. Each kind of
//! evidence has its file; this one holds the types and the order.

pub mod config;
mod counts;
mod demonstrations;
pub mod filter;
mod imitation;
mod impressions;
mod panes;
pub mod partition;
mod rates;
pub mod report;
pub mod unit;

use crate::click::{Impression, Record, Sourced};
use crate::distill::TeacherSample;
use crate::prompt::Prompt;
pub use config::{PreferenceConfig, PreferenceConfigError};
use partition::{Leak, Partition};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use report::{PreferenceReport, SourceReport};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

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
    /// Evidence for it as odds (method B.1.5 (5), [`crate::distill::odds_ratio`]); 1 for what a person wrote or listed. SFT raises it
    /// to 1/beta_w, bounds it, and brings it to mean 1 over the data set.
    pub weight: f32,
}

/// What a pair rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PairKind {
    /// Clicked over unclicked in one slate.
    #[default]
    Slate,
    /// Satisfied over bounced in one slate.
    Satisfied,
    /// Smoothed click rates of one context, over impressions.
    Rate,
    /// Shares of a pane's clicks.
    Share,
    /// True counts of a randomised test.
    Counts,
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
    /// P(chosen is preferred), in (0.5, 1]; sampling noise is in it.
    pub label: f32,
    /// Mean 1 over a data set.
    pub weight: f32,
    /// What it rests on.
    pub kind: PairKind,
    /// Sampling variance of the difference of the two click rates' logits; 0 where a single click decided.
    /// For a likelihood that takes the observed *order* with its noise ([`crate::garm::pair::observed_pair_nll`])
    /// in place of the soft label.
    pub logit_variance: f32,
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
    /// 0 no click, 1 click, 2 satisfied click (or the data set's lower, middle, upper level; of a randomised test, within it).
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

/// Preferences of a log, split by group (user, query or test) and time, never by row.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Dataset {
    /// To learn from.
    pub train: Split,
    /// To judge by.
    pub held_out: Split,
    /// What was left out, and why.
    pub report: PreferenceReport,
}

/// Why there are no preferences.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PreferenceError {
    /// A setting is impossible.
    #[error(transparent)]
    Config(#[from] PreferenceConfigError),
    /// The same person or text would stand on both sides.
    #[error(transparent)]
    Leak(#[from] Leak),
}

/// Which side of the split is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Train,
    HeldOut,
}

/// What the files of one data set and side write into.
struct Making<'a> {
    source: &'a str,
    config: &'a PreferenceConfig,
    seed: u64,
    side: Side,
    split: Split,
    report: &'a mut SourceReport,
}

/// Preferences of a log. The order of records changes nothing; `seed` draws what is kept where a prompt, a
/// test or a user has too many.
///
/// # Errors
/// An impossible setting, or a split that leaks.
pub fn dataset_from_records(
    records: &[Sourced],
    config: &PreferenceConfig,
    seed: u64,
) -> Result<Dataset, PreferenceError> {
    dataset_with_teacher(records, &[], config, seed)
}

/// [`dataset_from_records`] with samples of a teacher among the candidates for imitation, on the train side.
///
/// # Errors
/// As there.
pub fn dataset_with_teacher(
    records: &[Sourced],
    samples: &[TeacherSample],
    config: &PreferenceConfig,
    seed: u64,
) -> Result<Dataset, PreferenceError> {
    config.validate()?;
    let mut by_source: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for sourced in records {
        by_source.entry(&sourced.source).or_default().push(&sourced.record);
    }
    let mut reports: Vec<SourceReport> = Vec::new();
    let mut parts: BTreeMap<&str, Partition> = BTreeMap::new();
    for (source, records) in by_source {
        let (kept, filtered) = filtered(&records, config);
        let part = partition::partition(&kept, &config.split);
        reports.push(SourceReport::new(source, records.len(), filtered, &part));
        parts.insert(source, part);
    }
    partition::check(&parts, config.split.by)?;
    let mut pooled = match samples {
        [] => HashSet::new(),
        _ => shown_contexts(&parts, config),
    };
    let mut dataset = Dataset::default();
    for (report, part) in reports.iter_mut().zip(parts.values()) {
        add_source(&mut dataset, part, samples, &mut pooled, config, seed, report);
    }
    for split in [&mut dataset.train, &mut dataset.held_out] {
        let mut seen = HashSet::new();
        split.prompts.retain(|prompt| seen.insert(prompt.clone()));
    }
    dataset.report = PreferenceReport::new(reports, &dataset.train, &dataset.held_out);
    Ok(dataset)
}

/// Records of one data set without the impressions that say nothing; impressions come first, by user, time
/// and id, so that sums over them do not depend on the order of the log.
fn filtered<'a>(records: &[&'a Record], config: &PreferenceConfig) -> (Vec<&'a Record>, filter::Filtered) {
    let (shown, others): (Vec<&Record>, Vec<&Record>) = records.iter().partition(|r| impression(r).is_some());
    let impressions: Vec<&Impression> = shown.iter().filter_map(|r| impression(r)).collect();
    let (kept, filtered) = filter::kept(&impressions, &config.filter);
    let places: HashMap<*const Impression, &Record> =
        impressions.iter().map(|i| std::ptr::from_ref(*i)).zip(shown).collect();
    let kept = kept.into_iter().filter_map(|i| places.get(&std::ptr::from_ref(i)).copied());
    (kept.chain(others).collect(), filtered)
}

/// Contexts of all showings that are learnt from.
fn shown_contexts(parts: &BTreeMap<&str, Partition>, config: &PreferenceConfig) -> HashSet<String> {
    let shown = parts.values().flat_map(|part| &part.train).filter_map(|record| impression(record));
    shown.map(|impression| config.click_model.context.of(&impression.prompt)).collect()
}

fn impression(record: &Record) -> Option<&Impression> {
    if let Record::Impression(impression) = record { Some(impression) } else { None }
}

/// Adds both sides of one data set. `pooled` are the contexts whose samples have a pool.
fn add_source(
    dataset: &mut Dataset,
    part: &Partition,
    samples: &[TeacherSample],
    pooled: &mut HashSet<String>,
    config: &PreferenceConfig,
    seed: u64,
    report: &mut SourceReport,
) {
    let source = report.source.clone();
    let (train, held_out) = (&part.train, &part.held_out);
    // a log that is for judging alone says by itself where people look
    let seen = if train.is_empty() { held_out } else { train };
    let evidence = impressions::Evidence::of(seen, config, seed, report);
    let slots = panes::slot_weights(seen, config, seed, report);
    for (side, records) in [(Side::Train, train), (Side::HeldOut, held_out)] {
        let mut making = Making { source: &source, config, seed, side, split: Split::default(), report };
        impressions::add(records, &evidence, samples, &mut making);
        panes::add(records, &slots, &mut making);
        counts::add(records, &mut making);
        demonstrations::add(records, &mut making);
        making.split.settle();
        imitation::add_unshown(pooled, &evidence, samples, &mut making);
        let made = making.split;
        let whole = if side == Side::Train { &mut dataset.train } else { &mut dataset.held_out };
        whole.sft.extend(made.sft);
        whole.pairs.extend(made.pairs);
        whole.anchors.extend(made.anchors);
        whole.prompts.extend(made.prompts);
    }
}

impl Split {
    /// Brings one source into a fixed order, and the weights of its pairs and anchors to mean 1.
    fn settle(&mut self) {
        self.sft.sort_by_cached_key(|e| (e.group.clone(), key(&e.prompt), e.suggestion.clone()));
        self.pairs.sort_by_cached_key(|p| {
            (p.group.clone(), key(&p.prompt), p.chosen.clone(), p.rejected.clone(), p.label.to_bits())
        });
        self.anchors.sort_by_cached_key(|a| (a.group.clone(), key(&a.prompt), a.suggestion.clone(), a.level));
        self.prompts.sort_by_cached_key(key);
        self.prompts.dedup();
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
