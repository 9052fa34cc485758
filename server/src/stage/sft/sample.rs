//! What the policy writes at a look, for people: the same prompts with the same draws every time.
//!
//! By the engine, as RL's rollouts are: a few suggestions cost a small part of one RL step. The draws have a stream of their own,
//! so that nothing of the training depends on them.

use super::SftInputs;
use beckon_shared::control::sample::{N_PROMPTS, N_SUGGESTIONS, SampledPrompt};
use beckon_shared::engine::{Engine, EngineError};
use beckon_shared::preference::SftExample;
use beckon_shared::prompt::Prompt;
use beckon_shared::sampling::Sampling;
use beckon_shared::tensor::TensorMap;
use std::collections::HashSet;

/// Longest suggestion in tokens.
const MAX_TOKENS: usize = 16;

/// [`N_PROMPTS`] prompts that people can tell apart, taken evenly from the examples (all, where there are fewer).
pub fn prompts(examples: &[&SftExample]) -> Vec<Prompt> {
    let mut queries = HashSet::new();
    let distinct: Vec<&Prompt> =
        examples.iter().map(|e| &e.prompt).filter(|prompt| queries.insert(prompt.query())).collect();
    super::evenly(&distinct, N_PROMPTS).into_iter().cloned().collect()
}

/// Suggestions of `policy`, drawn at temperature 1 from its whole distribution.
///
/// # Errors
/// Weights that are not finite.
pub fn write(
    inputs: &SftInputs,
    policy: &TensorMap,
    prompts: &[Prompt],
    seed: u64,
) -> Result<Vec<SampledPrompt>, EngineError> {
    let mut engine = Engine::from_tensors(inputs.model, policy, inputs.tokenizer)?;
    let max_tokens = MAX_TOKENS.min(inputs.model.max_suggestion_tokens());
    let written = engine.rollouts(prompts, N_SUGGESTIONS, max_tokens, &Sampling::plain(seed), 0)?;
    let sampled = prompts.iter().zip(&written);
    Ok(sampled
        .map(|(prompt, texts)| SampledPrompt::new(prompt, texts.iter().map(|r| (r.text.as_str(), None))))
        .collect())
}
