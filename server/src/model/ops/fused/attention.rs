//! Rotary positions and causal grouped-query attention as one operation with its gradient.
//!
//! One task is one row of the batch and one key-value head, with the R query heads that read it: all sums of a
//! gradient stay inside of a task. Queries go through in blocks of [`BLOCK`], so that keys after a block are
//! never multiplied, and only the logarithm of each softmax's denominator is kept for the backward pass, which
//! computes the weights again (the idea of FlashAttention, Dao et al. 2022; a whole row of scores fits the
//! cache here, so there is no running maximum).
//!
//! With P = softmax(S), S = q·kᵀ / sqrt(K) after the rotation: dP = dy·vᵀ, dS = P (dP - Σ P dP),
//! dq = dS·k / sqrt(K), dk = dSᵀ·q / sqrt(K), dv = Pᵀ·dy, and dq, dk turned back by the same angles.
//!
//! Dimension key: `B` batch, `T` tokens, `H` heads, `G` key-value heads, `R` = H/G, `K` head width.

use super::matrix::{Matrix, add_product, product_into};
use super::simd::{exp, exp_in_place, max, sum_of, vectorized};
use rayon::prelude::*;

/// Queries of one block.
const BLOCK: usize = 64;

/// Shape of the operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dims {
    /// B.
    pub batch: usize,
    /// T.
    pub tokens: usize,
    /// H, a multiple of G.
    pub heads: usize,
    /// G.
    pub kv_heads: usize,
    /// K, even.
    pub head_dim: usize,
}

impl Dims {
    /// R.
    fn heads_per_group(self) -> usize {
        self.heads / self.kv_heads
    }

    /// Length of q and of the output.
    fn q_len(self) -> usize {
        self.batch * self.tokens * self.heads * self.head_dim
    }

    /// Length of k and of v.
    fn kv_len(self) -> usize {
        self.batch * self.tokens * self.kv_heads * self.head_dim
    }
}

/// Operands of the forward pass: `q` `[B·T, H·K]`, `k` and `v` `[B·T, G·K]`, not yet rotated; `cos` and `sin`
/// `[at least T, K]`, each half alike.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Cosines of the angles.
    pub cos: &'a [f32],
    /// Sines of the angles.
    pub sin: &'a [f32],
}

impl<'a> Operands<'a> {
    fn check(&self, dims: Dims) {
        assert_eq!(self.q.len(), dims.q_len(), "attention: q");
        assert!(self.k.len() == dims.kv_len() && self.v.len() == dims.kv_len(), "attention: k and v");
        assert!(self.cos.len() >= dims.tokens * dims.head_dim && self.sin.len() == self.cos.len(), "attention: angles");
    }

    /// Head `head` of `n_heads` of batch row `b`, as T rows in a wider matrix.
    fn head(dims: Dims, data: &'a [f32], n_heads: usize, b: usize, head: usize) -> Head<'a> {
        let row_stride = n_heads * dims.head_dim;
        Head { data: &data[b * dims.tokens * row_stride + head * dims.head_dim..], row_stride, width: dims.head_dim }
    }
}

/// T rows of one head.
#[derive(Clone, Copy)]
struct Head<'a> {
    data: &'a [f32],
    row_stride: usize,
    width: usize,
}

impl<'a> Head<'a> {
    fn row(self, t: usize) -> &'a [f32] {
        &self.data[t * self.row_stride..][..self.width]
    }

    fn rows(self, first: usize, n: usize) -> Matrix<'a> {
        Matrix::strided(&self.data[first * self.row_stride..], n, self.width, self.row_stride)
    }
}

/// Splits a `[B·T, G·width]` buffer into the T rows of each (batch row, group): `[B·G][T][width]`.
fn panes(buffer: &mut [f32], dims: Dims, width: usize) -> Vec<Vec<&mut [f32]>> {
    let g = dims.kv_heads;
    let mut panes: Vec<Vec<&mut [f32]>> = (0..dims.batch * g).map(|_| Vec::with_capacity(dims.tokens)).collect();
    for (i, row) in buffer.chunks_exact_mut(width).enumerate() {
        let (token, group) = (i / g, i % g);
        panes[token / dims.tokens * g + group].push(row);
    }
    panes
}

/// `out[t] = scale · x[t]` turned by the angles of position t, `[T, K]`.
fn rotate(out: &mut [f32], x: Head, operands: &Operands, scale: f32) {
    let half = x.width / 2;
    for (t, out) in out.chunks_exact_mut(x.width).enumerate() {
        let (cos, sin) = (&operands.cos[t * x.width..][..half], &operands.sin[t * x.width..][..half]);
        let (a, b) = x.row(t).split_at(half);
        let (out_a, out_b) = out.split_at_mut(half);
        for i in 0..half {
            out_a[i] = (a[i] * cos[i] - b[i] * sin[i]) * scale;
            out_b[i] = (b[i] * cos[i] + a[i] * sin[i]) * scale;
        }
    }
}

/// The gradient's way back through [`rotate`]: the opposite turn, written to `out`'s columns from `column`.
fn rotate_back(out: &mut [&mut [f32]], column: usize, dy: &[f32], operands: &Operands, scale: f32) {
    let width = dy.len() / out.len();
    let half = width / 2;
    for (t, (out, dy)) in out.iter_mut().zip(dy.chunks_exact(width)).enumerate() {
        let (cos, sin) = (&operands.cos[t * width..][..half], &operands.sin[t * width..][..half]);
        let (a, b) = dy.split_at(half);
        let (out_a, out_b) = out[column..column + width].split_at_mut(half);
        for i in 0..half {
            out_a[i] = (a[i] * cos[i] + b[i] * sin[i]) * scale;
            out_b[i] = (b[i] * cos[i] - a[i] * sin[i]) * scale;
        }
    }
}

/// Blocks of queries: first, and how many.
fn blocks(tokens: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..tokens).step_by(BLOCK).map(move |first| (first, BLOCK.min(tokens - first)))
}

/// Output `[B·T, H·K]` and the logarithm of each softmax's denominator `[B·G, R, T]`.
pub fn forward(operands: Operands, dims: Dims) -> (Vec<f32>, Vec<f32>) {
    operands.check(dims);
    let (t, k, r) = (dims.tokens, dims.head_dim, dims.heads_per_group());
    let (mut y, mut log_sums) = (vec![0.0; dims.q_len()], vec![0.0; dims.batch * dims.heads * t]);
    let tasks = panes(&mut y, dims, r * k).into_par_iter().zip(log_sums.par_chunks_mut(r * t)).enumerate();
    tasks.for_each(|(task, (mut y, log_sums))| {
        let (b, g) = (task / dims.kv_heads, task % dims.kv_heads);
        let keys = Operands::head(dims, operands.k, dims.kv_heads, b, g);
        let values = Operands::head(dims, operands.v, dims.kv_heads, b, g);
        let (mut turned_q, mut turned_k) = (vec![0.0; t * k], vec![0.0; t * k]);
        let (mut scores, mut out) = (vec![0.0; BLOCK.min(t) * t], vec![0.0; BLOCK.min(t) * k]);
        vectorized(|| rotate(&mut turned_k, keys, &operands, 1.0));
        for head in 0..r {
            let queries = Operands::head(dims, operands.q, dims.heads, b, g * r + head);
            vectorized(|| rotate(&mut turned_q, queries, &operands, 1.0 / (k as f32).sqrt()));
            for (first, n) in blocks(t) {
                let n_keys = first + n;
                let scores = &mut scores[..n * n_keys];
                let q = Matrix::new(&turned_q[first * k..n_keys * k], n, k);
                product_into(scores, q, Matrix::new(&turned_k[..n_keys * k], n_keys, k).transposed());
                let log_sums = &mut log_sums[head * t + first..][..n];
                vectorized(|| softmax_rows(scores, first, n_keys, log_sums));
                let out = &mut out[..n * k];
                product_into(out, Matrix::new(scores, n, n_keys), values.rows(0, n_keys));
                for (y, out) in y[first..n_keys].iter_mut().zip(out.chunks_exact(k)) {
                    y[head * k..(head + 1) * k].copy_from_slice(out);
                }
            }
        }
    });
    (y, log_sums)
}

/// Causal softmax of a block of scores, in place; row i sees keys up to `first + i`.
#[inline(always)]
fn softmax_rows(scores: &mut [f32], first: usize, n_keys: usize, log_sums: &mut [f32]) {
    for (i, (row, log_sum)) in scores.chunks_exact_mut(n_keys).zip(log_sums).enumerate() {
        let (seen, unseen) = row.split_at_mut(first + i + 1);
        let top = max(seen);
        let sum = exp_in_place(seen, top);
        let scale = 1.0 / sum;
        seen.iter_mut().for_each(|x| *x *= scale);
        unseen.fill(0.0);
        *log_sum = top + sum.ln();
    }
}

/// Scratch of a task's backward pass.
struct Scratch {
    turned_q: Vec<f32>,
    turned_k: Vec<f32>,
    weights: Vec<f32>,
    dscores: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// Gradients by q, k and v from the output's `dy` and what [`forward`] saw and gave.
pub fn backward(dy: &[f32], operands: Operands, log_sums: &[f32], dims: Dims) -> [Vec<f32>; 3] {
    operands.check(dims);
    let (t, k, r) = (dims.tokens, dims.head_dim, dims.heads_per_group());
    let [mut dq, mut dk, mut dv] = [dims.q_len(), dims.kv_len(), dims.kv_len()].map(|n| vec![0.0; n]);
    let outputs = panes(&mut dk, dims, k).into_par_iter().zip(panes(&mut dv, dims, k));
    let tasks = panes(&mut dq, dims, r * k).into_par_iter().zip(outputs).enumerate();
    tasks.for_each(|(task, (mut dq, (mut dk, mut dv)))| {
        let (b, g) = (task / dims.kv_heads, task % dims.kv_heads);
        let values = Operands::head(dims, operands.v, dims.kv_heads, b, g);
        let block = BLOCK.min(t);
        let mut s = Scratch {
            turned_q: vec![0.0; t * k],
            turned_k: vec![0.0; t * k],
            weights: vec![0.0; block * t],
            dscores: vec![0.0; block * t],
            dq: vec![0.0; t * k],
            dk: vec![0.0; t * k],
            dv: vec![0.0; t * k],
        };
        let keys = Operands::head(dims, operands.k, dims.kv_heads, b, g);
        vectorized(|| rotate(&mut s.turned_k, keys, &operands, 1.0));
        let scale = 1.0 / (k as f32).sqrt();
        for head in 0..r {
            let queries = Operands::head(dims, operands.q, dims.heads, b, g * r + head);
            let dy = Operands::head(dims, dy, dims.heads, b, g * r + head);
            let log_sums = &log_sums[(task * r + head) * t..][..t];
            vectorized(|| rotate(&mut s.turned_q, queries, &operands, scale));
            for (first, n) in blocks(t) {
                backward_block(&mut s, dy, values, &log_sums[first..first + n], first);
            }
            vectorized(|| rotate_back(&mut dq, head * k, &s.dq, &operands, scale));
        }
        vectorized(|| rotate_back(&mut dk, 0, &s.dk, &operands, 1.0));
        dv.iter_mut().zip(s.dv.chunks_exact(k)).for_each(|(out, row)| out.copy_from_slice(row));
    });
    [dq, dk, dv]
}

/// One block of queries of one head, from token `first`: sets its rows of `dq`, adds to `dk` and `dv`.
fn backward_block(s: &mut Scratch, dy: Head, values: Head, log_sums: &[f32], first: usize) {
    let (n, k) = (log_sums.len(), values.width);
    let n_keys = first + n;
    let (weights, dscores) = (&mut s.weights[..n * n_keys], &mut s.dscores[..n * n_keys]);
    let q = Matrix::new(&s.turned_q[first * k..n_keys * k], n, k);
    let keys = Matrix::new(&s.turned_k[..n_keys * k], n_keys, k);
    let dy = dy.rows(first, n);
    product_into(weights, q, keys.transposed());
    product_into(dscores, dy, values.rows(0, n_keys).transposed());
    vectorized(|| {
        let rows = weights.chunks_exact_mut(n_keys).zip(dscores.chunks_exact_mut(n_keys)).zip(log_sums);
        for (i, ((weights, dscores), log_sum)) in rows.enumerate() {
            let (seen, unseen) = weights.split_at_mut(first + i + 1);
            seen.iter_mut().for_each(|x| *x = exp(*x - log_sum));
            unseen.fill(0.0);
            let (dseen, dunseen) = dscores.split_at_mut(first + i + 1);
            let pull = sum_of(seen, dseen, |p, dp| p * dp);
            dseen.iter_mut().zip(&*seen).for_each(|(d, p)| *d = p * (*d - pull));
            dunseen.fill(0.0);
        }
    });
    let (weights, dscores) = (Matrix::new(weights, n, n_keys), Matrix::new(dscores, n, n_keys));
    product_into(&mut s.dq[first * k..n_keys * k], dscores, keys);
    add_product(&mut s.dk[..n_keys * k], dscores.transposed(), q);
    add_product(&mut s.dv[..n_keys * k], weights.transposed(), dy);
}
