//! Likelihoods and regularisers of related work, as references for ablations; GaRM itself uses none of
//! them by default (`garm.text_weight` turns GRM's on). Method B.2.1 and B.2.6, oracle T4; sources in method D under the keys named here.

use super::Gaussian;
use std::f64::consts::PI;

/// ln(1 + exp(x)) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Mean of `f` under N(mean, variance), by the trapezoid rule over ±12 sigma (error below 1e-12 for
/// functions as smooth as a sigmoid).
fn gaussian_mean(difference: Gaussian, f: impl Fn(f64) -> f64) -> f64 {
    const N: i32 = 4_000;
    let step = 24.0 / f64::from(N);
    let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * PI).sqrt();
    (0..=N)
        .map(|i| {
            let x = -12.0 + step * f64::from(i);
            step * density(x) * f(difference.mean + difference.std() * x)
        })
        .sum()
}

/// E sigmoid(d) for d ~ N(mu_a - mu_b, v_a + v_b): the preference probability of PURM (S:purm), which
/// estimates it by sampling.
pub fn expected_sigmoid(difference: Gaussian) -> f64 {
    gaussian_mean(difference, |d| (-softplus(-d)).exp())
}

/// -E log sigmoid(d): the Jensen upper bound on -log E sigmoid(d) that a review found in released code
/// (S:purm).
pub fn expected_log_sigmoid_loss(difference: Gaussian) -> f64 {
    gaussian_mean(difference, |d| softplus(-d))
}

/// MacKay's closed form for E sigmoid(d): sigmoid(mu / sqrt(1 + π v/8)).
pub fn mackay_sigmoid(difference: Gaussian) -> f64 {
    (-softplus(-difference.mean / (1.0 + PI * difference.variance / 8.0).sqrt())).exp()
}

/// Bradley-Terry on the means alone: -log sigmoid(mu_a - mu_b); the baseline of the same network.
pub fn bradley_terry_nll(chosen: Gaussian, rejected: Gaussian) -> f64 {
    softplus(rejected.mean - chosen.mean)
}

/// Overlap of two Gaussians, in (0, 1] (S:purm).
pub fn bhattacharyya_coefficient(a: Gaussian, b: Gaussian) -> f64 {
    let sum = a.variance + b.variance;
    let distance = 0.25 * (a.mean - b.mean).powi(2) / sum + 0.5 * (sum / (2.0 * a.std() * b.std())).ln();
    (-distance).exp()
}

/// beta of [`text_regularisation`] in GRM's released code (S:grmcode).
pub const TEXT_BETA: f64 = 0.1;

/// Text regularisation of GRM: -log sigmoid(beta · log p(chosen)), log p in nats per sequence (S:grmcode).
pub fn text_regularisation(log_p_chosen: f64, beta: f64) -> f64 {
    softplus(-beta * log_p_chosen)
}

/// GRM's total: (1 - a) · reward loss + a · text loss (S:grmcode).
pub fn regularised_total(reward_loss: f64, text_loss: f64, share: f64) -> f64 {
    (1.0 - share) * reward_loss + share * text_loss
}

/// Batch sum-to-zero regularisation lambda (Σ r)² (S:bsr); only where there are no anchors.
pub fn sum_to_zero(rewards: &[f64], lambda: f64) -> f64 {
    lambda * rewards.iter().sum::<f64>().powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    #[test]
    fn oracle_t4() {
        let difference = Gaussian::new(0.8, 1.13);
        assert_close("E sigmoid", expected_sigmoid(difference), 0.657320235, 1e-9);
        assert_close("-log E sigmoid", -expected_sigmoid(difference).ln(), 0.419583960, 1e-9);
        assert_close("-E log sigmoid", expected_log_sigmoid_loss(difference), 0.483245991, 1e-9);
        assert_close("MacKay", mackay_sigmoid(difference), 0.660562142, 1e-9);
        let bc = bhattacharyya_coefficient;
        assert_close("BC", bc(Gaussian::new(1.0, 0.25), Gaussian::new(0.0, 0.25)), 0.606530660, 1e-9);
        assert_close("BC", bc(Gaussian::new(0.3, 0.49), Gaussian::new(-0.2, 0.64)), 0.941996040, 1e-9);
        let text = text_regularisation(-12.0, TEXT_BETA);
        assert_close("GRM text", text, 1.463282467, 1e-9);
        assert_close("GRM total", regularised_total(0.5, text, 0.01), 0.509632825, 1e-9);
        assert_close("BSR", sum_to_zero(&[1.2, -0.3, 0.4, 0.1], 1e-3), 0.00196, 1e-12);
    }

    #[test]
    fn bradley_terry_by_hand() {
        let nll = bradley_terry_nll(Gaussian::new(3f64.ln(), 1.0), Gaussian::new(0.0, 1.0));
        assert_close("odds 3 to 1", nll, -(0.75f64).ln(), 1e-12);
    }
}
