//! Product with a weight matrix in any format, optionally added to what is there (the residual).

use super::product::Tiling;
use crate::kernel::{Access, KernelSpec};
use crate::math::dot_of_blocks;
use crate::source::text;
use crate::weight::{WeightFormat, WeightView};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "matmul",
    source: text!("dequantize.wgsl", "lanes.wgsl", "product.wgsl", "matmul.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite], // quants, scales, x, out
    params_bytes: size_of::<MatmulParams>(),
};

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
    /// Extent of the dispatch.
    pub fn workgroups(&self, tiling: &Tiling) -> [u32; 2] {
        tiling.workgroups(self.n_rows, self.n_outputs, tiling.outputs)
    }
}

/// `out[r, out_offset + n] (+)= sum_c x[r, c] * w[n, c]`; x `[R, C]`, w `[N, C]`, out `[R, out_stride]`.
///
/// Each weight is decoded once for all rows. The order of a sum does not depend on R or the processor, so a row's result depends neither on the rows beside it nor on the machine.
///
/// # Panics
/// If a slice does not have its shape.
pub fn matmul(params: &MatmulParams, w: &WeightView, x: &[f32], out: &mut [f32]) {
    let (r, c) = (params.n_rows as usize, params.cols as usize);
    assert_eq!((w.rows, w.cols), (params.n_outputs as usize, c), "weight matrix");
    let (stride, offset, accumulate) = (params.out_stride as usize, params.out_offset as usize, params.accumulate == 1);
    products(w, 0..w.rows, &x[..r * c], |row, n, sum| {
        let out = &mut out[row * stride + offset + n];
        *out = if accumulate { *out + sum } else { sum };
    });
}

/// The products of some outputs: x `[R, C]`, out `[outputs, R]`; for a caller that cuts the outputs among threads. The bits are
/// those of [`matmul`].
///
/// # Panics
/// As [`matmul`], or if the matrix does not have these outputs.
pub fn matmul_of(w: &WeightView, outputs: Range<usize>, x: &[f32], out: &mut [f32]) {
    let (first, n_rows) = (outputs.start, x.len() / w.cols);
    assert!(first <= outputs.end && outputs.end <= w.rows, "outputs {outputs:?} of {}", w.rows);
    assert_eq!((x.len(), out.len()), (n_rows * w.cols, outputs.len() * n_rows), "rows and products");
    products(w, outputs, x, |row, n, sum| out[(n - first) * n_rows + row] = sum);
}

/// Calls `store` with row, output and product of all rows of x with some outputs of w.
#[inline(always)]
fn products(w: &WeightView, outputs: Range<usize>, x: &[f32], store: impl FnMut(usize, usize, f32)) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the one feature that the function asks for
        #[allow(unsafe_code)]
        return unsafe { products_avx2(w, outputs, x, store) };
    }
    products_in_order(w, outputs, x, store);
}

/// The same code compiled for 256-bit registers; without fused multiply-add the bits are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn products_avx2(w: &WeightView, outputs: Range<usize>, x: &[f32], store: impl FnMut(usize, usize, f32)) {
    products_in_order(w, outputs, x, store);
}

#[inline(always)]
fn products_in_order(w: &WeightView, outputs: Range<usize>, x: &[f32], mut store: impl FnMut(usize, usize, f32)) {
    w.assert_whole();
    let c = w.cols;
    let mut decoded = vec![0.0; c];
    for n in outputs {
        let row: &[f32] = if w.format == WeightFormat::F32 {
            bytemuck::cast_slice(&w.quants[n * c..(n + 1) * c])
        } else {
            w.decode_row(n, &mut decoded);
            &decoded
        };
        for (i, x) in x.chunks_exact(c).enumerate() {
            store(i, n, dot_of_blocks(x, row));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_does_not_depend_on_its_neighbours_or_the_processor() {
        let value = |i: usize| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0;
        let (r, c, n) = (5, 96, 7);
        let x: Vec<f32> = (0..r * c).map(value).collect();
        let weights: Vec<f32> = (0..n * c).map(|i| value(i + 31)).collect();
        let w = WeightView::from_f32(n, c, &weights);
        let n_outputs = n as u32;
        let params =
            MatmulParams { n_rows: r as u32, cols: 96, n_outputs, out_stride: 7, out_offset: 0, accumulate: 0 };
        let mut together = vec![0.0; r * n];
        matmul(&params, &w, &x, &mut together);
        for (x, together) in x.chunks_exact(c).zip(together.chunks_exact(n)) {
            let mut alone = vec![0.0; n];
            products_in_order(&w, 0..n, x, |_, n, product| alone[n] = product);
            assert_eq!(alone, together);
            let exact: Vec<f64> = weights
                .chunks_exact(c)
                .map(|w| w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum())
                .collect();
            let got: Vec<f64> = alone.iter().map(|v| f64::from(*v)).collect();
            crate::assert_all_close("product", &got, &exact, 1e-5);
        }
    }

    #[test]
    fn a_part_of_the_outputs_has_the_bits_of_the_whole() {
        // one block a row, so that a word of Q8 scales belongs to two outputs, and a part may begin in its middle
        let (r, c, n) = (3, 32, 7);
        let x: Vec<f32> = (0..r * c).map(|i| (i * 7919 % 2003) as f32 / 1001.0 - 1.0).collect();
        for format in WeightFormat::ALL {
            let (n_quants, n_scales) = format.words(n * c);
            let quants: Vec<u32> = match format {
                WeightFormat::F32 => x.iter().cycle().skip(5).take(n_quants).map(|v| v.to_bits()).collect(),
                _ => (0..n_quants as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect(),
            };
            let scales: Vec<u32> = (0..n_scales as u32).map(|i| 0xb000_2400 + i).collect();
            let w = WeightView { format, rows: n, cols: c, quants: &quants, scales: &scales };
            let params =
                MatmulParams { n_rows: 3, cols: 32, n_outputs: 7, out_stride: 7, out_offset: 0, accumulate: 0 };
            let mut whole = vec![0.0; r * n];
            matmul(&params, &w, &x, &mut whole);
            for outputs in [0..n, 0..1, 1..4, 3..7] {
                let mut part = vec![0.0; outputs.len() * r];
                matmul_of(&w, outputs.clone(), &x, &mut part);
                for (n_part, of_output) in outputs.zip(part.chunks_exact(r)) {
                    let want: Vec<f32> = whole.iter().skip(n_part).step_by(n).copied().collect();
                    assert_eq!(of_output, want, "{format:?}, output {n_part}");
                }
            }
        }
    }
}
