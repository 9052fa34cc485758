//! The integer product with WebAssembly's vectors: 4 outputs a register, rows in 16-bit halves.
//!
//! WebAssembly multiplies no bytes, but it multiplies halves and adds them in pairs. A word of a weight is two
//! halves; masks and shifts take two of its codes at a time out of it, without a shuffle.

use super::rows::Int8Rows;
use super::tile::{self, Simd};
use crate::panel::{Line, OUTPUTS, Panels};
use std::arch::wasm32::*;
use std::ops::Range;

/// The module was compiled for vectors.
#[derive(Debug, Clone, Copy)]
struct Simd128;

/// As [`super::matmul_int8`].
pub(super) fn matmul(panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) {
    tile::matmul(Simd128, panels, range, rows, out);
}

/// Four words of a line.
#[inline(always)]
pub(super) fn words(line: &Line, part: usize) -> v128 {
    let words = &line.0[part * 4..part * 4 + 4];
    u32x4(words[0], words[1], words[2], words[3])
}

/// Adds products of bytes, Q8.
#[inline(always)]
pub(super) fn add_q8<const P: usize, const R: usize>(words: [v128; P], rows: &[[u32; R]], sums: &mut [[v128; R]; P]) {
    for odd in [false, true] {
        let mut codes = words;
        for p in 0..P {
            codes[p] = i16x8_shr(if odd { words[p] } else { i16x8_shl(words[p], 8) }, 8);
        }
        add_halves(codes, &rows[usize::from(odd)], sums);
    }
}

/// Adds the products of two codes of each output with two halves of each row.
#[inline(always)]
fn add_halves<const P: usize, const R: usize>(codes: [v128; P], rows: &[u32; R], sums: &mut [[v128; R]; P]) {
    for r in 0..R {
        let row = u32x4_splat(rows[r]);
        for p in 0..P {
            sums[p][r] = i32x4_add(sums[p][r], i32x4_dot_i16x8(codes[p], row));
        }
    }
}

/// Values of halves.
#[inline(always)]
pub(super) fn halves(words: v128, high: bool) -> v128 {
    let words = if high { words } else { i32x4_shl(words, 16) };
    // sign, exponent and mantissa in f32's places; the product mends the exponent's bias, subnormals too
    let bits = v128_and(i32x4_shr(words, 3), i32x4_splat(tile::HALF_MASK));
    f32x4_mul(bits, f32x4_splat(tile::HALF_REBIAS))
}

/// Stores four values of a panel.
#[inline(always)]
pub(super) fn store(values: v128, out: &mut [f32; OUTPUTS], part: usize) {
    out[part * 4] = f32x4_extract_lane::<0>(values);
    out[part * 4 + 1] = f32x4_extract_lane::<1>(values);
    out[part * 4 + 2] = f32x4_extract_lane::<2>(values);
    out[part * 4 + 3] = f32x4_extract_lane::<3>(values);
}

impl Simd for Simd128 {
    const WIDTH: usize = 4;
    const TILE: usize = 4;
    const WORDS_Q4: usize = 4;
    const WORDS_Q8: usize = 2;
    type Words = v128;
    type Sums = v128;
    type Floats = v128;

    #[inline(always)]
    fn parts(n_rows: usize) -> usize {
        if n_rows == 1 { 4 } else { 2 }
    }

    #[inline(always)]
    fn words(self, line: &Line, part: usize) -> v128 {
        words(line, part)
    }

    #[inline(always)]
    fn no_sums(self) -> v128 {
        i32x4_splat(0)
    }

    #[inline(always)]
    fn add_q4<const P: usize, const R: usize>(self, words: [v128; P], rows: &[[u32; R]], sums: &mut [[v128; R]; P]) {
        for i in 0..4 {
            let mut codes = words;
            for p in 0..P {
                codes[p] = v128_and(u16x8_shr(words[p], 4 * i), u16x8_splat(15));
            }
            add_halves(codes, &rows[i as usize], sums);
        }
    }

    #[inline(always)]
    fn add_q8<const P: usize, const R: usize>(self, words: [v128; P], rows: &[[u32; R]], sums: &mut [[v128; R]; P]) {
        add_q8(words, rows, sums);
    }

    #[inline(always)]
    fn total_q4(self, sums: v128) -> v128 {
        f32x4_convert_i32x4(sums)
    }

    #[inline(always)]
    fn total_q8(self, sums: v128, _bias: i32) -> v128 {
        f32x4_convert_i32x4(sums)
    }

    #[inline(always)]
    fn halves(self, words: v128, high: bool) -> v128 {
        halves(words, high)
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
        store(values, out, part);
    }
}
