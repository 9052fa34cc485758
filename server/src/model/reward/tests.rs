//! The network's shape, pooling and scores.

use super::*;
use beckon_shared::config::Preset;
use beckon_shared::metrics::assert_close;
use beckon_shared::preference::PairKind;

fn tokenizer() -> Tokenizer {
    Tokenizer::train(["red apples are sweet", "green pears are sour", "where to buy apples"], 300).expect("tokenizer")
}

fn network(tokenizer: &Tokenizer) -> ModelConfig {
    ModelConfig { vocab_size: tokenizer.vocab_size(), d_model: 32, n_layers: 1, ..Preset::Tiny.model() }
}

/// A reward model with whitening that keeps the first two features, centred on 0.
fn scorer(kappa: f32) -> Scorer {
    let tokenizer = tokenizer();
    let config = network(&tokenizer);
    let device = Device::flex();
    let policy = Llama::init(&config, 1, &device).expect("policy").to_tensors();
    let model = RewardModel::init(&config, &policy, -0.5, 0.01, 2, &device).expect("model");
    let mut tensors = model.to_tensors();
    tensors.insert("feature_mean".into(), DenseTensor::new(vec![32], vec![0.0; 32]));
    let mut whitening = vec![0.0; 64];
    whitening[0] = 1.0;
    whitening[33] = 2.0;
    tensors.insert("whitening".into(), DenseTensor::new(vec![2, 32], whitening));
    let reward = RewardConfig { variance_floor: 0.01, feature_dims: 2, kappa, n_layers: None };
    Scorer::new(&config, &tensors, &reward, &tokenizer, &device).expect("scorer")
}

fn item(query: &str, text: &str) -> (Prompt, String) {
    (Prompt::from_query(query), text.to_owned())
}

#[test]
fn fresh_heads_start_near_the_base_rate_and_unit_variance() {
    let scores = scorer(0.0).score(&[item("apples", "red apples"), item("pears", "green pears are sour")]);
    for s in &scores {
        assert_close("mean", s.reward_mean, -0.5, 0.4);
        assert_close("std", s.aleatoric_std, 1.0, 0.2);
        assert_close("no kappa, no epistemic spread", s.epistemic_std, 0.0, 0.0);
    }
    assert!((scores[0].reward_mean - scores[1].reward_mean).abs() > 1e-4, "ties would freeze the variance");
    assert_close("softplus⁻¹", (inverse_softplus(0.99).exp() + 1.0).ln(), 0.99, 1e-12);
}

#[test]
fn a_score_does_not_depend_on_its_neighbours() {
    let scorer = scorer(0.3);
    let long = item("where to buy red apples and green pears", "are green pears sweet or are they sour");
    let short = item("apples", "red");
    let both = scorer.score(&[long.clone(), short.clone()]);
    for (name, got, want) in
        [("long", both[0], scorer.score(&[long])[0]), ("short", both[1], scorer.score(&[short])[0])]
    {
        assert_close(&format!("{name} mean"), got.reward_mean, want.reward_mean, 1e-5);
        assert_close(&format!("{name} aleatoric"), got.aleatoric_std, want.aleatoric_std, 1e-5);
        assert_close(&format!("{name} epistemic"), got.epistemic_std, want.epistemic_std, 1e-4);
    }
}

#[test]
fn features_are_the_mean_over_the_suggestion_alone() {
    let scorer = scorer(0.0);
    let sequence = Sequence::encode(&scorer.tokenizer, &Prompt::from_query("red apples"), "green pears", 64);
    let (n, d) = (sequence.tokens.len(), 32);
    let batch = Batch::pack([&sequence]);
    let hidden = host(scorer.model.trunk.hidden(batch.tensors(&scorer.device).tokens));
    let feature = host(scorer.model.features(&batch, &scorer.device));
    for k in 0..d {
        let rows = sequence.n_prompt..n;
        let want: f32 = rows.clone().map(|t| hidden[t * d + k]).sum::<f32>() / rows.len() as f32;
        assert_close(&format!("feature {k}"), feature[k], want, 1e-5);
    }
}

#[test]
fn words_are_read_from_the_pass_that_the_features_come_from() {
    let scorer = scorer(0.0);
    let encode = |query: &str, text: &str| Sequence::encode(&scorer.tokenizer, &Prompt::from_query(query), text, 64);
    let sequences =
        [encode("red apples", "green pears"), encode("pears", "sour"), encode("where", "to buy apples are sweet")];
    let batch = Batch::pack(&sequences);
    let read = |spoken: &[usize]| scorer.model.read_on(&batch, spoken, &scorer.device, &mut Tape::new(false));
    let (features, logps) = read(&[2, 0]);
    let want = crate::stage::sft::logps_of(scorer.model.trunk(), &sequences);
    for (got, row) in host(logps.expect("two were asked for")).into_iter().zip([2, 0]) {
        assert_close(&format!("log p of row {row}"), got, want[row].0, 1e-3);
    }
    let (alone, none) = read(&[]);
    assert!(none.is_none());
    assert_eq!(host(alone), host(features), "the features are the same");
}

#[test]
fn epistemic_spread_and_pair_probability_follow_from_the_reading() {
    let scorer = scorer(0.3);
    let sequence = Sequence::encode(&scorer.tokenizer, &Prompt::from_query("apples"), "red apples", scorer.max_seq_len);
    let reading = &scorer.model.read(std::slice::from_ref(&sequence), &scorer.device)[0];
    let (a, b) = (f64::from(reading.feature[0]), 2.0 * f64::from(reading.feature[1]));
    let want = (0.3 * ((a * a + b * b) / 2.0 - 1.0).max(0.0)).sqrt();
    let score = scorer.score_sequences(std::slice::from_ref(&sequence))[0];
    assert_close("epistemic", score.epistemic_std, want, 1e-5);

    let pair = |chosen: &str, rejected: &str| Pair {
        source: "test".into(),
        group: "g".into(),
        prompt: Prompt::from_query("apples"),
        chosen: chosen.into(),
        rejected: rejected.into(),
        label: 1.0,
        weight: 1.0,
        kind: PairKind::Slate,
        logit_variance: 0.0,
    };
    let p = scorer.pair_probabilities(&[
        pair("red apples", "sour pears"),
        pair("sour pears", "red apples"),
        pair("a", "a"),
    ]);
    assert_close("both orders", p[0] + p[1], 1.0, 1e-12);
    assert_close("tie", p[2], 0.5, 1e-12);
    assert!((p[0] - 0.5).abs() > 1e-4);
}

#[test]
fn tensors_come_back_and_wrong_ones_are_refused() {
    let scorer = scorer(0.0);
    let tensors = scorer.model.to_tensors();
    let config = network(&scorer.tokenizer);
    let again = RewardModel::from_tensors(&config, &tensors, 0.01, &scorer.device).expect("round trip");
    assert_eq!(again.to_tensors(), tensors);
    let reward = RewardConfig { variance_floor: 0.01, feature_dims: 2, kappa: 0.0, n_layers: None };
    let error = Scorer::new(&config, &tensors, &reward, &scorer.tokenizer, &scorer.device).expect_err("no whitening");
    assert!(error.to_string().contains("feature_mean"), "{error}");
}
