//! What a policy is really worth in the simulated world: its gold CTR, as an exact expectation.
//!
//! `gold(π) = mean over x of Σ_y π(y|x)·ctr(x, y)`, the sum over every suggestion that is ever clicked in
//! x. Nothing is sampled. π(y|x) is the probability of the canonical tokenization of y with its end
//! token; other tokenizations of the same text count as mass outside the grammar, that is as CTR 0, so
//! the figure errs downwards. Method B.6.3.

use super::World;
use beckon_shared::prompt::Prompt;
use serde::{Deserialize, Serialize};

/// Gold figures of one policy over some conversations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gold {
    /// P(click | examined) of one suggestion drawn from the policy.
    pub ctr: f64,
    /// P(satisfied click | examined).
    pub satisfied_ctr: f64,
    /// Probability that the policy writes a suggestion of the grammar on this or a related topic; the
    /// rest is never clicked.
    pub enumerated_mass: f64,
    /// Share of the policy's mass on clickbait.
    pub clickbait_mass: f64,
    /// Conversations averaged over.
    pub n_prompts: usize,
}

impl World {
    /// Gold figures of the policy whose log-probabilities (nats, one a text) `logps` gives for a
    /// conversation and all its suggestions.
    ///
    /// # Errors
    /// Those of `logps`.
    ///
    /// # Panics
    /// If `logps` does not answer with one value a text, or `prompts` is empty.
    pub fn gold_ctr<E>(
        &self,
        prompts: &[Prompt],
        mut logps: impl FnMut(&Prompt, &[&str]) -> Result<Vec<f64>, E>,
    ) -> Result<Gold, E> {
        assert!(!prompts.is_empty(), "gold_ctr: prompts is empty");
        let mut total =
            Gold { ctr: 0.0, satisfied_ctr: 0.0, enumerated_mass: 0.0, clickbait_mass: 0.0, n_prompts: prompts.len() };
        for prompt in prompts {
            let texts = self.suggestions(prompt);
            let logps = logps(prompt, &texts)?;
            assert_eq!(logps.len(), texts.len(), "gold_ctr: one log-probability a text");
            for (text, logp) in texts.iter().zip(logps) {
                self.add(&mut total, prompt, text, logp.exp());
            }
        }
        Ok(total.divided_by(prompts.len()))
    }

    /// Gold figures of the logging policy: one slot of its slates, each slot as likely as any other.
    pub fn gold_ctr_of_logging(&self, prompts: &[Prompt]) -> Gold {
        let answer = self.gold_ctr(prompts, |prompt, texts| {
            let propensities = self.logging_propensities(prompt);
            Ok::<_, std::convert::Infallible>(
                texts.iter().map(|t| propensities.get(*t).copied().unwrap_or(0.0).ln()).collect(),
            )
        });
        match answer {
            Ok(gold) => gold,
        }
    }

    fn add(&self, total: &mut Gold, prompt: &Prompt, text: &str, probability: f64) {
        total.ctr += probability * self.true_ctr(prompt, text);
        total.satisfied_ctr += probability * self.true_satisfied_ctr(prompt, text);
        total.enumerated_mass += probability;
        if self.phrase(text).is_some_and(|p| p.style == super::Style::Clickbait) {
            total.clickbait_mass += probability;
        }
    }
}

impl Gold {
    fn divided_by(self, n: usize) -> Self {
        let n = n as f64;
        Self {
            ctr: self.ctr / n,
            satisfied_ctr: self.satisfied_ctr / n,
            enumerated_mass: self.enumerated_mass / n,
            clickbait_mass: self.clickbait_mass / n,
            ..self
        }
    }
}
