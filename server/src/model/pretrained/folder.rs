//! A model as a folder in Hugging Face's layout: `config.json`, `tokenizer.json`, `tokenizer_config.json`,
//! `model.safetensors` or shards with an index.

use super::{Options, PretrainedError, config_json, lineage, name_of, read};
use crate::model::state::{StateError, write_atomic};
use beckon_shared::checkpoint::{Checkpoint, PolicyParts};
use beckon_shared::config::{ModelConfig, OUTPUT, tensor_names};
use beckon_shared::digest::sha256_hex;
use beckon_shared::prompt::PromptFormat;
use beckon_shared::quant::{BlockFormat, Matrix, f32_from_f16};
use beckon_shared::tensor::{DenseTensor, TensorMap};
use beckon_shared::tokenizer::{Tokenizer, TokenizerError};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;

/// Files of a folder.
pub(super) const CONFIG: &str = "config.json";
pub(super) const TOKENIZER: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const TEMPLATE: &str = "chat_template.jinja";
pub(super) const TENSORS: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Reads a folder.
///
/// # Errors
/// [`PretrainedError`].
pub fn read_folder(dir: &Path, options: &Options) -> Result<Checkpoint, PretrainedError> {
    let config_path = dir.join(CONFIG);
    let config_text = read(&config_path, "the configuration")?;
    let (mut config, tied) = config_json::parse(&config_text, &config_path, options.max_seq_len)?;
    let tokenizer = read_tokenizer(dir)?;
    if tokenizer.vocab_size() > config.vocab_size {
        let (n_tokens, n_rows) = (tokenizer.vocab_size(), config.vocab_size);
        return Err(PretrainedError::VocabularyMismatch { n_tokens, n_rows, path: dir.to_owned() });
    }
    let mut tensors = read_tensors(dir)?;
    // where nothing is said, a matrix that is there is meant; a model that is said to be tied may still carry a copy
    config.tied_embedding = tied.unwrap_or(!tensors.contains_key(OUTPUT));
    if config.tied_embedding {
        tensors.remove(OUTPUT);
    }
    let policy = packed(&config, tensors, options.plain_format, dir)?;
    let imported = json!({"imported": {"format": "safetensors", "folder": name_of(dir), "config_sha256": sha256_hex(&config_text)}});
    let parts = PolicyParts {
        name: options.name.clone().unwrap_or_else(|| name_of(dir)),
        model: &config,
        lineage: lineage(options, imported),
        tokenizer: &tokenizer,
    };
    Ok(Checkpoint::from_policy(parts, policy)?)
}

/// The network's tensors, matrices in `format`.
fn packed(
    config: &ModelConfig,
    mut tensors: TensorMap,
    format: BlockFormat,
    dir: &Path,
) -> Result<BTreeMap<String, Matrix>, PretrainedError> {
    let path = dir.to_owned();
    let mut policy = BTreeMap::new();
    for (name, want) in tensor_names(config) {
        let Some(tensor) = tensors.remove(&name) else { return Err(PretrainedError::MissingTensor { name, path }) };
        if tensor.shape != want {
            return Err(PretrainedError::Shape { name, got: tensor.shape, want, path });
        }
        let format = if want.len() == 1 { BlockFormat::F32 } else { format };
        let matrix = Matrix::from_dense(&tensor, format)
            .map_err(|source| PretrainedError::Quant { name: name.clone(), source })?;
        policy.insert(name, matrix);
    }
    // old exports of transformers hold tables of rotary frequencies, which follow from the configuration
    tensors.retain(|name, _| !name.ends_with("rotary_emb.inv_freq"));
    match tensors.pop_first() {
        Some((name, tensor)) => {
            let (shape, n_layers) = (tensor.shape, config.n_layers);
            Err(PretrainedError::UnknownTensor { name, shape, n_layers, path })
        }
        None => Ok(policy),
    }
}

/// Every tensor of the folder as f32.
fn read_tensors(dir: &Path) -> Result<TensorMap, PretrainedError> {
    let mut tensors = TensorMap::new();
    for file in tensor_files(dir)? {
        let path = dir.join(file);
        let bad = |reason: String| PretrainedError::Tensors { reason, path: path.clone() };
        let bytes = read(&path, "the tensors")?;
        let file = SafeTensors::deserialize(&bytes).map_err(|e| bad(format!("not a safetensors file: {e}")))?;
        for (name, view) in file.iter() {
            let values = values(&view).ok_or_else(|| {
                bad(format!("tensor {name} is stored as {:?}; F32, F16 and BF16 are read", view.dtype()))
            })?;
            tensors.insert(name.to_owned(), DenseTensor::new(view.shape().to_vec(), values));
        }
    }
    Ok(tensors)
}

/// `model.safetensors`, or the shards that the index names.
fn tensor_files(dir: &Path) -> Result<BTreeSet<String>, PretrainedError> {
    let path = dir.join(INDEX);
    if !path.is_file() {
        return Ok(BTreeSet::from([TENSORS.to_owned()]));
    }
    shards(&read(&path, "the index of the tensors")?, &path)
}

/// The files that an index names.
///
/// # Errors
/// No such JSON, or a name that would leave the folder.
pub(super) fn shards(index: &[u8], path: &Path) -> Result<BTreeSet<String>, PretrainedError> {
    let bad = |reason: String| PretrainedError::Json { reason, path: path.to_owned() };
    let index: Value = serde_json::from_slice(index).map_err(|e| bad(e.to_string()))?;
    let map = index["weight_map"].as_object().ok_or_else(|| bad("no weight_map".to_owned()))?;
    let names = map.values().map(|file| {
        let plain = |name: &&str| !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.');
        let name = file.as_str().filter(plain);
        name.map(str::to_owned).ok_or_else(|| bad(format!("{file} is not the name of a file in this folder")))
    });
    names.collect()
}

fn values(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let halves = || view.data().chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    match view.dtype() {
        Dtype::F32 => Some(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
        Dtype::F16 => Some(halves().map(f32_from_f16).collect()),
        Dtype::BF16 => Some(halves().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect()),
        _ => None,
    }
}

/// The tokenizer with the pieces of its chat template; our own is known by its special tokens.
fn read_tokenizer(dir: &Path) -> Result<Tokenizer, PretrainedError> {
    let path = dir.join(TOKENIZER);
    let text = read(&path, "the tokenizer")?;
    let refused = |source: TokenizerError| PretrainedError::Tokenizer { source, path: path.clone() };
    let text = String::from_utf8(text)
        .map_err(|e| PretrainedError::Json { reason: format!("not UTF-8: {e}"), path: path.clone() })?;
    if let Ok(own) = Tokenizer::from_json(&text) {
        return Ok(own);
    }
    let json: Value = serde_json::from_str(&text)
        .map_err(|e| PretrainedError::Json { reason: format!("not a tokenizer: {e}"), path: path.clone() })?;
    let specials: HashSet<&str> = json["added_tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|token| token["special"] == true)
        .filter_map(|token| token["content"].as_str())
        .collect();
    let (bos, eos, template) = read_tokenizer_config(dir)?;
    let format = match template {
        None => PromptFormat::plain(&bos, &eos),
        Some(template) => PromptFormat::from_chat_template(&template, &bos, &eos, &|s| specials.contains(s))
            .map_err(|e| refused(e.into()))?,
    };
    Tokenizer::pretrained(&text, format).map_err(refused)
}

/// Spellings of the first and last token, and the chat template.
fn read_tokenizer_config(dir: &Path) -> Result<(String, String, Option<String>), PretrainedError> {
    let path = dir.join(TOKENIZER_CONFIG);
    let json: Value = if path.is_file() {
        let text = read(&path, "the tokenizer's configuration")?;
        serde_json::from_slice(&text).map_err(|e| PretrainedError::Json { reason: e.to_string(), path })?
    } else {
        Value::Null
    };
    let spelling = |key: &str| {
        let token = &json[key];
        token.as_str().or_else(|| token["content"].as_str()).unwrap_or_default().to_owned()
    };
    let template_path = dir.join(TEMPLATE);
    let template = if template_path.is_file() {
        let text = read(&template_path, "the chat template")?;
        Some(String::from_utf8_lossy(&text).into_owned())
    } else {
        let named = |list: &Vec<Value>| list.iter().find(|t| t["name"] == "default").cloned();
        let template = &json["chat_template"];
        let of_list = template.as_array().and_then(named).and_then(|t| t["template"].as_str().map(str::to_owned));
        template.as_str().map(str::to_owned).or(of_list)
    };
    Ok((spelling("bos_token"), spelling("eos_token"), template))
}

/// Writes the policy of a checkpoint as a folder, its tensors dequantized to f32.
///
/// # Errors
/// [`PretrainedError::Write`], [`PretrainedError::ToFolder`].
pub fn write_folder(checkpoint: &Checkpoint, dir: &Path) -> Result<(), PretrainedError> {
    std::fs::create_dir_all(dir).map_err(|source| StateError::Io { action: "create", source, path: dir.to_owned() })?;
    let tokenizer = checkpoint.tokenizer().map_err(|source| {
        PretrainedError::Tokenizer { source, path: dir.join(TOKENIZER) } // cannot be: it was parsed when it was read
    })?;
    let end = tokenizer.format().end.clone();
    let tokenizer_config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "model_max_length": checkpoint.manifest.model.max_seq_len,
        "chat_template": tokenizer.format().to_chat_template(),
    });
    let config = config_json::write(&checkpoint.manifest.model, tokenizer.end())?;
    for (file, json) in [(CONFIG, config), (TOKENIZER_CONFIG, tokenizer_config)] {
        write_atomic(&dir.join(file), format!("{json:#}\n").as_bytes())?;
    }
    write_atomic(&dir.join(TOKENIZER), tokenizer.to_json().as_bytes())?;
    let path = dir.join(TENSORS);
    let bad = |e: safetensors::SafeTensorError| PretrainedError::Tensors { reason: e.to_string(), path: path.clone() };
    let tensors = checkpoint.dense("policy");
    let mut views = Vec::with_capacity(tensors.len());
    for (name, tensor) in &tensors {
        let bytes = bytemuck::cast_slice(&tensor.data);
        views.push((name, TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).map_err(bad)?));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(bad)?;
    Ok(write_atomic(&path, &bytes)?)
}
