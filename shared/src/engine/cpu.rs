//! The forward pass on the CPU; on the threads that the caller passes, nothing platform-specific.
//!
//! [`KernelPath::F32`] runs the kernels' twins and is the truth; the other paths keep 4- and 8-bit matrices in
//! panels and multiply them with activations in 8 bits, see [`beckon_shaders::kernels::matmul_int8`]. Dimension
//! key: `R` rows of a pass, `S` cache slots, `D`, `H`, `G`, `K`, `F`, `V` as in [`crate::config`].

use super::adapter::{SideLayer, SidePath};
use super::linear::{Linear, Products, add, replace};
use super::parallel::{Parallel, n_pieces};
use super::plan::{PassRows, Placement, Plan};
use super::weights::Weights;
use super::{EngineError, Limits, Network, Output, Row};
use crate::config::ModelConfig;
use beckon_shaders::kernels::attention::{AttentionParams, attention_of};
use beckon_shaders::kernels::low_rank_down::{LowRankDownParams, low_rank_down};
use beckon_shaders::kernels::low_rank_up::{LowRankUpParams, low_rank_up};
use beckon_shaders::kernels::matmul_int8::Placing;
use beckon_shaders::kernels::rms_norm::{RmsNormParams, rms_norm};
use beckon_shaders::kernels::rope_append::{RopeAppendParams, rope_append};
use beckon_shaders::kernels::silu_mul::{SiluMulParams, silu_mul};
use beckon_shaders::{KernelPath, WeightView};
use std::sync::Arc;

/// The networks on the CPU. A clone shares the weights and has its own cache.
#[derive(Debug, Clone)]
pub struct CpuExecutor {
    config: ModelConfig,
    limits: Limits,
    policy: CpuNetwork,
    reward: Option<CpuNetwork>,
    scratch: Scratch,
    threads: Arc<dyn Parallel>,
}

#[derive(Debug, Clone)]
struct CpuNetwork {
    weights: Arc<Weights<Linear>>,
    /// An adapter's side paths by layer; none without an adapter.
    sides: Arc<Vec<SideLayer>>,
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
    ranks: Vec<f32>,    // [R, K]
    products: Products,
}

impl CpuExecutor {
    /// # Errors
    /// [`EngineError::KernelPath`] where the processor or the build lacks the path that `limits` names.
    pub(super) fn new(
        config: &ModelConfig,
        limits: Limits,
        (policy, reward): (Weights, Option<Weights>),
        threads: Arc<dyn Parallel>,
    ) -> Result<Self, EngineError> {
        if !limits.kernel_path.is_available() {
            return Err(EngineError::KernelPath { path: limits.kernel_path });
        }
        let (c, r) = (config, limits.rows_per_pass);
        let kv_width = c.n_kv_heads * c.head_dim;
        let network = |weights: Weights| {
            let weights = match limits.kernel_path {
                KernelPath::F32 => weights.plain_up_to(limits.plain_bytes),
                _ => weights,
            };
            CpuNetwork {
                weights: Arc::new(weights.map(|matrix| Linear::new(matrix, limits.kernel_path))),
                sides: Arc::default(),
                plan: Plan::new(limits, c.vocab_size, c.rope_frequencies()),
                cache: vec![[(); 2].map(|()| vec![0.0; Plan::n_slots(&limits) * kv_width]); c.n_layers],
            }
        };
        Ok(Self {
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
                ranks: Vec::new(),
                products: Products::default(),
            },
            threads,
        })
    }

    /// As [`super::Executor::set_sides`].
    pub(super) fn set_sides(&mut self, policy: Option<Vec<SideLayer>>, reward: Option<Vec<SideLayer>>) {
        self.policy.sides = Arc::new(policy.unwrap_or_default());
        if let Some(network) = &mut self.reward {
            network.sides = Arc::new(reward.unwrap_or_default());
        }
    }

    /// Weights of policy and reward trunk.
    pub(super) fn weights(&self) -> (&Weights<Linear>, Option<&Weights<Linear>>) {
        (&self.policy.weights, self.reward.as_ref().map(|network| &*network.weights))
    }

    /// As [`super::Engine::set_exact`].
    pub(super) fn set_exact(&mut self, exact: bool) {
        self.scratch.products.exact = exact;
    }

    /// Which arithmetic and instructions it computes with.
    pub fn kernel_path(&self) -> KernelPath {
        self.limits.kernel_path
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
            let mut forward = Forward { c: &self.config, s: &mut self.scratch, threads: &*self.threads };
            forward.trunk(network, placement.rows(pass.rows));
            forward.head(&network.weights, &pass.selected, output, &mut result);
        }
        Ok(result)
    }
}

/// One pass.
struct Forward<'a> {
    c: &'a ModelConfig,
    s: &'a mut Scratch,
    threads: &'a dyn Parallel,
}

impl Forward<'_> {
    /// Rows through all layers; leaves the residual stream in `x`.
    fn trunk(&mut self, network: &mut CpuNetwork, rows: PassRows<'_>) {
        let Self { c, s, threads } = self;
        let r = rows.ids.len();
        let n_rows = r as u32;
        let (n_heads, n_kv_heads, half_dim) = (c.n_heads as u32, c.n_kv_heads as u32, c.head_dim as u32 / 2);
        let norm = RmsNormParams { n_rows, cols: c.d_model as u32, eps: c.norm_eps };
        let rope = RopeAppendParams { n_rows, n_heads, n_kv_heads, half_dim };
        let scale = 1.0 / (c.head_dim as f32).sqrt();
        let attend = AttentionParams { n_rows, n_heads, n_kv_heads, half_dim, scale };
        let silu = SiluMulParams { n_rows, cols: c.d_ff as u32 };
        let qkv_width = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim;
        let room = &mut s.products;

        network.weights.embedding.embed(rows.ids, &mut s.x[..r * c.d_model]); // [R, D]
        let none = SideLayer::default();
        let sides = network.sides.iter().chain(std::iter::repeat(&none));
        for ((layer, [keys, values]), side) in network.weights.layers.iter().zip(&mut network.cache).zip(sides) {
            rms_norm(&norm, &s.x, &layer.attention_norm, &mut s.normed);
            replace(r, &layer.qkv, &s.normed, (qkv_width, &mut s.qkv), room, *threads); // [R, (H + 2 G) K]
            beside(r, &side.qkv, &s.normed, (qkv_width, &mut s.qkv), &mut s.ranks);
            rope_append(&rope, rows.rotary, rows.slots, &mut s.qkv, keys, values);
            attend_all(&attend, rows, &s.qkv, [keys, values], &mut s.attended, *threads); // [R, H K]
            add(r, &layer.output, &s.attended, &mut s.x, room, *threads); // [R, D]
            beside(r, &side.output, &s.attended, (c.d_model, &mut s.x), &mut s.ranks);
            rms_norm(&norm, &s.x, &layer.mlp_norm, &mut s.normed);
            replace(r, &layer.gate_up, &s.normed, (2 * c.d_ff, &mut s.gate_up), room, *threads); // [R, 2 F]
            beside(r, &side.gate_up, &s.normed, (2 * c.d_ff, &mut s.gate_up), &mut s.ranks);
            silu_mul(&silu, &s.gate_up, &mut s.gated); // [R, F]
            add(r, &layer.down, &s.gated, &mut s.x, room, *threads); // [R, D]
            beside(r, &side.down, &s.gated, (c.d_model, &mut s.x), &mut s.ranks);
        }
    }

    /// Final norm of the selected rows, and their logits where wanted, onto the end of `result`.
    fn head(&mut self, weights: &Weights<Linear>, selected: &[u32], output: Output<'_>, result: &mut Vec<f32>) {
        let Self { c, s, threads } = self;
        let (n_rows, d) = (selected.len(), c.d_model);
        if selected.is_empty() {
            return;
        }
        let residual = WeightView::from_f32(s.x.len() / d, d, &s.x);
        for (row, out) in selected.iter().zip(s.selected.chunks_exact_mut(d)) {
            residual.decode_row(*row as usize, out); // [N, D]
        }
        let norm = RmsNormParams { n_rows: n_rows as u32, cols: d as u32, eps: c.norm_eps };
        rms_norm(&norm, &s.selected, &weights.norm, &mut s.normed);
        match output {
            Output::Hidden => result.extend_from_slice(&s.normed[..n_rows * d]),
            Output::Logits(_) => {
                let (start, v) = (result.len(), c.vocab_size);
                result.resize(start + n_rows * v, 0.0);
                let to = Placing { n_rows, n_outputs: v, stride: v, offset: 0, accumulate: false };
                let out = &mut result[start..];
                weights.projection().multiply(&s.normed, &to, out, &mut s.products, *threads); // [N, V]
            }
        }
    }
}

/// Adds an adapter's side paths to a product of x; all rows at once, in f32.
fn beside(n_rows: usize, paths: &[SidePath], x: &[f32], (stride, out): (usize, &mut [f32]), ranks: &mut Vec<f32>) {
    for SidePath { first_output, n_outputs, cols, rank, a, b, scale } in paths {
        ranks.resize(n_rows * rank, 0.0);
        let (n_rows, rank) = (n_rows as u32, *rank as u32);
        low_rank_down(&LowRankDownParams { n_rows, cols: *cols as u32, rank }, a, x, ranks);
        let (n_outputs, out_stride, out_offset) = (*n_outputs as u32, stride as u32, *first_output as u32);
        let up = LowRankUpParams { n_rows, rank, n_outputs, out_stride, out_offset, scale: *scale };
        low_rank_up(&up, b, ranks, out);
    }
}

/// Attention of every row, cut among the threads.
fn attend_all(
    params: &AttentionParams,
    rows: PassRows<'_>,
    qkv: &[f32],
    [keys, values]: [&[f32]; 2],
    out: &mut [f32],
    threads: &dyn Parallel,
) {
    let n_groups = rows.ids.len() * params.n_kv_heads as usize;
    let of_group = params.n_heads as usize / params.n_kv_heads as usize * params.half_dim as usize * 2;
    let n_slots: u32 = rows.spans.iter().map(|span| span.shared_end + span.own_len).sum();
    // with the keys and with the values
    let n_products = 2 * n_slots as usize * (params.n_heads * params.half_dim) as usize * 2;
    let of_piece = n_groups.div_ceil(n_pieces(threads, n_products));
    threads.for_chunks(&mut out[..n_groups * of_group], of_piece * of_group, &|piece, out| {
        let first = piece * of_piece;
        attention_of(params, first..(first + of_piece).min(n_groups), rows.spans, qkv, [keys, values], out);
    });
}
