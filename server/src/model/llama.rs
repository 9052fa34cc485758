//! The policy network: a Llama-family decoder, its embedding tied or not, trained with right padding.
//!
//! In the loop: SFT and RL train it, the reward model starts from it, the engine of the page runs
//! the same tensors. Source: Touvron et al. 2023 (RMSNorm, rotary positions, SwiGLU), grouped-query
//! attention of Ainslie et al. 2023. Not here: sampling (the engine), losses (the stages), a
//! key-value cache (training reads whole sequences).
//!
//! Dimension key: `B` batch, `T` tokens, `D` width, `H` heads, `G` key-value heads, `K` head
//! width, `V` vocabulary, `F` feed-forward width, `N` rows, that is selected tokens.

mod pass;

use super::ops::{self, Rotary};
use super::{ModelError, lora};
use beckon_shared::config::{ModelConfig, OUTPUT, tensor_names};
use beckon_shared::tensor::{DenseTensor, TensorMap};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

pub use pass::Pass;

/// Standard deviation of the initial weights (GPT-2's, which suits a tied embedding).
const INIT_STD: f64 = 0.02;

/// A decoder. Linear weights are held `[in, out]`, so that their gradients come out dense;
/// they leave as `[out, in]`, Hugging Face's layout.
#[derive(Module, Debug)]
pub struct Llama {
    embed: Param<Tensor<2>>,
    layers: Vec<Block>,
    norm: Param<Tensor<1>>,
    /// `[V, D]`; without it the embedding makes the logits.
    output: Option<Param<Tensor<2>>>,
    rotary: Rotary,
    n_heads: usize,
    n_kv_heads: usize,
    norm_eps: f64,
    max_seq_len: usize,
}

/// One layer: attention and feed-forward, each behind a norm and added to its input.
#[derive(Module, Debug)]
struct Block {
    attn_norm: Param<Tensor<1>>,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    mlp_norm: Param<Tensor<1>>,
    gate: Linear,
    up: Linear,
    down: Linear,
}

/// A weight, with what it learns through where it is frozen itself.
#[derive(Module, Debug)]
struct Linear {
    /// `[in, out]`.
    weight: Param<Tensor<2>>,
    adapter: Option<Adapter>,
    /// `[out, in]` as it came, where `weight` is held in half precision ([`lora::HALF`]).
    #[module(skip)]
    original: Option<Arc<DenseTensor>>,
}

/// See [`lora`].
#[derive(Module, Debug)]
struct Adapter {
    /// `[in, r]`.
    a: Param<Tensor<2>>,
    /// `[r, out]`.
    b: Param<Tensor<2>>,
    scale: f64,
}

impl Llama {
    /// A fresh network: normal weights of standard deviation 0.02, those that write to the
    /// residual stream (`o_proj`, `down_proj`) divided by `sqrt(2 L)`, norms 1. A function of
    /// `seed` alone, on any device.
    ///
    /// # Errors
    /// A configuration that cannot be.
    pub fn init(config: &ModelConfig, seed: u64, device: &Device) -> Result<Self, ModelError> {
        config.validate()?;
        Self::from_tensors(config, &init_tensors(config, seed), device)
    }

    /// The network that `tensors` describe; other names in the map are ignored. Where there are adapters
    /// ([`lora::attach`]) everything else is frozen; with [`lora::HALF`] the layers' matrices are in half precision.
    ///
    /// # Errors
    /// A configuration that cannot be, a missing tensor, a wrong shape.
    pub fn from_tensors(config: &ModelConfig, tensors: &TensorMap, device: &Device) -> Result<Self, ModelError> {
        config.validate()?;
        check_shapes(tensors, &tensor_names(config))?;
        let layer = |i: usize| {
            let name = |part: &str| format!("model.layers.{i}.{part}.weight");
            Block {
                attn_norm: as_stored(tensors, &name("input_layernorm"), device),
                q: Linear::new(tensors, &name("self_attn.q_proj"), device),
                k: Linear::new(tensors, &name("self_attn.k_proj"), device),
                v: Linear::new(tensors, &name("self_attn.v_proj"), device),
                o: Linear::new(tensors, &name("self_attn.o_proj"), device),
                mlp_norm: as_stored(tensors, &name("post_attention_layernorm"), device),
                gate: Linear::new(tensors, &name("mlp.gate_proj"), device),
                up: Linear::new(tensors, &name("mlp.up_proj"), device),
                down: Linear::new(tensors, &name("mlp.down_proj"), device),
            }
        };
        Ok(Self {
            embed: as_stored(tensors, "model.embed_tokens.weight", device),
            layers: (0..config.n_layers).map(layer).collect(),
            norm: as_stored(tensors, "model.norm.weight", device),
            output: (!config.tied_embedding).then(|| as_stored(tensors, OUTPUT, device)),
            rotary: Rotary::new(config.max_seq_len, &config.rope_frequencies(), device),
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            norm_eps: f64::from(config.norm_eps),
            max_seq_len: config.max_seq_len,
        })
    }

    /// Every tensor under its Hugging Face name, copied to the host; adapters beside their weights.
    pub fn to_tensors(&self) -> TensorMap {
        let mut tensors = TensorMap::new();
        let mut put = |name: String, tensor| tensors.insert(name, tensor);
        put("model.embed_tokens.weight".into(), dense(&self.embed));
        for (i, layer) in self.layers.iter().enumerate() {
            for (part, norm) in [("input_layernorm", &layer.attn_norm), ("post_attention_layernorm", &layer.mlp_norm)] {
                put(format!("model.layers.{i}.{part}.weight"), dense(norm));
            }
            for (part, weight) in [
                ("self_attn.q_proj", &layer.q),
                ("self_attn.k_proj", &layer.k),
                ("self_attn.v_proj", &layer.v),
                ("self_attn.o_proj", &layer.o),
                ("mlp.gate_proj", &layer.gate),
                ("mlp.up_proj", &layer.up),
                ("mlp.down_proj", &layer.down),
            ] {
                let name = format!("model.layers.{i}.{part}.");
                if let Some(Adapter { a, b, scale }) = &weight.adapter {
                    put(format!("{name}{}", lora::A), transposed(&dense(a)));
                    put(format!("{name}{}", lora::B), transposed(&dense(b)));
                    put(lora::SCALE.into(), DenseTensor::new(vec![1], vec![*scale as f32]));
                }
                if weight.original.is_some() {
                    put(lora::HALF.into(), DenseTensor::new(vec![1], vec![1.0]));
                }
                put(format!("{name}weight"), weight.values());
            }
        }
        put("model.norm.weight".into(), dense(&self.norm));
        if let Some(output) = &self.output {
            put(OUTPUT.into(), dense(output));
        }
        tensors
    }

    /// Hidden states after the final norm: tokens `[B, T]` to `[B, T, D]`. Positions count from 0
    /// in every row; padding belongs on the right, where causality keeps it from what counts.
    ///
    /// # Panics
    /// If T exceeds the configuration's `max_seq_len`.
    pub fn hidden(&self, tokens: Tensor<2, Int>) -> Tensor<3> {
        let [hidden] = self.hidden_after(tokens, &[self.layers.len()]).try_into().expect("one depth, one result");
        hidden
    }

    /// What [`Self::hidden`] would give if the network ended after each of `depths` layers (ascending), the final norm
    /// included.
    ///
    /// # Panics
    /// As [`Self::hidden`].
    pub fn hidden_after(&self, tokens: Tensor<2, Int>, depths: &[usize]) -> Vec<Tensor<3>> {
        let [b, t] = tokens.dims();
        assert!(t <= self.max_seq_len, "hidden: {t} tokens exceed max_seq_len {}", self.max_seq_len);
        let mut x = ops::rows(self.embed.val(), tokens.reshape([b * t])); // [B·T, D]
        let mut found = Vec::with_capacity(depths.len());
        for (i, layer) in self.layers.iter().enumerate() {
            x = self.layer(layer, x, b);
            if depths.contains(&(i + 1)) {
                let normed = ops::rms_norm(x.clone(), self.norm.val(), self.norm_eps);
                let d = normed.dims()[1];
                found.push(normed.reshape([b, t, d])); // [B, T, D]
            }
        }
        found
    }

    /// Scores of every token: hidden states times the output matrix, `[B, T, D]` to `[B, T, V]`.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        let [b, t, d] = hidden.dims();
        let logits = self.row_logits(hidden.reshape([b * t, d])); // [B·T, V]
        let v = logits.dims()[1];
        logits.reshape([b, t, v]) // [B, T, V]
    }

    /// Scores of every token after each of some rows: `[N, D]` to `[N, V]`.
    pub fn row_logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        hidden.matmul(self.projection().transpose()) // [N, V]
    }

    /// Log-probabilities (nats) of `targets` `[N]` given the hidden states `[N, D]` of the tokens
    /// before them. Only selected rows meet the vocabulary, which is most of a small model's cost.
    pub fn token_logps(&self, hidden: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
        ops::token_logps(hidden, self.projection(), targets)
    }

    /// What makes logits of hidden states, `[V, D]`.
    fn projection(&self) -> Tensor<2> {
        self.output.as_ref().unwrap_or(&self.embed).val()
    }

    /// Device the weights are on.
    pub fn device(&self) -> Device {
        self.embed.val().device()
    }

    /// Longest row that [`Self::hidden`] takes, in tokens.
    pub fn max_seq_len(&self) -> usize {
        self.max_seq_len
    }

    /// One layer on the residual stream `[B·T, D]`.
    fn layer(&self, layer: &Block, x: Tensor<2>, batch: usize) -> Tensor<2> {
        let x = x.clone() + self.attention(layer, ops::rms_norm(x, layer.attn_norm.val(), self.norm_eps), batch);
        x.clone() + layer.feed_forward(ops::rms_norm(x, layer.mlp_norm.val(), self.norm_eps))
    }

    /// Attention of one layer on normed rows `[B·T, D]`.
    fn attention(&self, layer: &Block, x: Tensor<2>, batch: usize) -> Tensor<2> {
        let q = layer.q.forward(x.clone()); // [B·T, H·K]
        let k = layer.k.forward(x.clone()); // [B·T, G·K]
        let v = layer.v.forward(x); // [B·T, G·K]
        let [n, width] = q.dims();
        let shape = ops::Shape {
            batch,
            tokens: n / batch,
            heads: self.n_heads,
            kv_heads: self.n_kv_heads,
            head_dim: width / self.n_heads,
        };
        layer.o.forward(ops::attention(q, k, v, &self.rotary, shape)) // [B·T, D]
    }
}

impl Block {
    /// Feed-forward of one layer on normed rows `[B·T, D]`.
    fn feed_forward(&self, x: Tensor<2>) -> Tensor<2> {
        let gate = self.gate.forward(x.clone()); // [B·T, F]
        let up = self.up.forward(x); // [B·T, F]
        self.down.forward(ops::swiglu(gate, up)) // [B·T, D]
    }
}

impl Linear {
    /// The weight `name` with the adapter beside it, if there is one.
    fn new(tensors: &TensorMap, name: &str, device: &Device) -> Self {
        let original = tensors.contains_key(lora::HALF).then(|| Arc::new(tensors[name].clone()));
        let weight = match &original {
            None => matrix(&tensors[name], device),
            Some(original) => half_matrix(original, device),
        };
        let Some(scale) = tensors.get(lora::SCALE) else { return Self { weight, adapter: None, original } };
        let part = |part: &str| tensors.get(&format!("{}{part}", name.trim_end_matches("weight")));
        let adapter = part(lora::A).zip(part(lora::B)).map(|(a, b)| Adapter {
            a: matrix(a, device),
            b: matrix(b, device),
            scale: f64::from(scale.data[0]),
        });
        Self { weight: weight.set_require_grad(false), adapter, original }
    }

    /// The weight `[out, in]` in f32, not rounded however it is held.
    fn values(&self) -> DenseTensor {
        match &self.original {
            None => transposed(&dense(&self.weight)),
            Some(original) => (**original).clone(),
        }
    }

    /// Rows `[N, in]` to `[N, out]`.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.adapter {
            None => ops::linear(x, self.weight.val()),
            Some(Adapter { a, b, scale }) => ops::linear_low_rank(x, self.weight.val(), a.val(), b.val(), *scale),
        }
    }
}

fn is_adapted(tensors: &TensorMap) -> bool {
    tensors.contains_key(lora::SCALE)
}

/// Fails on the first tensor that is missing or has another shape.
///
/// # Errors
/// [`ModelError::Missing`] or [`ModelError::Shape`].
pub fn check_shapes(tensors: &TensorMap, names: &[(String, Vec<usize>)]) -> Result<(), ModelError> {
    for (name, want) in names {
        let tensor = tensors.get(name).ok_or_else(|| ModelError::Missing { name: name.clone() })?;
        if tensor.shape != *want {
            return Err(ModelError::Shape { name: name.clone(), got: tensor.shape.clone(), want: want.clone() });
        }
    }
    Ok(())
}

/// Initial tensors, drawn in forward order from one ChaCha8 stream.
fn init_tensors(config: &ModelConfig, seed: u64) -> TensorMap {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let residual_std = INIT_STD / (2.0 * config.n_layers as f64).sqrt();
    let draw = |(name, shape): (String, Vec<usize>)| {
        let n: usize = shape.iter().product();
        let data = if shape.len() == 1 {
            vec![1.0; n]
        } else {
            let writes_residual = name.contains("o_proj") || name.contains("down_proj");
            normals(&mut rng, n, if writes_residual { residual_std } else { INIT_STD })
        };
        (name, DenseTensor::new(shape, data))
    };
    tensor_names(config).into_iter().map(draw).collect()
}

/// `n` normal values of mean 0 by Box and Muller's transform.
pub fn normals(rng: &mut impl Rng, n: usize, std: f64) -> Vec<f32> {
    let mut values = Vec::with_capacity(n + 1);
    while values.len() < n {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt() * std;
        let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
        values.extend([(radius * cos) as f32, (radius * sin) as f32]);
    }
    values.truncate(n);
    values
}

/// A tensor that is held as it leaves; frozen where there are adapters.
fn as_stored<const D: usize>(tensors: &TensorMap, name: &str, device: &Device) -> Param<Tensor<D>> {
    let tensor = &tensors[name];
    let param = Param::from_data(TensorData::new(tensor.data.clone(), tensor.shape.clone()), device);
    if is_adapted(tensors) { param.set_require_grad(false) } else { param }
}

/// `[out, in]` as `[in, out]`.
fn matrix(tensor: &DenseTensor, device: &Device) -> Param<Tensor<2>> {
    let tensor = transposed(tensor);
    Param::from_data(TensorData::new(tensor.data, tensor.shape), device)
}

/// `[out, in]` as `[in, out]` in half precision, frozen.
fn half_matrix(tensor: &DenseTensor, device: &Device) -> Param<Tensor<2>> {
    let tensor = transposed(tensor);
    let weight = ops::half(Tensor::from_data(TensorData::new(tensor.data, tensor.shape), device));
    Param::initialized(ParamId::new(), weight).set_require_grad(false)
}

/// A parameter's values on the host.
pub fn dense<const D: usize>(param: &Param<Tensor<D>>) -> DenseTensor {
    let tensor = param.val().inner();
    let shape = tensor.dims().to_vec();
    DenseTensor::new(shape, tensor.into_data().convert::<f32>().try_into_vec().expect("converted to f32"))
}

fn transposed(tensor: &DenseTensor) -> DenseTensor {
    let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
    let data = (0..columns).flat_map(|c| (0..rows).map(move |r| tensor.data[r * columns + c])).collect();
    DenseTensor::new(vec![columns, rows], data)
}

#[cfg(test)]
mod tests;
