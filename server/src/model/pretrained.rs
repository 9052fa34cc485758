//! Policies from elsewhere: a Hugging Face folder or a GGUF file comes in as a checkpoint without a reward
//! model, and a checkpoint's policy leaves as either.
//!
//! In the loop: before the first arrow, in place of a freshly drawn policy; [`Checkpoint::dense`] then gives
//! what SFT starts from. The GGUF format itself is [`beckon_shared::gguf`]; the names and layouts of Hugging
//! Face's Llama are ours already. Not here: where checkpoints are kept, other architectures.

mod config_json;
mod folder;
pub mod hub;

use super::state::{StateError, write_atomic};
use beckon_shared::checkpoint::{Checkpoint, CheckpointError, Lineage};
use beckon_shared::config::ConfigError;
use beckon_shared::digest::sha256_hex;
use beckon_shared::gguf::GgufError;
use beckon_shared::gguf::llama::{DEFAULT_MAX_SEQ_LEN, ImportOptions, checkpoint_from_gguf, gguf_from_checkpoint};
use beckon_shared::quant::{BlockFormat, QuantError};
use beckon_shared::tokenizer::TokenizerError;
use std::path::{Path, PathBuf};

pub use folder::write_folder;

/// How a policy is imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name for people; that of the file's metadata, or of the file, where there is none.
    pub name: Option<String>,
    /// Longest prompt plus suggestion in tokens.
    pub max_seq_len: usize,
    /// Format of matrices that are stored plain, or in 6 bits (which never become 4); other blocks of a GGUF file stay
    /// what they are.
    pub plain_format: BlockFormat,
    /// Command that imports it again, for the lineage.
    pub command: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: None,
            max_seq_len: DEFAULT_MAX_SEQ_LEN,
            plain_format: BlockFormat::Q8,
            command: "beckon model import".to_owned(),
        }
    }
}

/// Why a policy cannot be imported or exported.
#[derive(Debug, thiserror::Error)]
pub enum PretrainedError {
    /// A file cannot be read.
    #[error("cannot read {what}: {source}: {}", path.display())]
    Read {
        /// What it is for.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
        /// Which file.
        path: PathBuf,
    },
    /// Neither a folder nor a GGUF file.
    #[error("neither a folder with config.json nor a .gguf file: {}", path.display())]
    Unknown {
        /// What was given.
        path: PathBuf,
    },
    /// A GGUF file is refused.
    #[error("{source}: {}", path.display())]
    Gguf {
        /// Why.
        source: GgufError,
        /// Which file.
        path: PathBuf,
    },
    /// A JSON file is none, or lacks something.
    #[error("{reason}: {}", path.display())]
    Json {
        /// What is wrong with it.
        reason: String,
        /// Which file.
        path: PathBuf,
    },
    /// Another network than a Llama.
    #[error("architecture {got:?} is not supported: Beckon runs \"llama\" (RMSNorm, rotary positions, SwiGLU): {}", path.display())]
    Architecture {
        /// `model_type` of the configuration.
        got: String,
        /// Which file.
        path: PathBuf,
    },
    /// A Llama with something that ours does not have.
    #[error("this model has {what}, which Beckon does not support: {}", path.display())]
    Feature {
        /// What.
        what: String,
        /// Which file.
        path: PathBuf,
    },
    /// A safetensors file is damaged, or stores a tensor in a type that is not read.
    #[error("{reason}: {}", path.display())]
    Tensors {
        /// What is wrong.
        reason: String,
        /// Which file.
        path: PathBuf,
    },
    /// A tensor of the network is nowhere in the folder.
    #[error("tensor {name} is missing: {}", path.display())]
    MissingTensor {
        /// Which.
        name: String,
        /// Which folder.
        path: PathBuf,
    },
    /// A tensor that the network does not have.
    #[error("tensor {name} of shape {shape:?} does not belong to a Llama of {n_layers} layers: {}", path.display())]
    UnknownTensor {
        /// Which.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Layers by config.json.
        n_layers: usize,
        /// Which folder.
        path: PathBuf,
    },
    /// A tensor of another shape than config.json asks for.
    #[error("tensor {name} has shape {got:?}, config.json asks for {want:?}: {}", path.display())]
    Shape {
        /// Which.
        name: String,
        /// Shape found.
        got: Vec<usize>,
        /// Shape asked for.
        want: Vec<usize>,
        /// Which folder.
        path: PathBuf,
    },
    /// The tokenizer knows more tokens than the network.
    #[error("the tokenizer has {n_tokens} tokens, but the embedding has {n_rows} rows: {}", path.display())]
    VocabularyMismatch {
        /// Tokens of the tokenizer.
        n_tokens: usize,
        /// Rows of the embedding.
        n_rows: usize,
        /// Which folder.
        path: PathBuf,
    },
    /// A tensor cannot be packed.
    #[error("tensor {name}: {source}")]
    Quant {
        /// Which.
        name: String,
        /// Why.
        source: QuantError,
    },
    /// A network that Beckon cannot run.
    #[error("{source}: {}", path.display())]
    Config {
        /// Why.
        source: ConfigError,
        /// Which file.
        path: PathBuf,
    },
    /// A tokenizer that Beckon cannot run.
    #[error("{source}: {}", path.display())]
    Tokenizer {
        /// Why.
        source: TokenizerError,
        /// Which file.
        path: PathBuf,
    },
    /// What was read makes no checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A policy cannot be written as GGUF.
    #[error("cannot be written as GGUF: {0}")]
    ToGguf(GgufError),
    /// The network cannot be described by a `config.json`.
    #[error("cannot be written as a folder: {reason}")]
    ToFolder {
        /// Why, and what to do.
        reason: &'static str,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] StateError),
}

/// Reads a Hugging Face folder (`config.json`, `tokenizer.json`, safetensors) or a GGUF file.
///
/// # Errors
/// [`PretrainedError`], which names the file and what is wrong in it.
pub fn import(path: &Path, options: &Options) -> Result<Checkpoint, PretrainedError> {
    if path.is_dir() {
        return folder::read_folder(path, options);
    }
    if !is_gguf(path) {
        return Err(PretrainedError::Unknown { path: path.to_owned() });
    }
    let file = read(path, "the model")?;
    let source = serde_json::json!({
        "imported": {"format": "gguf", "file": name_of(path), "sha256": sha256_hex(&file)}
    });
    let import = ImportOptions {
        max_seq_len: options.max_seq_len,
        plain_format: options.plain_format,
        ..ImportOptions::default()
    };
    checkpoint_from_gguf(&file, import, options.name.as_deref(), lineage(options, source))
        .map_err(|source| PretrainedError::Gguf { source, path: path.to_owned() })
}

/// Whether a name is that of a GGUF file.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// The checkpoint that the page makes of a GGUF file, with the id that its recordings name.
///
/// # Errors
/// As [`import`].
pub fn as_in_page(path: &Path) -> Result<Checkpoint, PretrainedError> {
    checkpoint_from_gguf(&read(path, "the model")?, ImportOptions::of_page(), None, Lineage::default())
        .map_err(|source| PretrainedError::Gguf { source, path: path.to_owned() })
}

/// Writes the policy of a checkpoint as a GGUF file.
///
/// # Errors
/// [`PretrainedError::ToGguf`] or [`PretrainedError::Write`].
pub fn write_gguf(checkpoint: &Checkpoint, path: &Path) -> Result<(), PretrainedError> {
    let file = gguf_from_checkpoint(checkpoint).map_err(PretrainedError::ToGguf)?;
    Ok(write_atomic(path, &file)?)
}

fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, PretrainedError> {
    std::fs::read(path).map_err(|source| PretrainedError::Read { what, source, path: path.to_owned() })
}

/// Last part of a path, for people.
fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Lineage of something that no run made.
fn lineage(options: &Options, config: serde_json::Value) -> Lineage {
    Lineage { config, command: options.command.clone(), ..Lineage::default() }
}

#[cfg(test)]
mod tests;
