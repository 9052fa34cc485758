//! `beckon eval policy` and `beckon eval reward`: a checkpoint file judged on a log.

use super::EvalError;
use super::odd_text::odd_text;
use super::policy::{SampleSize, policy_figures, write_suggestions};
use super::reward::{Scorers, figures_by_source};
use crate::model::llama::Llama;
use crate::model::reward::Scorer;
use crate::run_config::run_config_from_json;
use crate::stage::aside::evenly;
use crate::stage::sft::sequence_logps;
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::click::Sourced;
use beckon_shared::engine::EngineError;
use beckon_shared::preference::{Dataset, PreferenceConfig, SftExample, dataset_from_records};
use beckon_shared::prompt::Prompt;
use burn::tensor::Device;
use clap::ValueEnum;

/// Suggestions judged by `beckon eval policy`.
const POLICY_SAMPLE: SampleSize = SampleSize { n_prompts: 48, n_per_prompt: 8, max_new_tokens: 16 };
/// Most suggestions whose likelihood `beckon eval policy` asks for.
const MAX_EXAMPLES: usize = 1_000;

/// Which records judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Those that a run on this log with the checkpoint's settings would not have learnt from.
    HeldOut,
    /// All: a log that no run has seen.
    All,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::HeldOut => "held-out",
            Self::All => "all",
        }
    }
}

/// `beckon eval policy`: figures of what a checkpoint writes for prompts of a log, with the texts themselves, and how
/// likely it finds what people chose there.
///
/// # Errors
/// [`EvalError`].
pub fn policy(
    checkpoint: &Checkpoint,
    records: &[Sourced],
    seed: u64,
    part: Part,
) -> Result<serde_json::Value, EvalError> {
    let Dataset { train, held_out, .. } = dataset_from_records(records, &preferences_of(checkpoint, part)?, seed)?;
    let prompts = if held_out.prompts.is_empty() { train.prompts } else { held_out.prompts };
    if prompts.is_empty() && held_out.sft.is_empty() {
        return Err(EvalError::NoData { missing: "prompts" });
    }
    let written = write_suggestions(checkpoint, &prompts, POLICY_SAMPLE, seed)?;
    let texts: Vec<_> =
        written.iter().map(|w| serde_json::json!({ "prompt": w.prompt, "suggestions": w.scored_texts() })).collect();
    let figures = policy_figures(&checkpoint.manifest.name, &written);
    Ok(serde_json::json!({
        "checkpoint": checkpoint.id,
        "part": part.name(),
        "figures": figures,
        "imitation": imitation(checkpoint, &held_out.sft)?,
        "written": texts,
    }))
}

/// How likely the policy finds what was chosen: nats a token, and bits a byte of text, which compares policies of
/// unlike tokenizers. `null` without such suggestions.
fn imitation(checkpoint: &Checkpoint, examples: &[SftExample]) -> Result<serde_json::Value, EvalError> {
    let examples = evenly(examples, MAX_EXAMPLES);
    if examples.is_empty() {
        return Ok(serde_json::Value::Null);
    }
    let model = &checkpoint.manifest.model;
    let tokenizer = checkpoint.tokenizer()?;
    let policy = Llama::from_tensors(model, &checkpoint.dense("policy"), &Device::flex())?;
    let items: Vec<(Prompt, String)> = examples.into_iter().map(|e| (e.prompt, e.suggestion)).collect();
    let logps = sequence_logps(&policy, &tokenizer, &items, model.max_seq_len);
    let n_tokens: usize = logps.iter().map(|(_, n)| n).sum();
    let nats = -logps.iter().map(|(sum, _)| sum).sum::<f64>();
    let n_bytes: usize = items.iter().map(|(_, text)| text.len()).sum();
    Ok(serde_json::json!({
        "n_examples": items.len(),
        "n_tokens": n_tokens,
        "nats_per_token": nats / n_tokens as f64,
        "bits_per_byte": nats / std::f64::consts::LN_2 / n_bytes as f64,
    }))
}

/// `beckon eval reward`: figures of a checkpoint's reward model on pairs of a log, a data set at a time, against a
/// constant, and what learns from the rest of the log, where there is one: the length of the text, its words, and clicks on
/// single texts by their words; and how well its spread tells odd text. Rivals that were trained with it are in its run's report:
/// a checkpoint does not hold them.
///
/// # Errors
/// [`EvalError`].
pub fn reward(
    checkpoint: &Checkpoint,
    records: &[Sourced],
    seed: u64,
    part: Part,
) -> Result<serde_json::Value, EvalError> {
    let Some(config) = &checkpoint.manifest.reward else { return Err(EvalError::Engine(EngineError::NoReward)) };
    let tokenizer = checkpoint.tokenizer()?;
    let tensors = checkpoint.dense("reward");
    let garm = Scorer::new(&checkpoint.manifest.model, &tensors, config, &tokenizer, &Device::flex())?;
    let Dataset { train, held_out, .. } = dataset_from_records(records, &preferences_of(checkpoint, part)?, seed)?;
    if held_out.pairs.is_empty() {
        return Err(EvalError::NoData { missing: "pairs" });
    }
    let scorers = Scorers { garm: &garm, bradley_terry: None, case_v: None };
    let sources = figures_by_source(records, &train, &held_out.pairs, scorers, seed);
    let odd_text = odd_text::<EvalError>(&held_out.pairs, seed, &mut |items| Ok(garm.score(items)))?;
    Ok(serde_json::json!({
        "checkpoint": checkpoint.id,
        "part": part.name(),
        "sources": sources,
        "odd_text": odd_text,
    }))
}

/// How the checkpoint's run split and read its log, so that what is held out here was held out there; the
/// defaults where its configuration says nothing of it.
fn preferences_of(checkpoint: &Checkpoint, part: Part) -> Result<PreferenceConfig, EvalError> {
    let mut config = match checkpoint.manifest.lineage.config.get("preferences") {
        Some(given) => {
            let json = serde_json::json!({ "preferences": given }).to_string();
            run_config_from_json(json.as_bytes())?.preferences
        }
        None => PreferenceConfig::default(),
    };
    if part == Part::All {
        (config.split.held_out_percent, config.split.latest_percent) = (100, 0);
    }
    Ok(config)
}
