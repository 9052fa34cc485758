//! Single-click choice model (multinomial logit), the default: a slate is one choice between its slots and
//! no click. Method B.1.2, oracle C7.
//!
//! `P(click j) = w_j v_k(j) / (1 + Σ_l w_l v_k(l))` with `w = exp(u)` the item's weight against no click and
//! `v = exp(b)` the slot's, gauge v_1 = 1. Fitted by minorisation-maximisation (Hunter 2004), which never
//! loses posterior: `w_i <- (clicks_i + s) / (Σ v/D + s/m)`, and the same for v without the prior. The gamma
//! prior (s clicks at weight m) keeps an item that was never clicked off -∞; it shrinks qualities, not slots.
//!
//! A slate with several clicks counts as that many choices of a fraction each. [`fit_shares`] is the same
//! model given that somebody clicked, for panes of which only shares of clicks are known.
//!
//! Dimension key: `K` slots, `I` items.

use super::log::ClickLog;

/// Largest change of a b_k at which the fixed point counts as reached, and the most sweeps towards it.
const TOLERANCE: f64 = 1e-6;
const MAX_SWEEPS: usize = 2_000;

/// Choice probabilities of one slate: of no click, and of each slot. `outside` is u_0.
///
/// # Panics
/// If utilities and biases differ in length.
pub fn probabilities(utilities: &[f64], biases: &[f64], outside: f64) -> (f64, Vec<f64>) {
    assert_eq!(utilities.len(), biases.len(), "one bias a slot");
    let logits: Vec<f64> = utilities.iter().zip(biases).map(|(u, b)| u + b).collect();
    let largest = logits.iter().copied().fold(outside, f64::max);
    let none = (outside - largest).exp();
    let weights: Vec<f64> = logits.iter().map(|l| (l - largest).exp()).collect();
    let total = none + weights.iter().sum::<f64>();
    (none / total, weights.iter().map(|w| w / total).collect())
}

/// Loss of one slate with its gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct ChoiceLoss {
    /// Nats.
    pub nll: f64,
    /// dL/du_j = p_j - \[j clicked\], which is also dL/db_k(j).
    pub d_utility: Vec<f64>,
}

/// Negative log-likelihood of a click on slot `click` (`None`: no click).
///
/// # Panics
/// If the click is outside the slate.
pub fn nll(utilities: &[f64], biases: &[f64], outside: f64, click: Option<usize>) -> ChoiceLoss {
    let (none, mut p) = probabilities(utilities, biases, outside);
    let nll = -click.map_or(none, |j| p[j]).ln();
    if let Some(j) = click {
        p[j] -= 1.0;
    }
    ChoiceLoss { nll, d_utility: p }
}

/// w and v.
#[derive(Debug, Clone, PartialEq)]
pub struct ChoiceModel {
    /// exp(u) of each item against no click, `[I]`.
    pub item_weights: Vec<f64>,
    /// exp(b) of each slot against slot 0, `[K]`.
    pub slot_weights: Vec<f64>,
}

/// One choice: the (item, slot) it was between, each with its part of the choice; all parts 0 for no click.
struct Choice {
    cells: Vec<(usize, usize, f64)>,
    weight: f64,
}

impl ChoiceModel {
    /// Every slot alike, every item at the weight that the log's mean click rate asks for.
    pub fn start(log: &ClickLog) -> Self {
        let mean = mean_weight(log);
        Self { item_weights: vec![mean; log.n_items], slot_weights: vec![1.0; log.n_slots] }
    }

    /// The fixed point from here on, each slate weighted by its user. `prior_clicks` is s, above 0.
    #[must_use]
    pub fn fitted(self, log: &ClickLog, user_weights: &[f64], prior_clicks: f64) -> Self {
        let choices: Vec<Choice> = log
            .slates
            .iter()
            .filter(|slate| user_weights[slate.user] > 0.0)
            .map(|slate| {
                let part = 1.0 / slate.n_clicks().max(1) as f64;
                let cell = |s: &super::log::Shown| (s.item, s.slot, if s.clicked { part } else { 0.0 });
                Choice { cells: slate.shown.iter().map(cell).collect(), weight: user_weights[slate.user] }
            })
            .collect();
        let prior = Prior { clicks: prior_clicks, mean: mean_weight(log) };
        self.ascend(&choices, 1.0, prior)
    }

    fn ascend(mut self, choices: &[Choice], outside: f64, prior: Prior) -> Self {
        for _ in 0..MAX_SWEEPS {
            self.sweep_items(choices, outside, prior);
            let before = self.slot_weights.clone();
            self.sweep_slots(choices, outside);
            let change = |(a, b): (&f64, &f64)| if *b > 0.0 { (a / b).ln().abs() } else { 0.0 };
            if self.slot_weights.iter().zip(&before).map(change).fold(0.0, f64::max) < TOLERANCE {
                break;
            }
        }
        self
    }

    fn share(&self, choice: &Choice, outside: f64) -> f64 {
        let total: f64 = choice.cells.iter().map(|c| self.item_weights[c.0] * self.slot_weights[c.1]).sum();
        if outside + total > 0.0 { choice.weight / (outside + total) } else { 0.0 }
    }

    fn sweep_items(&mut self, choices: &[Choice], outside: f64, prior: Prior) {
        let mut sums = vec![(prior.clicks, prior.clicks / prior.mean); self.item_weights.len()];
        for choice in choices {
            let share = self.share(choice, outside);
            for &(item, slot, part) in &choice.cells {
                sums[item] = (sums[item].0 + choice.weight * part, sums[item].1 + share * self.slot_weights[slot]);
            }
        }
        self.item_weights = sums.into_iter().map(|(clicks, shown)| clicks / shown).collect();
    }

    fn sweep_slots(&mut self, choices: &[Choice], outside: f64) {
        let mut sums = vec![(0.0, 0.0); self.slot_weights.len()];
        for choice in choices {
            let share = self.share(choice, outside);
            for &(item, slot, part) in &choice.cells {
                sums[slot] = (sums[slot].0 + choice.weight * part, sums[slot].1 + share * self.item_weights[item]);
            }
        }
        for (weight, (clicks, shown)) in self.slot_weights.iter_mut().zip(sums) {
            *weight = if shown > 0.0 { clicks / shown } else { *weight };
        }
        let first = self.slot_weights.first().copied().unwrap_or(1.0);
        if first > 0.0 {
            self.slot_weights.iter_mut().for_each(|w| *w /= first);
            self.item_weights.iter_mut().for_each(|w| *w *= first);
        }
    }
}

/// s clicks at weight `mean`.
#[derive(Debug, Clone, Copy)]
struct Prior {
    clicks: f64,
    mean: f64,
}

/// The weight with which slates of equal items would be clicked as often as the log's.
fn mean_weight(log: &ClickLog) -> f64 {
    let n = log.slates.len() as f64;
    let clicked = log.slates.iter().filter(|s| s.n_clicks() > 0).count() as f64;
    let width = log.slates.iter().map(|s| s.shown.len()).sum::<usize>() as f64 / n.max(1.0);
    let rate = (clicked + 0.5) / (n + 1.0);
    rate / (1.0 - rate) / width.max(1.0)
}

/// A pane of which shares of clicks are known: (item, slot, share) of each option, shares adding up to 1.
pub type SharedPane = Vec<(usize, usize, f64)>;

/// Slot weights `[K]` (v_1 = 1) and item weights `[I]` from panes with shares of clicks, each pane weighted.
/// The prior of s clicks at weight 1 also sets the scale that each pane leaves open.
///
/// # Panics
/// If there are fewer weights than panes.
pub fn fit_shares(
    panes: &[SharedPane],
    weights: &[f64],
    n_slots: usize,
    n_items: usize,
    prior_clicks: f64,
) -> ChoiceModel {
    assert!(weights.len() >= panes.len(), "one weight a pane");
    let choices: Vec<Choice> = panes
        .iter()
        .zip(weights)
        .filter(|(_, weight)| **weight > 0.0)
        .map(|(cells, weight)| Choice { cells: cells.clone(), weight: *weight })
        .collect();
    let start = ChoiceModel { item_weights: vec![1.0; n_items], slot_weights: vec![1.0; n_slots] };
    start.ascend(&choices, 0.0, Prior { clicks: prior_clicks, mean: 1.0 })
}

#[cfg(test)]
mod tests;
