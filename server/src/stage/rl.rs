//! Reinforcement learning: the policy learns to write what the reward model and the rules like, close to
//! where it started (method B.4, B.5).
//!
//! In the loop: policy and reward model to policy. One step, strictly on-policy:
//!
//! ```text
//! y_i ~ pi(. | x), i = 1..G per prompt, T = 1                                           rollouts
//! r_GaRM = mu - k_al sigma_al - k_ep sigma_ep                                           B.4.2
//! u_i   = gate, then Σ_m w_m z_im; z vetoed to <= 0 where GaRM is out of distribution   B.4.3, B.3 (3)
//!         (with `rl.overlong_buffer` less DAPO's soft punishment of length)             B.5.1
//! k1_i  = log pi(y_i|x) - log pi_ref(y_i|x), inside the detached reward                 B.5.3
//! A_i   = G/(G-1) (u_i - beta k1_i - mean), divided by the batch's standard deviation   B.4.3
//! L     = -1/(G L_max) Σ_i Σ_t c_it A_i log pi(y_it) + eta L_BC                         B.5.2
//! c_it  = min(pi(y_it)/pi_rollout(y_it), 2): the engine that wrote is not the network that learns
//! ```
//!
//! That is the default; `rl.effective`, `rl.fusion`, `rl.advantage` and `rl.kl_placement` choose others, each a
//! function of `beckon_shared`. With one optimiser step per rollout batch the ratio pi/pi_old is 1 and every clip is
//! inert. With `rl.updates_per_batch` above 1 a step, which is counted in batches, has further updates on the same
//! rollouts: c_it gets the factor of [`beckon_shared::reward::advantage::Advantage::off_policy_weights`], with pi_old
//! the policy before the batch's first update. beta follows a KL budget. There is no entropy bonus; the entropy is
//! watched, and the KL and behaviour-cloning terms hold it. [`watch`] looks for reward hacking.
//!
//! That RL runs against GaRM plus heuristics with a two-stage fusion is the paper's; algorithm, fusion,
//! penalties and schedules are our design (method A.2, B.5.1).
//!
//! Dimension key: `B` sequences of a step, `G` rollouts a prompt, `T` tokens, `N` suggestion tokens.

pub mod curve;
pub mod fuse;
mod learn;
mod part;
pub mod rollout;
pub mod watch;

use super::aside::evenly;
use super::folder::{Exact, Folder, obey, split_best, with_best};
use super::{StageContext, StageError};
use crate::model::ModelError;
use crate::model::batch::{Sequence, derived_seed};
use crate::model::llama::Llama;
use crate::model::lora;
use crate::model::optim::{AdamW, AdamWConfig};
use crate::model::parallel::Replicas;
use crate::model::reward::Scorer;
use crate::model::state::Fingerprint;
use beckon_shared::checkpoint::RewardConfig;
use beckon_shared::config::ModelConfig;
use beckon_shared::control::{LoraConfig, RlConfig, Stage};
use beckon_shared::engine::Score;
use beckon_shared::lexical::Judge;
use beckon_shared::metrics::diversity::distinct_n;
use beckon_shared::preference::SftExample;
use beckon_shared::prompt::Prompt;
use beckon_shared::reward::components::NAMES;
use beckon_shared::reward::kl_controller::{KlController, KlPlacement};
use beckon_shared::tensor::TensorMap;
use beckon_shared::tokenizer::Tokenizer;
use burn::tensor::{Device, Tensor};
use curve::RlStep;
use fuse::{Calibration, Fused};
use learn::Lesson;
use part::Logps;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rollout::{Group, is_not_finite, rollouts};
use serde::{Deserialize, Serialize};
use std::time::Instant;
use watch::{LOOK_EVERY, Look, Looks, n_watched, shown};

/// Steps in which the learning rate rises.
const N_WARMUP_STEPS: usize = 20;
/// Rollouts per behaviour-cloning sequence.
const ROLLOUTS_PER_BC: usize = 8;
/// Hex digits of a reward model's version.
const N_VERSION_DIGITS: usize = 12;
/// Purposes of derived seeds.
const PROMPTS: u64 = 1;
const ROLLOUTS: u64 = 2;
const BC: u64 = 3;
const CALIBRATION: u64 = 4;
const WATCHED: u64 = 5;

/// What the stage learns from.
pub struct RlInputs<'a> {
    /// Text to tokens.
    pub tokenizer: &'a Tokenizer,
    /// Shape of policy and reward trunk.
    pub model: &'a ModelConfig,
    /// SFT policy: the start, and the reference.
    pub policy: &'a TensorMap,
    /// Reward model, frozen.
    pub reward: &'a TensorMap,
    /// Its constants.
    pub reward_config: &'a RewardConfig,
    /// Prompts to write for.
    pub prompts: &'a [Prompt],
    /// Examples of the behaviour-cloning term.
    pub bc: &'a [SftExample],
    /// Logged text, which GaRM has not learnt from where there is enough of it: the veto's threshold is a quantile of its distances
    /// (method B.3 (3)).
    pub logged: &'a [SftExample],
    /// Adapters to train in place of all weights.
    pub lora: Option<LoraConfig>,
    /// Gold: values suggestions, never trained on. With one the best policy is kept and a fall is an alarm.
    pub judge: Option<&'a dyn Judge>,
    /// The truth, where it is known (simulated users): shown beside the proxy, and nothing follows from it.
    pub truth: Option<&'a dyn Judge>,
}

/// What the stage made.
#[derive(Debug, Clone, PartialEq)]
pub struct RlOutcome {
    /// The policy.
    pub policy: TensorMap,
    /// One point a step.
    pub curve: Vec<RlStep>,
}

/// GaRM as this stage needs it: scores of suggestions.
type ScoreFn<'a> = &'a dyn Fn(&[Sequence]) -> Vec<Score>;

/// What has to be known beside policy and moments to go on.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Progress {
    /// Steps done.
    step: usize,
    /// Of the KL controller, see `KlController::parts`.
    kl: (Exact, Exact, usize),
    /// Floors and veto threshold, frozen before the first step.
    calibration: Calibration,
    looks: Looks,
    curve: Vec<[Exact; 10]>,
}

/// Trains the policy, or goes on where `ctx.dir` says an earlier call stopped, or returns the result
/// that is there. On the CPU backend going on is bit-equal to never having stopped.
///
/// # Errors
/// No prompts, divergence, cancellation, a folder of another run, a disk that refuses.
pub fn run(ctx: &mut StageContext, inputs: &RlInputs, config: &RlConfig) -> Result<RlOutcome, StageError> {
    let scorer = Scorer::new(inputs.model, inputs.reward, inputs.reward_config, inputs.tokenizer, &ctx.device)?;
    train(ctx, inputs, config, &|sequences| scorer.score_sequences(sequences))
}

/// [`run`] under any scorer; a test gives a hand-made one.
fn train(
    ctx: &mut StageContext,
    inputs: &RlInputs,
    config: &RlConfig,
    score: ScoreFn,
) -> Result<RlOutcome, StageError> {
    let folder = Folder::new(&ctx.dir, "policy", fingerprint(ctx.seed, inputs, config));
    if let Some((policy, curve)) = folder.load_result::<Vec<[Exact; 10]>>()? {
        return Ok(RlOutcome { policy, curve: curve.into_iter().map(RlStep::from_exact).collect() });
    }
    let trainer = Trainer::new(inputs, config, score, ctx)?;
    let mut rollbacks = folder.rollbacks()?;
    let begin = |rate: f64, ctx: &mut StageContext| -> Result<State, StageError> {
        let state = match folder.load_state()? {
            Some((tensors, progress)) => trainer.resume(tensors, progress, ctx)?,
            None => trainer.start(ctx)?,
        };
        Ok(State { rate, ..state })
    };
    let mut state = begin(rollbacks.rate(), ctx)?;
    while state.progress.step < config.n_steps {
        obey(ctx, || folder.save_state(state.to_tensors(), &state.progress))?;
        state = rollbacks.settle(trainer.step(state, ctx), ctx, begin)?;
        let done = state.progress.step;
        if ctx.save_every > 0 && done.is_multiple_of(ctx.save_every) && done < config.n_steps {
            folder.save_state(state.to_tensors(), &state.progress)?;
        }
    }
    let policy = trainer.result(lora::merge(state.model.to_tensors()), &state.best, &state.progress, ctx);
    folder.save_result(policy.clone(), &state.progress.curve)?;
    Ok(RlOutcome { policy, curve: state.progress.curve.into_iter().map(RlStep::from_exact).collect() })
}

/// What a curve of rewards is against: the start of a hash over a reward model's tensors and constants.
pub fn reward_version(reward: &TensorMap, config: &RewardConfig) -> String {
    let mut hex = Fingerprint::default().with(config).with_tensors(reward).hex();
    hex.truncate(N_VERSION_DIGITS);
    hex
}

fn fingerprint(seed: u64, inputs: &RlInputs, config: &RlConfig) -> String {
    Fingerprint::default()
        .with(&("rl", 3, seed, inputs.tokenizer.hash(), inputs.model, config, inputs.reward_config))
        .with(&(inputs.prompts, inputs.bc, inputs.logged, inputs.lora))
        .with_tensors(inputs.policy)
        .with_tensors(inputs.reward)
        .hex()
}

/// Policy, optimiser and counters.
struct State {
    model: Llama,
    optimizer: AdamW,
    /// The policy with the best gold so far; empty before the first.
    best: TensorMap,
    progress: Progress,
    /// Factor on the learning rate, after rollbacks.
    rate: f64,
    replicas: Replicas<Llama>,
}

impl State {
    fn to_tensors(&self) -> TensorMap {
        let mut tensors = self.model.to_tensors();
        tensors.extend(self.optimizer.to_tensors());
        with_best(tensors, &self.best)
    }
}

impl Progress {
    fn kl(&self) -> KlController {
        let (beta, kl, n) = self.kl;
        KlController::from_parts((beta.0, kl.0, n))
    }

    fn set_kl(&mut self, controller: KlController) {
        let (beta, kl, n) = controller.parts();
        self.kl = (Exact(beta), Exact(kl), n);
    }
}

/// What does not change over a run.
struct Trainer<'a> {
    inputs: &'a RlInputs<'a>,
    config: &'a RlConfig,
    score: ScoreFn<'a>,
    /// pi_ref, without autodiff.
    reference: Llama,
    bc: Vec<Sequence>,
    /// Of the reward, see [`reward_version`].
    reward_version: String,
    seed: u64,
    device: Device,
    /// See `StageContext`.
    micro_batch_tokens: Option<usize>,
    /// See `StageContext`.
    checkpoint_activations: bool,
}

fn encode(inputs: &RlInputs, example: &SftExample) -> Sequence {
    Sequence::encode(inputs.tokenizer, &example.prompt, &example.suggestion, inputs.model.max_seq_len)
}

impl<'a> Trainer<'a> {
    fn new(
        inputs: &'a RlInputs<'a>,
        config: &'a RlConfig,
        score: ScoreFn<'a>,
        ctx: &StageContext,
    ) -> Result<Self, StageError> {
        if inputs.prompts.is_empty() {
            let hint = "import a log with prompts to write suggestions for".into();
            return Err(StageError::NoData { stage: "rl", hint });
        }
        Ok(Self {
            reference: Llama::from_tensors(inputs.model, &lora::frozen(inputs.policy, inputs.lora), &ctx.device)?,
            bc: inputs.bc.iter().map(|example| encode(inputs, example)).collect(),
            reward_version: reward_version(inputs.reward, inputs.reward_config),
            seed: ctx.seed,
            device: ctx.device.clone().autodiff(),
            micro_batch_tokens: ctx.micro_batch_tokens,
            checkpoint_activations: ctx.checkpoint_activations,
            inputs,
            config,
            score,
        })
    }

    fn start(&self, ctx: &mut StageContext) -> Result<State, StageError> {
        let start = lora::with_adapters(self.inputs.policy, self.inputs.model, self.inputs.lora, self.seed);
        let model = self.policy(&start)?;
        let calibration = self.calibrate()?;
        ctx.observer.log(&format!("rl: against reward model {}", self.reward_version));
        ctx.observer.log(&calibration.summary());
        let kl = (Exact(self.config.kl_beta), Exact(0.0), 0);
        let progress = Progress { step: 0, kl, calibration, looks: Looks::default(), curve: Vec::new() };
        let replicas = Replicas::new(&model, &self.device, &ctx.lent);
        let (optimizer, best) = (AdamW::new(adamw()), TensorMap::new());
        let mut state = State { model, optimizer, best, progress, rate: 1.0, replicas };
        self.look(&mut state, self.config.kl_budget_nats, ctx)?;
        Ok(state)
    }

    fn resume(&self, tensors: TensorMap, progress: Progress, ctx: &mut StageContext) -> Result<State, StageError> {
        let (tensors, best) = split_best(tensors);
        let n_updates = progress.step * self.config.updates_per_batch;
        let optimizer = AdamW::restore(adamw(), n_updates as u64, &tensors, &ctx.device);
        let (step, version) = (progress.step, &self.reward_version);
        ctx.observer.log(&format!("rl: going on after step {step}, against reward model {version}"));
        let model = self.policy(&tensors)?;
        let replicas = Replicas::new(&model, &self.device, &ctx.lent);
        Ok(State { model, optimizer, best, progress, rate: 1.0, replicas })
    }

    fn policy(&self, tensors: &TensorMap) -> Result<Llama, ModelError> {
        Llama::from_tensors(self.inputs.model, tensors, &self.device)
    }

    /// Looks at the policy as it is, on prompts and draws that stay the same over the run, and keeps it where it is
    /// the best yet; some of what it wrote is shown.
    fn look(&self, state: &mut State, budget_nats: f64, ctx: &mut StageContext) -> Result<(), StageError> {
        let n = n_watched(self.config.batch_prompts, self.inputs.prompts.len());
        let prompts = self.prompts(WATCHED, 0, n);
        let policy = lora::merge(state.model.to_tensors());
        let groups = self.write(&policy, &prompts, derived_seed(self.seed, WATCHED), state.progress.step)?;
        let scores = self.score_groups(&groups);
        let progress = &mut state.progress;
        let kl_share = progress.kl().share(budget_nats);
        let constants = (&progress.calibration, self.config);
        let look = Look::at(progress.step, &groups, &scores, kl_share, self.inputs, constants);
        progress.looks.take(look, self.config.n_steps, ctx);
        ctx.observer.sample(Stage::Rl, progress.step, &shown(&groups, &scores));
        if progress.looks.last_is_best() {
            state.best = policy;
        }
        Ok(())
    }

    /// The last policy, or the best one by gold where the last is clearly worse.
    fn result(&self, last: TensorMap, best: &TensorMap, progress: &Progress, ctx: &mut StageContext) -> TensorMap {
        match progress.looks.better_than_last() {
            Some(step) => {
                ctx.observer.alarm(&format!(
                    "rl: the judge prefers the policy of step {step} to that of the last step by more than chance: it \
                     is the result"
                ));
                best.clone()
            }
            None => last,
        }
    }

    /// Component spreads of the SFT policy's rollouts, and how far logged text lies from GaRM's features:
    /// both frozen for the run.
    fn calibrate(&self) -> Result<Calibration, StageError> {
        let prompts = self.prompts(CALIBRATION, 0, 2 * self.config.batch_prompts);
        let groups = self.write(self.inputs.policy, &prompts, derived_seed(self.seed, CALIBRATION), 0)?;
        let scores = self.score_groups(&groups);
        let logged: Vec<Sequence> =
            evenly(self.inputs.logged, fuse::N_LOGGED).iter().map(|example| encode(self.inputs, example)).collect();
        Ok(Calibration::of(&groups, &scores, &(self.score)(&logged), self.config))
    }

    /// `n` prompts of step `step`: passes over all prompts, each in its own order.
    fn prompts(&self, purpose: u64, step: usize, n: usize) -> Vec<Prompt> {
        let all = self.inputs.prompts;
        let rows = passes(all.len(), derived_seed(self.seed, purpose), step * n, n);
        rows.into_iter().map(|i| all[i].clone()).collect()
    }

    /// Suggestions of the policy after `step` steps.
    fn write(&self, policy: &TensorMap, prompts: &[Prompt], seed: u64, step: usize) -> Result<Vec<Group>, StageError> {
        // after an update that went wild the stage goes back, as after a loss that is no number
        let diverged = StageError::Diverged { stage: "rl", step, what: "a logit of the rollouts" };
        let told = |error| if is_not_finite(&error) { diverged } else { error.into() };
        rollouts(self.inputs, policy, prompts, self.config, seed).map_err(told)
    }

    /// Scores of every rollout, group by group.
    fn score_groups(&self, groups: &[Group]) -> Vec<Vec<Score>> {
        let sequences: Vec<Sequence> = groups.iter().flat_map(|g| g.sequences.iter().cloned()).collect();
        let mut scores = (self.score)(&sequences).into_iter();
        groups.iter().map(|g| scores.by_ref().take(g.sequences.len()).collect()).collect()
    }

    /// One step: rollouts, rewards, advantages, the batch's updates, and the KL controller.
    fn step(&self, mut state: State, ctx: &mut StageContext) -> Result<State, StageError> {
        let begun = Instant::now();
        let step = state.progress.step;
        let tuned = ctx.observer.tuned(Stage::Rl, step);
        if let Some(beta) = tuned.kl_beta {
            state.progress.kl.0 = Exact(beta);
        }
        let budget = tuned.kl_budget_nats.unwrap_or(self.config.kl_budget_nats);
        let prompts = self.prompts(PROMPTS, step, self.config.batch_prompts);
        let mut rng_seed = ChaCha8Rng::seed_from_u64(derived_seed(self.seed, ROLLOUTS));
        rng_seed.set_stream(step as u64);
        let draws = rand::Rng::random(&mut rng_seed);
        let groups = self.write(&lora::merge(state.model.to_tensors()), &prompts, draws, step)?;
        let written = begun.elapsed().as_secs_f64();

        let parts = self.parts(&state, &groups);
        let logps = Logps::gather(&parts);
        let scores = self.score_groups(&groups);
        let configured = self.config.weights.to_array();
        let weights = tuned.fusion_weights.as_deref().unwrap_or(&configured);
        let fused = state.progress.calibration.fuse(&groups, &scores, weights, self.config);
        let beta = state.progress.kl().coefficient(budget);
        let (in_reward, in_loss) = match self.config.kl_placement {
            KlPlacement::Reward => (beta, 0.0),
            KlPlacement::Loss => (0.0, beta),
            KlPlacement::Off => (0.0, 0.0),
        };
        let advantages = fused.advantages(&logps.k1(), in_reward, self.config);

        let point = self.point(step + 1, &groups, &scores, &fused, &logps);
        let peak = tuned.learning_rate.unwrap_or(self.config.learning_rate);
        let rate = state.rate * peak * ((step + 1) as f64 / N_WARMUP_STEPS as f64).min(1.0);
        let lesson = Lesson { advantages: &advantages, beta: in_loss, rate };
        let (mut state, learnt) = self.learn(state, parts, &lesson)?;
        self.advance(&mut state.progress, point, budget);
        if state.progress.step.is_multiple_of(LOOK_EVERY) || state.progress.step == self.config.n_steps {
            self.look(&mut state, budget, ctx)?;
        }
        let n_tokens: usize = groups.iter().flat_map(|g| &g.sequences).map(|s| s.tokens.len()).sum();
        self.show(
            ctx,
            &state.progress,
            &fused,
            &[
                ("overlong_penalty", fused.overlong_penalty().unwrap_or(f64::NAN)),
                ("kl_beta", state.progress.kl().coefficient(budget)),
                ("loss", learnt.loss),
                ("grad_norm", learnt.norm),
                ("bc_loss", learnt.bc.unwrap_or(f64::NAN)),
                ("clipped_share", learnt.clipped_share.unwrap_or(f64::NAN)),
                ("rollout_secs", written),
                ("tokens_per_sec", n_tokens as f64 / begun.elapsed().as_secs_f64()),
            ],
        );
        Ok(state)
    }

    fn point(&self, step: usize, groups: &[Group], scores: &[Vec<Score>], fused: &Fused, logps: &Logps) -> RlStep {
        let n = groups.iter().map(|g| g.texts.len()).sum::<usize>() as f64;
        let texts: Vec<&str> = groups.iter().flat_map(|g| g.texts.iter().map(String::as_str)).collect();
        let epistemic = scores.iter().flatten().map(|s| f64::from(s.epistemic_std)).sum::<f64>();
        RlStep {
            step,
            reward_mean: fused.mean_of_component(0),
            gate_failure_rate: fused.gate_failure_rate(),
            kl_nats: logps.k3_sum() / n,
            entropy: -logps.sum() / logps.n_tokens as f64,
            distinct_2: distinct_n(&texts, 2),
            n_tokens_mean: logps.n_tokens as f64 / n,
            epistemic_std_mean: epistemic / n,
            veto_rate: fused.veto_rate(),
            rollout_gap: logps.gap_sum / logps.n_tokens as f64,
        }
    }

    /// Counts the step, and lets the KL controller see it.
    fn advance(&self, progress: &mut Progress, point: RlStep, budget_nats: f64) {
        progress.step += 1;
        progress.curve.push(point.to_exact());
        let mut controller = progress.kl();
        controller.observe(point.kl_nats, budget_nats);
        progress.set_kl(controller);
    }

    fn show(&self, ctx: &mut StageContext, progress: &Progress, fused: &Fused, others: &[(&str, f64)]) {
        let Some(point) = progress.curve.last().map(|p| RlStep::from_exact(*p)) else { return };
        let mut metric = |name: &str, value: f64| {
            if value.is_finite() {
                ctx.observer.metric(Stage::Rl, point.step, self.config.n_steps, name, value);
            }
        };
        for (name, value) in [
            ("reward_mean", point.reward_mean),
            ("gate_failure_rate", point.gate_failure_rate),
            ("kl_nats", point.kl_nats),
            ("entropy", point.entropy),
            ("distinct_2", point.distinct_2),
            ("n_tokens_mean", point.n_tokens_mean),
            ("epistemic_std_mean", point.epistemic_std_mean),
            ("veto_rate", point.veto_rate),
            ("rollout_gap", point.rollout_gap),
        ] {
            metric(name, value);
        }
        for (m, name) in NAMES.iter().enumerate().skip(1) {
            metric(name, fused.mean_of_component(m));
        }
        for (name, value) in others {
            metric(name, *value);
        }
    }
}

/// Item `first..first + n` of an endless sequence of passes over `len` items, each pass in its own order.
fn passes(len: usize, seed: u64, first: usize, n: usize) -> Vec<usize> {
    let mut rows = Vec::with_capacity(n);
    let mut order: (Option<usize>, Vec<usize>) = (None, Vec::new());
    for i in first..first + n {
        let pass = i / len;
        if order.0 != Some(pass) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(pass as u64);
            order = (Some(pass), (0..len).collect());
            order.1.shuffle(&mut rng);
        }
        rows.push(order.1[i % len]);
    }
    rows
}

/// No decay: the reference is the prior, not zero.
fn adamw() -> AdamWConfig {
    AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() }
}

fn host(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("converted to f32")
}

#[cfg(test)]
mod tests;
