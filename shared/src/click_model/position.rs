//! Position-based model by EM. Method B.1.2, oracle C1 and C2, property test 7.
//!
//! `P(click) = θ_k γ_i`: slot k is examined with θ_k, item i attracts with γ_i, independently; gauge θ_1 = 1.
//! Several clicks a slate are possible. The posteriors of an unclicked showing are
//! `P(examined | no click) = θ(1-γ)/(1-θγ)` and `P(attractive | no click) = γ(1-θ)/(1-θγ)`; both are 1 after a
//! click. Updates are Jacobi: both right-hand sides use the old values.
//!
//! Dimension key: `K` slots, `I` items.

use super::log::Cell;

/// Largest change of a θ at which the fixed point counts as reached, and the most sweeps towards it.
const TOLERANCE: f64 = 1e-6;
const MAX_SWEEPS: usize = 1_000;
/// Where EM starts: θ, and γ for every item.
pub const START: (f64, f64) = (0.9, 0.5);

/// θ and γ.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionModel {
    /// Examination by slot relative to slot 0, `[K]`.
    pub theta: Vec<f64>,
    /// Attraction by item, `[I]`.
    pub gamma: Vec<f64>,
}

/// P(examined | not clicked) = θ(1-γ)/(1-θγ); 0 where the slot is always clicked (θγ = 1).
pub fn examined_unclicked(theta: f64, gamma: f64) -> f64 {
    let rest = 1.0 - theta * gamma;
    if rest > 0.0 { theta * (1.0 - gamma) / rest } else { 0.0 }
}

/// P(attractive | not clicked) = γ(1-θ)/(1-θγ), as [`examined_unclicked`] with the roles exchanged.
pub fn attractive_unclicked(theta: f64, gamma: f64) -> f64 {
    examined_unclicked(gamma, theta)
}

/// Inverse-propensity weight min(1/θ, M).
pub fn inverse_propensity(theta: f64, largest: f64) -> f64 {
    (1.0 / theta).min(largest)
}

impl PositionModel {
    /// θ_1 = 1, the other θ and all γ at [`START`].
    pub fn start(n_slots: usize, n_items: usize) -> Self {
        let theta = (0..n_slots).map(|k| if k == 0 { 1.0 } else { START.0 }).collect();
        Self { theta, gamma: vec![START.1; n_items] }
    }

    /// One Jacobi sweep over the cells, and the gauge. Slots and items that were not shown keep their value.
    ///
    /// Every item is given `prior_showings` showings at the mean attraction of the log, so that an item shown
    /// once or twice does not explain its outcome by an attraction of 0 or 1 and leave the slots nothing to
    /// explain: without it θ drifts to 1 where most items are rare, and intervals do not show it. It softens this
    /// and does not cure it: for logs of rare items take the choice model or [`super::regression`]. 0 is plain EM.
    #[must_use]
    pub fn sweep(&self, cells: &[Cell], prior_showings: f64) -> Self {
        let mut theta = vec![(0.0, 0.0); self.theta.len()];
        let mut gamma = vec![(0.0, 0.0); self.gamma.len()];
        for cell in cells {
            let (t, g) = (self.theta[cell.slot], self.gamma[cell.item]);
            let unclicked = cell.shown - cell.clicked;
            let examined = cell.clicked + unclicked * examined_unclicked(t, g);
            let attractive = cell.clicked + unclicked * attractive_unclicked(t, g);
            theta[cell.slot] = (theta[cell.slot].0 + examined, theta[cell.slot].1 + cell.shown);
            gamma[cell.item] = (gamma[cell.item].0 + attractive, gamma[cell.item].1 + cell.shown);
        }
        let mean = |(sum, n): (f64, f64), old: f64| if n > 0.0 { sum / n } else { old };
        let (attractive, shown) = gamma.iter().fold((0.0, 0.0), |t, g| (t.0 + g.0, t.1 + g.1));
        let prior = (prior_showings * mean((attractive, shown), 0.0), prior_showings);
        for sums in gamma.iter_mut().filter(|sums| sums.1 > 0.0) {
            *sums = (sums.0 + prior.0, sums.1 + prior.1);
        }
        let theta: Vec<f64> = theta.into_iter().zip(&self.theta).map(|(s, old)| mean(s, *old)).collect();
        let gamma: Vec<f64> = gamma.into_iter().zip(&self.gamma).map(|(s, old)| mean(s, *old)).collect();
        Self { theta, gamma }.in_gauge()
    }

    /// θ_1 = 1: θ divided by θ_1, γ multiplied by it. Unchanged where slot 0 was never looked at.
    #[must_use]
    pub fn in_gauge(self) -> Self {
        let first = self.theta.first().copied().unwrap_or(1.0);
        if !(first > 0.0) {
            return self;
        }
        Self {
            theta: self.theta.iter().map(|t| t / first).collect(),
            gamma: self.gamma.iter().map(|g| g * first).collect(),
        }
    }

    /// EM from here to its fixed point (a change of every θ below 1e-6, or 1,000 sweeps). What is not
    /// identified stays near the start, so [`super::identify`] has to be asked first.
    #[must_use]
    pub fn fitted(mut self, cells: &[Cell], prior_showings: f64) -> Self {
        for _ in 0..MAX_SWEEPS {
            let next = self.sweep(cells, prior_showings);
            let change = next.theta.iter().zip(&self.theta).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            self = next;
            if change < TOLERANCE {
                break;
            }
        }
        self
    }

    /// Mean log-likelihood per showing, nats.
    pub fn log_likelihood(&self, cells: &[Cell]) -> f64 {
        let (mut sum, mut n) = (0.0, 0.0);
        for cell in cells {
            let p = self.theta[cell.slot] * self.gamma[cell.item];
            // 0 · ln 0 = 0
            let term = |count: f64, log_p: f64| if count > 0.0 { count * log_p } else { 0.0 };
            sum += term(cell.clicked, p.ln()) + term(cell.shown - cell.clicked, (-p).ln_1p());
            n += cell.shown;
        }
        sum / n
    }
}

#[cfg(test)]
mod tests;
