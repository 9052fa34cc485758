//! Composite reward of the policy: hard gate, soft components, two-stage fusion, advantages, and the KL
//! and clip forms of its loss. Fifth arrow of the loop; method B.4 and B.5, oracles T6 and T7.
//!
//! | module | what | method |
//! | --- | --- | --- |
//! | [`gate`] | deterministic rules that a suggestion must pass | B.4.1 |
//! | [`components`] | relevance, diversity, novelty, answerability, length band, their weights | B.4.2 |
//! | [`self_contained`] | whether a suggestion is understood alone | B.4.2 |
//! | [`fusion`] | gate, then normalised weighted sum, per prompt group; the rules it is compared with | B.4.3 |
//! | [`advantage`] | leave-one-out, GRPO, Dr.GRPO, DAPO, GSPO; loss normalisers, ratios, clips | B.5.1, B.5.2 |
//! | [`similarity`] | how much two texts share | B.4.1, B.4.2 |
//! | [`kl`] | k1, k2, k3, exact KL, entropy, best-of-n, gold curves | B.5.3, B.5.5 |
//! | [`kl_controller`] | where KL stands, and the coefficient that follows a budget | B.5.3 |
//! | [`monitor`] | alarms of reward hacking | B.5.5 |
//!
//! That a composite reward and a two-stage fusion are used is the paper's (PAPERS.md); which heuristics
//! and which two stages is not recoverable from its text, so both are our design (method A.2, B.4).
//!
//! Dimension key: `G` rollouts of one prompt group, `M` reward components. Formulas are plain f64 over
//! slices: they run on the host between two device steps (`server::stage::rl`).

pub mod advantage;
pub mod components;
pub mod fusion;
pub mod gate;
pub mod kl;
pub mod kl_controller;
pub mod monitor;
pub mod self_contained;
pub mod similarity;

/// Mean; 0 for none.
pub(crate) fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Standard deviation with n-1; 0 for fewer than two values.
pub(crate) fn std(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let m = mean(values);
    (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}
