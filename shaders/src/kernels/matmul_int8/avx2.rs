//! The integer product with AVX2: 8 outputs a register.

#![allow(unsafe_code)] // intrinsics

use super::rows::Int8Rows;
use super::tile::{self, Simd};
use crate::panel::{Line, OUTPUTS, Panels};
use std::arch::x86_64::*;
use std::ops::Range;

/// Proof that the processor has AVX2.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    pub fn detect() -> Option<Self> {
        std::arch::is_x86_feature_detected!("avx2").then_some(Self(()))
    }
}

/// As [`super::matmul_int8`].
///
/// # Panics
/// If the processor lacks AVX2.
pub(super) fn matmul(panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) {
    let simd = Avx2::detect().expect("a path that is available");
    // SAFETY: detected
    unsafe { compiled(simd, panels, range, rows, out) }
}

#[target_feature(enable = "avx2")]
fn compiled(simd: Avx2, panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) {
    tile::matmul(simd, panels, range, rows, out);
}

impl Simd for Avx2 {
    const WIDTH: usize = 8;
    const TILE: usize = 8;
    const WORDS_Q4: usize = 2;
    const WORDS_Q8: usize = 1;
    type Words = __m256i;
    /// Q4: 16 sums in 16 bits, each of 16 products of at most 15 · 127; Q8: 8 sums in 32 bits.
    type Sums = __m256i;
    type Floats = __m256;

    #[inline(always)]
    fn parts(n_rows: usize) -> usize {
        if n_rows == 1 { 2 } else { 1 }
    }

    #[inline(always)]
    fn words(self, line: &Line, part: usize) -> __m256i {
        let words = &line.0[part * Self::WIDTH..(part + 1) * Self::WIDTH];
        // SAFETY: AVX2 is there; the slice has 32 bytes
        unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
    }

    #[inline(always)]
    fn no_sums(self) -> __m256i {
        // SAFETY: AVX2 is there
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn add_q4<const P: usize, const R: usize>(
        self,
        words: [__m256i; P],
        rows: &[[u32; R]],
        sums: &mut [[__m256i; R]; P],
    ) {
        // SAFETY: AVX2 is there
        unsafe {
            let nibbles = _mm256_set1_epi8(15);
            for p in 0..P {
                let low = _mm256_and_si256(words[p], nibbles);
                let high = _mm256_and_si256(_mm256_srli_epi16::<4>(words[p]), nibbles);
                for r in 0..R {
                    let of_low = _mm256_maddubs_epi16(low, _mm256_set1_epi32(rows[0][r] as i32));
                    let of_high = _mm256_maddubs_epi16(high, _mm256_set1_epi32(rows[1][r] as i32));
                    sums[p][r] = _mm256_add_epi16(sums[p][r], _mm256_add_epi16(of_low, of_high));
                }
            }
        }
    }

    #[inline(always)]
    fn add_q8<const P: usize, const R: usize>(
        self,
        words: [__m256i; P],
        rows: &[[u32; R]],
        sums: &mut [[__m256i; R]; P],
    ) {
        // SAFETY: AVX2 is there
        unsafe {
            // unsigned times signed; a pair of products is at most 2 · 128 · 127, which 16 bits hold
            for p in 0..P {
                let magnitudes = _mm256_abs_epi8(words[p]);
                for r in 0..R {
                    let signed = _mm256_sign_epi8(_mm256_set1_epi32(rows[0][r] as i32), words[p]);
                    let pairs = _mm256_maddubs_epi16(magnitudes, signed);
                    sums[p][r] = _mm256_add_epi32(sums[p][r], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
                }
            }
        }
    }

    #[inline(always)]
    fn total_q4(self, sums: __m256i) -> __m256 {
        // SAFETY: AVX2 is there
        unsafe { _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, _mm256_set1_epi16(1))) }
    }

    #[inline(always)]
    fn total_q8(self, sums: __m256i, _bias: i32) -> __m256 {
        // SAFETY: AVX2 is there
        unsafe { _mm256_cvtepi32_ps(sums) }
    }

    #[inline(always)]
    fn halves(self, words: __m256i, high: bool) -> __m256 {
        // SAFETY: AVX2 is there
        unsafe {
            let words = if high { words } else { _mm256_slli_epi32::<16>(words) };
            // sign, exponent and mantissa in f32's places; the product mends the exponent's bias, subnormals too
            let bits = _mm256_and_si256(_mm256_srai_epi32::<3>(words), _mm256_set1_epi32(tile::HALF_MASK));
            _mm256_mul_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(tile::HALF_REBIAS))
        }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: AVX2 is there
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 is there
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 is there
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn store(self, values: __m256, out: &mut [f32; OUTPUTS], part: usize) {
        let out = &mut out[part * Self::WIDTH..(part + 1) * Self::WIDTH];
        // SAFETY: AVX2 is there; the slice has 32 bytes
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) }
    }
}
