//! Oracle C7 and C10 as slate values; why a click probability is no reward.

use super::*;
use crate::garm::normal::normal_quantile;
use crate::metrics::assert_close;

#[test]
fn c10_and_c7_as_slate_values() {
    let rewards = [0.2, 0.15, 0.1].map(|p| Gaussian::new(normal_quantile(p), 1.0));
    assert_close("C10", value_by_position(&rewards, 0.0, &[1.0; 3]), 0.388, 1e-9);
    // C7 with u_0 = 1.2 taken into the intercept
    let rewards = [0.5, 0.0, -0.3].map(|mu| Gaussian::new(mu, 1.0));
    assert_close("C7", value_by_choice(&rewards, 1.0, -1.2, &[0.0, -0.4, -0.8]), 1.0 - 0.555944511, 1e-9);
    assert_close("nothing shown", value_by_position(&[], 0.0, &[]), 0.0, 0.0);
}

/// Method B.4.2: at mu - tau = -1.6, sigma 0.5, 1, 1.5, 3 gives 0.0007, 0.055, 0.143, 0.297.
#[test]
fn below_the_threshold_spread_looks_like_clicks() {
    for (sigma, want) in [(0.5f64, 0.0007), (1.0, 0.055), (1.5, 0.143), (3.0, 0.297)] {
        assert_close("P(click)", click_probability(Gaussian::new(-1.6, sigma * sigma), 0.0), want, 5e-4);
    }
}
