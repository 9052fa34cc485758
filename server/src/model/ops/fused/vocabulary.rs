//! Log-probabilities of tokens without a second copy of the logits.
//!
//! With logits `z = hidden · embedᵀ`: `logp = z[target] - log Σ exp z`. The gradient by a row's logits is
//! `g (onehot(target) - softmax z)`; the forward pass leaves `exp(z - max z)` in the place of z, so the backward
//! pass needs one scaling of it and two products.

use super::matrix::{Matrix, product};
use super::simd::{exp_in_place, max, vectorized};
use rayon::prelude::*;

/// Rows whose logits are held at a time where no gradient is asked for.
const ROWS: usize = 256;

/// What the backward pass needs.
#[derive(Debug, Clone)]
pub struct Softmax {
    /// exp(z - max z), `[N, V]`.
    exps: Vec<f32>,
    /// 1 / sum of a row's exps, `[N]`.
    scale: Vec<f32>,
}

/// Log-probabilities `[N]` of `targets` `[N]`, with `hidden` `[N, D]` and `embed` `[V, D]`; the softmax only
/// where it is to be kept.
///
/// # Panics
/// If a target is outside of the vocabulary.
pub fn forward(hidden: &[f32], embed: &[f32], d: usize, targets: &[u32], keep: bool) -> (Vec<f32>, Option<Softmax>) {
    let embed = Matrix::new(embed, embed.len() / d, d).transposed();
    if keep {
        let mut exps = product(Matrix::new(hidden, targets.len(), d), embed); // [N, V]
        let (logps, scale) = normalize(&mut exps, targets).into_iter().unzip();
        return (logps, Some(Softmax { exps, scale }));
    }
    let blocks = hidden.chunks(ROWS * d).zip(targets.chunks(ROWS));
    let logps = blocks.flat_map(|(hidden, targets)| {
        let mut logits = product(Matrix::new(hidden, targets.len(), d), embed); // [ROWS, V]
        normalize(&mut logits, targets).into_iter().map(|(logp, _)| logp)
    });
    (logps.collect(), None)
}

/// Turns rows of logits into exp(z - max z); gives each row's log-probability and 1 / sum.
fn normalize(logits: &mut [f32], targets: &[u32]) -> Vec<(f32, f32)> {
    let v = logits.len() / targets.len();
    let rows = logits.par_chunks_exact_mut(v).zip(targets).with_min_len(8);
    rows.map(|(row, target)| {
        let logit = row[*target as usize];
        let (top, sum) = vectorized(|| {
            let top = max(row);
            (top, exp_in_place(row, top))
        });
        (logit - top - sum.ln(), 1.0 / sum)
    })
    .collect()
}

/// Gradients by hidden `[N, D]` and embed `[V, D]`, each only where asked for, from `dlogps` `[N]`.
pub fn backward(
    dlogps: &[f32],
    softmax: Softmax,
    hidden: &[f32],
    embed: &[f32],
    targets: &[u32],
    wants: [bool; 2],
) -> [Option<Vec<f32>>; 2] {
    let Softmax { exps: mut dz, scale } = softmax;
    let n = targets.len();
    let (v, d) = (dz.len() / n, hidden.len() / n);
    let rows = dz.par_chunks_exact_mut(v).zip(targets).zip(dlogps.par_iter().zip(&scale)).with_min_len(8);
    rows.for_each(|((row, target), (g, scale))| {
        vectorized(|| {
            let factor = -g * scale;
            row.iter_mut().for_each(|x| *x *= factor);
        });
        row[*target as usize] += g;
    });
    let dz = Matrix::new(&dz, n, v);
    [
        wants[0].then(|| product(dz, Matrix::new(embed, v, d))),
        wants[1].then(|| product(dz.transposed(), Matrix::new(hidden, n, d))),
    ]
}
