//! Supervised fine-tuning: the policy learns to write what people clicked (method B.1.5).
//!
//! In the loop: preferences to policy. The loss is the cross-entropy of the suggestion's tokens
//! given the prompt, `Σ_i w_i Σ_t -log p(y_it | x_i, y_i<t) / n`, with click weights `w` of mean 1
//! over the batch and `n` the number of suggestion tokens in it, so that short suggestions do not
//! count more per token. A teacher that shares the vocabulary mixes its distribution into the loss of
//! a token ([`soft`], method B.1.5 with a > 0).

mod sample;
mod soft;

use super::aside::{evenly, groups_aside};
use super::folder::{Exact, Folder, obey, split_best, with_best};
use super::{StageContext, StageError};
use crate::model::batch::{self, Batch, Sequence};
use crate::model::llama::Llama;
use crate::model::lora;
use crate::model::micro::{self, Tape};
use crate::model::ops;
use crate::model::optim::{AdamW, AdamWConfig, warmup_cosine};
use crate::model::parallel::Replicas;
use crate::model::state::Fingerprint;
use beckon_shared::config::{ConfigError, ModelConfig};
use beckon_shared::control::{LoraConfig, SftConfig, Stage};
use beckon_shared::distill::click_weight;
use beckon_shared::metrics::mean;
use beckon_shared::preference::SftExample;
use beckon_shared::prompt::Prompt;
use beckon_shared::tensor::TensorMap;
use beckon_shared::tokenizer::Tokenizer;
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

pub use soft::SoftTargets;
use soft::Teacher;

/// Padded tokens of a batch that is only read.
const READ_TOKENS: usize = 4_096;
/// Looks at the validation loss over a run; the policy of the best one is the result.
const N_LOOKS: usize = 20;
/// Looks from one sample to the next.
const SAMPLE_EVERY: usize = 2;
/// Set aside from training: every 20th group of a source with at least 100, and of those at most 512 examples.
const VALIDATION_EVERY: usize = 20;
const MIN_GROUPS: usize = 100;
const MAX_VALIDATION: usize = 512;
/// Purposes of the seeds that draw them, and samples.
const VALIDATION: u64 = 2;
const SAMPLES: u64 = 3;

/// What the stage learns from.
pub struct SftInputs<'a> {
    /// Text to tokens.
    pub tokenizer: &'a Tokenizer,
    /// Shape of the policy; its vocabulary holds the tokenizer's.
    pub model: &'a ModelConfig,
    /// Weights to start from; fresh ones where there are none.
    pub init: Option<&'a TensorMap>,
    /// Adapters to train in place of all weights; read only beside `init`.
    pub lora: Option<LoraConfig>,
    /// To learn from.
    pub train: &'a [SftExample],
    /// To judge by.
    pub held_out: &'a [SftExample],
    /// Learnt from beside the examples.
    pub soft_targets: Option<SoftTargets<'a>>,
}

/// What the stage made.
#[derive(Debug, Clone, PartialEq)]
pub struct SftOutcome {
    /// The policy, under the names of `config::tensor_names`.
    pub policy: TensorMap,
    /// Held-out negative log-likelihood in nats per suggestion token, unweighted, before training; NaN without held-out examples.
    pub held_out_nll_before: f64,
    /// The same after training.
    pub held_out_nll: f64,
    /// Suggestion tokens behind both.
    pub n_held_out_tokens: usize,
    /// Tokens that training read, padding excluded.
    pub n_tokens_seen: u64,
}

/// What has to be known beside the tensors to go on, or to return a finished result.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Progress {
    /// Steps done.
    step: usize,
    n_tokens_seen: u64,
    n_held_out_tokens: usize,
    held_out_nll_before: Option<f64>,
    held_out_nll: Option<f64>,
    /// Step and value of the lowest validation loss.
    best: Option<(usize, Exact)>,
}

/// Trains the policy, or goes on where `ctx.dir` says an earlier call stopped, or returns the
/// result that is there. On the CPU backend going on is bit-equal to never having stopped.
///
/// # Errors
/// No examples, divergence, cancellation, a folder of another run, a disk that refuses.
pub fn run(ctx: &mut StageContext, inputs: &SftInputs, config: &SftConfig) -> Result<SftOutcome, StageError> {
    let folder = Folder::new(&ctx.dir, "policy", fingerprint(ctx.seed, inputs, config));
    if let Some((policy, progress)) = folder.load_result()? {
        return Ok(outcome(policy, &progress));
    }
    let data = Examples::encode(inputs, config, ctx.seed)?;
    let teacher = inputs.soft_targets.as_ref().map(|targets| Teacher::new(targets, &ctx.device)).transpose()?;
    let mut rollbacks = folder.rollbacks()?;
    let begin = |rate: f64, ctx: &mut StageContext| -> Result<SftRun, StageError> {
        let run = match folder.load_state()? {
            Some((tensors, progress)) => SftRun::resume(inputs, config, tensors, progress, ctx)?,
            None => SftRun::start(inputs, config, &data, ctx)?,
        };
        Ok(SftRun { rate, ..run })
    };
    let mut run = begin(rollbacks.rate(), ctx)?;
    // looks take no longer than the steps between them
    let n_tokens: usize = data.validation.iter().map(|s| s.tokens.len()).sum();
    let n_look_steps = config.n_steps.div_ceil(N_LOOKS).max(n_tokens / (2 * config.batch_tokens.max(1)));
    let mut epoch = Epoch::default();
    while run.progress.step < config.n_steps {
        obey(ctx, || folder.save_state(run.to_tensors(), &run.progress))?;
        let rows = epoch.batch(&data, config, ctx.seed, run.progress.step);
        run = rollbacks.settle(run.step(ctx, config, &data, teacher.as_ref(), rows), ctx, begin)?;
        let done = run.progress.step;
        if done.is_multiple_of(n_look_steps) || done == config.n_steps {
            run.look(ctx, config, &data);
        }
        if done.is_multiple_of(SAMPLE_EVERY * n_look_steps) || done == config.n_steps {
            run.sample(ctx, inputs, &data);
        }
        if ctx.save_every > 0 && done.is_multiple_of(ctx.save_every) && done < config.n_steps {
            folder.save_state(run.to_tensors(), &run.progress)?;
        }
    }
    let model = run.result(ctx, inputs, config)?;
    let (nll, n_tokens) = held_out_nll(&model, &data.held_out);
    if n_tokens > 0 {
        ctx.observer.metric(Stage::Sft, config.n_steps, config.n_steps, "held_out_loss", nll);
    }
    run.progress.held_out_nll = (n_tokens > 0).then_some(nll);
    let policy = lora::merge(model.to_tensors());
    folder.save_result(policy.clone(), &run.progress)?;
    Ok(outcome(policy, &run.progress))
}

/// Log-probabilities of suggestions under a policy: for each item the sum over the suggestion's
/// tokens, its `<|end|>` included, in nats, and the number of those tokens. Items are read in
/// batches of like length; the answers are in the order of `items`.
pub fn sequence_logps(
    model: &Llama,
    tokenizer: &Tokenizer,
    items: &[(Prompt, String)],
    max_seq_len: usize,
) -> Vec<(f64, usize)> {
    let encode = |(prompt, text): &(Prompt, String)| Sequence::encode(tokenizer, prompt, text, max_seq_len);
    let sequences: Vec<Sequence> = items.iter().map(encode).collect();
    logps_of(&model.valid(), &sequences)
}

/// [`sequence_logps`] on tokens; `model` without autodiff.
pub fn logps_of(model: &Llama, sequences: &[Sequence]) -> Vec<(f64, usize)> {
    let lengths: Vec<usize> = sequences.iter().map(|s| s.tokens.len()).collect();
    let mut answers = vec![(0.0, 0); sequences.len()];
    let device = model.device();
    for rows in batch::plan_sorted(&lengths, READ_TOKENS) {
        let batch = Batch::pack(rows.iter().map(|&i| &sequences[i]));
        let logps: Vec<f32> = token_logps(model, &batch, &device).into_data().try_into_vec().expect("logps are f32");
        for (&i, span) in rows.iter().zip(&batch.spans) {
            answers[i] = (logps[span.clone()].iter().map(|&x| f64::from(x)).sum(), span.len());
        }
    }
    answers
}

/// Log-probability of each suggestion token of a batch, nats, `[N]`.
pub fn token_logps(model: &Llama, batch: &Batch, device: &Device) -> Tensor<1> {
    token_logps_on(model, batch, device, &mut Tape::new(false))
}

/// [`token_logps`] with the pass on a tape.
pub fn token_logps_on(model: &Llama, batch: &Batch, device: &Device, tape: &mut Tape) -> Tensor<1> {
    let tensors = batch.tensors(device);
    let hidden = tape.hidden(model, tensors.tokens); // [B, T, D]
    let [b, t, d] = hidden.dims();
    let before = ops::rows(hidden.reshape([b * t, d]), tensors.predictors); // [N, D]
    model.token_logps(before, tensors.targets) // [N]
}

/// The loss of method B.1.5: weighted cross-entropy over the batch, per suggestion token, `[1]`.
/// `weights` holds one number a row; they are brought to mean 1 here.
pub fn loss(model: &Llama, batch: &Batch, weights: &[f32], device: &Device) -> Tensor<1> {
    let mean = weights.iter().sum::<f32>() / weights.len() as f32;
    let divisor = mean * batch.n_targets() as f32;
    part_of_loss(model, batch, (weights, divisor), None, device, &mut Tape::new(false))
}

/// What a part of a batch adds to [`loss`], with a teacher's soft targets where there is one; `divisor` is the mean weight of
/// the batch's rows times its suggestion tokens.
fn part_of_loss(
    model: &Llama,
    part: &Batch,
    (weights, divisor): (&[f32], f32),
    teacher: Option<&Teacher>,
    device: &Device,
    tape: &mut Tape,
) -> Tensor<1> {
    let share: Vec<f32> = part.per_target(weights).into_iter().map(|w| -w / divisor).collect();
    let share = Tensor::from_data(TensorData::new(share, [part.n_targets()]), device);
    let gains = match teacher {
        None => token_logps_on(model, part, device, tape),
        Some(teacher) => teacher.losses(model, part, device, tape).neg(),
    };
    (gains * share).sum()
}

/// Mean negative log-likelihood per suggestion token, nats, and the number of those tokens.
fn held_out_nll(model: &Llama, sequences: &[Sequence]) -> (f64, usize) {
    let logps = logps_of(model, sequences);
    let n: usize = logps.iter().map(|(_, n)| n).sum();
    (-logps.iter().map(|(sum, _)| sum).sum::<f64>() / n as f64, n)
}

/// Examples as tokens, with their click weights.
struct Examples {
    train: Vec<Sequence>,
    weights: Vec<f32>,
    lengths: Vec<usize>,
    /// Set aside from training, by group: decides which policy is kept. Empty where there are few groups.
    validation: Vec<Sequence>,
    held_out: Vec<Sequence>,
    /// Those that people see suggestions for.
    prompts: Vec<Prompt>,
}

impl Examples {
    fn encode(inputs: &SftInputs, config: &SftConfig, seed: u64) -> Result<Self, StageError> {
        if inputs.train.is_empty() {
            let hint = "import clicks, counts or conversations with a next query".into();
            return Err(StageError::NoData { stage: "sft", hint });
        }
        if inputs.tokenizer.vocab_size() > inputs.model.vocab_size {
            let (field, expected) = ("vocab_size", "at least the tokenizer's");
            let error = ConfigError { field, value: inputs.model.vocab_size, expected };
            return Err(StageError::Model(error.into()));
        }
        let tokens =
            |e: &SftExample| Sequence::encode(inputs.tokenizer, &e.prompt, &e.suggestion, inputs.model.max_seq_len);
        let groups = inputs.train.iter().map(|e| (e.source.as_str(), e.group.as_str()));
        let n_aside = |n: usize| if n < MIN_GROUPS { 0 } else { n / VALIDATION_EVERY };
        let aside = groups_aside(groups, n_aside, batch::derived_seed(seed, VALIDATION));
        let (validation, train): (Vec<&SftExample>, Vec<&SftExample>) =
            inputs.train.iter().partition(|e| aside.contains(&(e.source.as_str(), e.group.as_str())));
        let held_out: Vec<&SftExample> = inputs.held_out.iter().collect();
        // best those that nothing is learnt from
        let shown = [&validation, &held_out, &train].into_iter().find(|examples| !examples.is_empty());
        let prompts = shown.map(|examples| sample::prompts(examples)).unwrap_or_default();
        let weights = weights(&train, config.beta_w);
        let train: Vec<Sequence> = train.into_iter().map(tokens).collect();
        Ok(Self {
            weights,
            lengths: train.iter().map(|s| s.tokens.len()).collect(),
            train,
            validation: evenly(&validation, MAX_VALIDATION).into_iter().map(tokens).collect(),
            held_out: held_out.into_iter().map(tokens).collect(),
            prompts,
        })
    }
}

/// Click weights, of mean 1 over each data set.
fn weights(examples: &[&SftExample], beta_w: f64) -> Vec<f32> {
    let weights: Vec<f64> = examples.iter().map(|e| click_weight(f64::from(e.weight), beta_w)).collect();
    let mut of_source: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (example, weight) in examples.iter().zip(&weights) {
        of_source.entry(&example.source).or_default().push(*weight);
    }
    let means: BTreeMap<&str, f64> = of_source.into_iter().map(|(source, of)| (source, mean(&of))).collect();
    examples.iter().zip(weights).map(|(example, weight)| (weight / means[example.source.as_str()]) as f32).collect()
}

/// The batches of one pass over the examples.
#[derive(Default)]
struct Epoch {
    number: Option<usize>,
    batches: Vec<Vec<usize>>,
}

impl Epoch {
    /// Examples of step `step`, counted from the start of training.
    fn batch(&mut self, data: &Examples, config: &SftConfig, seed: u64, step: usize) -> &[usize] {
        let plan = |epoch: usize| batch::plan(&data.lengths, config.batch_tokens, seed, epoch as u64);
        if self.number.is_none() {
            (self.number, self.batches) = (Some(0), plan(0));
        }
        let (epoch, i) = (step / self.batches.len(), step % self.batches.len());
        if self.number != Some(epoch) {
            (self.number, self.batches) = (Some(epoch), plan(epoch));
        }
        &self.batches[i]
    }
}

/// Network, optimiser and counters.
struct SftRun {
    model: Llama,
    optimizer: AdamW,
    /// The policy with the lowest validation loss so far; empty before the first look.
    best: TensorMap,
    progress: Progress,
    /// Factor on the learning rate, after rollbacks.
    rate: f64,
    replicas: Replicas<Llama>,
}

impl SftRun {
    fn start(
        inputs: &SftInputs,
        config: &SftConfig,
        data: &Examples,
        ctx: &mut StageContext,
    ) -> Result<Self, StageError> {
        let device = ctx.device.clone().autodiff();
        let model = match inputs.init {
            Some(tensors) => {
                let tensors = lora::with_adapters(tensors, inputs.model, inputs.lora, ctx.seed);
                Llama::from_tensors(inputs.model, &tensors, &device)?
            }
            None => Llama::init(inputs.model, batch::derived_seed(ctx.seed, 1), &device)?,
        };
        let (nll, n_held_out_tokens) = held_out_nll(&model.valid(), &data.held_out);
        if n_held_out_tokens > 0 {
            ctx.observer.metric(Stage::Sft, 0, config.n_steps, "held_out_loss", nll);
        } else {
            ctx.observer.log("sft: no held-out examples, the policy is not judged");
        }
        let progress = Progress {
            step: 0,
            n_tokens_seen: 0,
            n_held_out_tokens,
            held_out_nll_before: (n_held_out_tokens > 0).then_some(nll),
            held_out_nll: None,
            best: None,
        };
        let replicas = Replicas::new(&model, &device, &ctx.lent);
        let optimizer = AdamW::new(adamw(config));
        let run = Self { model, optimizer, best: TensorMap::new(), progress, rate: 1.0, replicas };
        run.sample(ctx, inputs, data);
        Ok(run)
    }

    fn resume(
        inputs: &SftInputs,
        config: &SftConfig,
        tensors: TensorMap,
        progress: Progress,
        ctx: &mut StageContext,
    ) -> Result<Self, StageError> {
        let (tensors, best) = split_best(tensors);
        let device = ctx.device.clone().autodiff();
        let model = Llama::from_tensors(inputs.model, &tensors, &device)?;
        let optimizer = AdamW::restore(adamw(config), progress.step as u64, &tensors, &ctx.device);
        ctx.observer.log(&format!("sft: going on after step {}", progress.step));
        let replicas = Replicas::new(&model, &device, &ctx.lent);
        Ok(Self { model, optimizer, best, progress, rate: 1.0, replicas })
    }

    fn to_tensors(&self) -> TensorMap {
        let mut tensors = self.model.to_tensors();
        tensors.extend(self.optimizer.to_tensors());
        with_best(tensors, &self.best)
    }

    /// Judges the policy on the validation examples and keeps it where it is the best yet.
    fn look(&mut self, ctx: &mut StageContext, config: &SftConfig, data: &Examples) {
        let step = self.progress.step;
        if data.validation.is_empty() {
            // nothing decides, but a curve is owed
            if !data.held_out.is_empty() && step < config.n_steps {
                let (nll, _) = held_out_nll(&self.model.valid(), &data.held_out);
                ctx.observer.metric(Stage::Sft, step, config.n_steps, "held_out_loss", nll);
            }
            return;
        }
        let (nll, _) = held_out_nll(&self.model.valid(), &data.validation);
        ctx.observer.metric(Stage::Sft, step, config.n_steps, "validation_loss", nll);
        if self.progress.best.is_none_or(|(_, best)| nll < best.0) {
            self.progress.best = Some((step, Exact(nll)));
            self.best = self.model.to_tensors();
        }
    }

    /// Shows people what the policy writes now. Training goes on whatever comes of it.
    fn sample(&self, ctx: &mut StageContext, inputs: &SftInputs, data: &Examples) {
        let (step, policy) = (self.progress.step, lora::merge(self.model.to_tensors()));
        match sample::write(inputs, &policy, &data.prompts, batch::derived_seed(ctx.seed, SAMPLES)) {
            Ok(prompts) => ctx.observer.sample(Stage::Sft, step, &prompts),
            Err(error) => ctx.observer.log(&format!("sft: step {step}: no sample of what it writes: {error}")),
        }
    }

    /// The policy with the lowest validation loss; the last one where there is no validation.
    fn result(&self, ctx: &mut StageContext, inputs: &SftInputs, config: &SftConfig) -> Result<Llama, StageError> {
        match self.progress.best {
            Some((step, nll)) if step < config.n_steps => {
                let text =
                    format!("sft: validation loss was lowest ({:.4}) at step {step}: its policy is the result", nll.0);
                ctx.observer.log(&text);
                Ok(Llama::from_tensors(inputs.model, &self.best, &ctx.device)?)
            }
            _ => Ok(self.model.valid()),
        }
    }

    /// One step on the examples `rows`: loss, gradient, clipped AdamW.
    fn step(
        mut self,
        ctx: &mut StageContext,
        config: &SftConfig,
        data: &Examples,
        teacher: Option<&Teacher>,
        rows: &[usize],
    ) -> Result<Self, StageError> {
        let begun = Instant::now();
        let step = self.progress.step;
        let lengths: Vec<usize> = rows.iter().map(|&i| data.lengths[i]).collect();
        let n_tokens: usize = lengths.iter().sum();
        let n_targets: usize = rows.iter().map(|&i| data.train[i].n_suggestion()).sum();
        let weight = rows.iter().map(|&i| data.weights[i]).sum::<f32>() / rows.len() as f32;

        let parts = self.replicas.split(&lengths, ctx.micro_batch_tokens);
        let padding = batch::padding_share(&lengths, &parts);
        let recompute = ctx.checkpoint_activations;
        let (loss, grads) =
            micro::summed(&self.model, &self.replicas, recompute, parts, |model, device, tape, part| {
                let batch = Batch::pack(part.iter().map(|&k| &data.train[rows[k]]));
                let weights: Vec<f32> = part.iter().map(|&k| data.weights[rows[k]]).collect();
                part_of_loss(model, &batch, (&weights, weight * n_targets as f32), teacher, device, tape)
            });
        let diverged = |what| StageError::Diverged { stage: "sft", step, what };
        if !loss.is_finite() {
            return Err(diverged("loss"));
        }
        let peak = ctx.observer.tuned(Stage::Sft, step).learning_rate.unwrap_or(config.learning_rate);
        let lr = self.rate * warmup_cosine(step, config.n_steps, config.n_warmup_steps, peak);
        let (model, norm) = self.optimizer.step(self.model, grads, lr, &|_| 1.0);
        if !norm.is_finite() {
            return Err(diverged("gradient norm"));
        }
        self.replicas.refresh(&model);
        self.model = model;
        self.progress.step += 1;
        self.progress.n_tokens_seen += n_tokens as u64;

        let speed = n_tokens as f64 / begun.elapsed().as_secs_f64();
        for (name, value) in [
            ("loss", loss),
            ("learning_rate", lr),
            ("grad_norm", norm),
            ("tokens_per_sec", speed),
            ("padding_share", padding),
        ] {
            ctx.observer.metric(Stage::Sft, self.progress.step, config.n_steps, name, value);
        }
        Ok(self)
    }
}

fn adamw(config: &SftConfig) -> AdamWConfig {
    AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() }
}

fn fingerprint(seed: u64, inputs: &SftInputs, config: &SftConfig) -> String {
    let fingerprint = Fingerprint::default()
        .with(&("sft", 2, seed, inputs.tokenizer.hash(), inputs.model, config))
        .with(&(inputs.train, inputs.held_out, inputs.lora));
    match inputs.init {
        Some(init) => fingerprint.with_tensors(init).hex(),
        None => fingerprint.hex(),
    }
}

fn outcome(policy: TensorMap, progress: &Progress) -> SftOutcome {
    SftOutcome {
        policy,
        held_out_nll_before: progress.held_out_nll_before.unwrap_or(f64::NAN),
        held_out_nll: progress.held_out_nll.unwrap_or(f64::NAN),
        n_held_out_tokens: progress.n_held_out_tokens,
        n_tokens_seen: progress.n_tokens_seen,
    }
}

#[cfg(test)]
mod tests;
