//! The stage's curves, in a form that a state file gives back bit for bit.

use crate::stage::folder::Exact;
use serde::{Deserialize, Serialize};

/// One point of the stage's curves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RlStep {
    /// From 1.
    pub step: usize,
    /// Proxy: mean GaRM reward mu - k_al sigma_al - k_ep sigma_ep over rollouts.
    pub reward_mean: f64,
    /// Share of rollouts that fail the hard gate.
    pub gate_failure_rate: f64,
    /// Mean KL(pi || pi_ref) per suggestion, by k3 summed over tokens.
    pub kl_nats: f64,
    /// Mean -log pi per suggestion token, nats.
    pub entropy: f64,
    /// Distinct word bigrams over all bigrams of the rollouts.
    pub distinct_2: f64,
    /// Mean suggestion length, its end included.
    pub n_tokens_mean: f64,
    /// Mean sigma_ep.
    pub epistemic_std_mean: f64,
    /// Share of rollouts whose positive GaRM advantage was taken away.
    pub veto_rate: f64,
    /// Mean |log pi - log pi_rollout| of a token, nats: how far the engine that writes is from the network.
    pub rollout_gap: f64,
}

impl RlStep {
    /// Its values in the order of the fields.
    pub fn to_exact(self) -> [Exact; 10] {
        let Self { step, reward_mean, gate_failure_rate, kl_nats, entropy, distinct_2, .. } = self;
        let first = [step as f64, reward_mean, gate_failure_rate, kl_nats, entropy, distinct_2];
        let [a, b, c, d, e, f] = first.map(Exact);
        let last = [self.n_tokens_mean, self.epistemic_std_mean, self.veto_rate, self.rollout_gap];
        let [g, h, i, j] = last.map(Exact);
        [a, b, c, d, e, f, g, h, i, j]
    }

    /// What [`RlStep::to_exact`] was taken from.
    pub fn from_exact(values: [Exact; 10]) -> Self {
        let [step, reward_mean, gate_failure_rate, kl_nats, entropy, distinct_2, length, epistemic, veto, gap] =
            values.map(|v| v.0);
        Self {
            step: step as usize,
            reward_mean,
            gate_failure_rate,
            kl_nats,
            entropy,
            distinct_2,
            n_tokens_mean: length,
            epistemic_std_mean: epistemic,
            veto_rate: veto,
            rollout_gap: gap,
        }
    }
}
