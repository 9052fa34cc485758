//! The integer product with WebAssembly's relaxed vectors, which multiply bytes: 4 outputs a register.
//!
//! Relaxed instructions may give different results on different processors, but not for these operands: a nibble fits
//! into 7 bits, and a pair of products, and the sum of a block's, into 16. Browsers that lack them refuse the whole
//! module, so the product is a module of its own ([`module`]) beside the page's, over the page's memory. Whoever has a
//! browser at hand compiles it and [`install`]s its function; where that fails, the paths are not there.
//!
//! Two instructions can do it. One multiplies bytes in pairs, and every processor with vectors has it or nearly so. The other
//! multiplies them in fours and adds them to a sum: one instruction with AVX-VNNI or ARM's dot products, three or more
//! elsewhere. Which of the two it is shows in what it makes of operands out of its range ([`DOT_EXPORT`]). 8-bit weights fit into no
//! 7 bits: in pairs they are multiplied in 16 bits, as in `simd128`; in fours without their sign, and the signs apart.

mod code;
mod emit;
#[cfg(target_arch = "wasm32")]
mod installed;

#[cfg(test)]
mod tests;

use super::KernelPath;
use super::rows::Int8Rows;
use crate::panel::Panels;
use crate::weight::{BLOCK, WeightFormat};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

use emit::Products;
pub use emit::module;
#[cfg(target_arch = "wasm32")]
pub use installed::{Function, install};
#[cfg(target_arch = "wasm32")]
pub(super) use installed::{is_available, matmul};

/// Rows that the module unpacks a weight for at once.
pub(super) const TILE: usize = 4;

/// Module and name of the memory that [`module`] imports.
pub const IMPORT: [&str; 2] = emit::IMPORT;
/// The function that [`module`] exports: takes the place of a [`Call`] in the memory.
pub const EXPORT: &str = emit::EXPORT;
/// The other function that [`module`] exports: 1 if this processor multiplies in fours by one instruction, else 0.
pub const DOT_EXPORT: &str = emit::DOT_EXPORT;

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
    /// Number of [`Products`] times [`TILE`]: their kernels stand one behind the other.
    first_tile: u32,
}

impl Call {
    /// `None` where there is nothing to do. `range` of the panels, all rows; `out` as in [`super::matmul_int8`].
    fn new(path: KernelPath, panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) -> Option<Self> {
        let products = match (panels.format(), path) {
            (WeightFormat::Q4, KernelPath::Int8RelaxedDot) => Products::Q4InFours,
            (WeightFormat::Q4, _) => Products::Q4InPairs,
            (_, KernelPath::Int8RelaxedDot) => Products::Q8InFours,
            (_, _) => Products::Q8InHalves,
        };
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
            first_tile: products as u32 * TILE as u32,
        })
    }
}
