//! Panes with aggregated engagement (MIMICS-Duo): pairs of options by their share of the pane's
//! clicks, anchors by engagement. Method B.1.4; not used for SFT, so that GaRM has data of its own.

use super::{Anchor, MAX_POSITION_WEIGHT, MIN_CONTRAST, Pair, Split, beginning};
use crate::click::{ImpressionLevel, Pane, Record};

pub(super) fn add(source: &str, records: &[&Record], split: &mut Split) {
    let panes = || records.iter().filter_map(|record| if let Record::Pane(pane) = record { Some(pane) } else { None });
    let examined = examination_by_slot(panes());
    for pane in panes() {
        split.prompts.push(pane.prompt.clone());
        let group = format!("query:{}", beginning(&pane.prompt));
        add_pairs(source, &group, pane, &examined, split);
        for (option, share) in pane.options.iter().zip(&pane.conditional_ctr) {
            split.anchors.push(Anchor {
                source: source.to_owned(),
                group: group.clone(),
                prompt: pane.prompt.clone(),
                suggestion: option.clone(),
                level: level(pane.engagement_level, *share),
                weight: trust(pane.impression_level),
            });
        }
    }
}

/// 0 without clicks, 2 for an option with half or more of the clicks of a well engaged pane, else 1.
fn level(engagement: u8, share: f64) -> u8 {
    match engagement {
        0 => 0,
        _ if share <= 0.0 => 0,
        5.. if share >= 0.5 => 2,
        _ => 1,
    }
}

/// How far a share may be believed, by how much traffic is behind it.
fn trust(level: ImpressionLevel) -> f32 {
    match level {
        ImpressionLevel::Low => 0.6,
        ImpressionLevel::Medium => 0.8,
        ImpressionLevel::High => 0.95,
    }
}

/// Mean share of clicks by slot over the first slot's, within [1/5, 1]: position bias, with what
/// editors put first mixed in (the source never moved options at random).
fn examination_by_slot<'a>(panes: impl Iterator<Item = &'a Pane>) -> Vec<f64> {
    let mut sums: Vec<(f64, f64)> = Vec::new();
    for pane in panes.filter(|pane| pane.engagement_level > 0) {
        sums.resize(sums.len().max(pane.options.len()), (0.0, 0.0));
        for (sum, share) in sums.iter_mut().zip(&pane.conditional_ctr) {
            *sum = (sum.0 + share, sum.1 + 1.0);
        }
    }
    let first = sums.first().map_or(1.0, |(share, n)| share / n);
    sums.iter().map(|(share, n)| (share / n / first).clamp(1.0 / MAX_POSITION_WEIGHT, 1.0)).collect()
}

fn add_pairs(source: &str, group: &str, pane: &Pane, examined: &[f64], split: &mut Split) {
    if pane.engagement_level == 0 {
        return;
    }
    for i in 0..pane.options.len() {
        for j in 0..i {
            let (a, b) = if pane.conditional_ctr[i] > pane.conditional_ctr[j] { (i, j) } else { (j, i) };
            let (more, less) = (pane.conditional_ctr[a], pane.conditional_ctr[b]);
            let contrast = (more - less) / (more + less) * f64::from(trust(pane.impression_level));
            if !(contrast >= MIN_CONTRAST) || pane.options[a] == pane.options[b] {
                continue;
            }
            split.pairs.push(Pair {
                source: source.to_owned(),
                group: group.to_owned(),
                prompt: pane.prompt.clone(),
                chosen: pane.options[a].clone(),
                rejected: pane.options[b].clone(),
                label: (0.5 + 0.5 * contrast) as f32,
                weight: (contrast / examined[a]) as f32,
            });
        }
    }
}
