//! Adapter file: what a run with LoRA learnt, as low-rank factors over the checkpoint it started from, with the reward
//! heads and the numbers of a self-test.
//!
//! File: magic `BECKAD01` (8 bytes) | header length u32 LE | header SHA-256 (32 bytes) | header JSON
//! ([`AdapterManifest`]) | payload, cut into chunks of [`CHUNK_BYTES`](crate::checkpoint::CHUNK_BYTES) whose hashes stand in
//! the header. The hash of the header is the adapter's id and fixes the whole file. The payload is f32 in four planes: the lowest
//! bytes of all values, then the next ones, so that signs and exponents, which repeat, stand together for who compresses
//! the file. In version 1 the bytes of a value stand side by side.
//!
//! In the loop: beside a checkpoint; a page that has the base fetches this instead of the whole file. Both networks lie over
//! the base's *policy*: GaRM's trunk begins as a copy of it ([`AdapterFile::frame`]). Source: LoRA (Hu et al. 2021,
//! arXiv 2106.09685).

mod factor;
mod format;

use crate::checkpoint::{Checkpoint, CheckpointError, RewardConfig};
use crate::config::{ModelConfig, reward_head_names, tensor_names};
use crate::engine::{Adapter, Engine, EngineError, LowRank};
use crate::prompt::Prompt;
use crate::quant::{BlockFormat, Matrix};
use crate::tensor::{DenseTensor, TensorMap};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub use factor::{add_product, low_rank};
pub use format::{AdapterHeader, MAGIC, decode_header};

/// Version of the file format.
pub const FORMAT_VERSION: u32 = 2;
/// The self-test's prompt.
const PROBE_PROMPT: &str = "how to cook rice";
/// Every so many logits one is kept.
const PROBE_STRIDE: usize = 16;
/// Logits may differ by this share of the largest one. An executor with 8-bit activations stays within it, a wrong base does
/// not.
const PROBE_TOLERANCE: f32 = 0.05;

/// Known prompt and the logits after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// The prompt.
    pub prompt: Prompt,
    /// Every 16th logit after it.
    pub logits: Vec<f32>,
    /// How far another executor's may lie from them.
    pub tolerance: f32,
}

/// One stored tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// `policy.` or `reward.` and the name of the matrix or head, for factors with `.a` or `.b` behind it.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Place of its first value in the payload, in values.
    pub first: u64,
}

/// Header of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterManifest {
    /// 1 to [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Name for people.
    pub name: String,
    /// Id of the checkpoint that it lies over.
    pub base: String,
    /// Id of the checkpoint that was exported beside it.
    pub checkpoint: String,
    /// Shape of the base.
    pub model: ModelConfig,
    /// Constants of the reward heads.
    pub reward: RewardConfig,
    /// The self-test.
    pub probe: Probe,
    /// Tensors in the payload.
    pub tensors: Vec<Stored>,
    /// SHA-256 of each chunk, hex.
    pub chunks: Vec<String>,
    /// Values in the payload.
    pub n_values: u64,
}

/// An adapter in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// SHA-256 of the header, hex.
    pub id: String,
    /// Header.
    pub manifest: AdapterManifest,
    /// What is laid over the base; heads are always there.
    pub adapter: Adapter,
}

/// What an adapter is made from.
pub struct AdapterParts<'a> {
    /// Name for people.
    pub name: &'a str,
    /// Checkpoint that the run started from.
    pub base: &'a Checkpoint,
    /// Id of the checkpoint with everything merged.
    pub checkpoint: &'a str,
    /// Merged policy.
    pub policy: &'a TensorMap,
    /// Merged reward model with its heads.
    pub reward: &'a TensorMap,
    /// Constants of its heads.
    pub reward_config: &'a RewardConfig,
    /// Highest rank that the run can have given a matrix.
    pub max_rank: usize,
}

/// Why an adapter cannot be made or is refused.
#[derive(Debug, thiserror::Error)]
pub enum AdapterError {
    /// The file is not one, is damaged, or is of another version.
    #[error("adapter file: {what}; fetch or export it again")]
    Malformed {
        /// What is wrong.
        what: String,
    },
    /// It lies over another checkpoint.
    #[error(
        "adapter {name} is for base {want}, and this is checkpoint {got}; load that base, or take the whole checkpoint"
    )]
    OtherBase {
        /// Name of the adapter.
        name: String,
        /// Base in the adapter.
        want: String,
        /// Checkpoint at hand.
        got: String,
    },
    /// What was learnt is more than factors can hold.
    #[error("{name} changed by more than rank {max_rank}: only a run with lora gives an adapter")]
    NotLowRank {
        /// Tensor.
        name: String,
        /// Limit.
        max_rank: usize,
    },
    /// The engine gives other logits than recorded.
    #[error(
        "adapter {name} failed its self-test: logits differ by {diff:.3} from those recorded, allowed {tolerance:.3}"
    )]
    SelfTest {
        /// Name of the adapter.
        name: String,
        /// Largest difference; infinite where a logit is not finite.
        diff: f32,
        /// Allowed.
        tolerance: f32,
    },
    /// The base cannot take it.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The engine refuses it.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl AdapterFile {
    /// Factors of what a run changed, and the self-test's numbers, computed with the base's quantized weights.
    ///
    /// # Errors
    /// [`AdapterError::NotLowRank`] where more than factors was learnt; what the engine says of the result.
    pub async fn build(parts: AdapterParts<'_>) -> Result<Self, AdapterError> {
        let AdapterParts { name, base, checkpoint, policy, reward, reward_config, max_rank } = parts;
        let model = &base.manifest.model;
        let trunk = base.dense("policy");
        let read: BTreeSet<String> =
            tensor_names(&reward_config.trunk(model)).into_iter().map(|(name, _)| name).collect();
        let heads = reward_head_names(model, reward_config.feature_dims).into_iter();
        let heads = heads.filter_map(|(name, _)| Some((name.clone(), reward.get(&name)?.clone()))).collect();
        let adapter = Adapter {
            policy: factors("policy", trunk.iter(), policy, max_rank)?,
            reward: factors("reward", trunk.iter().filter(|(name, _)| read.contains(*name)), reward, max_rank)?,
            heads: Some((reward_config.clone(), heads)),
        };
        let probe = Probe { prompt: Prompt::from_query(PROBE_PROMPT), logits: Vec::new(), tolerance: 0.0 };
        let manifest = AdapterManifest {
            format_version: FORMAT_VERSION,
            name: name.to_owned(),
            base: base.id.clone(),
            checkpoint: checkpoint.to_owned(),
            model: model.clone(),
            reward: reward_config.clone(),
            probe,
            tensors: Vec::new(),
            chunks: Vec::new(),
            n_values: 0,
        };
        let mut file = Self { id: String::new(), manifest, adapter };
        let mut engine = Engine::cpu(&file.frame(base.clone())?)?;
        engine.set_adapter(Some(&file.adapter)).await?;
        let logits = file.probed(&mut engine).await?;
        let largest = logits.iter().fold(1.0_f32, |max, l| max.max(l.abs()));
        file.manifest.probe.logits = logits;
        file.manifest.probe.tolerance = PROBE_TOLERANCE * largest;
        file.lay_out()?;
        Ok(file)
    }

    /// The base as both networks begin: its policy, and a reward model whose trunk is the same, with this adapter's heads.
    /// An engine of it takes [`AdapterFile::adapter`].
    ///
    /// # Errors
    /// [`AdapterError::OtherBase`]; heads that do not fit.
    pub fn frame(&self, base: Checkpoint) -> Result<Checkpoint, AdapterError> {
        self.check_base(&base.id)?;
        let names = tensor_names(&self.manifest.reward.trunk(&base.manifest.model)).into_iter();
        let own = names.filter_map(|(name, _)| Some((base.tensors.get(&format!("policy.{name}"))?.clone(), name)));
        let mut tensors: BTreeMap<String, Matrix> = own.map(|(matrix, name)| (name, matrix)).collect();
        for (name, dense) in self.adapter.heads.iter().flat_map(|(_, heads)| heads) {
            let matrix = Matrix::from_dense(dense, BlockFormat::F32)
                .map_err(|source| CheckpointError::Quant { name: name.clone(), source })?;
            tensors.insert(name.clone(), matrix);
        }
        Ok(base.with_reward(self.manifest.reward.clone(), tensors)?)
    }

    /// Whether it lies over the checkpoint of this id.
    ///
    /// # Errors
    /// [`AdapterError::OtherBase`].
    pub fn check_base(&self, id: &str) -> Result<(), AdapterError> {
        let AdapterManifest { base: want, name, .. } = &self.manifest;
        if want == id {
            return Ok(());
        }
        Err(AdapterError::OtherBase { name: name.clone(), want: want.clone(), got: id.to_owned() })
    }

    /// Lays the adapter over an engine of [`AdapterFile::frame`] in place of `old`, and tests it; after a failure the engine is
    /// as it was with `old`.
    ///
    /// # Errors
    /// [`AdapterError::SelfTest`], or what the engine says.
    pub async fn apply(&self, engine: &mut Engine, old: Option<&Self>) -> Result<(), AdapterError> {
        engine.set_adapter(Some(&self.adapter)).await?;
        let tested = self.test(engine).await;
        if tested.is_err() {
            engine.set_adapter(old.map(|old| &old.adapter)).await?;
        }
        tested
    }

    async fn test(&self, engine: &mut Engine) -> Result<(), AdapterError> {
        let got = self.probed(engine).await?;
        let Probe { logits, tolerance, .. } = &self.manifest.probe;
        let mut diff = if got.len() == logits.len() { 0.0 } else { f32::INFINITY };
        for (a, b) in got.iter().zip(logits) {
            let one = (a - b).abs();
            diff = if one.is_finite() { one.max(diff) } else { f32::INFINITY };
        }
        if diff <= *tolerance {
            return Ok(());
        }
        Err(AdapterError::SelfTest { name: self.manifest.name.clone(), diff, tolerance: *tolerance })
    }

    async fn probed(&self, engine: &mut Engine) -> Result<Vec<f32>, AdapterError> {
        let steps = engine.greedy(&self.manifest.probe.prompt, 1).await?;
        Ok(steps.iter().flat_map(|step| step.logits.iter().copied().step_by(PROBE_STRIDE)).collect())
    }

    /// The base with the factors added in f32: one network's tensors, heads included; `network` is `policy` or `reward`.
    ///
    /// # Errors
    /// [`AdapterError::OtherBase`].
    pub fn merged(&self, base: &Checkpoint, network: &str) -> Result<TensorMap, AdapterError> {
        let mut tensors = self.frame(base.clone())?.dense(network);
        let sides = if network == "policy" { &self.adapter.policy } else { &self.adapter.reward };
        for (name, side) in sides {
            if let Some(weight) = tensors.get_mut(name) {
                add_product(weight, side);
            }
        }
        Ok(tensors)
    }
}

/// Factors of every matrix that differs; all else must be the base's.
fn factors<'a>(
    network: &str,
    base: impl Iterator<Item = (&'a String, &'a DenseTensor)>,
    tuned: &TensorMap,
    max_rank: usize,
) -> Result<BTreeMap<String, LowRank>, AdapterError> {
    let mut found = BTreeMap::new();
    for (name, was) in base {
        let refuse = || AdapterError::NotLowRank { name: format!("{network}.{name}"), max_rank };
        let is = tuned.get(name).filter(|is| is.shape == was.shape).ok_or_else(refuse)?;
        if is.data != was.data {
            found.insert(name.clone(), low_rank(was, is, max_rank).ok_or_else(refuse)?);
        }
    }
    Ok(found)
}

/// A stored tensor with its values.
fn dense(shape: &[usize], data: &[f32]) -> DenseTensor {
    DenseTensor::new(shape.to_vec(), data.to_vec())
}

#[cfg(test)]
mod tests;
