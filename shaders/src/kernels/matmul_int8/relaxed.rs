//! The integer product with WebAssembly's relaxed vectors, which multiply bytes: 4 outputs a register.
//!
//! Relaxed instructions may give different results on different processors, but not for these operands: a nibble fits
//! into 7 bits, and a pair of products, and the sum of a block's, into 16. Browsers that lack them refuse the whole
//! module, so the product is a module of its own ([`module`]) beside the page's, over the page's memory. Whoever has a
//! browser at hand compiles it and [`install`]s its function; where that fails, the path is not there. 8-bit weights
//! fit into no 7 bits; they are multiplied in 16, as in `simd128`.

mod emit;

#[cfg(test)]
mod tests;

use super::rows::Int8Rows;
use crate::panel::Panels;
use crate::weight::{BLOCK, WeightFormat};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;
use std::sync::OnceLock;

pub use emit::module;

/// Rows that the module unpacks a weight for at once.
pub(super) const TILE: usize = 4;

/// Module and name of the memory that [`module`] imports.
pub const IMPORT: [&str; 2] = emit::IMPORT;
/// The function that [`module`] exports: takes the place of a [`Call`] in the memory.
pub const EXPORT: &str = emit::EXPORT;

/// What a product is of; places are those of the memory that page and [`module`] share.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Call {
    quants: u32,
    scales: u32,
    n_panels: u32,
    n_blocks: u32,
    n_rows: u32,
    words: u32,
    row_scales: u32,
    scaled_sums: u32,
    out: u32,
    /// Bytes of a panel's codes, of its scales, and of a row's words.
    quant_bytes: u32,
    scale_bytes: u32,
    row_bytes: u32,
    /// 0 for Q4, [`TILE`] for Q8: the kernels of one format stand behind the other's.
    first_tile: u32,
}

/// Calls the module's function with the place of a [`Call`].
pub type Function = fn(u32);

static FUNCTION: OnceLock<Function> = OnceLock::new();

/// Makes the path available; only the first call counts. `function` calls the exported function of an instance of [`module`]
/// over this module's own memory.
pub fn install(function: Function) {
    let _ = FUNCTION.set(function);
}

/// Whether there is a function to call.
#[cfg(target_arch = "wasm32")]
pub(super) fn is_installed() -> bool {
    FUNCTION.get().is_some()
}

impl Call {
    /// `None` where there is nothing to do. `range` of the panels, all rows; `out` as in [`super::matmul_int8`].
    fn new(panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) -> Option<Self> {
        let (quants, scales) = panels.lines(range.clone());
        let [of_rows, ..] = rows.places();
        let [words, row_scales, scaled_sums] = rows.places().map(|part| part.as_ptr() as usize as u32);
        (!range.is_empty() && rows.n_rows() > 0).then(|| Self {
            quants: quants.as_ptr() as usize as u32,
            scales: scales.as_ptr() as usize as u32,
            n_panels: range.len() as u32,
            n_blocks: (panels.cols() / BLOCK) as u32,
            n_rows: rows.n_rows() as u32,
            words,
            row_scales,
            scaled_sums,
            out: out.as_mut_ptr() as usize as u32,
            quant_bytes: (size_of_val(quants) / range.len()) as u32,
            scale_bytes: (size_of_val(scales) / range.len()) as u32,
            row_bytes: (size_of_val(of_rows) / rows.n_rows()) as u32,
            first_tile: if panels.format() == WeightFormat::Q4 { 0 } else { TILE as u32 },
        })
    }
}

/// As [`super::matmul_int8`].
#[cfg(target_arch = "wasm32")]
pub(super) fn matmul(panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) {
    if let Some(function) = FUNCTION.get()
        && let Some(call) = Call::new(panels, range, rows, out)
    {
        function(std::hint::black_box(&raw const call) as usize as u32);
    }
}
