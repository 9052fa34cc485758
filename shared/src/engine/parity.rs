//! Whether two executors agree: greedy steps of the same prompt side by side.
//!
//! A step may give another token only where its two best logits are so close that rounding decides
//! (a near-tie); such steps are counted, and nothing after them is compared, because the texts differ.

use super::{Engine, EngineError, GreedyStep};
use crate::prompt::Prompt;
use serde::{Deserialize, Serialize};

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Parity {
    /// Steps compared.
    pub n_steps: usize,
    /// Steps with the same token.
    pub n_agreeing: usize,
    /// Steps with different tokens and two best logits within the tolerance.
    pub n_near_ties: usize,
    /// Steps with different tokens although one was clearly better, or one side ended early.
    pub n_mismatches: usize,
    /// Largest absolute difference of a logit; infinite where one is not a number.
    pub max_logit_diff: f32,
}

impl Parity {
    /// Compares the steps of one prompt, up to the first that differ.
    pub fn of_steps(a: &[GreedyStep], b: &[GreedyStep], tolerance: f32) -> Self {
        let mut parity = Self::default();
        for (a, b) in a.iter().zip(b) {
            parity.n_steps += 1;
            parity.max_logit_diff = parity.max_logit_diff.max(largest_difference(&a.logits, &b.logits));
            if a.token == b.token {
                parity.n_agreeing += 1;
                continue;
            }
            if margin(&a.logits) < tolerance || margin(&b.logits) < tolerance {
                parity.n_near_ties += 1;
            } else {
                parity.n_mismatches += 1;
            }
            return parity;
        }
        if a.len() != b.len() {
            parity.n_steps += 1;
            parity.n_mismatches += 1;
        }
        parity
    }

    /// Adds the findings of another prompt.
    pub fn merge(&mut self, other: &Self) {
        self.n_steps += other.n_steps;
        self.n_agreeing += other.n_agreeing;
        self.n_near_ties += other.n_near_ties;
        self.n_mismatches += other.n_mismatches;
        self.max_logit_diff = self.max_logit_diff.max(other.max_logit_diff);
    }

    /// Whether something was compared, no step disagreed without a near-tie, and logits are within `tolerance`.
    pub fn holds(&self, tolerance: f32) -> bool {
        self.n_steps > 0 && self.n_mismatches == 0 && self.max_logit_diff <= tolerance
    }
}

/// Greedy steps of both engines over all prompts, compared. `tolerance` is in logits.
///
/// # Errors
/// What either engine says.
pub async fn compare(
    a: &mut Engine,
    b: &mut Engine,
    prompts: &[Prompt],
    n_tokens: usize,
    tolerance: f32,
) -> Result<Parity, EngineError> {
    let mut parity = Parity::default();
    for prompt in prompts {
        let (of_a, of_b) = (a.greedy(prompt, n_tokens).await?, b.greedy(prompt, n_tokens).await?);
        parity.merge(&Parity::of_steps(&of_a, &of_b, tolerance));
    }
    Ok(parity)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    let difference = |(a, b): (&f32, &f32)| match (a - b).abs() {
        d if d.is_nan() => f32::INFINITY,
        d => d,
    };
    a.iter().zip(b).map(difference).fold(0.0, f32::max)
}

/// Best logit minus second best.
fn margin(logits: &[f32]) -> f32 {
    let (best, second) = logits.iter().fold((f32::NEG_INFINITY, f32::NEG_INFINITY), |(best, second), l| {
        if *l > best { (*l, best) } else { (best, second.max(*l)) }
    });
    best - second
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(token: u32, logits: &[f32]) -> GreedyStep {
        GreedyStep { token, logits: logits.to_vec() }
    }

    #[test]
    fn a_near_tie_is_counted_and_ends_the_comparison() {
        let a = [step(0, &[1.0, 0.0]), step(0, &[1.0, 0.9995]), step(0, &[9.0, 0.0])];
        let b = [step(0, &[1.0, 0.0]), step(1, &[0.9998, 1.0]), step(1, &[0.0, 9.0])];
        let parity = Parity::of_steps(&a, &b, 1e-3);
        assert_eq!((parity.n_steps, parity.n_agreeing, parity.n_near_ties, parity.n_mismatches), (2, 1, 1, 0));
        assert!(parity.holds(1e-3));
        assert!(!Parity::of_steps(&a, &b, 1e-4).holds(1e-4), "not near at this tolerance");
    }

    #[test]
    fn what_differs_does_not_hold() {
        let a = [step(0, &[1.0, 0.0])];
        assert!(!Parity::of_steps(&a, &[step(0, &[1.0, 0.1])], 1e-3).holds(1e-3), "logits");
        assert!(!Parity::of_steps(&a, &[step(1, &[0.0, 1.0])], 1e-3).holds(1.0), "token");
        assert!(!Parity::of_steps(&a, &[], 1e-3).holds(1.0), "length");
        assert!(!Parity::of_steps(&a, &[step(0, &[f32::NAN, 0.0])], 1e-3).holds(1e9), "not a number");
        assert!(!Parity::of_steps(&[], &[], 1e-3).holds(1.0), "nothing compared");
    }
}
