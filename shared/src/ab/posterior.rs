//! Bayesian posterior of the lift: how probable is it that the treatment wins, and what is lost on average if not?
//! A picture beside the always-valid claim, not in its place: repeated looks at it do not keep an error rate.
//!
//! Normal likelihood of the estimated effect, normal prior (or none): the posterior is N(m, s²) with
//! 1/s² = 1/v + 1/v₀, m = s² (θ̂/v + m₀/v₀).

use super::Interval;
use super::estimate::Effect;
use crate::garm::normal::normal_quantile;
use crate::special::{normal_cdf, normal_pdf};
use serde::{Deserialize, Serialize};

/// Belief about a lift before the test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prior {
    /// Mean of the lift.
    pub mean: f64,
    /// Standard deviation of the lift, above 0.
    pub std_dev: f64,
}

/// N(mean, std_dev²) over the effect.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Posterior {
    /// Mean.
    pub mean: f64,
    /// Standard deviation.
    pub std_dev: f64,
}

impl Posterior {
    /// The posterior of `effect`; without a prior it is flat.
    pub fn of(effect: &Effect, prior: Option<Prior>) -> Self {
        let Some(prior) = prior else {
            return Self { mean: effect.estimate, std_dev: effect.std_error() };
        };
        let (likelihood, before) = (effect.variance.recip(), prior.std_dev.powi(-2));
        let precision = likelihood + before;
        let mean = (effect.estimate * likelihood + prior.mean * before) / precision;
        Self { mean, std_dev: precision.sqrt().recip() }
    }

    /// P(effect > 0).
    pub fn probability_to_win(self) -> f64 {
        normal_cdf(self.mean / self.std_dev)
    }

    /// E[max(effect, 0)], lost by staying with the control, in units of the effect.
    pub fn loss_of_control(self) -> f64 {
        expected_positive_part(self.mean, self.std_dev)
    }

    /// E[max(-effect, 0)], lost by choosing the treatment, in units of the effect.
    pub fn loss_of_treatment(self) -> f64 {
        expected_positive_part(-self.mean, self.std_dev)
    }

    /// Central interval that holds the effect with probability 1 - `alpha`.
    ///
    /// # Panics
    /// If `alpha` is not strictly between 0 and 1.
    pub fn interval(self, alpha: f64) -> Interval {
        Interval::around(self.mean, normal_quantile(1.0 - 0.5 * alpha) * self.std_dev)
    }

    /// `n_points` pairs (effect, density) over ± 4 standard deviations, evenly spaced, for a picture.
    pub fn density(self, n_points: usize) -> Vec<(f64, f64)> {
        let last = n_points.saturating_sub(1).max(1) as f64;
        (0..n_points)
            .map(|i| {
                let z = 8.0 * i as f64 / last - 4.0;
                (self.mean + z * self.std_dev, normal_pdf(z) / self.std_dev)
            })
            .collect()
    }
}

/// E[max(X, 0)] of X ~ N(mean, std_dev²): mean Φ(mean/std_dev) + std_dev φ(mean/std_dev).
fn expected_positive_part(mean: f64, std_dev: f64) -> f64 {
    let z = mean / std_dev;
    (mean * normal_cdf(z) + std_dev * normal_pdf(z)).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    #[test]
    fn normal_and_flat_prior_by_hand() {
        let effect = Effect { estimate: 0.2, variance: 0.01, n_units: 10.0, dof: 8.0 };
        let flat = Posterior::of(&effect, None);
        assert_close("P(win)", flat.probability_to_win(), normal_cdf(2.0), 1e-15);
        // precision 100 + 100, mean (0.2 + 0) / 2
        let posterior = Posterior::of(&effect, Some(Prior { mean: 0.0, std_dev: 0.1 }));
        assert_close("mean", posterior.mean, 0.1, 1e-12);
        assert_close("std", posterior.std_dev, 0.005f64.sqrt(), 1e-12);
        // what is lost either way differs by the mean
        assert_close("losses", posterior.loss_of_control() - posterior.loss_of_treatment(), 0.1, 1e-12);
        assert_close("interval", posterior.interval(0.05).high, 0.1 + 1.959_963_984_540_054 * 0.005f64.sqrt(), 1e-10);
    }

    #[test]
    fn the_density_integrates_to_one() {
        let points = Posterior { mean: 3.0, std_dev: 0.5 }.density(401);
        let area: f64 = points.windows(2).map(|w| (w[1].0 - w[0].0) * (w[0].1 + w[1].1) / 2.0).sum();
        assert_close("area", area, 1.0, 1e-4);
        assert_close("peak", points[200].0, 3.0, 1e-12);
        assert!(Posterior { mean: 0.0, std_dev: 1.0 }.density(0).is_empty());
    }
}
