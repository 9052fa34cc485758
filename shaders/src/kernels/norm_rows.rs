//! Chosen rows after RMSNorm: the final norm of the rows whose result is wanted.

use super::rms_norm::{RmsNormParams, rms_norm};
use crate::kernel::{Access, KernelSpec};
use crate::source::text;
use bytemuck::{Pod, Zeroable};

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "norm_rows",
    source: text!("threads.wgsl", "norm_rows.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite], // rows, x, gain, out
    params_bytes: size_of::<NormRowsParams>(),
};

/// Parameters of [`norm_rows`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct NormRowsParams {
    /// R.
    pub n_rows: u32,
    /// C, a multiple of 4.
    pub cols: u32,
    /// Rows of x; a larger index reads the last.
    pub n_x_rows: u32,
    /// Added to the mean square.
    pub eps: f32,
}

const _: () = assert!(size_of::<NormRowsParams>() == 16);

impl NormRowsParams {
    /// Extent of the dispatch.
    pub fn workgroups(&self) -> [u32; 2] {
        [self.n_rows, 1]
    }
}

/// `out[i] = norm(x[rows[i]])`; rows `[R]`, x `[n_x_rows, C]`, gain `[C]`, out `[R, C]`. [`rms_norm`] of each.
///
/// # Panics
/// If a slice does not have its shape.
pub fn norm_rows(params: &NormRowsParams, rows: &[u32], x: &[f32], gain: &[f32], out: &mut [f32]) {
    let c = params.cols as usize;
    let one = RmsNormParams { n_rows: 1, cols: params.cols, eps: params.eps };
    for (row, out) in rows[..params.n_rows as usize].iter().zip(out.chunks_exact_mut(c)) {
        let row = (*row).min(params.n_x_rows - 1) as usize;
        rms_norm(&one, &x[row * c..(row + 1) * c], gain, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_and_held_inside() {
        let params = NormRowsParams { n_rows: 2, cols: 4, n_x_rows: 2, eps: 0.0 };
        let mut out = [0.0; 8];
        norm_rows(&params, &[9, 0], &[4.0, 4.0, -4.0, 4.0, 0.0, 0.0, 0.0, 2.0], &[1.0, 1.0, 2.0, 3.0], &mut out);
        crate::assert_all_close("norm", &out, &[0.0, 0.0, 0.0, 6.0, 1.0, 1.0, -2.0, 3.0], 1e-6);
    }
}
