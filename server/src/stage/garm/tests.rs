//! The stage learns a known preference, keeps its spread honest, resumes bit for bit.

use super::*;
use crate::model::llama::Llama;
use crate::model::reward::Scorer;
use crate::stage::{Control, Observer};
use beckon_shared::config::Preset;
use beckon_shared::metrics::assert_close;
use beckon_shared::preference::{Anchor, Pair, PairKind};
use beckon_shared::prompt::Prompt;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;

mod words;

const TOPICS: [&str; 8] = ["rice", "rome", "chain", "berlin", "guitar", "rust", "puppy", "bread"];
/// How much people like each ending, in the gauge of the anchors.
const ENDINGS: [(&str, f64); 6] = [
    ("near me", 1.2),
    ("for beginners", 0.8),
    ("explained", 0.4),
    ("history", -0.2),
    ("wholesale", -0.8),
    ("lawsuit", -1.4),
];

/// Clicks of simulated users with utility N(mu, 1) for one ending under every topic.
fn split(n: usize, seed: u64) -> Split {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut split = Split::default();
    for i in 0..n {
        let topic = TOPICS[rng.random_range(0..TOPICS.len())];
        let prompt = Prompt::from_query(topic);
        let (a, b) = (rng.random_range(0..ENDINGS.len()), rng.random_range(0..ENDINGS.len()));
        let mut utility = |e: usize| {
            let noise: f64 = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
            ENDINGS[e].1 + noise
        };
        let (u_a, u_b) = (utility(a), utility(b));
        let text = |e: usize| format!("{topic} {}", ENDINGS[e].0);
        let (source, group) = ("test".to_owned(), format!("user {}", i % 60));
        let level = if u_a > 1.0 { 2 } else { u8::from(u_a > 0.0) };
        let (source_2, group_2, prompt_2) = (source.clone(), group.clone(), prompt.clone());
        split.anchors.push(Anchor {
            source: source_2,
            group: group_2,
            prompt: prompt_2,
            suggestion: text(a),
            level,
            weight: 1.0,
        });
        if a != b {
            let (chosen, rejected) = if u_a > u_b { (a, b) } else { (b, a) };
            let (chosen, rejected) = (text(chosen), text(rejected));
            split.pairs.push(Pair {
                source,
                group,
                prompt,
                chosen,
                rejected,
                label: 0.98,
                weight: 1.0,
                kind: PairKind::Slate,
                logit_variance: 0.0,
            });
        }
    }
    split
}

#[derive(Default)]
struct Watcher {
    metrics: Vec<(usize, String, f64)>,
    n_asked: usize,
    cancel_at: Option<usize>,
}

impl Observer for Watcher {
    fn metric(&mut self, stage: Stage, step: usize, _n_steps: usize, name: &str, value: f64) {
        assert_eq!(stage, Stage::Garm);
        self.metrics.push((step, name.to_owned(), value));
    }
    fn log(&mut self, _text: &str) {}
    fn control(&mut self) -> Control {
        self.n_asked += 1;
        if self.cancel_at == Some(self.n_asked) { Control::Cancel } else { Control::Continue }
    }
    fn wait_while_paused(&mut self) -> Control {
        Control::Continue
    }
}

impl Watcher {
    fn values(&self, name: &str) -> Vec<f64> {
        self.metrics.iter().filter(|m| m.1 == name).map(|m| m.2).collect()
    }
}

fn tokenizer() -> Tokenizer {
    let texts = TOPICS.iter().flat_map(|t| ENDINGS.map(|e| format!("{t} {}", e.0)));
    Tokenizer::train(texts, 320).expect("tokenizer")
}

fn network(tokenizer: &Tokenizer) -> ModelConfig {
    ModelConfig { vocab_size: tokenizer.vocab_size(), d_model: 32, n_layers: 1, ..Preset::Tiny.model() }
}

fn config(n_steps: usize) -> GarmConfig {
    GarmConfig { n_steps, batch_pairs: 16, learning_rate: 3e-3, feature_dims: 8, ..GarmConfig::default() }
}

fn context<'a>(dir: &Path, save_every: usize, observer: &'a mut Watcher) -> StageContext<'a> {
    StageContext {
        device: Device::flex(),
        lent: Vec::new(),
        dir: dir.to_owned(),
        seed: 5,
        save_every,
        micro_batch_tokens: None,
        checkpoint_activations: false,
        observer,
    }
}

fn train(
    dir: &Path,
    config: &GarmConfig,
    likelihood: Likelihood,
    watcher: &mut Watcher,
) -> Result<GarmOutcome, StageError> {
    let tokenizer = tokenizer();
    let model = network(&tokenizer);
    let init = Llama::init(&model, 3, &Device::flex()).expect("policy").to_tensors();
    let (train, held_out) = (split(1_200, 1), split(300, 2));
    let inputs = GarmInputs {
        tokenizer: &tokenizer,
        model: &model,
        init: &init,
        train: &train,
        held_out: &held_out,
        lora: None,
        likelihood,
        start: &OnceCell::new(),
    };
    let mut ctx = context(dir, 5, watcher);
    run(&mut ctx, &inputs, config)
}

fn scorer(outcome: &GarmOutcome) -> Scorer {
    let tokenizer = tokenizer();
    Scorer::new(&network(&tokenizer), &outcome.reward, &outcome.config, &tokenizer, &Device::flex()).expect("scorer")
}

#[test]
fn garm_learns_the_order_the_scale_and_what_is_out_of_place() {
    let dir = tempfile::tempdir().expect("folder");
    let mut watcher = Watcher::default();
    let outcome = train(dir.path(), &config(160), Likelihood::Probit, &mut watcher).expect("training");
    let accuracy = watcher.values("pair_accuracy");
    let best = accuracy.iter().copied().fold(0.0, f64::max);
    // the mean head starts from a fit to a trunk of chance, which tells six endings apart
    assert!(accuracy[0] > 0.72 && best >= accuracy[0], "accuracy from {} to {best}", accuracy[0]);
    assert!(watcher.values("synthetic_loss").len() > 20 && watcher.values("anchor_loss").len() > 20);

    let scorer = scorer(&outcome);
    let items: Vec<(Prompt, String)> =
        TOPICS.iter().flat_map(|t| ENDINGS.map(|e| (Prompt::from_query(*t), format!("{t} {}", e.0)))).collect();
    let scores = scorer.score(&items);
    let mean_of = |e: usize| {
        let of_ending = scores.iter().skip(e).step_by(ENDINGS.len());
        of_ending.map(|s| f64::from(s.reward_mean)).sum::<f64>() / TOPICS.len() as f64
    };
    // the anchors fix the scale: best and worst ending are 2.6 apart
    let spread = mean_of(0) - mean_of(5);
    assert!((1.5..3.6).contains(&spread), "best minus worst {spread}");
    assert!(mean_of(0) > mean_of(2) && mean_of(2) > mean_of(4), "{:?}", (0..6).map(mean_of).collect::<Vec<_>>());
    let aleatoric = scores.iter().map(|s| f64::from(s.aleatoric_std)).sum::<f64>() / scores.len() as f64;
    assert_close("spread over users is 1", aleatoric, 1.0, 0.4);

    let odd: Vec<(Prompt, String)> = ["qzx wvv kkj pql", "me me me me me me me", "zz"]
        .iter()
        .map(|t| (Prompt::from_query("rice"), (*t).to_owned()))
        .collect();
    let mean =
        |s: &[beckon_shared::engine::Score]| s.iter().map(|s| f64::from(s.epistemic_std)).sum::<f64>() / s.len() as f64;
    let (far, near) = (mean(&scorer.score(&odd)), mean(&scores));
    assert!(far > 1.5 * near, "epistemic spread {far} of odd text, {near} of logged");
    assert!((0.4..2.5).contains(&outcome.temperature), "temperature {}", outcome.temperature);

    let mut second = Watcher::default();
    let again = train(dir.path(), &config(160), Likelihood::Probit, &mut second).expect("result is there");
    assert_eq!(again, outcome);
    assert!(second.metrics.is_empty());
}

#[test]
fn the_variance_head_rests_during_the_warm_up() {
    let dir = tempfile::tempdir().expect("folder");
    let config = GarmConfig { variance_warmup: 2.0, ..config(6) };
    let outcome = train(dir.path(), &config, Likelihood::Probit, &mut Watcher::default()).expect("training");
    let tokenizer = tokenizer();
    let model = network(&tokenizer);
    let policy = Llama::init(&model, 3, &Device::flex()).expect("policy").to_tensors();
    let fresh = RewardModel::init(&model, &policy, 0.0, 0.01, derived_seed(5, 1), &Device::flex()).expect("model");
    let fresh = fresh.to_tensors();
    assert_eq!(outcome.reward["variance_head.weight"], fresh["variance_head.weight"]);
    assert_ne!(outcome.reward["mean_head.weight"], fresh["mean_head.weight"]);
}

#[test]
fn the_baseline_learns_the_order_without_anchors() {
    let dir = tempfile::tempdir().expect("folder");
    let mut watcher = Watcher::default();
    train(dir.path(), &config(120), Likelihood::BradleyTerry, &mut watcher).expect("training");
    let best = watcher.values("pair_accuracy").into_iter().fold(0.0, f64::max);
    assert!(best > 0.7, "accuracy {best}");
    assert!(watcher.values("anchor_loss").is_empty() && watcher.values("synthetic_loss").is_empty());
}

#[test]
fn resuming_is_bit_equal_to_never_having_stopped() {
    let (straight, broken) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let mut watcher = Watcher::default();
    let whole = train(straight.path(), &config(24), Likelihood::Probit, &mut watcher).expect("training");
    // once inside the warm-up, once after the prior was read
    for cancel_at in [2, 12] {
        let mut first = Watcher { cancel_at: Some(cancel_at), ..Watcher::default() };
        let stopped = train(broken.path(), &config(24), Likelihood::Probit, &mut first);
        assert!(matches!(stopped, Err(StageError::Cancelled)));
    }
    let resumed = train(broken.path(), &config(24), Likelihood::Probit, &mut Watcher::default()).expect("training");
    let bits =
        |o: &GarmOutcome| -> Vec<u32> { o.reward.values().flat_map(|t| t.data.iter().map(|x| x.to_bits())).collect() };
    assert_eq!(bits(&resumed), bits(&whole));
    assert_eq!(resumed, whole);
}

#[test]
fn bad_inputs_are_named() {
    let dir = tempfile::tempdir().expect("folder");
    let tokenizer = tokenizer();
    let model = network(&tokenizer);
    let init = Llama::init(&model, 3, &Device::flex()).expect("policy").to_tensors();
    let empty = Split::default();
    let mut watcher = Watcher::default();
    let mut ctx = context(dir.path(), 0, &mut watcher);
    let inputs = GarmInputs {
        tokenizer: &tokenizer,
        model: &model,
        init: &init,
        train: &empty,
        held_out: &empty,
        lora: None,
        likelihood: Likelihood::Probit,
        start: &OnceCell::new(),
    };
    let error = run(&mut ctx, &inputs, &config(2)).expect_err("nothing to learn from");
    assert!(matches!(error, StageError::NoData { stage: "garm", .. }), "{error}");

    let diverged = train(
        &dir.path().join("d"),
        &GarmConfig { learning_rate: f64::NAN, ..config(4) },
        Likelihood::Probit,
        &mut Watcher::default(),
    );
    assert!(matches!(diverged, Err(StageError::Diverged { stage: "garm", .. })));
}

#[test]
fn the_trunk_may_end_before_the_policy_and_no_later() {
    let tokenizer = tokenizer();
    let model = ModelConfig { n_layers: 2, ..network(&tokenizer) };
    let init = Llama::init(&model, 3, &Device::flex()).expect("policy").to_tensors();
    let (learnt, unseen) = (split(400, 1), split(100, 2));
    let train = |n_layers, lora| {
        let dir = tempfile::tempdir().expect("folder");
        let inputs = GarmInputs {
            tokenizer: &tokenizer,
            model: &model,
            init: &init,
            train: &learnt,
            held_out: &unseen,
            lora,
            likelihood: Likelihood::Probit,
            start: &OnceCell::new(),
        };
        let mut watcher = Watcher::default();
        let mut ctx = context(dir.path(), 0, &mut watcher);
        run(&mut ctx, &inputs, &GarmConfig { n_layers, ..config(4) })
    };
    let short = train(Some(1), None).expect("training");
    assert_eq!(short.config.n_layers, Some(1));
    assert!(short.reward.keys().all(|name| !name.starts_with("model.layers.1.")));
    let scorer = Scorer::new(&model, &short.reward, &short.config, &tokenizer, &Device::flex()).expect("a scorer");
    assert!(scorer.score(&[(Prompt::from_query("rice"), "rice cooker".to_owned())])[0].reward_mean.is_finite());

    // the fit that it started from is a model of its own
    let theta = short.case_v.as_deref().expect("kept");
    let (tensors, constants) = start::case_v(theta, &init, &model, &short.config).expect("the policy has the layer");
    let case_v = Scorer::new(&model, &tensors, &constants, &tokenizer, &Device::flex()).expect("a scorer");
    let margins: Vec<f64> = case_v.pair_probabilities(&unseen.pairs).iter().map(|p| p - 0.5).collect();
    assert!(pair_accuracy(&margins) > 0.6, "{}", pair_accuracy(&margins));
    let score = case_v.score(&[(Prompt::from_query("rice"), "rice cooker".to_owned())])[0];
    assert_close("one spread for all", score.aleatoric_std, 1.0, 1e-6);
    assert_close("and none of distance", score.epistemic_std, 0.0, 0.0);
    assert!(start::case_v(&theta[1..], &init, &model, &short.config).is_none(), "another width");

    assert_eq!(train(None, None).expect("training").config.n_layers, None, "all weights learn: all layers");
    // through adapters one of the two depths is chosen; which, the features say
    let adapted = train(None, Some(LoraConfig::default())).expect("training");
    let has_second = adapted.reward.keys().any(|name| name.starts_with("model.layers.1."));
    assert_eq!(adapted.config.n_layers, (!has_second).then_some(1));

    let refused = train(Some(3), None).expect_err("the policy has two layers");
    assert!(refused.to_string().contains("garm.n_layers"), "{refused}");
}

#[test]
fn temperature_and_quantile_by_hand() {
    assert_close("T", best_temperature(|t| (t.ln() - 0.5).powi(2)), 0.5f64.exp(), 1e-6);
    assert_close("5%", quantile((0..100).map(f64::from), 0.05), 5.0, 0.0);
    assert!(quantile(std::iter::empty(), 0.5).is_nan());
}
