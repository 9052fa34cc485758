//! RMSNorm and the product behind it in one kernel: queries, keys and values of a layer.

use super::matmul::{MatmulParams, matmul};
use super::product::Tiling;
use super::rms_norm::{RmsNormParams, rms_norm};
use crate::kernel::{Access, KernelSpec};
use crate::source::text;
use crate::weight::WeightView;
use bytemuck::{Pod, Zeroable};

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "norm_matmul",
    source: text!("dequantize.wgsl", "lanes.wgsl", "product.wgsl", "norm_matmul.wgsl"),
    // quants, scales, x, gain, out
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<NormMatmulParams>(),
};

/// Parameters of [`norm_matmul`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct NormMatmulParams {
    /// R.
    pub n_rows: u32,
    /// C, a multiple of 32.
    pub cols: u32,
    /// N.
    pub n_outputs: u32,
    /// Added to the mean square.
    pub eps: f32,
}

const _: () = assert!(size_of::<NormMatmulParams>() == 16);

impl NormMatmulParams {
    /// Extent of the dispatch.
    pub fn workgroups(&self, tiling: &Tiling) -> [u32; 2] {
        tiling.workgroups(self.n_rows, self.n_outputs, tiling.outputs)
    }
}

/// `out[r, n] = sum_c norm(x[r])[c] * w[n, c]`; x `[R, C]`, gain `[C]`, w `[N, C]`, out `[R, N]`.
///
/// [`rms_norm`], then [`matmul`].
///
/// # Panics
/// If a slice does not have its shape.
pub fn norm_matmul(params: &NormMatmulParams, w: &WeightView, x: &[f32], gain: &[f32], out: &mut [f32]) {
    let NormMatmulParams { n_rows, cols, n_outputs, eps } = *params;
    let mut normed = vec![0.0; (n_rows * cols) as usize];
    rms_norm(&RmsNormParams { n_rows, cols, eps }, x, gain, &mut normed);
    let product = MatmulParams { n_rows, cols, n_outputs, out_stride: n_outputs, out_offset: 0, accumulate: 0 };
    matmul(&product, w, &normed, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // mean square 4, so the norm halves; gain 1 and 3 in turn; w adds up
        let x = [2.0; 32];
        let gain: Vec<f32> = (0..32).map(|i| if i % 2 == 0 { 1.0 } else { 3.0 }).collect();
        let mut out = [0.0];
        let params = NormMatmulParams { n_rows: 1, cols: 32, n_outputs: 1, eps: 0.0 };
        norm_matmul(&params, &WeightView::from_f32(1, 32, &[1.0; 32]), &x, &gain, &mut out);
        crate::assert_all_close("sum", &out, &[64.0], 1e-5);
    }
}
