//! Which K of the M candidates are shown. Pure.
//!
//! Candidates are ranked by the pessimistic reward `reward_mean - epistemic_std` (method B.3: pessimism
//! belongs to the epistemic part; aleatoric spread is disagreement between users, not ignorance), and a
//! near-copy of one already chosen is passed over. Without a reward model they are ranked by what the policy
//! itself finds likely: the mean log-probability of their tokens.

use crate::wire::Suggestion;
use std::collections::BTreeSet;

/// Word overlap (Jaccard) from which two suggestions count as the same.
const NEAR_COPY: f64 = 0.75;

/// Why a candidate is not in the slate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// Ranks below the chosen ones.
    Lower,
    /// Says nearly the same as a chosen one.
    NearCopy,
    /// Hit the token limit before its end.
    Unfinished,
    /// Nothing but blanks.
    Empty,
}

impl Passed {
    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Lower => "lower score",
            Self::NearCopy => "nearly the same as one shown",
            Self::Unfinished => "cut off at the token limit",
            Self::Empty => "empty",
        }
    }
}

/// A slate: indices into the candidates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slate {
    /// Shown, best first; at most K.
    pub chosen: Vec<usize>,
    /// Not shown, best first, with the reason.
    pub passed: Vec<(usize, Passed)>,
}

/// What candidates are ranked by: a lower bound of the reward in its units, without a score nats a token. All
/// candidates come from one checkpoint, so all have a score or none has.
#[expect(clippy::cast_precision_loss, reason = "token counts")]
fn rank_by(s: &Suggestion) -> f64 {
    match s.score {
        Some(score) => f64::from(score.reward_mean) - f64::from(score.epistemic_std),
        None => f64::from(s.logp_nats) / s.n_tokens.max(1) as f64,
    }
}

/// Chooses `k` of the candidates. A NaN score ranks last.
pub fn choose(candidates: &[Suggestion], k: usize) -> Slate {
    let mut order: Vec<usize> = (0..candidates.len()).collect();
    let key = |i: usize| {
        let score = rank_by(&candidates[i]);
        if score.is_nan() { f64::NEG_INFINITY } else { score }
    };
    order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
    let words: Vec<BTreeSet<String>> = candidates.iter().map(|s| words(&s.text)).collect();

    let mut slate = Slate::default();
    for i in order {
        let passed = if candidates[i].text.trim().is_empty() {
            Some(Passed::Empty)
        } else if !candidates[i].finished {
            Some(Passed::Unfinished)
        } else if slate.chosen.iter().any(|&j| overlap(&words[i], &words[j]) >= NEAR_COPY) {
            Some(Passed::NearCopy)
        } else if slate.chosen.len() >= k {
            Some(Passed::Lower)
        } else {
            None
        };
        match passed {
            None => slate.chosen.push(i),
            Some(reason) => slate.passed.push((i, reason)),
        }
    }
    slate
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
}

#[expect(clippy::cast_precision_loss, reason = "word counts")]
fn overlap(a: &BTreeSet<String>, b: &BTreeSet<String>) -> f64 {
    let union = a.union(b).count();
    if union == 0 { 1.0 } else { a.intersection(b).count() as f64 / union as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::engine::Score;

    fn candidate(text: &str, mean: f32, epistemic: f32, finished: bool) -> Suggestion {
        Suggestion {
            text: text.into(),
            score: Some(Score { reward_mean: mean, aleatoric_std: 0.1, epistemic_std: epistemic }),
            n_tokens: 3,
            logp_nats: -1.0,
            finished,
        }
    }

    #[test]
    fn ranks_by_lower_bound_and_skips_copies() {
        let slate = choose(
            &[
                candidate("uncertain but high", 2.0, 3.0, true),
                candidate("learn rust", 1.0, 0.1, true),
                candidate("Learn, rust!", 0.9, 0.1, true),
                candidate("rust jobs", 0.5, 0.1, true),
                candidate("cut off", 5.0, 0.0, false),
                candidate("  ", 5.0, 0.0, true),
            ],
            2,
        );
        assert_eq!(slate.chosen, [1, 3]);
        assert_eq!(
            slate.passed,
            [(4, Passed::Unfinished), (5, Passed::Empty), (2, Passed::NearCopy), (0, Passed::Lower)]
        );
    }

    #[test]
    fn without_scores_the_likelier_text_is_shown() {
        let unscored = |text: &str, logp_nats: f32, n_tokens: usize| Suggestion {
            score: None,
            logp_nats,
            n_tokens,
            ..candidate(text, 0.0, 0.0, true)
        };
        let slate = choose(&[unscored("short", -4.0, 1), unscored("longer text", -9.0, 3)], 1);
        assert_eq!(slate.chosen, [1], "3 nats a token are likelier than 4");
    }

    #[test]
    fn nan_ranks_last() {
        let slate = choose(&[candidate("a", f32::NAN, 0.0, true), candidate("b", -9.0, 0.0, true)], 1);
        assert_eq!(slate.chosen, [1]);
    }

    #[test]
    fn every_candidate_is_somewhere() {
        let all: Vec<_> = (0..8_u8).map(|i| candidate(&format!("text {i}"), f32::from(i), 0.0, true)).collect();
        let slate = choose(&all, 3);
        assert_eq!(slate.chosen.len() + slate.passed.len(), all.len());
        assert_eq!(slate.chosen, [7, 6, 5]);
    }
}
