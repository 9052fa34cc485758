//! Oracle F4 to F8, properties 4 and 5, and the rules that the fusion is compared with.

use super::*;
use crate::garm::Gaussian;
use crate::garm::effective::lower_confidence_bound;
use crate::metrics::assert_close;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

#[track_caller]
fn assert_all(name: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{name}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert_close(&format!("{name}[{i}]"), *g, *w, 1e-6);
    }
}

fn oracle_fusion() -> (TwoStage, Vec<Vec<f64>>) {
    let mu = [0.9, 0.2, 1.4, -0.3];
    let sigma: [f64; 4] = [0.4, 0.3, 1.2, 0.5];
    let garm = mu.iter().zip(sigma).map(|(m, s)| lower_confidence_bound(Gaussian::new(*m, s * s), 0.5)).collect();
    let components = vec![garm, vec![0.8, 0.7, 0.3, 0.9], vec![0.5, 0.6, 0.2, 0.55]];
    let fusion = TwoStage { weights: vec![1.0, 0.5, 0.25], std_floors: vec![0.1, 0.05, 0.05], clip: 3.0, margin: 1.0 };
    (fusion, components)
}

#[test]
fn oracle_f4_to_f6() {
    let (fusion, components) = oracle_fusion();
    let f4 = fusion.fuse(&components, &[true, true, true, false]).expect("some passed");
    assert_all("F4 u", &f4.utility, &[0.908229, -0.756821, -0.151407, -1.756821]);
    assert_all("F4 A", &f4.advantages(), &[1.796579, -0.423488, 0.383731, -1.756821]);
    let f5 = fusion.fuse(&components, &[true; 4]).expect("all passed");
    assert_all("F5 u", &f5.utility, &[1.005819, -0.079401, -0.203021, -0.723396]);
    let f6 = fusion.fuse(&components, &[false, true, false, false]).expect("one passed");
    assert_all("F6 u", &f6.utility, &[-1.0, 0.0, -1.0, -1.0]);
    let m = mean(&f6.utility);
    assert_all("F6 centred", &f6.utility.iter().map(|u| u - m).collect::<Vec<_>>(), &[-0.25, 0.75, -0.25, -0.25]);
    assert_eq!(fusion.fuse(&components, &[false; 4]), None);
}

#[test]
fn oracle_f7_and_f8() {
    assert_close("F7", soft_gate(&[0.9, 1.0, 0.5], 0.01), 0.769112035, 1e-9);
    assert_close("F7 with a zero", soft_gate(&[0.9, 1.0, 0.0], 0.01), 0.207395605, 1e-9);
    assert_close("F7 R", soft_gate(&[0.9, 1.0, 0.5], 0.01) * 0.533333333333, 0.410193085, 1e-9);
    let (mu, sigma) = ([2.0, -1.0, 0.5, -0.5], [0.3, 0.3, 1.0, 0.2]);
    let w = reliability_weights(&mu, &sigma);
    assert_all("F8 w", &w, &[0.941368, 0.941368, 0.591002, 0.973064]);
    let centre = mu.iter().zip(&w).map(|(m, w)| m * w).sum::<f64>() / w.iter().sum::<f64>();
    assert_close("F8 mean", centre, 0.217690797, 1e-9);
    let shrunk: Vec<f64> = mu.iter().zip(&w).map(|(m, w)| w * (m - centre)).collect();
    assert_all("F8 shrunk", &shrunk, &[1.677809, -1.146295, 0.166845, -0.698359]);
}

fn random_group(rng: &mut ChaCha8Rng, n: usize) -> Vec<Vec<f64>> {
    (0..3).map(|_| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}

#[test]
fn property_4_affine_maps_of_a_component_change_nothing() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let fusion = TwoStage { weights: vec![1.0, 0.5, 0.25], std_floors: vec![0.0; 3], clip: f64::INFINITY, margin: 1.0 };
    for _ in 0..50 {
        let group = random_group(&mut rng, 6);
        let passed: Vec<bool> = (0..6).map(|i| i < 3 || rng.random_bool(0.5)).collect();
        let moved: Vec<Vec<f64>> = group.iter().map(|c| c.iter().map(|v| 7.0 * v - 3.0).collect()).collect();
        let (a, b) = (fusion.fuse(&group, &passed).unwrap(), fusion.fuse(&moved, &passed).unwrap());
        assert_all("u", &a.utility, &b.utility);
    }
}

#[test]
fn property_5_a_failing_rollout_never_beats_a_passing_one() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (fusion, _) = oracle_fusion();
    for _ in 0..200 {
        let group = random_group(&mut rng, 8);
        let passed: Vec<bool> = (0..8).map(|_| rng.random_bool(0.6)).collect();
        let Some(fused) = fusion.fuse(&group, &passed) else { continue };
        let a = fused.advantages();
        let worst = a.iter().zip(&passed).filter(|(_, p)| **p).map(|(a, _)| *a).fold(f64::INFINITY, f64::min);
        let best = a.iter().zip(&passed).filter(|(_, p)| !**p).map(|(a, _)| *a).fold(f64::NEG_INFINITY, f64::max);
        assert!(best < worst, "failing {best} beats passing {worst}");
    }
}

#[test]
fn the_floor_is_a_share_of_the_median_spread() {
    let groups = [vec![0.0, 2.0], vec![0.0, 0.2], vec![0.0, 1.0]];
    assert_close("floor", std_floor(&groups, 0.01), 0.3 * 0.5f64.sqrt(), 1e-12);
    assert_close("minimum", std_floor(&[vec![1.0, 1.0]], 0.01), 0.01, 1e-12);
}

#[test]
fn every_rule_prefers_the_better_of_two_that_pass() {
    let (constants, _) = oracle_fusion();
    let components = vec![vec![1.0, -1.0], vec![0.9, 0.1], vec![0.6, 0.4]];
    for rule in [Fusion::TwoStage, Fusion::SumThenNormalise, Fusion::NormaliseThenSum, Fusion::SoftGate] {
        let u = rule.utilities(&constants, &components, &[true, true], |_, _| {}).expect("both passed");
        assert!(u[0] > u[1], "{rule:?}: {u:?}");
    }
}

#[test]
fn only_the_two_stage_rule_is_a_veto() {
    let (constants, _) = oracle_fusion();
    // the failing one has by far the best scores, as a hacked reward would
    let components = vec![vec![9.0, 1.0, 1.0], vec![0.9, 0.1, 0.1], vec![0.2, 0.2, 0.2]];
    let passed = [false, true, true];
    let best = |rule: Fusion| {
        let u = rule.utilities(&constants, &components, &passed, |_, _| {}).expect("some passed");
        (0..3).max_by(|a, b| u[*a].total_cmp(&u[*b]))
    };
    assert_ne!(best(Fusion::TwoStage), Some(0));
    assert_eq!(best(Fusion::SumThenNormalise), Some(0));
    assert_eq!(best(Fusion::NormaliseThenSum), Some(0));
    // one hard score at zero is a hundredth; with three scores it would be a fifth
    assert_ne!(best(Fusion::SoftGate), Some(0));
    assert_eq!(Fusion::TwoStage.utilities(&constants, &components, &[false; 3], |_, _| {}), None);
}

/// The veto belongs to no rule: what is compared with the two-stage rule differs from it in the fusion alone.
#[test]
fn praise_can_be_taken_away_under_every_rule() {
    let (constants, _) = oracle_fusion();
    let components = vec![vec![3.0, 0.0, 0.2, 0.1], vec![0.5; 4], vec![0.4; 4]];
    let lead = |rule: Fusion, veto: bool| {
        let adjust = |m: usize, z: &mut [f64]| {
            if veto && m == 0 {
                z[0] = z[0].min(0.0);
            }
        };
        let u = rule.utilities(&constants, &components, &[true; 4], adjust).expect("all pass");
        u[0] - u[2]
    };
    for rule in [Fusion::TwoStage, Fusion::SumThenNormalise, Fusion::NormaliseThenSum, Fusion::SoftGate] {
        let (before, after) = (lead(rule, false), lead(rule, true));
        assert!(after < 0.6 * before, "{rule:?}: from {before} to {after}");
    }
}

#[test]
fn single_stage_rules_are_the_published_ones_with_the_gate_as_a_component() {
    let constants = TwoStage { weights: vec![1.0, 0.5], std_floors: vec![0.1; 2], clip: 3.0, margin: 1.0 };
    // all pass: the gate is constant and adds nothing (oracle F3, first group)
    let components = vec![vec![0.9, 0.4, 0.1, 0.6], vec![0.2, 0.8, 0.5, 0.5]];
    let of = |rule: Fusion| rule.utilities(&constants, &components, &[true; 4], |_, _| {}).expect("all pass");
    assert_all("GDPO", &of(Fusion::NormaliseThenSum), &[0.575702, 0.315166, -1.187824, 0.296956]);
    assert_all("sum first", &of(Fusion::SumThenNormalise), &[0.892918, 0.178584, -1.428669, 0.357167]);
}

#[test]
fn components_enter_the_soft_gate_between_zero_and_one() {
    for (m, value, want) in
        [(0, 0.0, 0.5), (0, -50.0, 0.0), (1, 0.3, 0.3), (4, -0.25, 0.75), (4, -3.0, 0.0), (1, 1.2, 1.0)]
    {
        assert_close("unit", in_unit_interval(m, value), want, 1e-12);
    }
    assert_close("no weight", weighted_mean(&[1.0], &[0.0]), 0.0, 0.0);
}

#[test]
fn rules_have_names_in_a_configuration() {
    let names = [Fusion::TwoStage, Fusion::SumThenNormalise, Fusion::NormaliseThenSum, Fusion::SoftGate]
        .map(|rule| serde_json::to_value(rule).expect("a name"));
    assert_eq!(names, ["two_stage", "sum_then_normalise", "normalise_then_sum", "soft_gate"]);
}
