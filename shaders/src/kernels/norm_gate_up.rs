//! RMSNorm, both products of SwiGLU and its activation in one kernel.

use super::norm_matmul::{NormMatmulParams, norm_matmul};
use super::product::Tiling;
use super::silu_mul::{SiluMulParams, silu_mul};
use crate::kernel::{Access, KernelSpec};
use crate::source::text;
use crate::weight::WeightView;
use bytemuck::{Pod, Zeroable};

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "norm_gate_up",
    source: text!("dequantize.wgsl", "lanes.wgsl", "product.wgsl", "norm_gate_up.wgsl"),
    // quants, scales, x, gain, out
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: size_of::<NormGateUpParams>(),
};

/// Parameters of [`norm_gate_up`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct NormGateUpParams {
    /// R.
    pub n_rows: u32,
    /// C, a multiple of 32.
    pub cols: u32,
    /// F, a multiple of 32.
    pub n_outputs: u32,
    /// Added to the mean square.
    pub eps: f32,
}

const _: () = assert!(size_of::<NormGateUpParams>() == 16);

impl NormGateUpParams {
    /// Extent of the dispatch; `tiling` has at least two outputs, see [`Tiling::paired`].
    pub fn workgroups(&self, tiling: &Tiling) -> [u32; 2] {
        tiling.workgroups(self.n_rows, self.n_outputs, tiling.outputs / 2)
    }
}

/// `out[r, f] = silu(gate) * up`, gate and up rows f and F + f of w times norm of row r of x; x `[R, C]`, gain `[C]`,
/// w `[2 F, C]`, out `[R, F]`.
///
/// [`norm_matmul`], then [`silu_mul`].
///
/// # Panics
/// If a slice does not have its shape.
pub fn norm_gate_up(params: &NormGateUpParams, w: &WeightView, x: &[f32], gain: &[f32], out: &mut [f32]) {
    let NormGateUpParams { n_rows, cols, n_outputs, eps } = *params;
    let mut gate_up = vec![0.0; (n_rows * 2 * n_outputs) as usize];
    norm_matmul(&NormMatmulParams { n_rows, cols, n_outputs: 2 * n_outputs, eps }, w, x, gain, &mut gate_up);
    silu_mul(&SiluMulParams { n_rows, cols: n_outputs }, &gate_up, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // normed inputs are 1, so each gate is 32 * 1/32 = 1 and each up 32 * 1/16 = 2
        let weights: Vec<f32> = (0..64 * 32).map(|i| if i < 32 * 32 { 0.03125 } else { 0.0625 }).collect();
        let params = NormGateUpParams { n_rows: 1, cols: 32, n_outputs: 32, eps: 0.0 };
        let mut out = [0.0; 32];
        norm_gate_up(&params, &WeightView::from_f32(64, 32, &weights), &[3.0; 32], &[1.0; 32], &mut out);
        crate::assert_all_close("gated", &out, &[2.0 / (1.0 + (-1.0f32).exp()); 32], 1e-5);
    }
}
