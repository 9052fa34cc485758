//! A Llama in a GGUF file: configuration, tensor names and layout, and whole policies both ways.
//!
//! Files of architecture `llama` hold the rows of each head of q and k in another order than Hugging Face
//! and we do: there row `2 i + half` of a head, here row `half · K/2 + i`, because ggml rotates neighbours
//! (elements 2 i and 2 i + 1) where we rotate halves (i and i + K/2). [`source_row`] and [`file_row`] undo
//! and redo that; blocks run along rows, so nothing is quantized anew.
//!
//! Dimension key as in [`crate::config`].

use super::block::{bytes_from_matrix, matrix_from_bytes};
use super::{Gguf, GgufError, NewTensor, Ranges, TensorInfo, TensorKind, Value, encode, ranges, vocabulary};
use crate::checkpoint::{Checkpoint, Lineage, MAX_PAYLOAD_BYTES, PolicyParts};
use crate::config::{self, ModelConfig, RopeScaling, tensor_names};
use crate::prompt::{PromptFormat, TemplateError};
use crate::quant::{BlockFormat, Matrix};
use crate::tokenizer::Tokenizer;
use std::collections::BTreeMap;

/// The architecture that is read and written.
const ARCHITECTURE: &str = "llama";
const EMBEDDING: &str = "token_embd.weight";
/// The output matrix, where the embedding is not tied to it.
const OUTPUT: &str = "output.weight";
/// What each rotary frequency is divided by, `[K / 2]`, where they are stretched otherwise than evenly.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Parts of a layer: Hugging Face's name and ggml's.
const LAYER_PARTS: [(&str, &str); 9] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

/// Name in a GGUF file of a tensor of [`tensor_names`]; `None` for another.
pub fn name_in_file(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some(EMBEDDING.to_owned()),
        "model.norm.weight" => return Some("output_norm.weight".to_owned()),
        config::OUTPUT => return Some(OUTPUT.to_owned()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.strip_suffix(".weight")?.split_once('.')?;
    let (_, in_file) = LAYER_PARTS.into_iter().find(|(ours, _)| *ours == part)?;
    Some(format!("blk.{layer}.{in_file}.weight"))
}

/// K where the tensor's rows are reordered in a file: q and k.
fn reordered(c: &ModelConfig, name: &str) -> Option<usize> {
    (name.ends_with("q_proj.weight") || name.ends_with("k_proj.weight")).then_some(c.head_dim)
}

/// Row in a file that is our row `row`, where heads are K = `head_dim` rows.
pub fn source_row(row: usize, head_dim: usize) -> usize {
    let (head, i) = (row / head_dim, row % head_dim);
    let (half, pair) = (i / (head_dim / 2), i % (head_dim / 2));
    head * head_dim + 2 * pair + half
}

/// Our row that is row `row` of a file: the inverse of [`source_row`].
pub fn file_row(row: usize, head_dim: usize) -> usize {
    let (head, i) = (row / head_dim, row % head_dim);
    head * head_dim + (i % 2) * (head_dim / 2) + i / 2
}

impl Gguf {
    /// Shape of the network, with a context of at most `max_seq_len` tokens. Factors of rotary frequencies are a tensor, which
    /// [`read_policy`] puts in.
    ///
    /// # Errors
    /// Another architecture, a feature that our network does not have (experts, …), missing or impossible metadata, tensors
    /// that are missing, unknown or of another shape.
    pub fn model_config(&self, max_seq_len: usize) -> Result<ModelConfig, GgufError> {
        let got = self.text("general.architecture")?;
        if got != ARCHITECTURE {
            return Err(GgufError::Architecture { got: got.to_owned() });
        }
        self.check_features()?;
        let size = |name: &str| self.size(&format!("{ARCHITECTURE}.{name}"));
        let or = |name: &str, default: usize| match self.metadata.contains_key(&format!("{ARCHITECTURE}.{name}")) {
            true => size(name),
            false => Ok(default),
        };
        let (d_model, n_heads) = (size("embedding_length")?, size("attention.head_count")?);
        let head_dim = or("attention.key_length", d_model.checked_div(n_heads).unwrap_or(0))?;
        for (name, default) in [("attention.value_length", head_dim), ("rope.dimension_count", head_dim)] {
            let got = or(name, default)?;
            if got != head_dim {
                return Err(GgufError::Feature {
                    what: format!("{ARCHITECTURE}.{name} {got} beside heads of {head_dim}"),
                });
            }
        }
        let n_layers = size("block_count")?;
        let embedding = self.tensor(EMBEDDING, n_layers)?;
        let config = ModelConfig {
            vocab_size: embedding.rows_and_cols().0,
            d_model,
            n_layers,
            n_heads,
            n_kv_heads: or("attention.head_count_kv", n_heads)?,
            head_dim,
            d_ff: size("feed_forward_length")?,
            rope_base: self.float("rope.freq_base", Some(10_000.0))?,
            rope_scaling: self.linear_scaling()?,
            norm_eps: self.float("attention.layer_norm_rms_epsilon", None)?,
            max_seq_len: size("context_length")?.min(max_seq_len),
            tied_embedding: !self.tensors.contains_key(OUTPUT),
        };
        config.validate()?;
        self.check_tensors(&config)?;
        Ok(config)
    }

    /// A whole number that fits the machine.
    fn size(&self, key: &str) -> Result<usize, GgufError> {
        let number = self.number(key)?;
        usize::try_from(number)
            .map_err(|_| GgufError::Metadata { key: key.to_owned(), reason: format!("{number} is too large") })
    }

    /// A positive number below `llama.`, `default` where it is not there.
    fn float(&self, name: &str, default: Option<f32>) -> Result<f32, GgufError> {
        let key = format!("{ARCHITECTURE}.{name}");
        if let (Some(default), false) = (default, self.metadata.contains_key(&key)) {
            return Ok(default);
        }
        let value = self.value(&key)?;
        let number = value.as_f64().map(|x| x as f32).filter(|x| *x > 0.0 && x.is_finite());
        number.ok_or_else(|| GgufError::Metadata {
            key,
            reason: format!("is {}, expected a number above 0", value.describe()),
        })
    }

    /// What would change the forward pass in ways that ours does not know.
    fn check_features(&self) -> Result<(), GgufError> {
        let refuse = |what: String| Err(GgufError::Feature { what });
        let value = |name: &str| self.metadata.get(&format!("{ARCHITECTURE}.{name}"));
        if let Some(n) = value("expert_count").and_then(Value::as_u64).filter(|n| *n > 0) {
            return refuse(format!("{n} experts a layer"));
        }
        let known = ["none", "linear"];
        if let Some(kind) = value("rope.scaling.type").and_then(Value::as_str).filter(|kind| !known.contains(kind)) {
            return refuse(format!("stretched rotary positions (rope.scaling.type {kind:?})"));
        }
        Ok(())
    }

    /// Evenly stretched positions: by a factor that is not 1, in the old spelling too, unless the type says none.
    fn linear_scaling(&self) -> Result<Option<RopeScaling>, GgufError> {
        let value = |name: &str| self.metadata.get(&format!("{ARCHITECTURE}.{name}"));
        if value("rope.scaling.type").and_then(Value::as_str) == Some("none") {
            return Ok(None);
        }
        for name in ["rope.scaling.factor", "rope.scale_linear"] {
            // 0 is how some writers say that there is none
            if value(name).is_some_and(|value| value.as_f64() != Some(0.0)) {
                let factor = self.float(name, None)?;
                return Ok((factor != 1.0).then_some(RopeScaling::Linear { factor }));
            }
        }
        Ok(None)
    }

    /// The factors of [`ROPE_FACTORS`] over an even stretching, which there is in one of the two ways.
    async fn read_scaling(
        &self,
        file: &mut dyn Ranges,
        config: &ModelConfig,
    ) -> Result<Option<RopeScaling>, GgufError> {
        let Some(info) = self.tensors.get(ROPE_FACTORS) else { return Ok(config.rope_scaling.clone()) };
        let evenly = match config.rope_scaling {
            Some(RopeScaling::Linear { factor }) => factor,
            _ => 1.0,
        };
        let bytes = ranges::read(file, info.start..info.start + info.n_bytes).await?;
        let matrix = matrix_from_bytes(&info.name, info.kind, info.rows_and_cols(), &bytes, &|row| row)?;
        let factors: Vec<f32> = matrix.to_dense().data.into_iter().map(|factor| factor * evenly).collect();
        Ok(Some(RopeScaling::Factors { factors }))
    }

    fn tensor(&self, name: &str, n_layers: usize) -> Result<&TensorInfo, GgufError> {
        self.tensors.get(name).ok_or_else(|| GgufError::MissingTensor { name: name.to_owned(), n_layers })
    }

    fn check_tensors(&self, config: &ModelConfig) -> Result<(), GgufError> {
        let names = tensor_names(config);
        for (name, want) in &names {
            let info = self.trunk_tensor(config, name)?;
            if info.shape != *want {
                let (name, got, want) = (info.name.clone(), info.shape.clone(), want.clone());
                return Err(GgufError::WrongShape { name, got, want });
            }
        }
        let factors = self.tensors.get(ROPE_FACTORS);
        if let Some(info) = factors.filter(|info| info.shape != [config.head_dim / 2]) {
            let (name, got, want) = (info.name.clone(), info.shape.clone(), vec![config.head_dim / 2]);
            return Err(GgufError::WrongShape { name, got, want });
        }
        if self.tensors.len() > names.len() + usize::from(factors.is_some()) {
            let mut known: Vec<_> = names.iter().filter_map(|(name, _)| name_in_file(name)).collect();
            known.push(ROPE_FACTORS.to_owned());
            if let Some(info) = self.tensors.values().find(|info| !known.contains(&info.name)) {
                let (name, shape, n_layers) = (info.name.clone(), info.shape.clone(), config.n_layers);
                return Err(GgufError::UnknownTensor { name, shape, n_layers });
            }
        }
        Ok(())
    }

    /// Where the tensor with a name of [`tensor_names`] is in the file.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`].
    pub fn trunk_tensor(&self, config: &ModelConfig, name: &str) -> Result<&TensorInfo, GgufError> {
        self.tensor(&name_in_file(name).unwrap_or_else(|| name.to_owned()), config.n_layers)
    }

    /// The tensor with a name of [`tensor_names`] in our blocks and our order of rows, read part by part; the values are
    /// those of the file, exactly, but where it holds a matrix plain or in 6 bits and `format` is a block format.
    ///
    /// # Errors
    /// [`GgufError::MissingTensor`], [`GgufError::Block`], [`GgufError::Read`].
    async fn read_matrix(
        &self,
        file: &mut dyn Ranges,
        config: &ModelConfig,
        name: &str,
        format: BlockFormat,
    ) -> Result<Matrix, GgufError> {
        let info = self.trunk_tensor(config, name)?;
        let (rows, cols) = info.rows_and_cols();
        let format = info.format(format);
        let (n_quants, n_scales) = format.n_words(rows, cols).unwrap_or_default();
        let (quants, scales) = (Vec::with_capacity(n_quants), Vec::with_capacity(n_scales));
        let mut matrix = Matrix { rows: 0, cols, format, quants, scales };
        let row_bytes = info.n_bytes / rows as u64;
        let head_dim = reordered(config, name);
        let from = |row| head_dim.map_or(row, |head_dim| source_row(row, head_dim));
        // whole heads, within which rows are reordered, and even numbers of rows, whose scales fill words
        let unit = head_dim.unwrap_or(2);
        // 6 bits and halves grow when they are spread as values
        let spread_bytes = info.kind.exact_format().n_bytes(1, cols).unwrap_or_default();
        let n_part = ((RANGE_BYTES / row_bytes.max(spread_bytes)) as usize / unit * unit).max(unit);
        for first in (0..rows).step_by(n_part) {
            let n_rows = n_part.min(rows - first);
            let start = info.start + first as u64 * row_bytes;
            let bytes = ranges::read(file, start..start + n_rows as u64 * row_bytes).await?;
            let part = matrix_from_bytes(&info.name, info.kind, (n_rows, cols), &bytes, &from);
            let part = part.map_err(|error| match error {
                GgufError::Block { name, block_idx, reason } => {
                    let block_idx = block_idx + first * (cols / info.kind.block_values());
                    GgufError::Block { name, block_idx, reason }
                }
                other => other,
            })?;
            matrix.append(if part.format == format { part } else { packed(&info.name, &part, format)? });
        }
        Ok(matrix)
    }
}

/// Bytes of a tensor that are asked for at once, and that its values take before they are packed.
const RANGE_BYTES: u64 = 4 << 20;

/// What cuts a chat template into a prompt format, as [`PromptFormat::from_chat_template`].
pub type TemplateReader = fn(&str, &str, &str, &dyn Fn(&str) -> bool) -> Result<PromptFormat, TemplateError>;

/// How a file becomes a policy.
#[derive(Debug, Clone, Copy)]
pub struct ImportOptions {
    /// Longest prompt plus suggestion in tokens; the file's own context where that is shorter. The cache of keys and
    /// values grows with it.
    pub max_seq_len: usize,
    /// Format of matrices that the file holds plain (F32, F16, BF16) or in 6 bits (Q6_K, which becomes 8 bits where this
    /// is 4); other block formats are kept exactly.
    pub plain_format: BlockFormat,
    /// Bytes that the weights may take in our formats.
    pub max_bytes: u64,
    /// What reads the chat template.
    pub template: TemplateReader,
}

/// Context of an imported policy unless told otherwise, in tokens: conversations are short, caches are not free.
pub const DEFAULT_MAX_SEQ_LEN: usize = 512;

/// Bytes of weights that a page takes: it holds them some three times while its executors are made, and a page has 4 GB.
const MAX_BYTES_OF_PAGE: u64 = 1 << 30;

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            max_seq_len: DEFAULT_MAX_SEQ_LEN,
            plain_format: BlockFormat::F32,
            max_bytes: MAX_PAYLOAD_BYTES,
            template: PromptFormat::from_chat_template,
        }
    }
}

impl ImportOptions {
    /// What the page reads a file with: plain matrices become 8-bit blocks, which both executors are fast with, and known
    /// chat templates are told by their looks, because a template engine is a tenth of a page.
    pub const fn of_page() -> Self {
        Self {
            max_seq_len: DEFAULT_MAX_SEQ_LEN,
            plain_format: BlockFormat::Q8,
            max_bytes: MAX_BYTES_OF_PAGE,
            template: PromptFormat::from_known_template,
        }
    }
}

/// A policy out of a GGUF file.
#[derive(Debug)]
pub struct Policy {
    /// Its shape.
    pub config: ModelConfig,
    /// Its tokenizer with the prompt format of the chat template.
    pub tokenizer: Tokenizer,
    /// Tensors by the names of [`tensor_names`]; vectors are one-row F32 matrices.
    pub matrices: BTreeMap<String, Matrix>,
}

/// Reads the policy of a file, tensor by tensor and a large one part by part, in the order of the file; `on_share` hears
/// the share that was read.
///
/// # Errors
/// Whatever is wrong with the file, and what it says where bytes cannot be had.
pub async fn read_policy(
    gguf: &Gguf,
    options: ImportOptions,
    file: &mut dyn Ranges,
    on_share: &dyn Fn(f64),
) -> Result<Policy, GgufError> {
    let mut config = gguf.model_config(options.max_seq_len)?;
    let tokenizer = vocabulary::tokenizer(gguf, options.template)?;
    if tokenizer.vocab_size() > config.vocab_size {
        let (n_tokens, n_rows) = (tokenizer.vocab_size(), config.vocab_size);
        return Err(GgufError::VocabularyMismatch { n_tokens, tensor: EMBEDDING, n_rows });
    }
    let mut names: Vec<_> = tensor_names(&config).into_iter().map(|(name, _)| name).collect();
    let (mut n_file_bytes, mut n_our_bytes) = (0u64, 0u64);
    for name in &names {
        let info = gguf.trunk_tensor(&config, name)?;
        let (rows, cols) = info.rows_and_cols();
        n_file_bytes += info.n_bytes;
        n_our_bytes += info.format(options.plain_format).n_bytes(rows, cols).unwrap_or(0);
    }
    if n_our_bytes > options.max_bytes {
        let what = "the size of the weights in bytes".to_owned();
        return Err(GgufError::TooMany { what, got: n_our_bytes, max: options.max_bytes });
    }
    config.rope_scaling = gguf.read_scaling(file, &config).await?;
    config.validate()?;
    let mut matrices = BTreeMap::new();
    let mut n_read = 0;
    // a few hundred, so the next is looked for rather than sorted: a sort is 8 kB of page
    let start_of = |name: &String| gguf.trunk_tensor(&config, name).map_or(0, |info| info.start);
    while let Some(i) = (0..names.len()).min_by_key(|i| start_of(&names[*i])) {
        let name = names.swap_remove(i);
        let matrix = gguf.read_matrix(file, &config, &name, options.plain_format).await?;
        n_read += gguf.trunk_tensor(&config, &name)?.n_bytes;
        on_share(n_read as f64 / n_file_bytes as f64);
        matrices.insert(name, matrix);
    }
    Ok(Policy { config, tokenizer, matrices })
}

fn packed(name: &str, matrix: &Matrix, format: BlockFormat) -> Result<Matrix, GgufError> {
    Matrix::from_dense(&matrix.to_dense(), format)
        .map_err(|error| GgufError::Malformed { what: format!("tensor {name}"), reason: error.to_string() })
}

/// A file as a checkpoint without a reward model, for [`crate::engine::Engine`] as it is. Without `name` it is
/// called what the file calls itself; where the file names its licence, the lineage attributes it.
///
/// # Errors
/// As [`read_policy`].
pub async fn read_checkpoint(
    file: &mut dyn Ranges,
    options: ImportOptions,
    name: Option<&str>,
    mut lineage: Lineage,
    on_share: &dyn Fn(f64),
) -> Result<Checkpoint, GgufError> {
    let gguf = Gguf::read(file).await?;
    let policy = read_policy(&gguf, options, file, on_share).await?;
    let own_name = gguf.text("general.name").unwrap_or("imported");
    if let Ok(licence) = gguf.text("general.license") {
        let maker = gguf.text("general.organization").map(|maker| format!(" by {maker}")).unwrap_or_default();
        lineage.attribution.push(format!("{own_name}{maker}, licence {licence}"));
    }
    let name = name.unwrap_or(own_name).to_owned();
    let parts = PolicyParts { name, model: &policy.config, lineage, tokenizer: &policy.tokenizer };
    Ok(Checkpoint::from_policy(parts, policy.matrices)?)
}

/// [`read_checkpoint`] of a file in memory.
///
/// # Errors
/// As [`read_policy`].
pub fn checkpoint_from_gguf(
    mut file: &[u8],
    options: ImportOptions,
    name: Option<&str>,
    lineage: Lineage,
) -> Result<Checkpoint, GgufError> {
    let read = beckon_shaders::ready(read_checkpoint(&mut file, options, name, lineage, &|_| {}));
    read.unwrap_or_else(|| Err(GgufError::Read { reason: "memory is read without waiting".to_owned() }))
}

/// The checkpoint that the page makes of a file: a function of the file's content alone, so that its id is the same
/// wherever it is made.
///
/// # Errors
/// As [`read_policy`].
pub async fn checkpoint_of_page(file: &mut dyn Ranges, on_share: &dyn Fn(f64)) -> Result<Checkpoint, GgufError> {
    read_checkpoint(file, ImportOptions::of_page(), None, Lineage::default(), on_share).await
}

/// The policy of a checkpoint as a file that llama.cpp loads: blocks as they are (Q8 as Q8_0, Q4 as Q4_1), F32 as F32.
///
/// # Errors
/// A tokenizer that GGUF cannot express.
pub fn gguf_from_checkpoint(checkpoint: &Checkpoint) -> Result<Vec<u8>, GgufError> {
    let c = &checkpoint.manifest.model;
    let tokenizer = checkpoint.tokenizer()?;
    let mut metadata = vocabulary::metadata(&tokenizer, c.vocab_size)?;
    let mut put = |key: &str, value: Value| metadata.insert(key.to_owned(), value);
    put("general.architecture", ARCHITECTURE.into());
    put("general.name", checkpoint.manifest.name.as_str().into());
    put("general.quantization_version", 2u32.into());
    for (key, value) in [
        ("vocab_size", c.vocab_size),
        ("context_length", c.max_seq_len),
        ("embedding_length", c.d_model),
        ("block_count", c.n_layers),
        ("feed_forward_length", c.d_ff),
        ("attention.head_count", c.n_heads),
        ("attention.head_count_kv", c.n_kv_heads),
        ("attention.key_length", c.head_dim),
        ("attention.value_length", c.head_dim),
        ("rope.dimension_count", c.head_dim),
    ] {
        // `ModelConfig::validate` keeps all of them far below 2^32
        put(&format!("{ARCHITECTURE}.{key}"), (value as u32).into());
    }
    put("llama.rope.freq_base", c.rope_base.into());
    put("llama.attention.layer_norm_rms_epsilon", c.norm_eps.into());
    let mut tensors = Vec::new();
    match &c.rope_scaling {
        None => {}
        Some(RopeScaling::Linear { factor }) => {
            put("llama.rope.scaling.type", "linear".into());
            put("llama.rope.scaling.factor", (*factor).into());
        }
        Some(scaling) => {
            let factors = c.rope_factors(scaling);
            let bytes = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
            let name = ROPE_FACTORS.to_owned();
            tensors.push(NewTensor { name, shape: vec![factors.len()], kind: TensorKind::F32, bytes });
        }
    }
    for (name, shape) in tensor_names(c) {
        let full_name = format!("policy.{name}");
        let matrix = checkpoint.tensors.get(&full_name);
        let matrix = matrix.ok_or(crate::checkpoint::CheckpointError::MissingTensor { name: full_name })?;
        let head_dim = reordered(c, &name);
        let (kind, bytes) = bytes_from_matrix(matrix, &|row| head_dim.map_or(row, |k| file_row(row, k)));
        tensors.push(NewTensor { name: name_in_file(&name).unwrap_or(name), shape, kind, bytes });
    }
    encode(&metadata, &tensors)
}
