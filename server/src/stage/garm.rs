//! GaRM: the Gaussian reward model learns what people prefer, and how much they differ (method B.2, B.3).
//!
//! In the loop: preferences and policy to reward model. The loss is, as in method B.2.6,
//!
//! ```text
//! L = L_pair + l_anc L_anchor + l_neg L_synth; with a text regularisation (`text.rs`) it is (1 - a) L + a L_text
//! L_pair   = -w [ y log Φ(z) + (1-y) log Φ(-z) ],  z = (mu_a - mu_b)/sqrt(v_a + v_b)     B.2.1
//! L_anchor = -w log P(level),  two thresholds tau = (0, 1) that fix the scale             B.2.4 A
//! L_synth  = KL( N(mu, v) || N(mu0, v0) ) on text that nobody should suggest              B.3 (1)
//! ```
//!
//! with mu0 the 5th percentile of mu and v0 four times the median of v over logged suggestions. The first
//! tenth of the steps is Thurstone's Case V (v = 1, the variance head untouched); then both heads learn,
//! the variance head at 0.3 of the rate, and each sample's dL/dlog v is clipped to ±2.
//!
//! Real preference sets are small, so a tenth of the training groups is kept aside: the weights with the
//! best pair likelihood there are the result, and training ends early once it no longer improves. The
//! held-out split is only watched.
//!
//! A small data set is drawn more often than its size says, and counts as much as a large one there.
//!
//! After training, features of logged suggestions are whitened for the epistemic spread (B.3 (2)).
//!
//! Anchors of randomised tests say how a text did within its test, not how often it was clicked
//! ([`beckon_shared::preference`]): a departure from method B.2.4 B. All sources share the gauge of A.
//!
//! Not here: the variance's upper clip of B.2.5: softplus grows no faster than its argument, and anchors and prior hold it.
//! That a Gaussian reward model is trained from clicks is the paper's; the likelihood, anchors, prior and schedule are our design
//! (method A.2).

pub mod data;
pub mod plan;
pub mod start;
pub mod synthetic;
mod text;
pub mod whitening;

use super::folder::{Exact, Folder, obey, split_best, with_best};
use super::{StageContext, StageError};
use crate::model::batch::{Sequence, derived_seed};
use crate::model::lora;
use crate::model::micro::Features;
use crate::model::optim::{AdamW, AdamWConfig, warmup_cosine};
use crate::model::parallel::Replicas;
pub use crate::model::reward::likelihood::Likelihood;
use crate::model::reward::likelihood::{bradley_terry_loss, ordinal_loss, pair_loss, prior_loss};
use crate::model::reward::{Reading, RewardModel};
use crate::model::state::Fingerprint;
use beckon_shared::checkpoint::RewardConfig;
use beckon_shared::config::ModelConfig;
use beckon_shared::control::{GarmConfig, LoraConfig, Stage};
use beckon_shared::garm::Gaussian;
use beckon_shared::garm::anchor::THRESHOLDS;
use beckon_shared::garm::normal::log_phi;
use beckon_shared::garm::variants::bradley_terry_nll;
use beckon_shared::metrics::pair_accuracy;
use beckon_shared::preference::Split;
use beckon_shared::tensor::{DenseTensor, TensorMap};
use beckon_shared::tokenizer::Tokenizer;
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use data::{Data, Lesson, PairItem};
use serde::{Deserialize, Serialize};
use start::Start;
use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::time::Instant;

/// Learning rate of the variance head, relative to the rest.
const VARIANCE_RATE: f64 = 0.3;
/// Bound of each sample's dL/dlog v.
const LOG_VARIANCE_CLIP: f64 = 2.0;
/// mu0 is this quantile of mu over logged suggestions.
const PRIOR_MEAN_QUANTILE: f64 = 0.05;
/// v0 is this many times the median of v over logged suggestions.
const PRIOR_VARIANCE_SCALE: f64 = 4.0;
/// kappa is this share of the median of v.
const KAPPA_SHARE: f64 = 0.25;
/// l_ctr: weight of (batch mean of mu)², only where there are no anchors to fix the origin.
const CENTRING_WEIGHT: f64 = 1e-3;
/// Share of the steps in which the learning rate rises.
const RATE_WARMUP: f64 = 0.05;
/// Fewest validation pairs that a temperature is fitted to; below, it would follow their noise.
const MIN_CALIBRATION_PAIRS: usize = 200;
/// Looks at the validation pairs over a whole run, and how many without improvement end it.
const N_LOOKS: usize = 20;
const PATIENCE: usize = 6;
/// Φ(z) is nearest to a logistic of this times z.
const LOGISTIC_SLOPE: f64 = 1.702;

/// What the stage learns from.
pub struct GarmInputs<'a> {
    /// Text to tokens.
    pub tokenizer: &'a Tokenizer,
    /// Shape of the policy.
    pub model: &'a ModelConfig,
    /// SFT policy, the trunk's start.
    pub init: &'a TensorMap,
    /// Adapters to train in place of the trunk's weights; the heads are always trained.
    pub lora: Option<LoraConfig>,
    /// To learn from.
    pub train: &'a Split,
    /// To watch.
    pub held_out: &'a Split,
    /// GaRM or its baseline.
    pub likelihood: Likelihood,
    /// Where the model starts; found once for all likelihoods.
    pub start: &'a OnceCell<Start>,
}

/// What the stage made.
#[derive(Debug, Clone, PartialEq)]
pub struct GarmOutcome {
    /// Trunk and `config::reward_head_names`.
    pub reward: TensorMap,
    /// Constants of the heads.
    pub config: RewardConfig,
    /// T of Φ(z/T) that fits the validation pairs best. It multiplies sigma (method B.2.6), which a checkpoint's
    /// v = floor + softplus(r) has no factor for; so the means of `reward` are divided by it instead. N(mu/T, v) is N(mu, T² v) in
    /// units of T: order, pair and win probabilities, mu - k sigma and v_ep (a share of v) are those of the wider spreads, in that
    /// unit. Only the anchors' thresholds 0 and 1 are then at 0 and 1/T, and nothing reads them after training.
    pub temperature: f64,
    /// Thurstone's Case V on the trunk as the policy has it, of the result's depth: theta `[D]` of z = theta·(f_a - f_b), the fit
    /// that training starts from, for [`start::case_v`]. `None` where an earlier version trained.
    pub case_v: Option<Vec<f32>>,
}

/// The pessimistic prior N(mu0, v0).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Prior {
    mean: Exact,
    variance: Exact,
}

/// Counters of a training state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Progress {
    /// Steps done.
    step: usize,
    /// Layers of the trunk.
    n_layers: usize,
    /// Of synthetic text; none before the variance learns.
    prior: Option<Prior>,
    /// Best validation likelihood so far, nats per pair.
    best_nll: Option<Exact>,
    /// Looks since then.
    n_looks_without_gain: usize,
}

/// What a result knows beside its tensors.
#[derive(Debug, Serialize, Deserialize)]
struct Finished {
    config: RewardConfig,
    temperature: Exact,
}

/// Trains the reward model, or goes on where `ctx.dir` says an earlier call stopped, or returns the
/// result that is there. On the CPU backend going on is bit-equal to never having stopped.
///
/// # Errors
/// No pairs, divergence, cancellation, a folder of another run, a disk that refuses.
pub fn run(ctx: &mut StageContext, inputs: &GarmInputs, config: &GarmConfig) -> Result<GarmOutcome, StageError> {
    let folder = Folder::new(&ctx.dir, "reward", fingerprint(ctx.seed, inputs, config));
    if let Some((mut reward, Finished { config, temperature })) = folder.load_result()? {
        let case_v = start::take_case_v(&mut reward);
        return Ok(GarmOutcome { reward, config, temperature: temperature.0, case_v });
    }
    let data = Data::prepare(inputs, config, ctx.seed)?;
    let trainer = Trainer { inputs, config, data: &data, seed: ctx.seed, device: ctx.device.clone().autodiff() };
    let mut rollbacks = folder.rollbacks()?;
    let begin = |rate: f64, ctx: &mut StageContext| -> Result<State, StageError> {
        let state = match folder.load_state()? {
            Some((tensors, progress)) => trainer.resume(tensors, progress, ctx)?,
            None => trainer.start(ctx)?,
        };
        Ok(State { rate, ..state })
    };
    let mut state = begin(rollbacks.rate(), ctx)?;
    // looks take no longer than the steps between them
    let every = config.n_steps.div_ceil(N_LOOKS).max(data.n_looked_at() / (2 * config.batch_pairs.max(1)));
    while state.progress.step < config.n_steps && state.progress.n_looks_without_gain < PATIENCE {
        obey(ctx, || folder.save_state(state.to_tensors(), &state.progress))?;
        state = rollbacks.settle(trainer.step(state, ctx), ctx, begin)?;
        let done = state.progress.step;
        if done.is_multiple_of(every) || done == config.n_steps {
            trainer.look(&mut state, ctx);
        }
        if ctx.save_every > 0 && done.is_multiple_of(ctx.save_every) && done < config.n_steps {
            folder.save_state(state.to_tensors(), &state.progress)?;
        }
    }
    if state.progress.step < config.n_steps {
        ctx.observer
            .log(&format!("garm: the validation likelihood stopped improving, ended at step {}", state.progress.step));
    }
    let outcome = trainer.finish(state, ctx)?;
    folder.save_result(
        start::with_case_v(outcome.reward.clone(), outcome.case_v.as_deref()),
        &Finished { config: outcome.config.clone(), temperature: Exact(outcome.temperature) },
    )?;
    Ok(outcome)
}

fn fingerprint(seed: u64, inputs: &GarmInputs, config: &GarmConfig) -> String {
    Fingerprint::default()
        .with(&("garm", 4, seed, inputs.tokenizer.hash(), inputs.model, config, inputs.likelihood))
        .with(&(&inputs.train.pairs, &inputs.train.anchors, &inputs.held_out.pairs, inputs.lora))
        .with_tensors(inputs.init)
        .hex()
}

/// Network, optimiser, counters and the best weights so far.
struct State {
    model: RewardModel,
    optimizer: AdamW,
    progress: Progress,
    best: TensorMap,
    /// As in [`GarmOutcome::case_v`].
    case_v: Option<Vec<f32>>,
    /// Factor on the learning rate, after rollbacks.
    rate: f64,
    replicas: Replicas<RewardModel>,
}

impl State {
    fn to_tensors(&self) -> TensorMap {
        let mut tensors = self.model.to_tensors();
        tensors.extend(self.optimizer.to_tensors());
        start::with_case_v(with_best(tensors, &self.best), self.case_v.as_deref())
    }
}

/// The terms of one step's loss, each a mean over its samples; `None` where there are none.
struct Terms {
    pair: Option<Tensor<1>>,
    anchor: Option<Tensor<1>>,
    synthetic: Option<Tensor<1>>,
    text: Option<Tensor<1>>,
    /// What they were made of.
    features: Vec<Features>,
    n_tokens: usize,
}

/// What does not change over a run.
struct Trainer<'a> {
    inputs: &'a GarmInputs<'a>,
    config: &'a GarmConfig,
    data: &'a Data,
    seed: u64,
    device: Device,
}

impl Trainer<'_> {
    fn start(&self, ctx: &mut StageContext) -> Result<State, StageError> {
        let (base, floor) = (self.data.base_mean(), self.config.variance_floor);
        let seed = derived_seed(self.seed, 1);
        ctx.observer.log(&self.data.summary());
        let start = match self.inputs.start.get() {
            Some(start) => start,
            None => {
                let found = start::find(self, ctx)?;
                self.inputs.start.get_or_init(|| found)
            }
        };
        let config = self.trunk(start.n_layers);
        let trunk = lora::with_adapters(self.inputs.init, &config, self.inputs.lora, self.seed);
        let mut model = RewardModel::init(&config, &trunk, base, floor, seed, &self.device)?;
        // z of the fit is the difference of means over sqrt(v + v), v = 1; the baseline's logistic is steeper by 1.7
        let scale = if self.is_baseline() { LOGISTIC_SLOPE } else { std::f64::consts::SQRT_2 };
        let (weight, bias) = start.mean_head(scale, base);
        model.set_mean_head(weight, bias, &self.device);
        let optimizer = AdamW::new(self.adamw());
        let replicas = Replicas::new(&model, &self.device, &ctx.lent);
        let (progress, best) = (Progress { n_layers: start.n_layers, ..Progress::default() }, TensorMap::new());
        let case_v = Some(start.direction());
        let mut state = State { model, optimizer, progress, best, case_v, rate: 1.0, replicas };
        self.look(&mut state, ctx);
        Ok(state)
    }

    /// Shape of a trunk of so many layers.
    fn trunk(&self, n_layers: usize) -> ModelConfig {
        self.inputs.model.trunk(n_layers)
    }

    fn resume(&self, mut tensors: TensorMap, progress: Progress, ctx: &mut StageContext) -> Result<State, StageError> {
        let case_v = start::take_case_v(&mut tensors);
        let (tensors, best) = split_best(tensors);
        let config = self.trunk(progress.n_layers);
        let model = RewardModel::from_tensors(&config, &tensors, self.config.variance_floor, &self.device)?;
        let optimizer = AdamW::restore(self.adamw(), progress.step as u64, &tensors, &ctx.device);
        ctx.observer.log(&format!("garm: going on after step {}", progress.step));
        let replicas = Replicas::new(&model, &self.device, &ctx.lent);
        Ok(State { model, optimizer, progress, best, case_v, rate: 1.0, replicas })
    }

    fn adamw(&self) -> AdamWConfig {
        AdamWConfig { weight_decay: self.config.weight_decay, ..AdamWConfig::default() }
    }

    /// Case V, in which v = 1: the first steps, and all of Bradley-Terry.
    fn is_case_v(&self, step: usize) -> bool {
        self.is_baseline() || (step as f64) < self.config.variance_warmup * self.config.n_steps as f64
    }

    fn is_baseline(&self) -> bool {
        self.inputs.likelihood == Likelihood::BradleyTerry
    }

    /// One step: loss, gradient, clipped AdamW.
    fn step(&self, mut state: State, ctx: &mut StageContext) -> Result<State, StageError> {
        let begun = Instant::now();
        let step = state.progress.step;
        if !self.is_case_v(step) && (state.progress.prior.is_none() || self.data.begins_pass(step)) {
            state.progress.prior = Some(self.prior(&state.model));
        }
        let terms = self.terms(&state, ctx.micro_batch_tokens, ctx.checkpoint_activations);
        let weights = self.loss_weights();
        let named = [
            ("pair_loss", terms.pair),
            ("anchor_loss", terms.anchor),
            ("synthetic_loss", terms.synthetic),
            ("text_loss", terms.text),
        ];
        let weighted = named.iter().zip(weights).filter_map(|((_, term), w)| Some(term.clone()?.mul_scalar(w)));
        // a lesson has a pair or an anchor
        let Some(loss) = weighted.reduce(|sum, term| sum + term) else { return Ok(state) };
        let gradients = loss.backward();
        let mut sum = GradientsAccumulator::new();
        terms.features.iter().for_each(|f| f.carry(&state.model, &state.replicas, &gradients, &mut sum));
        sum.accumulate(&state.model, GradientsParams::from_grads(gradients, &state.model));
        let grads = sum.grads();
        let loss = scalar(loss);
        let diverged = |what| StageError::Diverged { stage: "garm", step, what };
        if !loss.is_finite() {
            return Err(diverged("loss"));
        }
        let n_warmup = (RATE_WARMUP * self.config.n_steps as f64).ceil() as usize;
        let peak = ctx.observer.tuned(Stage::Garm, step).learning_rate.unwrap_or(self.config.learning_rate);
        let rate = state.rate * warmup_cosine(step, self.config.n_steps, n_warmup, peak);
        let scale = |path: &str| if path.starts_with("variance_head") { VARIANCE_RATE } else { 1.0 };
        let (model, norm) = state.optimizer.step(state.model, grads, rate, &scale);
        if !norm.is_finite() {
            return Err(diverged("gradient norm"));
        }
        state.replicas.refresh(&model);
        state.model = model;
        state.progress.step += 1;

        let mut metric =
            |name: &str, value| ctx.observer.metric(Stage::Garm, step + 1, self.config.n_steps, name, value);
        metric("loss", loss);
        for (name, term) in named {
            if let Some(term) = term {
                metric(name, scalar(term));
            }
        }
        metric("grad_norm", norm);
        metric("tokens_per_sec", terms.n_tokens as f64 / begun.elapsed().as_secs_f64());
        Ok(state)
    }

    fn terms(&self, state: &State, limit: Option<usize>, recompute: bool) -> Terms {
        let (model, step, prior) = (&state.model, state.progress.step, state.progress.prior);
        let lesson = self.data.lesson(step);
        let mut n_tokens = lesson.texts.iter().map(|text| text.tokens.len()).sum();
        let read = |texts: &[&Sequence], is_spoken: &[bool]| {
            Features::read(model, &state.replicas, texts, is_spoken, limit, recompute)
        };
        let preferred = self.preferred_shares(&lesson);
        let is_spoken: Vec<bool> = preferred.iter().map(|share| *share > 0.0).collect();
        let mut features = vec![read(&lesson.texts, &is_spoken)];
        let heads = self.heads(model, features[0].rows.clone(), step);
        let pair = (!lesson.pairs.is_empty()).then(|| self.pair_term(&heads, &lesson));
        let text = features[0].spoken.as_ref().map(|spoken| self.text_term(spoken, &preferred));
        if self.is_baseline() {
            return Terms { pair, anchor: None, synthetic: None, text, features, n_tokens };
        }
        let anchor = (!lesson.anchors.is_empty()).then(|| self.anchor_term(&heads, &lesson));
        let synthetic = prior.map(|prior| {
            let negatives = self.data.negatives(self.seed, step, self.inputs);
            n_tokens += negatives.iter().map(|s| s.tokens.len()).sum::<usize>();
            let negatives = read(&negatives.iter().collect::<Vec<_>>(), &[]);
            let rewards = model.rewards(negatives.rows.clone());
            features.push(negatives);
            prior_loss(rewards.mean, rewards.variance.log(), prior.mean.0, prior.variance.0).mean()
        });
        Terms { pair, anchor, synthetic, text, features, n_tokens }
    }

    /// Mean pair loss; `heads` are mu and log v of the lesson's texts.
    fn pair_term(&self, heads: &[Tensor<1>; 2], lesson: &Lesson) -> Tensor<1> {
        let pairs = &lesson.pairs;
        let chosen_first = pairs.iter().map(|p| p.chosen).chain(pairs.iter().map(|p| p.rejected));
        let [mean, log_variance] = self.picked(heads, chosen_first.collect(), lesson.texts.len()); // [2P]
        let labels = self.constants(pairs.iter().map(|p| p.label));
        let weights = self.constants(pairs.iter().map(|p| p.weight));
        let centring = mean.clone().mean().square().mul_scalar(CENTRING_WEIGHT);
        let losses = if self.is_baseline() {
            bradley_terry_loss(mean, labels, weights)
        } else {
            pair_loss(mean, log_variance, labels, weights, LOG_VARIANCE_CLIP)
        };
        if self.is_baseline() || !self.data.has_anchors() { losses.mean() + centring } else { losses.mean() }
    }

    fn anchor_term(&self, heads: &[Tensor<1>; 2], lesson: &Lesson) -> Tensor<1> {
        let anchors = &lesson.anchors;
        let rows = anchors.iter().map(|a| a.text).collect();
        let [mean, log_variance] = self.picked(heads, rows, lesson.texts.len()); // [A]
        let is_level = [0, 1, 2].map(|o| self.constants(anchors.iter().map(|a| f32::from(a.level == o))));
        let weights = self.constants(anchors.iter().map(|a| a.weight));
        ordinal_loss(mean, log_variance, is_level, weights, THRESHOLDS, LOG_VARIANCE_CLIP).mean()
    }

    /// Entries `rows` of vectors `[R]`, by a product with ones and zeros, whose gradient is another product.
    fn picked(&self, vectors: &[Tensor<1>; 2], rows: Vec<usize>, n_texts: usize) -> [Tensor<1>; 2] {
        let n = rows.len();
        let mut ones = vec![0.0f32; n * n_texts];
        for (i, row) in rows.into_iter().enumerate() {
            ones[i * n_texts + row] = 1.0;
        }
        let selection = Tensor::<2>::from_data(TensorData::new(ones, [n, n_texts]), &self.device).inner();
        vectors.clone().map(|v| Tensor::from_inner(selection.clone()).matmul(v.reshape([n_texts, 1])).reshape([n]))
    }

    /// mu and log v, each `[B]`; log v is the constant 0 in Case V, so that its head gets no gradient.
    fn heads(&self, model: &RewardModel, features: Tensor<2>, step: usize) -> [Tensor<1>; 2] {
        if self.is_case_v(step) {
            let mean = model.means(features);
            let zeros = Tensor::from_inner(mean.clone().inner().zeros_like());
            return [mean, zeros];
        }
        let rewards = model.rewards(features);
        [rewards.mean, rewards.variance.log()]
    }

    fn constants(&self, values: impl Iterator<Item = f32>) -> Tensor<1> {
        let values: Vec<f32> = values.collect();
        let n = values.len();
        Tensor::from_data(TensorData::new(values, [n]), &self.device).inner()
    }

    /// N(mu0, v0) from what the model now says of logged suggestions.
    fn prior(&self, model: &RewardModel) -> Prior {
        let readings = self.read(model, self.data.logged_sample());
        Prior {
            mean: Exact(quantile(readings.iter().map(|r| r.reward.mean), PRIOR_MEAN_QUANTILE)),
            variance: Exact(PRIOR_VARIANCE_SCALE * quantile(readings.iter().map(|r| r.reward.variance), 0.5)),
        }
    }

    fn read(&self, model: &RewardModel, sequences: &[Sequence]) -> Vec<Reading> {
        model.valid().read(sequences, &self.device.clone().inner())
    }

    /// z of every pair: standardised by the variances, or for the baseline the bare difference.
    fn margins(&self, model: &RewardModel, pairs: &[PairItem], step: usize) -> Vec<f64> {
        let (sequences, pairs) = self.data.reading(pairs);
        let readings = self.read(model, &sequences);
        let case_v = self.is_case_v(step);
        let z = |pair: &PairItem| {
            let [a, b] = [pair.chosen, pair.rejected].map(|row| readings[row].reward);
            let s2 = if case_v { 2.0 } else { a.variance + b.variance };
            if self.is_baseline() { a.mean - b.mean } else { (a.mean - b.mean) / s2.sqrt() }
        };
        pairs.iter().map(z).collect()
    }

    /// Weighted negative log-likelihood per pair of margins divided by `temperature`, nats: the mean over
    /// data sets of each one's mean, so that the largest does not decide alone.
    fn nll(&self, margins: &[f64], pairs: &[PairItem], temperature: f64) -> f64 {
        let logistic = |z: f64| -bradley_terry_nll(Gaussian::new(z, 1.0), Gaussian::new(0.0, 1.0));
        let log_p = |z: f64| if self.is_baseline() { logistic(z) } else { log_phi(z) };
        let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for (z, p) in margins.iter().zip(pairs) {
            let (z, y, w) = (z / temperature, f64::from(p.label), f64::from(p.weight));
            let sum = sums.entry(p.source).or_default();
            sum.0 -= w * (y * log_p(z) + (1.0 - y) * log_p(-z));
            sum.1 += w;
        }
        let n = sums.values().filter(|s| s.1 > 0.0).count() as f64;
        sums.values().filter(|s| s.1 > 0.0).map(|s| s.0 / s.1).sum::<f64>() / n
    }

    /// Judges the weights on the validation pairs, keeps them where they are the best, and shows the
    /// accuracy on held-out pairs.
    fn look(&self, state: &mut State, ctx: &mut StageContext) {
        let (step, n_steps) = (state.progress.step, self.config.n_steps);
        let held_out = &self.data.held_out;
        if !held_out.is_empty() {
            let accuracy = pair_accuracy(&self.margins(&state.model, held_out, step));
            ctx.observer.metric(Stage::Garm, step, n_steps, "pair_accuracy", accuracy);
        }
        let validation = &self.data.validation;
        if validation.is_empty() {
            state.best = state.model.to_tensors();
            return;
        }
        let nll = self.nll(&self.margins(&state.model, validation, step), validation, 1.0);
        ctx.observer.metric(Stage::Garm, step, n_steps, "validation_nll", nll);
        // before the variance has learnt there is nothing to keep: Case V is not the model asked for
        let counts = self.is_baseline() || !self.is_case_v(step);
        if counts && state.progress.best_nll.is_none_or(|best| nll < best.0) {
            state.progress.best_nll = Some(Exact(nll));
            state.progress.n_looks_without_gain = 0;
            state.best = state.model.to_tensors();
        } else if counts {
            state.progress.n_looks_without_gain += 1;
        }
    }

    /// Best weights, whitening, kappa and temperature.
    fn finish(&self, state: State, ctx: &mut StageContext) -> Result<GarmOutcome, StageError> {
        let mut reward = lora::merge(if state.best.is_empty() { state.model.to_tensors() } else { state.best });
        let n_layers = state.progress.n_layers;
        let model =
            RewardModel::from_tensors(&self.trunk(n_layers), &reward, self.config.variance_floor, &self.device)?;
        let readings = self.read(&model, &self.data.logged);
        let feature_dims = self.config.feature_dims.min(self.inputs.model.d_model);
        let features: Vec<Vec<f32>> = readings.iter().map(|r| r.feature.clone()).collect();
        let fitted = whitening::fit(&features, feature_dims);
        let narrow = |values: &[f64]| values.iter().map(|&x| x as f32).collect::<Vec<f32>>();
        let d = self.inputs.model.d_model;
        reward.insert("feature_mean".into(), DenseTensor::new(vec![d], narrow(&fitted.mean)));
        reward.insert("whitening".into(), DenseTensor::new(vec![feature_dims, d], narrow(&fitted.matrix)));
        let kappa = KAPPA_SHARE * quantile(readings.iter().map(|r| r.reward.variance), 0.5);

        let validation = &self.data.validation;
        let margins = self.margins(&model, validation, self.config.n_steps);
        let temperature = if validation.len() < MIN_CALIBRATION_PAIRS {
            1.0
        } else {
            best_temperature(|t| self.nll(&margins, validation, t))
        };
        for name in ["mean_head.weight", "mean_head.bias"] {
            let head = reward.get_mut(name).expect("a reward model has a mean head");
            head.data.iter_mut().for_each(|x| *x = (f64::from(*x) / temperature) as f32);
        }
        if let Some(Exact(nll)) = state.progress.best_nll {
            ctx.observer
                .log(&format!("garm: validation likelihood {nll:.4} nats a pair, temperature {temperature:.3}"));
        }
        let variance_floor = self.config.variance_floor as f32;
        Ok(GarmOutcome {
            reward,
            config: RewardConfig {
                variance_floor,
                feature_dims,
                kappa: kappa as f32,
                n_layers: (n_layers < self.inputs.model.n_layers).then_some(n_layers),
            },
            temperature,
            case_v: state.case_v,
        })
    }
}

fn scalar(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_scalar::<f32>())
}

/// Nearest-rank quantile; NaN for no values.
fn quantile(values: impl Iterator<Item = f64>, q: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let rank = (q * values.len() as f64) as usize;
    values.get(rank.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

/// Minimum of `nll` over T in [e⁻³, e³] by golden section on ln T (the likelihood has one minimum in 1/T).
fn best_temperature(nll: impl Fn(f64) -> f64) -> f64 {
    let ratio = (5f64.sqrt() - 1.0) / 2.0;
    let (mut low, mut high) = (-3.0f64, 3.0f64);
    for _ in 0..40 {
        let (a, b) = (high - ratio * (high - low), low + ratio * (high - low));
        if nll(a.exp()) < nll(b.exp()) { high = b } else { low = a }
    }
    (0.5 * (low + high)).exp()
}

#[cfg(test)]
mod tests;
