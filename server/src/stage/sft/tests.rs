//! The stage learns, resumes bit for bit, and obeys whoever runs it.

use super::*;
use crate::model::state::{StateError, TrainState};
use crate::stage::{Control, Observer};
use beckon_shared::config::Preset;
use beckon_shared::control::sample::SampledPrompt;
use beckon_shared::control::tuning::Tuned;
use beckon_shared::engine::Engine;
use beckon_shared::metrics::assert_close;
use beckon_shared::prompt::PromptFormat;
use beckon_shared::sampling::Sampling;
use std::path::Path;

const TEXTS: [(&str, &str); 8] = [
    ("best way to cook rice", "how long should rice rest"),
    ("cheap flights to rome", "flights to rome in may"),
    ("how to fix a bike chain", "bike chain keeps slipping"),
    ("weather in berlin", "weather in berlin this weekend"),
    ("learn to play guitar", "easy guitar chords for beginners"),
    ("rust borrow checker", "rust lifetimes explained"),
    ("train a puppy", "puppy biting how to stop"),
    ("make sourdough bread", "sourdough starter not rising"),
];

fn example((query, suggestion): (&str, &str), weight: f32) -> SftExample {
    SftExample {
        source: "test".into(),
        group: query.into(),
        prompt: Prompt::from_query(query),
        suggestion: suggestion.into(),
        weight,
    }
}

fn tokenizer() -> Tokenizer {
    Tokenizer::train(TEXTS.iter().flat_map(|(q, s)| [*q, *s]), 300).expect("tokenizer")
}

fn network(tokenizer: &Tokenizer) -> ModelConfig {
    ModelConfig { vocab_size: tokenizer.vocab_size(), d_model: 32, n_layers: 1, ..Preset::Tiny.model() }
}

fn config(n_steps: usize) -> SftConfig {
    SftConfig { n_steps, batch_tokens: 128, learning_rate: 1e-2, n_warmup_steps: 3, ..SftConfig::default() }
}

/// Notes what it is told; answers `Pause` or `Cancel` when asked for the `n`th time.
#[derive(Default)]
struct Watcher {
    alarms: Vec<String>,
    /// Step that gets an absurd learning rate, once.
    wild_at: Option<usize>,
    metrics: Vec<(usize, String, f64)>,
    logs: Vec<String>,
    samples: Vec<(usize, Vec<SampledPrompt>)>,
    n_asked: usize,
    pause_at: Option<usize>,
    cancel_at: Option<usize>,
    cancel_while_paused: bool,
    n_paused: usize,
}

impl Observer for Watcher {
    fn metric(&mut self, stage: Stage, step: usize, _n_steps: usize, name: &str, value: f64) {
        assert_eq!(stage, Stage::Sft);
        self.metrics.push((step, name.to_owned(), value));
    }
    fn log(&mut self, text: &str) {
        self.logs.push(text.to_owned());
    }
    fn alarm(&mut self, text: &str) {
        self.alarms.push(text.to_owned());
    }
    fn sample(&mut self, _stage: Stage, step: usize, prompts: &[SampledPrompt]) {
        self.samples.push((step, prompts.to_vec()));
    }
    fn tuned(&mut self, _stage: Stage, step: usize) -> Tuned {
        let wild = self.wild_at == Some(step);
        if wild {
            self.wild_at = None;
        }
        Tuned { learning_rate: wild.then_some(1e30), ..Tuned::default() }
    }
    fn control(&mut self) -> Control {
        self.n_asked += 1;
        if self.cancel_at == Some(self.n_asked) {
            return Control::Cancel;
        }
        if self.pause_at == Some(self.n_asked) { Control::Pause } else { Control::Continue }
    }
    fn wait_while_paused(&mut self) -> Control {
        self.n_paused += 1;
        if self.cancel_while_paused { Control::Cancel } else { Control::Continue }
    }
}

impl Watcher {
    fn values(&self, name: &str) -> Vec<f64> {
        self.metrics.iter().filter(|m| m.1 == name).map(|m| m.2).collect()
    }
}

/// Runs the stage in `folder` on all texts but the last two, which are held out.
fn train(folder: &std::path::Path, config: &SftConfig, watcher: &mut Watcher) -> Result<SftOutcome, StageError> {
    train_from(folder, config, watcher, None)
}

/// From scratch, with all weights, without held-out examples and teacher.
fn from_scratch<'a>(tokenizer: &'a Tokenizer, model: &'a ModelConfig, train: &'a [SftExample]) -> SftInputs<'a> {
    SftInputs { tokenizer, model, init: None, lora: None, train, held_out: &[], soft_targets: None }
}

fn train_from(
    folder: &std::path::Path,
    config: &SftConfig,
    watcher: &mut Watcher,
    init: Option<&TensorMap>,
) -> Result<SftOutcome, StageError> {
    let tokenizer = tokenizer();
    let model = network(&tokenizer);
    let examples: Vec<SftExample> = TEXTS.iter().map(|t| example(*t, 1.0)).collect();
    let (learn, held_out) = examples.split_at(6);
    let inputs = SftInputs { init, held_out, ..from_scratch(&tokenizer, &model, learn) };
    let mut ctx = StageContext {
        device: Device::flex(),
        lent: Vec::new(),
        dir: folder.to_owned(),
        seed: 7,
        save_every: 4,
        micro_batch_tokens: None,
        checkpoint_activations: false,
        observer: watcher,
    };
    run(&mut ctx, &inputs, config)
}

fn bits(tensors: &TensorMap) -> Vec<(String, Vec<u32>)> {
    tensors.iter().map(|(name, t)| (name.clone(), t.data.iter().map(|x| x.to_bits()).collect())).collect()
}

/// The stage and RL's rollouts know nothing of the prompt format: with a pretrained model's pieces around turns the
/// policy learns as well, and ends its texts with that model's token.
#[test]
fn a_chat_format_trains_like_our_own() {
    let json = tokenizer().to_json().replace("<|user|>", "<|im_start|>").replace("<|assistant|>", "<|im_end|>");
    let pieces = |role: &str| [format!("<|im_start|>{role} "), "<|im_end|> ".to_owned()];
    let format = PromptFormat {
        begin: String::new(),
        user: pieces("user"),
        assistant: pieces("assistant"),
        suggest: "<|im_start|>user ".into(),
        end: "<|im_end|>".into(),
        chat_template: None,
    };
    let tokenizer = Tokenizer::pretrained(&json, format).expect("a tokenizer");
    assert_ne!(tokenizer.end(), beckon_shared::tokenizer::END);
    let model = network(&tokenizer);
    let examples: Vec<SftExample> = TEXTS.iter().map(|t| example(*t, 1.0)).collect();
    let inputs = SftInputs { held_out: &examples[..2], ..from_scratch(&tokenizer, &model, &examples) };
    let folder = tempfile::tempdir().expect("folder");
    let mut watcher = Watcher::default();
    let dir = folder.path().to_owned();
    let mut ctx = StageContext {
        device: Device::flex(),
        lent: Vec::new(),
        dir,
        seed: 7,
        save_every: 0,
        micro_batch_tokens: None,
        checkpoint_activations: false,
        observer: &mut watcher,
    };
    let outcome = run(&mut ctx, &inputs, &config(80)).expect("training");
    assert!(outcome.held_out_nll < 0.5 * outcome.held_out_nll_before, "{} nats", outcome.held_out_nll);
    let mut engine = Engine::from_tensors(&model, &outcome.policy, &tokenizer).expect("an engine");
    let written = engine.rollouts(&[Prompt::from_query(TEXTS[0].0)], 8, 24, &Sampling::plain(1), 0).expect("rollouts");
    let ended = written[0].iter().filter(|r| r.finished && r.tokens.last() == Some(&tokenizer.end())).count();
    assert!(ended >= 4, "{written:?}");
    assert!(written[0].iter().all(|r| !r.text.contains("im_end")), "{written:?}");
}

#[test]
fn the_policy_learns_its_examples_and_reports_curves() {
    let folder = tempfile::tempdir().expect("folder");
    let mut watcher = Watcher::default();
    let outcome = train(folder.path(), &config(60), &mut watcher).expect("training");
    let losses = watcher.values("loss");
    assert_eq!(losses.len(), 60);
    let first = losses[0];
    assert_close("first loss is near uniform", first, (network(&tokenizer()).vocab_size as f64).ln(), 0.3);
    let last = losses[55..].iter().sum::<f64>() / 5.0;
    assert!(last < 0.3 * first, "loss went from {first} to {last}");
    assert_eq!(watcher.values("held_out_loss").len(), 21, "before, nineteen between, after");
    assert_eq!(watcher.values("tokens_per_sec").len(), 60);
    assert!(watcher.values("padding_share").iter().all(|share| (0.0..0.5).contains(share)));
    assert_eq!(watcher.values("padding_share").len(), 60);
    assert_close("peak learning rate", watcher.values("learning_rate")[2], 1e-2, 1e-12);
    assert_close("last learning rate", watcher.values("learning_rate")[59], 1e-3, 1e-12);
    assert!(outcome.n_held_out_tokens > 10 && outcome.n_tokens_seen > 60 * 64);
    assert!(outcome.held_out_nll_before.is_finite() && outcome.held_out_nll.is_finite());
    assert!(!folder.path().join("state.safetensors").exists(), "the training state has served");
    let steps: Vec<usize> = watcher.samples.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 6, 12, 18, 24, 30, 36, 42, 48, 54, 60]);
    for (_, prompts) in &watcher.samples {
        let shown: Vec<&str> = prompts.iter().map(|p| p.prompt.as_str()).collect();
        assert_eq!(shown, [TEXTS[6].0, TEXTS[7].0], "those held out");
        assert!(prompts.iter().all(|p| p.suggestions.len() == 3 && p.suggestions.iter().all(|s| s.score.is_none())));
    }
    assert_ne!(watcher.samples[0].1, watcher.samples[10].1, "what it writes changes");

    let mut second = Watcher::default();
    let again = train(folder.path(), &config(60), &mut second).expect("result is there");
    assert_eq!(again, outcome);
    assert!(second.metrics.is_empty() && second.n_asked == 0, "nothing was trained");
}

#[test]
fn resuming_is_bit_equal_to_never_having_stopped() {
    let (straight, broken) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let mut unbroken = Watcher::default();
    let whole = train(straight.path(), &config(12), &mut unbroken).expect("training");
    let mut first = Watcher { cancel_at: Some(6), ..Watcher::default() };
    let stopped = train(broken.path(), &config(12), &mut first);
    assert!(matches!(stopped, Err(StageError::Cancelled)));
    assert_eq!(first.values("loss").len(), 5);
    let mut second = Watcher::default();
    let resumed = train(broken.path(), &config(12), &mut second).expect("training");
    assert_eq!(second.values("loss").len(), 7, "only the missing steps are done");
    assert!(second.logs.iter().any(|line| line.contains("after step 5")), "{:?}", second.logs);
    assert_eq!(bits(&resumed.policy), bits(&whole.policy));
    assert_eq!(resumed, whole);
    // what one process drew before changes nothing of the training, nor of what another draws later
    assert_eq!((first.samples.len(), second.samples.len()), (3, 4));
    assert_eq!([first.samples, second.samples].concat(), unbroken.samples);
}

/// Texts in which nothing can be learnt but by heart: the policy that is kept is an early one, also over a resume.
#[test]
fn the_policy_with_the_lowest_validation_loss_is_kept() {
    let tokenizer = tokenizer();
    let model = network(&tokenizer);
    let word = |i: usize| TEXTS[i % TEXTS.len()].1.split(' ').next().unwrap_or("a");
    let examples: Vec<SftExample> = (0..120)
        .map(|i| SftExample {
            group: format!("group {i}"),
            suggestion: [word(i * 7), word(i * i + 3), word(i * 11 + i / 5)].join(" "),
            ..example(TEXTS[i % TEXTS.len()], 1.0)
        })
        .collect();
    let inputs = from_scratch(&tokenizer, &model, &examples);
    let (straight, broken) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let config = SftConfig { batch_tokens: 2_048, ..config(120) };
    let run_in = |dir: &Path, watcher: &mut Watcher| {
        let ctx = &mut StageContext {
            device: Device::flex(),
            lent: Vec::new(),
            dir: dir.to_owned(),
            seed: 7,
            save_every: 0,
            micro_batch_tokens: None,
            checkpoint_activations: false,
            observer: watcher,
        };
        run(ctx, &inputs, &config)
    };
    let mut watcher = Watcher::default();
    let whole = run_in(straight.path(), &mut watcher).expect("training");
    let losses = watcher.values("validation_loss");
    assert_eq!(losses.len(), N_LOOKS);
    assert!(
        losses[N_LOOKS - 1] > losses.iter().copied().fold(f64::INFINITY, f64::min),
        "it learns by heart: {losses:?}"
    );
    assert!(watcher.logs.iter().any(|line| line.contains("its policy is the result")), "{:?}", watcher.logs);
    let mut first = Watcher { cancel_at: Some(100), ..Watcher::default() };
    assert!(matches!(run_in(broken.path(), &mut first), Err(StageError::Cancelled)));
    let resumed = run_in(broken.path(), &mut Watcher::default()).expect("training");
    assert_eq!(bits(&resumed.policy), bits(&whole.policy));
}

#[test]
fn a_pause_saves_and_changes_nothing() {
    let (straight, paused) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let whole = train(straight.path(), &config(3), &mut Watcher::default()).expect("training");
    let mut watcher = Watcher { pause_at: Some(3), ..Watcher::default() };
    let outcome = train(paused.path(), &config(3), &mut watcher).expect("training");
    assert_eq!(watcher.n_paused, 1);
    assert_eq!(bits(&outcome.policy), bits(&whole.policy));

    let cancelled = tempfile::tempdir().expect("folder");
    let mut watcher = Watcher { pause_at: Some(3), cancel_while_paused: true, ..Watcher::default() };
    let error = train(cancelled.path(), &config(3), &mut watcher);
    assert!(matches!(error, Err(StageError::Cancelled)));
    assert!(cancelled.path().join("state.safetensors").exists());
}

#[test]
fn a_folder_of_another_run_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    train(folder.path(), &config(2), &mut Watcher::default()).expect("training");
    let error = train(folder.path(), &config(3), &mut Watcher::default()).expect_err("other configuration");
    assert!(matches!(error, StageError::State(StateError::OtherRun { .. })), "{error}");
}

#[test]
fn divergence_is_named_and_the_saved_state_stays_good() {
    let folder = tempfile::tempdir().expect("folder");
    let wild = SftConfig { learning_rate: 1e30, n_warmup_steps: 0, ..config(30) };
    let error = train(folder.path(), &wild, &mut Watcher::default()).expect_err("must diverge");
    assert!(matches!(error, StageError::Diverged { stage: "sft", .. }), "{error}");
    let state = TrainState::load(&folder.path().join("state.safetensors")).expect("readable");
    let finite = |s: TrainState| s.tensors.values().all(|t| t.data.iter().all(|x| x.is_finite()));
    assert!(state.is_none_or(finite));
}

#[test]
fn a_step_that_is_not_finite_is_taken_back_and_the_rest_runs_at_half_the_rate() {
    let folder = tempfile::tempdir().expect("folder");
    let config = SftConfig { n_warmup_steps: 0, ..config(20) };
    let mut watcher = Watcher { wild_at: Some(9), ..Watcher::default() };
    let outcome = train(folder.path(), &config, &mut watcher).expect("goes on");
    assert!(outcome.policy.values().all(|t| t.data.iter().all(|x| x.is_finite())));
    let [alarm] = &watcher.alarms[..] else { panic!("one alarm: {:?}", watcher.alarms) };
    assert!(alarm.contains("is not finite: back to the last saved state") && alarm.contains("0.5"), "{alarm}");
    let rates: Vec<(usize, f64)> =
        watcher.metrics.iter().filter(|m| m.1 == "learning_rate").map(|m| (m.0, m.2)).collect();
    let of = |step: usize| rates.iter().rev().find(|r| r.0 == step).map(|r| r.1).expect("taken");
    let before = rates.iter().find(|r| r.0 == 2).map(|r| r.1).expect("taken");
    let halved = warmup_cosine(18, 20, 0, config.learning_rate) / 2.0;
    assert!(before > config.learning_rate * 0.9 && (of(19) - halved).abs() < 1e-12, "{rates:?}");
}

/// The update right before a save goes wild, and no look falls between the two: that state is none to go back to.
#[test]
fn a_wild_update_that_was_saved_is_taken_back_too() {
    let config = SftConfig { n_warmup_steps: 0, ..config(60) };
    for (wild_at, cancel_at) in [(7, None), (6, Some(8))] {
        let folder = tempfile::tempdir().expect("folder");
        let mut watcher = Watcher { wild_at: Some(wild_at), cancel_at, ..Watcher::default() };
        let mut outcome = train(folder.path(), &config, &mut watcher);
        if cancel_at.is_some() {
            assert!(matches!(outcome, Err(StageError::Cancelled)));
            watcher = Watcher::default();
            outcome = train(folder.path(), &config, &mut watcher);
        }
        let policy = outcome.expect("goes on").policy;
        assert!(policy.values().all(|t| t.data.iter().all(|x| x.is_finite())));
        assert_eq!(watcher.alarms.len(), 1, "{:?}", watcher.alarms);
        assert!(watcher.logs.iter().any(|line| line.contains("after step 4")), "{:?}", watcher.logs);
    }
}

#[test]
fn no_examples_and_a_small_vocabulary_are_errors() {
    let folder = tempfile::tempdir().expect("folder");
    let tokenizer = tokenizer();
    let model = network(&tokenizer);
    let mut watcher = Watcher::default();
    let mut ctx = StageContext {
        device: Device::flex(),
        lent: Vec::new(),
        dir: folder.path().into(),
        seed: 0,
        save_every: 4,
        micro_batch_tokens: None,
        checkpoint_activations: false,
        observer: &mut watcher,
    };
    let inputs = from_scratch(&tokenizer, &model, &[]);
    let error = run(&mut ctx, &inputs, &config(2)).expect_err("nothing to learn from");
    assert!(matches!(error, StageError::NoData { stage: "sft", .. }), "{error}");

    let small = ModelConfig { vocab_size: 64, ..model.clone() };
    let examples = [example(TEXTS[0], 1.0)];
    let inputs = from_scratch(&tokenizer, &small, &examples);
    let error = run(&mut ctx, &inputs, &config(2)).expect_err("tokens would not fit").to_string();
    assert!(error.contains("vocab_size is 64"), "{error}");
}

#[test]
fn without_held_out_examples_the_outcome_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let tokenizer = tokenizer();
    let model = network(&tokenizer);
    let mut watcher = Watcher::default();
    let examples = [example(TEXTS[0], 1.0)];
    let inputs = from_scratch(&tokenizer, &model, &examples);
    let mut ctx = StageContext {
        device: Device::flex(),
        lent: Vec::new(),
        dir: folder.path().into(),
        seed: 0,
        save_every: 0,
        micro_batch_tokens: None,
        checkpoint_activations: false,
        observer: &mut watcher,
    };
    let outcome = run(&mut ctx, &inputs, &config(2)).expect("training");
    assert!(outcome.n_held_out_tokens == 0 && outcome.held_out_nll.is_nan());
    assert!(watcher.values("held_out_loss").is_empty());
}

#[test]
fn training_goes_on_from_given_weights() {
    let (a, b) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let first = train(a.path(), &config(20), &mut Watcher::default()).expect("training");
    let second = train_from(b.path(), &config(1), &mut Watcher::default(), Some(&first.policy)).expect("training");
    assert_close("starts where the first ended", second.held_out_nll_before, first.held_out_nll, 1e-9);
}

/// A teacher that has only begun to learn is unsure. Who learns from its distribution is so too, who learns from the texts
/// alone is not; parts of a step see the same teacher as the whole, and a resumed run goes on with it.
#[test]
fn soft_targets_teach_a_teachers_distribution() {
    let tokenizer = tokenizer();
    let model = network(&tokenizer);
    let examples: Vec<SftExample> = TEXTS.iter().map(|t| example(*t, 1.0)).collect();
    let taught = tempfile::tempdir().expect("folder");
    let policy = train(taught.path(), &config(12), &mut Watcher::default()).expect("training").policy;
    let targets = |weight| SoftTargets { model: &model, policy: &policy, weight, temperature: 2.0 };
    let run_in = |dir: &Path, weight: f64, micro_batch_tokens: Option<usize>, watcher: &mut Watcher| {
        let inputs = SftInputs { soft_targets: Some(targets(weight)), ..from_scratch(&tokenizer, &model, &examples) };
        let dir = dir.to_owned();
        let device = Device::flex();
        let mut ctx = StageContext {
            device,
            lent: Vec::new(),
            dir,
            seed: 7,
            save_every: 0,
            micro_batch_tokens,
            checkpoint_activations: false,
            observer: watcher,
        };
        run(&mut ctx, &inputs, &config(60))
    };
    let rows: Vec<Sequence> =
        examples.iter().map(|e| Sequence::encode(&tokenizer, &e.prompt, &e.suggestion, 128)).collect();
    // the soft part alone
    let distance = |policy: &TensorMap| {
        let student = Llama::from_tensors(&model, policy, &Device::flex()).expect("network");
        let teacher = Teacher::new(&targets(1.0), &Device::flex()).expect("network");
        teacher
            .losses(&student, &Batch::pack(&rows), &Device::flex(), &mut Tape::new(false))
            .mean()
            .into_scalar::<f32>()
    };
    let folders: Vec<_> = (0..3).map(|_| tempfile::tempdir().expect("folder")).collect();
    let of_texts = run_in(folders[0].path(), 0.0, None, &mut Watcher::default()).expect("training").policy;
    let of_teacher = run_in(folders[1].path(), 0.9, None, &mut Watcher::default()).expect("training").policy;
    let (texts, teacher) = (distance(&of_texts), distance(&of_teacher));
    assert!(teacher < 0.5 * texts, "{teacher} nats from the teacher with it, {texts} without");
    let mut first = Watcher { cancel_at: Some(31), ..Watcher::default() };
    assert!(matches!(run_in(folders[2].path(), 0.9, None, &mut first), Err(StageError::Cancelled)));
    let resumed = run_in(folders[2].path(), 0.9, None, &mut Watcher::default()).expect("training").policy;
    assert_eq!(bits(&resumed), bits(&of_teacher));
    let folder = tempfile::tempdir().expect("folder");
    let in_parts = run_in(folder.path(), 0.9, Some(32), &mut Watcher::default()).expect("training").policy;
    assert!(distance(&in_parts) < 0.5 * texts, "the same teacher for every part");
}

#[test]
fn adapters_learn_beside_a_frozen_policy_and_resume_bit_for_bit() {
    let tokenizer = tokenizer();
    let model = network(&tokenizer);
    let before = tempfile::tempdir().expect("folder");
    let base = train(before.path(), &config(25), &mut Watcher::default()).expect("training").policy;
    let examples: Vec<SftExample> = TEXTS.iter().map(|t| example(*t, 1.0)).collect();
    let inputs = SftInputs {
        init: Some(&base),
        lora: Some(LoraConfig { rank: 8, ..LoraConfig::default() }),
        held_out: &examples[..2],
        ..from_scratch(&tokenizer, &model, &examples)
    };
    let run_in = |dir: &Path, watcher: &mut Watcher| {
        let ctx = &mut StageContext {
            device: Device::flex(),
            lent: Vec::new(),
            dir: dir.to_owned(),
            seed: 7,
            save_every: 4,
            micro_batch_tokens: None,
            checkpoint_activations: false,
            observer: watcher,
        };
        run(ctx, &inputs, &config(40))
    };
    let (straight, broken) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let whole = run_in(straight.path(), &mut Watcher::default()).expect("training");
    let (before, after) = (whole.held_out_nll_before, whole.held_out_nll);
    // a little: vocabulary and norms are frozen
    assert!(after < before - 0.02, "{before} to {after} nats");
    assert!(whole.policy.keys().eq(base.keys()), "merged");
    assert_eq!(whole.policy["model.embed_tokens.weight"], base["model.embed_tokens.weight"]);
    let mut first = Watcher { cancel_at: Some(11), ..Watcher::default() };
    assert!(matches!(run_in(broken.path(), &mut first), Err(StageError::Cancelled)));
    let resumed = run_in(broken.path(), &mut Watcher::default()).expect("training");
    assert_eq!(bits(&resumed.policy), bits(&whole.policy));
}

#[test]
fn click_weights_are_tempered_then_bounded_then_of_mean_one_in_each_data_set() {
    let of = |source: &str, weight| SftExample { source: source.into(), ..example(("rice", "rice cooker"), weight) };
    let examples = [of("log", 4.0), of("log", 0.0), of("log", 100.0), of("list", 1.0), of("list", 1.0)];
    let examples: Vec<&SftExample> = examples.iter().collect();
    // at beta 2: 2, the floor 0.1, the ceiling 5
    for (got, want) in weights(&examples, 2.0).into_iter().zip([2.0, 0.1, 5.0].map(|w| w * 3.0 / 7.1)) {
        assert_close("log", got, want, 1e-6);
    }
    assert_eq!(weights(&examples, 2.0)[3..], [1.0, 1.0]);
}

/// Two equal rows but for their weights: the loss is the weighted mean, and a common factor on the
/// weights changes nothing.
#[test]
fn the_loss_weighs_rows_and_is_free_of_their_scale() {
    let tokenizer = tokenizer();
    let network = network(&tokenizer);
    let device = Device::flex();
    let model = Llama::init(&network, 1, &device).expect("model");
    let rows = [Sequence::new(&[1, 50, 3], &[60, 4]), Sequence::new(&[1, 70, 3], &[80, 81, 4])];
    let value = |w: [f32; 2]| loss(&model, &Batch::pack(&rows), &w, &device).into_scalar::<f32>();
    let logps = logps_of(&model, &rows);
    let want = -(0.5 * logps[0].0 + 1.5 * logps[1].0) / 5.0;
    assert_close("weights of mean 1", value([0.5, 1.5]), want, 1e-5);
    assert_close("weights of mean 4", value([2.0, 6.0]), want, 1e-5);
}

#[test]
fn sequence_logps_keep_the_order_of_the_items() {
    let tokenizer = tokenizer();
    let network = network(&tokenizer);
    let model = Llama::init(&network, 1, &Device::flex().autodiff()).expect("model");
    let items: Vec<(Prompt, String)> = TEXTS.iter().map(|(q, s)| (Prompt::from_query(*q), (*s).to_owned())).collect();
    let together = sequence_logps(&model, &tokenizer, &items, 128);
    for (item, (sum, n)) in items.iter().zip(together) {
        let (alone, m) = sequence_logps(&model, &tokenizer, std::slice::from_ref(item), 128)[0];
        assert_close("log-probability", sum, alone, 1e-4);
        assert_eq!((n, m), (tokenizer.encode_suggestion(&item.1).len(), n));
        assert_close("a fresh policy is near uniform", sum / n as f64, -(network.vocab_size as f64).ln(), 0.3);
    }
}
