//! The integer product with WebAssembly's relaxed vectors, which multiply bytes: 4 outputs a register.
//!
//! Relaxed instructions may give different results on different processors, but not for these operands: a nibble fits
//! into 7 bits, and a pair of products, and the sum of a block's, into 16. Browsers that lack them refuse the whole
//! module, so the product is a module of its own ([`module`]) beside the page's, over the page's memory. Whoever has a
//! browser at hand compiles it and [`install`]s its functions; where that fails, the paths are not there.
//!
//! Two instructions can do it. One multiplies bytes in pairs, and every processor with vectors has it or nearly so. The other
//! multiplies them in fours and adds them to a sum: one instruction with AVX-VNNI or ARM's dot products, three or more
//! elsewhere. Which of the two it is shows in what it makes of operands out of its range ([`module`]'s `has_dot`). 8-bit weights fit into no
//! 7 bits: in pairs they are multiplied in 16 bits, as in `simd128`; in fours as they are where the instruction takes them with their sign
//! (ARM), and 128 too large, sums beginning at as much less, where it takes them without (x86).

#[cfg(target_arch = "wasm32")]
mod installed;
#[expect(dead_code, reason = "some of it is for the build script")]
mod layout;

#[cfg(test)]
mod tests;

use super::rows::Int8Rows;
use super::{KernelPath, tile};
use crate::panel::{OUTPUTS, Panels};
use crate::weight::{BLOCK, WeightFormat};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

#[cfg(target_arch = "wasm32")]
pub use installed::{Functions, install, n_threads, team_place};
#[cfg(target_arch = "wasm32")]
pub(super) use installed::{is_available, matmul};
pub(super) use layout::TILE;
use layout::{N_PIECES, N_WORDS, Products};

const _: () = assert!(layout::OUTPUTS == OUTPUTS && layout::HALF_MASK == tile::HALF_MASK);
const _: () = assert!(layout::HALF_REBIAS.to_bits() == tile::HALF_REBIAS.to_bits());

/// The module as `shaders/build/` makes it, for a memory that no other thread sees.
const MODULE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/relaxed.wasm"));
/// What the module calls the memory that it imports; a length, a kind and its limits' flags follow.
const MEMORY: &[u8] = b"memory";
/// Flag of a memory that threads share.
const SHARED: u8 = 2;

/// The module, over `page.memory`, for one that other threads see too or one that they do not; either has an end. Its functions:
///
/// - `matmul`: products, from the place of a [`Call`], the first panel and their number, at least one;
/// - `has_dot`: 1 if `i32x4.relaxed_dot_i8x16_i7x16_add_s` is one instruction here, else 0;
/// - `share`: products that threads make together, from the place of their words ([`work`]);
/// - `help`: takes part in all of them, for ever.
pub fn module(is_shared: bool) -> Vec<u8> {
    let mut module = MODULE.to_vec();
    if let Some(at) = module.windows(MEMORY.len()).position(|part| part == MEMORY)
        && is_shared
    {
        module[at + MEMORY.len() + 1] |= SHARED;
    }
    module
}

/// First word of [`work`].
const WORK: usize = N_PIECES as usize / 4;

/// What `share` is to make next: the panels of a [`Call`] from its first one on, at least one, so many a piece.
fn work(call: u32, n_panels: usize, of_piece: usize) -> [u32; N_WORDS - WORK] {
    [n_panels.div_ceil(of_piece) as u32, of_piece as u32, n_panels as u32, call]
}

/// What a product is of; places are those of the memory that page and [`module`] share.
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct Call {
    quants: u32,
    scales: u32,
    n_blocks: u32,
    n_rows: u32,
    words: u32,
    row_scales: u32,
    /// For Q8 the biases.
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
