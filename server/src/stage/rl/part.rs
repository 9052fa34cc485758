//! Log-probabilities of a step's rollouts: under the policy, the reference, and the engine that drew them; and how much
//! each token counts that another policy drew.
//!
//! Dimension key: `N` suggestion tokens of a part.

use crate::model::batch::Batch;
use beckon_shared::reward::advantage::{Advantage, token_ratios};
use beckon_shared::reward::kl::{k1, k3};
use burn::tensor::Tensor;
use std::ops::Range;

/// Largest importance weight of a token between the network that learns and the engine that wrote.
const MAX_IMPORTANCE: f32 = 2.0;

/// Rollouts of like length.
pub struct Part {
    /// Indices over all rollouts of the step.
    pub rows: Vec<usize>,
    pub batch: Batch,
    /// log pi of each token, `[N]`.
    pub now: Vec<f32>,
    /// log pi_old, of the policy before the batch's first update, `[N]`; `None` at that update.
    pub old: Option<Vec<f32>>,
    /// log pi with autodiff; `None` where the part is read once more when its gradient's turn comes.
    pub logps: Option<Tensor<1>>,
    /// log pi_ref of each token, `[N]`.
    pub reference: Vec<f32>,
    /// log pi of each token as the engine drew it, `[N]`.
    pub rollout: Vec<f32>,
}

impl Part {
    /// The same rollouts for the batch's next update, not yet read under the policy that this one makes.
    pub fn again(&self) -> Self {
        Self {
            rows: self.rows.clone(),
            batch: self.batch.clone(),
            now: Vec::new(),
            old: Some(self.old.as_ref().unwrap_or(&self.now).clone()),
            logps: None,
            reference: self.reference.clone(),
            rollout: self.rollout.clone(),
        }
    }

    /// What each token's log-probability gradient is multiplied by beside its rollout's advantage, `[N]`:
    /// min(pi_old/pi_rollout, 2), times the clipped ratio pi/pi_old from the batch's second update on. `advantages` are
    /// those of all rollouts of the step.
    pub fn weights(&self, algorithm: Advantage, advantages: &[f64]) -> Vec<f32> {
        let seen = self.old.as_ref().unwrap_or(&self.now);
        let importance = seen.iter().zip(&self.rollout).map(|(seen, then)| (seen - then).exp().min(MAX_IMPORTANCE));
        match self.ratios(algorithm, advantages) {
            None => importance.collect(),
            Some(ratios) => importance.zip(ratios).map(|(c, rho)| c * rho as f32).collect(),
        }
    }

    /// Derivative of the clipped objective by log pi over the advantage, `[N]`; `None` at the batch's first update.
    fn ratios(&self, algorithm: Advantage, advantages: &[f64]) -> Option<Vec<f64>> {
        let old = self.old.as_ref()?;
        let of_row = |(&row, span): (&usize, &Range<usize>)| {
            algorithm.off_policy_weights(&wide(&self.now[span.clone()]), &wide(&old[span.clone()]), advantages[row])
        };
        Some(self.rows.iter().zip(&self.batch.spans).flat_map(of_row).collect())
    }

    /// pi/pi_old of each token, by which a KL term in the loss is off-policy too (method B.5.3), `[N]`; `None` at the
    /// batch's first update.
    pub fn token_ratios(&self) -> Option<Vec<f64>> {
        Some(token_ratios(&wide(&self.now), &wide(self.old.as_ref()?)))
    }

    /// Tokens whose gradient the clip has stopped.
    pub fn n_clipped(&self, algorithm: Advantage, advantages: &[f64]) -> usize {
        self.ratios(algorithm, advantages).map_or(0, |ratios| ratios.iter().filter(|rho| **rho == 0.0).count())
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::Sequence;

    /// Two rollouts of two tokens; the second stands first in the step.
    fn part(now: [f32; 4], old: Option<[f32; 4]>) -> Part {
        let rows = [Sequence::new(&[3], &[8, 4]), Sequence::new(&[3], &[9, 4])];
        Part {
            rows: vec![1, 0],
            batch: Batch::pack(&rows),
            now: now.to_vec(),
            old: old.map(|old| old.to_vec()),
            logps: None,
            reference: vec![-1.0; 4],
            rollout: vec![-1.0, -1.0, -1.0, -3.0],
        }
    }

    #[test]
    fn the_first_update_corrects_for_the_engine_alone() {
        let part = part([-1.0, -1.5, -1.0, -1.0], None);
        assert_eq!(part.weights(Advantage::Grpo, &[1.0, 1.0]), [1.0, (-0.5f32).exp(), 1.0, 2.0]);
        assert_eq!((part.token_ratios(), part.n_clipped(Advantage::Gspo, &[1.0, 1.0])), (None, 0));
    }

    #[test]
    fn later_updates_stop_where_their_own_rollout_is_clipped() {
        let first = part([-1.0, -1.0, -1.0, -1.0], None);
        let mut second = first.again();
        // the praised rollout's first token went up past the clip, the blamed one's too: it may come down again
        second.now = vec![-0.5, -1.0, -0.5, -1.0];
        let (advantages, up) = ([-1.0, 1.0], 0.5f64.exp() as f32);
        assert_eq!(second.weights(Advantage::Grpo, &advantages), [0.0, 1.0, up, 2.0]);
        assert_eq!(second.n_clipped(Advantage::Grpo, &advantages), 1);
        let half = 0.25f64.exp() as f32;
        assert_eq!(second.weights(Advantage::Gspo, &advantages), [0.0, 0.0, half, 2.0 * half]);
        // the third still compares with the first
        assert_eq!(second.again().old, Some(first.now));
    }
}
