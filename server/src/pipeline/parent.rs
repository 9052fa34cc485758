//! The checkpoint that a run starts from: its policy instead of random numbers, its tokenizer and its shape
//! instead of new ones.
//!
//! In the loop: the arrow back from a checkpoint to SFT. The file lies in the run's folder, so a run needs nothing else when it
//! goes on after an interruption; the configuration holds its id, which fixes the content. Quantization loses a little of the
//! parent; SFT starts from what the page would run. The reward model starts from the new SFT policy, as always.

use super::PipelineError;
use crate::model::state::write_atomic;
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::config::ModelConfig;
use beckon_shared::control::RunConfig;
use beckon_shared::tensor::TensorMap;
use beckon_shared::tokenizer::Tokenizer;
use std::path::Path;

/// Name of the file in the run's folder.
const FILE: &str = "parent.beckon";

/// What a run takes over.
pub struct Parent {
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// Shape of its network.
    pub model: ModelConfig,
    /// Tensors by the names of the network.
    pub policy: TensorMap,
}

/// Puts the bytes of a checkpoint into a run's folder (which exists), unless they are there.
///
/// # Errors
/// [`PipelineError::Io`].
pub fn place(dir: &Path, bytes: &[u8]) -> Result<(), PipelineError> {
    let path = dir.join(FILE);
    if std::fs::read(&path).is_ok_and(|there| there == bytes) { Ok(()) } else { Ok(write_atomic(&path, bytes)?) }
}

/// The parent that `config` names, from the run's folder; `None` where it names none.
///
/// # Errors
/// The file is missing, damaged, or another checkpoint.
pub fn load(dir: &Path, config: &RunConfig) -> Result<Option<Parent>, PipelineError> {
    let Some(checkpoint) = checkpoint(dir, config)? else { return Ok(None) };
    let tokenizer = checkpoint.tokenizer()?;
    let policy = checkpoint.dense("policy");
    Ok(Some(Parent { tokenizer, model: checkpoint.manifest.model, policy }))
}

/// The same as the page would load it.
///
/// # Errors
/// As [`load`].
pub fn checkpoint(dir: &Path, config: &RunConfig) -> Result<Option<Checkpoint>, PipelineError> {
    let Some(id) = &config.parent else { return Ok(None) };
    let path = dir.join(FILE);
    let bytes = std::fs::read(&path).map_err(|source| PipelineError::io("read", &path, source))?;
    let checkpoint = Checkpoint::decode(&bytes)?;
    let damaged = |reason: String| PipelineError::Damaged { reason, path: path.clone() };
    if checkpoint.id != *id {
        return Err(damaged(format!("it is checkpoint {}, and the run starts from {id}", checkpoint.id)));
    }
    Ok(Some(checkpoint))
}
