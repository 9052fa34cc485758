//! Figures checked by hand, and against data whose truth is known.

use super::*;
use beckon_shared::metrics::assert_close;
use beckon_shared::preference::PairKind;
use beckon_shared::prompt::Prompt;

fn pair(group: &str, chosen: &str, rejected: &str, label: f32) -> Pair {
    Pair {
        source: "s".into(),
        group: group.into(),
        prompt: Prompt::from_query("q"),
        chosen: chosen.into(),
        rejected: rejected.into(),
        label,
        weight: 1.0,
        kind: PairKind::Slate,
        logit_variance: 0.0,
    }
}

fn score(mean: f32, std: f32) -> Score {
    Score { reward_mean: mean, aleatoric_std: std, epistemic_std: 0.0 }
}

#[test]
fn garm_probability_is_oracle_p2() {
    let p = Predictions::garm(&[score(0.3, 0.7), score(-0.2, 0.8)]);
    assert_close("p", p.p[0], 0.680951237, 1e-6);
    assert_close("std", p.std.expect("GaRM has one")[0], 1.13f64.sqrt(), 1e-6);
}

#[test]
fn figures_of_a_constant_are_those_of_chance() {
    let pairs = [pair("a", "x", "y", 0.9), pair("b", "x", "y", 0.6), pair("c", "x", "y", 1.0)];
    let refs: Vec<&Pair> = pairs.iter().collect();
    let figures = source_figures("s", &refs, &[Predictions::constant(3)], 0);
    let m = &figures.models[0];
    assert_close("accuracy", m.accuracy, 0.5, 0.0);
    assert_close("nll", m.nll, std::f64::consts::LN_2, 1e-12);
    assert_close("ece", m.ece, 0.0, 1e-12);
    let entropy = |y: f64| if y == 1.0 { 0.0 } else { -y * y.ln() - (1.0 - y) * (1.0 - y).ln() };
    let want = [0.9f32, 0.6, 1.0].map(|y| entropy(f64::from(y))).iter().sum::<f64>() / 3.0;
    assert_close("floor", figures.label_entropy, want, 1e-9);
}

#[test]
fn length_baseline_finds_a_length_effect_and_no_other() {
    let longer: Vec<Pair> = (0..80).map(|i| pair(&i.to_string(), "four words are here", "two", 0.98)).collect();
    let refs: Vec<&Pair> = longer.iter().collect();
    let p = Predictions::length(&refs, &refs);
    // the best constant probability for a label of 0.98, hardly held back by the prior
    assert_close("p", p.p[0], 0.98, 2e-3);
    let even: Vec<Pair> =
        (0..40).map(|i| if i % 2 == 0 { pair("g", "aa", "bbbb", 0.8) } else { pair("g", "bbbb", "aa", 0.8) }).collect();
    let refs: Vec<&Pair> = even.iter().collect();
    assert_close("no effect", Predictions::length(&refs, &refs).p[0], 0.5, 1e-9);
}

#[test]
fn a_calibrated_model_has_a_small_ece_and_its_interval_holds_the_truth() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let n = 4_000;
    // the event "a beats b" has probability q; the pair names the winner first
    let mut draw = || {
        let q: f64 = rng.random();
        (q, rng.random::<f64>() < q)
    };
    let draws: Vec<(f64, bool)> = (0..n).map(|_| draw()).collect();
    let pairs: Vec<Pair> = (0..n).map(|i| pair(&(i / 4).to_string(), "a", "b", 1.0)).collect();
    let refs: Vec<&Pair> = pairs.iter().collect();
    let p = draws.iter().map(|&(q, won)| if won { q } else { 1.0 - q }).collect();
    let sure = draws.iter().map(|&(q, won)| if (q > 0.5) == won { 0.99 } else { 0.01 }).collect();
    let predictions = [
        Predictions { model: "GaRM".into(), p, std: None },
        Predictions { model: "too sure".into(), p: sure, std: None },
    ];
    let figures = source_figures("s", &refs, &predictions, 1);
    let (good, bad) = (&figures.models[0], &figures.models[1]);
    assert!(good.ece < 0.02, "{}", good.ece);
    assert!(bad.ece > 0.2, "{}", bad.ece);
    // E max(q, 1-q) = 3/4, E H(q) = 1/2 for uniform q
    assert!(good.accuracy_interval.0 < 0.75 && 0.75 < good.accuracy_interval.1, "{:?}", good.accuracy_interval);
    assert!(good.nll_interval.0 < 0.5 && 0.5 < good.nll_interval.1, "{:?}", good.nll_interval);
    assert!(figures.nll_differences[0].interval.1 < 0.0);
    assert_eq!(figures.n_groups, 1_000);
}

#[test]
fn dispersion_sees_variance_that_is_there_and_none_that_is_not() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut normal = || {
        let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    };
    let mut true_std = Vec::new();
    let counts: Vec<Counts> = (0..600)
        .map(|i| {
            let std = if i % 2 == 0 { 0.05 } else { 0.8 };
            true_std.push(std);
            let p = 1.0 / (1.0 + (2.0 - std * normal()).exp());
            let n = 20_000.0;
            Counts {
                group: (i / 4).to_string(),
                prompt: Prompt::from_query("q"),
                text: i.to_string(),
                n_impressions: n as u64,
                n_clicks: (n * p + (n * p * (1.0 - p)).sqrt() * normal()).round() as u64,
            }
        })
        .collect();
    let scored = |std: &dyn Fn(usize) -> f32| -> Vec<(&Counts, Score)> {
        counts.iter().enumerate().map(|(i, c)| (c, score((i % 7) as f32 * 0.1, std(i)))).collect()
    };
    let right = dispersion(&scored(&|i| true_std[i] as f32)).expect("enough texts").spearman;
    let blind = dispersion(&scored(&|i| (i % 5) as f32)).expect("enough texts").spearman;
    // a single squared residual says little of its variance, so even the truth ranks only about 0.4
    assert!(right > 0.3, "{right}");
    // 3.5 standard errors of a rank correlation of 600
    assert!(blind.abs() < 0.15, "{blind}");
    assert!(dispersion(&scored(&|_| 1.0)[..10]).is_none());
}
