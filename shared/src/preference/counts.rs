//! Texts with true counts in randomised tests: pairs with soft labels within a group, and anchors from quartiles of the
//! smoothed rate within its test (method B.1.4 (2), B.2.4 B).
//!
//! A departure from method B.2.4 B, which takes the quartiles of the rates themselves: tests differ in their base rate, by
//! their picture, place and day, more than the texts of one test do. Pooled over tests, a level would say which test a text
//! was in; no text tells that, so it would go into mu as noise and widen sigma. What a text did within its test is what a
//! reward model can know, and what its pairs are about.

use super::{Anchor, Making, Pair, PairKind, at_most};
use crate::click::{Counts, Record};
use crate::ctr::Beta;
use crate::metrics::mean;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// A text with its posterior click rate and its showings.
type Text<'a> = (&'a Counts, Beta, f64);

pub(super) fn add(records: &[&Record], making: &mut Making) {
    // one text may have been entered twice in a group; its counts add up
    let mut texts: BTreeMap<(&str, &str), (&Counts, f64, f64)> = BTreeMap::new();
    for record in records {
        if let Record::Counts(counts) = record {
            let entry = texts.entry((&counts.group, &counts.text)).or_insert((counts, 0.0, 0.0));
            entry.1 += counts.n_clicks as f64;
            entry.2 += counts.n_impressions as f64;
        }
    }
    if texts.is_empty() {
        return;
    }
    let rows: Vec<(f64, f64)> = texts.values().map(|(_, k, n)| (*k, *n)).collect();
    let prior = Beta::fit_by(making.config.prior, &rows);
    if making.report.prior.is_none() {
        making.report.prior = Some((prior.a, prior.b));
    }
    let mut groups: BTreeMap<&str, Vec<Text>> = BTreeMap::new();
    for ((group, _), (counts, k, n)) in &texts {
        groups.entry(group).or_default().push((counts, prior.observe(*k, *n), *n));
    }
    add_anchors(&groups, making);
    let mut rng = ChaCha8Rng::seed_from_u64(making.seed);
    for texts in groups.values() {
        let mut pairs = Vec::new();
        for (i, a) in texts.iter().enumerate() {
            pairs.extend(texts[i + 1..].iter().filter_map(|b| pair(making, a, b)));
        }
        let n = pairs.len();
        let kept = at_most(pairs, making.config.pairs.max_per_test, &mut rng);
        making.report.n_pairs_capped += n - kept.len();
        making.split.pairs.extend(kept);
    }
}

fn group(counts: &Counts) -> String {
    super::partition::group(&Record::Counts(counts.clone()), super::config::SplitKey::User)
}

/// The pair of two texts of a group; `None` where the counts hardly tell them apart.
fn pair(making: &Making, a: &Text, b: &Text) -> Option<Pair> {
    let (chosen, rejected) = if a.1.mean() >= b.1.mean() { (a, b) } else { (b, a) };
    let label = chosen.1.probability_above(rejected.1);
    let contrast = 2.0 * label - 1.0;
    let n_effective = 2.0 / (1.0 / a.2 + 1.0 / b.2);
    (contrast >= making.config.pairs.min_contrast).then(|| Pair {
        source: making.source.to_owned(),
        group: group(a.0),
        prompt: a.0.prompt.clone(),
        chosen: chosen.0.text.clone(),
        rejected: rejected.0.text.clone(),
        label: label as f32,
        weight: (contrast * n_effective.sqrt() / 10.0).min(1.0) as f32,
        kind: PairKind::Counts,
        logit_variance: (a.1.logit_moments().1 + b.1.logit_moments().1) as f32,
    })
}

/// Levels 0, 1, 2 of a text's standing in its group, the logit of its smoothed rate less the mean of the group's: below the
/// lower quartile of all standings, between, above the upper one. A text alone in its group is compared with nothing, and
/// gives no anchor.
fn add_anchors(groups: &BTreeMap<&str, Vec<Text>>, making: &mut Making) {
    let mut standings: Vec<(&Counts, f64)> = Vec::new();
    for texts in groups.values().filter(|texts| texts.len() > 1) {
        let logits: Vec<f64> = texts.iter().map(|(_, posterior, _)| posterior.logit_moments().0).collect();
        let of_group = mean(&logits);
        standings.extend(texts.iter().zip(&logits).map(|((counts, ..), logit)| (*counts, logit - of_group)));
    }
    let mut sorted: Vec<f64> = standings.iter().map(|(_, standing)| *standing).collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(lower), Some(upper)) = (sorted.get(sorted.len() / 4), sorted.get(sorted.len() * 3 / 4)) else { return };
    for (counts, standing) in standings {
        making.split.anchors.push(Anchor {
            source: making.source.to_owned(),
            group: group(counts),
            prompt: counts.prompt.clone(),
            suggestion: counts.text.clone(),
            level: u8::from(standing >= *lower) + u8::from(standing >= *upper),
            weight: 1.0,
        });
    }
}

#[cfg(test)]
mod tests;
