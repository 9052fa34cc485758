//! Regression EM: the position model for strings that are shown once. Method B.1.2 (Wang et al. 2018).
//!
//! Generated suggestions are mostly unique, so an attraction of its own per item stands in one slot and
//! tells nothing about position. Here attraction is a logistic function of features,
//! `γ_i = σ(c + w·f_i)`, refitted in every M-step to the posterior attractions; θ as in [`super::position`].
//! Slots are identified where the features vary within slots: see [`rank`].
//!
//! Dimension key: `K` slots, `I` items, `F` features.

use super::identify::Basis;
use super::log::Cell;
use super::position::{PositionModel, attractive_unclicked};

/// Precision of the prior N(0, 1/ridge) on each feature's weight; keeps separable features finite.
const RIDGE: f64 = 1e-2;
/// Newton steps of an M-step; EM ends where θ moves less than the tolerance, or after the sweeps.
const NEWTON_STEPS: usize = 3;
const TOLERANCE: f64 = 1e-6;
const MAX_SWEEPS: usize = 1_000;

/// σ(x).
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// θ, and what γ follows from.
#[derive(Debug, Clone, PartialEq)]
pub struct RegressionModel {
    /// θ, and γ of every item of the log.
    pub position: PositionModel,
    /// c, then w, `[1 + F]`.
    pub weights: Vec<f64>,
}

/// Measured slot contrasts: rank of the columns (slot but the first, 1, features) over the clicked cells,
/// minus that of (1, features). All K - 1 are needed; features that only repeat the slot measure none.
///
/// # Panics
/// If an item of a cell has no features.
pub fn rank(cells: &[Cell], features: &[Vec<f64>], n_slots: usize) -> usize {
    let (mut whole, mut without) = (Basis::default(), Basis::default());
    let clicked_slots: Vec<bool> = (0..n_slots).map(|k| cells.iter().any(|c| c.slot == k && c.clicked > 0.0)).collect();
    for cell in cells.iter().filter(|c| c.shown > 0.0 && clicked_slots[c.slot]) {
        let mut row = vec![0.0; n_slots];
        row[cell.slot] = 1.0;
        row[0] = 1.0;
        let own: Vec<f64> = std::iter::once(1.0).chain(features[cell.item].iter().copied()).collect();
        without.insert(&own);
        row.extend(&features[cell.item]);
        whole.insert(&row);
    }
    whole.rank().saturating_sub(without.rank())
}

/// EM from the position model's start.
///
/// # Panics
/// If there are fewer feature vectors than items.
pub fn fit(cells: &[Cell], features: &[Vec<f64>], n_slots: usize) -> RegressionModel {
    let n_features = features.first().map_or(0, Vec::len);
    let mut weights = vec![0.0; 1 + n_features];
    let mut position = PositionModel::start(n_slots, features.len());
    for _ in 0..MAX_SWEEPS {
        // both posteriors use the old values; the position model's own γ is then replaced by the regression
        let targets = attraction_targets(cells, &position);
        let swept = position.sweep(cells, 0.0);
        for _ in 0..NEWTON_STEPS {
            newton_step(&mut weights, features, &targets);
        }
        // θ_1 = 1 makes every showing in slot 0 examined, so the sweep keeps the gauge by itself
        let next = PositionModel {
            gamma: features.iter().map(|f| sigmoid(linear(&weights, f))).collect(),
            theta: swept.theta,
        };
        let change = next.theta.iter().zip(&position.theta).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        position = next;
        if change < TOLERANCE {
            break;
        }
    }
    RegressionModel { position, weights }
}

fn linear(weights: &[f64], features: &[f64]) -> f64 {
    weights[0] + weights[1..].iter().zip(features).map(|(w, f)| w * f).sum::<f64>()
}

/// For each item: expected attractive showings, showings.
fn attraction_targets(cells: &[Cell], model: &PositionModel) -> Vec<(f64, f64)> {
    let mut targets = vec![(0.0, 0.0); model.gamma.len()];
    for cell in cells {
        let unclicked = cell.shown - cell.clicked;
        let posterior = attractive_unclicked(model.theta[cell.slot], model.gamma[cell.item]);
        let target = &mut targets[cell.item];
        *target = (target.0 + cell.clicked + unclicked * posterior, target.1 + cell.shown);
    }
    targets
}

/// One Newton step of the ridge-penalised logistic likelihood.
fn newton_step(weights: &mut [f64], features: &[Vec<f64>], targets: &[(f64, f64)]) {
    let n = weights.len();
    let mut gradient = vec![0.0; n];
    let mut curvature = vec![vec![0.0; n]; n];
    for (i, w) in weights.iter().enumerate() {
        // the intercept is free but for a trace that keeps the system solvable
        let ridge = if i == 0 { 1e-9 } else { RIDGE };
        gradient[i] = -ridge * w;
        curvature[i][i] = ridge;
    }
    for (f, (attractive, shown)) in features.iter().zip(targets).filter(|(_, t)| t.1 > 0.0) {
        let p = sigmoid(linear(weights, f));
        let (residual, spread) = (attractive - shown * p, shown * p * (1.0 - p));
        let at = |i: usize| if i == 0 { 1.0 } else { f[i - 1] };
        for (i, (slope, row)) in gradient.iter_mut().zip(&mut curvature).enumerate() {
            *slope += residual * at(i);
            for (j, bend) in row.iter_mut().enumerate().take(i + 1) {
                *bend += spread * at(i) * at(j);
            }
        }
    }
    if let Some(step) = solve(curvature, gradient) {
        // a longer step would leave the range where the quadratic holds
        weights.iter_mut().zip(step).for_each(|(w, s)| *w += s.clamp(-2.0, 2.0));
    }
}

/// x of A x = b for a symmetric positive definite A given by its lower half; `None` where it is not.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Option<Vec<f64>> {
    let n = b.len();
    for j in 0..n {
        for k in 0..j {
            for i in j..n {
                a[i][j] -= a[i][k] * a[j][k];
            }
        }
        let pivot = a[j][j];
        if !(pivot > 0.0) {
            return None;
        }
        let root = pivot.sqrt();
        for row in &mut a[j..] {
            row[j] /= root;
        }
    }
    for i in 0..n {
        for k in 0..i {
            b[i] -= a[i][k] * b[k];
        }
        b[i] /= a[i][i];
    }
    for i in (0..n).rev() {
        for k in i + 1..n {
            b[i] -= a[k][i] * b[k];
        }
        b[i] /= a[i][i];
    }
    Some(b)
}

#[cfg(test)]
mod tests;
