//! Anchor likelihoods: absolute evidence about one suggestion, which fixes the scale that pairs leave
//! open. Method B.2.4, oracle T3.
//!
//! A. Ordinal probit on the engagement level o in {0, 1, 2} with fixed thresholds tau_1 < tau_2 and
//! z_j = (mu - tau_j)/sigma: P(0) = Φ(-z_1), P(1) = Φ(z_1) - Φ(z_2), P(2) = Φ(z_2). Two thresholds are
//! needed: a click alone is one threshold event and leaves the scale about tau free (method B.2.3).
//!
//! Sources with counts have levels too, by quartiles of the rate within its own test ([`crate::preference`], B.2.4 B). Not here:
//! Gaussian regression on the rate's logit (B.2.4 C). It is on a scale of its own, the logit's, which must not be mixed with A's
//! without an affine map that is learnt, and that map would need an intercept for each test, whose base rate no text tells.

use super::Gaussian;
use super::normal::{inverse_mills, ln_sqrt_2_pi, log_phi, log1mexp};

/// tau_1 and tau_2, the gauge: mu = 0 is where half of the users click, mu = 1 where half are satisfied.
pub const THRESHOLDS: [f64; 2] = [0.0, 1.0];

/// Loss of one ordinal anchor with its gradients. Nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OrdinalLoss {
    /// -log P(level).
    pub nll: f64,
    /// dL/dmu.
    pub d_mean: f64,
    /// dL/dlog sigma, which is 2 dL/dlog v.
    pub d_log_std: f64,
}

/// log P(level) for each level at `z` = (z_1, z_2), z_1 > z_2.
///
/// The middle bin is a difference of two close tails; both arguments are brought to the lower tail
/// (Φ(z_1) - Φ(z_2) = Φ(-z_2) - Φ(-z_1)), then log P = A + log1mexp(A - B) with A the larger log Φ.
pub fn ordinal_log_probabilities(z: [f64; 2]) -> [f64; 3] {
    let (a, b) = if z[1] > 0.0 { (log_phi(-z[1]), log_phi(-z[0])) } else { (log_phi(z[0]), log_phi(z[1])) };
    [log_phi(-z[0]), a + log1mexp(a - b), log_phi(z[1])]
}

/// Negative log-likelihood of engagement `level` (0, 1 or 2) under N(mu, v) and `thresholds`.
///
/// # Panics
/// If `level` is above 2.
pub fn ordinal_nll(reward: Gaussian, level: u8, thresholds: [f64; 2]) -> OrdinalLoss {
    let sigma = reward.std();
    let z = thresholds.map(|tau| (reward.mean - tau) / sigma);
    let log_p = ordinal_log_probabilities(z);
    // dL/dz_1 and dL/dz_2
    let g = match level {
        0 => [inverse_mills(-z[0]), 0.0],
        1 => {
            let ratio = |z: f64| (-0.5 * z * z - ln_sqrt_2_pi() - log_p[1]).exp();
            [-ratio(z[0]), ratio(z[1])]
        }
        2 => [0.0, -inverse_mills(z[1])],
        _ => panic!("engagement level {level}, expected 0, 1 or 2"),
    };
    OrdinalLoss {
        nll: -log_p[usize::from(level)],
        d_mean: (g[0] + g[1]) / sigma,
        d_log_std: -(g[0] * z[0] + g[1] * z[1]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const TAU: [f64; 2] = [-0.5, 0.5];

    #[test]
    fn oracle_t3_ordinal() {
        let rows = [
            (0.4f64, 0.8f64, 0, 2.037957875f64, 2.032670392f64, -1.829403353f64),
            (0.4, 0.8, 1, 0.868825951, 0.548229231, 0.686244500),
            (0.4, 0.8, 2, 0.797926143, -1.098909870, -0.109890987),
            (-5.0, 0.3, 1, 116.131384846, -50.220289424, -225.991302408),
            (-5.0, 0.3, 2, 171.886168380, -61.291863149, -337.105247321),
        ];
        for (mu, sigma, level, nll, d_mean, d_log_std) in rows {
            let got = ordinal_nll(Gaussian::new(mu, sigma * sigma), level, TAU);
            assert_close(&format!("NLL({mu}, {sigma}, {level})"), got.nll, nll, 1e-9 * nll);
            assert_close(&format!("dmu({mu}, {sigma}, {level})"), got.d_mean, d_mean, 1e-8 * d_mean.abs());
            assert_close(&format!("dls({mu}, {sigma}, {level})"), got.d_log_std, d_log_std, 1e-8 * d_log_std.abs());
        }
        let log_p = ordinal_log_probabilities(TAU.map(|tau| (0.4 - tau) / 0.8));
        for (got, want) in log_p.iter().zip([0.130294517, 0.419443708, 0.450261775]) {
            assert_close("pi", got.exp(), want, 1e-9);
        }
    }

    #[test]
    fn property_1_an_anchor_fixes_the_scale() {
        let reward = Gaussian::new(0.4, 0.64);
        let moved = Gaussian::new(3.0 * reward.mean + 7.0, 9.0 * reward.variance);
        let (a, b) = (ordinal_nll(reward, 1, THRESHOLDS).nll, ordinal_nll(moved, 1, THRESHOLDS).nll);
        assert!((a - b).abs() > 0.1, "{a} and {b} should differ");
    }

    #[test]
    fn probabilities_sum_to_one_even_where_the_bin_is_narrow() {
        for z in [[0.2, -0.8], [9.0, 8.9], [-8.9, -9.0], [3.0, -3.0], [40.0, 39.9], [1e-3, 0.0]] {
            let sum: f64 = ordinal_log_probabilities(z).iter().map(|l| l.exp()).sum();
            assert_close(&format!("sum at {z:?}"), sum, 1.0, 1e-12);
        }
    }

    #[test]
    fn property_2_gradients_are_finite_differences() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let special = [0.0, 1e-6, -1e-6, 8.0, -8.0, 40.0, -40.0];
        for i in 0..200 {
            let v: f64 = rng.random_range(0.05..4.0);
            let z = special.get(i).copied().unwrap_or_else(|| rng.random_range(-6.0..6.0));
            let mu = z * v.sqrt();
            let h = 1e-6;
            for level in 0..3 {
                let at = |mu: f64, v: f64| ordinal_nll(Gaussian::new(mu, v), level, THRESHOLDS).nll;
                let got = ordinal_nll(Gaussian::new(mu, v), level, THRESHOLDS);
                let d_mean = (at(mu + h, v) - at(mu - h, v)) / (2.0 * h);
                let d_log_std = (at(mu, v * (2.0 * h).exp()) - at(mu, v * (-2.0 * h).exp())) / (2.0 * h);
                let tol = |want: f64| 1e-5 * want.abs().max(1.0) + 1e-9 * got.nll;
                assert_close(&format!("dmu, level {level}, z {z}"), got.d_mean, d_mean, tol(d_mean));
                assert_close(&format!("dls, level {level}, z {z}"), got.d_log_std, d_log_std, tol(d_log_std));
            }
        }
    }
}
