//! Oracle rows C3 to C6 of method B.8, and data that have no maximum of the likelihood.

use super::*;
use crate::metrics::assert_close;

const C4: [(f64, f64); 8] = [(0., 50.), (9., 60.), (1., 40.), (20., 80.), (2., 70.), (0., 30.), (30., 90.), (1., 20.)];

#[test]
fn c3_under_dispersed_data_get_the_largest_strength() {
    let items = [(0., 10.), (1., 20.), (3., 40.), (2., 15.), (10., 100.), (0., 5.), (5., 60.), (1., 50.)];
    let prior = Beta::fit(&items);
    assert_close("mean", prior.mean(), 0.073_333_333, 1e-8);
    assert_close("rho", dispersion(&items, 22.0 / 300.0, 300.0), -0.007_036_036, 1e-8);
    assert_close("strength", prior.a + prior.b, MAX_STRENGTH, 1e-9);
}

#[test]
fn c4_moments() {
    let prior = Beta::fit(&C4);
    assert_close("rho", dispersion(&C4, 63.0 / 440.0, 440.0), 0.146_074_953, 1e-8);
    assert_close("a", prior.a, 0.837_012_357, 1e-8);
    assert_close("b", prior.b, 5.008_788_234, 1e-8);
}

#[test]
fn c4b_c4c_posterior() {
    let prior = Beta { a: 0.583_692_589, b: 4.917_742_350 };
    let means =
        [0.010516712, 0.146312712, 0.034805333, 0.240740902, 0.034220444, 0.016441380, 0.320243278, 0.062102097];
    let lower =
        [0.000088933, 0.081637448, 0.004574610, 0.168690075, 0.008269324, 0.000140172, 0.244273699, 0.008338665];
    for (i, (k, n)) in C4.into_iter().enumerate() {
        assert_close("mean", prior.observe(k, n).mean(), means[i], 1e-8);
        assert_close("lower", prior.observe(k, n).lower(), lower[i], 1e-7);
    }
    let (mean, variance) = prior.observe(9.0, 60.0).logit_moments();
    assert_close("logit mean", mean, -1.807_928_681, 1e-7);
    assert_close("logit variance", variance, 0.128_020_948, 1e-7);
    let (mean, variance) = prior.observe(2.0, 70.0).logit_moments();
    assert_close("logit mean", mean, -3.539_069_309, 1e-7);
    assert_close("logit variance", variance, 0.485_152_432, 1e-7);
}

#[test]
fn c5_c6() {
    let above = Beta { a: 5., b: 55. }.probability_above(Beta { a: 3., b: 57. });
    assert_close("C5", above, 0.778_423_259, 1e-6);
    let posterior = Beta { a: 2., b: 38. }.observe(3.0, 20.0);
    assert_close("C6 mean", posterior.mean(), 0.083_333_333, 1e-8);
    assert_close("C6 lower", posterior.lower(), 0.033_987_177, 1e-7);
}

#[test]
fn c3_c4_sweeps_of_the_fixed_point() {
    let c3 = [(0., 10.), (1., 20.), (3., 40.), (2., 15.), (10., 100.), (0., 5.), (5., 60.), (1., 50.)];
    let rows = [
        (
            &c3,
            Beta { a: 1.0, b: 10.0 },
            [(0.995875077, 10.170393899), (1.002787606, 10.333217497), (1.012915243, 10.494163915)],
        ),
        (
            &C4,
            Beta { a: 1.0, b: 5.0 },
            [(0.752225255, 5.147541229), (0.663621914, 5.198371372), (0.629628325, 5.214012455)],
        ),
    ];
    for (items, mut prior, want) in rows {
        for (a, b) in want {
            prior = prior.sweep(items).expect("clicks and showings");
            assert_close("a", prior.a, a, 1e-8);
            assert_close("b", prior.b, b, 1e-8);
        }
    }
}

#[test]
fn c3_c4_limits() {
    let prior = Beta::fit_likelihood(&C4);
    assert_close("a", prior.a, 0.583_692_589, 1e-6);
    assert_close("b", prior.b, 4.917_742_350, 1e-5);
    let next = prior.sweep(&C4).expect("clicks and showings");
    assert_close("a fixed point", next.a, prior.a, 1e-8);
    let items = [(0., 10.), (1., 20.), (3., 40.), (2., 15.), (10., 100.), (0., 5.), (5., 60.), (1., 50.)];
    let capped = Beta::fit_likelihood(&items);
    assert_close("strength", capped.a + capped.b, MAX_STRENGTH, 1e-9);
    assert_close("mean", capped.mean(), 22.0 / 300.0, 2e-3);
    assert_eq!(Beta::fit_by(PriorFit::Moments, &C4), Beta::fit(&C4));
    assert_eq!(Beta::fit_by(PriorFit::Likelihood, &C4), prior);
}

#[test]
fn c5_exact_and_c6_spread() {
    let (one, two) = (Beta { a: 5., b: 55. }, Beta { a: 3., b: 57. });
    assert_close("C5 exact", one.probability_above_exact(two), 0.780_634_316, 1e-8);
    assert_close("the other way", two.probability_above_exact(one), 1.0 - 0.780_634_316, 1e-8);
    assert_close("same", Beta { a: 0.3, b: 0.2 }.probability_above_exact(Beta { a: 0.3, b: 0.2 }), 0.5, 1e-8);
    let posterior = Beta { a: 2., b: 38. }.observe(3.0, 20.0);
    assert_close("C6 sd", posterior.variance().sqrt(), 0.035_387_524, 1e-8);
}

#[test]
fn empty_and_extreme_data_give_a_proper_prior() {
    for items in [vec![], vec![(0.0, 10.0)], vec![(10.0, 10.0), (5.0, 5.0)], vec![(1.0, 1.0), (0.0, 1.0)]] {
        for prior in [Beta::fit(&items), Beta::fit_likelihood(&items)] {
            assert!(prior.a > 0.0 && prior.b > 0.0 && (prior.a + prior.b).is_finite(), "{items:?}: {prior:?}");
        }
    }
}
