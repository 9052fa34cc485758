//! Product with a weight matrix in any format, optionally added to what is there (the residual).

use super::product::Tiling;
use crate::kernel::{Access, KernelSpec};
use crate::math::dot_of_blocks;
use crate::source::text;
use crate::weight::{WeightFormat, WeightView};
use bytemuck::{Pod, Zeroable};

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
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the one feature that the function asks for
        #[allow(unsafe_code)]
        return unsafe { matmul_avx2(params, w, x, out) };
    }
    matmul_in_order(params, w, x, out);
}

/// The same code compiled for 256-bit registers; without fused multiply-add the bits are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn matmul_avx2(params: &MatmulParams, w: &WeightView, x: &[f32], out: &mut [f32]) {
    matmul_in_order(params, w, x, out);
}

#[inline(always)]
fn matmul_in_order(params: &MatmulParams, w: &WeightView, x: &[f32], out: &mut [f32]) {
    let (r, c) = (params.n_rows as usize, params.cols as usize);
    w.assert_whole();
    assert_eq!((w.rows, w.cols), (params.n_outputs as usize, c), "weight matrix");
    let x = &x[..r * c];
    let mut decoded = vec![0.0; c];
    for n in 0..w.rows {
        let at = params.out_offset as usize + n;
        let mut store = |row: usize, sum: f32| {
            let out = &mut out[row * params.out_stride as usize + at];
            *out = if params.accumulate == 1 { *out + sum } else { sum };
        };
        let row: &[f32] = if w.format == WeightFormat::F32 {
            bytemuck::cast_slice(&w.quants[n * c..(n + 1) * c])
        } else {
            w.decode_row(n, &mut decoded);
            &decoded
        };
        for (i, x) in x.chunks_exact(c).enumerate() {
            store(i, dot_of_blocks(x, row));
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
        let one = MatmulParams { n_rows: 1, cols: 96, n_outputs, out_stride: 7, out_offset: 0, accumulate: 0 };
        let mut together = vec![0.0; r * n];
        matmul(&MatmulParams { n_rows: r as u32, ..one }, &w, &x, &mut together);
        for (x, together) in x.chunks_exact(c).zip(together.chunks_exact(n)) {
            let mut alone = vec![0.0; n];
            matmul_in_order(&one, &w, x, &mut alone);
            assert_eq!(alone, together);
            let exact: Vec<f64> = weights
                .chunks_exact(c)
                .map(|w| w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum())
                .collect();
            let got: Vec<f64> = alone.iter().map(|v| f64::from(*v)).collect();
            crate::assert_all_close("product", &got, &exact, 1e-5);
        }
    }
}
