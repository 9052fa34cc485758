//! Click rates from few showings: beta-binomial smoothing by empirical Bayes (method B.1.3).
//!
//! In the loop: between the click log and preferences. `k_i ~ Binomial(n_i, p_i)`, `p_i ~ Beta(a, b)`.
//! `n` may be fractional: expected examinations, where slots are seen unequally.

use crate::special::{beta_quantile, digamma, normal_cdf, trigamma};

/// Largest prior strength a + b; under-dispersed data would send it to infinity.
pub const MAX_STRENGTH: f64 = 2_000.0;
/// Smallest prior strength, for data that are dispersed beyond any beta distribution.
const MIN_STRENGTH: f64 = 0.1;
/// Quantile that stands for "at least this good".
pub const LOWER_QUANTILE: f64 = 0.05;

/// A beta distribution over a click rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beta {
    /// Clicks, plus prior.
    pub a: f64,
    /// Showings without a click, plus prior.
    pub b: f64,
}

impl Beta {
    /// The prior fitted to `(clicks, showings)` by moments with unequal showings; strength within
    /// [0.1, [`MAX_STRENGTH`]]. Rates of exactly 0 or 1 overall are pulled in by half a click.
    pub fn fit(items: &[(f64, f64)]) -> Self {
        let clicks: f64 = items.iter().map(|(k, _)| k).sum();
        let shown: f64 = items.iter().map(|(_, n)| n).sum();
        let mean = if clicks > 0.0 && clicks < shown { clicks / shown } else { (clicks + 0.5) / (shown + 1.0) };
        let rho = dispersion(items, mean, shown);
        let strength = if rho > 0.0 { (1.0 / rho - 1.0).clamp(MIN_STRENGTH, MAX_STRENGTH) } else { MAX_STRENGTH };
        Self { a: mean * strength, b: (1.0 - mean) * strength }
    }

    /// After `clicks` in `showings`.
    #[must_use]
    pub fn observe(self, clicks: f64, showings: f64) -> Self {
        Self { a: self.a + clicks, b: self.b + (showings - clicks).max(0.0) }
    }

    /// Expected click rate.
    pub fn mean(self) -> f64 {
        self.a / (self.a + self.b)
    }

    /// The rate exceeded with probability 0.95.
    pub fn lower(self) -> f64 {
        beta_quantile(LOWER_QUANTILE, self.a, self.b)
    }

    /// Mean and variance of the logit of the rate: ψ(a) - ψ(b), ψ₁(a) + ψ₁(b).
    pub fn logit_moments(self) -> (f64, f64) {
        (digamma(self.a) - digamma(self.b), trigamma(self.a) + trigamma(self.b))
    }

    /// P(this rate > the other), by the normal approximation on the logit scale.
    pub fn probability_above(self, other: Self) -> f64 {
        let ((l1, v1), (l2, v2)) = (self.logit_moments(), other.logit_moments());
        normal_cdf((l1 - l2) / (v1 + v2).sqrt())
    }
}

/// Intra-class correlation of method B.1.3; at most 0 where the data are no more dispersed than
/// binomial.
fn dispersion(items: &[(f64, f64)], mean: f64, shown: f64) -> f64 {
    let spread = mean * (1.0 - mean);
    let seen = items.iter().filter(|(_, n)| *n > 0.0);
    let q: f64 = seen.clone().map(|(k, n)| n * (k / n - mean).powi(2)).sum();
    let c = shown - items.iter().map(|(_, n)| n * n).sum::<f64>() / shown;
    let free = seen.count() as f64 - 1.0;
    let rho = (q - free * spread) / (spread * (c - free));
    if rho.is_finite() { rho } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    const C4: [(f64, f64); 8] =
        [(0., 50.), (9., 60.), (1., 40.), (20., 80.), (2., 70.), (0., 30.), (30., 90.), (1., 20.)];

    #[test]
    fn c3_under_dispersed_data_get_the_largest_strength() {
        let items = [(0., 10.), (1., 20.), (3., 40.), (2., 15.), (10., 100.), (0., 5.), (5., 60.), (1., 50.)];
        let prior = Beta::fit(&items);
        assert_close("mean", prior.mean(), 0.073_333_333, 1e-8);
        assert_close("rho", dispersion(&items, 22.0 / 300.0, 300.0), -0.007_036_036, 1e-8);
        assert_close("strength", prior.a + prior.b, MAX_STRENGTH, 1e-9);
    }

    #[test]
    fn c4_moments() {
        let prior = Beta::fit(&C4);
        assert_close("rho", dispersion(&C4, 63.0 / 440.0, 440.0), 0.146_074_953, 1e-8);
        assert_close("a", prior.a, 0.837_012_357, 1e-8);
        assert_close("b", prior.b, 5.008_788_234, 1e-8);
    }

    #[test]
    fn c4b_c4c_posterior() {
        let prior = Beta { a: 0.583_692_589, b: 4.917_742_350 };
        let means =
            [0.010516712, 0.146312712, 0.034805333, 0.240740902, 0.034220444, 0.016441380, 0.320243278, 0.062102097];
        let lower =
            [0.000088933, 0.081637448, 0.004574610, 0.168690075, 0.008269324, 0.000140172, 0.244273699, 0.008338665];
        for (i, (k, n)) in C4.into_iter().enumerate() {
            assert_close("mean", prior.observe(k, n).mean(), means[i], 1e-8);
            assert_close("lower", prior.observe(k, n).lower(), lower[i], 1e-7);
        }
        let (mean, variance) = prior.observe(9.0, 60.0).logit_moments();
        assert_close("logit mean", mean, -1.807_928_681, 1e-7);
        assert_close("logit variance", variance, 0.128_020_948, 1e-7);
        let (mean, variance) = prior.observe(2.0, 70.0).logit_moments();
        assert_close("logit mean", mean, -3.539_069_309, 1e-7);
        assert_close("logit variance", variance, 0.485_152_432, 1e-7);
    }

    #[test]
    fn c5_c6() {
        let above = Beta { a: 5., b: 55. }.probability_above(Beta { a: 3., b: 57. });
        assert_close("C5", above, 0.778_423_259, 1e-6);
        let posterior = Beta { a: 2., b: 38. }.observe(3.0, 20.0);
        assert_close("C6 mean", posterior.mean(), 0.083_333_333, 1e-8);
        assert_close("C6 lower", posterior.lower(), 0.033_987_177, 1e-7);
    }

    #[test]
    fn empty_and_extreme_data_give_a_proper_prior() {
        for items in [vec![], vec![(0.0, 10.0)], vec![(10.0, 10.0), (5.0, 5.0)], vec![(1.0, 1.0), (0.0, 1.0)]] {
            let prior = Beta::fit(&items);
            assert!(prior.a > 0.0 && prior.b > 0.0 && (prior.a + prior.b).is_finite(), "{items:?}: {prior:?}");
        }
    }
}
