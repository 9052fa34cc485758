//! Root-mean-square norm and its gradient, a row at a time.
//!
//! y = x s w with s = 1 / sqrt(mean(x²) + eps). With g = dy w: dx = s g - x s³ mean(g x), dw = Σ over rows of
//! dy x s. The rows of a weight's gradient are summed in blocks of [`ROWS`], and the blocks in order.

use super::simd::{sum_of, vectorized};
use rayon::prelude::*;

/// Rows of one task.
const ROWS: usize = 64;

/// `x` `[N, D]`, `weight` `[D]`; gives y `[N, D]` and s `[N]`.
pub fn forward(x: &[f32], weight: &[f32], eps: f64) -> (Vec<f32>, Vec<f32>) {
    let d = weight.len();
    let (mut y, mut scale) = (vec![0.0; x.len()], vec![0.0; x.len() / d]);
    let tasks = y.par_chunks_mut(ROWS * d).zip(scale.par_chunks_mut(ROWS)).zip(x.par_chunks(ROWS * d));
    tasks.for_each(|((y, scale), x)| {
        vectorized(|| {
            for ((y, scale), x) in y.chunks_exact_mut(d).zip(scale).zip(x.chunks_exact(d)) {
                let mean_square = sum_of(x, x, |a, b| a * b) / d as f32;
                let s = 1.0 / (mean_square + eps as f32).sqrt();
                *scale = s;
                for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                    *y = x * s * w;
                }
            }
        });
    });
    (y, scale)
}

/// Gradients by x `[N, D]` and by the weight `[D]`, from the output's `dy` and what [`forward`] saw and gave.
pub fn backward(dy: &[f32], x: &[f32], weight: &[f32], scale: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let d = weight.len();
    let mut dx = vec![0.0; x.len()];
    let rows = dy.par_chunks(ROWS * d).zip(x.par_chunks(ROWS * d)).zip(scale.par_chunks(ROWS));
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(ROWS * d)
        .zip(rows)
        .map(|(dx, ((dy, x), scale))| {
            let mut dw = vec![0.0; d];
            vectorized(|| {
                for ((dx, dy), (x, s)) in
                    dx.chunks_exact_mut(d).zip(dy.chunks_exact(d)).zip(x.chunks_exact(d).zip(scale))
                {
                    // s w dy is kept in dx for the second pass
                    for ((dx, dy), w) in dx.iter_mut().zip(dy).zip(weight) {
                        *dx = dy * w * s;
                    }
                    let pull = sum_of(dx, x, |a, b| a * b) * s * s / d as f32;
                    for (((dx, dw), dy), x) in dx.iter_mut().zip(&mut dw).zip(dy).zip(x) {
                        *dx -= x * pull;
                        *dw += dy * x * s;
                    }
                }
            });
            dw
        })
        .collect();
    let mut dw = vec![0.0; d];
    for block in partial {
        dw.iter_mut().zip(block).for_each(|(sum, x)| *sum += x);
    }
    (dx, dw)
}
