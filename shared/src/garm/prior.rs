//! KL to a pessimistic prior, the loss on synthetic out-of-distribution text. Method B.3 (1), oracle T4.
//!
//! KL( N(mu, v) || N(mu0, v0) ) = ½ [ ln(v0/v) + (v + (mu - mu0)²)/v0 - 1 ] pushes the mean down to mu0
//! and the variance up to v0 in one term, and has a finite minimum, unlike a margin loss.

use super::Gaussian;

/// Value and gradients of the KL. Nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PriorLoss {
    /// KL >= 0.
    pub kl: f64,
    /// dKL/dmu = (mu - mu0)/v0.
    pub d_mean: f64,
    /// dKL/dlog v = ½ (v/v0 - 1).
    pub d_log_variance: f64,
}

/// KL( `reward` || `prior` ).
pub fn kl_to_prior(reward: Gaussian, prior: Gaussian) -> PriorLoss {
    let shift = reward.mean - prior.mean;
    let ratio = reward.variance / prior.variance;
    PriorLoss {
        kl: 0.5 * (-ratio.ln() + ratio + shift * shift / prior.variance - 1.0),
        d_mean: shift / prior.variance,
        d_log_variance: 0.5 * (ratio - 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    #[test]
    fn oracle_t4() {
        let rows = [
            ((1.2, 0.16), (-1.0, 1.0), (2.916290732, 2.2, -0.42)),
            ((0.5, 0.05), (-1.5, 2.25), (2.303331245, 0.888888889, -0.488888889)),
        ];
        for ((mu, v), (mu0, v0), (kl, d_mean, d_log_variance)) in rows {
            let got = kl_to_prior(Gaussian::new(mu, v), Gaussian::new(mu0, v0));
            assert_close("KL", got.kl, kl, 1e-9);
            assert_close("dmu", got.d_mean, d_mean, 1e-9);
            assert_close("dlog v", got.d_log_variance, d_log_variance, 1e-9);
        }
        assert_close("at the prior", kl_to_prior(Gaussian::new(-1.0, 2.0), Gaussian::new(-1.0, 2.0)).kl, 0.0, 1e-15);
    }

    #[test]
    fn gradients_are_finite_differences() {
        let prior = Gaussian::new(-1.5, 2.25);
        for (mu, v) in [(0.5, 0.05), (-40.0, 3.0), (2.0, 25.0), (-1.5, 2.25)] {
            let at = |mu: f64, v: f64| kl_to_prior(Gaussian::new(mu, v), prior).kl;
            let got = kl_to_prior(Gaussian::new(mu, v), prior);
            let h = 1e-5;
            assert_close("dmu", got.d_mean, (at(mu + h, v) - at(mu - h, v)) / (2.0 * h), 1e-6);
            let d_log_variance = (at(mu, v * h.exp()) - at(mu, v * (-h).exp())) / (2.0 * h);
            assert_close("dlog v", got.d_log_variance, d_log_variance, 1e-6);
        }
    }
}
