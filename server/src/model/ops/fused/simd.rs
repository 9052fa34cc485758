//! Loops that the compiler turns into vector instructions: dispatch to the processor's widest, an
//! exponential without branches, sums in a fixed order.
//!
//! No operation here depends on the width of the vectors: sums run over [`LANES`] partial sums whatever the
//! processor has, and nothing is contracted to a fused multiply-add. A result is thus the same on every machine.

/// Partial sums of a reduction; one AVX-512 register of f32.
pub const LANES: usize = 16;

/// Runs `work`, compiled for the widest vector instructions that the processor has. Only what is inlined into
/// `work` profits: pass closures over plain loops.
#[inline]
pub fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn avx512<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        #[target_feature(enable = "avx2,fma")]
        fn avx2<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if has_avx2 && has_avx512 {
            // SAFETY: every feature that the function is compiled with was just detected.
            #[expect(unsafe_code, reason = "a function with target features is called after their detection")]
            return unsafe { avx512(work) };
        }
        if has_avx2 {
            // SAFETY: as above.
            #[expect(unsafe_code, reason = "a function with target features is called after their detection")]
            return unsafe { avx2(work) };
        }
    }
    work()
}

/// e^x with a relative error below 2e-7 for -87.3 <= x <= 88.3; outside, the value at the nearer end (1.2e-38 or
/// 2.2e38, so never zero or infinite). NaN stays NaN.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial of degree 6 for e^r (Cephes' `expf`), and 2^n put together
/// from bits.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    /// Adding and taking away 1.5 · 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    (p * r * r + r + 1.0) * power
}

/// Logistic function 1 / (1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Sum over pairs of `term(a, b)`, in [`LANES`] partial sums that are added in order.
///
/// # Panics
/// If the slices differ in length.
#[inline(always)]
pub fn sum_of(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    assert_eq!(a.len(), b.len(), "sum_of: slices of one length");
    let mut lanes = [0.0f32; LANES];
    let (heads, tails) = ((a.chunks_exact(LANES), b.chunks_exact(LANES)), a.len() / LANES * LANES);
    for (x, y) in heads.0.zip(heads.1) {
        for i in 0..LANES {
            lanes[i] += term(x[i], y[i]);
        }
    }
    let tail: f32 = a[tails..].iter().zip(&b[tails..]).map(|(x, y)| term(*x, *y)).sum();
    lanes.iter().sum::<f32>() + tail
}

/// Largest value; negative infinity for an empty slice.
#[inline(always)]
pub fn max(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m });
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.iter().fold(tail, |m, x| if *x > m { *x } else { m })
}

/// Replaces each value by e^(value - shift) and gives the sum of the results, in [`LANES`] partial sums.
#[inline(always)]
pub fn exp_in_place(values: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let mut chunks = values.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            chunk[i] = exp(chunk[i] - shift);
            lanes[i] += chunk[i];
        }
    }
    let mut tail = 0.0;
    for value in chunks.into_remainder() {
        *value = exp(*value - shift);
        tail += *value;
    }
    lanes.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests;
