//! Gated activation y = silu(gate) up and its gradient, in one pass each.
//!
//! With s = sigmoid(gate): dgate = dy up s (1 + gate (1 - s)), dup = dy gate s.

use super::simd::{sigmoid, vectorized};
use rayon::prelude::*;

/// Elements of one task.
const ELEMENTS: usize = 1 << 14;

/// `gate` and `up` of one length; gives y.
pub fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; gate.len()];
    let tasks = y.par_chunks_mut(ELEMENTS).zip(gate.par_chunks(ELEMENTS)).zip(up.par_chunks(ELEMENTS));
    tasks.for_each(|((y, gate), up)| {
        vectorized(|| {
            for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                *y = gate * sigmoid(*gate) * up;
            }
        });
    });
    y
}

/// Gradients by gate and up.
pub fn backward(dy: &[f32], gate: &[f32], up: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut dgate, mut dup) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
    let inputs = dy.par_chunks(ELEMENTS).zip(gate.par_chunks(ELEMENTS)).zip(up.par_chunks(ELEMENTS));
    let tasks = dgate.par_chunks_mut(ELEMENTS).zip(dup.par_chunks_mut(ELEMENTS)).zip(inputs);
    tasks.for_each(|((dgate, dup), ((dy, gate), up))| {
        vectorized(|| {
            let outputs = dgate.iter_mut().zip(dup.iter_mut());
            for ((dgate, dup), ((dy, gate), up)) in outputs.zip(dy.iter().zip(gate).zip(up)) {
                let s = sigmoid(*gate);
                *dgate = dy * up * s * (1.0 + gate * (1.0 - s));
                *dup = dy * gate * s;
            }
        });
    });
    (dgate, dup)
}
