//! Keeps the policy's distance from its reference below a budget by moving the KL coefficient. Method B.5.3.
//!
//! ```text
//! x     = KL, smoothed over about 5 steps / budget
//! in force: beta max(1, x)²
//! beta *= 1 + min(x - 1, 1)/5      after a step with x > 1: too far
//! beta /= 1.5^(1/20)               after a step with x < 1/2, from the 20th on: too near
//! ```
//!
//! Departure from the method, which moves beta by 1.5 every 20 steps where KL is more than half the budget off: in runs of
//! 100 steps that came too late (EXPERIMENTS.md, 2026-11-27). beta alone swings, as KL answers some steps later; the factor max(1, x)²
//! damps it. Downwards the pace is the method's, once the learning rate has risen: every run starts at a KL of 0. A
//! pure state machine; a resumed run goes on with the same [`KlController::parts`].

use serde::{Deserialize, Serialize};

/// Where a KL term stands (method B.5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KlPlacement {
    /// k1 in the detached reward: unbiased, and its gradient comes with the advantage. The default.
    #[default]
    Reward,
    /// k2 as a loss: its expected gradient is the exact reverse-KL gradient.
    Loss,
    /// Nowhere: an ablation. KL is measured all the same.
    Off,
}

/// Share that a step has of the smoothed KL.
const SMOOTHING: f64 = 0.2;
/// Largest relative rise of beta in a step, reached at twice the budget.
const RISE: f64 = 0.2;
/// Share of the budget below which the coefficient falls, its factor in [`PATIENCE`] steps, and the steps before it may.
const TOO_NEAR: f64 = 0.5;
const FALL: f64 = 1.5;
const PATIENCE: usize = 20;
/// Bounds of the coefficient: a budget that cannot be reached must not send it to 0 or infinity.
const RANGE: (f64, f64) = (1e-6, 1e3);

/// beta, and what was seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlController {
    beta: f64,
    /// Smoothed KL, nats.
    kl: f64,
    /// Steps seen.
    n: usize,
}

impl KlController {
    /// Starts at `beta`.
    pub fn new(beta: f64) -> Self {
        Self { beta, kl: 0.0, n: 0 }
    }

    /// beta, smoothed KL, steps.
    pub fn parts(self) -> (f64, f64, usize) {
        (self.beta, self.kl, self.n)
    }

    /// What [`KlController::parts`] was taken from.
    pub fn from_parts((beta, kl, n): (f64, f64, usize)) -> Self {
        Self { beta, kl, n }
    }

    /// Smoothed KL as a share of the budget.
    pub fn share(self, budget_nats: f64) -> f64 {
        self.kl / budget_nats
    }

    /// The coefficient in force.
    pub fn coefficient(self, budget_nats: f64) -> f64 {
        self.beta * self.share(budget_nats).max(1.0).powi(2)
    }

    /// Takes one step's mean KL per sequence, nats, and moves beta, which stays 0 where it is 0: KL is off. A KL that is not
    /// finite counts as twice the budget.
    pub fn observe(&mut self, kl_nats: f64, budget_nats: f64) {
        let kl = if kl_nats.is_finite() { kl_nats } else { 2.0 * budget_nats };
        self.kl = if self.n == 0 { kl } else { self.kl + SMOOTHING * (kl - self.kl) };
        self.n += 1;
        let share = self.share(budget_nats);
        let factor = if share > 1.0 {
            1.0 + RISE * (share - 1.0).min(1.0)
        } else if share < TOO_NEAR && self.n > PATIENCE {
            FALL.powf(-1.0 / PATIENCE as f64)
        } else {
            return;
        };
        if self.beta > 0.0 {
            self.beta = (self.beta * factor).clamp(RANGE.0, RANGE.1);
        }
    }
}

#[cfg(test)]
mod tests;
