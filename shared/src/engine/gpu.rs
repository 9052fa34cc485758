//! The forward pass on wgpu: natively on Vulkan, in a page or worker on WebGPU.
//!
//! Everything is allocated when the executor is made: weights, one cache a network, activations for the
//! most rows of a pass, one buffer to read back from. A forward pass is one command buffer of six dispatches a
//! layer. Dimension key: `R` rows of a pass, `S` cache slots, `D`, `H`, `G`, `K`, `F`, `V` as in
//! [`crate::config`].

pub(super) mod draw;
mod judge;
mod network;
mod variants;

use super::adapter::SideLayer;
use super::forward::Pass;
use super::heads::Heads;
use super::linear::Linear;
use super::plan::PassRows;
use super::weights::Weights;
use super::{EngineError, Limits, Network, Output, Row};
use crate::config::ModelConfig;
use beckon_shaders::kernels::attention::AttentionParams;
use beckon_shaders::kernels::embed::EmbedParams;
use beckon_shaders::kernels::heads::{HeadsParams, OUTPUTS};
use beckon_shaders::kernels::low_rank_down::LowRankDownParams;
use beckon_shaders::kernels::low_rank_up::LowRankUpParams;
use beckon_shaders::kernels::matmul::MatmulParams;
use beckon_shaders::kernels::norm_gate_up::NormGateUpParams;
use beckon_shaders::kernels::norm_matmul::NormMatmulParams;
use beckon_shaders::kernels::norm_rows::NormRowsParams;
use beckon_shaders::kernels::rope_append::RopeAppendParams;
use beckon_shaders::kernels::silu_mul::SiluMulParams;
use beckon_shaders::{GpuContext, KernelSpec, Kernels, PARAMS_ALIGNMENT, Product, Recorder};
use draw::{DRAW_WORDS, STEPS, Sample};
use judge::GpuHeads;
use network::{Binder, BoundPath, BoundProduct, GpuNetwork, GpuSide, Uploaded};
use variants::Variants;
use wgpu::{BindGroup, Buffer, BufferUsages};

/// Dispatches of a layer and around the layers: they share one buffer of parameters.
const DISPATCHES_OF_LAYER: usize = 6 + 17; // an adapter's: two a matrix, two norms, one activation
const DISPATCHES_AROUND: usize = 4;

/// The networks on a GPU.
#[derive(Debug)]
pub struct GpuExecutor {
    gpu: GpuContext,
    kernels: Kernels,
    config: ModelConfig,
    limits: Limits,
    buffers: Buffers,
    policy: GpuNetwork,
    reward: Option<GpuNetwork>,
    heads: Option<GpuHeads>,
    variants: Variants,
    /// The draw, bound to its buffers.
    sample: BindGroup,
    /// Emptied parameters, kept for their allocation.
    params: Vec<u8>,
}

/// Buffers that the passes of both networks share.
#[derive(Debug)]
struct Buffers {
    params: Buffer,
    ids: Buffer,      // [R]
    slots: Buffer,    // [R]
    spans: Buffer,    // [R] of 4
    rotary: Buffer,   // [R, K / 2] of 2
    select: Buffer,   // [R]
    x: Buffer,        // [R, D]
    normed: Buffer,   // [R, D]
    qkv: Buffer,      // [R, (H + 2 G) K]
    attended: Buffer, // [R, H K]
    gated: Buffer,    // [R, F]
    logits: Buffer,   // [R, V]
    uniforms: Buffer, // [steps, candidates]
    draws: Buffer,    // [steps, candidates] of 4
    runs: Buffer,     // [candidates] of 4
    sums: Buffer,     // [candidates, D]
    judged: Buffer,   // [candidates] of 3
    readback: Buffer, // [R, max(D, V)], draws or judgements
}

impl GpuExecutor {
    pub(super) async fn new(
        gpu: &GpuContext,
        config: &ModelConfig,
        limits: Limits,
        policy: &Weights<Linear>,
        reward: Option<(&Weights<Linear>, &Heads)>,
        edit: &dyn Fn(&KernelSpec) -> KernelSpec,
    ) -> Result<Self, EngineError> {
        let upload = |weights| Uploaded::new(gpu, config, &limits, weights);
        let policy = gpu.guarded("policy weights", || upload(policy)).await?;
        let (reward, heads) = reward.unzip();
        let reward = match reward {
            Some(weights) => Some(gpu.guarded("reward weights", || upload(weights)).await?),
            None => None,
        };
        let (mut tables, mut products) = (Vec::new(), Vec::new());
        for (table, of_network) in [Some(&policy), reward.as_ref()].into_iter().flatten().map(Uploaded::kernels) {
            tables.push(table);
            products.extend(of_network);
        }
        let kernels = Kernels::compile(gpu, &tables, &products, edit).await?;
        let buffers = gpu.guarded("activations", || Buffers::new(gpu, config, &limits)).await?;
        let binder = Binder { gpu, kernels: &kernels, buffers: &buffers };
        let bind = |uploaded| binder.network(config, limits, uploaded);
        let policy = gpu.guarded("policy", || bind(policy)).await?;
        let reward = match reward {
            Some(uploaded) => Some(gpu.guarded("reward model", || bind(uploaded)).await?),
            None => None,
        };
        let bind = |heads| GpuHeads::new(&binder, heads);
        let heads = gpu.guarded("heads", || heads.map(bind)).await?;
        let draw = [&buffers.logits, &buffers.uniforms, &buffers.ids, &buffers.draws];
        let sample = gpu.guarded("sample", || kernels.sample.bind(gpu, &buffers.params, &draw)).await?;
        let config = config.clone();
        let (gpu, variants, params) = (gpu.clone(), Variants::default(), Vec::new());
        Ok(Self { gpu, kernels, config, limits, buffers, policy, reward, heads, variants, sample, params })
    }

    /// As [`super::Executor::set_sides`].
    pub(super) async fn set_sides(
        &mut self,
        (policy, reward): (Option<Vec<SideLayer>>, Option<Vec<SideLayer>>),
        heads: Option<&Heads>,
    ) -> Result<(), EngineError> {
        let binder = Binder { gpu: &self.gpu, kernels: &self.kernels, buffers: &self.buffers };
        let of = |network: &GpuNetwork, sides: Option<Vec<SideLayer>>| {
            sides.map(|sides| GpuSide::new(&binder, &self.config, &self.limits, &network.uploaded, &sides))
        };
        let make = || {
            let reward = self.reward.as_ref().and_then(|network| of(network, reward));
            (of(&self.policy, policy), reward, heads.map(|heads| GpuHeads::new(&binder, heads)))
        };
        let (policy, reward, heads) = self.gpu.guarded("adapter", make).await?;
        (self.policy.side, self.heads) = (policy, heads);
        if let Some(network) = &mut self.reward {
            network.side = reward;
        }
        Ok(())
    }

    /// Adapter and backend.
    pub fn adapter_name(&self) -> &str {
        self.gpu.adapter_name()
    }

    /// Bytes of all buffers that this executor holds; the same for as long as it lives.
    pub fn n_bytes(&self) -> u64 {
        self.all_buffers().map(Buffer::size).sum()
    }

    fn all_buffers<'a>(&'a self) -> impl Iterator<Item = &'a Buffer> {
        let networks = std::iter::once(&self.policy).chain(self.reward.as_ref());
        let of_network =
            |network: &'a GpuNetwork| network.uploaded.buffers().chain(network.side.iter().flat_map(GpuSide::buffers));
        let heads = self.heads.iter().map(GpuHeads::buffer);
        self.buffers.all().into_iter().chain(networks.flat_map(of_network)).chain(heads)
    }

    /// As [`super::Executor::forward`].
    pub(super) async fn forward(
        &mut self,
        network: Network,
        rows: &[Row],
        output: Output<'_>,
    ) -> Result<Vec<f32>, EngineError> {
        self.gpu.check()?;
        let of_network = match network {
            Network::Policy => &mut self.policy,
            Network::Reward => self.reward.as_mut().ok_or(EngineError::NoReward)?,
        };
        let placement = of_network.plan.place(rows)?;
        let mut result = Vec::new();
        for pass in output.passes(rows.len(), self.limits.rows_per_pass)? {
            let n_values = self.submit(network, placement.rows(pass.rows.clone()), &pass, End::Output(output))?;
            result.extend(self.gpu.read_f32(&self.buffers.readback, n_values).await?);
        }
        self.gpu.check()?;
        Ok(result)
    }

    /// Sends one pass to the device; gives the number of values to read back. A pass with a draw takes its tokens from the
    /// draw before it, if there is one, and has the draws so far read back; one with heads has those of all candidates.
    fn submit(
        &mut self,
        network: Network,
        rows: PassRows<'_>,
        pass: &Pass,
        end: End<'_>,
    ) -> Result<usize, EngineError> {
        let network = match network {
            Network::Policy => &self.policy,
            Network::Reward => self.reward.as_ref().ok_or(EngineError::NoReward)?,
        };
        let (b, queue) = (&self.buffers, &self.gpu.queue);
        if !matches!(&end, End::Draw(sample) if sample.first_draw > 0) {
            queue.write_buffer(&b.ids, 0, bytemuck::cast_slice(rows.ids));
        }
        queue.write_buffer(&b.slots, 0, bytemuck::cast_slice(rows.slots));
        queue.write_buffer(&b.spans, 0, bytemuck::cast_slice(rows.spans));
        queue.write_buffer(&b.rotary, 0, bytemuck::cast_slice(rows.rotary));
        queue.write_buffer(&b.select, 0, bytemuck::cast_slice(&pass.selected));

        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let params = {
            let recorder = Recorder::new(&mut encoder, std::mem::take(&mut self.params));
            let mut forward = Forward { recorder, kernels: &self.kernels, config: &self.config };
            forward.trunk(network, rows.ids.len() as u32);
            forward.head(network, [rows.ids.len() as u32, pass.selected.len() as u32], end.has_logits());
            if let End::Draw(sample) = &end {
                let params = sample.params(rows.ids.len(), self.config.vocab_size);
                forward.recorder.dispatch(&self.kernels.sample, &self.sample, &params, params.workgroups());
            }
            if let (End::Heads(params), Some(heads)) = (&end, &self.heads) {
                forward.recorder.dispatch(&self.kernels.heads, heads.group(), params, params.workgroups());
            }
            forward.recorder.finish()
        };
        assert!(params.len() as u64 <= b.params.size(), "dispatches of a pass fit the parameter buffer");
        queue.write_buffer(&b.params, 0, &params);
        self.params = params;

        let (from, n_values) = match &end {
            End::Draw(sample) => (&b.draws, (sample.first_draw + rows.ids.len()) * DRAW_WORDS),
            End::Heads(params) => (&b.judged, params.n_seqs as usize * OUTPUTS),
            End::Output(Output::Hidden) => (&b.normed, pass.selected.len() * self.config.d_model),
            End::Output(Output::Logits(_)) => (&b.logits, pass.selected.len() * self.config.vocab_size),
        };
        if n_values > 0 {
            encoder.copy_buffer_to_buffer(from, 0, &b.readback, 0, n_values as u64 * 4);
        }
        queue.submit([encoder.finish()]);
        Ok(n_values)
    }
}

impl Drop for GpuExecutor {
    /// In a page, memory would otherwise wait for the garbage collector.
    fn drop(&mut self) {
        self.all_buffers().for_each(Buffer::destroy);
    }
}

/// What comes after a pass's layers.
enum End<'a> {
    Output(Output<'a>),
    Draw(Sample<'a>),
    Heads(HeadsParams),
}

impl End<'_> {
    fn has_logits(&self) -> bool {
        matches!(self, End::Output(Output::Logits(_)) | End::Draw(_))
    }
}

/// One pass being recorded.
struct Forward<'a> {
    recorder: Recorder<'a>,
    kernels: &'a Kernels,
    config: &'a ModelConfig,
}

impl Forward<'_> {
    /// Rows through all layers; leaves the residual stream in `x`.
    fn trunk(&mut self, network: &GpuNetwork, n_rows: u32) {
        let (c, kernels) = (self.config, self.kernels);
        let (n_heads, n_kv_heads, half_dim) = (c.n_heads as u32, c.n_kv_heads as u32, c.head_dim as u32 / 2);
        let rope = RopeAppendParams { n_rows, n_heads, n_kv_heads, half_dim };
        let gather = EmbedParams { n_rows, cols: c.d_model as u32, n_table_rows: c.vocab_size as u32 };
        let embed = kernels.embed(network.uploaded.embedding.format);
        self.recorder.dispatch(embed, &network.embed, &gather, gather.workgroups()); // [R, D]
        let mut sides = network.side.iter().flat_map(|side| &side.layers);
        let normed = NormRowsParams { n_rows, cols: c.d_model as u32, n_x_rows: n_rows, eps: c.norm_eps };
        let silu = SiluMulParams { n_rows, cols: c.d_ff as u32 };
        for layer in &network.layers {
            let side = sides.next();
            self.norm_matmul(&layer.qkv, n_rows); // [R, (H + 2 G) K]
            if let Some(side) = side.filter(|side| !side.qkv.is_empty()) {
                self.recorder.dispatch(&kernels.norm_rows, &side.attention_norm, &normed, normed.workgroups());
                self.beside(&side.qkv, n_rows, layer.qkv.n_outputs);
            }
            self.recorder.dispatch(&kernels.rope_append, &layer.rope, &rope, rope.workgroups());
            self.attention(&layer.attention, n_rows); // [R, H K]
            self.matmul(&layer.output, n_rows, true); // [R, D]
            if let Some(side) = side {
                self.beside(&side.output, n_rows, layer.output.n_outputs);
            }
            if let Some(side) = side.filter(|side| !side.gate_up.is_empty()) {
                self.norm_matmul(&side.product, n_rows); // [R, 2 F]
                self.recorder.dispatch(&kernels.norm_rows, &side.mlp_norm, &normed, normed.workgroups());
                self.beside(&side.gate_up, n_rows, side.product.n_outputs);
                self.recorder.dispatch(&kernels.silu_mul, &side.silu, &silu, silu.workgroups()); // [R, F]
            } else {
                self.norm_gate_up(&layer.gate_up, n_rows); // [R, F]
            }
            self.matmul(&layer.down, n_rows, true); // [R, D]
            if let Some(side) = side {
                self.beside(&side.down, n_rows, layer.down.n_outputs);
            }
        }
    }

    /// Adds an adapter's side paths to a product whose rows lie `out_stride` apart.
    fn beside(&mut self, paths: &[BoundPath], n_rows: u32, out_stride: u32) {
        for BoundPath { first_output, n_outputs, cols, rank, scale, down, up } in paths {
            let (cols, rank, n_outputs) = (*cols, *rank, *n_outputs);
            let params = LowRankDownParams { n_rows, cols, rank };
            self.recorder.dispatch(&self.kernels.low_rank_down, down, &params, params.workgroups()); // [R, K]
            let params =
                LowRankUpParams { n_rows, rank, n_outputs, out_stride, out_offset: *first_output, scale: *scale };
            self.recorder.dispatch(&self.kernels.low_rank_up, up, &params, params.workgroups());
        }
    }

    /// Final norm of the selected of `n_x_rows` rows, and their logits where wanted.
    fn head(&mut self, network: &GpuNetwork, [n_x_rows, n_rows]: [u32; 2], has_logits: bool) {
        let norm = NormRowsParams { n_rows, cols: self.config.d_model as u32, n_x_rows, eps: self.config.norm_eps };
        self.recorder.dispatch(&self.kernels.norm_rows, &network.norm, &norm, norm.workgroups()); // [N, D]
        if has_logits {
            self.matmul(&network.logits, n_rows, false); // [N, V]
        }
    }

    fn attention(&mut self, bound: &BindGroup, n_rows: u32) {
        let c = self.config;
        let (n_heads, n_kv_heads, half_dim) = (c.n_heads as u32, c.n_kv_heads as u32, c.head_dim as u32 / 2);
        let scale = 1.0 / (c.head_dim as f32).sqrt();
        let params = AttentionParams { n_rows, n_heads, n_kv_heads, half_dim, scale };
        self.recorder.dispatch(&self.kernels.attention, bound, &params, params.workgroups());
    }

    /// A product, added to the residual stream or not.
    fn matmul(&mut self, bound: &BoundProduct, n_rows: u32, accumulate: bool) {
        let BoundProduct { format, n_outputs, cols, ref group } = *bound;
        let (kernel, tiling) = self.kernels.product(Product::Matmul, format, n_rows as usize);
        let accumulate = u32::from(accumulate);
        let params = MatmulParams { n_rows, cols, n_outputs, out_stride: n_outputs, out_offset: 0, accumulate };
        self.recorder.dispatch(kernel, group, &params, params.workgroups(tiling));
    }

    fn norm_matmul(&mut self, bound: &BoundProduct, n_rows: u32) {
        let BoundProduct { format, n_outputs, cols, ref group } = *bound;
        let (kernel, tiling) = self.kernels.product(Product::NormMatmul, format, n_rows as usize);
        let params = NormMatmulParams { n_rows, cols, n_outputs, eps: self.config.norm_eps };
        self.recorder.dispatch(kernel, group, &params, params.workgroups(tiling));
    }

    fn norm_gate_up(&mut self, bound: &BoundProduct, n_rows: u32) {
        let BoundProduct { format, n_outputs, cols, ref group } = *bound;
        let (kernel, tiling) = self.kernels.product(Product::NormGateUp, format, n_rows as usize);
        let params = NormGateUpParams { n_rows, cols, n_outputs: n_outputs / 2, eps: self.config.norm_eps };
        self.recorder.dispatch(kernel, group, &params, params.workgroups(tiling));
    }
}

impl Buffers {
    fn new(gpu: &GpuContext, c: &ModelConfig, limits: &Limits) -> Self {
        let r = limits.rows_per_pass;
        let q_width = c.n_heads * c.head_dim;
        let n_dispatches = c.n_layers * DISPATCHES_OF_LAYER + DISPATCHES_AROUND;
        let n_draws = limits.n_seqs * STEPS;
        let n_read = (r * c.vocab_size.max(c.d_model)).max(n_draws * DRAW_WORDS);
        Self {
            params: gpu.buffer(
                "params",
                n_dispatches * PARAMS_ALIGNMENT,
                BufferUsages::UNIFORM | BufferUsages::COPY_DST,
            ),
            ids: gpu.storage("ids", r),
            slots: gpu.storage("slots", r),
            spans: gpu.storage("spans", r * 4),
            rotary: gpu.storage("rotary", r * c.head_dim),
            select: gpu.storage("select", r),
            x: gpu.storage("x", r * c.d_model),
            normed: gpu.storage("normed", r * c.d_model),
            qkv: gpu.storage("qkv", r * (q_width + 2 * c.n_kv_heads * c.head_dim)),
            attended: gpu.storage("attended", r * q_width),
            gated: gpu.storage("gated", r * c.d_ff),
            logits: gpu.storage("logits", r * c.vocab_size),
            uniforms: gpu.storage("uniforms", n_draws),
            draws: gpu.storage("draws", n_draws * DRAW_WORDS),
            runs: gpu.storage("runs", limits.n_seqs * 4),
            sums: gpu.storage("sums", limits.n_seqs * c.d_model),
            judged: gpu.storage("judged", limits.n_seqs * OUTPUTS),
            readback: gpu.buffer("readback", n_read * 4, BufferUsages::MAP_READ | BufferUsages::COPY_DST),
        }
    }

    fn all(&self) -> [&Buffer; 18] {
        let b = self;
        [
            &b.params,
            &b.ids,
            &b.slots,
            &b.spans,
            &b.rotary,
            &b.select,
            &b.x,
            &b.normed,
            &b.qkv,
            &b.attended,
            &b.gated,
            &b.logits,
            &b.uniforms,
            &b.draws,
            &b.runs,
            &b.sums,
            &b.judged,
            &b.readback,
        ]
    }
}
