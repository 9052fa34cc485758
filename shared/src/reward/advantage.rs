//! From rewards of a group to advantages, and the ways to turn them into a loss. Method B.5.1, B.5.2,
//! oracle T6.
//!
//! RL here is strictly on-policy (one optimiser step per rollout batch), so ratios are 1 and clips are
//! inert; [`sequence_ratio`], [`token_ratios`] and [`clipped_objective`] are the references for a
//! trainer that takes several steps per batch.

use super::{mean, std};

/// The usual constant beside a standard deviation in published code; ours is a floor instead.
const STD_EPSILON: f64 = 1e-4;

/// RLOO and ours: r_i - mean of the others = (G/(G-1)) (r_i - mean). Zeros for G < 2. Sums to 0.
pub fn leave_one_out(rewards: &[f64]) -> Vec<f64> {
    let n = rewards.len() as f64;
    if rewards.len() < 2 {
        return vec![0.0; rewards.len()];
    }
    let m = mean(rewards);
    rewards.iter().map(|r| n / (n - 1.0) * (r - m)).collect()
}

/// GRPO: (r_i - mean)/(std + 1e-4) per group; blows up noise where all rewards are close (oracle F1b).
pub fn grpo(rewards: &[f64]) -> Vec<f64> {
    let (m, s) = (mean(rewards), std(rewards));
    rewards.iter().map(|r| (r - m) / (s + STD_EPSILON)).collect()
}

/// Dr.GRPO: r_i - mean.
pub fn dr_grpo(rewards: &[f64]) -> Vec<f64> {
    let m = mean(rewards);
    rewards.iter().map(|r| r - m).collect()
}

/// GDPO's first step: every component normalised within the group, then the weighted sum
/// ("normalize_then_sum"). `components[m][i]` of rollout i, returns u `[G]`.
pub fn normalise_then_sum(components: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let n = components.first().map_or(0, Vec::len);
    let mut u = vec![0.0; n];
    for (values, w) in components.iter().zip(weights) {
        for (u, z) in u.iter_mut().zip(grpo(values)) {
            *u += w * z;
        }
    }
    u
}

/// The alternative: weighted sum first, then normalised ("sum_then_normalize"); collapses sums that
/// differ only in scale (oracle F2).
pub fn sum_then_normalise(components: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let n = components.first().map_or(0, Vec::len);
    let sums: Vec<f64> = (0..n).map(|i| components.iter().zip(weights).map(|(c, w)| w * c[i]).sum()).collect();
    grpo(&sums)
}

/// GDPO's second step: mean and standard deviation over the whole batch of groups. `groups[g]` is u of a group.
pub fn batch_normalise(groups: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let all: Vec<f64> = groups.iter().flatten().copied().collect();
    let (m, s) = (mean(&all), std(&all));
    groups.iter().map(|g| g.iter().map(|u| (u - m) / (s + STD_EPSILON)).collect()).collect()
}

/// Divides by the standard deviation of the batch, floored; no centring, so each group's sum stays 0.
/// Method B.4.3, last step.
pub fn scale_by_batch_std(groups: &[Vec<f64>], floor: f64) -> Vec<Vec<f64>> {
    let all: Vec<f64> = groups.iter().flatten().copied().collect();
    let s = std(&all).max(floor);
    groups.iter().map(|g| g.iter().map(|a| a / s).collect()).collect()
}

/// How token losses become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossNormaliser {
    /// GRPO: mean over a sequence, then over sequences; long sequences count less per token.
    PerSequence,
    /// DAPO: mean over all tokens.
    PerToken,
    /// Dr.GRPO and ours: sum divided by the constant `max_tokens` times the number of sequences.
    Constant {
        /// L_max.
        max_tokens: usize,
    },
}

/// Joins the token losses of a batch of sequences.
pub fn join_token_losses(sequences: &[Vec<f64>], normaliser: LossNormaliser) -> f64 {
    let n = sequences.len() as f64;
    let sum: f64 = sequences.iter().flatten().sum();
    match normaliser {
        LossNormaliser::PerSequence => sequences.iter().map(|s| mean(s)).sum::<f64>() / n,
        LossNormaliser::PerToken => sum / sequences.iter().map(Vec::len).sum::<usize>() as f64,
        LossNormaliser::Constant { max_tokens } => sum / (n * max_tokens as f64),
    }
}

/// pi/pi_old of each token.
pub fn token_ratios(logps: &[f64], old_logps: &[f64]) -> Vec<f64> {
    logps.iter().zip(old_logps).map(|(new, old)| (new - old).exp()).collect()
}

/// pi/pi_old of the sequence; with `per_token` its geometric mean over tokens (GSPO).
pub fn sequence_ratio(logps: &[f64], old_logps: &[f64], per_token: bool) -> f64 {
    let sum: f64 = logps.iter().zip(old_logps).map(|(new, old)| new - old).sum();
    if per_token { (sum / logps.len() as f64).exp() } else { sum.exp() }
}

/// min(rho A, clip(rho, 1 - eps_low, 1 + eps_high) A), to be maximised. `dual_clip` bounds rho from
/// above where A < 0 (method B.5.2 uses 4).
pub fn clipped_objective(ratio: f64, advantage: f64, eps_low: f64, eps_high: f64, dual_clip: Option<f64>) -> f64 {
    let clipped = (ratio * advantage).min(ratio.clamp(1.0 - eps_low, 1.0 + eps_high) * advantage);
    match dual_clip {
        Some(limit) if advantage < 0.0 => clipped.max(limit * advantage),
        _ => clipped,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[track_caller]
    fn assert_all(name: &str, got: &[f64], want: &[f64], tol: f64) {
        assert_eq!(got.len(), want.len(), "{name}");
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            assert_close(&format!("{name}[{i}]"), *g, *w, tol);
        }
    }

    #[test]
    fn oracle_f1() {
        let r = [1.0, 0.5, 0.0, 0.25];
        assert_close("std", std(&r), 0.426956282, 1e-9);
        assert_all("GRPO", &grpo(&r), &[1.317157, 0.146351, -1.024455, -0.439052], 1e-6);
        assert_all("Dr.GRPO", &dr_grpo(&r), &[0.5625, 0.0625, -0.4375, -0.1875], 1e-12);
        assert_all("RLOO", &leave_one_out(&r), &[0.75, 0.083333, -0.583333, -0.25], 1e-6);
        let noise = [0.5001, 0.5, 0.5, 0.4999];
        assert_all("GRPO on noise", &grpo(&noise), &[0.550510, 0.0, 0.0, -0.550510], 1e-6);
        assert_all("RLOO on noise", &leave_one_out(&noise), &[0.000133, 0.0, 0.0, -0.000133], 1e-6);
    }

    #[test]
    fn oracle_f2() {
        let rows = [
            ([0.0, 1.0], [0.0, 0.0], 0.707007, 0.707007),
            ([0.0, 1.0], [0.0, 1.0], 0.707057, 1.414014),
            ([0.0, 2.0], [0.0, 0.0], 0.707057, 0.707057),
        ];
        for (first, second, sum_first, normalised_first) in rows {
            let components = [first.to_vec(), second.to_vec()];
            assert_all("sum first", &sum_then_normalise(&components, &[1.0, 1.0]), &[-sum_first, sum_first], 1e-6);
            let got = normalise_then_sum(&components, &[1.0, 1.0]);
            assert_all("normalise first", &got, &[-normalised_first, normalised_first], 1e-6);
        }
    }

    #[test]
    fn oracle_f3() {
        let w = [1.0, 0.5];
        let one = [vec![0.9, 0.4, 0.1, 0.6], vec![0.2, 0.8, 0.5, 0.5]];
        let two = [vec![0.3, 0.35, 0.2, 0.25], vec![0.9, 0.1, 0.4, 0.6]];
        let u = [normalise_then_sum(&one, &w), normalise_then_sum(&two, &w)];
        assert_all("u1", &u[0], &[0.575702, 0.315166, -1.187824, 0.296956], 1e-6);
        assert_all("u2", &u[1], &[0.980611, 0.566186, -1.308576, -0.238221], 1e-6);
        let a = batch_normalise(&u);
        assert_all("A1", &a[0], &[0.682386, 0.373570, -1.407942, 0.351985], 1e-6);
        assert_all("A2", &a[1], &[1.162330, 0.671106, -1.551070, -0.282366], 1e-6);
        assert_all("sum 1", &sum_then_normalise(&one, &w), &[0.892918, 0.178584, -1.428669, 0.357167], 1e-6);
        assert_all("sum 2", &sum_then_normalise(&two, &w), &[1.355983, -0.753324, -0.753324, 0.150665], 1e-6);
    }

    #[test]
    fn oracle_f9_to_f11() {
        let sequences = [vec![1.0, 1.0], vec![2.0; 4]];
        assert_close("GRPO", join_token_losses(&sequences, LossNormaliser::PerSequence), 1.5, 1e-12);
        assert_close("DAPO", join_token_losses(&sequences, LossNormaliser::PerToken), 1.666667, 1e-6);
        let constant = LossNormaliser::Constant { max_tokens: 8 };
        assert_close("Dr.GRPO", join_token_losses(&sequences, constant), 0.625, 1e-12);
        let (old, new) = ([-1.0, -2.0, -0.5], [-0.9, -2.1, -0.4]);
        assert_all("token ratios", &token_ratios(&new, &old), &[1.105171, 0.904837, 1.105171], 1e-6);
        assert_close("GSPO", sequence_ratio(&new, &old, true), 1.033895114, 1e-9);
        assert_close("sequence", sequence_ratio(&new, &old, false), 1.105170918, 1e-9);
        assert_close("clip", clipped_objective(1.3, 1.0, 0.2, 0.2, None), 1.2, 1e-12);
        assert_close("clip-higher", clipped_objective(1.3, 1.0, 0.2, 0.28, None), 1.28, 1e-12);
        assert_close("negative", clipped_objective(0.7, -1.0, 0.2, 0.2, None), -0.8, 1e-12);
        assert_close("negative above", clipped_objective(1.5, -1.0, 0.2, 0.2, None), -1.5, 1e-12);
        assert_close("dual clip", clipped_objective(9.0, -1.0, 0.2, 0.2, Some(4.0)), -4.0, 1e-12);
    }

    #[test]
    fn property_3_leave_one_out_sums_to_zero() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for n in 1..20 {
            let r: Vec<f64> = (0..n).map(|_| rng.random_range(-5.0..5.0)).collect();
            let a = leave_one_out(&r);
            assert_close("sum", a.iter().sum::<f64>(), 0.0, 1e-12);
            if n > 1 {
                let others = (r.iter().sum::<f64>() - r[0]) / (n - 1) as f64;
                assert_close("definition", a[0], r[0] - others, 1e-12);
            }
            let scaled = scale_by_batch_std(&[a], 0.1);
            assert_close("scaled sum", scaled[0].iter().sum::<f64>(), 0.0, 1e-12);
        }
    }
}
