//! Off-policy estimates of a whole slate's clicks, from the weight of each slot. Method B.6.4, oracle T8.
//!
//! Weights `[K]` of one slate are w_k = π(slot k) / π₀(slot k), given what stands in the slots before where the
//! policy's choices depend on each other.

/// Independent IPS: a click counts with the weight of its own slot, Σ w_k c_k. Right where a click depends on
/// nothing but its own slot.
///
/// # Panics
/// If lengths differ.
pub fn independent(weights: &[f64], clicks: &[f64]) -> f64 {
    assert_eq!(weights.len(), clicks.len(), "as many weights as slots");
    weights.iter().zip(clicks).map(|(w, c)| w * c).sum()
}

/// Weights of reward-interaction IPS `[K]`: Π_{j <= k} w_j, right where users read from the top and a click
/// depends on the slots above (cascade). The estimate is [`independent`] with these.
pub fn cascade_weights(weights: &[f64]) -> Vec<f64> {
    let mut product = 1.0;
    weights
        .iter()
        .map(|w| {
            product *= w;
            product
        })
        .collect()
}

/// Weight of the pseudo-inverse estimator under factored propensities, Σ w_k - (K - 1): multiplies the clicks
/// of the whole slate, right where the slate's reward is a sum over slots (Swaminathan et al., NeurIPS 2017).
/// May be negative.
pub fn pseudo_inverse_weight(weights: &[f64]) -> f64 {
    weights.iter().sum::<f64>() - (weights.len() as f64 - 1.0)
}
