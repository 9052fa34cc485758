//! Trust bias: users click some suggestions because of where they stand. Method B.1.2, oracle C8.
//!
//! `P(click) = α_k γ_i + β_k`, the affine form of Agarwal et al. (2019), written here as a noisy channel:
//! an item is good with γ_i, a good one is clicked with `g_k = α_k + β_k`, another with `f_k = β_k`. Fitted
//! by EM over what is not seen. An affine map of γ is free, so slot 0 is the gauge (g = 1, f = 0): trust at
//! the first slot itself is *not* identified, only what differs from it.
//!
//! Dimension key: `K` slots, `I` items.

use super::log::Cell;

/// Largest change of g or f at which the fixed point counts as reached, and the most sweeps towards it.
const TOLERANCE: f64 = 1e-6;
const MAX_SWEEPS: usize = 5_000;
/// Where EM starts at every slot but the first.
const START: (f64, f64) = (0.8, 0.02);

/// Corrected label (c - β)/α, whose mean is γ; may leave [0, 1].
pub fn corrected_label(clicked: bool, alpha: f64, beta: f64) -> f64 {
    (f64::from(u8::from(clicked)) - beta) / alpha
}

/// γ/(αγ + β): what a click on an item of attraction γ weighs, so that a showing weighs γ on average wherever it was. It is
/// P(good | click)/P(click | good), and so 1/α, the inverse propensity, where β = 0. 0 where the slot's clicks do not tell good
/// items from others (α not above 0).
pub fn click_weight(gamma: f64, alpha: f64, beta: f64) -> f64 {
    let rate = alpha * gamma + beta;
    if alpha > 0.0 && rate > 0.0 { gamma / rate } else { 0.0 }
}

/// α, β and γ.
#[derive(Debug, Clone, PartialEq)]
pub struct TrustModel {
    /// P(click | good) by slot, `[K]`; 1 at slot 0.
    pub good: Vec<f64>,
    /// P(click | not good) by slot, `[K]`; 0 at slot 0.
    pub other: Vec<f64>,
    /// P(good) by item, `[I]`.
    pub gamma: Vec<f64>,
}

impl TrustModel {
    /// Slot 0 the gauge, the others alike, every item at one half.
    pub fn start(n_slots: usize, n_items: usize) -> Self {
        let at = |first: f64, rest: f64| (0..n_slots).map(|k| if k == 0 { first } else { rest }).collect();
        Self { good: at(1.0, START.0), other: at(0.0, START.1), gamma: vec![0.5; n_items] }
    }

    /// α_k.
    pub fn alpha(&self, slot: usize) -> f64 {
        self.good[slot] - self.other[slot]
    }

    /// β_k.
    pub fn beta(&self, slot: usize) -> f64 {
        self.other[slot]
    }

    /// One EM sweep; `prior_showings` as in [`super::position::PositionModel::sweep`].
    #[must_use]
    pub fn sweep(&self, cells: &[Cell], prior_showings: f64) -> Self {
        let n_slots = self.good.len();
        let mut gamma = vec![(0.0, 0.0); self.gamma.len()];
        // clicks and showings, of good items and of others
        let mut good = vec![(0.0, 0.0); n_slots];
        let mut other = vec![(0.0, 0.0); n_slots];
        for cell in cells {
            let (g, f, p) = (self.good[cell.slot], self.other[cell.slot], self.gamma[cell.item]);
            let posterior = |of_good: f64, of_other: f64| {
                let total = p * of_good + (1.0 - p) * of_other;
                if total > 0.0 { p * of_good / total } else { p }
            };
            let (clicked, unclicked) = (cell.clicked, cell.shown - cell.clicked);
            let (if_clicked, if_not) = (posterior(g, f), posterior(1.0 - g, 1.0 - f));
            let n_good = clicked * if_clicked + unclicked * if_not;
            gamma[cell.item] = (gamma[cell.item].0 + n_good, gamma[cell.item].1 + cell.shown);
            good[cell.slot] = (good[cell.slot].0 + clicked * if_clicked, good[cell.slot].1 + n_good);
            let n_other = cell.shown - n_good;
            other[cell.slot] = (other[cell.slot].0 + clicked * (1.0 - if_clicked), other[cell.slot].1 + n_other);
        }
        let (n_good, shown) = gamma.iter().fold((0.0, 0.0), |t, g| (t.0 + g.0, t.1 + g.1));
        let mean = if shown > 0.0 { n_good / shown } else { 0.0 };
        for sums in gamma.iter_mut().filter(|sums| sums.1 > 0.0) {
            *sums = (sums.0 + prior_showings * mean, sums.1 + prior_showings);
        }
        let ratio = |sums: Vec<(f64, f64)>, old: &[f64], fixed: usize| -> Vec<f64> {
            let one =
                |(k, ((a, b), old)): (usize, ((f64, f64), &f64))| if k < fixed || b <= 0.0 { *old } else { a / b };
            sums.into_iter().zip(old).enumerate().map(one).collect()
        };
        Self {
            good: ratio(good, &self.good, 1),
            other: ratio(other, &self.other, 1),
            gamma: ratio(gamma, &self.gamma, 0),
        }
    }

    /// EM from here to its fixed point.
    #[must_use]
    pub fn fitted(mut self, cells: &[Cell], prior_showings: f64) -> Self {
        for _ in 0..MAX_SWEEPS {
            let next = self.sweep(cells, prior_showings);
            let gap = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let change = gap(&next.good, &self.good).max(gap(&next.other, &self.other));
            self = next;
            if change < TOLERANCE {
                break;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests;
