//! Log-probabilities of a step's rollouts: under the policy, the reference, and the engine that drew them.
//!
//! Dimension key: `N` suggestion tokens of a part.

use crate::model::batch::Batch;
use beckon_shared::reward::kl::{k1, k3};
use burn::tensor::Tensor;

/// Largest importance weight of a token between the network that learns and the engine that wrote.
const MAX_IMPORTANCE: f32 = 2.0;

/// Rollouts of like length.
pub struct Part {
    /// Indices over all rollouts of the step.
    pub rows: Vec<usize>,
    pub batch: Batch,
    /// log pi of each token, `[N]`.
    pub now: Vec<f32>,
    /// The same with autodiff; `None` where the part is read once more when its gradient's turn comes.
    pub logps: Option<Tensor<1>>,
    /// log pi_ref of each token, `[N]`.
    pub reference: Vec<f32>,
    /// log pi of each token as the engine drew it, `[N]`.
    pub rollout: Vec<f32>,
}

impl Part {
    /// min(pi/pi_rollout, 2) of each token, `[N]`.
    pub fn importance(&self) -> Vec<f32> {
        self.now.iter().zip(&self.rollout).map(|(now, then)| (now - then).exp().min(MAX_IMPORTANCE)).collect()
    }
}

/// Log-probabilities of a step's rollouts, in nats: for each the tokens' under policy and reference.
pub struct Logps {
    pub of_rollouts: Vec<Vec<(f64, f64)>>,
    pub n_tokens: usize,
    /// Σ |log pi - log pi_rollout| over tokens.
    pub gap_sum: f64,
}

impl Logps {
    /// Brings the parts' rows back into the order of the rollouts.
    pub fn gather(parts: &[Part]) -> Self {
        let n = parts.iter().map(|p| p.rows.len()).sum();
        let mut of_rollouts = vec![Vec::new(); n];
        for part in parts {
            for (&i, span) in part.rows.iter().zip(&part.batch.spans) {
                let pair = |k: usize| (f64::from(part.now[k]), f64::from(part.reference[k]));
                of_rollouts[i] = span.clone().map(pair).collect();
            }
        }
        let gap = |(now, then): (&f32, &f32)| f64::from((now - then).abs());
        let gap_sum = parts.iter().flat_map(|p| p.now.iter().zip(&p.rollout)).map(gap).sum();
        Self { n_tokens: of_rollouts.iter().map(Vec::len).sum(), of_rollouts, gap_sum }
    }

    /// k1 of each rollout: log pi - log pi_ref of the whole suggestion.
    pub fn k1(&self) -> Vec<f64> {
        self.of_rollouts.iter().map(|tokens| tokens.iter().map(|(p, q)| k1(*p, *q)).sum()).collect()
    }

    /// k3 summed over all tokens: unbiased for the sum of the rollouts' KL, and never negative.
    pub fn k3_sum(&self) -> f64 {
        self.of_rollouts.iter().flatten().map(|(p, q)| k3(*p, *q)).sum()
    }

    /// log pi summed over all tokens.
    pub fn sum(&self) -> f64 {
        self.of_rollouts.iter().flatten().map(|(p, _)| p).sum()
    }
}
