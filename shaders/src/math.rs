//! Scalar functions of the CPU twins, written so that LLVM vectorises their loops.
//!
//! No fused multiply-add and no platform's libm: the order of every sum and every rounding is in the
//! source, so a CPU executor gives the same bits natively and in wasm.

use crate::weight::BLOCK;

/// Values of one AVX register, of two with SSE2 or in wasm.
pub(crate) const LANES: usize = 8;

/// Sum of products of two equally long slices.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let [sum] = dots(a, [b]);
    sum
}

/// [`dot`] of a slice with each of N equally long ones.
#[inline(always)]
pub(crate) fn dots<const N: usize>(a: &[f32], b: [&[f32]; N]) -> [f32; N] {
    let (parts, rest) = a.as_chunks::<LANES>();
    let b = b.map(|b| b[..a.len()].as_chunks::<LANES>());
    let sums = sums_of_products(parts, b.map(|(b_parts, _)| &b_parts[..parts.len()]));
    if rest.is_empty() { sums } else { std::array::from_fn(|n| sums[n] + dot_of_few(rest, b[n].1)) }
}

/// Sum of products in order. Few need it, so it is not unrolled in each of its places.
#[cold]
#[inline(never)]
fn dot_of_few(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// See [`dots`]; all slices equally long.
#[cfg(not(all(target_arch = "wasm32", target_feature = "simd128")))]
#[inline(always)]
fn sums_of_products<const N: usize>(a: &[[f32; LANES]], b: [&[[f32; LANES]]; N]) -> [f32; N] {
    b.map(|b| {
        let mut sums = [0.0f32; LANES];
        for (a, b) in a.iter().zip(b) {
            for lane in 0..LANES {
                sums[lane] += a[lane] * b[lane];
            }
        }
        fold(&sums)
    })
}

/// The same sums in the same order, in the registers that LLVM does not find by itself.
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
#[inline(always)]
fn sums_of_products<const N: usize>(a: &[[f32; LANES]], b: [&[[f32; LANES]]; N]) -> [f32; N] {
    use std::arch::wasm32::*;
    let halves = |x: &[f32; LANES]| [f32x4(x[0], x[1], x[2], x[3]), f32x4(x[4], x[5], x[6], x[7])];
    let mut sums = [[f32x4_splat(0.0); 2]; N];
    for (i, a) in a.iter().enumerate() {
        let a = halves(a);
        for n in 0..N {
            let b = halves(&b[n][i]);
            for half in 0..2 {
                sums[n][half] = f32x4_add(sums[n][half], f32x4_mul(a[half], b[half]));
            }
        }
    }
    // as `fold`
    sums.map(|[low, high]| {
        let fours = f32x4_add(low, high);
        let pairs = f32x4_add(fours, i32x4_shuffle::<2, 3, 2, 3>(fours, fours));
        f32x4_extract_lane::<0>(pairs) + f32x4_extract_lane::<1>(pairs)
    })
}

/// The larger of two values; the first where the second is NaN. Not `f32::max`, which is a call in wasm.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Sum of products of two slices of whole blocks, in 32 partial sums: as many additions in flight as two
/// adders of eight lanes need.
#[inline(always)]
pub(crate) fn dot_of_blocks(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; BLOCK];
    for (a, b) in a.as_chunks::<BLOCK>().0.iter().zip(b.as_chunks::<BLOCK>().0) {
        for i in 0..BLOCK {
            sums[i] += a[i] * b[i];
        }
    }
    // LLVM would otherwise lay the loop's registers out for these additions and shuffle in the loop
    let s = std::hint::black_box(sums);
    fold(&std::array::from_fn(|i| (s[i] + s[i + LANES]) + (s[i + 2 * LANES] + s[i + 3 * LANES])))
}

/// Sum of a slice.
#[inline(always)]
pub(crate) fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (parts, rest) = values.as_chunks::<LANES>();
    for part in parts {
        for lane in 0..LANES {
            sums[lane] += part[lane];
        }
    }
    fold(&sums) + rest.iter().sum::<f32>()
}

/// Adds up partial sums pairwise.
#[inline(always)]
pub(crate) fn fold(s: &[f32; LANES]) -> f32 {
    ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}

/// e^x within 2 units in the last place for x in [-87, 88]; the ends are held outside, NaN stays NaN.
///
/// Source: Cephes `expf` (Moshier): 2^n e^r with |r| <= ln 2 / 2 and a polynomial of degree 6.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // adding and subtracting 1.5 * 2^23 rounds to the nearest whole number without a call
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + c;
    }
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    (p * r * r + r + 1.0) * f32::from_bits(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_a_few_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let want = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - want) / want).abs());
        }
        assert!(worst <= 2.0 * f64::from(f32::EPSILON), "relative error {worst}");
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 2e-38 && exp(f32::NEG_INFINITY) < 2e-38);
        assert!(exp(f32::INFINITY).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn dot_takes_any_length() {
        for n in [0, 1, 7, 8, 9, 31] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(dot(&a, &a), (0..n).map(|i| (i * i) as f32).sum::<f32>(), "{n}");
        }
    }
}
