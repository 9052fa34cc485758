//! The gated activation of SwiGLU (Shazeer 2020, arXiv:2002.05202); on a GPU a part of `norm_gate_up`,
//! and by itself under an adapter.

use crate::kernel::{Access, KernelSpec};
use crate::math::exp;
use crate::source::text;
use bytemuck::{Pod, Zeroable};

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "silu_mul",
    source: text!("silu_mul.wgsl"),
    bindings: &[Access::Read, Access::ReadWrite], // gate_up, out
    params_bytes: size_of::<SiluMulParams>(),
};

/// Parameters of [`silu_mul`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct SiluMulParams {
    /// R.
    pub n_rows: u32,
    /// F, a multiple of 4.
    pub cols: u32,
}

const _: () = assert!(size_of::<SiluMulParams>() == 8);

impl SiluMulParams {
    /// Extent of the dispatch.
    pub fn workgroups(&self) -> [u32; 2] {
        [self.cols.div_ceil(64), self.n_rows]
    }
}

/// `out[r, f] = silu(gate[r, f]) * up[r, f]` with `silu(z) = z / (1 + exp(-z))`; gate_up `[R, 2 F]`, out `[R, F]`.
///
/// # Panics
/// If a slice does not have its shape.
pub fn silu_mul(params: &SiluMulParams, gate_up: &[f32], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the one feature that the function asks for
        #[allow(unsafe_code)]
        return unsafe { silu_mul_avx2(params, gate_up, out) };
    }
    silu_mul_in_order(params, gate_up, out);
}

/// The same code compiled for 256-bit registers; without fused multiply-add the bits are the same.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn silu_mul_avx2(params: &SiluMulParams, gate_up: &[f32], out: &mut [f32]) {
    silu_mul_in_order(params, gate_up, out);
}

#[inline(always)]
fn silu_mul_in_order(params: &SiluMulParams, gate_up: &[f32], out: &mut [f32]) {
    let (r, f) = (params.n_rows as usize, params.cols as usize);
    for (gate_up, out) in gate_up[..r * 2 * f].chunks_exact(2 * f).zip(out[..r * f].chunks_exact_mut(f)) {
        let (gate, up) = gate_up.split_at(f);
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand_and_at_the_ends() {
        let params = SiluMulParams { n_rows: 1, cols: 4 };
        let mut out = [0.0; 4];
        silu_mul(&params, &[0.0, 1.0, -1000.0, 1000.0, 5.0, 2.0, 3.0, 1.0], &mut out);
        crate::assert_all_close("silu", &out, &[0.0, 1.462_117_2, 0.0, 1000.0], 1e-6);
    }
}
