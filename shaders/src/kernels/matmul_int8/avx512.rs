//! The integer product with AVX-512 and VNNI: a whole panel a register.

#![allow(unsafe_code)] // intrinsics

use super::rows::Int8Rows;
use super::tile::{self, Simd};
use crate::panel::{Line, OUTPUTS, Panels};
use std::arch::x86_64::*;
use std::ops::Range;

/// Proof that the processor has AVX-512 with byte instructions and VNNI.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    pub fn detect() -> Option<Self> {
        let has = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512vnni");
        has.then_some(Self(()))
    }
}

/// As [`super::matmul_int8`].
///
/// # Panics
/// If the processor lacks the instructions.
pub(super) fn matmul(panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) {
    let simd = Avx512::detect().expect("a path that is available");
    // SAFETY: detected
    unsafe { compiled(simd, panels, range, rows, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn compiled(simd: Avx512, panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) {
    tile::matmul(simd, panels, range, rows, out);
}

impl Simd for Avx512 {
    const WIDTH: usize = 16;
    const TILE: usize = 8;
    const WORDS_Q4: usize = 2;
    const WORDS_Q8: usize = 1;
    type Words = __m512i;
    /// 16 sums in 32 bits; of Q8 too large by 128 times the sum of the row's bytes.
    type Sums = __m512i;
    type Floats = __m512;

    #[inline(always)]
    fn parts(_n_rows: usize) -> usize {
        1
    }

    #[inline(always)]
    fn words(self, line: &Line, _part: usize) -> __m512i {
        // SAFETY: AVX-512 is there; a line is 64 bytes
        unsafe { _mm512_loadu_si512(line.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn no_sums(self) -> __m512i {
        // SAFETY: AVX-512 is there
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    fn add_q4<const P: usize, const R: usize>(
        self,
        words: [__m512i; P],
        rows: &[[u32; R]],
        sums: &mut [[__m512i; R]; P],
    ) {
        // SAFETY: AVX-512 and VNNI are there
        unsafe {
            let nibbles = _mm512_set1_epi8(15);
            for p in 0..P {
                let low = _mm512_and_si512(words[p], nibbles);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(words[p]), nibbles);
                for r in 0..R {
                    let sum = _mm512_dpbusd_epi32(sums[p][r], low, _mm512_set1_epi32(rows[0][r] as i32));
                    sums[p][r] = _mm512_dpbusd_epi32(sum, high, _mm512_set1_epi32(rows[1][r] as i32));
                }
            }
        }
    }

    #[inline(always)]
    fn add_q8<const P: usize, const R: usize>(
        self,
        words: [__m512i; P],
        rows: &[[u32; R]],
        sums: &mut [[__m512i; R]; P],
    ) {
        // SAFETY: AVX-512 and VNNI are there
        unsafe {
            // unsigned times signed: 128 is added to each code here and taken off in `total_q8`
            for p in 0..P {
                let codes = _mm512_xor_si512(words[p], _mm512_set1_epi8(-128));
                for r in 0..R {
                    sums[p][r] = _mm512_dpbusd_epi32(sums[p][r], codes, _mm512_set1_epi32(rows[0][r] as i32));
                }
            }
        }
    }

    #[inline(always)]
    fn total_q4(self, sums: __m512i) -> __m512 {
        // SAFETY: AVX-512 is there
        unsafe { _mm512_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    fn total_q8(self, sums: __m512i, bias: i32) -> __m512 {
        // SAFETY: AVX-512 is there
        unsafe { _mm512_cvtepi32_ps(_mm512_add_epi32(sums, _mm512_set1_epi32(bias))) }
    }

    #[inline(always)]
    fn halves(self, words: __m512i, high: bool) -> __m512 {
        // SAFETY: AVX-512 is there
        unsafe {
            let words = if high { words } else { _mm512_slli_epi32::<16>(words) };
            // sign, exponent and mantissa in f32's places; the product mends the exponent's bias, subnormals too
            let bits = _mm512_and_si512(_mm512_srai_epi32::<3>(words), _mm512_set1_epi32(tile::HALF_MASK));
            _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(tile::HALF_REBIAS))
        }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: AVX-512 is there
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: AVX-512 is there
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: AVX-512 is there
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn store(self, values: __m512, out: &mut [f32; OUTPUTS], _part: usize) {
        // SAFETY: AVX-512 is there; the array has 64 bytes
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) }
    }
}
