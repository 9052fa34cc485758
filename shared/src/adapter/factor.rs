//! Thin factors of what a matrix changed by. Dimension key: `N` outputs, `C` inputs, `K` rank.

use crate::engine::LowRank;
use crate::tensor::DenseTensor;

/// What may remain, as a share of the largest weight: some tens of roundings of an f32, far below a quantization step.
const RELATIVE_TOLERANCE: f32 = 1e-5;

/// Factors with `tuned = base + b·a`, of the least rank that leaves no more than rounding; `None` above `max_rank`, or where a
/// value is not finite.
///
/// Gram-Schmidt on the rows of the difference, largest first: exact for a difference that is a sum of thin products,
/// `O(N C K)`.
pub fn low_rank(base: &DenseTensor, tuned: &DenseTensor, max_rank: usize) -> Option<LowRank> {
    let [n, c] = base.shape[..] else { return None };
    let mut rest: Vec<f32> = tuned.data.iter().zip(&base.data).map(|(t, b)| t - b).collect(); // [N, C]
    let largest = tuned.data.iter().fold(0.0_f32, |max, w| max.max(w.abs()));
    let (mut a, mut columns) = (Vec::new(), Vec::new());
    while !rest.iter().all(|r| r.abs() <= RELATIVE_TOLERANCE * largest) {
        if columns.len() == max_rank {
            return None;
        }
        let norm = |row: &[f32]| row.iter().map(|r| f64::from(*r).powi(2)).sum::<f64>();
        let norms: Vec<f64> = rest.chunks_exact(c).map(norm).collect();
        let pivot = (0..n).max_by(|i, j| norms[*i].total_cmp(&norms[*j]))?;
        let length = norms[pivot].sqrt();
        if !(length > 0.0 && length.is_finite()) {
            return None;
        }
        let direction: Vec<f32> =
            rest[pivot * c..(pivot + 1) * c].iter().map(|r| (f64::from(*r) / length) as f32).collect(); // [C]
        let mut column = Vec::with_capacity(n); // [N]
        for row in rest.chunks_exact_mut(c) {
            let share = row.iter().zip(&direction).map(|(r, d)| f64::from(r * d)).sum::<f64>() as f32;
            row.iter_mut().zip(&direction).for_each(|(r, d)| *r -= share * d);
            column.push(share);
        }
        a.extend(direction);
        columns.push(column);
    }
    // a change within rounding still gets a path, so that a name stands for "changed"
    if columns.is_empty() {
        a.resize(c, 0.0);
        columns.push(vec![0.0; n]);
    }
    let rank = columns.len();
    let b = (0..n).flat_map(|i| columns.iter().map(move |column| column[i])).collect(); // [N, K]
    Some(LowRank { a: DenseTensor::new(vec![rank, c], a), b: DenseTensor::new(vec![n, rank], b), scale: 1.0 })
}

/// `w += scale·b·a`.
pub fn add_product(w: &mut DenseTensor, LowRank { a, b, scale }: &LowRank) {
    let (rank, c) = (a.shape[0], a.shape[1]);
    for (row, factors) in w.data.chunks_exact_mut(c).zip(b.data.chunks_exact(rank)) {
        for (factor, direction) in factors.iter().zip(a.data.chunks_exact(c)) {
            row.iter_mut().zip(direction).for_each(|(w, a)| *w += scale * factor * a);
        }
    }
}
