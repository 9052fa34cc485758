//! The operations as compositions of Burn's, with gradients by autodiff: for every device, and the reference
//! that the fused operations of the CPU are tested against. Shapes and sources stand at the functions of
//! [`super`] that choose between the two.

use super::{Rotary, Shape};
use burn::tensor::{Device, FloatDType, Int, Tensor, activation};

/// Added to the score of a key that a query must not see. Finite, so that a row never becomes NaN.
const MASKED: f32 = -1e30;
/// What the rows of a product in half precision are divided by before they are rounded, and the product is multiplied by. A
/// power of two, so nothing else is rounded.
///
/// f16 ends at 65,504 and loses digits below 6e-5. So rows and outputs may reach 4e6, and the gradient of the outputs, small
/// as that of a mean over a batch's tokens, is 64 times as large when it is rounded on the way back: loss scaling
/// (Micikevicius et al. 2018, arXiv 1710.03740) inside one product. A larger factor would cost digits of small outputs.
const HALF_ROWS: f64 = 64.0;

pub fn half(weight: Tensor<2>) -> Tensor<2> {
    weight.cast(FloatDType::F16)
}

pub fn linear_half(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let rows = x.mul_scalar(1.0 / HALF_ROWS).cast(FloatDType::F16); // [N, I]
    rows.matmul(weight).cast(FloatDType::F32).mul_scalar(HALF_ROWS) // [N, O]
}

pub fn linear_low_rank(x: Tensor<2>, weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<2> {
    let thin = super::linear(x.clone(), a).mul_scalar(scale); // [N, r]
    super::linear(x, weight) + super::linear(thin, b) // [N, O]
}

pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    let mean_square = x.clone().square().mean_dim(1); // [N, 1]
    x * mean_square.add_scalar(eps).sqrt().recip() * weight.unsqueeze()
}

/// Turns `x` `[B, T, n, K]` by the positions `0..T`.
pub fn rotate(x: Tensor<4>, rotary: &Rotary) -> Tensor<4> {
    let [b, t, n, k] = x.dims();
    let row = |table: &Tensor<2>| table.clone().slice([0..t]).reshape([1, t, 1, k]);
    let turned = x.clone().reshape([b * t * n, k]).matmul(rotary.turn.clone()).reshape([b, t, n, k]);
    x * row(&rotary.cos) + turned * row(&rotary.sin)
}

pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, rotary: &Rotary, shape: Shape) -> Tensor<2> {
    let Shape { batch: b, tokens: t, heads: h, kv_heads: g, head_dim: d } = shape;
    let r = h / g;
    let scale = 1.0 / (d as f64).sqrt();
    let q = rotate(q.reshape([b, t, h, d]), rotary).mul_scalar(scale); // [B, T, H, K]
    let k = rotate(k.reshape([b, t, g, d]), rotary); // [B, T, G, K]
    let q = q.swap_dims(1, 2).reshape([b, g, r * t, d]); // [B, G, R·T, K]
    let k = k.permute([0, 2, 3, 1]); // [B, G, K, T]
    let v = v.reshape([b, t, g, d]).swap_dims(1, 2); // [B, G, T, K]
    let mask = causal_mask(t, &q.device()).reshape([1, 1, t, t]);
    let scores = q.matmul(k).reshape([b, h, t, t]) + mask; // [B, H, T, T]
    let weights = activation::softmax(scores, 3).reshape([b, g, r * t, t]);
    weights.matmul(v).reshape([b, h, t, d]).swap_dims(1, 2).reshape([b * t, h * d]) // [B·T, H·K]
}

/// Scores added to hide later tokens: 0 on and below the diagonal, a large negative number above: `[T, T]`.
fn causal_mask(t: usize, device: &Device) -> Tensor<2> {
    Tensor::<2>::full([t, t], MASKED, device).triu(1)
}

pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    activation::silu(gate) * up
}

pub fn token_logps(hidden: Tensor<2>, embed: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [n, _] = hidden.dims();
    let logits = hidden.matmul(embed.transpose()); // [N, V]
    activation::log_softmax(logits, 1).gather(1, targets.reshape([n, 1])).reshape([n])
}

pub fn soft_target_losses(
    student: Tensor<2>,
    teacher: Tensor<2>,
    targets: Tensor<1, Int>,
    weight: f64,
    temperature: f64,
) -> Tensor<1> {
    let [n, _] = student.dims();
    let logps = activation::log_softmax(student.clone(), 1).gather(1, targets.reshape([n, 1])).reshape([n]);
    let [p, q] = [teacher, student].map(|logits| activation::log_softmax(logits.div_scalar(temperature), 1)); // [N, V]
    let kl = (p.clone().exp() * (p - q)).sum_dim(1).reshape([n]);
    kl.mul_scalar(weight * temperature * temperature) - logps.mul_scalar(1.0 - weight)
}

pub fn rows(matrix: Tensor<2>, picked: Tensor<1, Int>) -> Tensor<2> {
    matrix.select(0, picked)
}
