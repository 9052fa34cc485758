//! Checkpoint file of the page: quantized policy and reward model with tokenizer, configuration,
//! lineage and a SHA-256 per chunk.
//!
//! File: magic `BECKON01` (8 bytes) | header length u32 LE | header SHA-256 (32 bytes) | header JSON
//! ([`Manifest`]) | payload. The payload is cut into chunks of [`CHUNK_BYTES`]; the manifest holds the
//! hash of each, so the hash of the header (the checkpoint's id) fixes the whole file.

use crate::config::ModelConfig;
use crate::quant::{BlockFormat, Matrix};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of the file format.
pub const FORMAT_VERSION: u32 = 1;
/// Payload bytes per hashed chunk.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Where a checkpoint comes from; the page draws it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Name for people.
    pub name: String,
    /// Shape of policy and reward trunk.
    pub model: ModelConfig,
    /// Reward head constants.
    pub reward: RewardConfig,
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
