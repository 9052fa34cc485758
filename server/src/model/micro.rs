//! A step's gradient in parts: as many as there are devices, and none larger than fits in memory.
//!
//! What a backward pass keeps of a batch grows with the batch's tokens. A micro-batch holds at most so many padded
//! tokens; its graph is gone before the next one's is made on the same device, and the gradients are added up, so that a step
//! is the same but for rounding. Where a loss couples rows, as that of a pair does, [`Features`] are read without a graph, the
//! loss gives each row its gradient, and the parts are read once more to bring these to the weights (arXiv 2101.06983).

use super::batch::{Batch, Sequence};
use super::parallel::Replicas;
use super::reward::RewardModel;
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};

/// Sum of the parts' losses, and the gradient of that sum. `loss` is told the weights to use and where they are.
pub fn summed<M: Module, P>(
    model: &M,
    replicas: &Replicas<M>,
    parts: impl IntoIterator<Item = P>,
    loss: impl Fn(&M, &Device, P) -> Tensor<1>,
) -> (f64, GradientsParams) {
    let mut sum = GradientsAccumulator::new();
    let mut total = 0.0;
    let work = |weights: &M, device: &Device, part| {
        let loss = loss(weights, device, part);
        let gradients = GradientsParams::from_grads(loss.backward(), weights);
        (loss, gradients)
    };
    replicas.each(model, parts, work, |(loss, gradients)| {
        sum.accumulate(model, gathered(gradients, model, replicas));
        total += f64::from(loss.into_scalar::<f32>());
    });
    (total, sum.grads())
}

/// Gradients on the device of the model that learns.
fn gathered<M: Module>(gradients: GradientsParams, model: &M, replicas: &Replicas<M>) -> GradientsParams {
    match replicas.n_devices() {
        1 => gradients,
        _ => gradients.to_device(&replicas.device().clone().inner(), model),
    }
}

/// Pooled features of sequences, for a loss that couples them.
pub struct Features {
    /// `[R, D]`, in the order of the sequences.
    pub rows: Tensor<2>,
    /// What has to be read again for the weights' gradient: rows and their batch. Empty where `rows` is connected to the
    /// weights by itself.
    unread: Vec<(Vec<usize>, Batch)>,
}

impl Features {
    /// Reads `sequences`: with a graph where they are one part, else without.
    ///
    /// # Panics
    /// If there are none.
    pub fn read(
        model: &RewardModel,
        replicas: &Replicas<RewardModel>,
        sequences: &[&Sequence],
        n_tokens: Option<usize>,
    ) -> Self {
        let device = replicas.device();
        let lengths: Vec<usize> = sequences.iter().map(|s| s.tokens.len()).collect();
        let parts = replicas.split(&lengths, n_tokens);
        if parts.len() == 1 {
            let batch = Batch::pack(sequences.iter().copied());
            return Self { rows: model.features(&batch, device), unread: Vec::new() };
        }
        let pack = |rows: Vec<usize>| {
            let batch = Batch::pack(rows.iter().map(|&i| sequences[i]));
            (rows, batch)
        };
        let unread: Vec<_> = parts.into_iter().map(pack).collect();
        let device = device.clone().inner();
        let mut read = Vec::new();
        let work = |weights: &RewardModel, place: &Device, (_, batch): &(Vec<usize>, Batch)| {
            weights.valid().features(batch, &place.clone().inner())
        };
        replicas.each(model, &unread, work, |features| read.push(features.to_device(&device)));
        let mut place = vec![0; sequences.len()];
        unread.iter().flat_map(|(rows, _)| rows).enumerate().for_each(|(k, &i)| place[i] = k);
        let rows = Tensor::cat(read, 0).select(0, indices(&place, &device));
        Self { rows: Tensor::from_inner(rows).require_grad(), unread }
    }

    /// Brings the gradient of a loss of `rows` to the weights: added to `sum`.
    pub fn carry(
        &self,
        model: &RewardModel,
        replicas: &Replicas<RewardModel>,
        gradients: &Gradients,
        sum: &mut GradientsAccumulator<RewardModel>,
    ) {
        if self.unread.is_empty() {
            return;
        }
        let Some(gradient) = self.rows.grad(gradients) else { return };
        let work = |weights: &RewardModel, device: &Device, (rows, batch): &(Vec<usize>, Batch)| {
            let share = gradient.clone().select(0, indices(rows, &gradient.device()));
            let share = share.to_device(&device.clone().inner());
            let carried = (weights.features(batch, device) * Tensor::from_inner(share)).sum();
            GradientsParams::from_grads(carried.backward(), weights)
        };
        replicas.each(model, &self.unread, work, |part| sum.accumulate(model, gathered(part, model, replicas)));
    }
}

fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|&i| i as i32).collect();
    let n = rows.len();
    Tensor::from_data(TensorData::new(rows, [n]), device)
}
