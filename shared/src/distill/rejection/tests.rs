//! Oracle C12; how often each candidate is taken follows its score.

use super::*;
use crate::metrics::assert_close;
use rand::SeedableRng;

const TEXTS: [&str; 4] = ["fitbit battery life", "pair a new phone", "reset to factory state", "sleep tracking"];

#[test]
fn c12() {
    for (p, want) in acceptance(&[0.2, 1.0, 1.5, 0.9], 0.5).iter().zip([0.074273578, 0.367879441, 1.0, 0.301194212]) {
        assert_close("acceptance", *p, want, 1e-9);
    }
    assert!(acceptance(&[], 0.5).is_empty());
}

#[test]
fn better_candidates_are_taken_more_often_and_temperature_decides_how_much() {
    let scores = [0.0, 0.5, 1.0, 0.2];
    let shares = |temperature: f64| {
        let config = DistillConfig { n_select: 1, temperature, ..DistillConfig::default() };
        let mut counts = [0usize; 4];
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..8_000 {
            counts[sample(&scores, &TEXTS, &config, &mut rng)[0]] += 1;
        }
        counts.map(|n| n as f64 / 8_000.0)
    };
    let cold = shares(0.02);
    assert!(cold[2] > 0.99, "{cold:?}");
    let warm = shares(0.5);
    assert!(warm[2] > warm[1] && warm[1] > warm[3] && warm[3] > warm[0] && warm[0] > 0.02, "{warm:?}");
    let hot = shares(1e3);
    assert!(hot.iter().all(|share| (share - 0.25).abs() < 0.02), "{hot:?}");
}

#[test]
fn of_two_that_say_nearly_the_same_one_is_taken() {
    let texts = ["fitbit battery life", "fitbit battery life?", "sleep tracking"];
    let config = DistillConfig { n_select: 3, ..DistillConfig::default() };
    for seed in 0..20 {
        let taken = sample(&[1.0, 1.0, 0.0], &texts, &config, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(taken.len(), 2, "{taken:?}");
        assert!(taken.contains(&2));
    }
}

#[test]
fn enough_candidates_are_found_where_there_are_enough() {
    let config = DistillConfig { n_select: 3, ..DistillConfig::default() };
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut taken = sample(&[-9.0, 0.0, 9.0, -3.0], &TEXTS, &config, &mut rng);
    assert_eq!(taken.len(), 3);
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), 3);
}
