//! The losses of GaRM on Burn tensors, exact in value and gradient at every argument. Method B.2.1,
//! B.2.2, B.2.4, B.2.6, B.3 (1).
//!
//! Autodiff through log Φ would have to differentiate a polynomial and a selection between two tails.
//! Instead value L and derivatives g_k = dL/dx_k are computed in closed form on tensors without
//! autodiff, and the loss handed to autodiff is L + Σ_k g_k (x_k - x_k'), where x_k' is x_k detached: the
//! differences are exactly zero, so its value is L, and its gradient is g. This also gives the one place
//! where a sample's gradient can be clipped without touching its value (method B.2.5): dL/dlog v.
//!
//! `beckon_shared::garm` is the f64 reference of every function here.
//!
//! Dimension key: `P` pairs, `A` anchors, `S` synthetic suggestions; vectors hold one number a sample.

use beckon_shared::garm::normal::{LOG_PHI_COEFFICIENTS, ln_sqrt_2_pi};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};
use std::f64::consts::{LN_2, PI};

/// What a preference between two suggestions is taken to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Likelihood {
    /// GaRM: Φ(z) with means and variances.
    Probit,
    /// The baseline of the same network: sigmoid of the difference of means.
    BradleyTerry,
}

/// log Φ(z) and lambda(z) = φ(z)/Φ(z) of a tensor without autodiff, by the polynomial of method B.2.2.
///
/// Both tails are computed from |z| and are finite, so that the selection cannot spread a NaN. |z| is
/// taken freely here because no gradient flows through it.
pub fn log_phi_and_mills(z: Tensor<1>) -> (Tensor<1>, Tensor<1>) {
    let a = z.clone().abs();
    let t = a.clone().add_scalar(3.0).recip().mul_scalar(3.0); // 3/(3+a)
    let [.., last] = LOG_PHI_COEFFICIENTS;
    let mut p = t.clone().mul_scalar(last);
    for (i, c) in LOG_PHI_COEFFICIENTS.iter().enumerate().rev().skip(1) {
        p = p.add_scalar(*c);
        if i > 0 {
            p = p * t.clone();
        }
    }
    let q = t.log() + p; // ln t + P(t)
    let half_square = a.square().mul_scalar(0.5);
    let lower = q.clone() - half_square.clone() - LN_2; // log Φ(-a)
    let upper = lower.clone().exp().neg().log1p(); // log Φ(a)
    let lower_mills = q.neg().exp().mul_scalar((2.0 / PI).sqrt());
    let upper_mills = (half_square + upper.clone()).add_scalar(ln_sqrt_2_pi()).neg().exp();
    let positive = z.greater_equal_elem(0.0);
    (lower.mask_where(positive.clone(), upper), lower_mills.mask_where(positive, upper_mills))
}

/// A loss per sample with its closed-form derivatives.
struct ClosedForm {
    /// L, without autodiff.
    value: Tensor<1>,
    /// (x_k, dL/dx_k): x with autodiff, the derivative without.
    derivatives: Vec<(Tensor<1>, Tensor<1>)>,
}

impl ClosedForm {
    /// L + Σ g_k (x_k - x_k').
    fn attach(self) -> Tensor<1> {
        self.derivatives.into_iter().fold(self.value, |loss, (x, g)| {
            let detached = x.clone().inner();
            (x - detached) * g + loss
        })
    }
}

/// Two halves of a vector `[2N]`.
fn halves(x: Tensor<1>) -> (Tensor<1>, Tensor<1>) {
    let n = x.dims()[0] / 2;
    (x.clone().slice([0..n]), x.slice([n..2 * n]))
}

/// Pair loss of method B.2.1, `[P]`: -w [ y log Φ(z) + (1-y) log Φ(-z) ], z = (mu_a - mu_b)/sqrt(v_a + v_b).
///
/// `mean` and `log_variance` are `[2P]`, the chosen ones first; `labels` y and `weights` w `[P]` without
/// autodiff. dL/dlog v of each sample is clipped to ±`clip`; the value is not.
pub fn pair_loss(
    mean: Tensor<1>,
    log_variance: Tensor<1>,
    labels: Tensor<1>,
    weights: Tensor<1>,
    clip: f64,
) -> Tensor<1> {
    let (mean_a, mean_b) = halves(mean);
    let (log_v_a, log_v_b) = halves(log_variance);
    let (v_a, v_b) = (log_v_a.clone().inner().exp(), log_v_b.clone().inner().exp());
    let s2 = v_a.clone() + v_b.clone();
    let s = s2.clone().sqrt();
    let z = (mean_a.clone().inner() - mean_b.clone().inner()) / s.clone();
    let (log_p, mills) = log_phi_and_mills(z.clone());
    let (log_q, other_mills) = log_phi_and_mills(z.clone().neg());
    let unlabelled = labels.clone().neg().add_scalar(1.0); // 1 - y
    let value = (labels.clone() * log_p + unlabelled.clone() * log_q).neg() * weights.clone();
    let g = (labels * mills - unlabelled * other_mills).neg() * weights; // dL/dz
    let d_mean = g.clone() / s;
    let half = (g * z).mul_scalar(-0.5) / s2;
    let clipped = |d: Tensor<1>| d.clamp(-clip, clip);
    ClosedForm {
        value,
        derivatives: vec![
            (mean_a, d_mean.clone()),
            (mean_b, d_mean.neg()),
            (log_v_a, clipped(half.clone() * v_a)),
            (log_v_b, clipped(half * v_b)),
        ],
    }
    .attach()
}

/// Ordinal anchor loss of method B.2.4 A, `[A]`: -w log P(level) under thresholds `tau`.
///
/// `is_level[o]` is 1 where the sample's level is o, else 0. The clip is as in [`pair_loss`].
pub fn ordinal_loss(
    mean: Tensor<1>,
    log_variance: Tensor<1>,
    is_level: [Tensor<1>; 3],
    weights: Tensor<1>,
    tau: [f64; 2],
    clip: f64,
) -> Tensor<1> {
    let sigma = log_variance.clone().inner().mul_scalar(0.5).exp();
    let z = tau.map(|tau| mean.clone().inner().sub_scalar(tau) / sigma.clone());
    let [z1, z2] = z.clone();
    let (log_none, mills_none) = log_phi_and_mills(z1.clone().neg());
    let (log_top, mills_top) = log_phi_and_mills(z2.clone());
    let log_middle = log_middle_probability(&z);
    // dL/dz_j of the middle level: ∓ φ(z_j)/P(1)
    let ratio = |z: Tensor<1>| (z.square().mul_scalar(0.5) + log_middle.clone()).add_scalar(ln_sqrt_2_pi()).neg().exp();
    let [none, middle, top] = is_level.map(|m| m.greater_elem(0.5));
    let pick = |at_none: Tensor<1>, at_middle: Tensor<1>, at_top: Tensor<1>| {
        let zero = at_none.zeros_like();
        zero.mask_where(none.clone(), at_none).mask_where(middle.clone(), at_middle).mask_where(top.clone(), at_top)
    };
    let value = pick(log_none, log_middle.clone(), log_top).neg() * weights.clone();
    let zero = z1.zeros_like();
    let g1 = pick(mills_none, ratio(z1.clone()).neg(), zero.clone()) * weights.clone();
    let g2 = pick(zero, ratio(z2.clone()), mills_top.neg()) * weights;
    let d_mean = (g1.clone() + g2.clone()) / sigma;
    let d_log_variance = (g1 * z1 + g2 * z2).mul_scalar(-0.5);
    let derivatives = vec![(mean, d_mean), (log_variance, d_log_variance.clamp(-clip, clip))];
    ClosedForm { value, derivatives }.attach()
}

/// log(Φ(z_1) - Φ(z_2)), z_1 > z_2, through the lower tail: A + log1mexp(A - B).
fn log_middle_probability(z: &[Tensor<1>; 2]) -> Tensor<1> {
    let [z1, z2] = z.clone();
    let swap = z2.clone().greater_elem(0.0);
    let larger = z1.clone().mask_where(swap.clone(), z2.clone().neg());
    let smaller = z2.mask_where(swap, z1.neg());
    let (a, b) = (log_phi_and_mills(larger).0, log_phi_and_mills(smaller).0);
    // A - B is about 1/sigma: the bound only keeps the logarithm finite for a sigma above 1e6
    let u = (a.clone() - b).clamp_min(1e-6);
    let near = u.clone().neg().exp().neg().add_scalar(1.0).log(); // ln(1 - e^-u)
    let far = u.clone().neg().exp().neg().log1p();
    a + far.mask_where(u.lower_elem(LN_2), near)
}

/// KL( N(mu, v) || N(mu0, v0) ) of method B.3 (1), `[S]`, by autodiff.
pub fn prior_loss(mean: Tensor<1>, log_variance: Tensor<1>, prior_mean: f64, prior_variance: f64) -> Tensor<1> {
    let spread = log_variance.clone().exp() + mean.sub_scalar(prior_mean).square();
    (spread.div_scalar(prior_variance) - log_variance).add_scalar(prior_variance.ln() - 1.0).mul_scalar(0.5)
}

/// Bradley-Terry on the means, `[P]`: -w [ y log sigmoid(d) + (1-y) log sigmoid(-d) ], d = mu_a - mu_b; by
/// autodiff. The baseline of the same network.
pub fn bradley_terry_loss(mean: Tensor<1>, labels: Tensor<1>, weights: Tensor<1>) -> Tensor<1> {
    let (mean_a, mean_b) = halves(mean);
    let d = mean_a - mean_b;
    // -log sigmoid(d) = softplus(-d) and softplus(d) = softplus(-d) + d
    let loss = activation::softplus(d.clone().neg(), 1.0) + d * labels.neg().add_scalar(1.0);
    loss * weights
}

/// GRM's text regularisation of method B.2.6, `[S]`: -log sigmoid(beta log p), by autodiff; `logps` are log p of whole
/// suggestions in nats.
pub fn text_loss(logps: Tensor<1>, beta: f64) -> Tensor<1> {
    activation::softplus(logps.mul_scalar(-beta), 1.0)
}

#[cfg(test)]
mod tests;
