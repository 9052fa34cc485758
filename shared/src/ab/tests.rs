//! Oracle T9, and what must hold of the parts together.

use super::estimate::{Effect, Estimate};
use super::moments::{Moments, Totals};
use super::plan::{Planned, detectable_lift, plan};
use super::sample_ratio::{SampleRatio, by_stratum};
use super::sequential::{LookError, Mixture, Running, narrowest_ratio};
use super::{cuped, fixed, path};
use crate::metrics::assert_close;

/// The table's tau is fixed at 0.01 in the units of the effect.
fn with_tau(tau: f64, effect: &Effect) -> Mixture {
    Mixture { rho2: tau * tau / (effect.n_units * effect.variance) }
}

#[test]
fn t9_always_valid_and_fixed() {
    for (control, treatment, log_ratio, p, fixed_p, half_width) in [
        ((52.0, 1_000.0), (61.0, 1_000.0), -0.146947917, 1.0, 0.383319714, 0.038272288),
        ((255.0, 5_000.0), (312.0, 5_000.0), 1.635586240, 0.194838116, 0.013685394, 0.014161867),
        ((510.0, 10_000.0), (640.0, 10_000.0), 5.876931510, 0.002803374, 7.807397522e-5, 0.009991620),
    ] {
        let arm = |(hits, n)| Estimate::binomial(hits, n);
        let effect = Effect { dof: f64::INFINITY, ..Effect::difference(&arm(control), &arm(treatment)) };
        let mixture = with_tau(0.01, &effect);
        assert_close("tau²", mixture.tau2(&effect), 1e-4, 1e-15);
        assert_close("log Λ", mixture.log_likelihood_ratio(&effect, 0.0), log_ratio, 1e-9);
        assert_close("p", mixture.p_value(&effect, 0.0), p, 1e-9);
        assert_close("fixed p", fixed::p_value(&effect, 0.0) / fixed_p, 1.0, 1e-8);
        assert_close("half-width", mixture.half_width(&effect, 0.05), half_width, 1e-9);
    }
}

/// The confidence sequence is exactly what the test does not reject.
#[test]
fn interval_and_p_value_agree() {
    let effect = Effect { estimate: 0.013, variance: 2.5e-5, n_units: 4_000.0, dof: 3_998.0 };
    let mixture = Mixture::narrowest_at(3_000.0, 0.05);
    let interval = mixture.interval(&effect, 0.05);
    for end in [interval.low, interval.high] {
        assert_close("p at an end", mixture.p_value(&effect, end), 0.05, 1e-12);
    }
    assert!(interval.contains(effect.estimate) && !interval.contains(interval.high + 1e-9));
}

#[test]
fn tuning_is_narrowest_where_it_should_be() {
    // method B.6.5
    assert_close("x at 5%", narrowest_ratio(0.05), 8.21, 0.005);
    assert_close("x at 1%", narrowest_ratio(0.01), 11.76, 0.005);
    let effect = Effect { estimate: 0.0, variance: 1e-4, n_units: 1_000.0, dof: 998.0 };
    let best = Mixture::narrowest_at(1_000.0, 0.05);
    let width = best.half_width(&effect, 0.05);
    assert_close("s sqrt(1 + x)", width, 0.01 * (1.0 + narrowest_ratio(0.05)).sqrt(), 1e-12);
    for factor in [0.5, 0.9, 1.1, 2.0] {
        assert!(Mixture { rho2: best.rho2 * factor }.half_width(&effect, 0.05) > width, "{factor}");
    }
}

#[test]
fn t9_sample_ratio() {
    for (n_users, shares, chi_square, p) in [
        (vec![44_000, 45_000], vec![0.5, 0.5], Some(11.235955056), 0.000802278),
        (vec![821_588, 815_482], vec![1.0, 1.0], Some(22.774368842), 1.821792873e-6),
        (vec![5_000, 5_100], vec![1.0, 1.0], None, 0.319718177),
        (vec![9_000, 1_100], vec![90.0, 10.0], Some(8.910891089), 0.002834749),
    ] {
        let ratio = SampleRatio::test(&n_users, &shares).expect("arms");
        if let Some(want) = chi_square {
            assert_close("chi²", ratio.chi_square, want, 1e-9);
        }
        // the table prints six decimals of the second and fourth
        assert_close("p", ratio.p_value.expect("large cells"), p, 5e-10_f64.max(1e-9 * p));
    }
    assert!(SampleRatio::test(&[821_588, 815_482], &[1.0, 1.0]).expect("arms").is_mismatch());
    assert!(!SampleRatio::test(&[5_000, 5_100], &[1.0, 1.0]).expect("arms").is_mismatch());
    assert!(SampleRatio::test(&[1, 1], &[1.0, 1.0]).expect("arms").p_value.is_none(), "cells too small");
    assert!(SampleRatio::test(&[1, 1], &[1.0]).is_err() && SampleRatio::test(&[1, 1], &[1.0, 0.0]).is_err());
}

/// One user at a time, the mixture's ratio is the product of predictive probabilities: Pólya's urn.
#[test]
fn the_running_sample_ratio_test_is_a_martingale_of_the_urn() {
    let (mut log_ratio, mut counts) = (0.0, [0u64; 2]);
    for i in 0..300u64 {
        let arm = usize::from(i % 5 < 2);
        let seen = counts[0] + counts[1];
        let predicted = (500.0 + counts[arm] as f64) / (1_000.0 + seen as f64);
        log_ratio += (predicted / 0.5f64).ln();
        counts[arm] += 1;
    }
    let ratio = SampleRatio::test(&counts, &[0.5, 0.5]).expect("arms");
    assert_close("1/Λ", ratio.always_valid_p_value, (-log_ratio).exp().min(1.0), 1e-9);
    assert!(ratio.always_valid_p_value < 1.0, "{counts:?}");
}

#[test]
fn a_lost_tier_is_named_first() {
    let strata = [
        ("tier 1".to_owned(), vec![4_010, 3_990]),
        ("tier 2".to_owned(), vec![3_000, 3_020]),
        ("tier 3".to_owned(), vec![1_000, 610]),
    ];
    let found = by_stratum(&strata, &[1.0, 1.0]).expect("arms");
    assert_eq!(found[0].stratum, "tier 3");
    assert!(found[0].p_holm < 1e-9 && found[0].ratio.is_mismatch());
    assert!(found[1].p_holm > 0.5 && found[2].p_holm > 0.5);
}

#[test]
fn t9_delta_ratio() {
    let user = |(clicks, impressions)| Totals { numerator: clicks, denominator: impressions, ..Totals::default() };
    let users = Moments::of([(2.0, 20.0), (0.0, 5.0), (1.0, 10.0), (3.0, 40.0), (0.0, 15.0)].map(user));
    let ctr = Estimate::ratio(&users);
    assert_close("CTR", ctr.value, 0.066666667, 1e-9);
    assert_close("SE", ctr.std_error(), 0.016563466, 1e-9);
    assert_close("naive SE", Estimate::binomial(6.0, 90.0).std_error(), 0.026293688, 1e-9);
}

/// The table adjusts one sample; two equal arms have its coefficient, and each its variance.
#[test]
fn t9_cuped() {
    let rows = [(1.0, 0.5), (2.0, 1.5), (3.0, 2.5), (4.0, 4.5), (6.0, 5.0)];
    let user = |(y, x)| Totals { numerator: y, denominator: 1.0, pre_numerator: x, pre_denominator: 1.0 };
    let users = Moments::of(rows.map(user));
    let adjusted = cuped::adjust(&users, &users).expect("a past");
    assert_close("theta", adjusted.theta, 0.959459459, 1e-9);
    assert_close("variance", Estimate::ratio(&users).unit_variance, 3.7, 1e-12);
    assert_close("adjusted", adjusted.control.unit_variance, 0.293918919, 1e-9);
    assert_close("mean stays", adjusted.control.value, 3.2, 1e-12);
    let nobody = Moments::of(rows.map(|(y, _)| Totals { numerator: y, denominator: 1.0, ..Totals::default() }));
    assert_eq!(cuped::adjust(&nobody, &nobody), None);
}

fn planned(lift: f64) -> Planned {
    Planned {
        base_rate: 0.05,
        lift,
        alpha: 0.05,
        power: 0.8,
        n_treatments: 1,
        impressions_per_user: 1.0,
        design_effect: 1.0,
        users_per_day: None,
    }
}

#[test]
fn t9_sample_sizes() {
    for (lift, n) in [(0.05, 122_120.7), (0.10, 31_230.7), (0.34, 2_987.8)] {
        let planned = plan(planned(lift)).expect("a plan");
        assert_close("fixed", planned.fixed_horizon.n_users_per_arm, n, 0.05);
        assert!(planned.always_valid_power >= 0.8, "{planned:?}");
    }
    let small = plan(planned(0.05)).expect("a plan");
    let inflation = small.always_valid.n_users_per_arm / small.fixed_horizon.n_users_per_arm;
    let z = 0.841_621_233_572_914_3;
    let want = ((1.0 + narrowest_ratio(0.05)).sqrt() + z).powi(2) / (1.959_963_984_540_054f64 + z).powi(2);
    assert_close("cost of looking", inflation, want, 1e-9);
    assert!(small.always_valid_users_mean < 0.75 * small.always_valid.n_users, "it pays back: {small:?}");
    let large = plan(planned(0.34)).expect("a plan");
    assert_close("burn-in rules", large.always_valid.n_users_per_arm, 500.0 / 0.05, 1e-6);
}

#[test]
fn plans_scale_as_they_should() {
    let base = plan(planned(0.05)).expect("a plan");
    let busy = Planned { impressions_per_user: 4.0, design_effect: 2.0, users_per_day: Some(1_000.0), ..planned(0.05) };
    let busy = plan(busy).expect("a plan");
    assert_close("half", busy.fixed_horizon.n_users_per_arm, base.fixed_horizon.n_users_per_arm / 2.0, 1e-6);
    assert_close("days", busy.fixed_horizon.days.expect("days"), busy.fixed_horizon.n_users / 1_000.0, 1e-9);
    let (fixed, always_valid) = detectable_lift(planned(0.1), base.fixed_horizon.n_users_per_arm).expect("valid");
    assert_close("inverse", fixed.expect("detectable"), 0.05, 1e-6);
    assert!(always_valid.expect("detectable") > 0.05);
    assert_eq!(detectable_lift(planned(0.1), 0.5).expect("valid").1, None);
    for (bad, message) in [
        (Planned { base_rate: 1.5, ..planned(0.1) }, "base rate is 1.5; expected a rate above 0 and below 1"),
        (planned(0.0), "lift is 0; expected above -1 and not 0"),
        (planned(30.0), "base rate · (1 + lift) is 1.55; expected a rate above 0 and below 1"),
        (Planned { power: 0.2, ..planned(0.1) }, "power is 0.2; expected above 0.5 and below 1, as 0.8"),
    ] {
        assert_eq!(plan(bad).unwrap_err().to_string(), message);
    }
}

#[test]
fn looks_keep_the_smallest_p_value_and_refuse_what_they_must() {
    let look = |estimate: f64, n_units: f64| Effect { estimate, variance: 0.2 / n_units, n_units, dof: n_units };
    let mut running = Running::new(Mixture::narrowest_at(20_000.0, 0.05), 0.05);
    assert_eq!(running.look(&look(0.5, 9_000.0), 499), Err(LookError::BurnIn { n_clicks: 499 }));
    assert_eq!((running.p_value(), running.interval(), running.n_looks()), (1.0, None, 0));
    running.look(&look(0.02, 10_000.0), 500).expect("a look");
    let small = running.p_value();
    assert!(small < 0.05 && running.crossed_at() == Some(10_000.0), "{running:?}");
    running.look(&look(0.001, 20_000.0), 900).expect("a look");
    assert_eq!(running.p_value(), small);
    let within = running.interval().expect("a look");
    assert!(within.low > 0.0 && within.low < within.high && !running.has_drifted(), "{within:?}");
    assert!(matches!(running.look(&look(0.0, 19_999.0), 900), Err(LookError::Shrunk { .. })));
    assert!(matches!(running.look(&look(f64::NAN, 30_000.0), 900), Err(LookError::Undefined { .. })));
    running.look(&look(-0.02, 40_000.0), 2_000).expect("a look");
    assert!(running.has_drifted(), "one effect cannot be both: {running:?}");
    let json = serde_json::to_string(&running).expect("JSON");
    let back: Running = serde_json::from_str(&json).expect("back");
    assert_eq!((back.n_looks(), back.crossed_at(), back.has_drifted()), (3, Some(10_000.0), true));
    assert_close("p", back.p_value() / running.p_value(), 1.0, 1e-12);
}

#[test]
fn a_path_says_nothing_before_the_burn_in() {
    let effect = |n_units: f64| Effect { estimate: 0.03, variance: 0.2 / n_units, n_units, dof: n_units };
    let day = |label: &str, n_units: f64, n_clicks_fewest| path::Look {
        label: label.into(),
        effect: effect(n_units),
        n_clicks_fewest,
    };
    let days = [day("1", 5_000.0, 250), day("2", 10_000.0, 500), day("3", 15_000.0, 750)];
    let mixture = Mixture::narrowest_at(15_000.0, 0.05);
    let (points, running) = path::path(&days, mixture, 0.05).expect("in order");
    assert!(points[0].interval.is_none() && points[0].p_value.is_none() && points[0].estimate == Some(0.03));
    assert!(points[2].p_value.expect("past") <= points[1].p_value.expect("past"));
    assert_eq!(points[2].p_value, Some(running.p_value()));
    let backwards = [day("1", 5_000.0, 600), day("2", 4_000.0, 600)];
    assert!(matches!(path::path(&backwards, mixture, 0.05), Err(LookError::Shrunk { .. })));
}
