//! The inference engine: M suggestions from one prefill, decoded as one batch, scored by GaRM.
//!
//! In the loop: the last arrow, checkpoint to suggestions, in the page and natively; also RL's rollouts.
//! One forward pass serves prefill, decode and scoring: it takes any [`Row`]s, writes their keys and
//! values into a fixed cache and lets each attend to the prompt and to its own candidate. Two executors
//! implement it, [`cpu`] and [`gpu`]. Tokens are drawn on the host, after the first one on a GPU there; the reward heads run
//! where the networks do. Dimension key: `M` candidates, `T` tokens, `D` width, `V` vocabulary.
//!
//! Never here: files, threads, the clock (the caller passes one).

mod adapter;
mod build;
pub mod cpu;
mod error;
mod forward;
pub mod gpu;
mod heads;
mod linear;
pub mod parallel;
pub mod parity;
mod plan;
mod weights;

use crate::config::ModelConfig;
use crate::prompt::Prompt;
use crate::sampling::{Drawn, Sampler, Sampling, SamplingError, largest};
use crate::tokenizer::Tokenizer;
use beckon_shaders::ready;
use heads::Heads;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

pub use adapter::{Adapter, LowRank};
pub use beckon_shaders::{GpuContext, GpuError, KernelPath, Variant};
pub use error::EngineError;
pub(crate) use forward::CPU_NAME;
pub use forward::{Executor, Limits, Network, Output, Row};
pub use parallel::{OneThread, Parallel};
pub use parity::Parity;

/// What to suggest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuggestRequest {
    /// The conversation so far.
    pub prompt: Prompt,
    /// M.
    pub n_candidates: usize,
    /// Tokens of a suggestion at most, its end included.
    pub max_new_tokens: usize,
    /// How tokens are drawn.
    pub sampling: Sampling,
}

/// GaRM's answer for one suggestion: N(reward_mean, aleatoric_std²) over users, and how unsure the model
/// itself is. Method B.2, B.3.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Score {
    /// mu, on the scale that the anchors fix (thresholds 0 and 1).
    pub reward_mean: f32,
    /// sqrt(v): users differ.
    pub aleatoric_std: f32,
    /// sqrt(v_ep): the suggestion is unlike what the reward model was trained on.
    pub epistemic_std: f32,
}

impl Score {
    /// Both spreads together: sqrt(aleatoric_std² + epistemic_std²).
    pub fn reward_std(&self) -> f32 {
        self.aleatoric_std.hypot(self.epistemic_std)
    }
}

/// A written suggestion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// Text without special tokens.
    pub text: String,
    /// Tokens as drawn, the end included where it was.
    pub tokens: Vec<u32>,
    /// Log-probability of each token in nats, at temperature 1 and untruncated.
    pub logps: Vec<f32>,
    /// Whether the policy ended it itself.
    pub finished: bool,
}

/// A written and scored suggestion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suggestion {
    /// Text without special tokens.
    pub text: String,
    /// Tokens as drawn, the end included where it was.
    pub tokens: Vec<u32>,
    /// Log-probability of each token in nats, at temperature 1 and untruncated.
    pub logps: Vec<f32>,
    /// Whether the policy ended it itself.
    pub finished: bool,
    /// GaRM's score of the text; `None` where the checkpoint has no reward model.
    pub score: Option<Score>,
}

/// Suggestions with what they took, by the caller's clock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SuggestOutcome {
    /// One per candidate, in order.
    pub suggestions: Vec<Suggestion>,
    /// Tokens of the prompt after cutting.
    pub n_prompt_tokens: usize,
    /// Tokens drawn, all candidates together.
    pub n_decoded_tokens: usize,
    /// Time of the prompt's pass.
    pub prefill_secs: f64,
    /// Time of the decode steps.
    pub decode_secs: f64,
    /// Time of scoring, its prefill included.
    pub score_secs: f64,
}

/// One step of greedy decoding.
#[derive(Debug, Clone, PartialEq)]
pub struct GreedyStep {
    /// The most likely token.
    pub token: u32,
    /// Logits it was taken from `[V]`.
    pub logits: Vec<f32>,
}

/// A policy, where it has one a reward model, and the device they run on.
#[derive(Debug)]
pub struct Engine {
    config: ModelConfig,
    limits: Limits,
    tokenizer: Arc<Tokenizer>,
    executor: Executor,
    heads: Option<Heads>,
    /// Heads of an adapter, in place of [`Engine::heads`].
    adapted_heads: Option<Heads>,
}

impl Engine {
    /// On a GPU, measures what variants the adapter has of the kernels that take most of the time, and keeps the faster ones; some
    /// milliseconds of the device beside compiling them. Whether there were any. `clock` gives seconds.
    ///
    /// # Errors
    /// A failure of the device.
    pub async fn choose_variants(&mut self, clock: &dyn Fn() -> f64) -> Result<bool, EngineError> {
        match &mut self.executor {
            Executor::Cpu(_) => Ok(false),
            Executor::Gpu(executor) => executor.choose_variants(clock).await,
        }
    }

    /// On a GPU, runs every kernel in `variant` as far as the kernel has it; whether the adapter has it.
    ///
    /// # Errors
    /// A failure of the device.
    pub async fn set_variant(&mut self, variant: Variant) -> Result<bool, EngineError> {
        match &mut self.executor {
            Executor::Cpu(_) => Ok(variant == Variant::PLAIN),
            Executor::Gpu(executor) => executor.set_variant(variant).await,
        }
    }

    /// On a GPU, runs every kernel in the variant that the [`Executor::device_name`] of another engine names, plain where it names
    /// none; whether the adapter has them.
    ///
    /// # Errors
    /// A failure of the device.
    pub async fn set_variants_of(&mut self, device_name: &str) -> Result<bool, EngineError> {
        match &mut self.executor {
            Executor::Cpu(_) => Ok(false),
            Executor::Gpu(executor) => executor.set_variants_of(device_name).await,
        }
    }

    /// Where the networks run.
    pub fn executor(&self) -> &Executor {
        &self.executor
    }

    /// The same, for passes by hand.
    pub fn executor_mut(&mut self) -> &mut Executor {
        &mut self.executor
    }

    /// Shape of the networks.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Sizes of the cache.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Lays an adapter over the networks in place of the one before; `None` takes it away. All of it holds from the next
    /// call on, or, after an error, nothing of it.
    ///
    /// # Errors
    /// [`EngineError::Adapter`] where factors do not fit the networks, [`EngineError::NoReward`] where the adapter has parts
    /// for a reward model that is not there; heads that lack a tensor or have another shape; a failure of the device.
    pub async fn set_adapter(&mut self, adapter: Option<&Adapter>) -> Result<(), EngineError> {
        let (policy, reward, heads) = adapter.map(|a| a.parts(&self.config)).transpose()?.unwrap_or_default();
        if self.heads.is_none() && (reward.is_some() || heads.is_some()) {
            return Err(EngineError::NoReward);
        }
        if heads.as_ref().zip(self.heads.as_ref()).is_some_and(|(new, own)| new.n_layers() != own.n_layers()) {
            let reason = "they read the trunk after another layer; load the checkpoint that they belong to";
            return Err(EngineError::Adapter { name: "heads".into(), reason });
        }
        self.executor.set_sides(policy, reward, heads.as_ref().or(self.heads.as_ref())).await?;
        self.adapted_heads = heads;
        Ok(())
    }

    /// Whether suggestions get scores.
    pub fn has_reward(&self) -> bool {
        self.heads.is_some()
    }

    /// Writes suggestions and, where there is a reward model, scores them: the prompt once through the policy, the
    /// candidates as one batch, the prompt once through the reward model, all candidates' tokens in one batch.
    ///
    /// The prompt is cut to `max_seq_len - max_new_tokens`, oldest first. A score is that of the text, as
    /// [`Engine::score`] gives it. `clock` gives seconds.
    ///
    /// # Errors
    /// Settings that cannot be, NaN from a network, or a failure of the device.
    pub async fn suggest(
        &mut self,
        request: &SuggestRequest,
        clock: &dyn Fn() -> f64,
    ) -> Result<SuggestOutcome, EngineError> {
        request.sampling.validate()?;
        let start = clock();
        let prompt = self.policy_prompt(&request.prompt, request.max_new_tokens)?;
        let logits = self.prefill(Network::Policy, &prompt).await?;
        let prefilled = clock();
        let streams = 0..request.n_candidates as u64;
        let rollouts = self.decode(&prompt, &logits, streams, request.max_new_tokens, &request.sampling).await?;
        let decoded = clock();
        let texts: Vec<String> = rollouts.iter().map(|r| r.text.clone()).collect();
        let scores = if self.has_reward() {
            self.score(&request.prompt, &texts).await?.into_iter().map(Some).collect()
        } else {
            vec![None; texts.len()]
        };
        let scored = clock();
        let n_decoded_tokens = rollouts.iter().map(|r| r.tokens.len()).sum();
        let suggestions = rollouts.into_iter().zip(scores).map(|(r, score)| {
            let Rollout { text, tokens, logps, finished } = r;
            Suggestion { text, tokens, logps, finished, score }
        });
        Ok(SuggestOutcome {
            suggestions: suggestions.collect(),
            n_prompt_tokens: prompt.len(),
            n_decoded_tokens,
            prefill_secs: prefilled - start,
            decode_secs: decoded - prefilled,
            score_secs: scored - decoded,
        })
    }

    /// GaRM's score of each text, in order; each depends on the prompt and its own text only.
    ///
    /// As in training, a text is cut to its first [`Limits::suffix_tokens`] tokens and the prompt to what
    /// then fits into the sequence, oldest first. Texts that see the same prompt share its prefill: all
    /// of them, unless the conversation is about as long as the sequence.
    ///
    /// # Errors
    /// No reward model, NaN from it, or a failure of the device.
    pub async fn score(&mut self, prompt: &Prompt, suggestions: &[String]) -> Result<Vec<Score>, EngineError> {
        let texts: Vec<Vec<u32>> = suggestions.iter().map(|text| self.suggestion_tokens(text)).collect();
        let mut by_prompt: BTreeMap<Vec<u32>, Vec<usize>> = BTreeMap::new();
        for (i, text) in texts.iter().enumerate() {
            let prompt = self.tokenizer.encode_prompt(prompt, self.config.max_seq_len - text.len());
            by_prompt.entry(prompt).or_default().push(i);
        }
        let heads = self.adapted_heads.as_ref().or(self.heads.as_ref()).ok_or(EngineError::NoReward)?;
        let mut scores = vec![Score::default(); texts.len()];
        for (prompt, of_prompt) in by_prompt {
            self.executor.forward(Network::Reward, &prompt_rows(&prompt), Output::Logits(&[])).await?;
            for batch in of_prompt.chunks(self.limits.n_seqs) {
                let of_seq = |(seq, i): (usize, &usize)| suffix_rows(&texts[*i], seq as u32, prompt.len());
                let rows: Vec<Row> = batch.iter().enumerate().flat_map(of_seq).collect();
                let lens: Vec<usize> = batch.iter().map(|i| texts[*i].len()).collect();
                for (i, outputs) in batch.iter().zip(self.executor.judge(&rows, &lens, heads).await?) {
                    scores[*i] = heads.score(outputs)?;
                }
            }
        }
        Ok(scores)
    }

    /// Greedy decoding with the logits of each step, to compare executors; ends after the policy's end.
    ///
    /// # Errors
    /// More tokens than fit, NaN from the network, or a failure of the device.
    pub async fn greedy(&mut self, prompt: &Prompt, n_tokens: usize) -> Result<Vec<GreedyStep>, EngineError> {
        let prompt = self.policy_prompt(prompt, n_tokens)?;
        let mut logits = self.prefill(Network::Policy, &prompt).await?;
        let mut steps = Vec::with_capacity(n_tokens);
        while steps.len() < n_tokens {
            let token = largest(&logits)? as u32;
            let row = Row { token, seq: Some(0), pos: (prompt.len() + steps.len()) as u32 };
            steps.push(GreedyStep { token, logits: std::mem::take(&mut logits) });
            if token == self.tokenizer.end() || steps.len() == n_tokens {
                break;
            }
            logits = self.executor.forward(Network::Policy, &[row], Output::Logits(&[0])).await?;
        }
        Ok(steps)
    }

    /// `n_per_prompt` suggestions for each prompt, unscored; for RL and evaluation outside a page.
    ///
    /// Candidate `i` of prompt `p` draws from stream `first_stream + p * n_per_prompt + i`, so work may be
    /// split among forks without changing a draw.
    ///
    /// # Errors
    /// As [`Engine::suggest`]; [`EngineError::MustBeAwaited`] in a page on a GPU.
    pub fn rollouts(
        &mut self,
        prompts: &[Prompt],
        n_per_prompt: usize,
        max_new_tokens: usize,
        sampling: &Sampling,
        first_stream: u64,
    ) -> Result<Vec<Vec<Rollout>>, EngineError> {
        let all = async {
            let mut all = Vec::with_capacity(prompts.len());
            for (p, prompt) in prompts.iter().enumerate() {
                let prompt = self.policy_prompt(prompt, max_new_tokens)?;
                let logits = self.prefill(Network::Policy, &prompt).await?;
                let first = first_stream + (p * n_per_prompt) as u64;
                let streams = first..first + n_per_prompt as u64;
                all.push(self.decode(&prompt, &logits, streams, max_new_tokens, sampling).await?);
            }
            Ok(all)
        };
        ready(all).ok_or(EngineError::MustBeAwaited)?
    }

    /// The policy's prompt tokens, leaving room for what is to be written.
    fn policy_prompt(&self, prompt: &Prompt, n_new: usize) -> Result<Vec<u32>, EngineError> {
        let max = self.limits.suffix_tokens;
        if n_new > max {
            return Err(EngineError::TooManyTokens { n_tokens: n_new, max });
        }
        Ok(self.tokenizer.encode_prompt(prompt, self.config.max_seq_len - n_new))
    }

    /// A suggestion's tokens with their end, cut to what a candidate's part of the cache holds.
    fn suggestion_tokens(&self, text: &str) -> Vec<u32> {
        let mut tokens = self.tokenizer.encode_suggestion(text);
        tokens.truncate(self.limits.suffix_tokens);
        tokens
    }

    /// The prompt into the cache; logits `[V]` after its last token.
    async fn prefill(&mut self, network: Network, prompt: &[u32]) -> Result<Vec<f32>, EngineError> {
        let last = [prompt.len() - 1];
        self.executor.forward(network, &prompt_rows(prompt), Output::Logits(&last)).await
    }

    /// One candidate a stream, batch by batch; the prompt is in the policy's cache and `first_logits` follow it.
    async fn decode(
        &mut self,
        prompt: &[u32],
        first_logits: &[f32],
        streams: Range<u64>,
        max_new_tokens: usize,
        sampling: &Sampling,
    ) -> Result<Vec<Rollout>, EngineError> {
        let streams: Vec<u64> = streams.collect();
        let mut rollouts = Vec::with_capacity(streams.len());
        for batch in streams.chunks(self.limits.n_seqs) {
            let end = self.tokenizer.end();
            let candidates = batch.iter().map(|stream| Candidate::new(sampling, *stream, end));
            let mut candidates = candidates.collect::<Result<Vec<_>, _>>()?;
            if max_new_tokens > 0 {
                for candidate in &mut candidates {
                    candidate.draw(first_logits)?;
                }
            }
            let mut step = 1;
            while step < max_new_tokens {
                let (mut rows, mut running) = (Vec::new(), Vec::new());
                for (seq, candidate) in candidates.iter_mut().enumerate().filter(|(_, c)| !c.finished) {
                    let pos = (prompt.len() + step - 1) as u32;
                    rows.push(Row { token: candidate.tokens[step - 1], seq: Some(seq as u32), pos });
                    running.push(candidate);
                }
                if rows.is_empty() {
                    break;
                }
                step += self.steps(&rows, &mut running, max_new_tokens - step, sampling).await?;
            }
            rollouts.extend(candidates.into_iter().map(|c| Rollout {
                text: self.tokenizer.decode(&c.tokens),
                tokens: c.tokens,
                logps: c.logps,
                finished: c.finished,
            }));
        }
        Ok(rollouts)
    }

    /// Decode steps of one batch, `most` at most; gives how many. On a GPU they are several, drawn there.
    async fn steps(
        &mut self,
        rows: &[Row],
        running: &mut [&mut Candidate],
        most: usize,
        sampling: &Sampling,
    ) -> Result<usize, EngineError> {
        if let Executor::Gpu(executor) = &mut self.executor {
            let n_steps = most.min(gpu::draw::STEPS);
            let mut uniforms = Vec::with_capacity(n_steps * running.len());
            for _ in 0..n_steps {
                uniforms.extend(running.iter_mut().map(|candidate| candidate.sampler.uniform()));
            }
            let drawn = executor.draw(rows, &uniforms, sampling).await?; // [steps, M]
            for drawn in drawn.chunks_exact(running.len()) {
                for (candidate, drawn) in running.iter_mut().zip(drawn).filter(|(c, _)| !c.finished) {
                    candidate.take(*drawn);
                }
            }
            return Ok(n_steps);
        }
        let wanted: Vec<usize> = (0..rows.len()).collect();
        let logits = self.executor.forward(Network::Policy, rows, Output::Logits(&wanted)).await?; // [M, V]
        for (candidate, logits) in running.iter_mut().zip(logits.chunks_exact(self.config.vocab_size)) {
            candidate.draw(logits)?;
        }
        Ok(1)
    }
}

/// A suggestion being written.
struct Candidate {
    sampler: Sampler,
    /// The token that ends it.
    end: u32,
    tokens: Vec<u32>,
    logps: Vec<f32>,
    finished: bool,
}

impl Candidate {
    fn new(sampling: &Sampling, stream: u64, end: u32) -> Result<Self, SamplingError> {
        let sampler = Sampler::new(sampling, stream)?;
        Ok(Self { sampler, end, tokens: Vec::new(), logps: Vec::new(), finished: false })
    }

    fn draw(&mut self, logits: &[f32]) -> Result<(), SamplingError> {
        let drawn = self.sampler.draw(logits)?;
        self.take(drawn);
        Ok(())
    }

    fn take(&mut self, drawn: Drawn) {
        self.tokens.push(drawn.token);
        self.logps.push(drawn.logp);
        self.finished = drawn.token == self.end;
    }
}

fn prompt_rows(tokens: &[u32]) -> Vec<Row> {
    tokens.iter().enumerate().map(|(i, token)| Row { token: *token, seq: None, pos: i as u32 }).collect()
}

fn suffix_rows(tokens: &[u32], seq: u32, prompt_len: usize) -> impl Iterator<Item = Row> {
    tokens.iter().enumerate().map(move |(i, t)| Row { token: *t, seq: Some(seq), pos: (prompt_len + i) as u32 })
}

#[cfg(test)]
mod tests;
