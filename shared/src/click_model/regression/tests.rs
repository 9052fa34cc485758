//! Slots are found from features alone, and refused where features only repeat the slot.

use super::*;
use crate::click_model::log::ClickLog;
use crate::metrics::assert_close;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const THETA: [f64; 3] = [1.0, 0.7, 0.5];

/// Every item is shown once; its feature decides its attraction, `feature_of(slot, draw)` what it is.
fn unique_items(n: usize, feature_of: impl Fn(usize, f64) -> f64) -> (ClickLog, Vec<Vec<f64>>) {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut features = Vec::new();
    let slates: Vec<(usize, Vec<(usize, bool)>)> = (0..n)
        .map(|s| {
            let slots = (0..3)
                .map(|k| {
                    let f = feature_of(k, rng.random_range(-1.0..1.0));
                    features.push(vec![f]);
                    let p = THETA[k] * sigmoid(-1.0 + f);
                    (features.len() - 1, rng.random::<f64>() < p)
                })
                .collect();
            (s, slots)
        })
        .collect();
    (ClickLog::from_slates(slates), features)
}

#[test]
fn unique_strings_tell_the_slots_through_their_features() {
    // better ones stand further up, so raw rates would be wrong
    let (log, features) = unique_items(40_000, |slot, draw| draw + 0.5 * (1.0 - slot as f64));
    let cells = log.cells(&log.equal_weights());
    assert_eq!(rank(&cells, &features, 3), 2);
    let model = fit(&cells, &features, 3);
    for (got, want) in model.position.theta.iter().zip(THETA) {
        assert_close("theta", *got, want, 0.04);
    }
    assert_close("slope", model.weights[1], 1.0, 0.1);
    let rate = |k: usize| {
        let of = |f: fn(&Cell) -> f64| cells.iter().filter(|c| c.slot == k).map(f).sum::<f64>();
        of(|c| c.clicked) / of(|c| c.shown)
    };
    assert!((rate(2) / rate(0) - THETA[2]).abs() > 0.1, "raw rates are confounded here: {}", rate(2) / rate(0));
}

#[test]
fn a_feature_that_repeats_the_slot_measures_nothing() {
    let (log, features) = unique_items(500, |slot, _| slot as f64);
    // one contrast of two is taken by the feature
    assert_eq!(rank(&log.cells(&log.equal_weights()), &features, 3), 1);
    let (log, _) = unique_items(500, |_, draw| draw);
    let by_slot: Vec<Vec<f64>> = (0..log.n_items).map(|i| vec![f64::from(i % 3 == 1), f64::from(i % 3 == 2)]).collect();
    assert_eq!(rank(&log.cells(&log.equal_weights()), &by_slot, 3), 0);
}

#[test]
fn a_small_system_is_solved_and_a_singular_one_refused() {
    let x = solve(vec![vec![4.0, 0.0], vec![2.0, 3.0]], vec![8.0, 7.0]).expect("positive definite");
    assert_close("x", x[0], 1.25, 1e-12);
    assert_close("y", x[1], 1.5, 1e-12);
    assert_eq!(solve(vec![vec![1.0, 0.0], vec![1.0, 1.0]], vec![1.0, 1.0]), None);
}
