//! RL raises a hand-made reward, keeps to its budget, resumes bit for bit.

use super::*;
use crate::model::reward::RewardModel;
use crate::stage::sft::logps_of;
use crate::stage::sft::{self, SftInputs};
use crate::stage::{Control, Observer};
use beckon_shared::config::Preset;
use beckon_shared::control::SftConfig;
use beckon_shared::control::sample::SampledPrompt;
use beckon_shared::control::tuning::Tuned;
use beckon_shared::metrics::assert_close;
use beckon_shared::reward::advantage::Advantage;
use beckon_shared::tensor::DenseTensor;
use std::path::Path;
use std::sync::OnceLock;

const TOPICS: [&str; 6] = ["rice", "rome", "guitar", "berlin", "rust", "puppy"];
const ENDINGS: [&str; 4] = ["near me", "for beginners", "history facts", "price list"];

#[derive(Default)]
struct Watcher {
    metrics: Vec<(usize, String, f64)>,
    alarms: Vec<String>,
    logs: Vec<String>,
    samples: Vec<(usize, Vec<SampledPrompt>)>,
    n_asked: usize,
    cancel_at: Option<usize>,
    /// Step that gets an absurd learning rate, once.
    wild_at: Option<usize>,
    /// A KL budget and the step from which it holds.
    budget_from: Option<(usize, f64)>,
}

impl Observer for Watcher {
    fn metric(&mut self, _stage: Stage, step: usize, _n_steps: usize, name: &str, value: f64) {
        self.metrics.push((step, name.to_owned(), value));
    }
    fn log(&mut self, text: &str) {
        self.logs.push(text.to_owned());
    }
    fn alarm(&mut self, text: &str) {
        self.alarms.push(text.to_owned());
    }
    fn sample(&mut self, stage: Stage, step: usize, prompts: &[SampledPrompt]) {
        // the policy of this world comes from SFT, which has a test of its own
        if stage == Stage::Rl {
            self.samples.push((step, prompts.to_vec()));
        }
    }
    fn tuned(&mut self, _stage: Stage, step: usize) -> Tuned {
        let learning_rate = self.wild_at.take_if(|at| *at == step).map(|_| 1e30);
        let kl_budget_nats = self.budget_from.filter(|(from, _)| step >= *from).map(|(_, budget)| budget);
        Tuned { learning_rate, kl_budget_nats, ..Tuned::default() }
    }
    fn control(&mut self) -> Control {
        self.n_asked += 1;
        if self.cancel_at == Some(self.n_asked) { Control::Cancel } else { Control::Continue }
    }
    fn wait_while_paused(&mut self) -> Control {
        Control::Continue
    }
}

/// A small policy that writes one of the endings behind its topic, and what it learnt from.
struct World {
    tokenizer: Tokenizer,
    model: ModelConfig,
    policy: TensorMap,
    reward: TensorMap,
    reward_config: RewardConfig,
    prompts: Vec<Prompt>,
    bc: Vec<SftExample>,
}

impl World {
    fn inputs(&self) -> RlInputs<'_> {
        RlInputs {
            tokenizer: &self.tokenizer,
            model: &self.model,
            policy: &self.policy,
            reward: &self.reward,
            reward_config: &self.reward_config,
            prompts: &self.prompts,
            bc: &self.bc,
            logged: &self.bc,
            lora: None,
            judge: None,
            truth: None,
        }
    }

    /// 2 for what ends in "near me", 0 otherwise.
    fn likes_near_me(&self, sequence: &Sequence) -> Score {
        let text = self.tokenizer.decode(&sequence.tokens[sequence.n_prompt..]);
        let reward_mean = if text.ends_with("near me") { 2.0 } else { 0.0 };
        Score { reward_mean, aleatoric_std: 0.5, epistemic_std: 0.0 }
    }
}

fn context<'a>(dir: &Path, observer: &'a mut Watcher) -> StageContext<'a> {
    StageContext {
        device: Device::flex(),
        lent: Vec::new(),
        dir: dir.to_owned(),
        seed: 11,
        save_every: 3,
        micro_batch_tokens: None,
        checkpoint_activations: false,
        observer,
    }
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let texts = TOPICS.iter().flat_map(|t| ENDINGS.map(|e| format!("{t} {e}")));
        let tokenizer = Tokenizer::train(texts, 300).expect("tokenizer");
        let model =
            ModelConfig { vocab_size: tokenizer.vocab_size(), d_model: 32, n_layers: 1, ..Preset::Tiny.model() };
        let example = |topic: &str, ending: &str| SftExample {
            source: "test".into(),
            group: topic.into(),
            prompt: Prompt::from_query(topic),
            suggestion: format!("{topic} {ending}"),
            weight: 1.0,
        };
        let bc: Vec<SftExample> = TOPICS.iter().flat_map(|t| ENDINGS.map(|e| example(t, e))).collect();
        let dir = tempfile::tempdir().expect("folder");
        let mut watcher = Watcher::default();
        let inputs = SftInputs {
            tokenizer: &tokenizer,
            model: &model,
            init: None,
            lora: None,
            train: &bc,
            held_out: &[],
            soft_targets: None,
        };
        let config = SftConfig {
            n_steps: 120,
            batch_tokens: 256,
            learning_rate: 1e-2,
            n_warmup_steps: 5,
            ..SftConfig::default()
        };
        let policy = sft::run(&mut context(dir.path(), &mut watcher), &inputs, &config).expect("policy").policy;
        let heads = RewardModel::init(&model, &policy, 0.0, 0.01, 1, &Device::flex()).expect("reward model");
        let mut reward = heads.to_tensors();
        reward.insert("feature_mean".into(), DenseTensor::new(vec![32], vec![0.0; 32]));
        reward.insert("whitening".into(), DenseTensor::new(vec![4, 32], vec![0.05; 128]));
        let reward_config = RewardConfig { variance_floor: 0.01, feature_dims: 4, kappa: 0.2, n_layers: None };
        let prompts = TOPICS.map(Prompt::from_query).to_vec();
        World { tokenizer, model, policy, reward, reward_config, prompts, bc }
    })
}

fn config(n_steps: usize) -> RlConfig {
    RlConfig {
        n_steps,
        batch_prompts: 6,
        group_size: 8,
        max_new_tokens: 12,
        learning_rate: 3e-3,
        ..RlConfig::default()
    }
}

#[test]
fn rl_raises_a_hand_made_reward_within_its_budget() {
    let (world, dir) = (world(), tempfile::tempdir().expect("folder"));
    let score = |sequences: &[Sequence]| sequences.iter().map(|s| world.likes_near_me(s)).collect::<Vec<_>>();
    let mut watcher = Watcher::default();
    let config = config(50);
    let outcome = train(&mut context(dir.path(), &mut watcher), &world.inputs(), &config, &score).expect("training");
    assert_eq!(outcome.curve.len(), 50);
    let mean = |range: std::ops::Range<usize>, f: fn(&RlStep) -> f64| {
        let n = range.len() as f64;
        outcome.curve[range].iter().map(f).sum::<f64>() / n
    };
    let (before, after) = (mean(0..5, |s| s.reward_mean), mean(45..50, |s| s.reward_mean));
    assert!(after > before + 0.4, "proxy from {before} to {after}");
    assert!(mean(45..50, |s| s.kl_nats) < 3.0 * config.kl_budget_nats);
    assert!(mean(45..50, |s| s.gate_failure_rate) < 0.6);
    let first = outcome.curve[0];
    assert_close("the policy starts at the reference", first.kl_nats, 0.0, 1e-6);
    assert!(first.entropy > 0.05 && first.n_tokens_mean > 2.0 && first.distinct_2 > 0.0);
    people_see_what_was_learnt(&watcher.samples);

    let again = train(&mut context(dir.path(), &mut Watcher::default()), &world.inputs(), &config, &|_| Vec::new());
    assert_eq!(again.expect("result is there"), outcome);
}

/// At every look the same three prompts, with GaRM's belief: from all endings to the one that is liked.
#[track_caller]
fn people_see_what_was_learnt(samples: &[(usize, Vec<SampledPrompt>)]) {
    assert_eq!(samples.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 25, 50]);
    let asked = |at: usize| samples[at].1.iter().map(|p| p.prompt.as_str()).collect::<Vec<_>>();
    assert!(asked(1) == asked(0) && asked(2) == asked(0), "{:?} and {:?}", asked(1), asked(2));
    let mut distinct = asked(0);
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 3, "{:?}", asked(0));
    let liked = |at: usize| {
        let suggestions = samples[at].1.iter().flat_map(|p| &p.suggestions);
        let means: Vec<f32> = suggestions.map(|s| s.score.expect("GaRM is there").reward_mean).collect();
        assert_eq!(means.len(), 9);
        means.iter().sum::<f32>()
    };
    assert!(liked(2) > liked(0), "from {} to {}", liked(0), liked(2));
}

#[test]
fn resuming_is_bit_equal_to_never_having_stopped() {
    resume_is_bit_equal(&config(8), None);
}

#[test]
fn resuming_is_bit_equal_with_several_updates_a_batch_and_a_changed_budget() {
    let config = RlConfig { updates_per_batch: 3, advantage: Advantage::Dapo, ..config(8) };
    resume_is_bit_equal(&config, Some((4, 1e-3)));
}

fn resume_is_bit_equal(config: &RlConfig, budget_from: Option<(usize, f64)>) {
    let world = world();
    let watcher = || Watcher { budget_from, ..Watcher::default() };
    let (straight, broken) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    let whole = run(&mut context(straight.path(), &mut watcher()), &world.inputs(), config).expect("training");
    for cancel_at in [3, 4] {
        let mut watcher = Watcher { cancel_at: Some(cancel_at), ..watcher() };
        let stopped = run(&mut context(broken.path(), &mut watcher), &world.inputs(), config);
        assert!(matches!(stopped, Err(StageError::Cancelled)));
    }
    let mut watcher = watcher();
    let resumed = run(&mut context(broken.path(), &mut watcher), &world.inputs(), config).expect("training");
    let steps: Vec<usize> = watcher.metrics.iter().filter(|m| m.1 == "loss").map(|m| m.0).collect();
    assert_eq!(steps, [6, 7, 8], "only the missing steps are done");
    let bits =
        |o: &RlOutcome| -> Vec<u32> { o.policy.values().flat_map(|t| t.data.iter().map(|x| x.to_bits())).collect() };
    assert_eq!(bits(&resumed), bits(&whole));
    assert_eq!(resumed, whole);
}

/// The update right before a save goes wild: that state is none to go back to.
#[test]
fn a_wild_update_that_was_saved_is_taken_back() {
    let (world, dir) = (world(), tempfile::tempdir().expect("folder"));
    let score = |sequences: &[Sequence]| sequences.iter().map(|s| world.likes_near_me(s)).collect::<Vec<_>>();
    let mut watcher = Watcher { wild_at: Some(5), ..Watcher::default() };
    let outcome = train(&mut context(dir.path(), &mut watcher), &world.inputs(), &config(8), &score).expect("goes on");
    assert!(outcome.policy.values().all(|t| t.data.iter().all(|x| x.is_finite())));
    assert_eq!(outcome.curve.len(), 8);
    let taken_back = watcher.alarms.iter().filter(|text| text.contains("is not finite")).count();
    assert_eq!(taken_back, 1, "{:?}", watcher.alarms);
    assert!(watcher.logs.iter().any(|line| line.contains("going on after step 3")), "{:?}", watcher.logs);
    let version = reward_version(&world.reward, &world.reward_config);
    let told = format!("against reward model {version}");
    assert_eq!(watcher.logs.iter().filter(|line| line.contains(&told)).count(), 2, "at the start and when going on");
}

/// On-policy the two have the same gradient; used again, a batch meets their different clips.
#[test]
fn gspo_is_grpo_until_a_batch_is_used_again() {
    let world = world();
    let score = |sequences: &[Sequence]| sequences.iter().map(|s| world.likes_near_me(s)).collect::<Vec<_>>();
    let outcome = |advantage, updates_per_batch| {
        let dir = tempfile::tempdir().expect("folder");
        let config = RlConfig { advantage, updates_per_batch, ..config(3) };
        let mut watcher = Watcher::default();
        let outcome = train(&mut context(dir.path(), &mut watcher), &world.inputs(), &config, &score);
        let clipped: Vec<f64> = watcher.metrics.iter().filter(|m| m.1 == "clipped_share").map(|m| m.2).collect();
        (outcome.expect("training"), clipped)
    };
    let ((grpo, none), (gspo, _)) = (outcome(Advantage::Grpo, 1), outcome(Advantage::Gspo, 1));
    assert_eq!((&grpo, none), (&gspo, Vec::new()));
    let ((grpo_again, grpo_clipped), (gspo_again, gspo_clipped)) =
        (outcome(Advantage::Grpo, 2), outcome(Advantage::Gspo, 2));
    assert_eq!((grpo_again.curve.len(), grpo_clipped.len()), (3, 3), "a point a batch");
    assert_ne!(grpo_again.policy, gspo_again.policy);
    assert_ne!(grpo_again.policy, grpo.policy);
    let sum = |shares: &[f64]| shares.iter().sum::<f64>();
    // half of what moves moves in the direction that its clip stops; GRPO's lies further away
    assert!(sum(&gspo_clipped) > sum(&grpo_clipped), "{gspo_clipped:?} {grpo_clipped:?}");
}

#[test]
fn punished_length_is_shown_and_changes_what_is_learnt() {
    let world = world();
    let score = |sequences: &[Sequence]| sequences.iter().map(|s| world.likes_near_me(s)).collect::<Vec<_>>();
    let outcome = |overlong_buffer| {
        let dir = tempfile::tempdir().expect("folder");
        let config = RlConfig { overlong_buffer, ..config(3) };
        let mut watcher = Watcher::default();
        let outcome = train(&mut context(dir.path(), &mut watcher), &world.inputs(), &config, &score);
        let shown: Vec<f64> = watcher.metrics.iter().filter(|m| m.1 == "overlong_penalty").map(|m| m.2).collect();
        (outcome.expect("training").policy, shown)
    };
    let ((off, none), (on, shown)) = (outcome(0), outcome(12));
    assert_eq!((none.len(), shown.len()), (0, 3), "a point a step where it is on");
    assert!(shown.iter().all(|penalty| (-1.0..0.0).contains(penalty)), "every token counts: {shown:?}");
    assert_ne!(off, on);
}

#[test]
fn a_budget_that_is_changed_holds_from_its_step_on() {
    let world = world();
    let score = |sequences: &[Sequence]| sequences.iter().map(|s| world.likes_near_me(s)).collect::<Vec<_>>();
    let betas = |budget_from| {
        let dir = tempfile::tempdir().expect("folder");
        let mut watcher = Watcher { budget_from, ..Watcher::default() };
        train(&mut context(dir.path(), &mut watcher), &world.inputs(), &config(6), &score).expect("training");
        watcher.metrics.iter().filter(|m| m.1 == "kl_beta").map(|m| m.2).collect::<Vec<f64>>()
    };
    let (kept, tightened) = (betas(None), betas(Some((4, 1e-6))));
    assert_eq!(kept[..4], tightened[..4]);
    assert!(tightened[4] > 2.0 * kept[4], "{kept:?} {tightened:?}");
}

#[test]
fn rollouts_are_drawn_from_the_policy_that_the_loss_sees() {
    let world = world();
    let inputs = world.inputs();
    let engine_logps = {
        use beckon_shared::engine::Engine;
        use beckon_shared::sampling::Sampling;
        let mut engine = Engine::from_tensors(inputs.model, inputs.policy, inputs.tokenizer).expect("engine");
        engine.rollouts(inputs.prompts, 4, 12, &Sampling::plain(9), 0).expect("rollouts")
    };
    let config = RlConfig { group_size: 4, ..config(1) };
    let groups = rollouts(&inputs, inputs.policy, inputs.prompts, &config, 9).expect("rollouts");
    let policy = Llama::from_tensors(inputs.model, inputs.policy, &Device::flex()).expect("policy");
    let sequences: Vec<Sequence> = groups.iter().flat_map(|g| g.sequences.iter().cloned()).collect();
    let burn = logps_of(&policy, &sequences);
    for (burn, engine) in burn.iter().zip(engine_logps.iter().flatten()) {
        let want: f64 = engine.logps.iter().map(|&x| f64::from(x)).sum();
        assert_close("sequence log-probability", burn.0, want, 1e-3);
    }
}

#[test]
fn the_budget_moves_beta_and_no_prompts_is_an_error() {
    let (world, dir) = (world(), tempfile::tempdir().expect("folder"));
    let config = RlConfig { kl_budget_nats: 4.0, ..config(1) };
    let inputs = world.inputs();
    let mut watcher = Watcher::default();
    let ctx = context(dir.path(), &mut watcher);
    let score = |sequences: &[Sequence]| vec![Score::default(); sequences.len()];
    let trainer = Trainer::new(&inputs, &config, &score, &ctx).expect("trainer");
    let beta_after = |kl: f64| {
        let calibration = trainer.calibrate().expect("calibration");
        let kl_state = (Exact(0.03), Exact(0.0), 0);
        let mut progress = Progress { step: 0, kl: kl_state, calibration, looks: Looks::default(), curve: Vec::new() };
        let zero = RlStep::from_exact([Exact(0.0); 10]);
        for _ in 0..40 {
            trainer.advance(&mut progress, RlStep { kl_nats: kl, ..zero }, config.kl_budget_nats);
        }
        progress.kl().parts().0
    };
    assert_close("far above", beta_after(6.0), 0.03 * 1.1_f64.powi(40), 1e-9);
    assert_close("inside", beta_after(3.0), 0.03, 0.0);
    assert_close("far below", beta_after(0.5), 0.02, 1e-12);

    let empty = RlInputs { prompts: &[], ..world.inputs() };
    let error = run(&mut context(dir.path(), &mut Watcher::default()), &empty, &config).expect_err("no prompts");
    assert!(matches!(error, StageError::NoData { stage: "rl", .. }), "{error}");
}

/// Likes what the reward likes, or the opposite.
struct NearMe(f64);

impl Judge for NearMe {
    fn values(&self, _prompt: &Prompt, texts: &[String]) -> Vec<f64> {
        texts.iter().map(|text| if text.ends_with("near me") { self.0 } else { 0.0 }).collect()
    }
}

#[test]
fn a_judge_who_dislikes_what_is_learnt_raises_an_alarm_and_gets_an_earlier_policy() {
    let world = world();
    let score = |sequences: &[Sequence]| sequences.iter().map(|s| world.likes_near_me(s)).collect::<Vec<_>>();
    let config = RlConfig { kl_beta: 0.001, kl_budget_nats: 20.0, learning_rate: 2e-4, ..config(75) };
    let outcome = |sign: f64| {
        let (judge, dir) = (NearMe(sign), tempfile::tempdir().expect("folder"));
        let inputs = RlInputs { judge: Some(&judge), truth: Some(&judge), ..world.inputs() };
        let mut watcher = Watcher::default();
        let outcome = train(&mut context(dir.path(), &mut watcher), &inputs, &config, &score).expect("training");
        (outcome, watcher)
    };
    let (liked, quiet) = outcome(1.0);
    let (disliked, loud) = outcome(-1.0);
    let gold: Vec<f64> = quiet.metrics.iter().filter(|m| m.1 == "watched_gold").map(|m| m.2).collect();
    assert_eq!(gold.len(), 4, "at 0, 25, 50, 75: {gold:?}");
    for name in ["watched_opening_share", "watched_copy_rate"] {
        assert_eq!(quiet.metrics.iter().filter(|m| m.1 == name).count(), 4, "{name}");
    }
    assert!(gold[3] > gold[0] + 0.2, "{gold:?}");
    assert!(quiet.alarms.iter().all(|a| !a.contains("judge prefers")), "{:?}", quiet.alarms);
    assert!(loud.alarms.iter().any(|a| a.contains("judge prefers the policy of step 25")), "{:?}", loud.alarms);
    assert_ne!(liked.policy, disliked.policy);
    assert_eq!(liked.curve, disliked.curve, "a judge looks, and does not touch");
}

#[test]
fn the_kl_term_in_the_loss_holds_the_policy_too() {
    let world = world();
    let score = |sequences: &[Sequence]| sequences.iter().map(|s| world.likes_near_me(s)).collect::<Vec<_>>();
    let kl_after = |kl_placement, kl_beta| {
        let dir = tempfile::tempdir().expect("folder");
        // a budget that the controller leaves alone
        let config = RlConfig { kl_placement, kl_beta, bc_weight: 0.0, ..config(15) };
        let mut watcher = Watcher::default();
        let outcome =
            train(&mut context(dir.path(), &mut watcher), &world.inputs(), &config, &score).expect("training");
        outcome.curve.last().map_or(f64::NAN, |s| s.kl_nats)
    };
    let free = kl_after(KlPlacement::Off, 3.0);
    let held = kl_after(KlPlacement::Loss, 3.0);
    assert!(held < 0.7 * free, "free {free}, held {held}");
}

#[test]
fn adapters_learn_beside_a_frozen_policy() {
    let (world, dir) = (world(), tempfile::tempdir().expect("folder"));
    let score = |sequences: &[Sequence]| sequences.iter().map(|s| world.likes_near_me(s)).collect::<Vec<_>>();
    let inputs = RlInputs { lora: Some(LoraConfig::default()), ..world.inputs() };
    let outcome = train(&mut context(dir.path(), &mut Watcher::default()), &inputs, &config(30), &score);
    let outcome = outcome.expect("training");
    assert!(outcome.policy.keys().eq(world.policy.keys()), "merged");
    assert_eq!(outcome.policy["model.embed_tokens.weight"], world.policy["model.embed_tokens.weight"]);
    let (first, last) = (outcome.curve[0].reward_mean, outcome.curve[29].reward_mean);
    assert!(last > first + 0.2, "proxy from {first} to {last}");
}

#[test]
fn passes_use_every_item_once_and_points_come_back() {
    let mut rows = passes(7, 1, 7, 7);
    assert_eq!(rows, [passes(7, 1, 7, 3), passes(7, 1, 10, 4)].concat(), "where a batch begins changes nothing");
    rows.sort_unstable();
    assert_eq!(rows, (0..7).collect::<Vec<_>>());
    let point = RlStep {
        step: 3,
        reward_mean: 0.1,
        gate_failure_rate: 0.2,
        kl_nats: 0.3,
        entropy: 0.4,
        distinct_2: 0.5,
        n_tokens_mean: 0.6,
        epistemic_std_mean: 0.7,
        veto_rate: 0.8,
        rollout_gap: 0.9,
    };
    assert_eq!(RlStep::from_exact(point.to_exact()), point);
}
