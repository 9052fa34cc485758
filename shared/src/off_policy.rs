//! What another policy's click rate would have been, estimated from the log of the policy that ran. Method
//! B.6.4, oracle T8; the estimators are those of the Open Bandit Pipeline (Saito et al., arXiv 2008.07146),
//! formulas in method B.6.4.
//!
//! Only where the two policies overlap: the effective sample size gates every estimate ([`Overlap`]).
//! Suggestions in free text have almost no exact match between policies, and sequence-probability ratios of
//! long texts are not usable; evaluate the *selector* instead (which K of M logged candidates are shown, with
//! known propensities), and say so.
//!
//! Dimension key: `N` logged rounds, `K` slots. Not here: fitting the reward predictions q̂; they must be
//! cross-fitted by user, or DM and DR are too good.

pub mod slate;

use crate::metrics::mean_and_std_error;
use serde::{Deserialize, Serialize};

/// Smallest effective sample size, and smallest share of the log, for which an estimate counts (method B.6.4).
pub const MIN_EFFECTIVE: f64 = 200.0;
/// See [`MIN_EFFECTIVE`].
pub const MIN_EFFECTIVE_SHARE: f64 = 0.05;

/// One logged round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Probability with which the logging policy took the logged action, in (0, 1].
    pub logging_propensity: f64,
    /// Probability with which the evaluated policy takes it, in [0, 1].
    pub propensity: f64,
    /// What came of it, as 1 for a click.
    pub reward: f64,
    /// q̂(x, a): predicted reward of the logged action.
    pub predicted: f64,
    /// q̂(x, π): predicted reward of the evaluated policy, the mean of q̂(x, ·) under it.
    pub predicted_policy: f64,
}

/// A round that cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("round {round}: {field} is {value}; expected {expected}")]
pub struct RoundError {
    /// 0-based.
    pub round: usize,
    /// Which field.
    pub field: &'static str,
    /// What it holds.
    pub value: f64,
    /// What it should hold.
    pub expected: &'static str,
}

/// An estimated click rate. Not confined to [0, 1]: IPS and DR can leave it, which says that the log is too small.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// The estimate.
    pub estimate: f64,
    /// Its standard error over rounds; for ratios by the delta method.
    pub std_error: f64,
}

/// How well the log covers the evaluated policy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Overlap {
    /// Rounds.
    pub n_rounds: usize,
    /// Effective sample size (Σ w)² / Σ w²; 0 without any overlap.
    pub effective: f64,
    /// Mean weight; about 1 where propensities are right and the log covers the policy.
    pub weight_mean: f64,
    /// Largest weight.
    pub weight_max: f64,
}

impl Overlap {
    /// Whether estimates may be reported; else "not evaluable".
    pub fn is_evaluable(&self) -> bool {
        self.effective >= MIN_EFFECTIVE && self.effective > MIN_EFFECTIVE_SHARE * self.n_rounds as f64
    }
}

/// A log with importance weights w = π / π₀, checked once.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    rounds: Vec<Round>,
    weights: Vec<f64>,
}

impl Log {
    /// Checks every round.
    ///
    /// # Errors
    /// [`RoundError`] of the first that cannot be; a logging propensity of 0 is one, as what never happens is
    /// not logged.
    pub fn new(rounds: Vec<Round>) -> Result<Self, RoundError> {
        for (round, r) in rounds.iter().enumerate() {
            let fields: [(&'static str, f64, bool, &'static str); 5] = [
                (
                    "logging propensity",
                    r.logging_propensity,
                    r.logging_propensity > 0.0 && r.logging_propensity <= 1.0,
                    "above 0, at most 1",
                ),
                ("propensity", r.propensity, (0.0..=1.0).contains(&r.propensity), "0 to 1"),
                ("reward", r.reward, r.reward.is_finite(), "a number"),
                ("predicted reward", r.predicted, r.predicted.is_finite(), "a number"),
                ("predicted reward of the policy", r.predicted_policy, r.predicted_policy.is_finite(), "a number"),
            ];
            if let Some((field, value, _, expected)) = fields.into_iter().find(|(_, _, ok, _)| !ok) {
                return Err(RoundError { round, field, value, expected });
            }
        }
        let weights = rounds.iter().map(|r| r.propensity / r.logging_propensity).collect();
        Ok(Self { rounds, weights })
    }

    /// Importance weights `[N]`.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// How far the log covers the policy.
    pub fn overlap(&self) -> Overlap {
        let (sum, squares): (f64, f64) = (self.weights.iter().sum(), self.weights.iter().map(|w| w * w).sum());
        Overlap {
            n_rounds: self.weights.len(),
            effective: if squares > 0.0 { sum * sum / squares } else { 0.0 },
            weight_mean: sum / self.weights.len() as f64,
            weight_max: self.weights.iter().copied().fold(0.0, f64::max),
        }
    }

    /// Inverse propensity scoring, mean(w r).
    pub fn ips(&self) -> Value {
        self.mean_of(|w, r| w * r.reward)
    }

    /// IPS with weights clipped at `max_weight`: less variance, biased towards 0.
    pub fn clipped_ips(&self, max_weight: f64) -> Value {
        self.mean_of(|w, r| w.min(max_weight) * r.reward)
    }

    /// Self-normalised IPS, Σ w r / Σ w; a shift of all rewards shifts it by as much.
    pub fn snips(&self) -> Value {
        let sum: f64 = self.weights.iter().sum();
        let estimate = self.pairs().map(|(w, r)| w * r.reward).sum::<f64>() / sum;
        let squares: f64 = self.pairs().map(|(w, r)| (w * (r.reward - estimate)).powi(2)).sum();
        Value { estimate, std_error: squares.sqrt() / sum }
    }

    /// Direct method, mean q̂(x, π): only as good as q̂, and its error does not show in the standard error.
    pub fn direct(&self) -> Value {
        self.mean_of(|_, r| r.predicted_policy)
    }

    /// Doubly robust, mean of q̂(x, π) + w (r - q̂(x, a)): unbiased if either propensities or q̂ are right.
    pub fn doubly_robust(&self) -> Value {
        self.corrected(|w| w)
    }

    /// Self-normalised doubly robust, mean q̂(x, π) + Σ w (r - q̂) / Σ w.
    pub fn self_normalised_doubly_robust(&self) -> Value {
        let scale = self.weights.len() as f64 / self.weights.iter().sum::<f64>();
        self.corrected(|w| w * scale)
    }

    /// Switch-DR: the correction is dropped where w > `max_weight`.
    pub fn switch_doubly_robust(&self, max_weight: f64) -> Value {
        self.corrected(|w| if w <= max_weight { w } else { 0.0 })
    }

    /// Doubly robust with optimistic shrinkage, w → lambda w / (w² + lambda): 0 is DM, infinity DR.
    pub fn shrunk_doubly_robust(&self, lambda: f64) -> Value {
        self.corrected(|w| lambda * w / (w * w + lambda))
    }

    fn corrected(&self, weight: impl Fn(f64) -> f64) -> Value {
        self.mean_of(|w, r| r.predicted_policy + weight(w) * (r.reward - r.predicted))
    }

    fn pairs(&self) -> impl Iterator<Item = (f64, &Round)> {
        self.weights.iter().copied().zip(&self.rounds)
    }

    fn mean_of(&self, term: impl Fn(f64, &Round) -> f64) -> Value {
        let terms: Vec<f64> = self.pairs().map(|(w, r)| term(w, r)).collect();
        let (estimate, std_error) = mean_and_std_error(&terms);
        Value { estimate, std_error }
    }
}

#[cfg(test)]
mod tests;
