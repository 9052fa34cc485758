//! The forward pass on wgpu: natively on Vulkan, in a page or worker on WebGPU.
//!
//! Everything is allocated when the executor is made: weights, one cache a network, activations for the
//! most rows of a pass, one buffer to read back from. A forward pass is one command buffer. Dimension
//! key: `R` rows of a pass, `S` cache slots, `D`, `H`, `G`, `K`, `F`, `V` as in [`crate::config`].

use super::forward::Pass;
use super::plan::{PassRows, Plan};
use super::weights::{Layer, Part, Weights, kernel_format};
use super::{EngineError, Limits, Network, Output, Row};
use crate::config::ModelConfig;
use crate::quant::Matrix;
use beckon_shaders::kernels::attention::AttentionParams;
use beckon_shaders::kernels::embed::EmbedParams;
use beckon_shaders::kernels::matmul::MatmulParams;
use beckon_shaders::kernels::rms_norm::RmsNormParams;
use beckon_shaders::kernels::rope_append::RopeAppendParams;
use beckon_shaders::kernels::silu_mul::SiluMulParams;
use beckon_shaders::{GpuContext, Kernel, KernelSpec, Kernels, PARAMS_ALIGNMENT, Recorder, WeightFormat};
use wgpu::{BindGroup, Buffer, BufferUsages};

/// Dispatches of a layer and around the layers, at most: they share one buffer of parameters.
const DISPATCHES_OF_LAYER: usize = 13;
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
    gate_up: Buffer,  // [R, 2 F]
    gated: Buffer,    // [R, F]
    selected: Buffer, // [R, D]
    logits: Buffer,   // [R, V]
    readback: Buffer, // [R, max(D, V)]
    /// Stands in for the scales of an f32 matrix.
    no_scales: Buffer,
}

#[derive(Debug)]
struct GpuNetwork {
    plan: Plan,
    format: WeightFormat,
    embed: BindGroup,
    layers: Vec<GpuLayer>,
    select: BindGroup,
    norm: BindGroup,
    logits: Linear,
    /// Weights and cache, to be destroyed with the executor.
    owned: Vec<Buffer>,
}

#[derive(Debug)]
struct GpuLayer {
    attention_norm: BindGroup,
    qkv: Vec<Linear>,
    rope: BindGroup,
    attention: BindGroup,
    output: Linear,
    mlp_norm: BindGroup,
    gate_up: Vec<Linear>,
    silu: BindGroup,
    down: Linear,
}

/// A bound product; `n_rows` of its parameters is set at each pass.
#[derive(Debug)]
struct Linear {
    format: WeightFormat,
    group: BindGroup,
    params: MatmulParams,
}

impl GpuExecutor {
    pub(super) async fn new(
        gpu: &GpuContext,
        config: &ModelConfig,
        limits: Limits,
        policy: &Weights,
        reward: Option<&Weights>,
        edit: &dyn Fn(&KernelSpec) -> KernelSpec,
    ) -> Result<Self, EngineError> {
        let matrices = policy.matrices().chain(reward.into_iter().flat_map(Weights::matrices));
        let formats: Vec<WeightFormat> = matrices.map(|m| kernel_format(m.format)).collect();
        let kernels = Kernels::compile_edited(gpu, &formats, edit).await?;
        let buffers = gpu.guarded("activations", || Buffers::new(gpu, config, &limits)).await?;
        let maker = Maker { gpu, kernels: &kernels, config, limits, buffers: &buffers };
        let policy = gpu.guarded("policy weights", || maker.network(policy)).await?;
        let reward = match reward {
            Some(weights) => Some(gpu.guarded("reward weights", || maker.network(weights)).await?),
            None => None,
        };
        let config = config.clone();
        Ok(Self { gpu: gpu.clone(), kernels, config, limits, buffers, policy, reward, params: Vec::new() })
    }

    /// Adapter and backend.
    pub fn adapter_name(&self) -> &str {
        self.gpu.adapter_name()
    }

    /// Bytes of all buffers that this executor holds; the same for as long as it lives.
    pub fn n_bytes(&self) -> u64 {
        self.all_buffers().map(Buffer::size).sum()
    }

    fn all_buffers(&self) -> impl Iterator<Item = &Buffer> {
        let of_reward = self.reward.iter().flat_map(|network| &network.owned);
        self.buffers.all().into_iter().chain(&self.policy.owned).chain(of_reward)
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
            let n_values = self.submit(network, placement.rows(pass.rows.clone()), &pass, output)?;
            result.extend(self.gpu.read_f32(&self.buffers.readback, n_values).await?);
        }
        self.gpu.check()?;
        Ok(result)
    }

    /// Sends one pass to the device; gives the number of values to read back.
    fn submit(
        &mut self,
        network: Network,
        rows: PassRows<'_>,
        pass: &Pass,
        output: Output<'_>,
    ) -> Result<usize, EngineError> {
        let network = match network {
            Network::Policy => &self.policy,
            Network::Reward => self.reward.as_ref().ok_or(EngineError::NoReward)?,
        };
        let (b, queue) = (&self.buffers, &self.gpu.queue);
        queue.write_buffer(&b.ids, 0, bytemuck::cast_slice(rows.ids));
        queue.write_buffer(&b.slots, 0, bytemuck::cast_slice(rows.slots));
        queue.write_buffer(&b.spans, 0, bytemuck::cast_slice(rows.spans));
        queue.write_buffer(&b.rotary, 0, bytemuck::cast_slice(rows.rotary));
        queue.write_buffer(&b.select, 0, bytemuck::cast_slice(&pass.selected));

        let mut encoder = self.gpu.device.create_command_encoder(&Default::default());
        let params = {
            let recorder = Recorder::new(&mut encoder, std::mem::take(&mut self.params));
            let mut forward = Forward { recorder, kernels: &self.kernels, config: &self.config };
            forward.trunk(network, rows.ids.len() as u32);
            forward.head(network, pass.selected.len() as u32, output);
            forward.recorder.finish()
        };
        assert!(params.len() as u64 <= b.params.size(), "dispatches of a pass fit the parameter buffer");
        queue.write_buffer(&b.params, 0, &params);
        self.params = params;

        let (from, width) = match output {
            Output::Hidden => (&b.normed, self.config.d_model),
            Output::Logits(_) => (&b.logits, self.config.vocab_size),
        };
        let n_values = pass.selected.len() * width;
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
        let norm = RmsNormParams { n_rows, cols: c.d_model as u32, eps: c.norm_eps };
        let rope = RopeAppendParams { n_rows, n_heads, n_kv_heads, half_dim };
        let scale = 1.0 / (c.head_dim as f32).sqrt();
        let attend = AttentionParams { n_rows, n_heads, n_kv_heads, half_dim, scale };
        let silu = SiluMulParams { n_rows, cols: c.d_ff as u32 };

        let gather = EmbedParams { n_rows, cols: c.d_model as u32, n_table_rows: c.vocab_size as u32 };
        let embed = kernels.embed(network.format);
        self.recorder.dispatch(embed, &network.embed, &gather, gather.workgroups()); // [R, D]
        for layer in &network.layers {
            self.recorder.dispatch(&kernels.rms_norm, &layer.attention_norm, &norm, norm.workgroups());
            self.linears(&layer.qkv, n_rows); // [R, (H + 2 G) K]
            self.recorder.dispatch(&kernels.rope_append, &layer.rope, &rope, rope.workgroups());
            self.recorder.dispatch(&kernels.attention, &layer.attention, &attend, attend.workgroups()); // [R, H K]
            self.linear(&layer.output, n_rows); // [R, D]
            self.recorder.dispatch(&kernels.rms_norm, &layer.mlp_norm, &norm, norm.workgroups());
            self.linears(&layer.gate_up, n_rows); // [R, 2 F]
            self.recorder.dispatch(&kernels.silu_mul, &layer.silu, &silu, silu.workgroups()); // [R, F]
            self.linear(&layer.down, n_rows); // [R, D]
        }
    }

    /// Final norm of the selected rows, and their logits where wanted.
    fn head(&mut self, network: &GpuNetwork, n_rows: u32, output: Output<'_>) {
        let (c, kernels) = (self.config, self.kernels);
        let gather = EmbedParams { n_rows, cols: c.d_model as u32, n_table_rows: u32::MAX };
        let norm = RmsNormParams { n_rows, cols: c.d_model as u32, eps: c.norm_eps };
        let select = kernels.embed(WeightFormat::F32);
        self.recorder.dispatch(select, &network.select, &gather, gather.workgroups()); // [N, D]
        self.recorder.dispatch(&kernels.rms_norm, &network.norm, &norm, norm.workgroups());
        if let Output::Logits(_) = output {
            self.linear(&network.logits, n_rows); // [N, V]
        }
    }

    fn linears(&mut self, linears: &[Linear], n_rows: u32) {
        for linear in linears {
            self.linear(linear, n_rows);
        }
    }

    fn linear(&mut self, linear: &Linear, n_rows: u32) {
        let (kernel, rows): (&Kernel, u32) = self.kernels.matmul(linear.format, n_rows as usize);
        let params = MatmulParams { n_rows, ..linear.params };
        self.recorder.dispatch(kernel, &linear.group, &params, params.workgroups(rows));
    }
}

impl Buffers {
    fn new(gpu: &GpuContext, c: &ModelConfig, limits: &Limits) -> Self {
        let r = limits.rows_per_pass;
        let q_width = c.n_heads * c.head_dim;
        let n_dispatches = c.n_layers * DISPATCHES_OF_LAYER + DISPATCHES_AROUND;
        let widest = c.vocab_size.max(c.d_model);
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
            gate_up: gpu.storage("gate_up", r * 2 * c.d_ff),
            gated: gpu.storage("gated", r * c.d_ff),
            selected: gpu.storage("selected", r * c.d_model),
            logits: gpu.storage("logits", r * c.vocab_size),
            readback: gpu.buffer("readback", r * widest * 4, BufferUsages::MAP_READ | BufferUsages::COPY_DST),
            no_scales: gpu.storage("no scales", 4),
        }
    }

    fn all(&self) -> [&Buffer; 16] {
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
            &b.gate_up,
            &b.gated,
            &b.selected,
            &b.logits,
            &b.readback,
            &b.no_scales,
        ]
    }
}

/// Uploads networks and binds them to the shared buffers.
struct Maker<'a> {
    gpu: &'a GpuContext,
    kernels: &'a Kernels,
    config: &'a ModelConfig,
    limits: Limits,
    buffers: &'a Buffers,
}

impl Maker<'_> {
    fn network(&self, weights: &Weights) -> GpuNetwork {
        let (c, b, mut owned) = (self.config, self.buffers, Vec::new());
        let format = kernel_format(weights.embedding.format);
        let (quants, scales) = self.upload(&weights.embedding, &mut owned);
        let scales = scales.as_ref().unwrap_or(&b.no_scales);
        let layers = weights.layers.iter().map(|layer| self.layer(layer, &mut owned)).collect();
        let logits_params = linear_params(&weights.embedding, c.vocab_size, 0, false);
        let logits = self.matmul_group(format, &quants, scales, &b.normed, &b.logits);
        GpuNetwork {
            plan: Plan::new(self.limits, c.vocab_size, c.head_dim, c.rope_base),
            format,
            embed: self.bind(self.kernels.embed(format), &[&quants, scales, &b.ids, &b.x]),
            layers,
            select: self.bind(self.kernels.embed(WeightFormat::F32), &[&b.x, &b.no_scales, &b.select, &b.selected]),
            norm: self.norm(&weights.norm, &b.selected, &mut owned),
            logits: Linear { format, group: logits, params: logits_params },
            owned,
        }
    }

    fn layer(&self, layer: &Layer, owned: &mut Vec<Buffer>) -> GpuLayer {
        let (c, b, kernels) = (self.config, self.buffers, self.kernels);
        let kv_width = c.n_kv_heads * c.head_dim;
        let [keys, values] = ["keys", "values"].map(|name| {
            let buffer = self.gpu.storage(name, Plan::n_slots(&self.limits) * kv_width);
            owned.push(buffer.clone());
            buffer
        });
        let qkv_width = c.n_heads * c.head_dim + 2 * kv_width;
        GpuLayer {
            attention_norm: self.norm(&layer.attention_norm, &b.x, owned),
            qkv: self.parts(&layer.qkv, qkv_width, &b.normed, &b.qkv, owned),
            rope: self.bind(&kernels.rope_append, &[&b.rotary, &b.slots, &b.qkv, &keys, &values]),
            attention: self.bind(&kernels.attention, &[&b.spans, &b.qkv, &keys, &values, &b.attended]),
            output: self.added(&layer.output, &b.attended, owned),
            mlp_norm: self.norm(&layer.mlp_norm, &b.x, owned),
            gate_up: self.parts(&layer.gate_up, 2 * c.d_ff, &b.normed, &b.gate_up, owned),
            silu: self.bind(&kernels.silu_mul, &[&b.gate_up, &b.gated]),
            down: self.added(&layer.down, &b.gated, owned),
        }
    }

    fn bind(&self, kernel: &Kernel, storage: &[&Buffer]) -> BindGroup {
        kernel.bind(self.gpu, &self.buffers.params, storage)
    }

    /// A norm from `x` into `normed`.
    fn norm(&self, weight: &[f32], x: &Buffer, owned: &mut Vec<Buffer>) -> BindGroup {
        let weight = self.gpu.storage_with("norm", weight);
        owned.push(weight.clone());
        self.bind(&self.kernels.rms_norm, &[x, &weight, &self.buffers.normed])
    }

    /// Products that fill `out` side by side.
    fn parts(&self, parts: &[Part], stride: usize, x: &Buffer, out: &Buffer, owned: &mut Vec<Buffer>) -> Vec<Linear> {
        let linear = |part: &Part| {
            let params = linear_params(&part.matrix, stride, part.first_output, false);
            self.linear(&part.matrix, params, x, out, owned)
        };
        parts.iter().map(linear).collect()
    }

    /// A product that is added to the residual stream.
    fn added(&self, matrix: &Matrix, x: &Buffer, owned: &mut Vec<Buffer>) -> Linear {
        self.linear(matrix, linear_params(matrix, matrix.rows, 0, true), x, &self.buffers.x, owned)
    }

    fn linear(
        &self,
        matrix: &Matrix,
        params: MatmulParams,
        x: &Buffer,
        out: &Buffer,
        owned: &mut Vec<Buffer>,
    ) -> Linear {
        let format = kernel_format(matrix.format);
        let (quants, scales) = self.upload(matrix, owned);
        let scales = scales.as_ref().unwrap_or(&self.buffers.no_scales);
        Linear { format, group: self.matmul_group(format, &quants, scales, x, out), params }
    }

    fn matmul_group(
        &self,
        format: WeightFormat,
        quants: &Buffer,
        scales: &Buffer,
        x: &Buffer,
        out: &Buffer,
    ) -> BindGroup {
        // the variants for different numbers of rows share their layout
        let (kernel, _) = self.kernels.matmul(format, 1);
        self.bind(kernel, &[quants, scales, x, out])
    }

    /// Quants and, where the format has them, scales.
    fn upload(&self, matrix: &Matrix, owned: &mut Vec<Buffer>) -> (Buffer, Option<Buffer>) {
        let quants = self.gpu.storage_with("quants", &matrix.quants);
        owned.push(quants.clone());
        let scales = (!matrix.scales.is_empty()).then(|| self.gpu.storage_with("scales", &matrix.scales));
        owned.extend(scales.clone());
        (quants, scales)
    }
}

fn linear_params(matrix: &Matrix, out_stride: usize, out_offset: usize, accumulate: bool) -> MatmulParams {
    MatmulParams {
        n_rows: 0,
        cols: matrix.cols as u32,
        n_outputs: matrix.rows as u32,
        out_stride: out_stride as u32,
        out_offset: out_offset as u32,
        accumulate: u32::from(accumulate),
    }
}
