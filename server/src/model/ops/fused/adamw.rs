//! One AdamW step over a parameter in one pass over memory, and the squared norm of a gradient.

use super::simd::{sum_of, vectorized};
use rayon::prelude::*;

/// Elements of one task.
const ELEMENTS: usize = 1 << 14;

/// The scalars of one step, see [`crate::model::optim`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Factor on the gradient (clipping).
    pub clip: f32,
    /// Decay of the first moment.
    pub beta_1: f32,
    /// Decay of the second moment.
    pub beta_2: f32,
    /// Learning rate with both bias corrections in it.
    pub rate: f32,
    /// Epsilon with the second bias correction in it.
    pub epsilon: f32,
    /// Factor on the parameter (weight decay).
    pub keep: f32,
}

/// `m ← β₁m + (1-β₁)g`, `v ← β₂v + (1-β₂)g²`, `p ← keep p - rate m / (sqrt(v) + ε)` with `g` clipped; all of
/// one length.
pub fn step(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], step: Step) {
    let Step { clip, beta_1, beta_2, rate, epsilon, keep } = step;
    let moments = m.par_chunks_mut(ELEMENTS).zip(v.par_chunks_mut(ELEMENTS));
    let tasks = p.par_chunks_mut(ELEMENTS).zip(g.par_chunks(ELEMENTS)).zip(moments);
    tasks.for_each(|((p, g), (m, v))| {
        vectorized(|| {
            for ((p, g), (m, v)) in p.iter_mut().zip(g).zip(m.iter_mut().zip(v)) {
                let g = g * clip;
                *m = beta_1 * *m + (1.0 - beta_1) * g;
                *v = beta_2 * *v + (1.0 - beta_2) * g * g;
                *p = keep * *p - rate * *m / (v.sqrt() + epsilon);
            }
        });
    });
}

/// Sum of squares, in f64 over blocks of [`ELEMENTS`] in order.
pub fn sum_squares(g: &[f32]) -> f64 {
    let blocks: Vec<f64> =
        g.par_chunks(ELEMENTS).map(|g| f64::from(vectorized(|| sum_of(g, g, |a, b| a * b)))).collect();
    blocks.iter().sum()
}
