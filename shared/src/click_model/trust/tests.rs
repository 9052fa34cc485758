//! Oracle C8; known channels are found again.

use super::*;
use crate::metrics::assert_close;

#[test]
fn c8_corrected_labels() {
    assert_close("click", corrected_label(true, 0.65, 0.1), 1.384615385, 1e-9);
    assert_close("no click", corrected_label(false, 0.65, 0.1), -0.153846154, 1e-9);
}

#[test]
fn a_showing_weighs_its_items_attraction_in_every_slot() {
    for (alpha, beta) in [(1.0, 0.0), (0.65, 0.1), (0.2, 0.7)] {
        for gamma in [0.02, 0.3, 1.0] {
            let rate = alpha * gamma + beta;
            assert_close("mean weight", rate * click_weight(gamma, alpha, beta), gamma, 1e-12);
        }
    }
    assert_close("no trust: inverse propensity", click_weight(0.3, 0.4, 0.0), 2.5, 1e-12);
    assert!(click_weight(0.05, 0.65, 0.1) < 0.5 * click_weight(0.6, 0.65, 0.1), "likely for the place");
    assert_close("clicks that tell nothing", click_weight(0.3, -0.1, 0.4), 0.0, 0.0);
}

#[test]
fn known_channels_are_found_again() {
    let gamma = [0.05, 0.2, 0.4, 0.6];
    let (good, other) = ([1.0, 0.8, 0.5], [0.0, 0.1, 0.04]);
    let n = 1_000.0;
    let mut cells = Vec::new();
    for (item, p) in gamma.iter().enumerate() {
        for slot in 0..3 {
            let clicked = n * (p * good[slot] + (1.0 - p) * other[slot]);
            cells.push(Cell { item, slot, shown: n, clicked });
        }
    }
    let model = TrustModel::start(3, 4).fitted(&cells, 0.0);
    for k in 0..3 {
        assert_close("alpha", model.alpha(k), good[k] - other[k], 0.01);
        assert_close("beta", model.beta(k), other[k], 0.01);
    }
    for (got, want) in model.gamma.iter().zip(gamma) {
        assert_close("gamma", *got, want, 0.01);
    }
    // the mean corrected label is gamma again
    let (alpha, beta) = (model.alpha(1), model.beta(1));
    let rate = gamma[2] * good[1] + (1.0 - gamma[2]) * other[1];
    let mean = rate * corrected_label(true, alpha, beta) + (1.0 - rate) * corrected_label(false, alpha, beta);
    assert_close("corrected", mean, gamma[2], 0.02);
}
