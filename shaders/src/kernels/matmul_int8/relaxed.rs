//! The integer product with WebAssembly's relaxed vectors, which multiply bytes: 4 outputs a register.
//!
//! Relaxed instructions may give different results on different processors, but not for these operands: a
//! nibble fits into 7 bits, and a pair of products into 16. Browsers that lack them refuse the whole module, so
//! this file is part only of a module that was compiled for them. 8-bit weights fit into no 7 bits and go as in
//! [`super::simd128`].

use super::rows::Int8Rows;
use super::simd128;
use super::tile::{self, Simd};
use crate::panel::{Line, OUTPUTS, Panels};
use std::arch::wasm32::*;
use std::ops::Range;

/// The module was compiled for relaxed vectors.
#[derive(Debug, Clone, Copy)]
struct Relaxed;

/// As [`super::matmul_int8`].
pub(super) fn matmul(panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) {
    tile::matmul(Relaxed, panels, range, rows, out);
}

impl Simd for Relaxed {
    const WIDTH: usize = 4;
    const TILE: usize = 4;
    const WORDS_Q4: usize = 2;
    const WORDS_Q8: usize = 2;
    type Words = v128;
    /// Q4: 8 sums in 16 bits, each of 16 products of at most 15 · 127; Q8: 4 sums in 32 bits.
    type Sums = v128;
    type Floats = v128;

    #[inline(always)]
    fn parts(n_rows: usize) -> usize {
        if n_rows == 1 { 4 } else { 2 }
    }

    #[inline(always)]
    fn words(self, line: &Line, part: usize) -> v128 {
        simd128::words(line, part)
    }

    #[inline(always)]
    fn no_sums(self) -> v128 {
        i32x4_splat(0)
    }

    #[inline(always)]
    fn add_q4<const P: usize, const R: usize>(self, words: [v128; P], rows: &[[u32; R]], sums: &mut [[v128; R]; P]) {
        for high in [false, true] {
            let mut codes = words;
            for p in 0..P {
                let words = if high { u16x8_shr(words[p], 4) } else { words[p] };
                codes[p] = v128_and(words, u8x16_splat(15));
            }
            for r in 0..R {
                let row = u32x4_splat(rows[usize::from(high)][r]);
                for p in 0..P {
                    sums[p][r] = i16x8_add(sums[p][r], i16x8_relaxed_dot_i8x16_i7x16(row, codes[p]));
                }
            }
        }
    }

    #[inline(always)]
    fn add_q8<const P: usize, const R: usize>(self, words: [v128; P], rows: &[[u32; R]], sums: &mut [[v128; R]; P]) {
        simd128::add_q8(words, rows, sums);
    }

    #[inline(always)]
    fn total_q4(self, sums: v128) -> v128 {
        f32x4_convert_i32x4(i32x4_extadd_pairwise_i16x8(sums))
    }

    #[inline(always)]
    fn total_q8(self, sums: v128, _row_sum: i32) -> v128 {
        f32x4_convert_i32x4(sums)
    }

    #[inline(always)]
    fn halves(self, words: v128, high: bool) -> v128 {
        simd128::halves(words, high)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> v128 {
        f32x4_splat(value)
    }

    #[inline(always)]
    fn mul(self, a: v128, b: v128) -> v128 {
        f32x4_mul(a, b)
    }

    #[inline(always)]
    fn add(self, a: v128, b: v128) -> v128 {
        f32x4_add(a, b)
    }

    #[inline(always)]
    fn store(self, values: v128, out: &mut [f32; OUTPUTS], part: usize) {
        simd128::store(values, out, part);
    }
}
