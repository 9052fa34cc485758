//! Suggestions of the current policy, drawn at temperature 1 from its whole distribution: the samples
//! that the policy gradient is an expectation over. Method B.5.4.
//!
//! They are written by the engine's CPU executor in f32, one prefill per prompt and its group decoded as
//! one batch, which on the CPU is many times faster than a network without a cache. Its logits and
//! Burn's agree to rounding, so the log-probabilities that the loss uses are computed again in Burn.

use super::RlInputs;
use crate::model::batch::Sequence;
use beckon_shared::control::RlConfig;
use beckon_shared::engine::{Engine, EngineError, Rollout};
use beckon_shared::prompt::Prompt;
use beckon_shared::quant::QuantError;
use beckon_shared::sampling::{Sampling, SamplingError};
use beckon_shared::tensor::TensorMap;
use std::num::NonZero;
use std::thread;

/// G suggestions for one prompt.
#[derive(Debug, Clone)]
pub struct Group {
    /// What they answer to.
    pub prompt: Prompt,
    /// As text.
    pub texts: Vec<String>,
    /// Whether each ended itself.
    pub finished: Vec<bool>,
    /// Log-probability of each token of each, as the engine drew it, nats.
    pub logps: Vec<Vec<f32>>,
    /// Prompt and drawn tokens of each, for losses and scores.
    pub sequences: Vec<Sequence>,
}

/// Writes `config.group_size` suggestions for each prompt with the weights `policy`. The draws follow
/// from `seed`, not from the number of threads.
///
/// # Errors
/// Weights that are not finite, or a suggestion longer than the engine's cache.
pub fn rollouts(
    inputs: &RlInputs,
    policy: &TensorMap,
    prompts: &[Prompt],
    config: &RlConfig,
    seed: u64,
) -> Result<Vec<Group>, EngineError> {
    let engine = Engine::from_tensors(inputs.model, policy, inputs.tokenizer)?;
    let n_threads = thread::available_parallelism().map_or(1, NonZero::get).min(prompts.len()).max(1);
    let n_each = prompts.len().div_ceil(n_threads).max(1);
    let sampling = Sampling::plain(seed);
    let write = |(part, prompts): (usize, &[Prompt])| -> Result<Vec<Vec<Rollout>>, EngineError> {
        let mut engine = engine.fork().ok_or(EngineError::MustBeAwaited)?;
        let first_stream = (part * n_each * config.group_size) as u64;
        engine.rollouts(prompts, config.group_size, config.max_new_tokens, &sampling, first_stream)
    };
    let written: Vec<Result<Vec<Vec<Rollout>>, EngineError>> = thread::scope(|scope| {
        let workers: Vec<_> = prompts.chunks(n_each).enumerate().map(|part| scope.spawn(move || write(part))).collect();
        workers.into_iter().map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut groups = Vec::with_capacity(prompts.len());
    for part in written {
        groups.extend(part?);
    }
    Ok(prompts.iter().zip(groups).map(|(prompt, rollouts)| group(inputs, prompt, rollouts, config)).collect())
}

/// Whether the policy's weights are to blame: they, or the logits that they give, are no numbers.
pub fn is_not_finite(error: &EngineError) -> bool {
    match error {
        EngineError::Sampling(error) => {
            matches!(error, SamplingError::Logit { .. } | SamplingError::NothingLeft { .. })
        }
        EngineError::Tensor { source, .. } => matches!(source, QuantError::Value { .. }),
        EngineError::NotFinite { .. } => true,
        _ => false,
    }
}

fn group(inputs: &RlInputs, prompt: &Prompt, rollouts: Vec<Rollout>, config: &RlConfig) -> Group {
    // as the engine cuts it
    let tokens = inputs.tokenizer.encode_prompt(prompt, inputs.model.max_seq_len - config.max_new_tokens);
    Group {
        prompt: prompt.clone(),
        finished: rollouts.iter().map(|r| r.finished).collect(),
        sequences: rollouts.iter().map(|r| Sequence::new(&tokens, &r.tokens)).collect(),
        logps: rollouts.iter().map(|r| r.logps.clone()).collect(),
        texts: rollouts.into_iter().map(|r| r.text).collect(),
    }
}
