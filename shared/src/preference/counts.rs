//! Texts with true counts in randomised tests: pairs with soft labels within a group, and anchors
//! from quartiles of the smoothed rate with its sampling variance (method B.1.4 (2), B.2.4 B and C).

use super::{Anchor, LogitRate, Making, Pair, PairKind, at_most};
use crate::click::{Counts, Record};
use crate::ctr::Beta;
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

/// Levels 0, 1, 2: below the lower quartile of all smoothed rates, between, above the upper one.
fn add_anchors(groups: &BTreeMap<&str, Vec<Text>>, making: &mut Making) {
    let mut rates: Vec<f64> = groups.values().flatten().map(|(_, posterior, _)| posterior.mean()).collect();
    rates.sort_by(f64::total_cmp);
    let (Some(lower), Some(upper)) = (rates.get(rates.len() / 4), rates.get(rates.len() * 3 / 4)) else { return };
    for (counts, posterior, _) in groups.values().flatten() {
        let (mean, variance) = posterior.logit_moments();
        making.split.anchors.push(Anchor {
            source: making.source.to_owned(),
            group: group(counts),
            prompt: counts.prompt.clone(),
            suggestion: counts.text.clone(),
            level: u8::from(posterior.mean() >= *lower) + u8::from(posterior.mean() >= *upper),
            weight: 1.0,
            rate: Some(LogitRate { mean: mean as f32, variance: variance as f32 }),
        });
    }
}
