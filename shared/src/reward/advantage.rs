//! From rewards of a group to advantages, and the ways to turn them into a loss. Method B.5.1, B.5.2,
//! oracle T6.
//!
//! [`Advantage`] names an algorithm with everything that belongs to it: advantage, ratio, clip and loss
//! normaliser. Strictly on-policy (one optimiser step per rollout batch) ratios are 1 and clips are inert; for several
//! steps per batch there is [`Advantage::off_policy_weights`].

use super::{mean, std};
use serde::{Deserialize, Serialize};

/// The algorithm that turns a group's utilities into a loss (method B.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Advantage {
    /// RLOO with a constant normaliser, then divided by the batch's standard deviation: the default.
    #[default]
    LeaveOneOut,
    /// Dr.GRPO: as RLOO but for the constant G/(G-1), and not divided by anything.
    DrGrpo,
    /// GRPO: divided by the group's standard deviation.
    Grpo,
    /// DAPO: GRPO's, groups without spread dropped, clip-higher, mean over tokens.
    Dapo,
    /// GSPO: GRPO's, with the geometric mean of the sequence's ratios and a tiny clip.
    Gspo,
    /// REINFORCE++: normalised over the batch alone.
    ReinforcePlusPlus,
}

/// What is compared with the old policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RatioOf {
    /// pi/pi_old of each token.
    Token,
    /// Of the whole sequence.
    Sequence,
    /// Of the whole sequence, geometric mean over its tokens.
    SequencePerToken,
}

/// Smallest standard deviation that a batch's leave-one-out advantages are divided by.
const BATCH_STD_FLOOR: f64 = 0.1;
/// Ratio above which a rollout with A < 0 is not pushed down any further (method B.5.2).
const DUAL_CLIP: f64 = 4.0;

impl Advantage {
    /// Every algorithm.
    pub const ALL: [Self; 6] =
        [Self::LeaveOneOut, Self::DrGrpo, Self::Grpo, Self::Dapo, Self::Gspo, Self::ReinforcePlusPlus];

    /// A_i of every rollout, `[groups][G]`, from utilities u (KL already in them where it belongs there). A group
    /// that is dropped, given as `None` or by the algorithm, gets zeros; `sizes` says how many.
    ///
    /// # Panics
    /// If a group's size is not the one given.
    pub fn of(self, groups: &[Option<Vec<f64>>], sizes: &[usize]) -> Vec<Vec<f64>> {
        assert_eq!(groups.len(), sizes.len(), "one size a group");
        let kept: Vec<Option<&Vec<f64>>> =
            groups.iter().map(|g| g.as_ref().filter(|u| self != Self::Dapo || std(u) > 0.0)).collect();
        let each = |f: fn(&[f64]) -> Vec<f64>| -> Vec<Vec<f64>> { kept.iter().flatten().map(|u| f(u)).collect() };
        let advantages = match self {
            Self::LeaveOneOut => scale_by_batch_std(&each(leave_one_out), BATCH_STD_FLOOR),
            Self::DrGrpo => each(dr_grpo),
            Self::Grpo | Self::Dapo | Self::Gspo => each(grpo),
            Self::ReinforcePlusPlus => batch_normalise(&each(<[f64]>::to_vec)),
        };
        let mut advantages = advantages.into_iter();
        kept.iter()
            .zip(sizes)
            .map(|(group, size)| {
                let of_group = match group {
                    Some(_) => advantages.next().unwrap_or_default(),
                    None => vec![0.0; *size],
                };
                assert_eq!(of_group.len(), *size, "a group's size");
                of_group
            })
            .collect()
    }

    /// What the clip looks at.
    pub fn ratio(self) -> RatioOf {
        match self {
            Self::LeaveOneOut => RatioOf::Sequence,
            Self::Gspo => RatioOf::SequencePerToken,
            Self::DrGrpo | Self::Grpo | Self::Dapo | Self::ReinforcePlusPlus => RatioOf::Token,
        }
    }

    /// eps_low and eps_high of the clip.
    pub fn clip(self) -> (f64, f64) {
        match self {
            Self::Gspo => (3e-4, 4e-4),
            Self::Dapo | Self::LeaveOneOut => (0.2, 0.28),
            Self::DrGrpo | Self::Grpo | Self::ReinforcePlusPlus => (0.2, 0.2),
        }
    }

    /// What the gradient of each token's log-probability is multiplied by, beside A, when a batch of rollouts is used
    /// again: the derivative of [`clipped_objective`], which is rho, or 0 where it is clipped. `now` and `old` are the
    /// log-probabilities (nats) of one rollout's tokens under the policy that learns and the one that the batch's first
    /// step saw, `[T]`; so is the answer. A sequence's ratio has the same derivative for each of its tokens; that of its
    /// geometric mean leaves the 1/T to [`LossNormaliser::PerSequence`].
    pub fn off_policy_weights(self, now: &[f64], old: &[f64], advantage: f64) -> Vec<f64> {
        let (low, high) = self.clip();
        let weight = |ratio: f64| {
            let objective = clipped_objective(ratio, advantage, low, high, Some(DUAL_CLIP));
            // of its branches only rho A has a slope; not so where rho has overflowed
            if objective == ratio * advantage { ratio } else { 0.0 }
        };
        match self.ratio() {
            RatioOf::Token => token_ratios(now, old).into_iter().map(weight).collect(),
            RatioOf::Sequence => vec![weight(sequence_ratio(now, old, false)); now.len()],
            RatioOf::SequencePerToken => vec![weight(sequence_ratio(now, old, true)); now.len()],
        }
    }

    /// How token losses become one number; `max_tokens` is L_max.
    pub fn normaliser(self, max_tokens: usize) -> LossNormaliser {
        match self {
            Self::LeaveOneOut | Self::DrGrpo | Self::ReinforcePlusPlus => LossNormaliser::Constant { max_tokens },
            Self::Grpo | Self::Gspo => LossNormaliser::PerSequence,
            Self::Dapo => LossNormaliser::PerToken,
        }
    }

    /// Weight of one token's loss in a batch of sequences with `lengths` tokens, by sequence: what
    /// [`join_token_losses`] does, for a trainer that sums.
    pub fn token_weights(self, lengths: &[usize], max_tokens: usize) -> Vec<f64> {
        let n = lengths.len() as f64;
        let total = lengths.iter().sum::<usize>() as f64;
        let weight = |length: &usize| match self.normaliser(max_tokens) {
            LossNormaliser::PerSequence => 1.0 / (n * (*length).max(1) as f64),
            LossNormaliser::PerToken => 1.0 / total.max(1.0),
            LossNormaliser::Constant { max_tokens } => 1.0 / (n * max_tokens as f64),
        };
        lengths.iter().map(weight).collect()
    }
}

/// DAPO's soft punishment of long answers, added to the utility where `rl.overlong_buffer` is set: 0 up to
/// `max_tokens - buffer`, then linear to -1 at `max_tokens`, and -1 beyond.
pub fn overlong_penalty(n_tokens: usize, max_tokens: usize, buffer: usize) -> f64 {
    let free = max_tokens.saturating_sub(buffer);
    if n_tokens <= free {
        return 0.0;
    }
    if buffer == 0 { -1.0 } else { (-((n_tokens - free) as f64) / buffer as f64).max(-1.0) }
}

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
/// ("normalize_then_sum"). `components[m][i]` of rollout i, returns u `[G]`. `adjust(m, z)` may change z of a component
/// before the sum, as in [`super::fusion::TwoStage::fuse_adjusted`].
pub fn normalise_then_sum(components: &[Vec<f64>], weights: &[f64], adjust: impl Fn(usize, &mut [f64])) -> Vec<f64> {
    let n = components.first().map_or(0, Vec::len);
    let mut u = vec![0.0; n];
    for (m, (values, w)) in components.iter().zip(weights).enumerate() {
        let mut z = grpo(values);
        adjust(m, &mut z);
        for (u, z) in u.iter_mut().zip(z) {
            *u += w * z;
        }
    }
    u
}

/// The alternative: weighted sum first, then normalised ("sum_then_normalize"); collapses sums that
/// differ only in scale (oracle F2). `adjust(m, d)` may change how far component m of each rollout lies from its mean;
/// the spread that the sum is divided by stays that of the rewards as they were.
pub fn sum_then_normalise(components: &[Vec<f64>], weights: &[f64], adjust: impl Fn(usize, &mut [f64])) -> Vec<f64> {
    let n = components.first().map_or(0, Vec::len);
    let sums: Vec<f64> = (0..n).map(|i| components.iter().zip(weights).map(|(c, w)| w * c[i]).sum()).collect();
    let scale = std(&sums) + STD_EPSILON;
    let mut u = vec![0.0; n];
    for (m, (values, w)) in components.iter().zip(weights).enumerate() {
        let mut distances = dr_grpo(values);
        adjust(m, &mut distances);
        for (u, d) in u.iter_mut().zip(distances) {
            *u += w * d / scale;
        }
    }
    u
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
mod tests;
