//! Oracle C9 and C10; the closed form on a log counted by hand.

use super::*;
use crate::metrics::assert_close;

#[test]
fn c9_c10() {
    let gamma = [0.2, 0.3, 0.1];
    for (p, want) in click_probabilities(&gamma).iter().zip([0.2, 0.24, 0.056]) {
        assert_close("P(click)", *p, want, 1e-12);
    }
    assert_close("any", any_click(&gamma), 0.496, 1e-12);
    assert_close("any, summed", click_probabilities(&gamma).iter().sum::<f64>(), 0.496, 1e-12);
    assert_close("any of independent slots", any_click(&[0.2, 0.15, 0.1]), 0.388, 1e-12);
}

#[test]
fn what_stands_below_the_click_was_not_seen() {
    let log = ClickLog::from_slates([
        (0, vec![(0, true), (1, false)]),
        (1, vec![(0, false), (1, true)]),
        (2, vec![(1, false), (0, false)]),
    ]);
    let model = fit(&log, &log.equal_weights());
    assert_close("item 0: 1 of 3", model.gamma[0], 1.0 / 3.0, 1e-12);
    assert_close("item 1: 1 of 2", model.gamma[1], 0.5, 1e-12);
    assert_close("slot 1 seen in 2 of 3", model.examined[1], 2.0 / 3.0, 1e-12);
    assert_close("twice user 0", fit(&log, &[2.0, 1.0, 1.0]).gamma[0], 0.5, 1e-12);
}
