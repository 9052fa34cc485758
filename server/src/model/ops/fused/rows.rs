//! Rows picked from a matrix (an embedding, hidden states) and the gradient's way back to them.

use rayon::prelude::*;

/// Rows `picked` of a matrix with `d` columns, in that order.
///
/// # Panics
/// If an index is outside of the matrix.
pub fn forward(matrix: &[f32], d: usize, picked: &[u32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(picked.len() * d);
    for &row in picked {
        let start = row as usize * d;
        out.extend_from_slice(&matrix[start..start + d]);
    }
    out
}

/// Gradient by the matrix of `n_rows` rows: each row's `dy` added at its place, repeated rows in order.
pub fn backward(dy: &[f32], d: usize, picked: &[u32], n_rows: usize) -> Vec<f32> {
    let mut out = vec![0.0; n_rows * d];
    // each task owns a range of rows, so that every sum has one order
    let rows_per_task = n_rows.div_ceil(rayon::current_num_threads()).max(1);
    out.par_chunks_mut(rows_per_task * d).enumerate().for_each(|(task, out)| {
        let first = task * rows_per_task;
        let n = out.len() / d;
        for (&row, dy) in picked.iter().zip(dy.chunks_exact(d)) {
            let Some(at) = (row as usize).checked_sub(first).filter(|at| *at < n) else { continue };
            out[at * d..(at + 1) * d].iter_mut().zip(dy).for_each(|(sum, x)| *sum += x);
        }
    });
    out
}
