//! What became of a log on the way to preferences: what was left out and why, what the click model could
//! tell, how much of each kind was made. Shown in a run's log and report.

use super::filter::Filtered;
use super::partition::Partition;
use super::{PairKind, Split};
use crate::click_model::{ClickModelKind, Examination};
use crate::distill::Distilled;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// What the click model could tell of the slots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum SlotReport {
    /// How likely each slot is looked at, against the first.
    Estimated {
        /// Which model.
        model: ClickModelKind,
        /// By slot.
        slots: Vec<Examination>,
    },
    /// No estimate; every slot counts as looked at.
    Refused {
        /// Why, and what would help.
        reason: String,
    },
}

/// Pairs by what they rest on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PairCount {
    /// What they rest on.
    pub kind: PairKind,
    /// To learn from.
    pub n_train: usize,
    /// To judge by.
    pub n_held_out: usize,
}

/// One data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceReport {
    /// Data set.
    pub source: String,
    /// Records in the log.
    pub n_records: usize,
    /// Impressions left out, by reason.
    pub filtered: Filtered,
    /// Records of the train side.
    pub n_train: usize,
    /// Records of the held-out side.
    pub n_held_out: usize,
    /// Records of neither side, so that learning ends before judging begins.
    pub n_between: usize,
    /// Nothing is learnt from impressions of this time on, milliseconds since 1970 UTC.
    pub held_out_from: Option<i64>,
    /// What the click model could tell; absent without impressions or panes.
    pub slots: Option<SlotReport>,
    /// Prior of click rates, clicks and misses; absent without click rates.
    pub prior: Option<(f64, f64)>,
    /// Pairs by what they rest on.
    pub pairs: Vec<PairCount>,
    /// Pairs over the cap of an impression, a user's day, a context or a test, both sides.
    pub n_pairs_capped: usize,
    /// What the distillation chose, train side.
    pub distilled: Distilled,
}

impl SourceReport {
    /// Before anything is made.
    pub fn new(source: &str, n_records: usize, filtered: Filtered, part: &Partition) -> Self {
        Self {
            source: source.to_owned(),
            n_records,
            filtered,
            n_train: part.train.len(),
            n_held_out: part.held_out.len(),
            n_between: part.n_between,
            held_out_from: part.held_out_from,
            slots: None,
            prior: None,
            pairs: Vec::new(),
            n_pairs_capped: 0,
            distilled: Distilled::default(),
        }
    }

    /// What there is to say, a line each, for a log.
    pub fn lines(&self) -> Vec<String> {
        let (f, source) = (&self.filtered, &self.source);
        let mut lines = Vec::new();
        let left_out: Vec<String> = [
            (f.n_not_visible, "not seen"),
            (f.n_same_id, "of an id that was there"),
            (f.n_refresh, "refreshes"),
            (f.n_bot, "of bots"),
        ]
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, why)| format!("{n} {why}"))
        .collect();
        if !left_out.is_empty() {
            lines.push(format!("{source}: impressions left out: {}", left_out.join(", ")));
        }
        if self.n_between > 0 {
            lines.push(format!(
                "{source}: {} records used by neither side, so that learning ends before judging begins",
                self.n_between
            ));
        }
        match &self.slots {
            Some(SlotReport::Estimated { model, slots }) => {
                let slots: Vec<String> = slots.iter().map(in_words).collect();
                lines.push(format!("{source}: slots looked at ({model:?}): {}", slots.join(", ")));
            }
            Some(SlotReport::Refused { reason }) => lines.push(format!("{source}: {reason}; no slot is corrected")),
            None => {}
        }
        if self.n_pairs_capped > 0 {
            lines.push(format!("{source}: {} pairs over a cap left out", self.n_pairs_capped));
        }
        let d = &self.distilled;
        if d.n_candidates > 0 {
            lines.push(format!(
                "{source}: of {} candidates for imitation {} chosen, {} break a rule, {} cannot be understood alone, {} too \
                 similar or not drawn",
                d.n_candidates, d.n_chosen, d.n_gated, d.n_not_self_contained, d.n_not_selected
            ));
        }
        lines
    }
}

fn in_words(slot: &Examination) -> String {
    match slot.interval {
        Some((low, high)) => format!("{:.3} ({low:.3} to {high:.3})", slot.theta),
        None => format!("{:.3} (no interval)", slot.theta),
    }
}

/// All data sets.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PreferenceReport {
    /// By name.
    pub sources: Vec<SourceReport>,
    /// Held-out pairs whose two texts are also compared in training, for the same prompt: other people's
    /// clicks, where impressions are split by user.
    pub n_pairs_on_both_sides: usize,
}

impl PreferenceReport {
    /// Counts what was made.
    pub fn new(mut sources: Vec<SourceReport>, train: &Split, held_out: &Split) -> Self {
        let mut counts: BTreeMap<(&str, PairKind), (usize, usize)> = BTreeMap::new();
        for pair in &train.pairs {
            counts.entry((&pair.source, pair.kind)).or_default().0 += 1;
        }
        for pair in &held_out.pairs {
            counts.entry((&pair.source, pair.kind)).or_default().1 += 1;
        }
        for report in &mut sources {
            let of_source = counts.iter().filter(|((source, _), _)| *source == report.source);
            report.pairs = of_source
                .map(|((_, kind), (n_train, n_held_out))| PairCount {
                    kind: *kind,
                    n_train: *n_train,
                    n_held_out: *n_held_out,
                })
                .collect();
        }
        let texts = |p: &super::Pair| {
            let (a, b) = if p.chosen < p.rejected { (&p.chosen, &p.rejected) } else { (&p.rejected, &p.chosen) };
            (p.prompt.clone(), a.clone(), b.clone())
        };
        let learnt: HashSet<_> = train.pairs.iter().map(texts).collect();
        let n_pairs_on_both_sides = held_out.pairs.iter().filter(|p| learnt.contains(&texts(p))).count();
        Self { sources, n_pairs_on_both_sides }
    }

    /// What there is to say, a line each, for a log.
    pub fn lines(&self) -> Vec<String> {
        self.sources.iter().flat_map(SourceReport::lines).collect()
    }
}
