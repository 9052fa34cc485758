//! An adapter's side paths on the device, bound to the network that they stand beside.

use super::{Binder, BoundProduct, GpuMatrix, Product, Uploaded};
use crate::config::ModelConfig;
use crate::engine::Limits;
use crate::engine::adapter::{SideLayer, SidePath};
use wgpu::{BindGroup, Buffer};

/// Side paths of a network; its buffers go with it.
#[derive(Debug)]
pub(in super::super) struct GpuSide {
    pub layers: Vec<GpuSideLayer>,
    buffers: Vec<Buffer>,
}

/// Side paths of a layer, each empty where there is none, and what they need beside the layer's own dispatches.
#[derive(Debug)]
pub(in super::super) struct GpuSideLayer {
    pub attention_norm: BindGroup,
    pub qkv: Vec<BoundPath>,
    pub output: Vec<BoundPath>,
    pub mlp_norm: BindGroup,
    /// Gate and up before the activation, and the activation.
    pub product: BoundProduct,
    pub gate_up: Vec<BoundPath>,
    pub silu: BindGroup,
    pub down: Vec<BoundPath>,
}

/// A side path bound to its input and to the product it adds to.
#[derive(Debug)]
pub(in super::super) struct BoundPath {
    pub first_output: u32,
    pub n_outputs: u32,
    pub cols: u32,
    pub rank: u32,
    pub scale: f32,
    pub down: BindGroup,
    pub up: BindGroup,
}

impl GpuSide {
    /// Uploads the factors; creates what their passes need.
    pub fn new(
        binder: &Binder,
        config: &ModelConfig,
        limits: &Limits,
        uploaded: &Uploaded,
        sides: &[SideLayer],
    ) -> Self {
        let (gpu, b, r) = (binder.gpu, binder.buffers, limits.rows_per_pass);
        let paths = sides.iter().flat_map(|s| [&s.qkv, &s.output, &s.gate_up, &s.down]).flatten();
        let rank = paths.map(|path| path.rank).max().unwrap_or(1);
        let every_row: Vec<u32> = (0..r as u32).collect();
        let every_row = gpu.storage_with("every row", &every_row);
        let normed = gpu.storage("adapter's input", r * config.d_model);
        let ranks = gpu.storage("ranks", r * rank);
        let gate_up = gpu.storage("gate and up", r * 2 * config.d_ff);
        let mut buffers = Vec::new();
        let mut bound = |paths: &[SidePath], x: &Buffer, out: &Buffer| -> Vec<BoundPath> {
            let of_path = |path: &SidePath| {
                let (a, b) = (gpu.storage_with("factor a", &path.a), gpu.storage_with("factor b", &path.b));
                let down = binder.bind(&binder.kernels.low_rank_down, &[&a, x, &ranks]);
                let up = binder.bind(&binder.kernels.low_rank_up, &[&b, &ranks, out]);
                buffers.extend([a, b]);
                BoundPath {
                    first_output: path.first_output as u32,
                    n_outputs: path.n_outputs as u32,
                    cols: path.cols as u32,
                    rank: path.rank as u32,
                    scale: path.scale,
                    down,
                    up,
                }
            };
            paths.iter().map(of_path).collect()
        };
        let norm = |gain: &Buffer| binder.bind(&binder.kernels.norm_rows, &[&every_row, &b.x, gain, &normed]);
        let product =
            |matrix: &GpuMatrix, gain: &Buffer| binder.product(Product::NormMatmul, matrix, &[&b.x, gain, &gate_up]);
        let layers = uploaded.layers.iter().zip(sides).map(|(layer, side)| GpuSideLayer {
            attention_norm: norm(&layer.attention_norm),
            qkv: bound(&side.qkv, &normed, &b.qkv),
            output: bound(&side.output, &b.attended, &b.x),
            mlp_norm: norm(&layer.mlp_norm),
            product: product(&layer.gate_up, &layer.mlp_norm),
            gate_up: bound(&side.gate_up, &normed, &gate_up),
            silu: binder.bind(&binder.kernels.silu_mul, &[&gate_up, &b.gated]),
            down: bound(&side.down, &b.gated, &b.x),
        });
        let layers = layers.collect();
        buffers.extend([every_row, normed, ranks, gate_up]);
        Self { layers, buffers }
    }

    /// Every buffer, to be counted.
    pub fn buffers(&self) -> &[Buffer] {
        &self.buffers
    }
}

impl Drop for GpuSide {
    fn drop(&mut self) {
        self.buffers.iter().for_each(Buffer::destroy);
    }
}
