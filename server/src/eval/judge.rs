//! `beckon eval policy` and `beckon eval reward`: a checkpoint file judged on the held-out side of a log.

use super::EvalError;
use super::policy::{SampleSize, policy_figures, write_suggestions};
use super::reward::{Predictions, source_figures};
use crate::model::device::block_on;
use crate::run_config::run_config_from_json;
use crate::stage::aside::evenly;
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::click::Sourced;
use beckon_shared::engine::{Engine, Score};
use beckon_shared::preference::{Dataset, Pair, PreferenceConfig, dataset_from_records};
use std::collections::BTreeSet;
use std::path::Path;

/// Suggestions judged by `beckon eval policy`.
const POLICY_SAMPLE: SampleSize = SampleSize { n_prompts: 48, n_per_prompt: 8, max_new_tokens: 16 };
/// Most pairs of a data set judged by `beckon eval reward`.
const MAX_PAIRS: usize = 1_000;

/// `beckon eval policy`: figures of what a checkpoint writes for held-out prompts of a log, with the
/// texts themselves.
///
/// # Errors
/// [`EvalError`].
pub fn policy(checkpoint: &Path, records: &[Sourced], seed: u64) -> Result<serde_json::Value, EvalError> {
    let checkpoint = read_checkpoint(checkpoint)?;
    let dataset = dataset_from_records(records, &preferences_of(&checkpoint)?, seed)?;
    let prompts = if dataset.held_out.prompts.is_empty() { dataset.train.prompts } else { dataset.held_out.prompts };
    if prompts.is_empty() {
        return Err(EvalError::NoData { missing: "prompts" });
    }
    let written = write_suggestions(&checkpoint, &prompts, POLICY_SAMPLE, seed)?;
    let texts: Vec<_> =
        written.iter().map(|w| serde_json::json!({ "prompt": w.prompt, "suggestions": w.scored_texts() })).collect();
    let figures = policy_figures(&checkpoint.manifest.name, &written);
    Ok(serde_json::json!({ "checkpoint": checkpoint.id, "figures": figures, "written": texts }))
}

/// `beckon eval reward`: figures of a checkpoint's reward model on held-out pairs of a log, a data set at
/// a time, against a constant, the length of the text and its words.
///
/// # Errors
/// [`EvalError`].
pub fn reward(checkpoint: &Path, records: &[Sourced], seed: u64) -> Result<serde_json::Value, EvalError> {
    let checkpoint = read_checkpoint(checkpoint)?;
    let mut engine = Engine::cpu(&checkpoint)?;
    let Dataset { train, held_out, .. } = dataset_from_records(records, &preferences_of(&checkpoint)?, seed)?;
    let names: BTreeSet<&str> = held_out.pairs.iter().map(|p| p.source.as_str()).collect();
    if names.is_empty() {
        return Err(EvalError::NoData { missing: "held-out pairs" });
    }
    let mut sources = Vec::new();
    for source in names {
        let of = |pairs: &'_ [Pair]| -> Vec<Pair> { pairs.iter().filter(|p| p.source == source).cloned().collect() };
        let (train, pairs) = (of(&train.pairs), evenly(&of(&held_out.pairs), MAX_PAIRS));
        let mut scores: Vec<Score> = Vec::with_capacity(2 * pairs.len());
        for pair in &pairs {
            let texts = [pair.chosen.clone(), pair.rejected.clone()];
            scores.extend(block_on(engine.score(&pair.prompt, &texts))?);
        }
        let (train, pairs): (Vec<&Pair>, Vec<&Pair>) = (train.iter().collect(), pairs.iter().collect());
        let predictions = [
            Predictions::garm(&scores),
            Predictions::lexical(&train, &pairs),
            Predictions::length(&train, &pairs),
            Predictions::constant(pairs.len()),
        ];
        sources.push(source_figures(source, &pairs, &predictions, seed));
    }
    Ok(serde_json::json!({ "checkpoint": checkpoint.id, "sources": sources }))
}

/// How the checkpoint's run split and read its log, so that what is held out here was held out there; the
/// defaults where its configuration says nothing of it.
fn preferences_of(checkpoint: &Checkpoint) -> Result<PreferenceConfig, EvalError> {
    match checkpoint.manifest.lineage.config.get("preferences") {
        Some(given) => {
            let json = serde_json::json!({ "preferences": given }).to_string();
            Ok(run_config_from_json(json.as_bytes())?.preferences)
        }
        None => Ok(PreferenceConfig::default()),
    }
}

fn read_checkpoint(path: &Path) -> Result<Checkpoint, EvalError> {
    let bytes = std::fs::read(path).map_err(|source| EvalError::Read { source, path: path.to_owned() })?;
    Checkpoint::decode(&bytes).map_err(|source| EvalError::Checkpoint { source, path: path.to_owned() })
}
