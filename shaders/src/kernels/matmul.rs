//! Product with a weight matrix in any format, optionally added to what is there (the residual).

use crate::kernel::{Access, KernelSpec};
use crate::math::{LANES, fold};
use crate::weight::{WeightFormat, WeightView};
use bytemuck::{Pod, Zeroable};

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "matmul",
    source: concat!(include_str!("dequantize.wgsl"), include_str!("matmul.wgsl")),
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite], // quants, scales, x, out
    params_bytes: size_of::<MatmulParams>(),
};

/// Values of the override `ROWS`: rows a workgroup takes.
pub const ROWS: [u32; 3] = [1, 4, 8];

/// Outputs of a workgroup.
const OUTPUTS: u32 = 32;

/// Index in [`ROWS`] of the variant for `n_rows` rows.
pub fn variant_for(n_rows: usize) -> usize {
    ROWS.iter().position(|rows| n_rows <= *rows as usize).unwrap_or(ROWS.len() - 1)
}

/// Parameters of [`matmul`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct MatmulParams {
    /// R.
    pub n_rows: u32,
    /// C, a multiple of 32.
    pub cols: u32,
    /// N.
    pub n_outputs: u32,
    /// Distance of rows in `out`.
    pub out_stride: u32,
    /// First output's place in a row of `out`.
    pub out_offset: u32,
    /// 1 adds to `out`, 0 replaces.
    pub accumulate: u32,
}

const _: () = assert!(size_of::<MatmulParams>() == 24);

impl MatmulParams {
    /// Extent of the dispatch of the variant with `rows` rows a workgroup.
    pub fn workgroups(&self, rows: u32) -> [u32; 2] {
        [self.n_outputs.div_ceil(OUTPUTS), self.n_rows.div_ceil(rows)]
    }
}

/// Rows of the matrix that the twin decodes together.
const TILE: usize = 4;

/// `out[r, out_offset + n] (+)= sum_c x[r, c] * w[n, c]`; x `[R, C]`, w `[N, C]`, out `[R, out_stride]`.
///
/// Each weight is decoded once for all rows. A product is summed in [`LANES`] partial sums whatever R
/// is, so a row's result does not depend on the rows beside it.
///
/// # Panics
/// If a slice does not have its shape.
pub fn matmul(params: &MatmulParams, w: &WeightView, x: &[f32], out: &mut [f32]) {
    let (r, c) = (params.n_rows as usize, params.cols as usize);
    w.assert_whole();
    assert_eq!((w.rows, w.cols), (params.n_outputs as usize, c), "weight matrix");
    let x = &x[..r * c];
    let mut decoded = vec![0.0; if w.format == WeightFormat::F32 { 0 } else { TILE * c }];
    for first in (0..w.rows).step_by(TILE) {
        // rows past the end repeat the last one and are not stored
        let row_of = |i: usize| (first + i).min(w.rows - 1);
        let tile: [&[f32]; TILE] = if w.format == WeightFormat::F32 {
            let values: &[f32] = bytemuck::cast_slice(w.quants);
            std::array::from_fn(|i| &values[row_of(i) * c..][..c])
        } else {
            for (i, row) in decoded.chunks_exact_mut(c).enumerate() {
                w.decode_row(row_of(i), row);
            }
            std::array::from_fn(|i| &decoded[i * c..][..c])
        };
        let mut store = |row: usize, sums: [f32; TILE]| {
            let at = row * params.out_stride as usize + params.out_offset as usize + first;
            let n = TILE.min(w.rows - first);
            for (out, sum) in out[at..at + n].iter_mut().zip(sums) {
                *out = if params.accumulate == 1 { *out + sum } else { sum };
            }
        };
        let mut pairs = x.chunks_exact(2 * c);
        for (i, pair) in pairs.by_ref().enumerate() {
            let (a, b) = pair.split_at(c);
            let [a, b] = products([a, b], tile);
            store(2 * i, a);
            store(2 * i + 1, b);
        }
        if !pairs.remainder().is_empty() {
            let [last] = products([pairs.remainder()], tile);
            store(r - 1, last);
        }
    }
}

/// Products of R rows with a tile of weights, all of one length.
#[inline(always)]
fn products<const R: usize>(x: [&[f32]; R], w: [&[f32]; TILE]) -> [[f32; TILE]; R] {
    let n = w[0].len() / LANES;
    let x = x.map(|x| &x.as_chunks::<LANES>().0[..n]);
    let w = w.map(|w| &w.as_chunks::<LANES>().0[..n]);
    let mut sums = [[[0.0f32; LANES]; TILE]; R];
    for at in 0..n {
        for (sums, x) in sums.iter_mut().zip(&x) {
            for (sums, w) in sums.iter_mut().zip(&w) {
                for lane in 0..LANES {
                    sums[lane] += x[at][lane] * w[at][lane];
                }
            }
        }
    }
    sums.map(|sums| sums.map(|s| fold(&s)))
}
