//! The first half of a low-rank side path (LoRA, Hu et al. 2021, arXiv:2106.09685): rows into the adapter's rank.

use crate::kernel::{Access, KernelSpec};
use crate::math::dot_of_blocks;
use crate::source::text;
use bytemuck::{Pod, Zeroable};

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "low_rank_down",
    source: text!("low_rank_down.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::ReadWrite], // a, x, out
    params_bytes: size_of::<LowRankDownParams>(),
};

/// Parameters of [`low_rank_down`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct LowRankDownParams {
    /// R.
    pub n_rows: u32,
    /// C, a multiple of 32.
    pub cols: u32,
    /// K.
    pub rank: u32,
}

const _: () = assert!(size_of::<LowRankDownParams>() == 12);

impl LowRankDownParams {
    /// Extent of the dispatch.
    pub fn workgroups(&self) -> [u32; 2] {
        [self.rank, self.n_rows]
    }
}

/// `out[r, k] = sum_c a[k, c] * x[r, c]`; x `[R, C]`, a `[K, C]`, out `[R, K]`.
///
/// # Panics
/// If a slice does not have its shape.
pub fn low_rank_down(params: &LowRankDownParams, a: &[f32], x: &[f32], out: &mut [f32]) {
    let (r, c, k) = (params.n_rows as usize, params.cols as usize, params.rank as usize);
    assert_eq!(a.len(), k * c, "factor a");
    for (x, out) in x[..r * c].chunks_exact(c).zip(out[..r * k].chunks_exact_mut(k)) {
        for (a, out) in a.chunks_exact(c).zip(out) {
            *out = dot_of_blocks(x, a);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let params = LowRankDownParams { n_rows: 2, cols: 32, rank: 2 };
        let mut a = [0.0; 64];
        (a[0], a[31], a[32 + 1]) = (1.0, 10.0, 3.0);
        let x: Vec<f32> = (0..64).map(|i| i as f32).collect();
        let mut out = [0.0; 4];
        low_rank_down(&params, &a, &x, &mut out);
        assert_eq!(out, [310.0, 3.0, 32.0 + 630.0, 99.0]);
    }
}
