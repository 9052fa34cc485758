//! Spreads whose truth is known.

use super::*;
use beckon_shared::metrics::assert_close;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn score(mean: f32, std: f32) -> Score {
    Score { reward_mean: mean, aleatoric_std: std, epistemic_std: 0.0 }
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// `n` texts in tests of four, text i clicked with the log odds `logit(i)` in 20,000 showings.
fn counts(n: usize, rng: &mut ChaCha8Rng, mut logit: impl FnMut(usize, &mut ChaCha8Rng) -> f64) -> Vec<Counts> {
    let of = |i: usize| {
        let p = 1.0 / (1.0 + (-logit(i, rng)).exp());
        let n = 20_000.0;
        Counts {
            group: (i / 4).to_string(),
            prompt: Prompt::from_query("q"),
            text: i.to_string(),
            n_impressions: n as u64,
            n_clicks: (n * p + (n * p * (1.0 - p)).sqrt() * normal(rng)).round() as u64,
        }
    };
    (0..n).map(of).collect()
}

#[test]
fn dispersion_sees_variance_that_is_there_and_none_that_is_not() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let true_std = |i: usize| if i.is_multiple_of(2) { 0.05 } else { 0.8 };
    let counts = counts(600, &mut rng, |i, rng| true_std(i) * normal(rng) - 2.0);
    let scored = |std: &dyn Fn(usize) -> f64| -> Vec<(&Counts, Score)> {
        counts.iter().enumerate().map(|(i, c)| (c, score((i % 7) as f32 * 0.1, std(i) as f32))).collect()
    };
    let right = dispersion(&scored(&true_std)).expect("enough texts").spearman;
    let blind = dispersion(&scored(&|i| (i % 5) as f64)).expect("enough texts").spearman;
    // a single squared residual says little of its variance, so even the truth ranks only about 0.4
    assert!(right > 0.3, "{right}");
    // 3.5 standard errors of a rank correlation of 600
    assert!(blind.abs() < 0.15, "{blind}");
    assert!(dispersion(&scored(&|_| 1.0)[..10]).is_none());
}

#[test]
fn a_spread_of_the_right_width_is_told_from_a_narrow_and_a_wide_one() {
    const N: usize = 2_000;
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let means: Vec<f64> = (0..N).map(|_| normal(&mut rng)).collect();
    // a unit of GaRM's scale is 0.4 logits; tests have base rates of their own
    let utility = |i: usize, rng: &mut ChaCha8Rng| means[i] + 0.7 * normal(rng);
    let counts = counts(N, &mut rng, |i, rng| 0.4 * utility(i, rng) - 2.0 - 0.2 * ((i / 4) % 8) as f64);
    let judged = |mean: f64, std: f64| {
        let scored = counts.iter().zip(&means).map(|(c, mu)| (c, score((mean * mu) as f32, std as f32)));
        dispersion(&scored.collect::<Vec<_>>()).expect("enough texts")
    };
    let (right, narrow, wide) = (judged(1.0, 0.7), judged(1.0, 0.2), judged(1.0, 3.0));
    assert_close("slope", right.slope, 0.4, 0.03);
    assert!((0.85..1.18).contains(&right.z_score_variance), "{right:?}");
    assert!(narrow.z_score_variance > 3.0 && wide.z_score_variance < 0.3, "{narrow:?} {wide:?}");
    assert!(right.crps < narrow.crps && right.crps < wide.crps, "{right:?} {narrow:?} {wide:?}");
    assert!(right.crps < right.crps_of_constant, "{right:?}");
    let doubled = judged(2.0, 1.4);
    assert_close("another unit, the same distribution", doubled.crps, right.crps, 1e-6);
    let against = judged(-1.0, 0.7);
    assert!(
        against.z_score_variance.is_nan() && against.crps.is_nan() && against.crps_of_constant > 0.0,
        "{against:?}"
    );
}
