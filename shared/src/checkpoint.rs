//! Checkpoint file of the page: quantized policy and, where there is one yet, reward model, with tokenizer,
//! configuration, lineage and a SHA-256 per chunk.
//!
//! File: magic `BECKON01` (8 bytes) | header length u32 LE | header SHA-256 (32 bytes) | header JSON
//! ([`Manifest`]) | payload. The payload is cut into chunks of [`CHUNK_BYTES`]; the manifest holds the
//! hash of each, so the hash of the header (the checkpoint's id) fixes the whole file.
//!
//! Version 1 holds a reward model and our own tokenizer. Version 2 may lack the reward model (an imported policy)
//! and may hold a pretrained model's tokenizer with its prompt format; it is written only where one of the two is so. Version 3
//! has a reward model of its own depth, version 4 a policy with an output matrix of its own.
//!
//! In the loop: the exporter builds it ([`Checkpoint::build`]), or an import ([`Checkpoint::from_policy`]); server and page decode it whole
//! ([`Checkpoint::decode`]) or chunk by chunk ([`decode_header`], then [`Header::verify_chunk`] and
//! [`Header::assemble`]). Every size, offset and name of a file is checked before it is used.

mod format;

use crate::config::{ConfigError, ModelConfig, OUTPUT, reward_head_names, tensor_names};
use crate::prompt::PromptFormat;
use crate::quant::{BlockFormat, Matrix, QuantError};
use crate::tensor::{DenseTensor, TensorMap};
use crate::tokenizer::{Tokenizer, TokenizerError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) use format::MAX_PAYLOAD_BYTES;
pub use format::{Chunk, Header, MAGIC, PREFIX_BYTES, chunks, decode_header, header_bytes};

/// Latest version of the file format; every earlier one is read.
pub const FORMAT_VERSION: u32 = 4;
/// Payload bytes per hashed chunk.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Where a checkpoint comes from; the page draws it. The default is that of nothing: no data, no run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Lineage {
    /// SHA-256 over the records of the log, hex.
    pub data_hash: String,
    /// Data sets and their record counts.
    pub sources: Vec<(String, u64)>,
    /// Parent checkpoint id.
    pub parent: Option<String>,
    /// Run configuration as JSON.
    pub config: serde_json::Value,
    /// Seed.
    pub seed: u64,
    /// Commit of the code, where known.
    pub commit: Option<String>,
    /// Command that makes it again.
    pub command: String,
    /// Device that trained it.
    pub device: String,
    /// Whether the clicks were simulated.
    pub simulated: bool,
    /// Attribution of the data sets.
    pub attribution: Vec<String>,
    /// The reward model that RL's curves are measured by, where there was RL: start of a SHA-256 over its tensors and
    /// constants before quantization, as the stage's log names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward_version: Option<String>,
}

/// What the reward model needs beside its tensors. Method B.2.5, B.3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardConfig {
    /// v = variance_floor + softplus(variance_head · h).
    pub variance_floor: f32,
    /// D_f.
    pub feature_dims: usize,
    /// kappa: v_ep = kappa · max(0, d2 / D_f - 1).
    pub kappa: f32,
    /// Layers of its trunk, which then is the first ones of the model's shape; all where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n_layers: Option<usize>,
}

impl RewardConfig {
    /// Shape of the reward model's trunk, where the policy's is `model`.
    pub fn trunk(&self, model: &ModelConfig) -> ModelConfig {
        model.trunk(self.n_layers.unwrap_or(model.n_layers))
    }
}

/// One stored tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// `policy.` or `reward.` and the name of [`crate::config::tensor_names`] or
    /// [`crate::config::reward_head_names`].
    pub name: String,
    /// Logical shape, `[out, in]` for linear weights.
    pub shape: Vec<usize>,
    /// Block format.
    pub format: BlockFormat,
    /// First byte in the payload (multiple of 4).
    pub offset: u64,
    /// Bytes.
    pub n_bytes: u64,
}

/// Header of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// 1 to [`FORMAT_VERSION`]: the first version that can hold it.
    pub format_version: u32,
    /// Name for people.
    pub name: String,
    /// Shape of policy and reward trunk.
    pub model: ModelConfig,
    /// Reward head constants; without them there is no reward model, and suggestions get no score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<RewardConfig>,
    /// What stands around turns, where it is not our own format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_format: Option<PromptFormat>,
    /// Where it comes from.
    pub lineage: Lineage,
    /// Payload range of the tokenizer JSON: offset, bytes.
    pub tokenizer: (u64, u64),
    /// Tensors; two names may share a range where the values are the same.
    pub tensors: Vec<TensorEntry>,
    /// SHA-256 of each chunk, hex.
    pub chunks: Vec<String>,
    /// Payload bytes.
    pub payload_bytes: u64,
}

/// A checkpoint in memory.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// SHA-256 of the header, hex.
    pub id: String,
    /// Header.
    pub manifest: Manifest,
    /// `tokenizer.json`.
    pub tokenizer_json: String,
    /// Tensors by full name (`policy.…`, `reward.…`); vectors are stored as one-row F32 matrices.
    pub tensors: BTreeMap<String, Matrix>,
}

/// What a checkpoint is built from beside its tensors.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    /// Name for people.
    pub name: String,
    /// Shape of policy and reward trunk; V may be above the tokenizer's.
    pub model: &'a ModelConfig,
    /// Reward head constants.
    pub reward: RewardConfig,
    /// Where it comes from.
    pub lineage: Lineage,
    /// The tokenizer both networks were trained with.
    pub tokenizer: &'a Tokenizer,
}

/// What a checkpoint without a reward model is made from beside its tensors.
#[derive(Debug, Clone)]
pub struct PolicyParts<'a> {
    /// Name for people.
    pub name: String,
    /// Shape of the policy; V may be above the tokenizer's.
    pub model: &'a ModelConfig,
    /// Where it comes from.
    pub lineage: Lineage,
    /// The policy's tokenizer.
    pub tokenizer: &'a Tokenizer,
}

/// Block formats of the matrices. Vectors, reward heads and whitening are always F32: they are small, and
/// the epistemic distance squares their errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Formats {
    /// Matrices of the policy.
    pub policy: BlockFormat,
    /// Matrices of the reward trunk.
    pub reward: BlockFormat,
}

impl Default for Formats {
    fn default() -> Self {
        Self { policy: BlockFormat::Q8, reward: BlockFormat::Q4 }
    }
}

/// Why a checkpoint cannot be built or is refused.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// Other magic.
    #[error("not a Beckon checkpoint: it begins with {got:02x?}")]
    NotACheckpoint {
        /// First bytes, at most 8.
        got: Vec<u8>,
    },
    /// A version of the file format that this program does not know.
    #[error(
        "checkpoint format {got} is unknown: this program reads formats up to {FORMAT_VERSION}; update Beckon or export the checkpoint again"
    )]
    UnknownVersion {
        /// Version of the file.
        got: String,
    },
    /// The file ends early.
    #[error("checkpoint is truncated: {what} needs {want} bytes, {got} are there; fetch it again")]
    Truncated {
        /// Which part.
        what: &'static str,
        /// Bytes needed from the start of the file.
        want: u64,
        /// Bytes there.
        got: u64,
    },
    /// The file goes on behind its payload.
    #[error("checkpoint has {n_bytes} bytes behind its end")]
    TrailingBytes {
        /// How many.
        n_bytes: u64,
    },
    /// The header is damaged.
    #[error("checkpoint header does not match its SHA-256: want {want}, got {got}; fetch it again")]
    HeaderHash {
        /// Hash in the file.
        want: String,
        /// Hash of the header.
        got: String,
    },
    /// A chunk is damaged.
    #[error("chunk {chunk} of {n_chunks} does not match its SHA-256: want {want}, got {got}; fetch it again")]
    ChunkHash {
        /// 0-based.
        chunk: usize,
        /// Number of chunks.
        n_chunks: usize,
        /// Hash in the manifest.
        want: String,
        /// Hash of the chunk.
        got: String,
    },
    /// The manifest contradicts itself or is not one.
    #[error("checkpoint manifest: {field}: {reason}")]
    Manifest {
        /// Which field.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// A network that cannot be.
    #[error("checkpoint manifest: {0}")]
    Config(#[from] ConfigError),
    /// A tensor that the network needs is not there.
    #[error("tensor {name} is missing")]
    MissingTensor {
        /// Full name.
        name: String,
    },
    /// A tensor that the network does not have.
    #[error("tensor {name} does not belong to this network, or is there twice")]
    UnknownTensor {
        /// Full name.
        name: String,
    },
    /// A tensor of another shape than the network's.
    #[error("tensor {name} has shape {got:?}, expected {want:?}")]
    WrongShape {
        /// Full name.
        name: String,
        /// Shape there.
        got: Vec<usize>,
        /// Shape of the network.
        want: Vec<usize>,
    },
    /// A tensor cannot be packed or unpacked.
    #[error("tensor {name}: {source}")]
    Quant {
        /// Full name.
        name: String,
        /// Why.
        source: QuantError,
    },
    /// NaN or infinite weights.
    #[error("tensor {name} holds values that are not finite")]
    NotFinite {
        /// Full name.
        name: String,
    },
    /// The tokenizer is none, or larger than the vocabulary.
    #[error("checkpoint: {0}")]
    Tokenizer(#[from] TokenizerError),
}

/// Every tensor that a checkpoint with a reward model must hold, full name and logical shape, in file order.
pub fn expected_tensors(model: &ModelConfig, reward: &RewardConfig) -> Vec<(String, Vec<usize>)> {
    let heads = reward_head_names(model, reward.feature_dims);
    let reward = tensor_names(&reward.trunk(model)).into_iter().chain(heads);
    let reward = reward.map(|(name, shape)| (format!("reward.{name}"), shape));
    policy_tensors(model).into_iter().chain(reward).collect()
}

/// The same of a checkpoint without one.
pub fn policy_tensors(model: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    tensor_names(model).into_iter().map(|(name, shape)| (format!("policy.{name}"), shape)).collect()
}

/// Whether the block formats apply: a matrix of a network. Vectors and what the heads read stay F32.
fn is_network_matrix(full_name: &str, shape: &[usize]) -> bool {
    shape.len() == 2 && (full_name.contains(".model.") || full_name.ends_with(OUTPUT))
}

/// Whether a reward model of these constants can lie over `model`.
///
/// # Errors
/// [`CheckpointError::Manifest`] naming the field.
pub(crate) fn check_reward(reward: &RewardConfig, model: &ModelConfig) -> Result<(), CheckpointError> {
    let bad = |field: &str, reason: String| Err(CheckpointError::Manifest { field: field.to_owned(), reason });
    if !(reward.variance_floor > 0.0 && reward.variance_floor.is_finite()) {
        return bad("reward.variance_floor", format!("{} is not above 0 and finite", reward.variance_floor));
    }
    if !(reward.kappa >= 0.0 && reward.kappa.is_finite()) {
        return bad("reward.kappa", format!("{} is not finite and at least 0", reward.kappa));
    }
    if reward.feature_dims == 0 || reward.feature_dims > model.d_model {
        return bad("reward.feature_dims", format!("{} is not 1 to d_model = {}", reward.feature_dims, model.d_model));
    }
    if let Some(n) = reward.n_layers.filter(|n| !(1..=model.n_layers).contains(n)) {
        return bad("reward.n_layers", format!("{n} is not 1 to the model's {}", model.n_layers));
    }
    Ok(())
}

fn check_tokenizer(tokenizer: &Tokenizer, model: &ModelConfig) -> Result<(), CheckpointError> {
    if tokenizer.vocab_size() <= model.vocab_size {
        return Ok(());
    }
    let reason = format!("{} is below the tokenizer's {} tokens", model.vocab_size, tokenizer.vocab_size());
    Err(CheckpointError::Manifest { field: "model.vocab_size".to_owned(), reason })
}

/// Exactly the expected tensors, each of its shape (vectors as one-row F32 matrices) and finite.
fn check_matrices(
    tensors: &BTreeMap<String, Matrix>,
    expected: &[(String, Vec<usize>)],
) -> Result<(), CheckpointError> {
    for (name, want) in expected {
        let matrix = tensors.get(name).ok_or_else(|| CheckpointError::MissingTensor { name: name.clone() })?;
        let got = if want.len() == 1 { vec![matrix.cols] } else { vec![matrix.rows, matrix.cols] };
        if got != *want || want.len() == 1 && (matrix.rows, matrix.format) != (1, BlockFormat::F32) {
            return Err(CheckpointError::WrongShape { name: name.clone(), got, want: want.clone() });
        }
        if !matrix.is_finite() {
            return Err(CheckpointError::NotFinite { name: name.clone() });
        }
    }
    match tensors.keys().find(|name| !expected.iter().any(|(known, _)| known == *name)) {
        Some(name) => Err(CheckpointError::UnknownTensor { name: name.clone() }),
        None => Ok(()),
    }
}

impl Checkpoint {
    /// Packs trained tensors. `policy` holds [`tensor_names`], `reward` the same and [`reward_head_names`],
    /// both without prefix. The same input gives the same id.
    ///
    /// # Errors
    /// Configuration that cannot be; tensors missing, unknown, of a wrong shape or not finite.
    pub fn build(
        parts: Parts<'_>,
        policy: &TensorMap,
        reward: &TensorMap,
        formats: Formats,
    ) -> Result<Self, CheckpointError> {
        parts.model.validate()?;
        check_reward(&parts.reward, parts.model)?;
        check_tokenizer(parts.tokenizer, parts.model)?;
        let expected = expected_tensors(parts.model, &parts.reward);
        let mut tensors = BTreeMap::new();
        for (name, shape) in &expected {
            let (map, own_name, format) = match name.strip_prefix("policy.") {
                Some(own_name) => (policy, own_name, formats.policy),
                None => (reward, &name["reward.".len()..], formats.reward),
            };
            let dense = map.get(own_name).ok_or_else(|| CheckpointError::MissingTensor { name: name.clone() })?;
            if dense.shape != *shape {
                let (got, want) = (dense.shape.clone(), shape.clone());
                return Err(CheckpointError::WrongShape { name: name.clone(), got, want });
            }
            if dense.data.iter().any(|x| !x.is_finite()) {
                return Err(CheckpointError::NotFinite { name: name.clone() });
            }
            let format = if is_network_matrix(name, shape) { format } else { BlockFormat::F32 };
            let matrix = Matrix::from_dense(dense, format)
                .map_err(|source| CheckpointError::Quant { name: name.clone(), source })?;
            tensors.insert(name.clone(), matrix);
        }
        for (prefix, map) in [("policy", policy), ("reward", reward)] {
            if let Some(name) = map.keys().map(|n| format!("{prefix}.{n}")).find(|n| !tensors.contains_key(n)) {
                return Err(CheckpointError::UnknownTensor { name });
            }
        }
        let Parts { name, model, reward, lineage, tokenizer } = parts;
        Self::made(PolicyParts { name, model, lineage, tokenizer }, Some(reward), tensors, &expected)
    }

    /// A policy as it is, without a reward model: `policy` holds [`tensor_names`] without prefix, vectors as one-row
    /// F32 matrices. Nothing is quantized anew. The same input gives the same id.
    ///
    /// # Errors
    /// As [`Checkpoint::build`].
    pub fn from_policy(parts: PolicyParts<'_>, policy: BTreeMap<String, Matrix>) -> Result<Self, CheckpointError> {
        parts.model.validate()?;
        check_tokenizer(parts.tokenizer, parts.model)?;
        let expected = policy_tensors(parts.model);
        let mut tensors = BTreeMap::new();
        for (name, matrix) in policy {
            tensors.insert(format!("policy.{name}"), matrix);
        }
        check_matrices(&tensors, &expected)?;
        Self::made(parts, None, tensors, &expected)
    }

    /// The same policy with a reward model: `tensors` holds [`tensor_names`] and [`reward_head_names`] without prefix,
    /// vectors as one-row F32 matrices. Nothing is quantized anew; a trunk that is the policy's takes no room in the
    /// file.
    ///
    /// # Errors
    /// As [`Checkpoint::build`].
    pub fn with_reward(self, reward: RewardConfig, tensors: BTreeMap<String, Matrix>) -> Result<Self, CheckpointError> {
        let model = self.manifest.model.clone();
        check_reward(&reward, &model)?;
        let tokenizer = self.tokenizer()?;
        let expected = expected_tensors(&model, &reward);
        let mut all = self.tensors;
        all.retain(|name, _| name.starts_with("policy."));
        all.extend(tensors.into_iter().map(|(name, matrix)| (format!("reward.{name}"), matrix)));
        check_matrices(&all, &expected)?;
        let (name, lineage) = (self.manifest.name, self.manifest.lineage);
        let parts = PolicyParts { name, model: &model, lineage, tokenizer: &tokenizer };
        Self::made(parts, Some(reward), all, &expected)
    }

    fn made(
        parts: PolicyParts<'_>,
        reward: Option<RewardConfig>,
        tensors: BTreeMap<String, Matrix>,
        expected: &[(String, Vec<usize>)],
    ) -> Result<Self, CheckpointError> {
        let tokenizer_json = parts.tokenizer.to_json().to_owned();
        let prompt_format = parts.tokenizer.foreign_format().cloned();
        let mut checkpoint = Self {
            id: String::new(),
            manifest: Manifest {
                format_version: match &reward {
                    _ if !parts.model.tied_embedding => 4,
                    Some(RewardConfig { n_layers: Some(_), .. }) => 3,
                    Some(_) if prompt_format.is_none() => 1,
                    _ => 2,
                },
                name: parts.name,
                model: parts.model.clone(),
                reward,
                prompt_format,
                lineage: parts.lineage,
                tokenizer: (0, tokenizer_json.len() as u64),
                tensors: Vec::new(),
                chunks: Vec::new(),
                payload_bytes: 0,
            },
            tokenizer_json,
            tensors,
        };
        checkpoint.lay_out(expected)?;
        Ok(checkpoint)
    }

    /// The tokenizer, parsed.
    ///
    /// # Errors
    /// None for a checkpoint that was built or decoded, where it has been parsed once already.
    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        Tokenizer::from_parts(&self.tokenizer_json, self.manifest.prompt_format.as_ref())
    }

    /// Dequantized tensors of one network with their logical shapes, without prefix; `network` is `policy`
    /// or `reward`.
    pub fn dense(&self, network: &str) -> TensorMap {
        let prefix = format!("{network}.");
        let entries = self.manifest.tensors.iter().filter_map(|e| Some((e.name.strip_prefix(&prefix)?, e)));
        entries
            .filter_map(|(own_name, entry)| {
                let matrix = self.tensors.get(&entry.name)?;
                Some((own_name.to_owned(), DenseTensor::new(entry.shape.clone(), matrix.to_dense().data)))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
