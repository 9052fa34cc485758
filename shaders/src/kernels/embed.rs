//! Rows gathered from a matrix in any weight format: token embedding, or a selection of rows.

use crate::kernel::{Access, KernelSpec};
use crate::source::text;
use crate::weight::WeightView;
use bytemuck::{Pod, Zeroable};

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "embed",
    source: text!("dequantize.wgsl", "embed.wgsl"),
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite], // quants, scales, ids, out
    params_bytes: size_of::<EmbedParams>(),
};

/// Parameters of [`embed`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct EmbedParams {
    /// R.
    pub n_rows: u32,
    /// C, a multiple of 32.
    pub cols: u32,
    /// Rows of the table; a larger id reads the last.
    pub n_table_rows: u32,
}

const _: () = assert!(size_of::<EmbedParams>() == 12);

impl EmbedParams {
    /// Extent of the dispatch.
    pub fn workgroups(&self) -> [u32; 2] {
        [(self.cols / 8).div_ceil(64), self.n_rows]
    }
}

/// `out[r] = table[ids[r]]`; ids `[R]`, table `[n_table_rows, C]`, out `[R, C]`.
///
/// # Panics
/// If a slice does not have its shape.
pub fn embed(params: &EmbedParams, table: &WeightView, ids: &[u32], out: &mut [f32]) {
    let (r, c) = (params.n_rows as usize, params.cols as usize);
    table.assert_whole();
    assert_eq!((table.rows, table.cols), (params.n_table_rows as usize, c), "embedding table");
    for (id, out) in ids[..r].iter().zip(out[..r * c].chunks_exact_mut(c)) {
        table.decode_row((*id as usize).min(table.rows - 1), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_rows_and_holds_ids_inside() {
        let values: Vec<f32> = (0..96).map(|i| (i / 32) as f32).collect();
        let params = EmbedParams { n_rows: 3, cols: 32, n_table_rows: 3 };
        let mut out = vec![9.0; 96];
        embed(&params, &WeightView::from_f32(3, 32, &values), &[1, 7, 0], &mut out);
        assert_eq!((out[0], out[31], out[32], out[95]), (1.0, 1.0, 2.0, 0.0));
    }
}
