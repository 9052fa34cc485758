//! A step's gradient in parts that fit in memory.
//!
//! What a backward pass keeps of a batch grows with the batch's tokens. A micro-batch holds at most so many padded
//! tokens; its graph is gone before the next one's is made, and the gradients are added up, so that a step is the same
//! but for rounding. Where a loss couples rows, as that of a pair does, [`Features`] are read without a graph, the loss gives
//! each row its gradient, and the micro-batches are read once more to bring these to the weights (arXiv 2101.06983).

use super::batch::{Batch, Sequence, plan_sorted};
use super::reward::RewardModel;
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};

/// Rows of the given lengths in micro-batches of at most `n_tokens` padded tokens, or as they are in one.
pub fn split(lengths: &[usize], n_tokens: Option<usize>) -> Vec<Vec<usize>> {
    match n_tokens {
        Some(n_tokens) => plan_sorted(lengths, n_tokens),
        None => vec![(0..lengths.len()).collect()],
    }
}

/// Sum of the parts' losses, and the gradient of that sum; a part's graph is made when its turn comes.
pub fn summed<M: Module, P>(
    model: &M,
    parts: impl IntoIterator<Item = P>,
    loss: impl Fn(P) -> Tensor<1>,
) -> (f64, GradientsParams) {
    let mut sum = GradientsAccumulator::new();
    let mut total = 0.0;
    for part in parts {
        let loss = loss(part);
        sum.accumulate(model, GradientsParams::from_grads(loss.backward(), model));
        total += f64::from(loss.into_scalar::<f32>());
    }
    (total, sum.grads())
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
    /// Reads `sequences`: with a graph where they fit into one micro-batch, else without.
    ///
    /// # Panics
    /// If there are none.
    pub fn read(model: &RewardModel, sequences: &[&Sequence], n_tokens: Option<usize>, device: &Device) -> Self {
        let lengths: Vec<usize> = sequences.iter().map(|s| s.tokens.len()).collect();
        let parts = split(&lengths, n_tokens);
        if parts.len() == 1 {
            let batch = Batch::pack(sequences.iter().copied());
            return Self { rows: model.features(&batch, device), unread: Vec::new() };
        }
        let pack = |rows: Vec<usize>| {
            let batch = Batch::pack(rows.iter().map(|&i| sequences[i]));
            (rows, batch)
        };
        let unread: Vec<_> = parts.into_iter().map(pack).collect();
        let (bare, device) = (model.valid(), device.clone().inner());
        let read = unread.iter().map(|(_, batch)| bare.features(batch, &device)).collect();
        let mut place = vec![0; sequences.len()];
        unread.iter().flat_map(|(rows, _)| rows).enumerate().for_each(|(k, &i)| place[i] = k);
        let rows = Tensor::cat(read, 0).select(0, indices(&place, &device));
        Self { rows: Tensor::from_inner(rows).require_grad(), unread }
    }

    /// Brings the gradient of a loss of `rows` to the weights: added to `sum`.
    pub fn carry(
        &self,
        model: &RewardModel,
        gradients: &Gradients,
        device: &Device,
        sum: &mut GradientsAccumulator<RewardModel>,
    ) {
        if self.unread.is_empty() {
            return;
        }
        let Some(gradient) = self.rows.grad(gradients) else { return };
        for (rows, batch) in &self.unread {
            let share = gradient.clone().select(0, indices(rows, &gradient.device()));
            let carried = (model.features(batch, device) * Tensor::from_inner(share)).sum();
            sum.accumulate(model, GradientsParams::from_grads(carried.backward(), model));
        }
    }
}

fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|&i| i as i32).collect();
    let n = rows.len();
    Tensor::from_data(TensorData::new(rows, [n]), device)
}
