//! Pair likelihood of GaRM: Thurstone's comparative judgement with unequal variances. Method B.2.1,
//! oracle T2.
//!
//! d = mu_a - mu_b, s² = v_a + v_b, z = d/s, P(a preferred to b) = Φ(z), and for a soft label y
//! L = -w [ y log Φ(z) + (1-y) log Φ(-z) ].
//!
//! Neither z nor Φ is clamped: a pair that the model gets badly wrong has the largest gradient, which
//! the trainer clips afterwards. Thurstone's Case V, equal variances, is the special case of constant v.

use super::Gaussian;
use super::normal::{inverse_mills, log_phi};

/// Loss of one pair with its gradients; `chosen` is a, `rejected` is b. Nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairLoss {
    /// Standardised difference of the means.
    pub z: f64,
    /// L.
    pub nll: f64,
    /// dL/dmu_a = g/s; dL/dmu_b is its negative.
    pub d_mean_chosen: f64,
    /// dL/dlog v_a = -(g z/2)(v_a/s²).
    pub d_log_variance_chosen: f64,
    /// dL/dlog v_b.
    pub d_log_variance_rejected: f64,
}

/// P(a preferred to b) = Φ(z).
pub fn preference_probability(chosen: Gaussian, rejected: Gaussian) -> f64 {
    let s = (chosen.variance + rejected.variance).sqrt();
    log_phi((chosen.mean - rejected.mean) / s).exp()
}

/// Negative log-likelihood of a pair under `label` = y in [0, 1] with weight `weight` = w >= 0.
///
/// Invariant under (mu, v) -> (c mu + h, c² v): pairs alone fix neither shift nor scale (method B.2.3),
/// which is why GaRM is also trained on anchors.
pub fn pair_nll(chosen: Gaussian, rejected: Gaussian, label: f64, weight: f64) -> PairLoss {
    let s2 = chosen.variance + rejected.variance;
    let s = s2.sqrt();
    let z = (chosen.mean - rejected.mean) / s;
    let nll = -weight * (label * log_phi(z) + (1.0 - label) * log_phi(-z));
    let g = -weight * (label * inverse_mills(z) - (1.0 - label) * inverse_mills(-z));
    PairLoss {
        z,
        nll,
        d_mean_chosen: g / s,
        d_log_variance_chosen: -0.5 * g * z * chosen.variance / s2,
        d_log_variance_rejected: -0.5 * g * z * rejected.variance / s2,
    }
}

/// [`pair_nll`] of an *observed order* of two noisy measurements: the first came out higher, though each was
/// measured with error of `noise` = m_a + m_b in all. P = Φ((mu_a - mu_b)/sqrt(v_a + v_b + noise)).
///
/// For pairs that rest on counts, with a hard label, in place of a soft label that has the noise in it
/// already; `noise` must be on the scale of mu (logits in gauge C of method B.2.4). A known noise does not fix
/// the scale (method B.2.3). Its part of s² is nobody's variance, so the gradients to log v shrink by it.
pub fn observed_pair_nll(chosen: Gaussian, rejected: Gaussian, noise: f64, weight: f64) -> PairLoss {
    let s2 = chosen.variance + rejected.variance + noise;
    let s = s2.sqrt();
    let z = (chosen.mean - rejected.mean) / s;
    let g = -weight * inverse_mills(z);
    PairLoss {
        z,
        nll: -weight * log_phi(z),
        d_mean_chosen: g / s,
        d_log_variance_chosen: -0.5 * g * z * chosen.variance / s2,
        d_log_variance_rejected: -0.5 * g * z * rejected.variance / s2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// T2: (mu_a, mu_b, v_a, v_b, y, w), (z, L, dmu_a, dlog v_a, dlog v_b).
    type Row = ([f64; 6], [f64; 5]);
    const T2: [Row; 7] = [
        ([1.0, 0.0, 0.25, 0.25, 1.0, 1.0], [1.414213562, 0.081914863, -0.225271243, 0.056317811, 0.056317811]),
        ([0.3, -0.2, 0.49, 0.64, 1.0, 1.0], [0.470360434, 0.384264581, -0.493416202, 0.053489810, 0.069864241]),
        ([-1.0, 1.5, 0.04, 0.09, 1.0, 1.0], [-6.933752453, 26.913616676, -19.615636296, -7.544475498, -16.975069872]),
        ([0.5, 0.1, 1.0, 2.25, 0.7, 1.0], [0.221880078, 0.637833627, -0.099987617, 0.006153084, 0.013844439]),
        ([0.2, 0.2, 0.5, 0.5, 1.0, 1.0], [0.0, 0.693147181, -0.797884561, 0.0, 0.0]),
        ([-6.0, 6.0, 0.5, 0.5, 1.0, 1.0], [-12.0, 75.410673002, -12.082214175, -36.246642526, -36.246642526]),
        ([2.0, 0.5, 0.3, 0.1, 0.9, 0.35], [2.371708245, 0.168245954, 0.137723158, -0.077469276, -0.025823092]),
    ];

    fn loss(x: [f64; 6]) -> PairLoss {
        pair_nll(Gaussian::new(x[0], x[2]), Gaussian::new(x[1], x[3]), x[4], x[5])
    }

    #[test]
    fn oracle_t2() {
        for (i, (x, want)) in T2.into_iter().enumerate() {
            let got = loss(x);
            let got = [got.z, got.nll, got.d_mean_chosen, got.d_log_variance_chosen, got.d_log_variance_rejected];
            for (k, (got, want)) in got.into_iter().zip(want).enumerate() {
                assert_close(&format!("P{} column {k}", i + 1), got, want, 1e-9 * want.abs().max(1.0));
            }
        }
        let p2 = preference_probability(Gaussian::new(0.3, 0.49), Gaussian::new(-0.2, 0.64));
        assert_close("P2 probability", p2, 0.680951237, 1e-9);
        assert_close("temperature", log_phi(1.2 / 1.5).exp(), 0.788144601, 1e-9);
    }

    #[test]
    fn a_clamp_would_hide_the_worst_pairs() {
        // method B.2.1: with z clamped to ±6 the loss is flat at z = -12, where the exact gradient is -12.08
        let clamped = -log_phi((-12f64).clamp(-6.0, 6.0));
        assert_close("flat", clamped, -log_phi((-13f64).clamp(-6.0, 6.0)), 0.0);
        let exact = loss(T2[5].0);
        assert!(exact.nll > 3.0 * clamped && exact.d_mean_chosen < -12.0);
    }

    #[test]
    fn property_1_a_pair_fixes_neither_shift_nor_scale() {
        let x = T2[1].0;
        let moved = [3.0 * x[0] + 7.0, 3.0 * x[1] + 7.0, 9.0 * x[2], 9.0 * x[3], x[4], x[5]];
        assert_close("P2 moved", loss(moved).nll, loss(x).nll, 1e-12);
    }

    #[test]
    fn property_2_gradients_are_finite_differences() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let special = [0.0, 1e-6, -1e-6, 8.0, -8.0, 40.0, -40.0];
        for i in 0..200 {
            let (va, vb) = (rng.random_range(0.02..4.0f64), rng.random_range(0.02..4.0f64));
            let z = special.get(i).copied().unwrap_or_else(|| rng.random_range(-6.0..6.0));
            let x = [z * (va + vb).sqrt(), 0.0, va, vb, rng.random_range(0.5..1.0), rng.random_range(0.1..3.0)];
            let got = loss(x);
            let h = 1e-6;
            let slope = |f: &dyn Fn(f64) -> [f64; 6]| (loss(f(h)).nll - loss(f(-h)).nll) / (2.0 * h);
            let at = |k: usize, value: f64| {
                let mut y = x;
                y[k] = value;
                y
            };
            let tol = |want: f64| 1e-6 * want.abs().max(1.0) + 1e-9 * got.nll.abs();
            let cases = [
                ("mean chosen", slope(&|h| at(0, x[0] + h)), got.d_mean_chosen),
                ("mean rejected", slope(&|h| at(1, x[1] + h)), -got.d_mean_chosen),
                ("log v chosen", slope(&|h| at(2, va * h.exp())), got.d_log_variance_chosen),
                ("log v rejected", slope(&|h| at(3, vb * h.exp())), got.d_log_variance_rejected),
            ];
            for (name, want, got) in cases {
                assert_close(&format!("{name}, point {i}, z = {z}"), got, want, tol(want));
            }
        }
    }

    #[test]
    fn noise_of_the_measurement_adds_to_the_spread_and_takes_gradient_from_it() {
        let (a, b) = (Gaussian::new(0.5, 0.4), Gaussian::new(0.1, 0.2));
        let (none, some) = (observed_pair_nll(a, b, 0.0, 1.0), observed_pair_nll(a, b, 0.6, 1.0));
        let hard = pair_nll(a, b, 1.0, 1.0);
        assert_close("no noise, NLL", none.nll, hard.nll, 1e-12);
        assert_close("no noise, dmu", none.d_mean_chosen, hard.d_mean_chosen, 1e-12);
        assert_close("z", some.z, 0.4 / 1.2f64.sqrt(), 1e-12);
        let h = 1e-6;
        let at = |mu: f64, v: f64| observed_pair_nll(Gaussian::new(mu, v), b, 0.6, 1.0).nll;
        assert_close("dmu", some.d_mean_chosen, (at(0.5 + h, 0.4) - at(0.5 - h, 0.4)) / (2.0 * h), 1e-8);
        let d_log_v = (at(0.5, 0.4 * h.exp()) - at(0.5, 0.4 * (-h).exp())) / (2.0 * h);
        assert_close("dlog v", some.d_log_variance_chosen, d_log_v, 1e-8);
        assert!(some.d_log_variance_chosen < none.d_log_variance_chosen);
    }
}
