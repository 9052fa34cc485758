//! Two-stage fusion of a prompt group: hard gate first, then a weighted sum of normalised components.
//! Method B.4.3, oracle T6 F4-F8. The paper names a two-stage fusion; this one is our design, assembled
//! from a multiplicative gate (S:searchllm), decoupled normalisation (S:gdpo) and a deterministic floor
//! (S:linkedin).

use super::advantage::leave_one_out;
use super::{mean, std};

/// Constants of the fusion; the floors are frozen before RL starts.
#[derive(Debug, Clone, PartialEq)]
pub struct Fusion {
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

impl Fusion {
    /// Fuses one group; `components[m][i]` is component m of rollout i, `passed[i]` the gate.
    /// `None` where nothing passed: the group teaches nothing and is dropped (the caller logs it).
    ///
    /// # Panics
    /// If the number of components is not that of weights and floors.
    pub fn fuse(&self, components: &[Vec<f64>], passed: &[bool]) -> Option<FusedGroup> {
        self.fuse_adjusted(components, passed, |_, _| {})
    }

    /// As [`Fusion::fuse`], with `adjust(m, z)` free to change z of a component before the weighted sum;
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
mod tests {
    use super::*;
    use crate::garm::Gaussian;
    use crate::garm::effective::lower_confidence_bound;
    use crate::metrics::assert_close;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[track_caller]
    fn assert_all(name: &str, got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len(), "{name}");
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert_close(&format!("{name}[{i}]"), *g, *w, 1e-6);
        }
    }

    fn oracle_fusion() -> (Fusion, Vec<Vec<f64>>) {
        let mu = [0.9, 0.2, 1.4, -0.3];
        let sigma: [f64; 4] = [0.4, 0.3, 1.2, 0.5];
        let garm = mu.iter().zip(sigma).map(|(m, s)| lower_confidence_bound(Gaussian::new(*m, s * s), 0.5)).collect();
        let components = vec![garm, vec![0.8, 0.7, 0.3, 0.9], vec![0.5, 0.6, 0.2, 0.55]];
        let fusion =
            Fusion { weights: vec![1.0, 0.5, 0.25], std_floors: vec![0.1, 0.05, 0.05], clip: 3.0, margin: 1.0 };
        (fusion, components)
    }

    #[test]
    fn oracle_f4_to_f6() {
        let (fusion, components) = oracle_fusion();
        let f4 = fusion.fuse(&components, &[true, true, true, false]).expect("some passed");
        assert_all("F4 u", &f4.utility, &[0.908229, -0.756821, -0.151407, -1.756821]);
        assert_all("F4 A", &f4.advantages(), &[1.796579, -0.423488, 0.383731, -1.756821]);
        let f5 = fusion.fuse(&components, &[true; 4]).expect("all passed");
        assert_all("F5 u", &f5.utility, &[1.005819, -0.079401, -0.203021, -0.723396]);
        let f6 = fusion.fuse(&components, &[false, true, false, false]).expect("one passed");
        assert_all("F6 u", &f6.utility, &[-1.0, 0.0, -1.0, -1.0]);
        let m = mean(&f6.utility);
        assert_all("F6 centred", &f6.utility.iter().map(|u| u - m).collect::<Vec<_>>(), &[-0.25, 0.75, -0.25, -0.25]);
        assert_eq!(fusion.fuse(&components, &[false; 4]), None);
    }

    #[test]
    fn oracle_f7_and_f8() {
        assert_close("F7", soft_gate(&[0.9, 1.0, 0.5], 0.01), 0.769112035, 1e-9);
        assert_close("F7 with a zero", soft_gate(&[0.9, 1.0, 0.0], 0.01), 0.207395605, 1e-9);
        assert_close("F7 R", soft_gate(&[0.9, 1.0, 0.5], 0.01) * 0.533333333333, 0.410193085, 1e-9);
        let (mu, sigma) = ([2.0, -1.0, 0.5, -0.5], [0.3, 0.3, 1.0, 0.2]);
        let w = reliability_weights(&mu, &sigma);
        assert_all("F8 w", &w, &[0.941368, 0.941368, 0.591002, 0.973064]);
        let centre = mu.iter().zip(&w).map(|(m, w)| m * w).sum::<f64>() / w.iter().sum::<f64>();
        assert_close("F8 mean", centre, 0.217690797, 1e-9);
        let shrunk: Vec<f64> = mu.iter().zip(&w).map(|(m, w)| w * (m - centre)).collect();
        assert_all("F8 shrunk", &shrunk, &[1.677809, -1.146295, 0.166845, -0.698359]);
    }

    fn random_group(rng: &mut ChaCha8Rng, n: usize) -> Vec<Vec<f64>> {
        (0..3).map(|_| (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
    }

    #[test]
    fn property_4_affine_maps_of_a_component_change_nothing() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let fusion =
            Fusion { weights: vec![1.0, 0.5, 0.25], std_floors: vec![0.0; 3], clip: f64::INFINITY, margin: 1.0 };
        for _ in 0..50 {
            let group = random_group(&mut rng, 6);
            let passed: Vec<bool> = (0..6).map(|i| i < 3 || rng.random_bool(0.5)).collect();
            let moved: Vec<Vec<f64>> = group.iter().map(|c| c.iter().map(|v| 7.0 * v - 3.0).collect()).collect();
            let (a, b) = (fusion.fuse(&group, &passed).unwrap(), fusion.fuse(&moved, &passed).unwrap());
            assert_all("u", &a.utility, &b.utility);
        }
    }

    #[test]
    fn property_5_a_failing_rollout_never_beats_a_passing_one() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let (fusion, _) = oracle_fusion();
        for _ in 0..200 {
            let group = random_group(&mut rng, 8);
            let passed: Vec<bool> = (0..8).map(|_| rng.random_bool(0.6)).collect();
            let Some(fused) = fusion.fuse(&group, &passed) else { continue };
            let a = fused.advantages();
            let worst = a.iter().zip(&passed).filter(|(_, p)| **p).map(|(a, _)| *a).fold(f64::INFINITY, f64::min);
            let best = a.iter().zip(&passed).filter(|(_, p)| !**p).map(|(a, _)| *a).fold(f64::NEG_INFINITY, f64::max);
            assert!(best < worst, "failing {best} beats passing {worst}");
        }
    }

    #[test]
    fn the_floor_is_a_share_of_the_median_spread() {
        let groups = [vec![0.0, 2.0], vec![0.0, 0.2], vec![0.0, 1.0]];
        assert_close("floor", std_floor(&groups, 0.01), 0.3 * 0.5f64.sqrt(), 1e-12);
        assert_close("minimum", std_floor(&[vec![1.0, 1.0]], 0.01), 0.01, 1e-12);
    }
}
