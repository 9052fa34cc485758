//! Panes with aggregated engagement (MIMICS-Duo): pairs of options by their share of the pane's
//! clicks, anchors by engagement. Method B.1.4; not used for SFT, so that GaRM has data of its own.
//!
//! Only shares are known, not how many clicks they are of. The smallest number of clicks that makes the
//! shares (1, 0, 0 needs one; 0.75, 0.25 needs four) is a lower bound, and the impression level says a
//! little more; the larger of the two is taken. A pair's label is then the posterior probability that option
//! a would get more clicks than b where both stood in slots alike:
//!
//! `y = P(ρ > ½)`, `ρ` uniform before, `k_a ~ Binomial(k_a + k_b, π)`, `logit π = logit ρ + ln(v_a/v_b)`
//!
//! with v the slots' weights from the choice model given a click ([`choice::fit_shares`]), all 1 where the
//! panes cannot tell position from quality.

use super::config::PreferenceConfig;
use super::partition::beginning;
use super::report::{SlotReport, SourceReport};
use super::{Anchor, Making, Pair, PairKind};
use crate::click::{ImpressionLevel, Pane, Record};
use crate::click_model::choice::{self, SharedPane};
use crate::click_model::identify::Ties;
use crate::click_model::{ClickModelError, ClickModelKind, Examination, bootstrap, slots_in_words};
use crate::reward::similarity::words;
use std::collections::HashMap;

/// Largest number of clicks that shares are tried with, and the rounding of a share (nine digits).
const MAX_CLICKS: usize = 1_000;
const SHARE_TOLERANCE: f64 = 2e-9;

/// The panes, in an order of their own.
fn panes<'a>(records: &[&'a Record]) -> Vec<&'a Pane> {
    let pane = |r: &&'a Record| if let Record::Pane(pane) = *r { Some(pane) } else { None };
    let mut panes: Vec<&Pane> = records.iter().filter_map(pane).collect();
    panes.sort_by_cached_key(|p| {
        let shares: Vec<u64> = p.conditional_ctr.iter().map(|s| s.to_bits()).collect();
        (super::key(&p.prompt), p.options.clone(), p.engagement_level, p.impression_level, shares)
    });
    panes
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

/// How far a level may be believed, by how much traffic is behind it.
fn trust(level: ImpressionLevel) -> f32 {
    match level {
        ImpressionLevel::Low => 0.6,
        ImpressionLevel::Medium => 0.8,
        ImpressionLevel::High => 0.95,
    }
}

/// The smallest number of clicks of which `shares` are whole parts; `None` up to [`MAX_CLICKS`].
pub(super) fn fewest_clicks(shares: &[f64]) -> Option<usize> {
    let whole = |n: usize| {
        shares.iter().all(|s| {
            let clicks = s * n as f64;
            (clicks - clicks.round()).abs() <= SHARE_TOLERANCE * n as f64
        })
    };
    (1..=MAX_CLICKS).find(|n| whole(*n))
}

/// Clicks taken to stand behind a pane's shares.
fn n_clicks(pane: &Pane, config: &PreferenceConfig) -> f64 {
    let by_level = match pane.impression_level {
        ImpressionLevel::Low => config.pairs.level_clicks[0],
        ImpressionLevel::Medium => config.pairs.level_clicks[1],
        ImpressionLevel::High => config.pairs.level_clicks[2],
    };
    fewest_clicks(&pane.conditional_ctr).map_or(by_level, |n| by_level.max(n as f64))
}

/// Panes with clicks by number: (item, slot, share), and the query of each.
struct Numbered {
    panes: Vec<SharedPane>,
    queries: Vec<usize>,
    n_items: usize,
    n_queries: usize,
    n_slots: usize,
}

impl Numbered {
    /// An item is an option of a query.
    fn new(panes: &[&Pane]) -> Self {
        let mut items: HashMap<(String, Vec<String>), usize> = HashMap::new();
        let mut queries: HashMap<String, usize> = HashMap::new();
        let mut numbered = Self { panes: Vec::new(), queries: Vec::new(), n_items: 0, n_queries: 0, n_slots: 0 };
        for pane in panes.iter().filter(|p| p.conditional_ctr.iter().sum::<f64>() > 0.0) {
            let query = beginning(&pane.prompt);
            let total: f64 = pane.conditional_ctr.iter().sum();
            let cells = pane.options.iter().zip(&pane.conditional_ctr).enumerate();
            let cells: SharedPane = cells
                .map(|(slot, (option, share))| {
                    let n = items.len();
                    let item = *items.entry((query.clone(), words(option))).or_insert(n);
                    (item, slot, share / total)
                })
                .collect();
            let n = queries.len();
            numbered.queries.push(*queries.entry(query).or_insert(n));
            numbered.n_slots = numbered.n_slots.max(cells.len());
            numbered.panes.push(cells);
        }
        (numbered.n_items, numbered.n_queries) = (items.len(), queries.len());
        numbered
    }

    /// What ties the slots: options with clicks somewhere, seen in more than one place.
    fn ties(&self) -> Ties {
        let mut clicked = vec![false; self.n_items];
        for &(item, _, share) in self.panes.iter().flatten() {
            clicked[item] |= share > 0.0;
        }
        let of_clicked = |pane: &SharedPane| -> Vec<(usize, usize)> {
            pane.iter().filter(|c| clicked[c.0]).map(|c| (c.0, c.1)).collect()
        };
        let panes: Vec<Vec<(usize, usize)>> = self.panes.iter().map(of_clicked).collect();
        let mut used = vec![false; self.n_slots];
        self.panes.iter().flatten().for_each(|c| used[c.1] = true);
        Ties::of_panes(&panes, used)
    }
}

/// Weight of each slot against the first, from the train side's panes; empty (all slots alike) where the panes
/// cannot tell position from quality. Queries are resampled for the intervals.
pub(super) fn slot_weights(
    train: &[&Record],
    config: &PreferenceConfig,
    seed: u64,
    report: &mut SourceReport,
) -> Vec<f64> {
    let numbered = Numbered::new(&panes(train));
    if numbered.panes.is_empty() {
        return Vec::new();
    }
    let ties = numbered.ties();
    if !ties.is_complete() {
        let groups = slots_in_words(&ties.groups());
        let refusal = ClickModelError::NotIdentified { rank: ties.rank(), needed: ties.needed(), groups };
        report.slots = Some(SlotReport::Refused { reason: refusal.to_string() });
        return Vec::new();
    }
    let fit = |of_query: &[f64]| {
        let weights: Vec<f64> = numbered.queries.iter().map(|q| of_query[*q]).collect();
        let prior = config.click_model.prior_clicks;
        choice::fit_shares(&numbered.panes, &weights, numbered.n_slots, numbered.n_items, prior).slot_weights
    };
    let weights = fit(&vec![1.0; numbered.n_queries]);
    let resampled = |of_query: &[f64]| Some(fit(of_query));
    let intervals = bootstrap::intervals(numbered.n_queries, config.click_model.n_resamples, seed, resampled);
    let slot =
        |(k, theta): (usize, &f64)| Examination { theta: *theta, interval: intervals.as_ref().map(|all| all[k]) };
    let slots = weights.iter().enumerate().map(slot).collect();
    report.slots = Some(SlotReport::Estimated { model: ClickModelKind::Choice, slots });
    weights
}

pub(super) fn add(records: &[&Record], slots: &[f64], making: &mut Making) {
    for pane in panes(records) {
        making.split.prompts.push(pane.prompt.clone());
        let group = format!("query:{}", beginning(&pane.prompt));
        add_pairs(&group, pane, slots, making);
        for (option, share) in pane.options.iter().zip(&pane.conditional_ctr) {
            making.split.anchors.push(Anchor {
                source: making.source.to_owned(),
                group: group.clone(),
                prompt: pane.prompt.clone(),
                suggestion: option.clone(),
                level: level(pane.engagement_level, *share),
                weight: trust(pane.impression_level),
            });
        }
    }
}

/// y, and the posterior variance of logit ρ, for options with `k` clicks in slots of weights `v`; by the
/// trapezoid rule on the logit scale, absolute error below 1e-5.
pub(super) fn share_label(k: [f64; 2], v: [f64; 2]) -> (f64, f64) {
    const N: i32 = 1_600;
    const LIMIT: f64 = 40.0;
    let shift = (v[0] / v[1]).ln();
    let log_sigmoid = |x: f64| -(-x).exp().ln_1p();
    let density = |x: f64| {
        // the last two terms are the uniform prior on ρ with the Jacobian of the logit
        let (clicks, others) = (k[0] * log_sigmoid(x + shift), k[1] * log_sigmoid(-x - shift));
        (clicks + others + log_sigmoid(x) + log_sigmoid(-x)).exp()
    };
    let (mut above, mut total, mut first, mut second) = (0.0, 0.0, 0.0, 0.0);
    for i in -N..=N {
        let x = LIMIT * f64::from(i) / f64::from(N);
        let p = density(x);
        total += p;
        above += if i > 0 {
            p
        } else if i == 0 {
            0.5 * p
        } else {
            0.0
        };
        first += x * p;
        second += x * x * p;
    }
    let mean = first / total;
    (above / total, second / total - mean * mean)
}

fn add_pairs(group: &str, pane: &Pane, slots: &[f64], making: &mut Making) {
    if pane.engagement_level == 0 {
        return;
    }
    let n = n_clicks(pane, making.config);
    // a slot that training never saw, or that nobody ever clicked there, is not corrected
    let weight_of = |slot: usize| slots.get(slot).copied().filter(|v| *v > 0.0).unwrap_or(1.0);
    for i in 0..pane.options.len() {
        for j in 0..i {
            let k = [i, j].map(|o| pane.conditional_ctr[o] * n);
            if k[0] + k[1] <= 0.0 || pane.options[i] == pane.options[j] {
                continue;
            }
            let (y, variance) = share_label(k, [i, j].map(weight_of));
            let (chosen, rejected, label) = if y >= 0.5 { (i, j, y) } else { (j, i, 1.0 - y) };
            let contrast = 2.0 * label - 1.0;
            if !(contrast >= making.config.pairs.min_contrast) {
                continue;
            }
            making.split.pairs.push(Pair {
                source: making.source.to_owned(),
                group: group.to_owned(),
                prompt: pane.prompt.clone(),
                chosen: pane.options[chosen].clone(),
                rejected: pane.options[rejected].clone(),
                label: label as f32,
                weight: contrast as f32,
                kind: PairKind::Share,
                logit_variance: variance as f32,
            });
        }
    }
}
