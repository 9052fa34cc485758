//! Last arrow of a run: policy and reward model become one hashed, quantized file for the page; a run with LoRA also
//! leaves what it learnt as an adapter over its parent.

use super::lineage::{attribution, data_hash, is_simulated, sources};
use super::measure::RunFacts;
use super::recorder::Recorder;
use super::{PipelineError, Trained, create_dir, parent};
use crate::model::state::write_atomic;
use crate::stage::Observer;
use crate::stage::rl::reward_version;
use beckon_shaders::ready;
use beckon_shared::adapter::{AdapterFile, AdapterParts};
use beckon_shared::checkpoint::{Checkpoint, Formats, Lineage, Parts};
use beckon_shared::control::{CheckpointInfo, Stage};
use beckon_shared::tensor::TensorMap;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Name of the checkpoint in `export/`.
const FILE: &str = "checkpoint.beckon";
/// Extension of an adapter, which lies beside its checkpoint under the same name.
pub const ADAPTER_EXTENSION: &str = "adapter";
/// Stages that add adapters to one network: SFT, then RL or GaRM.
const STAGES_A_NETWORK: usize = 2;

/// Packs a policy with the run's reward model.
///
/// # Errors
/// [`PipelineError::Checkpoint`].
pub fn pack(run: &RunFacts, trained: &Trained, policy: &TensorMap) -> Result<Checkpoint, PipelineError> {
    let sources = sources(run.records);
    let parts = Parts {
        name: run.config.name.clone(),
        model: &trained.model,
        reward: trained.garm.config.clone(),
        lineage: Lineage {
            data_hash: data_hash(run.records),
            attribution: attribution(&sources),
            sources,
            parent: run.config.parent.clone(),
            config: lineage_config(run),
            seed: run.config.seed,
            commit: run.origin.commit.clone(),
            command: run.origin.command.clone(),
            device: trained.devices.name.clone(),
            simulated: is_simulated(run.records),
            reward_version: Some(reward_version(&trained.garm.reward, &trained.garm.config)),
        },
        tokenizer: &trained.tokenizer,
    };
    Ok(Checkpoint::build(parts, policy, &trained.garm.reward, Formats::default())?)
}

/// The configuration, and beside it what was changed by hand: without that the run could not be made again.
fn lineage_config(run: &RunFacts) -> serde_json::Value {
    // both are strings, numbers and lists of them, so they have a JSON form
    let mut config = serde_json::to_value(run.config).unwrap_or_default();
    if let (Some(config), false) = (config.as_object_mut(), run.changes.is_empty()) {
        config.insert("changes".into(), serde_json::to_value(&run.changes).unwrap_or_default());
    }
    config
}

/// What a run with LoRA learnt, over its parent as the page has it. `None` for other runs.
///
/// # Errors
/// The parent's file, see [`parent::load`]; [`PipelineError::Adapter`] where the result is no sum of low-rank products.
pub fn adapter(
    run: &RunFacts,
    trained: &Trained,
    checkpoint: &Checkpoint,
) -> Result<Option<AdapterFile>, PipelineError> {
    let Some((lora, base)) = run.config.lora.zip(parent::checkpoint(run.dir, run.config)?) else { return Ok(None) };
    let parts = AdapterParts {
        name: &run.config.name,
        base: &base,
        checkpoint: &checkpoint.id,
        policy: &trained.rl.policy,
        reward: &trained.garm.reward,
        reward_config: &trained.garm.config,
        max_rank: STAGES_A_NETWORK * lora.rank,
    };
    // on the CPU there is nothing to wait for
    Ok(ready(AdapterFile::build(parts)).transpose()?)
}

/// Writes an adapter beside the checkpoint at `path`.
///
/// # Errors
/// [`PipelineError::Io`], [`PipelineError::Adapter`].
pub fn write_adapter(path: &Path, adapter: &AdapterFile) -> Result<(), PipelineError> {
    Ok(write_atomic(&path.with_extension(ADAPTER_EXTENSION), &adapter.encode()?)?)
}

/// Writes the checkpoint, unless the same one is there already.
///
/// # Errors
/// [`PipelineError::Io`]; an older file then stays whole.
pub fn write(
    run: &RunFacts,
    checkpoint: &Checkpoint,
    observer: &mut dyn Observer,
) -> Result<(PathBuf, CheckpointInfo), PipelineError> {
    let dir = run.dir.join("export");
    create_dir(&dir)?;
    let mut recorder = Recorder::open(&dir, observer)?;
    let path = dir.join(FILE);
    let bytes = checkpoint.encode()?;
    let is_there = std::fs::read(&path).is_ok_and(|there| there == bytes);
    if !is_there {
        write_atomic(&path, &bytes)?;
    }
    recorder.metric(Stage::Export, 1, 1, "n_bytes", bytes.len() as f64);
    recorder.finish()?;
    let made = std::fs::metadata(&path).and_then(|m| m.modified());
    let made = made.map_err(|source| PipelineError::io("read", &path, source))?;
    let info = CheckpointInfo {
        id: checkpoint.id.clone(),
        name: checkpoint.manifest.name.clone(),
        run_id: None,
        n_bytes: bytes.len() as u64,
        // a clock before 1970 is no reason to fail
        created_millis: made.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64),
        simulated: checkpoint.manifest.lineage.simulated,
        built_in: false,
    };
    Ok((path, info))
}
