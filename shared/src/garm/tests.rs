//! Which directions pairs and anchors leave open (method B.2.3): ranks of the Jacobian, exact derivatives.
//! [`simulation`] fits heads where those directions matter.

mod simulation;

use super::Gaussian;
use super::effective::{penalised, win_probability};
use super::epistemic::epistemic_variance;
use super::pair::preference_probability;
use super::slate::click_probability;
use crate::click_model::identify::Basis;
use crate::metrics::assert_close;

/// Parameters (mu_1, v_1, mu_2, v_2, ...) that no pair of the items and no threshold event fixes.
fn n_open(items: &[(f64, f64)], thresholds: &[f64], noise: f64) -> usize {
    let n = items.len();
    let mut basis = Basis::default();
    for i in 0..n {
        for j in 0..i {
            let (d, s2) = (items[i].0 - items[j].0, items[i].1 + items[j].1 + noise);
            let mut row = vec![0.0; 2 * n];
            row[2 * i] = 1.0 / s2.sqrt();
            row[2 * j] = -1.0 / s2.sqrt();
            row[2 * i + 1] = -0.5 * d / s2.powf(1.5);
            row[2 * j + 1] = row[2 * i + 1];
            basis.insert(&row);
        }
        for tau in thresholds {
            // z = (mu - tau)/sqrt(v)
            let mut row = vec![0.0; 2 * n];
            row[2 * i] = 1.0 / items[i].1.sqrt();
            row[2 * i + 1] = -0.5 * (items[i].0 - tau) / items[i].1.powf(1.5);
            basis.insert(&row);
        }
    }
    2 * n - basis.rank()
}

const GENERIC: [(f64, f64); 6] = [(0.3, 0.5), (-0.8, 1.4), (1.1, 0.9), (0.05, 2.2), (-1.7, 0.35), (0.6, 1.05)];

#[test]
fn pairs_alone_leave_shift_and_scale_open() {
    for (n, want) in [(2, 3), (3, 3), (4, 2), (5, 2), (6, 2)] {
        assert_eq!(n_open(&GENERIC[..n], &[], 0.0), want, "{n} items");
        assert_eq!(n_open(&GENERIC[..n], &[], 0.7), want, "{n} items, a known noise fixes nothing");
    }
}

#[test]
fn equal_variances_leave_one_direction_more() {
    for n in 3..=6 {
        let equal: Vec<(f64, f64)> = GENERIC[..n].iter().map(|(mu, _)| (*mu, 1.0)).collect();
        assert_eq!(n_open(&equal, &[], 0.0), 3, "{n} items");
    }
}

#[test]
fn one_threshold_leaves_the_scale_open_and_two_nothing() {
    for n in 2..=6 {
        assert_eq!(n_open(&GENERIC[..n], &[0.2], 0.0), 1, "{n} items");
        assert_eq!(n_open(&GENERIC[..n], &[0.0, 1.0], 0.0), 0, "{n} items");
    }
}

/// What a checkpoint can hold of a temperature T, means divided by it, is what it stands for, sigmas multiplied by it, in units
/// of T.
#[test]
fn means_over_t_are_sigmas_times_t_in_another_unit() {
    for t in [0.4, 1.0, 2.5] {
        let written = |i: usize| Gaussian::new(GENERIC[i].0 / t, GENERIC[i].1);
        let meant = |i: usize| Gaussian::new(GENERIC[i].0, t * t * GENERIC[i].1);
        // kappa is a share of v, and so takes the square of the unit with it
        let [written_ep, meant_ep] = [0.25, 0.25 * t * t].map(|kappa| epistemic_variance(40.0, 16, kappa).sqrt());
        for i in 0..GENERIC.len() {
            let reward = |r: Gaussian, ep: f64| penalised(r.mean, r.std(), ep, 0.25, 1.0);
            assert_close("mu - k sigma", t * reward(written(i), written_ep), reward(meant(i), meant_ep), 1e-12);
            for (tau, in_unit) in [(0.0, 0.0), (1.0, 1.0 / t)] {
                let want = click_probability(meant(i), tau);
                assert_close("past a threshold", click_probability(written(i), in_unit), want, 1e-12);
            }
            for k in 0..i {
                let want = preference_probability(meant(i), meant(k));
                assert_close("pair", preference_probability(written(i), written(k)), want, 1e-12);
                assert_close("win", win_probability(written(i), written(k)), want, 1e-12);
            }
        }
    }
}
