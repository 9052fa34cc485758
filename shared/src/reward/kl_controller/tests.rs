//! Moves only at a look, in the right direction, within bounds.

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
    assert_close("before a look", after(9.0, EVERY - 1), 0.03, 0.0);
    assert_close("too far", after(9.0, EVERY), 0.045, 1e-15);
    assert_close("too near", after(1.0, EVERY), 0.02, 1e-15);
    for kl in [2.1, 4.0, 5.9] {
        assert_close("within 4 ± 2", after(kl, 5 * EVERY), 0.03, 0.0);
    }
    assert_close("two looks", after(9.0, 2 * EVERY), 0.0675, 1e-12);
}

#[test]
fn it_stays_within_bounds_and_off_stays_off() {
    assert_close("never infinite", after(f64::NAN, 200 * EVERY), RANGE.1, 0.0);
    assert_close("never zero", after(0.0, 200 * EVERY), RANGE.0, 0.0);
    let mut off = KlController::new(0.0);
    (0..EVERY).for_each(|_| off.observe(99.0, 4.0));
    assert_close("off", off.beta, 0.0, 0.0);
}

#[test]
fn a_restored_controller_goes_on() {
    let (mut straight, mut halves) = (KlController::new(0.03), KlController::new(0.03));
    for step in 0..3 * EVERY {
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
