//! The second half of a low-rank side path (LoRA, arXiv:2106.09685): from the adapter's rank onto what the weights gave.

use crate::kernel::{Access, KernelSpec};
use crate::source::text;
use bytemuck::{Pod, Zeroable};

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "low_rank_up",
    source: text!("low_rank_up.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::ReadWrite], // b, t, out
    params_bytes: size_of::<LowRankUpParams>(),
};

/// Parameters of [`low_rank_up`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct LowRankUpParams {
    /// R.
    pub n_rows: u32,
    /// K.
    pub rank: u32,
    /// N.
    pub n_outputs: u32,
    /// Distance of rows in `out`.
    pub out_stride: u32,
    /// First output's place in a row of `out`.
    pub out_offset: u32,
    /// What the product is multiplied by: alpha / K.
    pub scale: f32,
}

const _: () = assert!(size_of::<LowRankUpParams>() == 24);

impl LowRankUpParams {
    /// Extent of the dispatch.
    pub fn workgroups(&self) -> [u32; 2] {
        [self.n_outputs.div_ceil(64), self.n_rows]
    }
}

/// `out[r, out_offset + n] += scale * sum_k b[n, k] * t[r, k]`; t `[R, K]`, b `[N, K]`, out `[R, out_stride]`.
///
/// # Panics
/// If a slice does not have its shape.
pub fn low_rank_up(params: &LowRankUpParams, b: &[f32], t: &[f32], out: &mut [f32]) {
    let (r, k, n) = (params.n_rows as usize, params.rank as usize, params.n_outputs as usize);
    assert_eq!(b.len(), n * k, "factor b");
    for (row, t) in t[..r * k].chunks_exact(k).enumerate() {
        let at = row * params.out_stride as usize + params.out_offset as usize;
        for (b, out) in b.chunks_exact(k).zip(&mut out[at..at + n]) {
            *out += params.scale * b.iter().zip(t).map(|(b, t)| b * t).sum::<f32>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let params = LowRankUpParams { n_rows: 2, rank: 2, n_outputs: 2, out_stride: 4, out_offset: 1, scale: 0.5 };
        let mut out = [100.0; 8];
        low_rank_up(&params, &[1.0, 0.0, 2.0, -1.0], &[2.0, 4.0, 6.0, 8.0], &mut out);
        assert_eq!(out, [100.0, 101.0, 100.0, 100.0, 100.0, 103.0, 102.0, 100.0]);
    }
}
