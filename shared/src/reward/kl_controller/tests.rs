//! Moves in the right direction, at the right pace, within bounds.

use super::*;
use crate::metrics::assert_close;

fn after(kl: f64, n: usize) -> f64 {
    let mut controller = KlController::new(0.03);
    for _ in 0..n {
        controller.observe(kl, 4.0);
    }
    controller.beta
}

#[test]
fn the_coefficient_follows_the_budget() {
    assert_close("half as much again", after(6.0, 1), 0.03 * 1.1, 1e-15);
    assert_close("twice", after(8.0, 2), 0.03 * 1.2 * 1.2, 1e-15);
    assert_close("no faster than at twice", after(80.0, 20), 0.03 * 1.2_f64.powi(20), 1e-12);
    for kl in [2.1, 4.0] {
        assert_close("from half of the budget to all of it", after(kl, 100), 0.03, 0.0);
    }
    assert_close("near, as every run begins", after(0.0, PATIENCE), 0.03, 0.0);
    assert_close("still near", after(1.0, 2 * PATIENCE), 0.02, 1e-12);
}

#[test]
fn one_wild_step_moves_little() {
    let mut controller = KlController::new(0.03);
    (0..10).for_each(|_| controller.observe(3.0, 4.0));
    controller.observe(9.0, 4.0);
    assert_close("3 + 6/5 nats", controller.beta, 0.03 * (1.0 + 0.2 * 0.05), 1e-12);
    assert_close("at once", controller.coefficient(4.0), controller.beta * 1.05_f64.powi(2), 1e-12);
    controller.observe(3.0, 4.0);
    assert_close("below", controller.coefficient(4.0), controller.beta, 0.0);
    controller.observe(f64::NAN, 4.0);
    assert!(controller.kl.is_finite());
}

/// A policy that walks away by so much a step and is drawn back by the coefficient; from a thirtieth of what holds it.
#[test]
fn a_policy_that_walks_away_is_held_near_the_budget() {
    for (beta, away, back) in [(0.01, 0.3, 0.2), (0.03, 0.6, 0.3), (1.0, 0.3, 0.2)] {
        let (mut controller, mut kl, mut worst) = (KlController::new(beta), 0.0_f64, 0.0_f64);
        for _ in 0..60 {
            kl += away - back * controller.coefficient(4.0) * kl;
            worst = worst.max(kl);
            controller.observe(kl, 4.0);
        }
        assert!(worst < 10.0, "from {beta} by {away}: at worst {worst}");
        assert!((1.0..5.0).contains(&kl), "from {beta} by {away}: {kl}");
    }
}

#[test]
fn it_stays_within_bounds_and_off_stays_off() {
    assert_close("never infinite", after(f64::NAN, 4_000), RANGE.1, 0.0);
    assert_close("never zero", after(0.0, 4_000), RANGE.0, 0.0);
    let mut off = KlController::new(0.0);
    (0..40).for_each(|_| off.observe(99.0, 4.0));
    assert_close("off", off.beta, 0.0, 0.0);
}

#[test]
fn a_restored_controller_goes_on() {
    let (mut straight, mut halves) = (KlController::new(0.03), KlController::new(0.03));
    for step in 0..60 {
        let kl = 1.0 + step as f64 / 7.0;
        straight.observe(kl, 4.0);
        halves.observe(kl, 4.0);
        halves = KlController::from_parts(halves.parts());
    }
    assert_eq!(straight, halves);
}

#[test]
fn placements_have_names_in_a_configuration() {
    let names =
        [KlPlacement::Reward, KlPlacement::Loss, KlPlacement::Off].map(|p| serde_json::to_value(p).expect("a name"));
    assert_eq!(names, ["reward", "loss", "off"]);
}
