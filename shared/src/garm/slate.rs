//! What a slate of scored suggestions is worth. Method B.2.7.
//!
//! Suggestions are scored alone, so redundancy within a slate is not visible here: that is the heuristics'
//! part.

use super::Gaussian;
use super::normal::log_phi;
use crate::click_model::cascade::any_click;
use crate::click_model::choice::probabilities;

/// P(click | looked at) = Φ((mu - tau_1)/sigma), tau_1 the first anchor threshold.
///
/// A probability to report, not a reward: where mu < tau_1 it grows with sigma (method B.4.2).
pub fn click_probability(reward: Gaussian, threshold: f64) -> f64 {
    log_phi((reward.mean - threshold) / reward.std()).exp()
}

/// Position model: 1 - Π (1 - θ_k p_k).
///
/// # Panics
/// If there are more rewards than slots.
pub fn value_by_position(rewards: &[Gaussian], threshold: f64, theta: &[f64]) -> f64 {
    assert!(rewards.len() <= theta.len(), "one θ a slot");
    let p: Vec<f64> = rewards.iter().zip(theta).map(|(r, t)| t * click_probability(*r, threshold)).collect();
    any_click(&p)
}

/// Choice model: 1 - P(no click) with utilities `slope` mu + `intercept` against u_0 = 0, the affine map between
/// GaRM's scale and the choice model's.
///
/// # Panics
/// If there are not as many slot biases as rewards.
pub fn value_by_choice(rewards: &[Gaussian], slope: f64, intercept: f64, biases: &[f64]) -> f64 {
    let utilities: Vec<f64> = rewards.iter().map(|r| slope * r.mean + intercept).collect();
    1.0 - probabilities(&utilities, biases, 0.0).0
}

#[cfg(test)]
mod tests;
