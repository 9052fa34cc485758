//! A network's weights on the device, and every dispatch of its forward pass bound to its buffers.
//!
//! Weights are packed and uploaded first; the formats they turn out to have decide which kernels are compiled;
//! then everything is bound once. Dimension key as in [`crate::config`].

mod side;

use super::super::linear::Linear;
use super::super::plan::Plan;
use super::super::weights::{Layer, Part, Weights, view};
use super::Buffers;
use crate::config::ModelConfig;
use crate::engine::Limits;
use beckon_shaders::{GpuContext, Kernel, Kernels, PackedWeight, Product, WeightFormat};
use wgpu::{BindGroup, Buffer};

pub(super) use side::{BoundPath, GpuSide};

/// A packed matrix on the device.
#[derive(Debug)]
pub(super) struct GpuMatrix {
    pub format: WeightFormat,
    pub rows: u32,
    pub cols: u32,
    quants: Buffer,
    scales: Buffer,
}

/// Weights and cache of a network on the device.
#[derive(Debug)]
pub(super) struct Uploaded {
    pub embedding: GpuMatrix,
    /// Where the embedding does not make the logits.
    output: Option<GpuMatrix>,
    layers: Vec<UploadedLayer>,
    norm: Buffer,
}

#[derive(Debug)]
struct UploadedLayer {
    attention_norm: Buffer,
    qkv: GpuMatrix,
    output: GpuMatrix,
    mlp_norm: Buffer,
    gate_up: GpuMatrix,
    down: GpuMatrix,
    keys: Buffer,
    values: Buffer,
}

impl Uploaded {
    /// Packs and uploads, a product's matrices at a time; creates the cache.
    pub fn new(gpu: &GpuContext, config: &ModelConfig, limits: &Limits, weights: &Weights<Linear>) -> Self {
        let n_cached = Plan::n_slots(limits) * config.n_kv_heads * config.head_dim;
        let layer = |layer: &Layer<Linear>| UploadedLayer {
            attention_norm: gpu.storage_with("norm", &layer.attention_norm),
            qkv: stacked(gpu, &layer.qkv),
            output: uploaded(gpu, &[&layer.output]),
            mlp_norm: gpu.storage_with("norm", &layer.mlp_norm),
            gate_up: stacked(gpu, &layer.gate_up),
            down: uploaded(gpu, &[&layer.down]),
            keys: gpu.storage("keys", n_cached),
            values: gpu.storage("values", n_cached),
        };
        Self {
            embedding: uploaded(gpu, &[&weights.embedding]),
            output: weights.output.as_ref().map(|output| uploaded(gpu, &[output])),
            layers: weights.layers.iter().map(layer).collect(),
            norm: gpu.storage_with("norm", &weights.norm),
        }
    }

    /// Format of the embedding, and every product with its format.
    pub fn kernels(&self) -> (WeightFormat, Vec<(Product, WeightFormat)>) {
        let mut products = vec![(Product::Matmul, self.projection().format)];
        for layer in &self.layers {
            products.push((Product::NormMatmul, layer.qkv.format));
            products.push((Product::Matmul, layer.output.format));
            // under an adapter the activation stands alone
            products.push((Product::NormMatmul, layer.gate_up.format));
            products.push((Product::NormGateUp, layer.gate_up.format));
            products.push((Product::Matmul, layer.down.format));
        }
        (self.embedding.format, products)
    }

    /// What makes the logits.
    fn projection(&self) -> &GpuMatrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// Every buffer, to be counted and destroyed with the executor.
    pub fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        let around = [&self.embedding.quants, &self.embedding.scales, &self.norm];
        let output = self.output.iter().flat_map(|output| [&output.quants, &output.scales]);
        self.layers.iter().flat_map(UploadedLayer::buffers).chain(around).chain(output)
    }
}

impl UploadedLayer {
    fn buffers(&self) -> [&Buffer; 12] {
        [
            &self.attention_norm,
            &self.qkv.quants,
            &self.qkv.scales,
            &self.output.quants,
            &self.output.scales,
            &self.mlp_norm,
            &self.gate_up.quants,
            &self.gate_up.scales,
            &self.down.quants,
            &self.down.scales,
            &self.keys,
            &self.values,
        ]
    }
}

fn stacked(gpu: &GpuContext, parts: &[Part<Linear>]) -> GpuMatrix {
    uploaded(gpu, &parts.iter().map(|part| &part.matrix).collect::<Vec<_>>())
}

fn uploaded(gpu: &GpuContext, parts: &[&Linear]) -> GpuMatrix {
    let parts: Vec<_> = parts.iter().map(|part| part.row_major()).collect();
    let packed = PackedWeight::stacked(&parts.iter().map(|part| view(part)).collect::<Vec<_>>());
    GpuMatrix {
        format: packed.format,
        rows: packed.rows as u32,
        cols: packed.cols as u32,
        quants: gpu.storage_with("quants", &packed.quants),
        scales: gpu.storage_with("scales", &packed.scales),
    }
}

/// A network ready to run.
#[derive(Debug)]
pub(super) struct GpuNetwork {
    pub plan: Plan,
    pub uploaded: Uploaded,
    /// An adapter's side paths.
    pub side: Option<GpuSide>,
    pub embed: BindGroup,
    pub layers: Vec<GpuLayer>,
    /// Final norm of chosen rows into `normed`.
    pub norm: BindGroup,
    pub logits: BoundProduct,
}

#[derive(Debug)]
pub(super) struct GpuLayer {
    pub qkv: BoundProduct,
    pub rope: BindGroup,
    pub attention: BindGroup,
    pub output: BoundProduct,
    pub gate_up: BoundProduct,
    pub down: BoundProduct,
}

/// A product bound to its matrix, its input and its output.
#[derive(Debug)]
pub(super) struct BoundProduct {
    pub format: WeightFormat,
    /// N.
    pub n_outputs: u32,
    /// C.
    pub cols: u32,
    pub group: BindGroup,
}

/// Binds a network to the buffers that both share.
pub(super) struct Binder<'a> {
    pub gpu: &'a GpuContext,
    pub kernels: &'a Kernels,
    pub buffers: &'a Buffers,
}

impl Binder<'_> {
    pub fn network(&self, config: &ModelConfig, limits: Limits, uploaded: Uploaded) -> GpuNetwork {
        let b = self.buffers;
        let (table, projection) = (&uploaded.embedding, uploaded.projection());
        GpuNetwork {
            plan: Plan::new(limits, config.vocab_size, config.rope_frequencies()),
            embed: self.bind(self.kernels.embed(table.format), &[&table.quants, &table.scales, &b.ids, &b.x]),
            layers: uploaded.layers.iter().map(|layer| self.layer(layer)).collect(),
            norm: self.bind(&self.kernels.norm_rows, &[&b.select, &b.x, &uploaded.norm, &b.normed]),
            logits: self.product(Product::Matmul, projection, &[&b.normed, &b.logits]),
            uploaded,
            side: None,
        }
    }

    fn layer(&self, layer: &UploadedLayer) -> GpuLayer {
        let (b, kernels) = (self.buffers, self.kernels);
        GpuLayer {
            qkv: self.product(Product::NormMatmul, &layer.qkv, &[&b.x, &layer.attention_norm, &b.qkv]),
            rope: self.bind(&kernels.rope_append, &[&b.rotary, &b.slots, &b.qkv, &layer.keys, &layer.values]),
            attention: self.bind(&kernels.attention, &[&b.spans, &b.qkv, &layer.keys, &layer.values, &b.attended]),
            output: self.product(Product::Matmul, &layer.output, &[&b.attended, &b.x]),
            gate_up: self.product(Product::NormGateUp, &layer.gate_up, &[&b.x, &layer.mlp_norm, &b.gated]),
            down: self.product(Product::Matmul, &layer.down, &[&b.gated, &b.x]),
        }
    }

    pub fn bind(&self, kernel: &Kernel, storage: &[&Buffer]) -> BindGroup {
        kernel.bind(self.gpu, &self.buffers.params, storage)
    }

    fn product(&self, product: Product, matrix: &GpuMatrix, others: &[&Buffer]) -> BoundProduct {
        let (kernel, _) = self.kernels.product(product, matrix.format, 1);
        let storage: Vec<&Buffer> =
            [&matrix.quants, &matrix.scales].into_iter().chain(others.iter().copied()).collect();
        BoundProduct {
            format: matrix.format,
            n_outputs: matrix.rows,
            cols: matrix.cols,
            group: self.bind(kernel, &storage),
        }
    }
}
