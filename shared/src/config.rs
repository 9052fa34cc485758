//! Shape of the network, shared by trainer, checkpoint and engine.
//!
//! Dimension key: `V` vocabulary, `D` width, `H` heads, `G` key-value heads, `K` head width, `F`
//! feed-forward width, `L` layers. RoPE uses the half-split convention of Hugging Face's Llama
//! (element `i` rotates with `i + K/2`).

mod rope;

pub use rope::RopeScaling;

use serde::{Deserialize, Serialize};

/// Name of the output matrix `[V, D]`, which a policy has where its embedding is not tied to it.
pub const OUTPUT: &str = "lm_head.weight";

/// Shape and constants of a Llama-family decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// V.
    pub vocab_size: usize,
    /// D, a multiple of 32.
    pub d_model: usize,
    /// L.
    pub n_layers: usize,
    /// H.
    pub n_heads: usize,
    /// G, divides H.
    pub n_kv_heads: usize,
    /// K, even; H·K is a multiple of 32.
    pub head_dim: usize,
    /// F, a multiple of 32.
    pub d_ff: usize,
    /// Base of the rotary angles.
    pub rope_base: f32,
    /// How they are stretched; not where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// Longest prompt plus suggestion, in tokens.
    pub max_seq_len: usize,
    /// Whether the embedding is the output matrix too, as where this is left out; else the policy has [`OUTPUT`] beside it.
    #[serde(default = "tied", skip_serializing_if = "is_tied")]
    pub tied_embedding: bool,
}

fn tied() -> bool {
    true
}

fn is_tied(tied_embedding: &bool) -> bool {
    *tied_embedding
}

/// Built-in model sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// About 0.1 M parameters, trains in seconds; for tests and the simulator.
    Tiny,
    /// About 4.2 M parameters; the model that ships with the product.
    Nano,
}

/// A configuration that no network can have.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("model configuration: {field} is {value}, expected {expected}")]
pub struct ConfigError {
    /// Which field.
    pub field: &'static str,
    /// What it holds.
    pub value: usize,
    /// What it should hold.
    pub expected: &'static str,
}

impl Preset {
    /// The preset's network; its `vocab_size` is an upper bound until a tokenizer has been trained.
    pub fn model(self) -> ModelConfig {
        match self {
            Self::Tiny => ModelConfig {
                vocab_size: 512,
                d_model: 64,
                n_layers: 2,
                n_heads: 4,
                n_kv_heads: 2,
                head_dim: 16,
                d_ff: 192,
                rope_base: 10_000.0,
                rope_scaling: None,
                norm_eps: 1e-5,
                max_seq_len: 128,
                tied_embedding: true,
            },
            Self::Nano => ModelConfig {
                vocab_size: 4096,
                d_model: 256,
                n_layers: 4,
                n_heads: 8,
                n_kv_heads: 4,
                head_dim: 32,
                d_ff: 768,
                rope_base: 10_000.0,
                rope_scaling: None,
                norm_eps: 1e-5,
                max_seq_len: 256,
                tied_embedding: true,
            },
        }
    }
}

impl ModelConfig {
    /// Shape of SmolLM2-135M with a context of 512 tokens, which benches and tests measure with.
    pub fn smollm2() -> Self {
        Self {
            vocab_size: 49_152,
            d_model: 576,
            n_layers: 30,
            n_heads: 9,
            n_kv_heads: 3,
            head_dim: 64,
            d_ff: 1_536,
            rope_base: 100_000.0,
            rope_scaling: None,
            norm_eps: 1e-5,
            max_seq_len: 512,
            tied_embedding: true,
        }
    }

    /// Checks every constraint that the kernels and the block formats rely on.
    ///
    /// # Errors
    /// Names the first field that cannot be.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let check = |ok: bool, field, value, expected| {
            if ok { Ok(()) } else { Err(ConfigError { field, value, expected }) }
        };
        check((1..=1 << 20).contains(&self.vocab_size), "vocab_size", self.vocab_size, "1 to 1,048,576")?;
        check(
            self.d_model > 0 && self.d_model.is_multiple_of(32) && self.d_model <= 1 << 14,
            "d_model",
            self.d_model,
            "a multiple of 32 up to 16,384",
        )?;
        check((1..=256).contains(&self.n_layers), "n_layers", self.n_layers, "1 to 256")?;
        check(self.n_heads > 0 && self.n_heads <= 256, "n_heads", self.n_heads, "1 to 256")?;
        check(
            self.n_kv_heads > 0 && self.n_heads.is_multiple_of(self.n_kv_heads),
            "n_kv_heads",
            self.n_kv_heads,
            "a divisor of n_heads",
        )?;
        check(
            self.head_dim > 0
                && self.head_dim <= 256
                && self.head_dim.is_multiple_of(2)
                && (self.n_heads * self.head_dim).is_multiple_of(32),
            "head_dim",
            self.head_dim,
            "even, at most 256, n_heads times it a multiple of 32",
        )?;
        check(
            self.d_ff > 0 && self.d_ff.is_multiple_of(32) && self.d_ff <= 1 << 16,
            "d_ff",
            self.d_ff,
            "a multiple of 32 up to 65,536",
        )?;
        check((8..=1 << 17).contains(&self.max_seq_len), "max_seq_len", self.max_seq_len, "8 to 131,072")?;
        self.rope_scaling.as_ref().map_or(Ok(()), |scaling| scaling.validate(self.head_dim))
    }

    /// Tokens of a suggestion that networks read at most: half of the sequence, and no more than 256.
    pub fn max_suggestion_tokens(&self) -> usize {
        (self.max_seq_len / 2).min(256)
    }

    /// Shape of a reward model's trunk of so many of its layers; it writes no words, so it has no output matrix.
    pub fn trunk(&self, n_layers: usize) -> Self {
        Self { n_layers, tied_embedding: true, ..self.clone() }
    }

    /// Number of parameters; a tied embedding is counted once.
    pub fn n_params(&self) -> usize {
        tensor_names(self).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}

/// Every tensor of the network with its shape, in forward order; linear weights are `[out, in]`.
pub fn tensor_names(c: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let (d, q, kv) = (c.d_model, c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim);
    let mut names = vec![("model.embed_tokens.weight".to_owned(), vec![c.vocab_size, d])];
    for i in 0..c.n_layers {
        for (name, shape) in [
            ("input_layernorm.weight", vec![d]),
            ("self_attn.q_proj.weight", vec![q, d]),
            ("self_attn.k_proj.weight", vec![kv, d]),
            ("self_attn.v_proj.weight", vec![kv, d]),
            ("self_attn.o_proj.weight", vec![d, q]),
            ("post_attention_layernorm.weight", vec![d]),
            ("mlp.gate_proj.weight", vec![c.d_ff, d]),
            ("mlp.up_proj.weight", vec![c.d_ff, d]),
            ("mlp.down_proj.weight", vec![d, c.d_ff]),
        ] {
            names.push((format!("model.layers.{i}.{name}"), shape));
        }
    }
    names.push(("model.norm.weight".to_owned(), vec![d]));
    if !c.tied_embedding {
        names.push((OUTPUT.to_owned(), vec![c.vocab_size, d]));
    }
    names
}

/// Tensors of the reward model beside its trunk, with shapes; `feature_dims` is D_f of method B.3.
pub fn reward_head_names(c: &ModelConfig, feature_dims: usize) -> Vec<(String, Vec<usize>)> {
    let d = c.d_model;
    vec![
        ("mean_head.weight".to_owned(), vec![d]),
        ("mean_head.bias".to_owned(), vec![1]),
        ("variance_head.weight".to_owned(), vec![d]),
        ("variance_head.bias".to_owned(), vec![1]),
        // whitening maps a pooled feature to D_f coordinates of unit variance in distribution
        ("feature_mean".to_owned(), vec![d]),
        ("whitening".to_owned(), vec![feature_dims, d]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tied_embedding_goes_without_saying_and_an_output_matrix_counts() {
        let tied = Preset::Tiny.model();
        let json = serde_json::to_string(&tied).expect("JSON");
        assert!(!json.contains("tied_embedding"), "ids of checkpoints stay what they are: {json}");
        assert_eq!(serde_json::from_str::<ModelConfig>(&json).expect("back"), tied);
        let untied = ModelConfig { tied_embedding: false, ..tied.clone() };
        let json = serde_json::to_string(&untied).expect("JSON");
        assert_eq!(serde_json::from_str::<ModelConfig>(&json).expect("back"), untied);

        let names = tensor_names(&untied);
        assert_eq!(names.last(), Some(&(OUTPUT.to_owned(), vec![512, 64])));
        assert_eq!(names[..names.len() - 1], tensor_names(&tied));
        assert_eq!(untied.n_params(), tied.n_params() + 512 * 64);
        assert_eq!(untied.trunk(1), tied.trunk(1), "a trunk has no output matrix");
    }
}
