//! GGUF files: reading what others publish, and writing what llama.cpp loads.
//!
//! In the loop: before the first arrow, where a pretrained policy comes from, and behind the last one,
//! where a trained policy leaves. Source: the GGUF specification of ggml (versions 2 and 3, little
//! endian) and its block layouts.
//!
//! A file is a head (metadata and a table of tensors) and tensor data. [`Gguf::parse`] takes the first
//! bytes of a file and its whole length, so that a caller who fetches by ranges ([`Ranges`]) needs no more than the
//! head; each tensor then says where its bytes are. Nothing of a head is believed before it is checked:
//! counts, lengths, alignment, offsets and sizes against the length of the file, before anything of
//! their size is allocated.
//!
//! [`block`] repacks between the file's blocks and ours without loss, [`llama`] knows what the tensors
//! of a Llama-family model are called and how they are laid out, [`vocabulary`] turns the metadata into
//! a tokenizer and back. Not here: files, sockets, and other architectures.

pub mod block;
pub mod llama;
mod ranges;
mod read;
mod value;
pub mod vocabulary;
mod write;

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::quant::BlockFormat;
use crate::tokenizer::TokenizerError;
use std::collections::BTreeMap;
use std::ops::Range;

pub use block::TensorKind;
pub use ranges::{Bytes, Ranges};
pub use value::{Array, Value};
pub use write::{NewTensor, encode};

/// First bytes of a file.
const MAGIC: &[u8; 4] = b"GGUF";
/// Alignment of tensor data where the metadata name none.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Metadata key of the alignment.
const ALIGNMENT_KEY: &str = "general.alignment";

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the file, as `blk.0.attn_q.weight`.
    pub name: String,
    /// Extent of each dimension, row-major: `[rows, cols]`, or `[cols]` for a vector.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub kind: TensorKind,
    /// First byte, from the start of the file.
    pub start: u64,
    /// Bytes.
    pub n_bytes: u64,
}

impl TensorInfo {
    /// Where its bytes are in the file.
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.n_bytes
    }

    /// Rows and columns; a vector is one row, leading dimensions count as rows.
    pub fn rows_and_cols(&self) -> (usize, usize) {
        let (cols, rows) = self.shape.split_last().map_or((1, &[][..]), |(cols, rows)| (*cols, rows));
        (rows.iter().product(), cols)
    }

    /// Our format of it: that of its blocks, for a plain matrix the one that is asked for; vectors are always F32, and
    /// 6 bits are never brought into 4.
    fn format(&self, plain: BlockFormat) -> BlockFormat {
        match self.kind.exact_format() {
            _ if self.shape.len() == 1 => BlockFormat::F32,
            BlockFormat::F32 if (self.kind, plain) == (TensorKind::Q6_K, BlockFormat::Q4) => BlockFormat::Q8,
            BlockFormat::F32 => plain,
            blocks => blocks,
        }
    }
}

/// The head of a file, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// 2 or 3.
    pub version: u32,
    /// Everything that is said about the model.
    pub metadata: BTreeMap<String, Value>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Where tensor data begin; a head is never longer.
    pub data_start: u64,
    /// Bytes of the whole file.
    pub file_bytes: u64,
}

/// Why a GGUF file cannot be read, used or written.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// Other first bytes.
    #[error("not a GGUF file: it begins with {got:02x?}, expected {MAGIC:02x?} (\"GGUF\")")]
    NotGguf {
        /// First bytes, at most 4.
        got: Vec<u8>,
    },
    /// Version 1, a later one, or big endian.
    #[error("GGUF version {got} cannot be read: {reason}")]
    Version {
        /// Version in the file.
        got: u32,
        /// Why, and what to do.
        reason: &'static str,
    },
    /// The bytes given end within the head, but the file goes on: fetch at least `want` and try again.
    #[error("the head of the GGUF file goes on: {what} ends at byte {want}, {got} bytes were given")]
    HeadGoesOn {
        /// What ends there.
        what: String,
        /// Bytes needed from the start of the file.
        want: u64,
        /// Bytes given.
        got: u64,
    },
    /// A length or an offset that lies, or a file that was cut.
    #[error(
        "{what} takes {n_bytes} bytes at byte {start}, but the file ends at byte {file_bytes}: it is damaged or cut, fetch it again"
    )]
    BeyondEnd {
        /// What would lie there.
        what: String,
        /// First byte from the start of the file.
        start: u64,
        /// Bytes it takes by what the file says.
        n_bytes: u64,
        /// Bytes of the file.
        file_bytes: u64,
    },
    /// A count or a length that no real file has.
    #[error("{what} is {got}, at most {max} is read")]
    TooMany {
        /// What is counted.
        what: String,
        /// The count in the file.
        got: u64,
        /// What is accepted.
        max: u64,
    },
    /// A part of the head that contradicts the specification.
    #[error("{what}: {reason}")]
    Malformed {
        /// Which part.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A type of tensor that Beckon does not read.
    #[error(
        "tensor {name} has type {type_id} ({type_name}), which Beckon does not read; it reads F32, F16, BF16, Q4_0, Q4_1, Q6_K and Q8_0"
    )]
    UnknownKind {
        /// Which tensor.
        name: String,
        /// Number of the type in the file.
        type_id: u32,
        /// Its name in ggml.
        type_name: &'static str,
    },
    /// Two tensors share bytes.
    #[error("tensor {name} begins at byte {start}, within tensor {other}, which ends at byte {other_end}")]
    Overlap {
        /// Which tensor.
        name: String,
        /// Where it begins.
        start: u64,
        /// The one before it.
        other: String,
        /// Where that one ends.
        other_end: u64,
    },
    /// Metadata that the model needs are not there or of another type.
    #[error("metadata {key}: {reason}")]
    Metadata {
        /// Which key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Another network than a Llama.
    #[error("architecture {got:?} is not supported: Beckon runs \"llama\" (RMSNorm, rotary positions, SwiGLU)")]
    Architecture {
        /// Architecture of the file.
        got: String,
    },
    /// A Llama with something that Beckon's does not have.
    #[error("this model has {what}, which Beckon does not support")]
    Feature {
        /// What.
        what: String,
    },
    /// A tensor of the network is not in the file.
    #[error("tensor {name} is missing (the network has {n_layers} layers)")]
    MissingTensor {
        /// Its name in the file.
        name: String,
        /// Layers by the metadata.
        n_layers: usize,
    },
    /// A tensor that the network does not have.
    #[error("tensor {name} of shape {shape:?} does not belong to a Llama of {n_layers} layers")]
    UnknownTensor {
        /// Its name in the file.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Layers by the metadata.
        n_layers: usize,
    },
    /// A tensor of another shape than the metadata ask for.
    #[error("tensor {name} has shape {got:?}, the metadata ask for {want:?}")]
    WrongShape {
        /// Its name in the file.
        name: String,
        /// Shape there.
        got: Vec<usize>,
        /// Shape of the network.
        want: Vec<usize>,
    },
    /// Bytes of another length than the tensor's.
    #[error("tensor {name} takes {want} bytes, {got} were given")]
    TensorBytes {
        /// Which tensor.
        name: String,
        /// Bytes it takes.
        want: u64,
        /// Bytes given.
        got: u64,
    },
    /// A value that our blocks cannot hold.
    #[error("tensor {name}, block {block_idx}: {reason}")]
    Block {
        /// Which tensor.
        name: String,
        /// Which block of the tensor, as large as its type makes them.
        block_idx: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The vocabularies of tokenizer and network differ.
    #[error("the tokenizer has {n_tokens} tokens, but {tensor} has {n_rows} rows")]
    VocabularyMismatch {
        /// Tokens of the tokenizer.
        n_tokens: usize,
        /// Name of the embedding.
        tensor: &'static str,
        /// Its rows.
        n_rows: usize,
    },
    /// The bytes could not be had.
    #[error("{reason}")]
    Read {
        /// Why, in words.
        reason: String,
    },
    /// A network that Beckon cannot run.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tokenizer that Beckon cannot run.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// What was read makes no checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl Gguf {
    /// A metadata value.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] where it is not there.
    pub fn value(&self, key: &str) -> Result<&Value, GgufError> {
        self.metadata
            .get(key)
            .ok_or_else(|| GgufError::Metadata { key: key.to_owned(), reason: "is missing".to_owned() })
    }

    /// A metadata value that is a whole number of at least 0.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] where it is missing or something else.
    pub fn number(&self, key: &str) -> Result<u64, GgufError> {
        let value = self.value(key)?;
        value.as_u64().ok_or_else(|| wrong(key, value, "a whole number of at least 0"))
    }

    /// A metadata value that is text.
    ///
    /// # Errors
    /// [`GgufError::Metadata`] where it is missing or something else.
    pub fn text(&self, key: &str) -> Result<&str, GgufError> {
        let value = self.value(key)?;
        value.as_str().ok_or_else(|| wrong(key, value, "text"))
    }
}

fn wrong(key: &str, value: &Value, expected: &str) -> GgufError {
    GgufError::Metadata { key: key.to_owned(), reason: format!("is {}, expected {expected}", value.describe()) }
}

#[cfg(test)]
mod tests;
