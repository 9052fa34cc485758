//! Keeps the policy's distance from its reference near a budget by moving the KL coefficient. Method B.5.3.
//!
//! beta *= 1.5 or /= 1.5 every 20 steps where the mean KL since the last look is more than half the budget off.
//! A pure state machine; a resumed run goes on with the same [`KlController::parts`].

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

/// Steps between two looks, the factor, and the dead band as a share of the budget.
pub const EVERY: usize = 20;
const FACTOR: f64 = 1.5;
const BAND: f64 = 0.5;
/// Bounds of the coefficient: a budget that cannot be reached must not send it to 0 or infinity.
const RANGE: (f64, f64) = (1e-6, 1e3);

/// The coefficient, and what was seen since the last look.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KlController {
    /// Coefficient.
    pub beta: f64,
    /// Sum of the KL since the last look, nats.
    sum: f64,
    /// Steps since the last look.
    n: usize,
}

impl KlController {
    /// Starts at `beta`.
    pub fn new(beta: f64) -> Self {
        Self { beta, sum: 0.0, n: 0 }
    }

    /// Coefficient, sum of the KL since the last look, steps since then.
    pub fn parts(self) -> (f64, f64, usize) {
        (self.beta, self.sum, self.n)
    }

    /// What [`KlController::parts`] was taken from.
    pub fn from_parts((beta, sum, n): (f64, f64, usize)) -> Self {
        Self { beta, sum, n }
    }

    /// Takes one step's mean KL per sequence, nats, and moves the coefficient at every 20th. `budget` may change
    /// between steps. A coefficient of 0 stays 0: KL is off. A KL that is not finite counts as far too high.
    pub fn observe(&mut self, kl_nats: f64, budget_nats: f64) {
        self.sum += if kl_nats.is_finite() { kl_nats } else { f64::INFINITY };
        self.n += 1;
        if self.n < EVERY {
            return;
        }
        let kl = self.sum / self.n as f64;
        (self.sum, self.n) = (0.0, 0);
        let factor = if kl > (1.0 + BAND) * budget_nats {
            FACTOR
        } else if kl < (1.0 - BAND) * budget_nats {
            1.0 / FACTOR
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
