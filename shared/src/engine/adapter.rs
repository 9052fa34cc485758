//! Adapters: low-rank side paths beside a network's matrices (`y = W x + scale · B (A x)`), and heads in place of the
//! checkpoint's. The weights stay as they are, so an adapter is set and taken away without loading a network again.
//!
//! Source: LoRA (Hu et al. 2021, arXiv:2106.09685). Dimension key: `K` rank, `C` inputs, `N` outputs of a matrix.

use super::EngineError;
use super::heads::Heads;
use crate::checkpoint::RewardConfig;
use crate::config::{ModelConfig, tensor_names};
use crate::tensor::{DenseTensor, TensorMap};
use std::collections::BTreeMap;

/// The factors beside one matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// `[K, C]`.
    pub a: DenseTensor,
    /// `[N, K]`.
    pub b: DenseTensor,
    /// What their product is multiplied by: alpha / K.
    pub scale: f32,
}

/// What is laid over a checkpoint; see [`super::Engine::set_adapter`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Adapter {
    /// Side paths of the policy by the matrix's name of [`tensor_names`] (`model.layers.0.self_attn.q_proj.weight`):
    /// any of a layer's seven matrices.
    pub policy: BTreeMap<String, LowRank>,
    /// The same of the reward model.
    pub reward: BTreeMap<String, LowRank>,
    /// Heads in place of the checkpoint's: tensors by [`crate::config::reward_head_names`], and their configuration.
    pub heads: Option<(RewardConfig, TensorMap)>,
}

/// Side paths of one layer; empty where there is none. Places as in [`super::weights::Layer`].
#[derive(Debug, Clone, Default)]
pub(super) struct SideLayer {
    pub qkv: Vec<SidePath>,
    pub output: Vec<SidePath>,
    pub gate_up: Vec<SidePath>,
    pub down: Vec<SidePath>,
}

/// Factors and where their outputs begin in a row of the layer's product.
#[derive(Debug, Clone)]
pub(super) struct SidePath {
    pub first_output: usize,
    pub n_outputs: usize,
    pub cols: usize,
    pub rank: usize,
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub scale: f32,
}

impl Adapter {
    /// Side paths of both networks, and heads; nothing where the adapter has nothing for a network.
    ///
    /// # Errors
    /// [`EngineError::Adapter`] naming the tensor; what [`Heads::gather`] says.
    pub(super) fn parts(
        &self,
        model: &ModelConfig,
    ) -> Result<(Option<Vec<SideLayer>>, Option<Vec<SideLayer>>, Option<Heads>), EngineError> {
        let heads = match &self.heads {
            None => None,
            Some((config, tensors)) => Some(Heads::gather(model, config, |name| {
                let tensor = tensors.get(name).ok_or_else(|| EngineError::MissingTensor { name: name.to_owned() })?;
                Ok(tensor.data.clone())
            })?),
        };
        Ok((side_layers(model, &self.policy)?, side_layers(model, &self.reward)?, heads))
    }
}

fn side_layers(
    model: &ModelConfig,
    factors: &BTreeMap<String, LowRank>,
) -> Result<Option<Vec<SideLayer>>, EngineError> {
    if factors.is_empty() {
        return Ok(None);
    }
    let shapes: BTreeMap<String, Vec<usize>> = tensor_names(model).into_iter().collect();
    let mut layers = vec![SideLayer::default(); model.n_layers];
    for (name, LowRank { a, b, scale }) in factors {
        let refuse = |reason: &'static str| EngineError::Adapter { name: name.clone(), reason };
        let unknown = "the network has no such matrix in a layer; take a name like model.layers.0.mlp.up_proj.weight";
        let (idx, role) = layer_and_role(name).ok_or_else(|| refuse(unknown))?;
        let (layer, shape) =
            layers.get_mut(idx).zip(shapes.get(name)).filter(|(_, s)| s.len() == 2).ok_or_else(|| refuse(unknown))?;
        let (n_outputs, cols) = (shape[0], shape[1]);
        let rank = a.shape.first().copied().unwrap_or(0);
        if rank == 0 || a.shape != [rank, cols] || b.shape != [n_outputs, rank] {
            return Err(refuse("its factors are not [rank, inputs] and [outputs, rank] of the matrix"));
        }
        if !(scale.is_finite() && a.data.iter().chain(&b.data).all(|value| value.is_finite())) {
            return Err(refuse("a factor or the scale is not finite"));
        }
        let (q, kv) = (model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim);
        let (paths, first_output) = match role {
            "self_attn.q_proj" => (&mut layer.qkv, 0),
            "self_attn.k_proj" => (&mut layer.qkv, q),
            "self_attn.v_proj" => (&mut layer.qkv, q + kv),
            "self_attn.o_proj" => (&mut layer.output, 0),
            "mlp.gate_proj" => (&mut layer.gate_up, 0),
            "mlp.up_proj" => (&mut layer.gate_up, model.d_ff),
            "mlp.down_proj" => (&mut layer.down, 0),
            _ => return Err(refuse(unknown)),
        };
        let (a, b, scale) = (a.data.clone(), b.data.clone(), *scale);
        paths.push(SidePath { first_output, n_outputs, cols, rank, a, b, scale });
    }
    Ok(Some(layers))
}

/// `model.layers.3.mlp.up_proj.weight` → 3 and `mlp.up_proj`.
fn layer_and_role(name: &str) -> Option<(usize, &str)> {
    let (idx, role) = name.strip_prefix("model.layers.")?.strip_suffix(".weight")?.split_once('.')?;
    Some((idx.parse().ok()?, role))
}
