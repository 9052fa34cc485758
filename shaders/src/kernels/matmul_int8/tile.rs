//! The loop around every vector path: panels, tiles of rows, blocks. A path says only what its registers do.

use super::rows::{Int8Rows, Tile};
use crate::panel::{Line, OUTPUTS, Panel, Panels};
use crate::weight::WeightFormat;
use std::ops::Range;

/// What is left of a half in the upper bits of a word after an arithmetic shift by 3: sign, exponent, mantissa.
pub(super) const HALF_MASK: i32 = 0x8fff_e000_u32 as i32;
/// 2^112: the difference of the exponents' biases of f32 and f16.
pub(super) const HALF_REBIAS: f32 = f32::from_bits((127 + 112) << 23);

/// Vector instructions of one path. A register holds one word or value of [`Simd::WIDTH`] neighbouring outputs;
/// `part` says which of a line's. A value of the type is proof that the processor has the instructions.
pub(super) trait Simd: Copy {
    /// Outputs of a register; divides [`OUTPUTS`].
    const WIDTH: usize;
    /// Rows that a weight is unpacked for at once.
    const TILE: usize;
    /// Words of a row that a line of Q4 (8 inputs) and of Q8 (4 inputs) meet.
    const WORDS_Q4: usize;
    /// See [`Simd::WORDS_Q4`].
    const WORDS_Q8: usize;
    /// A word of each output.
    type Words: Copy;
    /// Integer sums of each output.
    type Sums: Copy;
    /// A float of each output.
    type Floats: Copy;

    /// Registers of a panel that go together where there are so many rows: 1, 2 or 4.
    fn parts(n_rows: usize) -> usize;
    /// Loads words.
    fn words(self, line: &Line, part: usize) -> Self::Words;
    /// No sums yet.
    fn no_sums(self) -> Self::Sums;
    /// Adds the products of P registers of a line of Q4 with [`Simd::WORDS_Q4`] words of each of R rows.
    fn add_q4<const P: usize, const R: usize>(
        self,
        words: [Self::Words; P],
        rows: &[[u32; R]],
        sums: &mut [[Self::Sums; R]; P],
    );
    /// Adds the products of P registers of a line of Q8 with [`Simd::WORDS_Q8`] words of each of R rows.
    fn add_q8<const P: usize, const R: usize>(
        self,
        words: [Self::Words; P],
        rows: &[[u32; R]],
        sums: &mut [[Self::Sums; R]; P],
    );
    /// The sums of a block of Q4, whole and exact.
    fn total_q4(self, sums: Self::Sums) -> Self::Floats;
    /// The sums of a block of Q8, whole and exact; `bias` is what they begin at where codes are taken without a sign.
    fn total_q8(self, sums: Self::Sums, bias: i32) -> Self::Floats;
    /// Values of the halves in the low or the high half of each word; finite.
    fn halves(self, words: Self::Words, high: bool) -> Self::Floats;
    /// One value everywhere.
    fn splat(self, value: f32) -> Self::Floats;
    /// Products, rounded.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Sums, rounded.
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// Stores.
    fn store(self, values: Self::Floats, out: &mut [f32; OUTPUTS], part: usize);
}

/// As [`super::matmul_int8`], compiled for its caller's processor.
#[inline(always)]
pub(super) fn matmul<S: Simd>(simd: S, panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) {
    let q4 = panels.format() == WeightFormat::Q4;
    let of_panel = out.as_chunks_mut::<OUTPUTS>().0.chunks_exact_mut(rows.n_rows().max(1));
    for (panel, mut out) in panels.panels(range).zip(of_panel) {
        for tile in rows.tiles() {
            let (of_tile, rest) = out.split_at_mut(tile.n_rows);
            out = rest;
            match tile.n_rows {
                1 => whole::<S, 1>(simd, q4, panel, tile, of_tile),
                2 => whole::<S, 2>(simd, q4, panel, tile, of_tile),
                3 => whole::<S, 3>(simd, q4, panel, tile, of_tile),
                4 => whole::<S, 4>(simd, q4, panel, tile, of_tile),
                5 => whole::<S, 5>(simd, q4, panel, tile, of_tile),
                6 => whole::<S, 6>(simd, q4, panel, tile, of_tile),
                7 => whole::<S, 7>(simd, q4, panel, tile, of_tile),
                _ => whole::<S, 8>(simd, q4, panel, tile, of_tile),
            }
        }
    }
}

/// R rows with a whole panel, as many registers of it at a time as leave room for the sums.
#[inline(always)]
fn whole<S: Simd, const R: usize>(simd: S, q4: bool, panel: Panel<'_>, tile: Tile<'_>, out: &mut [[f32; OUTPUTS]]) {
    if R > S::TILE {
        return; // no tile has so many
    }
    let out: &mut [[f32; OUTPUTS]; R] = out.try_into().expect("a row of products a row");
    match (S::parts(R), q4) {
        (1, true) => tile_q4::<S, 1, R>(simd, panel, tile, out),
        (1, false) => tile_q8::<S, 1, R>(simd, panel, tile, out),
        (2, true) => tile_q4::<S, 2, R>(simd, panel, tile, out),
        (2, false) => tile_q8::<S, 2, R>(simd, panel, tile, out),
        (_, true) => tile_q4::<S, 4, R>(simd, panel, tile, out),
        (_, false) => tile_q8::<S, 4, R>(simd, panel, tile, out),
    }
}

/// R rows with a panel of Q4, P registers of it at a time.
#[inline(always)]
fn tile_q4<S: Simd, const P: usize, const R: usize>(
    simd: S,
    panel: Panel<'_>,
    tile: Tile<'_>,
    out: &mut [[f32; OUTPUTS]; R],
) {
    const LINES: usize = 4;
    let (scales, scaled_sums) = (tile.scales.as_chunks::<R>().0, tile.scaled_sums.as_chunks::<R>().0);
    for first in (0..OUTPUTS / S::WIDTH).step_by(P) {
        let mut totals = [[simd.splat(0.0); R]; P];
        let blocks = panel.quants.as_chunks::<LINES>().0.iter().zip(panel.scales);
        let rows = tile.words.as_chunks::<R>().0.chunks_exact(LINES * S::WORDS_Q4);
        for ((lines, halves), (rows, (scales, scaled_sums))) in blocks.zip(rows.zip(scales.iter().zip(scaled_sums))) {
            let mut sums = [[simd.no_sums(); R]; P];
            for (line, rows) in lines.iter().zip(rows.chunks_exact(S::WORDS_Q4)) {
                simd.add_q4(parts(simd, line, first), rows, &mut sums);
            }
            let halves: [S::Words; P] = parts(simd, halves, first);
            for p in 0..P {
                let (scale, min) = (simd.halves(halves[p], false), simd.halves(halves[p], true));
                for r in 0..R {
                    let product = simd.mul(simd.mul(simd.total_q4(sums[p][r]), scale), simd.splat(scales[r]));
                    let shift = simd.mul(min, simd.splat(scaled_sums[r]));
                    totals[p][r] = simd.add(totals[p][r], simd.add(product, shift));
                }
            }
        }
        store_all(simd, &totals, out, first);
    }
}

/// R rows with a panel of Q8, P registers of it at a time.
#[inline(always)]
fn tile_q8<S: Simd, const P: usize, const R: usize>(
    simd: S,
    panel: Panel<'_>,
    tile: Tile<'_>,
    out: &mut [[f32; OUTPUTS]; R],
) {
    const LINES: usize = 8;
    let (scales, biases) = (tile.scales.as_chunks::<R>().0, tile.biases.as_chunks::<R>().0);
    for first in (0..OUTPUTS / S::WIDTH).step_by(P) {
        let mut totals = [[simd.splat(0.0); R]; P];
        let blocks = panel.quants.as_chunks::<LINES>().0.iter().enumerate();
        let rows = tile.words.as_chunks::<R>().0.chunks_exact(LINES * S::WORDS_Q8);
        for ((block, lines), (rows, (scales, biases))) in blocks.zip(rows.zip(scales.iter().zip(biases))) {
            let mut sums = [[simd.no_sums(); R]; P];
            for (line, rows) in lines.iter().zip(rows.chunks_exact(S::WORDS_Q8)) {
                simd.add_q8(parts(simd, line, first), rows, &mut sums);
            }
            let halves: [S::Words; P] = parts(simd, &panel.scales[block / 2], first);
            for p in 0..P {
                let scale = simd.halves(halves[p], block % 2 == 1);
                for r in 0..R {
                    let total = simd.total_q8(sums[p][r], biases[r]);
                    let product = simd.mul(simd.mul(total, scale), simd.splat(scales[r]));
                    totals[p][r] = simd.add(totals[p][r], product);
                }
            }
        }
        store_all(simd, &totals, out, first);
    }
}

/// P registers of a line.
#[inline(always)]
fn parts<S: Simd, const P: usize>(simd: S, line: &Line, first: usize) -> [S::Words; P] {
    let mut words = [simd.words(line, first); P];
    for (p, words) in words.iter_mut().enumerate().skip(1) {
        *words = simd.words(line, first + p);
    }
    words
}

#[inline(always)]
fn store_all<S: Simd, const P: usize, const R: usize>(
    simd: S,
    totals: &[[S::Floats; R]; P],
    out: &mut [[f32; OUTPUTS]; R],
    first: usize,
) {
    for (p, totals) in totals.iter().enumerate() {
        for (total, out) in totals.iter().zip(out.iter_mut()) {
            simd.store(*total, out, first + p);
        }
    }
}
