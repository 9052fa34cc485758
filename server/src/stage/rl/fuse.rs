//! From rollouts and their scores to advantages: components, hard gate, normalised fusion, veto, KL.
//! Method B.3 (3), B.4.3, B.5.3; the formulas are `beckon_shared::reward`.
//!
//! Dimension key: `G` rollouts of a group, `M` components.

use super::rollout::Group;
use crate::stage::folder::Exact;
use beckon_shared::control::RlConfig;
use beckon_shared::engine::Score;
use beckon_shared::garm::Gaussian;
use beckon_shared::garm::effective::SpreadReward;
use beckon_shared::metrics::mean;
use beckon_shared::reward::advantage::overlong_penalty;
use beckon_shared::reward::components::{NAMES, STD_FLOOR_MINIMUM, heuristics};
use beckon_shared::reward::fusion::{TwoStage, std_floor};
use beckon_shared::reward::gate::{Candidate, Gate};
use serde::{Deserialize, Serialize};

/// Logged suggestions behind the veto's threshold.
pub const N_LOGGED: usize = 1_024;
/// Bound of each z, and how far below the worst passing rollout a failing one is put.
const CLIP: f64 = 3.0;
const MARGIN: f64 = 1.0;

/// What is measured once, on the SFT policy, and then frozen: a reward must not change under a curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// s_min of each component.
    std_floors: Vec<Exact>,
    /// Largest epistemic spread that is taken for in-distribution.
    veto_above: Exact,
    /// Mean and variance of the SFT policy's suggestions: what the win probability is a probability against.
    reference: [Exact; 2],
}

impl Calibration {
    /// From rollouts of the SFT policy and scores of logged suggestions (none: no veto).
    pub fn of(groups: &[Group], scores: &[Vec<Score>], logged: &[Score], config: &RlConfig) -> Self {
        let rewards: Vec<SpreadReward> = scores.iter().flatten().map(spread_reward).collect();
        let gaussians = rewards.iter().map(|r| r.gaussian(config.aleatoric_penalty, config.epistemic_penalty));
        let (means, variances): (Vec<f64>, Vec<f64>) = gaussians.map(|g| (g.mean, g.variance)).unzip();
        let reference = Gaussian::new(mean(&means), mean(&variances));
        let components: Vec<Vec<Vec<f64>>> =
            groups.iter().zip(scores).map(|(g, s)| components(g, s, config, reference)).collect();
        let floor = |m: usize| {
            let of_groups: Vec<Vec<f64>> = components.iter().map(|c| c[m].clone()).collect();
            Exact(std_floor(&of_groups, STD_FLOOR_MINIMUM[m]))
        };
        Self {
            std_floors: (0..NAMES.len()).map(floor).collect(),
            veto_above: Exact(veto_threshold(logged, config.veto_quantile)),
            reference: [Exact(reference.mean), Exact(reference.variance)],
        }
    }

    /// A line for people.
    pub fn summary(&self) -> String {
        let floors: Vec<String> = NAMES.iter().zip(&self.std_floors).map(|(n, s)| format!("{n} {:.3}", s.0)).collect();
        format!(
            "rl: spreads frozen at {}; veto above an epistemic spread of {:.3}",
            floors.join(", "),
            self.veto_above.0
        )
    }

    /// Gate and fusion of every group; `weights` are w_m, one a component.
    pub fn fuse(&self, groups: &[Group], scores: &[Vec<Score>], weights: &[f64], config: &RlConfig) -> Fused {
        let fusion = TwoStage {
            weights: weights.to_vec(),
            std_floors: self.std_floors.iter().map(|s| s.0).collect(),
            clip: CLIP,
            margin: MARGIN,
        };
        // a group is G draws for one slot: half of them may agree before repetition costs
        let gate = Gate { max_copies: (config.group_size / 2).max(1) };
        let mut fused = Fused::default();
        for (group, scores) in groups.iter().zip(scores) {
            let candidates: Vec<Candidate> = group
                .texts
                .iter()
                .zip(&group.finished)
                .map(|(text, finished)| Candidate { text, finished: *finished })
                .collect();
            let passed: Vec<bool> = gate.check(&group.prompt, &candidates).iter().map(Option::is_none).collect();
            let far: Vec<bool> = scores.iter().map(|s| f64::from(s.epistemic_std) > self.veto_above.0).collect();
            let components = components(group, scores, config, self.reference());
            let vetoed = std::cell::Cell::new(0);
            let mut utilities = config.fusion.utilities(&fusion, &components, &passed, |m, z| {
                for (z, _) in z.iter_mut().zip(&far).filter(|(z, far)| m == 0 && **far && **z > 0.0) {
                    *z = 0.0;
                    vetoed.set(vetoed.get() + 1);
                }
            });
            let penalties = overlong(group, config);
            for (u, penalty) in utilities.iter_mut().flatten().zip(&penalties) {
                *u += penalty;
            }
            fused.n_vetoed += vetoed.get();
            fused.n_failed += passed.iter().filter(|p| !**p).count();
            fused.components.push(components);
            fused.utilities.push(utilities);
            fused.penalties.extend(penalties);
        }
        fused
    }

    fn reference(&self) -> Gaussian {
        Gaussian::new(self.reference[0].0, self.reference[1].0)
    }
}

/// DAPO's soft punishment of each rollout of a group, -1 to 0, its end counted as a token; none where it is off. What passed the
/// gate falls by no more than the margin that it has over what failed; what was cut off has failed, and gets -1 too.
fn overlong(group: &Group, config: &RlConfig) -> Vec<f64> {
    if config.overlong_buffer == 0 {
        return Vec::new();
    }
    let penalty = |n_tokens| overlong_penalty(n_tokens, config.max_new_tokens, config.overlong_buffer);
    group.sequences.iter().map(|sequence| penalty(sequence.n_suggestion())).collect()
}

/// The epistemic spread that a share `quantile` of logged text stays below; infinite (no veto) for a share of 1,
/// and without logged text.
fn veto_threshold(logged: &[Score], quantile: f64) -> f64 {
    let mut spreads: Vec<f64> = logged.iter().map(|s| f64::from(s.epistemic_std)).collect();
    if quantile >= 1.0 || spreads.is_empty() {
        return f64::INFINITY;
    }
    spreads.sort_by(f64::total_cmp);
    spreads[((quantile * spreads.len() as f64) as usize).min(spreads.len() - 1)]
}

fn spread_reward(score: &Score) -> SpreadReward {
    let [mean, aleatoric_std, epistemic_std] =
        [score.reward_mean, score.aleatoric_std, score.epistemic_std].map(f64::from);
    SpreadReward { mean, aleatoric_std, epistemic_std }
}

/// r1 to r6 of a group, `[M][G]`.
fn components(group: &Group, scores: &[Score], config: &RlConfig, reference: Gaussian) -> Vec<Vec<f64>> {
    let (aleatoric, epistemic) = (config.aleatoric_penalty, config.epistemic_penalty);
    let garm = |s: &Score| config.effective.value(spread_reward(s), aleatoric, epistemic, reference);
    let mut components = vec![scores.iter().map(garm).collect()];
    components.extend(heuristics(&group.prompt, &group.texts));
    components
}

/// A step's groups after both stages.
#[derive(Debug, Clone, Default)]
pub struct Fused {
    /// u of each group, `[G]`; `None` where the group teaches nothing.
    utilities: Vec<Option<Vec<f64>>>,
    components: Vec<Vec<Vec<f64>>>,
    /// Of every rollout, as they are in the utilities; empty where length is not punished.
    penalties: Vec<f64>,
    n_failed: usize,
    n_vetoed: usize,
}

impl Fused {
    fn n_rollouts(&self) -> usize {
        self.components.iter().map(|c| c[0].len()).sum()
    }

    /// Mean of component `m` over all rollouts.
    pub fn mean_of_component(&self, m: usize) -> f64 {
        self.components.iter().flat_map(|c| &c[m]).sum::<f64>() / self.n_rollouts() as f64
    }

    /// Share of rollouts that failed the gate.
    pub fn gate_failure_rate(&self) -> f64 {
        self.n_failed as f64 / self.n_rollouts() as f64
    }

    /// Share of rollouts whose positive GaRM part was taken away.
    pub fn veto_rate(&self) -> f64 {
        self.n_vetoed as f64 / self.n_rollouts() as f64
    }

    /// Mean punishment of length over all rollouts, -1 to 0; `None` where there is none.
    pub fn overlong_penalty(&self) -> Option<f64> {
        (!self.penalties.is_empty()).then(|| mean(&self.penalties))
    }

    /// A_i of every rollout under the configured algorithm, from u_i - beta k1_i. `k1` runs over all rollouts, and
    /// beta is 0 where the KL term stands elsewhere. A group that teaches nothing gets zeros.
    pub fn advantages(&self, k1: &[f64], beta: f64, config: &RlConfig) -> Vec<f64> {
        let sizes: Vec<usize> = self.components.iter().map(|c| c[0].len()).collect();
        let mut k1 = k1.iter();
        let groups: Vec<Option<Vec<f64>>> = self
            .utilities
            .iter()
            .zip(&sizes)
            .map(|(utilities, size)| {
                let own: Vec<f64> = k1.by_ref().take(*size).copied().collect();
                utilities.as_ref().map(|u| u.iter().zip(own).map(|(u, k)| u - beta * k).collect())
            })
            .collect();
        config.advantage.of(&groups, &sizes).concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::Sequence;
    use beckon_shared::metrics::assert_close;
    use beckon_shared::prompt::Prompt;
    use beckon_shared::reward::fusion::Fusion;

    fn group(texts: &[&str]) -> Group {
        Group {
            prompt: Prompt::from_query("aloe vera"),
            texts: texts.iter().map(|t| (*t).to_owned()).collect(),
            finished: vec![true; texts.len()],
            logps: vec![vec![-1.0]; texts.len()],
            sequences: vec![Sequence::new(&[3], &[4]); texts.len()],
        }
    }

    fn score(mean: f32, epistemic: f32) -> Score {
        Score { reward_mean: mean, aleatoric_std: 0.4, epistemic_std: epistemic }
    }

    fn config() -> RlConfig {
        RlConfig { group_size: 4, ..RlConfig::default() }
    }

    #[test]
    fn what_is_far_from_logged_text_is_not_praised() {
        let groups = [group(&["aloe vera gel", "aloe vera juice", "aloe vera hair", "aloe vera plant"])];
        let near = vec![vec![score(1.0, 0.1), score(0.0, 0.1), score(0.2, 0.1), score(0.1, 0.1)]];
        let calibration = Calibration::of(&groups, &near, &[score(0.0, 0.2), score(0.0, 0.5)], &config());
        assert_close("threshold", calibration.veto_above.0, 0.5, 1e-6);
        let before = calibration.fuse(&groups, &near, &config().weights.to_array(), &config());
        assert_close("no veto", before.veto_rate(), 0.0, 0.0);
        let mut far = near.clone();
        far[0][0] = score(3.0, 0.9);
        let after = calibration.fuse(&groups, &far, &config().weights.to_array(), &config());
        assert_close("one of four", after.veto_rate(), 0.25, 0.0);
        let lead = |f: &Fused| f.utilities[0].as_ref().map_or(f64::NAN, |u| u[0] - u[2]);
        assert!(lead(&before) > 1.0, "{}", lead(&before));
        assert!(lead(&after) < lead(&before) - 1.0, "its praise was taken away: {}", lead(&after));
        assert_close("component 0", after.components[0][0][0], 3.0 - 0.25 * 0.4 - 0.9, 1e-6);
        // an ablation of the fusion is one of the fusion alone
        for fusion in [Fusion::SumThenNormalise, Fusion::NormaliseThenSum, Fusion::SoftGate] {
            let config = RlConfig { fusion, ..config() };
            let fused = |scores: &[Vec<Score>]| calibration.fuse(&groups, scores, &config.weights.to_array(), &config);
            assert_close("one of four", fused(&far).veto_rate(), 0.25, 0.0);
            assert!(lead(&fused(&far)) < lead(&fused(&near)), "{fusion:?}: a better reward and no more praise");
        }
    }

    #[test]
    fn the_gate_comes_first_and_a_failed_group_teaches_nothing() {
        let groups =
            [group(&["aloe vera gel", "aloe vera", "aloe vera juice", "see www.a.com"]), group(&["aloe vera"; 4])];
        let scores =
            vec![vec![score(0.0, 0.0), score(9.0, 0.0), score(0.5, 0.0), score(9.0, 0.0)], vec![score(1.0, 0.0); 4]];
        let calibration = Calibration::of(&groups, &scores, &[], &config());
        let fused = calibration.fuse(&groups, &scores, &config().weights.to_array(), &config());
        assert_close("failures", fused.gate_failure_rate(), 6.0 / 8.0, 0.0);
        let a = fused.advantages(&[0.0; 8], 0.03, &config());
        assert!(a[1].max(a[3]) < a[0].min(a[2]), "{a:?}");
        assert_eq!(a[4..], [0.0; 4]);
        assert_close("sum", a.iter().sum::<f64>(), 0.0, 1e-12);
    }

    #[test]
    fn kl_lowers_the_advantage_of_what_left_the_reference() {
        let groups = [group(&["aloe vera gel", "aloe vera juice", "aloe vera hair", "aloe vera plant"])];
        let scores = vec![vec![score(0.5, 0.1); 4]];
        let calibration = Calibration::of(&groups, &scores, &[], &config());
        let fused = calibration.fuse(&groups, &scores, &config().weights.to_array(), &config());
        let (free, held) =
            (fused.advantages(&[0.0; 4], 1.0, &config()), fused.advantages(&[4.0, 0.0, 0.0, 0.0], 1.0, &config()));
        assert!(held[0] < free[0] - 0.3, "{free:?} {held:?}");
    }

    /// Two copies of one text, as tokens of any number, have one utility but for the punishment.
    #[test]
    fn a_longer_suggestion_of_the_same_utility_has_a_lower_advantage_where_length_is_punished() {
        let texts = ["aloe vera gel", "aloe vera gel", "aloe vera hair", "aloe vera plant"];
        let of_lengths = |lengths: [usize; 4]| Group {
            sequences: lengths.iter().map(|&n| Sequence::new(&[3], &vec![4; n])).collect(),
            ..group(&texts)
        };
        let scores = vec![vec![score(0.5, 0.1), score(0.5, 0.1), score(0.2, 0.1), score(0.1, 0.1)]];
        let advantages = |lengths, overlong_buffer| {
            let (groups, config) = ([of_lengths(lengths)], RlConfig { max_new_tokens: 8, overlong_buffer, ..config() });
            let calibration = Calibration::of(&groups, &scores, &[], &config);
            let fused = calibration.fuse(&groups, &scores, &config.weights.to_array(), &config);
            (fused.advantages(&[0.0; 4], 0.0, &config), fused.overlong_penalty())
        };
        let (short, long) = ([4, 4, 4, 4], [4, 7, 4, 4]);
        let off = advantages(short, 0);
        assert_eq!((advantages(long, 0), off.1), (off.clone(), None), "off: length is nothing");
        assert_eq!(advantages(short, 4), (off.0, Some(0.0)), "none is long");
        let (a, penalty) = advantages(long, 4);
        assert!(a[1] < a[0] - 0.1, "{a:?}");
        assert_close("3 of the last 4 tokens, of one of 4", penalty.unwrap_or(f64::NAN), -0.75 / 4.0, 1e-12);
    }

    #[test]
    fn a_share_of_one_is_no_veto() {
        let logged: Vec<Score> = (0..100).map(|i| score(0.0, i as f32)).collect();
        assert_close("nine in ten", veto_threshold(&logged, 0.9), 90.0, 0.0);
        assert_eq!((veto_threshold(&logged, 1.0), veto_threshold(&[], 0.9)), (f64::INFINITY, f64::INFINITY));
    }

    #[test]
    fn every_rule_and_algorithm_prefers_the_better_rollout() {
        use beckon_shared::garm::effective::EffectiveReward;
        use beckon_shared::reward::advantage::Advantage;
        let groups = [group(&["aloe vera gel", "aloe vera juice", "aloe vera hair", "aloe vera plant"])];
        let scores = vec![vec![score(2.0, 0.1), score(0.0, 0.1), score(0.1, 0.1), score(-0.1, 0.1)]];
        let rewards = [
            EffectiveReward::Penalised,
            EffectiveReward::Mean,
            EffectiveReward::LowerBound { k: 1.0 },
            EffectiveReward::WinProbability,
        ];
        let fusions = [Fusion::TwoStage, Fusion::SumThenNormalise, Fusion::NormaliseThenSum, Fusion::SoftGate];
        for (effective, fusion) in rewards.into_iter().flat_map(|r| fusions.map(|f| (r, f))) {
            for advantage in Advantage::ALL {
                let config = RlConfig { effective, fusion, advantage, ..config() };
                let calibration = Calibration::of(&groups, &scores, &[], &config);
                let fused = calibration.fuse(&groups, &scores, &config.weights.to_array(), &config);
                let a = fused.advantages(&[0.0; 4], 0.1, &config);
                let best = a[1].max(a[2]).max(a[3]);
                assert!(a[0] > best, "{effective:?} {fusion:?} {advantage:?}: {a:?}");
            }
        }
    }
}
