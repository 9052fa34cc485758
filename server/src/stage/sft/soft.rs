//! A teacher's distribution over tokens as SFT's target, beside the token that was written (method B.1.5 (5)).
//!
//! The teacher is a network over the student's vocabulary that learns nothing; it reads each batch as the student does.
//! Both distributions are needed whole, so this loss costs two rows of the vocabulary a token where cross-entropy alone
//! keeps one ([`ops::soft_target_losses`]).

use crate::model::ModelError;
use crate::model::batch::Batch;
use crate::model::llama::Llama;
use crate::model::micro::Tape;
use crate::model::ops;
use beckon_shared::config::ModelConfig;
use beckon_shared::tensor::TensorMap;
use burn::tensor::{Device, Int, Tensor};

/// What a student learns from beside its examples.
#[derive(Debug, Clone, Copy)]
pub struct SoftTargets<'a> {
    /// Shape of the teacher; vocabulary as the student's, sequence at least as long.
    pub model: &'a ModelConfig,
    /// Its weights.
    pub policy: &'a TensorMap,
    /// a: their share in the loss of a token.
    pub weight: f64,
    /// T.
    pub temperature: f64,
}

/// The teacher's network on a device.
pub(super) struct Teacher {
    network: Llama,
    device: Device,
    weight: f64,
    temperature: f64,
}

impl Teacher {
    /// Puts the network on `device`, without autodiff.
    ///
    /// # Errors
    /// Weights that make no network.
    pub(super) fn new(targets: &SoftTargets, device: &Device) -> Result<Self, ModelError> {
        let device = device.clone().inner();
        let network = Llama::from_tensors(targets.model, targets.policy, &device)?;
        Ok(Self { network, device, weight: targets.weight, temperature: targets.temperature })
    }

    /// Loss of each suggestion token of a batch, nats, `[N]`; `student` is on `device`, and its pass on `tape`.
    pub(super) fn losses(&self, student: &Llama, batch: &Batch, device: &Device, tape: &mut Tape) -> Tensor<1> {
        let (teacher, _) = logits(&self.network, batch, &self.device, &mut Tape::new(false));
        let teacher = teacher.to_device(&device.clone().inner());
        let teacher = if device.is_autodiff() { Tensor::from_inner(teacher) } else { teacher };
        let (student, targets) = logits(student, batch, device, tape);
        ops::soft_target_losses(student, teacher, targets, self.weight, self.temperature)
    }
}

/// Scores `[N, V]` of every token where a suggestion token stands, and those tokens `[N]`.
fn logits(model: &Llama, batch: &Batch, device: &Device, tape: &mut Tape) -> (Tensor<2>, Tensor<1, Int>) {
    let tensors = batch.tensors(device);
    let hidden = tape.hidden(model, tensors.tokens); // [B, T, D]
    let [b, t, d] = hidden.dims();
    let before = ops::rows(hidden.reshape([b * t, d]), tensors.predictors); // [N, D]
    (model.row_logits(before), tensors.targets)
}
