//! Figures checked by hand, and against data whose truth is known.

use super::*;
use beckon_shared::engine::Score;
use beckon_shared::metrics::assert_close;

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
    assert_close("adaptive ece", m.adaptive_ece, 0.0, 1e-12);
    assert_close("aurc", m.aurc, 0.5, 0.0);
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
    assert!(good.adaptive_ece < 0.025 && bad.adaptive_ece > 0.2, "{} and {}", good.adaptive_ece, bad.adaptive_ece);
    // surest first, c = max(q, 1-q) falls from 1: of the surest share s the mean error is s/4, and its mean over s 1/8
    assert_close("risk that falls with confidence", good.aurc, 0.125, 0.02);
    assert_close("risk that confidence tells nothing of", bad.aurc, 0.25, 0.05);
    // E max(q, 1-q) = 3/4, E H(q) = 1/2 for uniform q
    assert!(good.accuracy_interval.0 < 0.75 && 0.75 < good.accuracy_interval.1, "{:?}", good.accuracy_interval);
    assert!(good.nll_interval.0 < 0.5 && 0.5 < good.nll_interval.1, "{:?}", good.nll_interval);
    assert!(figures.nll_differences[0].interval.1 < 0.0);
    assert_eq!(figures.n_groups, 1_000);
}

#[test]
fn case_v_has_one_spread_and_says_nothing_of_it() {
    let scores = [score(0.3, 1.0), score(-0.2, 1.0)];
    let p = Predictions::case_v(&scores);
    assert_close("p", p.p[0], normal_cdf(0.5 / 2f64.sqrt()), 1e-7);
    assert_eq!((p.model.as_str(), p.std), ("Case V", None));
}

#[test]
fn clicks_of_single_texts_order_pairs_and_need_both_outcomes() {
    let anchor = |text: String, level: u8| Anchor {
        source: "s".into(),
        group: "g".into(),
        prompt: Prompt::from_query("q"),
        suggestion: text,
        level,
        weight: 1.0,
    };
    // half of those with "best" are clicked, one in ten of those with "dull"
    let best = (0..100).map(|i| anchor(format!("best topic{i}"), (i % 2) as u8));
    let all: Vec<Anchor> =
        best.chain((0..100).map(|i| anchor(format!("dull topic{i}"), 2 * u8::from(i % 10 == 0)))).collect();
    let anchors: Vec<&Anchor> = all.iter().collect();
    let pairs = [pair("g", "best rice", "dull rice", 0.9), pair("g", "dull rice", "best rice", 0.9)];
    let pairs: Vec<&Pair> = pairs.iter().collect();
    let p = Predictions::pointwise(&anchors, &pairs).expect("both outcomes").p;
    assert!(p[0] > 0.65, "odds of one against a ninth: {}", p[0]);
    assert_close("the other way round", p[0] + p[1], 1.0, 1e-12);
    let clicked: Vec<&Anchor> = anchors.iter().copied().filter(|a| a.level > 0).collect();
    assert!(Predictions::pointwise(&clicked, &pairs).is_none() && Predictions::pointwise(&[], &pairs).is_none());
}

#[test]
fn figures_of_an_earlier_version_are_read() {
    let pairs = [pair("a", "x", "y", 0.9)];
    let refs: Vec<&Pair> = pairs.iter().collect();
    let mut json = serde_json::to_value(source_figures("s", &refs, &[Predictions::constant(1)], 0)).expect("json");
    let model = json["models"][0].as_object_mut().expect("a model");
    model.remove("aurc");
    model.remove("adaptive_ece");
    json["dispersion"] = serde_json::json!({ "spearman": 0.1, "n_texts": 30 });
    let back: SourceFigures = serde_json::from_value(json).expect("reads");
    assert!(back.models[0].aurc.is_nan() && back.models[0].adaptive_ece.is_nan());
    let dispersion = back.dispersion.expect("there");
    assert!(dispersion.n_texts == 30 && dispersion.z_score_variance.is_nan() && dispersion.crps.is_nan());
}
