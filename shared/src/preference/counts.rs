//! Texts with true counts in randomised tests: pairs with soft labels within a group, and anchors
//! from quartiles of the smoothed rate (method B.1.4 (2), B.2.4 B).

use super::{Anchor, MIN_CONTRAST, Pair, Split, at_most};
use crate::click::{Counts, Record};
use crate::ctr::Beta;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Pairs kept of one group, so that a test of many headlines does not outweigh the others.
const MAX_PAIRS_PER_GROUP: usize = 12;

pub(super) fn add(source: &str, records: &[&Record], seed: u64, split: &mut Split) {
    // one text may have been entered twice in a group; its counts add up
    let mut texts: BTreeMap<(&str, &str), (&Counts, f64, f64)> = BTreeMap::new();
    for record in records {
        if let Record::Counts(counts) = record {
            let entry = texts.entry((&counts.group, &counts.text)).or_insert((counts, 0.0, 0.0));
            entry.1 += counts.n_clicks as f64;
            entry.2 += counts.n_impressions as f64;
        }
    }
    let prior = Beta::fit(&texts.values().map(|(_, k, n)| (*k, *n)).collect::<Vec<_>>());
    let mut groups: BTreeMap<&str, Vec<(&Counts, Beta, f64)>> = BTreeMap::new();
    for ((group, _), (counts, k, n)) in &texts {
        groups.entry(group).or_default().push((counts, prior.observe(*k, *n), *n));
    }
    add_anchors(source, &groups, split);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for texts in groups.values() {
        let mut pairs = Vec::new();
        for (i, a) in texts.iter().enumerate() {
            pairs.extend(texts[i + 1..].iter().filter_map(|b| pair(source, a, b)));
        }
        split.pairs.extend(at_most(pairs, MAX_PAIRS_PER_GROUP, &mut rng));
    }
}

/// The pair of two texts of a group; `None` where the counts hardly tell them apart.
fn pair(source: &str, a: &(&Counts, Beta, f64), b: &(&Counts, Beta, f64)) -> Option<Pair> {
    let (chosen, rejected) = if a.1.mean() >= b.1.mean() { (a, b) } else { (b, a) };
    let label = chosen.1.probability_above(rejected.1);
    let contrast = 2.0 * label - 1.0;
    let n_effective = 2.0 / (1.0 / a.2 + 1.0 / b.2);
    (contrast >= MIN_CONTRAST).then(|| Pair {
        source: source.to_owned(),
        group: super::group(&Record::Counts(a.0.clone())),
        prompt: a.0.prompt.clone(),
        chosen: chosen.0.text.clone(),
        rejected: rejected.0.text.clone(),
        label: label as f32,
        weight: (contrast * n_effective.sqrt() / 10.0).min(1.0) as f32,
    })
}

/// Levels 0, 1, 2: below the lower quartile of all smoothed rates, between, above the upper one.
fn add_anchors(source: &str, groups: &BTreeMap<&str, Vec<(&Counts, Beta, f64)>>, split: &mut Split) {
    let mut rates: Vec<f64> = groups.values().flatten().map(|(_, posterior, _)| posterior.mean()).collect();
    rates.sort_by(f64::total_cmp);
    let (Some(lower), Some(upper)) = (rates.get(rates.len() / 4), rates.get(rates.len() * 3 / 4)) else { return };
    for (counts, posterior, _) in groups.values().flatten() {
        split.anchors.push(Anchor {
            source: source.to_owned(),
            group: super::group(&Record::Counts((*counts).clone())),
            prompt: counts.prompt.clone(),
            suggestion: counts.text.clone(),
            level: u8::from(posterior.mean() >= *lower) + u8::from(posterior.mean() >= *upper),
            weight: 1.0,
        });
    }
}
