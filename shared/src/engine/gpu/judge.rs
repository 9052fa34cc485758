//! The reward model's heads on the device: three numbers a candidate are read back, whatever the length of its text.

use super::network::Binder;
use super::{End, GpuExecutor, Network, Output, Row};
use crate::engine::EngineError;
use crate::engine::heads::{Heads, advance};
use beckon_shaders::kernels::heads::{HeadsParams, OUTPUTS, Run};
use wgpu::{BindGroup, Buffer};

/// Heads bound to the hidden states before them.
#[derive(Debug)]
pub(super) struct GpuHeads {
    params: HeadsParams,
    weights: Buffer,
    group: BindGroup,
}

impl GpuHeads {
    /// Uploads the weights.
    pub fn new(binder: &Binder, heads: &Heads) -> Self {
        let (b, weights) = (binder.buffers, binder.gpu.storage_with("heads", heads.weights()));
        let group = binder.bind(&binder.kernels.heads, &[&b.runs, &b.normed, &weights, &b.sums, &b.judged]);
        Self { params: heads.params(0), weights, group }
    }

    pub fn buffer(&self) -> &Buffer {
        &self.weights
    }

    pub fn group(&self) -> &BindGroup {
        &self.group
    }
}

impl Drop for GpuHeads {
    fn drop(&mut self) {
        self.weights.destroy();
    }
}

impl GpuExecutor {
    /// As [`crate::engine::Executor::judge`].
    ///
    /// # Errors
    /// Rows without a place, more candidates than the cache has, no reward model, or a failure of the device.
    pub(in crate::engine) async fn judge(
        &mut self,
        rows: &[Row],
        lens: &[usize],
    ) -> Result<Vec<[f32; OUTPUTS]>, EngineError> {
        self.gpu.check()?;
        let (Some(network), Some(heads)) = (&mut self.reward, &self.heads) else { return Err(EngineError::NoReward) };
        if lens.len() > self.limits.n_seqs {
            return Err(EngineError::Row { row_idx: rows.len(), reason: "the cache has fewer candidates" });
        }
        let params = HeadsParams { n_seqs: lens.len() as u32, ..heads.params };
        let placement = network.plan.place(rows)?;
        let mut runs = vec![Run::default(); lens.len()];
        let mut n_values = 0;
        for pass in Output::Hidden.passes(rows.len(), self.limits.rows_per_pass)? {
            advance(&mut runs, lens, pass.rows.start, pass.rows.len());
            self.gpu.queue.write_buffer(&self.buffers.runs, 0, bytemuck::cast_slice(&runs));
            n_values = self.submit(Network::Reward, placement.rows(pass.rows.clone()), &pass, End::Heads(params))?;
        }
        let outputs = self.gpu.read_f32(&self.buffers.readback, n_values).await?;
        self.gpu.check()?;
        Ok(outputs.as_chunks().0.to_vec())
    }
}
