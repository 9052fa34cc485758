//! The integer product with NEON, which every aarch64 has: 4 outputs a register.

#![allow(unsafe_code)] // intrinsics

use super::rows::Int8Rows;
use super::tile::{self, Simd};
use crate::panel::{Line, OUTPUTS, Panels};
use std::arch::aarch64::*;
use std::ops::Range;

/// NEON belongs to the target.
#[derive(Debug, Clone, Copy)]
struct Neon;

/// As [`super::matmul_int8`].
pub(super) fn matmul(panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) {
    tile::matmul(Neon, panels, range, rows, out);
}

/// Adds products of four bytes each of four outputs with four bytes of a row. The sums of outputs 0 and 1 stand
/// in the first register, of 2 and 3 in the second, each in two parts.
#[inline(always)]
fn add(codes: int8x16_t, row: u32, sums: &mut [int32x4_t; 2]) {
    // SAFETY: NEON belongs to the target
    unsafe {
        let row = vreinterpretq_s8_u32(vdupq_n_u32(row));
        sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(codes), vget_low_s8(row)));
        sums[1] = vpadalq_s16(sums[1], vmull_high_s8(codes, row));
    }
}

impl Simd for Neon {
    const WIDTH: usize = 4;
    const TILE: usize = 8;
    const WORDS_Q4: usize = 2;
    const WORDS_Q8: usize = 1;
    type Words = uint32x4_t;
    type Sums = [int32x4_t; 2];
    type Floats = float32x4_t;

    #[inline(always)]
    fn parts(_n_rows: usize) -> usize {
        1
    }

    #[inline(always)]
    fn words(self, line: &Line, part: usize) -> uint32x4_t {
        let words = &line.0[part * Self::WIDTH..(part + 1) * Self::WIDTH];
        // SAFETY: NEON belongs to the target; the slice has 16 bytes
        unsafe { vld1q_u32(words.as_ptr()) }
    }

    #[inline(always)]
    fn no_sums(self) -> [int32x4_t; 2] {
        // SAFETY: NEON belongs to the target
        unsafe { [vdupq_n_s32(0); 2] }
    }

    #[inline(always)]
    fn add_q4<const P: usize, const R: usize>(
        self,
        words: [uint32x4_t; P],
        rows: &[[u32; R]],
        sums: &mut [[[int32x4_t; 2]; R]; P],
    ) {
        for p in 0..P {
            // SAFETY: NEON belongs to the target
            let (low, high) = unsafe {
                let bytes = vreinterpretq_u8_u32(words[p]);
                let (low, high) = (vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes));
                (vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high))
            };
            for r in 0..R {
                add(low, rows[0][r], &mut sums[p][r]);
                add(high, rows[1][r], &mut sums[p][r]);
            }
        }
    }

    #[inline(always)]
    fn add_q8<const P: usize, const R: usize>(
        self,
        words: [uint32x4_t; P],
        rows: &[[u32; R]],
        sums: &mut [[[int32x4_t; 2]; R]; P],
    ) {
        for p in 0..P {
            // SAFETY: NEON belongs to the target
            let codes = unsafe { vreinterpretq_s8_u32(words[p]) };
            for r in 0..R {
                add(codes, rows[0][r], &mut sums[p][r]);
            }
        }
    }

    #[inline(always)]
    fn total_q4(self, sums: [int32x4_t; 2]) -> float32x4_t {
        // SAFETY: NEON belongs to the target
        unsafe { vcvtq_f32_s32(vpaddq_s32(sums[0], sums[1])) }
    }

    #[inline(always)]
    fn total_q8(self, sums: [int32x4_t; 2], _bias: i32) -> float32x4_t {
        self.total_q4(sums)
    }

    #[inline(always)]
    fn halves(self, words: uint32x4_t, high: bool) -> float32x4_t {
        // SAFETY: NEON belongs to the target
        unsafe {
            let words = if high { words } else { vshlq_n_u32::<16>(words) };
            // sign, exponent and mantissa in f32's places; the product mends the exponent's bias, subnormals too
            let bits = vandq_s32(vshrq_n_s32::<3>(vreinterpretq_s32_u32(words)), vdupq_n_s32(tile::HALF_MASK));
            vmulq_f32(vreinterpretq_f32_s32(bits), vdupq_n_f32(tile::HALF_REBIAS))
        }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        // SAFETY: NEON belongs to the target
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: NEON belongs to the target
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: NEON belongs to the target
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn store(self, values: float32x4_t, out: &mut [f32; OUTPUTS], part: usize) {
        let out = &mut out[part * Self::WIDTH..(part + 1) * Self::WIDTH];
        // SAFETY: NEON belongs to the target; the slice has 16 bytes
        unsafe { vst1q_f32(out.as_mut_ptr(), values) }
    }
}
