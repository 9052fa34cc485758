//! One number out of a reward distribution, for reinforcement learning. Method B.4.2, oracle T4.
//!
//! Deliberately not here: P(click) = Φ((mu - tau)/sigma) as a reward. Click rates are small, so
//! mu < tau, and there it grows with sigma: a policy would learn to look uncertain (method B.4.2).

use super::Gaussian;
use super::normal::{log_phi, normal_quantile};

/// mu - k_al sigma_al - k_ep sigma_ep, the reward that RL uses (component r1).
pub fn penalised(
    mean: f64,
    aleatoric_std: f64,
    epistemic_std: f64,
    aleatoric_penalty: f64,
    epistemic_penalty: f64,
) -> f64 {
    mean - aleatoric_penalty * aleatoric_std - epistemic_penalty * epistemic_std
}

/// Lower confidence bound mu - k sigma.
pub fn lower_confidence_bound(reward: Gaussian, k: f64) -> f64 {
    reward.mean - k * reward.std()
}

/// Robust (entropic) value -beta log E exp(-r/beta) = mu - v/(2 beta) of a Gaussian r, beta > 0.
pub fn kl_dro(reward: Gaussian, beta: f64) -> f64 {
    reward.mean - reward.variance / (2.0 * beta)
}

/// The `q` quantile mu + Φ⁻¹(q) sigma, 0 < q < 1.
pub fn quantile(reward: Gaussian, q: f64) -> f64 {
    reward.mean + normal_quantile(q) * reward.std()
}

/// P(r > r_ref) for independent Gaussians: bounded in (0, 1) and centred at ½.
pub fn win_probability(reward: Gaussian, reference: Gaussian) -> f64 {
    log_phi((reward.mean - reference.mean) / (reward.variance + reference.variance).sqrt()).exp()
}

/// Uncertainty-weighted ensemble value: mean of the members minus `lambda` times their population variance.
pub fn uncertainty_weighted(members: &[f64], lambda: f64) -> f64 {
    let n = members.len() as f64;
    let mean = members.iter().sum::<f64>() / n;
    mean - lambda * members.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / n
}

/// Worst member of an ensemble; infinite for none.
pub fn worst_case(members: &[f64]) -> f64 {
    members.iter().copied().fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    #[test]
    fn oracle_t4() {
        let reward = Gaussian::new(0.8, 0.25);
        for (k, want) in [(0.5, 0.55), (1.0, 0.3), (2.0, -0.2)] {
            assert_close("LCB", lower_confidence_bound(reward, k), want, 1e-12);
        }
        for (beta, want) in [(0.25, 0.3), (0.5, 0.55), (1.0, 0.675)] {
            assert_close("KL-DRO", kl_dro(reward, beta), want, 1e-12);
        }
        for (q, want) in [(0.05, -0.022426813), (0.1, 0.159224217), (0.25, 0.462755125)] {
            assert_close("quantile", quantile(reward, q), want, 1e-9);
        }
        assert_close("win", win_probability(reward, Gaussian::new(0.1, 0.16)), 0.862850586, 1e-9);
        assert_close("UWO", uncertainty_weighted(&[1.0, 1.5, 0.2], 0.5), 0.756666667, 1e-9);
        assert_close("WCO", worst_case(&[1.0, 1.5, 0.2]), 0.2, 1e-12);
    }
}
