//! Distances between policy and reference. Method B.5.3, oracle T7.
//!
//! With r = pi_ref/pi of a sample from pi: k1 = -ln r and k3 = r - 1 - ln r are unbiased for
//! KL(pi || pi_ref) as values. As losses they differ: the gradient of k1 is zero on average, that of k2
//! is the exact reverse-KL gradient, that of k3 the forward-KL one. So k1 goes into the detached reward
//! and k3 is only logged.

/// Clamp of ln r before exp.
const LOG_RATIO_LIMIT: f64 = 10.0;

/// k1 = ln pi - ln pi_ref, nats.
pub fn k1(logp: f64, reference_logp: f64) -> f64 {
    logp - reference_logp
}

/// k2 = ½ (ln r)², nats².
pub fn k2(logp: f64, reference_logp: f64) -> f64 {
    0.5 * (reference_logp - logp).powi(2)
}

/// k3 = r - 1 - ln r >= 0, ln r clamped to ±10.
pub fn k3(logp: f64, reference_logp: f64) -> f64 {
    let log_ratio = (reference_logp - logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT);
    log_ratio.exp_m1() - log_ratio
}

/// dk2/dln pi = ln pi - ln pi_ref.
pub fn d_k2(logp: f64, reference_logp: f64) -> f64 {
    logp - reference_logp
}

/// dk3/dln pi = 1 - r.
pub fn d_k3(logp: f64, reference_logp: f64) -> f64 {
    -(reference_logp - logp).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp_m1()
}

/// KL(p || q) of two distributions over the same outcomes, nats; outcomes with p = 0 count nothing.
pub fn kl_divergence(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p / q).ln()).sum()
}

/// Entropy, nats.
pub fn entropy(p: &[f64]) -> f64 {
    -p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum::<f64>()
}

/// KL of best-of-`n` sampling: ln n - (n-1)/n, the yardstick for a KL budget.
pub fn best_of_n_kl(n: usize) -> f64 {
    let n = n as f64;
    n.ln() - (n - 1.0) / n
}

/// Gao et al.'s fitted gold reward of best-of-n at d = sqrt(KL): d (alpha - beta d).
pub fn best_of_n_gold(d: f64, alpha: f64, beta: f64) -> f64 {
    d * (alpha - beta * d)
}

/// Gao et al.'s fitted gold reward of RL at d = sqrt(KL): d (alpha - beta ln d).
pub fn rl_gold(d: f64, alpha: f64, beta: f64) -> f64 {
    d * (alpha - beta * d.ln())
}

/// Where [`best_of_n_gold`] peaks: d = alpha/(2 beta).
pub fn best_of_n_peak(alpha: f64, beta: f64) -> f64 {
    alpha / (2.0 * beta)
}

/// Where [`rl_gold`] peaks: d = exp(alpha/beta - 1).
pub fn rl_peak(alpha: f64, beta: f64) -> f64 {
    (alpha / beta - 1.0).exp()
}

/// (alpha, beta) of [`rl_gold`] that fit points (d, gold gain) best by least squares on gold/d, which is linear
/// in ln d. `None` for fewer than two different d > 0.
pub fn fit_rl_gold(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let rows: Vec<(f64, f64)> = points.iter().filter(|(d, _)| *d > 0.0).map(|(d, gold)| (d.ln(), gold / d)).collect();
    let n = rows.len() as f64;
    let (mx, my) = rows.iter().fold((0.0, 0.0), |m, r| (m.0 + r.0 / n, m.1 + r.1 / n));
    let xx: f64 = rows.iter().map(|r| (r.0 - mx).powi(2)).sum();
    let xy: f64 = rows.iter().map(|r| (r.0 - mx) * (r.1 - my)).sum();
    let beta = -xy / xx;
    (rows.len() >= 2 && xx > 0.0).then_some((my + beta * mx, beta))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    #[test]
    fn oracle_t7_single_samples() {
        let (pi, reference) = (-1.2, -1.0);
        assert_close("k1", k1(pi, reference), -0.2, 1e-12);
        assert_close("k2", k2(pi, reference), 0.02, 1e-12);
        assert_close("k3", k3(pi, reference), 0.021402758, 1e-9);
        assert_close("dk3", d_k3(pi, reference), -0.221402758, 1e-9);
        assert_close("dk2", d_k2(pi, reference), -0.2, 1e-12);
        let (pi, reference) = (-0.2, -2.5);
        assert_close("k1", k1(pi, reference), 2.3, 1e-12);
        assert_close("k2", k2(pi, reference), 2.645, 1e-12);
        assert_close("k3", k3(pi, reference), 1.400258844, 1e-9);
    }

    const P: [f64; 3] = [0.5, 0.3, 0.2];
    const Q: [f64; 3] = [0.4, 0.4, 0.2];

    /// E over P of a function of (ln p, ln q).
    fn expectation(f: impl Fn(f64, f64) -> f64) -> f64 {
        P.iter().zip(Q).map(|(p, q)| p * f(p.ln(), q.ln())).sum()
    }

    #[test]
    fn oracle_t7_expectations() {
        let kl = kl_divergence(&P, &Q);
        assert_close("KL", kl, 0.025267154, 1e-9);
        assert_close("E k1", expectation(k1), kl, 1e-12);
        assert_close("E k2", expectation(k2), 0.024862407, 1e-9);
        assert_close("E k3", expectation(k3), kl, 1e-12);
        let variance = |f: fn(f64, f64) -> f64| expectation(|p, q| f(p, q).powi(2)) - expectation(f).powi(2);
        assert_close("var k1", variance(k1), 0.049086386, 1e-9);
        assert_close("var k3", variance(k3), 0.000254594, 1e-9);
        assert_close("entropy", entropy(&P), 1.029653014, 1e-9);
    }

    /// E over P of d(ln pi) times d ln p_i/dlogit_j = δ_ij - p_j.
    fn logit_gradient(d: impl Fn(f64, f64) -> f64) -> [f64; 3] {
        let mut gradient = [0.0; 3];
        for (i, (p, q)) in P.iter().zip(Q).enumerate() {
            for (j, g) in gradient.iter_mut().enumerate() {
                *g += p * d(p.ln(), q.ln()) * (f64::from(i == j) - P[j]);
            }
        }
        gradient
    }

    #[test]
    fn oracle_t7_gradients_of_estimators_as_losses() {
        let exact = [0.098938, -0.093885, -0.005053];
        for (j, ((k1, k2), k3)) in
            logit_gradient(|_, _| 1.0).iter().zip(logit_gradient(d_k2)).zip(logit_gradient(d_k3)).enumerate()
        {
            assert_close("E grad k1", *k1, 0.0, 1e-12);
            assert_close("E grad k2 is the reverse KL's", k2, exact[j], 1e-6);
            assert_close("E grad k3 is p - q", k3, P[j] - Q[j], 1e-12);
        }
    }

    #[test]
    fn derivatives_are_finite_differences() {
        for (pi, reference) in [(-1.2, -1.0), (-0.2, -2.5), (-30.0, -1.0), (-3.0, -3.0)] {
            let h = 1e-6;
            let slope = |f: fn(f64, f64) -> f64| (f(pi + h, reference) - f(pi - h, reference)) / (2.0 * h);
            assert_close("dk2", d_k2(pi, reference), slope(k2), 1e-6);
            if f64::abs(pi - reference) < 10.0 {
                assert_close("dk3", d_k3(pi, reference), slope(k3), 1e-6);
            }
            assert!(k3(pi, reference).is_finite() && k3(pi, reference) >= 0.0);
        }
    }

    #[test]
    fn oracle_t7_budgets() {
        for (n, want) in [(4, 0.636294361), (16, 1.835088722), (64, 3.174508083)] {
            assert_close("best of n", best_of_n_kl(n), want, 1e-9);
        }
        assert_close("Gao BoN", best_of_n_gold(2.0, 0.8, 0.2), 0.8, 1e-12);
        assert_close("Gao RL", rl_gold(2.0, 0.8, 0.2), 1.322741128, 1e-9);
    }

    #[test]
    fn gold_curves_peak_where_they_should_and_are_fitted_again() {
        let (alpha, beta) = (0.8, 0.2);
        for (peak, gold) in [
            (best_of_n_peak(alpha, beta), best_of_n_gold as fn(f64, f64, f64) -> f64),
            (rl_peak(alpha, beta), rl_gold as fn(f64, f64, f64) -> f64),
        ] {
            let at = |d: f64| gold(d, alpha, beta);
            assert!(at(peak) > at(0.99 * peak) && at(peak) > at(1.01 * peak));
        }
        let points: Vec<(f64, f64)> = [0.5, 1.0, 2.0, 5.0].iter().map(|d| (*d, rl_gold(*d, alpha, beta))).collect();
        let (a, b) = fit_rl_gold(&points).expect("four points");
        assert_close("alpha", a, alpha, 1e-12);
        assert_close("beta", b, beta, 1e-12);
        assert_eq!(fit_rl_gold(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(fit_rl_gold(&[]), None);
    }
}
