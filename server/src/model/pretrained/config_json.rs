//! `config.json` of a Hugging Face Llama.

use super::PretrainedError;
use beckon_shared::config::{ModelConfig, RopeScaling};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// What the forward pass depends on. Fields that are not named here do not change it.
#[derive(Debug, Deserialize)]
struct ConfigJson {
    #[serde(default)]
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f32>,
    rope_scaling: Option<Value>,
    rope_parameters: Option<Value>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    tie_word_embeddings: Option<bool>,
}

/// The network that a `config.json` describes, and whether it says that the embedding is tied.
///
/// # Errors
/// No such JSON, another architecture, or a feature that ours does not have.
pub fn parse(text: &[u8], path: &Path, max_seq_len: usize) -> Result<(ModelConfig, Option<bool>), PretrainedError> {
    let refuse = |what: String| Err(PretrainedError::Feature { what, path: path.to_owned() });
    let json: Value = serde_json::from_slice(text).map_err(|e| malformed(path, &e))?;
    // another architecture's fields may differ: its name first
    if json["model_type"] != "llama" {
        let got = json["model_type"].as_str().unwrap_or("(none)").to_owned();
        return Err(PretrainedError::Architecture { got, path: path.to_owned() });
    }
    let c: ConfigJson = serde_json::from_value(json).map_err(|e| malformed(path, &e))?;
    debug_assert_eq!(c.model_type, "llama");
    if c.attention_bias || c.mlp_bias {
        return refuse("biases (attention_bias or mlp_bias)".to_owned());
    }
    if let Some(act) = c.hidden_act.filter(|act| act != "silu") {
        return refuse(format!("the activation {act:?}"));
    }
    let parameters = c.rope_parameters.unwrap_or_default();
    let mut rope_scaling = None;
    for (field, value) in [("rope_scaling", &c.rope_scaling.unwrap_or_default()), ("rope_parameters", &parameters)] {
        rope_scaling = scaling(field, value, path)?.or(rope_scaling);
    }
    let theta = parameters["rope_theta"].as_f64().map(|theta| theta as f32).or(c.rope_theta);
    let config = ModelConfig {
        vocab_size: c.vocab_size,
        d_model: c.hidden_size,
        n_layers: c.num_hidden_layers,
        n_heads: c.num_attention_heads,
        n_kv_heads: c.num_key_value_heads.unwrap_or(c.num_attention_heads),
        head_dim: c.head_dim.unwrap_or_else(|| c.hidden_size.checked_div(c.num_attention_heads).unwrap_or(0)),
        d_ff: c.intermediate_size,
        rope_base: theta.unwrap_or(10_000.0),
        rope_scaling,
        norm_eps: c.rms_norm_eps,
        max_seq_len: c.max_position_embeddings.min(max_seq_len),
        tied_embedding: c.tie_word_embeddings.unwrap_or(true),
    };
    config.validate().map_err(|source| PretrainedError::Config { source, path: path.to_owned() })?;
    Ok((config, c.tie_word_embeddings))
}

/// What `field` says of stretched rotary positions: "linear" and "llama3" are read, in the old spelling of the kind too.
fn scaling(field: &'static str, value: &Value, path: &Path) -> Result<Option<RopeScaling>, PretrainedError> {
    let kind = value["rope_type"].as_str().or_else(|| value["type"].as_str());
    match kind {
        None | Some("default") => Ok(None),
        Some(kind @ ("linear" | "llama3")) => {
            let mut named = value.clone();
            named["rope_type"] = kind.into();
            let read = serde_json::from_value(named);
            read.map(Some).map_err(|e| PretrainedError::Json { reason: format!("{field}: {e}"), path: path.to_owned() })
        }
        Some(kind) => {
            let what = format!("stretched rotary positions ({field} {kind:?}; \"linear\" and \"llama3\" are read)");
            Err(PretrainedError::Feature { what, path: path.to_owned() })
        }
    }
}

fn malformed(path: &Path, error: &serde_json::Error) -> PretrainedError {
    PretrainedError::Json { reason: format!("not the configuration of a Llama: {error}"), path: path.to_owned() }
}

/// The `config.json` of our network; `end` is the token that ends a suggestion.
///
/// # Errors
/// [`PretrainedError::ToFolder`] for frequencies that transformers has no words for.
pub fn write(c: &ModelConfig, end: u32) -> Result<Value, PretrainedError> {
    let rope_scaling = match &c.rope_scaling {
        Some(RopeScaling::Factors { .. }) => {
            let reason =
                "each of its rotary frequencies has a factor of its own, as GGUF files say it; write a .gguf file";
            return Err(PretrainedError::ToFolder { reason });
        }
        // numbers and names alone have a JSON form
        other => serde_json::to_value(other).unwrap_or_default(),
    };
    Ok(json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.head_dim,
        "max_position_embeddings": c.max_seq_len,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_base,
        "rope_scaling": rope_scaling,
        "hidden_act": "silu",
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": c.tied_embedding,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": "float32"
    }))
}
