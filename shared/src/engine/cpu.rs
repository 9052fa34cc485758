//! The forward pass on the CPU, by the kernels' twins; one thread, nothing platform-specific.
//!
//! Dimension key: `R` rows of a pass, `S` cache slots, `D`, `H`, `G`, `K`, `F`, `V` as in [`crate::config`].

use super::plan::{PassRows, Placement, Plan};
use super::weights::{Part, Weights, view};
use super::{EngineError, Limits, Network, Output, Row};
use crate::config::ModelConfig;
use crate::quant::Matrix;
use beckon_shaders::WeightView;
use beckon_shaders::kernels::attention::{AttentionParams, attention};
use beckon_shaders::kernels::embed::{EmbedParams, embed};
use beckon_shaders::kernels::matmul::{MatmulParams, matmul};
use beckon_shaders::kernels::rms_norm::{RmsNormParams, rms_norm};
use beckon_shaders::kernels::rope_append::{RopeAppendParams, rope_append};
use beckon_shaders::kernels::silu_mul::{SiluMulParams, silu_mul};
use std::sync::Arc;

/// The networks on the CPU. A clone shares the weights and has its own cache.
#[derive(Debug, Clone)]
pub struct CpuExecutor {
    config: ModelConfig,
    limits: Limits,
    policy: CpuNetwork,
    reward: Option<CpuNetwork>,
    scratch: Scratch,
}

#[derive(Debug, Clone)]
struct CpuNetwork {
    weights: Arc<Weights>,
    plan: Plan,
    /// Per layer: keys and values, each `[S, G K]`.
    cache: Vec<[Vec<f32>; 2]>,
}

/// Activations of a pass, allocated once for the most rows.
#[derive(Debug, Clone)]
struct Scratch {
    x: Vec<f32>,        // [R, D]
    normed: Vec<f32>,   // [R, D]
    qkv: Vec<f32>,      // [R, (H + 2 G) K]
    attended: Vec<f32>, // [R, H K]
    gate_up: Vec<f32>,  // [R, 2 F]
    gated: Vec<f32>,    // [R, F]
    selected: Vec<f32>, // [R, D]
}

impl CpuExecutor {
    pub(super) fn new(
        config: &ModelConfig,
        limits: Limits,
        policy: Arc<Weights>,
        reward: Option<Arc<Weights>>,
    ) -> Self {
        let (c, r) = (config, limits.rows_per_pass);
        let kv_width = c.n_kv_heads * c.head_dim;
        let network = |weights| CpuNetwork {
            weights,
            plan: Plan::new(limits, c.vocab_size, c.head_dim, c.rope_base),
            cache: vec![[(); 2].map(|()| vec![0.0; Plan::n_slots(&limits) * kv_width]); c.n_layers],
        };
        Self {
            config: config.clone(),
            limits,
            policy: network(policy),
            reward: reward.map(network),
            scratch: Scratch {
                x: vec![0.0; r * c.d_model],
                normed: vec![0.0; r * c.d_model],
                qkv: vec![0.0; r * (c.n_heads * c.head_dim + 2 * kv_width)],
                attended: vec![0.0; r * c.n_heads * c.head_dim],
                gate_up: vec![0.0; r * 2 * c.d_ff],
                gated: vec![0.0; r * c.d_ff],
                selected: vec![0.0; r * c.d_model],
            },
        }
    }

    /// As [`super::Executor::forward`].
    pub(super) fn forward(
        &mut self,
        network: Network,
        rows: &[Row],
        output: Output<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        let network = match network {
            Network::Policy => &mut self.policy,
            Network::Reward => self.reward.as_mut().ok_or(EngineError::NoReward)?,
        };
        let placement: Placement = network.plan.place(rows)?;
        let mut result = Vec::new();
        for pass in output.passes(rows.len(), self.limits.rows_per_pass)? {
            trunk(&self.config, network, &mut self.scratch, placement.rows(pass.rows));
            head(&self.config, &network.weights, &mut self.scratch, &pass.selected, output, &mut result);
        }
        Ok(result)
    }
}

/// Rows through all layers; leaves the residual stream in `scratch.x`.
fn trunk(c: &ModelConfig, network: &mut CpuNetwork, s: &mut Scratch, rows: PassRows<'_>) {
    let weights = &*network.weights;
    let n_rows = rows.ids.len() as u32;
    let (d, f) = (c.d_model as u32, c.d_ff as u32);
    let (n_heads, n_kv_heads, half_dim) = (c.n_heads as u32, c.n_kv_heads as u32, c.head_dim as u32 / 2);
    let norm = RmsNormParams { n_rows, cols: d, eps: c.norm_eps };
    let rope = RopeAppendParams { n_rows, n_heads, n_kv_heads, half_dim };
    let scale = 1.0 / (c.head_dim as f32).sqrt();
    let attend = AttentionParams { n_rows, n_heads, n_kv_heads, half_dim, scale };
    let qkv_width = (n_heads + 2 * n_kv_heads) * 2 * half_dim;

    let gather = EmbedParams { n_rows, cols: d, n_table_rows: c.vocab_size as u32 };
    embed(&gather, &view(&weights.embedding), rows.ids, &mut s.x); // [R, D]
    for (layer, [keys, values]) in weights.layers.iter().zip(&mut network.cache) {
        rms_norm(&norm, &s.x, &layer.attention_norm, &mut s.normed);
        linear(n_rows, &layer.qkv, &s.normed, qkv_width, &mut s.qkv); // [R, (H + 2 G) K]
        rope_append(&rope, rows.rotary, rows.slots, &mut s.qkv, keys, values);
        attention(&attend, rows.spans, &s.qkv, keys, values, &mut s.attended); // [R, H K]
        add_linear(n_rows, &layer.output, &s.attended, &mut s.x); // [R, D]
        rms_norm(&norm, &s.x, &layer.mlp_norm, &mut s.normed);
        linear(n_rows, &layer.gate_up, &s.normed, 2 * f, &mut s.gate_up); // [R, 2 F]
        silu_mul(&SiluMulParams { n_rows, cols: f }, &s.gate_up, &mut s.gated); // [R, F]
        add_linear(n_rows, &layer.down, &s.gated, &mut s.x); // [R, D]
    }
}

/// Final norm of the selected rows, and their logits where wanted, onto the end of `result`.
fn head(
    c: &ModelConfig,
    weights: &Weights,
    s: &mut Scratch,
    selected: &[u32],
    output: Output<'_>,
    result: &mut Vec<f32>,
) {
    let (n_rows, d) = (selected.len() as u32, c.d_model);
    if selected.is_empty() {
        return;
    }
    let residual = WeightView::from_f32(s.x.len() / d, d, &s.x);
    let gather = EmbedParams { n_rows, cols: d as u32, n_table_rows: residual.rows as u32 };
    embed(&gather, &residual, selected, &mut s.selected); // [N, D]
    rms_norm(&RmsNormParams { n_rows, cols: d as u32, eps: c.norm_eps }, &s.selected, &weights.norm, &mut s.normed);
    match output {
        Output::Hidden => result.extend_from_slice(&s.normed[..selected.len() * d]),
        Output::Logits(_) => {
            let start = result.len();
            result.resize(start + selected.len() * c.vocab_size, 0.0);
            product(n_rows, &weights.embedding, &s.normed, (c.vocab_size as u32, 0, 0), &mut result[start..]); // [N, V]
        }
    }
}

/// `out = x · W` for the parts of one layer.
fn linear(n_rows: u32, parts: &[Part], x: &[f32], out_stride: u32, out: &mut [f32]) {
    for part in parts {
        product(n_rows, &part.matrix, x, (out_stride, part.first_output as u32, 0), out);
    }
}

/// `out += x · W`.
fn add_linear(n_rows: u32, matrix: &Matrix, x: &[f32], out: &mut [f32]) {
    product(n_rows, matrix, x, (matrix.rows as u32, 0, 1), out);
}

fn product(n_rows: u32, matrix: &Matrix, x: &[f32], (stride, offset, accumulate): (u32, u32, u32), out: &mut [f32]) {
    let params = MatmulParams {
        n_rows,
        cols: matrix.cols as u32,
        n_outputs: matrix.rows as u32,
        out_stride: stride,
        out_offset: offset,
        accumulate,
    };
    matmul(&params, &view(matrix), x, out);
}
