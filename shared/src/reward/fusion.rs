//! Two-stage fusion of a prompt group: hard gate first, then a weighted sum of normalised components.
//! Method B.4.3, oracle T6 F4-F8. The paper names a two-stage fusion; this one is our design, assembled
//! from a multiplicative gate (S:searchllm), decoupled normalisation (S:gdpo) and a deterministic floor
//! (S:linkedin). Beside it the rules that it is compared with ([`Fusion`]); they are ablations, and what is
//! known against each stands beside it.

use super::advantage::{leave_one_out, normalise_then_sum, sum_then_normalise};
use super::{mean, std};
use serde::{Deserialize, Serialize};

/// How the components of a prompt group become one utility a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fusion {
    /// Ours: hard gate, then a weighted sum of z-scores with floored standard deviations ([`TwoStage`]).
    #[default]
    TwoStage,
    /// Single stage: the gate is one more component (0 or 1), raw values are summed, the sum is normalised in the
    /// group. Collapses sums that differ only in scale (oracle F2), and a good score can outweigh the gate.
    SumThenNormalise,
    /// Single stage, decoupled (GDPO, S:gdpo): every component, the gate among them, is normalised in the group,
    /// then summed. The caller normalises over the batch too. A near-constant component becomes noise (F1b).
    NormaliseThenSum,
    /// Multiplicative (S:searchllm): the smoothed geometric mean of the gate times the weighted mean of the
    /// components, each brought into [0, 1]. Not a veto: a zero among three still leaves 0.2 (F7).
    SoftGate,
}

/// Weight of the gate as a component of the single-stage rules: as much as GaRM's.
const GATE_WEIGHT: f64 = 1.0;
/// delta of the soft gate.
const SOFT_GATE_DELTA: f64 = 0.01;

/// Constants of the fusion; the floors are frozen before RL starts.
#[derive(Debug, Clone, PartialEq)]
pub struct TwoStage {
    /// w_m, one per component.
    pub weights: Vec<f64>,
    /// s_min,m: smallest standard deviation that a component is divided by. It replaces the usual +1e-4
    /// and is what stops noise amplification.
    pub std_floors: Vec<f64>,
    /// Bound of each z.
    pub clip: f64,
    /// delta: how far below the worst passing rollout a failing one is put.
    pub margin: f64,
}

/// A group after both stages.
#[derive(Debug, Clone, PartialEq)]
pub struct FusedGroup {
    /// z of each component, `[M][G]`; 0 where the gate failed.
    pub z: Vec<Vec<f64>>,
    /// u_i.
    pub utility: Vec<f64>,
}

impl FusedGroup {
    /// Leave-one-out advantages (G/(G-1))(u_i - mean u), before the batch's standard deviation.
    pub fn advantages(&self) -> Vec<f64> {
        leave_one_out(&self.utility)
    }
}

/// z = clip((r - mean_V)/max(std_V, floor), ±clip) over the passing set V; 0 elsewhere.
fn normalised(values: &[f64], passed: &[bool], floor: f64, clip: f64) -> Vec<f64> {
    let valid: Vec<f64> = values.iter().zip(passed).filter(|(_, p)| **p).map(|(v, _)| *v).collect();
    let (m, s) = (mean(&valid), std(&valid).max(floor));
    values.iter().zip(passed).map(|(v, p)| if *p { ((v - m) / s).clamp(-clip, clip) } else { 0.0 }).collect()
}

impl TwoStage {
    /// Fuses one group; `components[m][i]` is component m of rollout i, `passed[i]` the gate.
    /// `None` where nothing passed: the group teaches nothing and is dropped (the caller logs it).
    ///
    /// # Panics
    /// If the number of components is not that of weights and floors.
    pub fn fuse(&self, components: &[Vec<f64>], passed: &[bool]) -> Option<FusedGroup> {
        self.fuse_adjusted(components, passed, |_, _| {})
    }

    /// As [`TwoStage::fuse`], with `adjust(m, z)` free to change z of a component before the weighted sum;
    /// the out-of-distribution veto uses it (method B.3 (3)).
    pub fn fuse_adjusted(
        &self,
        components: &[Vec<f64>],
        passed: &[bool],
        adjust: impl Fn(usize, &mut [f64]),
    ) -> Option<FusedGroup> {
        assert_eq!(components.len(), self.weights.len(), "one weight per component");
        assert_eq!(components.len(), self.std_floors.len(), "one floor per component");
        if !passed.contains(&true) {
            return None;
        }
        let mut z = Vec::with_capacity(components.len());
        let mut utility = vec![0.0; passed.len()];
        for (m, values) in components.iter().enumerate() {
            let mut z_m = normalised(values, passed, self.std_floors[m], self.clip);
            adjust(m, &mut z_m);
            for (u, z) in utility.iter_mut().zip(&z_m) {
                *u += self.weights[m] * z;
            }
            z.push(z_m);
        }
        let worst = utility.iter().zip(passed).filter(|(_, p)| **p).map(|(u, _)| *u).fold(f64::INFINITY, f64::min);
        for (u, p) in utility.iter_mut().zip(passed) {
            if !p {
                *u = worst - self.margin;
            }
        }
        Some(FusedGroup { z, utility })
    }
}

impl Fusion {
    /// Utilities of one group under this rule, `[G]`; `None` where the rule drops the group (the two-stage one
    /// where nothing passed). `components[m][i]` is component m of rollout i, the first GaRM's; `adjust` as in
    /// [`TwoStage::fuse_adjusted`], under every rule: it is given how far each rollout's value lies from the group's
    /// mean, as z or, where the rule adds raw values, in the component's own units. The gate may come to it as the last
    /// component.
    ///
    /// # Panics
    /// If the number of components is not that of weights and floors.
    pub fn utilities(
        self,
        constants: &TwoStage,
        components: &[Vec<f64>],
        passed: &[bool],
        adjust: impl Fn(usize, &mut [f64]),
    ) -> Option<Vec<f64>> {
        let gate: Vec<f64> = passed.iter().map(|p| f64::from(u8::from(*p))).collect();
        let with_gate = || {
            let weights: Vec<f64> = constants.weights.iter().copied().chain([GATE_WEIGHT]).collect();
            (components.iter().cloned().chain([gate.clone()]).collect::<Vec<_>>(), weights)
        };
        match self {
            Self::TwoStage => Some(constants.fuse_adjusted(components, passed, adjust)?.utility),
            Self::SumThenNormalise => {
                let (components, weights) = with_gate();
                Some(sum_then_normalise(&components, &weights, adjust))
            }
            Self::NormaliseThenSum => {
                let (components, weights) = with_gate();
                Some(normalise_then_sum(&components, &weights, adjust))
            }
            Self::SoftGate => {
                let components = adjusted(components, adjust);
                let reward = |(i, gate): (usize, &f64)| {
                    let soft: Vec<f64> =
                        components.iter().enumerate().map(|(m, c)| in_unit_interval(m, c[i])).collect();
                    soft_gate(&[*gate], SOFT_GATE_DELTA) * weighted_mean(&soft, &constants.weights)
                };
                Some(gate.iter().enumerate().map(reward).collect())
            }
        }
    }
}

/// Raw values of components after `adjust` has seen how far each lies from its group's mean.
fn adjusted(components: &[Vec<f64>], adjust: impl Fn(usize, &mut [f64])) -> Vec<Vec<f64>> {
    let of_component = |(m, values): (usize, &Vec<f64>)| -> Vec<f64> {
        let centre = mean(values);
        let mut distances: Vec<f64> = values.iter().map(|v| v - centre).collect();
        adjust(m, &mut distances);
        distances.into_iter().map(|d| centre + d).collect()
    };
    components.iter().enumerate().map(of_component).collect()
}

/// A component's value in [0, 1]: GaRM's (m = 0) through Φ, the shares as they are, penalties (at most 0)
/// shifted by one.
fn in_unit_interval(m: usize, value: f64) -> f64 {
    match m {
        0 => crate::special::normal_cdf(value),
        _ if value < 0.0 => (1.0 + value).max(0.0),
        _ => value.min(1.0),
    }
}

/// Σ w x / Σ w; 0 without weight.
fn weighted_mean(values: &[f64], weights: &[f64]) -> f64 {
    let total: f64 = weights.iter().sum();
    if total > 0.0 { values.iter().zip(weights).map(|(v, w)| v * w).sum::<f64>() / total } else { 0.0 }
}

/// s_min of one component: 0.3 × the median of its standard deviations over reference groups, at least
/// `minimum` (so a component that is constant under the reference cannot be blown up later).
pub fn std_floor(group_values: &[Vec<f64>], minimum: f64) -> f64 {
    let mut stds: Vec<f64> = group_values.iter().filter(|g| g.len() > 1).map(|g| std(g)).collect();
    stds.sort_by(f64::total_cmp);
    (0.3 * stds.get(stds.len() / 2).copied().unwrap_or(0.0)).max(minimum)
}

/// Smoothed geometric mean of hard scores in [0, 1] (S:searchllm): exp(mean ln((s + delta)/(1 + delta))).
/// One exact zero still leaves 0.2 of three scores, so it is not a veto.
pub fn soft_gate(scores: &[f64], delta: f64) -> f64 {
    mean(&scores.iter().map(|s| ((s + delta) / (1.0 + delta)).ln()).collect::<Vec<_>>()).exp()
}

/// Weights tau²/(tau² + sigma_i²) that shrink unreliable rewards of a group, tau² = max(0, S² - mean
/// sigma²), S² the variance of the means (n-1). Optional in method B.4.3 (idea S:uarm).
pub fn reliability_weights(means: &[f64], stds: &[f64]) -> Vec<f64> {
    let s2 = std(means).powi(2);
    let noise = mean(&stds.iter().map(|s| s * s).collect::<Vec<_>>());
    let tau2 = (s2 - noise).max(0.0);
    stds.iter().map(|s| tau2 / (tau2 + s * s)).collect()
}

#[cfg(test)]
mod tests;
