//! The mathematics of a Llama block on Burn tensors, each with its gradient by autodiff.
//!
//! Dimension key: `B` batch, `T` tokens, `D` width, `H` heads, `G` key-value heads, `R` = H/G,
//! `K` head width, `V` vocabulary, `F` feed-forward width, `N` rows. All values f32.

use burn::tensor::{Int, Tensor, activation, module};

/// Added to the score of a key that a query must not see. Finite, so that a row never becomes NaN.
const MASKED: f32 = -1e30;

/// Root-mean-square norm over the last dimension: `x / sqrt(mean(x²) + eps) * weight`
/// (Zhang and Sennrich 2019). `x` is `[N, D]`, `weight` `[D]`.
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    let mean_square = x.clone().square().mean_dim(1); // [N, 1]
    x * mean_square.add_scalar(eps).sqrt().recip() * weight.unsqueeze()
}

/// Rotary position embedding, half-split (Su et al. 2021, in the layout of Hugging Face's Llama).
/// Element `i < K/2` of a head turns with element `i + K/2` by `position * base^(-2i/K)`.
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
    /// Tables for positions below `max_seq_len`; angles are computed in f64.
    pub fn new(max_seq_len: usize, head_dim: usize, base: f32, device: &burn::tensor::Device) -> Self {
        let half = head_dim / 2;
        let angle = |i: usize| {
            let (position, pair) = (i / head_dim, i % head_dim % half);
            position as f64 * f64::from(base).powf(-2.0 * pair as f64 / head_dim as f64)
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

    /// Turns `x` `[B, T, n, K]` by the positions `0..T`. T must not exceed `max_seq_len`.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, t, n, k] = x.dims();
        let row = |table: &Tensor<2>| table.clone().slice([0..t]).reshape([1, t, 1, k]);
        let turned = x.clone().reshape([b * t * n, k]).matmul(self.turn.clone()).reshape([b, t, n, k]);
        x * row(&self.cos) + turned * row(&self.sin)
    }
}

/// Scores added to hide later tokens: 0 on and below the diagonal, a large negative number above.
/// `[max_seq_len, max_seq_len]`.
pub fn causal_mask(max_seq_len: usize, device: &burn::tensor::Device) -> Tensor<2> {
    let n = max_seq_len;
    let values: Vec<f32> = (0..n * n).map(|i| if i % n > i / n { MASKED } else { 0.0 }).collect();
    tensor2(values, [n, n], device)
}

/// Causal grouped-query attention: `softmax(q·kᵀ / sqrt(K) + mask) · v`, query head `h` reading
/// key-value head `h / R`. `q` `[B, T, H, K]`, `k` and `v` `[B, T, G, K]`, `mask` at least
/// `[T, T]`; gives `[B, T, H·K]`. With right padding no row that counts sees a padded key.
pub fn causal_attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: &Tensor<2>) -> Tensor<3> {
    let [b, t, h, d] = q.dims();
    let g = k.dims()[2];
    let r = h / g;
    let scale = 1.0 / (d as f64).sqrt();
    let q = q.mul_scalar(scale).swap_dims(1, 2).reshape([b, g, r * t, d]); // [B, G, R·T, K]
    let k = k.permute([0, 2, 3, 1]); // [B, G, K, T]
    let v = v.swap_dims(1, 2); // [B, G, T, K]
    let mask = mask.clone().slice([0..t, 0..t]).reshape([1, 1, t, t]);
    let scores = q.matmul(k).reshape([b, h, t, t]) + mask; // [B, H, T, T]
    let weights = activation::softmax(scores, 3).reshape([b, g, r * t, t]);
    weights.matmul(v).reshape([b, h, t, d]).swap_dims(1, 2).reshape([b, t, h * d]) // [B, T, H·K]
}

/// Gated feed-forward activation `silu(gate) * up` (Shazeer 2020), elementwise on `[N, F]`.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    activation::silu(gate) * up
}

/// Log-probabilities of `targets` `[N]` in nats, `log softmax(hidden · embedᵀ)[target]`, with
/// `hidden` `[N, D]` and the tied embedding `[V, D]`; gives `[N]`.
pub fn token_logps(hidden: Tensor<2>, embed: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [n, _] = hidden.dims();
    let logits = hidden.matmul(embed.transpose()); // [N, V]
    activation::log_softmax(logits, 1).gather(1, targets.reshape([n, 1])).reshape([n])
}

/// Rows of `embed` `[V, D]` for `tokens` `[B, T]`; gives `[B·T, D]`.
pub fn embed_tokens(embed: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<2> {
    let [b, t] = tokens.dims();
    let d = embed.dims()[1];
    module::embedding(embed, tokens).reshape([b * t, d])
}

fn tensor2(values: Vec<f32>, shape: [usize; 2], device: &burn::tensor::Device) -> Tensor<2> {
    Tensor::from_data(burn::tensor::TensorData::new(values, shape), device)
}
