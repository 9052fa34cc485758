//! Oracle T4, and the setting that names each form.

use super::*;
use crate::metrics::assert_close;

#[test]
fn oracle_t4() {
    let reward = Gaussian::new(0.8, 0.25);
    for (k, want) in [(0.5, 0.55), (1.0, 0.3), (2.0, -0.2)] {
        assert_close("LCB", lower_confidence_bound(reward, k), want, 1e-12);
    }
    for (beta, want) in [(0.25, 0.3), (0.5, 0.55), (1.0, 0.675)] {
        assert_close("KL-DRO", kl_dro(reward, beta), want, 1e-12);
    }
    for (q, want) in [(0.05, -0.022426813), (0.1, 0.159224217), (0.25, 0.462755125)] {
        assert_close("quantile", quantile(reward, q), want, 1e-9);
    }
    assert_close("win", win_probability(reward, Gaussian::new(0.1, 0.16)), 0.862850586, 1e-9);
    assert_close("UWO", uncertainty_weighted(&[1.0, 1.5, 0.2], 0.5), 0.756666667, 1e-9);
    assert_close("WCO", worst_case(&[1.0, 1.5, 0.2]), 0.2, 1e-12);
}

#[test]
fn every_form_is_what_it_is_called() {
    let reward = SpreadReward { mean: 0.8, aleatoric_std: 0.4, epistemic_std: 0.3 };
    let reference = Gaussian::new(0.1, 0.16);
    // with both penalties 1 the spread is 0.5, as in the oracle's rows
    let of = |form: EffectiveReward| form.value(reward, 1.0, 1.0, reference);
    for (form, want) in [
        (EffectiveReward::Penalised, 0.1),
        (EffectiveReward::Mean, 0.8),
        (EffectiveReward::LowerBound { k: 0.5 }, 0.55),
        (EffectiveReward::Quantile { q: 0.05 }, -0.022426813),
        (EffectiveReward::KlDro { beta: 0.25 }, 0.3),
        (EffectiveReward::VariancePenalty { lambda: 0.5 }, 0.675),
        (EffectiveReward::WinProbability, 0.862850586),
    ] {
        assert_close(&format!("{form:?}"), of(form), want, 1e-8);
        assert_eq!(form.fault(), None);
    }
    assert_close("method B.3 (3)", EffectiveReward::Penalised.value(reward, 0.25, 1.0, reference), 0.4, 1e-12);
}

#[test]
fn a_win_probability_rewards_spread_where_it_loses() {
    let reference = Gaussian::new(1.0, 0.1);
    let of = |std| {
        let reward = SpreadReward { mean: 0.0, aleatoric_std: std, epistemic_std: 0.0 };
        EffectiveReward::WinProbability.value(reward, 1.0, 1.0, reference)
    };
    assert!(of(3.0) > of(0.5), "the reason why it is not the default");
}

#[test]
fn forms_have_names_and_limits_in_a_configuration() {
    let json = serde_json::to_string(&EffectiveReward::Quantile { q: 0.1 }).expect("json");
    assert_eq!(json, r#"{"kind":"quantile","q":0.1}"#);
    assert_eq!(
        serde_json::from_str::<EffectiveReward>(r#"{"kind":"penalised"}"#).ok(),
        Some(EffectiveReward::Penalised)
    );
    assert!(serde_json::from_str::<EffectiveReward>(r#"{"kind":"quantile"}"#).is_err());
    assert_eq!(EffectiveReward::Quantile { q: 1.0 }.fault().map(|f| f.0), Some("q"));
    assert!(EffectiveReward::KlDro { beta: f64::NAN }.fault().is_some());
}
