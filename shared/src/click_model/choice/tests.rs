//! Oracle C7, gradients, and recovery of known slot weights.

use super::*;
use crate::metrics::assert_close;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const U: [f64; 3] = [0.5, 0.0, -0.3];
const B: [f64; 3] = [0.0, -0.4, -0.8];

#[test]
fn c7_probabilities_losses_and_gradient() {
    let (none, p) = probabilities(&U, &B, 1.2);
    assert_close("none", none, 0.555944511, 1e-9);
    for (p, want) in p.iter().zip([0.276073874, 0.112243261, 0.055738354]) {
        assert_close("P", *p, want, 1e-9);
    }
    let click = nll(&U, &B, 1.2, Some(1));
    assert_close("NLL of a click", click.nll, 2.187086790, 1e-9);
    for (g, want) in click.d_utility.iter().zip([0.276073874, -0.887756739, 0.055738354]) {
        assert_close("gradient", *g, want, 1e-9);
    }
    assert_close("NLL of no click", nll(&U, &B, 1.2, None).nll, 0.587086790, 1e-9);
}

#[test]
fn the_gradient_is_a_finite_difference_also_far_out() {
    let h = 1e-6;
    for scale in [1.0, 30.0, 300.0] {
        let u = U.map(|x| x * scale);
        for click in [None, Some(0), Some(2)] {
            let got = nll(&u, &B, 0.0, click);
            assert!(got.nll.is_finite() || scale > 100.0, "{got:?}");
            for j in 0..3 {
                let at = |d: f64| {
                    let mut u = u;
                    u[j] += d;
                    nll(&u, &B, 0.0, click).nll
                };
                let slope = (at(h) - at(-h)) / (2.0 * h);
                if slope.is_finite() {
                    assert_close("du", got.d_utility[j], slope, 1e-5);
                }
            }
        }
    }
}

/// `n` slates of three out of 20 items; order as `order` makes it; clicks by the model.
fn simulate(n: usize, v: [f64; 3], seed: u64, order: impl Fn(&mut Vec<usize>, &mut ChaCha8Rng)) -> ClickLog {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let w: Vec<f64> = (0..20).map(|i| 0.05 + 0.02 * f64::from(i)).collect();
    let slates: Vec<(usize, Vec<(usize, bool)>)> = (0..n)
        .map(|s| {
            let mut items: Vec<usize> = (0..20).collect();
            items.shuffle(&mut rng);
            items.truncate(3);
            order(&mut items, &mut rng);
            let total = 1.0 + (0..3).map(|k| w[items[k]] * v[k]).sum::<f64>();
            let mut draw = rng.random::<f64>() * total;
            let click = (0..3).find(|&k| {
                draw -= w[items[k]] * v[k];
                draw < 0.0
            });
            (s % 500, (0..3).map(|k| (items[k], click == Some(k))).collect())
        })
        .collect();
    ClickLog::from_slates(slates)
}

#[test]
fn slot_weights_are_found_whether_slates_are_shuffled_or_sorted() {
    let v = [1.0, 0.6, 0.35];
    let shuffled = simulate(60_000, v, 1, |items, rng| items.shuffle(rng));
    let sorted = simulate(60_000, v, 2, |items, _| items.sort_unstable_by(|a, b| b.cmp(a)));
    for (log, tol) in [(shuffled, 0.03), (sorted, 0.05)] {
        let model = ChoiceModel::start(&log).fitted(&log, &log.equal_weights(), 0.5);
        for (got, want) in model.slot_weights.iter().zip(v) {
            assert_close("v", *got, want, tol);
        }
        assert!(model.item_weights[19] > 3.0 * model.item_weights[0]);
    }
}

#[test]
fn a_slate_with_two_clicks_counts_as_one_choice() {
    let two = ClickLog::from_slates((0..40).map(|s| (s, vec![(0, true), (1, true)])));
    let model = ChoiceModel::start(&two).fitted(&two, &two.equal_weights(), 0.5);
    assert_close("alike", model.slot_weights[1], 1.0, 0.05);
}

#[test]
fn shares_alone_find_the_slots() {
    // four items, every order of three, shares as the model has them
    let (w, v) = ([1.0, 0.7, 0.4, 0.9], [1.0, 0.5, 0.3]);
    let mut panes = Vec::new();
    for a in 0..4 {
        for b in (0..4).filter(|b| *b != a) {
            for c in (0..4).filter(|c| *c != a && *c != b) {
                let weights = [w[a] * v[0], w[b] * v[1], w[c] * v[2]];
                let total: f64 = weights.iter().sum();
                panes.push([a, b, c].iter().enumerate().map(|(k, i)| (*i, k, weights[k] / total)).collect());
            }
        }
    }
    let model = fit_shares(&panes, &vec![1.0; panes.len()], 3, 4, 1e-3);
    for (got, want) in model.slot_weights.iter().zip(v) {
        assert_close("v", *got, want, 2e-3);
    }
    assert_close("w", model.item_weights[2] / model.item_weights[0], 0.4, 2e-3);
}
