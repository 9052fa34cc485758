//! Soft targets of a teacher that shares the student's vocabulary. Method B.1.5 (5), oracle C13.
//!
//! `T² KL(p_T^(T) || p_S^(T))` with both softmaxes at temperature T; the factor T² keeps the gradient's size
//! independent of T. One position; `V` vocabulary. This is the reference in f64 that the trainer's loss on tensors
//! (`server::model::ops::soft_target_losses`) is held against.

/// Loss of one position with its gradient.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftTargetLoss {
    /// T² KL, nats.
    pub loss: f64,
    /// dL/dlogits of the student: T (p_S - p_T), `[V]`.
    pub d_student: Vec<f64>,
}

/// Softmax of logits / T.
fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|l| ((l - largest) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

/// T² KL(teacher || student) of logits `[V]`.
///
/// # Panics
/// If the two differ in length.
pub fn soft_target_loss(teacher: &[f64], student: &[f64], temperature: f64) -> SoftTargetLoss {
    assert_eq!(teacher.len(), student.len(), "teacher and student share the vocabulary");
    let (p, q) = (softmax(teacher, temperature), softmax(student, temperature));
    let loss = temperature.powi(2) * crate::reward::kl::kl_divergence(&p, &q);
    SoftTargetLoss { loss, d_student: p.iter().zip(&q).map(|(p, q)| temperature * (q - p)).collect() }
}

/// (1 - a) CE + a T² KL, the token's loss with a teacher of weight a.
pub fn mixed_loss(cross_entropy: f64, soft: f64, weight: f64) -> f64 {
    (1.0 - weight) * cross_entropy + weight * soft
}

#[cfg(test)]
mod tests;
