//! The mathematics of a Llama block on Burn tensors, each operation with its gradient.
//!
//! Each function exists twice, and this file is the one place that chooses: on Burn's CPU backend `fused`, our
//! own passes with closed-form gradients; on every other device `composed`, compositions of Burn's operations
//! with gradients by autodiff.
//!
//! Dimension key: `B` batch, `T` tokens, `D` width, `H` heads, `G` key-value heads, `R` = H/G,
//! `K` head width, `V` vocabulary, `F` feed-forward width, `N` rows. All values f32, but for weights that [`half`] made.

mod composed;
pub mod fused;

use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use fused::FusedOps;

pub use fused::attention::Dims as Shape;

/// Whether tensors of a device go through the fused operations.
pub fn is_fused(device: &Device) -> bool {
    // autodiff or not is no part of a device's equality
    *device == Device::flex()
}

/// A frozen weight `[I, O]` for [`linear`], in half precision.
pub fn half(weight: Tensor<2>) -> Tensor<2> {
    composed::half(weight)
}

/// `x · weight`: `[N, I]` and `[I, O]` to `[N, O]`. A weight that [`half`] made is multiplied in f16 on every device, and has
/// to be frozen; `x`, the result and the gradient by `x` are f32.
pub fn linear(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    if weight.dtype() == DType::F16 {
        return composed::linear_half(x, weight);
    }
    if is_fused(&x.device()) {
        return Tensor::from_dispatch(Dispatch::linear(x.into_dispatch(), weight.into_dispatch()));
    }
    x.matmul(weight)
}

/// `x · weight + scale · (x · a) · b`, the weight with an adapter beside it: `[N, I]`, `[I, O]`, `[I, r]` and `[r, O]` to
/// `[N, O]` (Hu et al. 2021). The weight as in [`linear`]; `a` and `b` are f32.
pub fn linear_low_rank(x: Tensor<2>, weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scale: f64) -> Tensor<2> {
    if weight.dtype() != DType::F16 && is_fused(&x.device()) {
        let [x, weight, a, b] = [x, weight, a, b].map(Tensor::into_dispatch);
        return Tensor::from_dispatch(Dispatch::linear_low_rank(x, weight, a, b, scale as f32));
    }
    composed::linear_low_rank(x, weight, a, b, scale)
}

/// Root-mean-square norm over the last dimension: `x / sqrt(mean(x²) + eps) * weight`
/// (Zhang and Sennrich 2019). `x` is `[N, D]`, `weight` `[D]`.
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    if is_fused(&x.device()) {
        return Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps));
    }
    composed::rms_norm(x, weight, eps)
}

/// Rotary position embedding, half-split (Su et al. 2021, in the layout of Hugging Face's Llama).
/// Element `i < K/2` of a head turns with element `i + K/2` by the position times the pair's frequency.
#[derive(burn::module::Module, Debug)]
pub struct Rotary {
    /// Cosines, each half alike: `[max_seq_len, K]`.
    cos: Tensor<2>,
    /// Sines, each half alike: `[max_seq_len, K]`.
    sin: Tensor<2>,
    /// Signed permutation with `x · turn = (-x[K/2..], x[..K/2])`: `[K, K]`. A product keeps the
    /// gradient dense, where slices would each cost a zero-filled one.
    turn: Tensor<2>,
}

impl Rotary {
    /// Tables for positions below `max_seq_len`, with the frequencies `[K / 2]` of
    /// [`ModelConfig::rope_frequencies`](beckon_shared::config::ModelConfig::rope_frequencies); angles are computed in f64.
    pub fn new(max_seq_len: usize, frequencies: &[f64], device: &Device) -> Self {
        let half = frequencies.len();
        let head_dim = 2 * half;
        let angle = |i: usize| {
            let (position, pair) = (i / head_dim, i % head_dim % half);
            position as f64 * frequencies[pair]
        };
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = (0..max_seq_len * head_dim).map(|i| f(angle(i)) as f32).collect();
            tensor2(values, [max_seq_len, head_dim], device)
        };
        let mut turn = vec![0.0; head_dim * head_dim];
        for i in 0..half {
            turn[(i + half) * head_dim + i] = -1.0;
            turn[i * head_dim + i + half] = 1.0;
        }
        Self { cos: table(f64::cos), sin: table(f64::sin), turn: tensor2(turn, [head_dim, head_dim], device) }
    }
}

/// Causal grouped-query attention with rotary positions: queries and keys are turned by the positions `0..T`,
/// then `softmax(q·kᵀ / sqrt(K) + mask) · v`, query head `h` reading key-value head `h / R`. `q` is
/// `[B·T, H·K]`, `k` and `v` `[B·T, G·K]`; gives `[B·T, H·K]`. T must not exceed the tables of `rotary`. With
/// right padding no row that counts sees a padded key.
pub fn attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, rotary: &Rotary, shape: Shape) -> Tensor<2> {
    if is_fused(&q.device()) {
        let [q, k, v, cos, sin] = [q, k, v, rotary.cos.clone(), rotary.sin.clone()].map(Tensor::into_dispatch);
        return Tensor::from_dispatch(Dispatch::attention(q, k, v, cos, sin, shape));
    }
    composed::attention(q, k, v, rotary, shape)
}

/// Gated feed-forward activation `silu(gate) * up` (Shazeer 2020), elementwise on `[N, F]`.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    if is_fused(&gate.device()) {
        return Tensor::from_dispatch(Dispatch::swiglu(gate.into_dispatch(), up.into_dispatch()));
    }
    composed::swiglu(gate, up)
}

/// Log-probabilities of `targets` `[N]` in nats, `log softmax(hidden · embedᵀ)[target]`, with
/// `hidden` `[N, D]` and the output matrix `[V, D]`, which may be the embedding; gives `[N]`.
pub fn token_logps(hidden: Tensor<2>, embed: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    if is_fused(&hidden.device()) {
        let [hidden, embed] = [hidden, embed].map(Tensor::into_dispatch);
        return Tensor::from_dispatch(Dispatch::token_logps(hidden, embed, targets.into_dispatch()));
    }
    composed::token_logps(hidden, embed, targets)
}

/// Losses of tokens with a teacher's soft targets, `(1 - a) CE + a T² KL(p_T || p_S)` in nats: `targets` `[N]` and the
/// teacher's logits `[N, V]` against the student's `[N, V]`, both softmaxes of the KL at temperature T; gives `[N]`. Method
/// B.1.5 (5), [`beckon_shared::distill::soft_target`]. On every device composed: the whole distribution is needed.
pub fn soft_target_losses(
    student: Tensor<2>,
    teacher: Tensor<2>,
    targets: Tensor<1, Int>,
    weight: f64,
    temperature: f64,
) -> Tensor<1> {
    composed::soft_target_losses(student, teacher, targets, weight, temperature)
}

/// Rows of a matrix `[M, D]` at `picked` `[N]`, which may repeat; gives `[N, D]`.
pub fn rows(matrix: Tensor<2>, picked: Tensor<1, Int>) -> Tensor<2> {
    if is_fused(&matrix.device()) {
        return Tensor::from_dispatch(Dispatch::rows(matrix.into_dispatch(), picked.into_dispatch()));
    }
    composed::rows(matrix, picked)
}

fn tensor2(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[cfg(test)]
mod tests;
