//! One number out of a reward distribution, for reinforcement learning. Method B.4.2, oracle T4.
//!
//! Deliberately not here: P(click) = Φ((mu - tau)/sigma) as a reward. Click rates are small, so
//! mu < tau, and there it grows with sigma: a policy would learn to look uncertain (method B.4.2).

use super::Gaussian;
use super::normal::{log_phi, normal_quantile};
use serde::{Deserialize, Serialize};

/// What RL maximises of a reward distribution.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EffectiveReward {
    /// mu - k_al sigma_al - k_ep sigma_ep: the default.
    #[default]
    Penalised,
    /// mu.
    Mean,
    /// mu - k sigma.
    LowerBound {
        /// k >= 0.
        k: f64,
    },
    /// mu + Φ⁻¹(q) sigma; a low q is pessimistic.
    Quantile {
        /// 0 < q < 1.
        q: f64,
    },
    /// Entropic value mu - v/(2 beta).
    KlDro {
        /// beta > 0; small is pessimistic.
        beta: f64,
    },
    /// mu - lambda v, as of an ensemble of that variance.
    VariancePenalty {
        /// lambda >= 0.
        lambda: f64,
    },
    /// P(r > r_ref) against a reference suggestion: bounded and centred. Grows with v where mu < mu_ref, so it
    /// suits references that are usually beaten.
    WinProbability,
}

/// GaRM's answer for one suggestion with its two spreads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SpreadReward {
    /// mu.
    pub mean: f64,
    /// sigma_al.
    pub aleatoric_std: f64,
    /// sigma_ep.
    pub epistemic_std: f64,
}

impl SpreadReward {
    /// N(mu, (k_al sigma_al)² + (k_ep sigma_ep)²): the penalties say how much of each spread counts.
    pub fn gaussian(self, aleatoric_penalty: f64, epistemic_penalty: f64) -> Gaussian {
        let spread = (aleatoric_penalty * self.aleatoric_std).hypot(epistemic_penalty * self.epistemic_std);
        Gaussian::new(self.mean, spread * spread)
    }
}

impl EffectiveReward {
    /// The number to maximise. All but [`EffectiveReward::Penalised`] and [`EffectiveReward::Mean`] see the
    /// spread of [`SpreadReward::gaussian`]; `reference` is read by the win probability alone.
    pub fn value(
        self,
        reward: SpreadReward,
        aleatoric_penalty: f64,
        epistemic_penalty: f64,
        reference: Gaussian,
    ) -> f64 {
        let gaussian = reward.gaussian(aleatoric_penalty, epistemic_penalty);
        match self {
            Self::Penalised => {
                penalised(reward.mean, reward.aleatoric_std, reward.epistemic_std, aleatoric_penalty, epistemic_penalty)
            }
            Self::Mean => reward.mean,
            Self::LowerBound { k } => lower_confidence_bound(gaussian, k),
            Self::Quantile { q } => quantile(gaussian, q),
            Self::KlDro { beta } => kl_dro(gaussian, beta),
            Self::VariancePenalty { lambda } => gaussian.mean - lambda * gaussian.variance,
            Self::WinProbability => win_probability(gaussian, reference),
        }
    }

    /// What is wrong with its constant, if anything: name, value and what was expected.
    pub fn fault(self) -> Option<(&'static str, f64, &'static str)> {
        let fault = |ok: bool, name, value, expected| (!ok).then_some((name, value, expected));
        match self {
            Self::Penalised | Self::Mean | Self::WinProbability => None,
            Self::LowerBound { k } => fault((0.0..=100.0).contains(&k), "k", k, "0 to 100"),
            Self::Quantile { q } => fault(q > 0.0 && q < 1.0, "q", q, "above 0, below 1"),
            Self::KlDro { beta } => fault(beta > 0.0 && beta.is_finite(), "beta", beta, "above 0"),
            Self::VariancePenalty { lambda } => fault((0.0..=100.0).contains(&lambda), "lambda", lambda, "0 to 100"),
        }
    }
}

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
mod tests;
