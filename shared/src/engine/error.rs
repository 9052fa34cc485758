//! Why the engine cannot answer.

use crate::config::ConfigError;
use crate::quant::QuantError;
use crate::sampling::SamplingError;
use crate::tokenizer::TokenizerError;
use beckon_shaders::{GpuError, KernelPath};

/// Why the engine cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The GPU failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// The network's shape.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer in the checkpoint.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Sampling settings, or logits that are none.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// Instructions that are not there.
    #[error("kernel path {path}: this processor or this build lacks it; take another or `KernelPath::fastest()`")]
    KernelPath {
        /// Which path.
        path: KernelPath,
    },
    /// A tensor that cannot be stored.
    #[error("tensor {name}: {source}")]
    Tensor {
        /// Its name.
        name: String,
        /// Why.
        source: QuantError,
    },
    /// A tensor that is not there.
    #[error("tensor {name} is missing")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor of another shape.
    #[error("tensor {name} is {got:?}, expected {want:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Rows and columns.
        got: (usize, usize),
        /// Rows and columns that the configuration asks for.
        want: (usize, usize),
    },
    /// A row of a forward pass that has no place.
    #[error("row {row_idx} of a forward pass: {reason}")]
    Row {
        /// Index of the row.
        row_idx: usize,
        /// Why.
        reason: &'static str,
    },
    /// More tokens than the cache holds.
    #[error("{n_tokens} new tokens, at most {max} fit")]
    TooManyTokens {
        /// Tokens asked for.
        n_tokens: usize,
        /// [`super::Limits::suffix_tokens`].
        max: usize,
    },
    /// An adapter that does not fit the network.
    #[error("adapter at {name}: {reason}")]
    Adapter {
        /// The matrix that it stands beside.
        name: String,
        /// Why it does not fit.
        reason: &'static str,
    },
    /// The engine was made from a policy alone.
    #[error("this engine has no reward model")]
    NoReward,
    /// An engine whose weights are on a GPU alone.
    #[error("this engine runs on a GPU: make the other one from the engine on the CPU, or from the checkpoint")]
    NoWeights,
    /// NaN or infinity.
    #[error("{what} is not finite")]
    NotFinite {
        /// What is not.
        what: &'static str,
    },
    /// A synchronous call where the device must be awaited.
    #[error("this executor must be awaited")]
    MustBeAwaited,
}
