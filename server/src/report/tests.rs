//! The page holds what the report holds, safely; sentences call a win only what is one.

use super::*;
use crate::eval::policy::policy_figures;
use crate::eval::reward::{Dispersion, Predictions, source_figures};
use beckon_shared::preference::{Pair, PairKind};

fn curve(name: &str, values: &[f64]) -> Curve {
    Curve { name: name.into(), points: values.iter().copied().enumerate().collect() }
}

fn figures(sure: f64) -> SourceFigures {
    let pair = |i: usize| Pair {
        source: "set <one>".into(),
        group: i.to_string(),
        prompt: Prompt::from_query("q"),
        chosen: "a".into(),
        rejected: "b".into(),
        label: 1.0,
        weight: 1.0,
        kind: PairKind::Slate,
        logit_variance: 0.0,
    };
    let pairs: Vec<Pair> = (0..40).map(pair).collect();
    let refs: Vec<&Pair> = pairs.iter().collect();
    let garm = Predictions { model: "GaRM".into(), p: vec![sure; 40], std: None };
    source_figures("set <one>", &refs, &[garm, Predictions::constant(40)], 0)
}

fn report(sure: f64, held_out_nll: f64, rewards: &[f64]) -> Report {
    Report {
        version: REPORT_VERSION,
        name: "a <script>alert(1)</script> run".into(),
        checkpoint: "c0ffee".into(),
        lineage: RunLineage {
            data_hash: "da7a".into(),
            config: RunConfig::default(),
            device: "cpu".into(),
            commit: None,
            command: "beckon loop --preset nano --seed 0".into(),
            simulated: false,
            attribution: vec!["a set & its people".into()],
            wall_secs: vec![("sft".into(), 12.25)],
            n_params: 7,
            tokenizer_hash: "70".into(),
        },
        data: Vec::new(),
        preferences: Default::default(),
        sft: SftReport {
            curves: vec![curve("loss", &[3.0, 2.0])],
            held_out_nll_before: 8.0,
            held_out_nll,
            ngram_nll: 3.0,
            cached_ngram_nll: 2.5,
            n_held_out_tokens: 100,
            n_tokens_seen: 1_000,
        },
        garm: GarmReport {
            curves: Vec::new(),
            temperature: 1.0,
            sources: vec![figures(sure)],
            odd_text: vec![OddText {
                kind: "random letters".into(),
                n: 3,
                epistemic_auroc: f64::NAN,
                aleatoric_auroc: 0.5,
                mean_auroc: 0.75,
            }],
        },
        rl: RlReport { curves: vec![curve("reward_mean", rewards), curve("kl_nats", &[0.0, 1.0])] },
        judged: None,
        policies: vec![policy_figures("SFT", &[]), policy_figures("RL", &[])],
        samples: vec![SamplePrompt {
            prompt: Prompt::from_query("is 1 < 2"),
            before: vec![ScoredText { text: "x & y".into(), score: Some(Score::default()) }],
            after: Vec::new(),
        }],
        findings: Vec::new(),
    }
}

#[test]
fn the_page_escapes_text_and_asks_for_nothing() {
    let page = html::page(&report(0.8, 2.0, &[0.0, 1.0]));
    for wanted in
        ["a &lt;script&gt;", "set &lt;one&gt;", "is 1 &lt; 2", "x &amp; y", "12.2 s", "undefined", "a set &amp; its"]
    {
        assert!(page.contains(wanted), "{wanted}");
    }
    for unwanted in ["<script", "http://", "https://", "NaN", "Every click in this run"] {
        assert!(!page.contains(unwanted), "{unwanted}");
    }
    // every figure and table is explained
    assert_eq!(page.matches("<figure>").count(), page.matches("<figcaption>").count());
    assert_eq!(page.matches("<table>").count(), page.matches("<caption>").count());
}

#[test]
fn the_page_shows_risk_and_the_width_of_the_spread() {
    let mut report = report(0.8, 2.0, &[0.0, 1.0]);
    let model = &mut report.garm.sources[0].models[0];
    (model.aurc, model.adaptive_ece) = (0.4321, 0.1234);
    report.garm.sources[0].dispersion = Some(Dispersion {
        spearman: 0.1,
        n_texts: 30,
        slope: 0.5,
        z_score_variance: 2.718,
        crps: f64::NAN,
        crps_of_constant: 0.3,
    });
    let page = html::page(&report);
    for wanted in ["AURC</th>", "<td>0.432</td>", "<td>0.123</td>", "counts of 30 texts", "<td>2.718</td>"] {
        assert!(page.contains(wanted), "{wanted}");
    }
    assert!(!page.contains("NaN"));
}

#[test]
fn a_report_with_undefined_figures_survives_json() {
    let report = report(0.8, 2.0, &[0.0, 1.0]);
    let json = serde_json::to_string(&report).expect("serialises");
    let back: Report = serde_json::from_str(&json).expect("reads");
    assert_eq!(findings::findings(&back), findings::findings(&report));
    assert_eq!(back.samples, report.samples);
    assert!(back.garm.odd_text[0].epistemic_auroc.is_nan());
}

#[test]
fn findings_name_losses_as_losses() {
    let good = findings::findings(&report(0.8, 2.0, &[0.0, 1.0])).join("\n");
    assert!(good.contains("beats the trigram (3.000) and beats the trigram with prompt cache"), "{good}");
    assert!(good.contains("better than chance") && good.contains("likelihood better than constant"), "{good}");
    assert!(good.contains("the proxy reward rose, from 0.000 to 1.000"), "{good}");

    let bad = findings::findings(&report(0.2, 2.7, &[1.0, 0.5])).join("\n");
    assert!(bad.contains("beats the trigram (3.000) and does not beat the trigram with prompt cache"), "{bad}");
    assert!(bad.contains("worse than chance") && bad.contains("likelihood worse than constant"), "{bad}");
    assert!(bad.contains("did not rise"), "{bad}");

    let even = findings::findings(&report(0.5, 2.7, &[1.0, 0.5])).join("\n");
    assert!(even.contains("not distinguishable from chance") && even.contains("undecided against constant"), "{even}");

    for (interval, verdict) in
        [((0.51, 0.6), "prefers RL"), ((0.4, 0.6), "sees no clear difference"), ((0.4, 0.49), "prefers SFT")]
    {
        let judged = Some(Judged { rl_over_sft: 0.5, interval, n_prompts: 9 });
        let text = findings::findings(&Report { judged, ..report(0.8, 2.0, &[0.0, 1.0]) }).join("\n");
        assert!(text.contains(verdict), "{text}");
    }
}
