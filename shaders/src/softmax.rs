//! Weights of a softmax over a whole vocabulary, written so that LLVM vectorises the loops: in f64 for what is drawn
//! from, in f32 for a sum that is only told.
//!
//! In the loop: under the sampling of every token. A vocabulary of 49,152 tokens and eight candidates are 400,000
//! exponentials a step: with a platform's `exp` they would take as long as the network. They stand here and not beside
//! the sampling because the page compiles this crate for speed and that one for size. No fused multiply-add, so the
//! bits are the same everywhere.

use crate::math::{self, LANES, larger};

/// Values that are computed together.
pub const PART: usize = 64;

/// The largest of each [`PART`] of logits; positive infinity where one is no logit: NaN, or that itself.
pub fn peaks(logits: &[f32]) -> Vec<f32> {
    logits.chunks(PART).map(peak).collect()
}

/// See [`peaks`].
fn peak(part: &[f32]) -> f32 {
    // NaN is less than nothing
    let held = |value: f32| if value < f32::INFINITY { value } else { f32::INFINITY };
    let mut peaks = [f32::NEG_INFINITY; LANES];
    let (parts, rest) = part.as_chunks::<LANES>();
    for values in parts {
        for lane in 0..LANES {
            peaks[lane] = larger(peaks[lane], held(values[lane]));
        }
    }
    peaks.into_iter().chain(rest.iter().map(|value| held(*value))).fold(f32::NEG_INFINITY, larger)
}

/// Sum of `exp(logit - peak)` over all logits, within a millionth of it: a fraction of the time of [`mass`], for what
/// nothing is drawn from. `peak` is the largest logit.
pub fn mass_in_f32(logits: &[f32], peak: f32) -> f64 {
    let (parts, rest) = logits.as_chunks::<PART>();
    let of_part = |part: &[f32; PART]| f64::from(math::sum(&part.map(|logit| math::exp(logit - peak))));
    let rest: f64 = rest.iter().map(|logit| f64::from(math::exp(logit - peak))).sum();
    parts.iter().map(of_part).sum::<f64>() + rest
}

/// e^x for x <= 0, within 4e-16 of it relatively; 0 below -708 (where f64 would become subnormal). NaN stays NaN.
///
/// 2^n e^r with |r| <= ln 2 / 2, and e^r by its Taylor series to the 12th power: the rest is below 2e-16.
#[inline(always)]
pub fn exp_of_negative(x: f64) -> f64 {
    // 1.5 · 2^52: adding it rounds to the nearest whole number and leaves it in the low bits
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // ln 2 in two parts, the first with zeros at its end so that n times it is exact
    const LN_2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
    let held = if x < -708.0 { -708.0 } else { x };
    let shifted = held * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (held - n * LN_2[0]) - n * LN_2[1];
    let mut series = 1.0 / 479_001_600.0;
    for factorial in [39_916_800.0, 3_628_800.0, 362_880.0, 40_320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        series = series * r + 1.0 / factorial;
    }
    let power = f64::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(1023) << 52);
    if x < -708.0 { 0.0 } else { series * power }
}

/// Weights `exp((logit - peak) · steepness)` of one part, 0 behind its end; `peak` is the largest logit.
#[inline(always)]
pub fn weights(logits: &[f32], peak: f64, steepness: f64) -> [f64; PART] {
    let mut weights = [f64::NEG_INFINITY; PART];
    for (weight, logit) in weights.iter_mut().zip(logits) {
        *weight = f64::from(*logit);
    }
    weights.map(|logit| exp_of_negative((logit - peak) * steepness))
}

/// Sum of one part.
#[inline(always)]
pub fn sum(weights: &[f64; PART]) -> f64 {
    let mut sums = [0.0f64; LANES];
    for weights in weights.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            sums[lane] += weights[lane];
        }
    }
    ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]))
}

/// Sum of all weights.
pub fn mass(logits: &[f32], peak: f64, steepness: f64) -> f64 {
    logits.chunks(PART).map(|part| sum(&weights(part, peak, steepness))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_to_a_few_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in 0..=708_000 {
            let x = -f64::from(i) / 1000.0;
            worst = worst.max(((exp_of_negative(x) - x.exp()) / x.exp()).abs());
        }
        assert!(worst <= 4e-16, "relative error {worst}");
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert_eq!((exp_of_negative(-1e300), exp_of_negative(f64::NEG_INFINITY)), (0.0, 0.0));
        assert!(exp_of_negative(f64::NAN).is_nan());
    }

    #[test]
    fn peaks_are_those_of_the_parts_and_tell_what_is_no_logit() {
        let logits: Vec<f32> = (0..150).map(|i| -((i * 37 % 101) as f32)).collect();
        let largest = |part: &[f32]| part.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert_eq!(peaks(&logits), logits.chunks(PART).map(largest).collect::<Vec<_>>());
        assert_eq!((peaks(&[]), peaks(&[f32::NEG_INFINITY; 64])), (vec![], vec![f32::NEG_INFINITY]));
        for place in [0, 63, 64, 127, 128, 149] {
            for strange in [f32::NAN, f32::INFINITY] {
                let mut logits = logits.clone();
                logits[place] = strange;
                let found: Vec<bool> = peaks(&logits).iter().map(|peak| *peak == f32::INFINITY).collect();
                assert_eq!(found, (0..3).map(|part| part == place / PART).collect::<Vec<_>>(), "{strange} at {place}");
            }
        }
    }

    #[test]
    fn the_mass_is_the_sum_of_all() {
        for n in [1, 63, 64, 65, 1000] {
            let logits: Vec<f32> = (0..n).map(|i| -((i * 37 % 101) as f32) / 8.0).collect();
            let want: f64 = logits.iter().map(|l| (f64::from(*l) * 0.7).exp()).sum();
            let ratio = mass(&logits, 0.0, 0.7) / want;
            assert!((ratio - 1.0).abs() <= 1e-14, "{n}: {ratio}");
            let ratio = mass_in_f32(&logits, 0.0) / logits.iter().map(|l| f64::from(*l).exp()).sum::<f64>();
            assert!((ratio - 1.0).abs() <= 1e-6, "{n} in f32: {ratio}");
        }
    }
}
