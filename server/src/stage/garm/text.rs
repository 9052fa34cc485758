//! The text regularisation of method B.2.6, from GRM (S:grm, S:grmcode): while the trunk learns to judge, the policy's head goes
//! on reading words from it.
//!
//! ```text
//! total  = (1 - a) L + a L_text
//! L_text = mean over the step's pairs of -log sigmoid(beta log p(preferred | prompt)),  beta = 0.1
//! ```
//!
//! with log p of the whole suggestion. The head is the trunk's own embedding over its last hidden states, in the same pass that
//! the features come from, so the trunk has all layers of the policy ([`super::start`]) and the policy's embedding is tied. With
//! adapters the embedding is frozen, and the gradient goes through it to them.
//!
//! a is `garm.text_weight`, 0 unless set: the trunk begins as the policy's and learns for a few hundred steps that end early, and
//! over the whole vocabulary the head is a third as many products again (nano: 1.0 beside 3.1 million weights). Whether it helps
//! is not measured. The baseline is trained without it.

use super::Trainer;
use super::data::Lesson;
use crate::model::micro::Spoken;
use crate::model::reward::likelihood::text_loss;
use beckon_shared::garm::variants::TEXT_BETA;
use burn::tensor::Tensor;

impl Trainer<'_> {
    /// a.
    fn text_weight(&self) -> f64 {
        if self.is_baseline() { 0.0 } else { self.config.text_weight }
    }

    /// What pairs, anchors, synthetic text and L_text count in the loss.
    pub(super) fn loss_weights(&self) -> [f64; 4] {
        let a = self.text_weight();
        [1.0 - a, (1.0 - a) * self.config.anchor_weight, (1.0 - a) * self.config.synthetic_weight, a]
    }

    /// What each of the lesson's texts counts in L_text, `[R]`; empty where there is none.
    pub(super) fn preferred_shares(&self, lesson: &Lesson) -> Vec<f32> {
        if self.text_weight() > 0.0 { lesson.preferred_shares() } else { Vec::new() }
    }

    /// L_text of the texts that were read as words; `shares` as [`Self::preferred_shares`] gives them.
    pub(super) fn text_term(&self, spoken: &Spoken, shares: &[f32]) -> Tensor<1> {
        let of_spoken = self.constants(spoken.of.iter().map(|&text| shares[text]));
        (text_loss(spoken.logps.clone(), TEXT_BETA) * of_spoken).sum()
    }
}
