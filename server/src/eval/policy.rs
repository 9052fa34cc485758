//! Held-out evaluation of a policy as the page would run it: the quantized checkpoint on the CPU
//! executor's integer path draws suggestions, GaRM scores them. Method B.6.2.
//!
//! The mean reward is the model that RL was trained on; only the simulator ([`super::simulator`]) and an
//! A/B test judge independently.

use super::{EvalError, mean_and_t_interval, null_as_nan, nulls_as_nan};
use crate::model::device::block_on;
use crate::model::threads;
use crate::report::ScoredText;
use crate::stage::aside::evenly;
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::engine::{Limits, SuggestRequest, Suggestion};
use beckon_shared::metrics::diversity::{Smoothing, distinct_n, self_bleu_2};
use beckon_shared::metrics::mean;
use beckon_shared::prompt::Prompt;
use beckon_shared::reward::gate::{Candidate, Gate, is_not_a_copy};
use beckon_shared::sampling::Sampling;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// How many suggestions are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleSize {
    /// Prompts, evenly taken from those given.
    pub n_prompts: usize,
    /// Suggestions a prompt.
    pub n_per_prompt: usize,
    /// Longest suggestion in tokens.
    pub max_new_tokens: usize,
}

/// Figures of one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyFigures {
    /// Which policy.
    pub policy: String,
    /// Prompts.
    pub n_prompts: usize,
    /// Suggestions drawn.
    pub n_suggestions: usize,
    /// GaRM's mean.
    #[serde(deserialize_with = "null_as_nan")]
    pub reward_mean: f64,
    /// 95% t-interval over prompts.
    #[serde(deserialize_with = "nulls_as_nan")]
    pub reward_interval: (f64, f64),
    /// GaRM's epistemic standard deviation.
    #[serde(deserialize_with = "null_as_nan")]
    pub epistemic_std_mean: f64,
    /// Share that breaks a rule of the hard gate; repetition within a prompt not counted.
    #[serde(deserialize_with = "null_as_nan")]
    pub gate_failure_rate: f64,
    /// Share that copies a turn of the conversation.
    #[serde(deserialize_with = "null_as_nan")]
    pub copy_rate: f64,
    /// Share that repeats an earlier suggestion for the same prompt.
    #[serde(deserialize_with = "null_as_nan")]
    pub duplicate_rate: f64,
    /// Different words over words, whole sample.
    #[serde(deserialize_with = "null_as_nan")]
    pub distinct_1: f64,
    /// Different word pairs over word pairs, whole sample.
    #[serde(deserialize_with = "null_as_nan")]
    pub distinct_2: f64,
    /// Self-BLEU-2 within a prompt (add-1), mean over suggestions that have others beside them; high is repetitive.
    #[serde(default = "undefined", deserialize_with = "null_as_nan")]
    pub self_bleu_2: f64,
    /// Words a suggestion.
    #[serde(deserialize_with = "null_as_nan")]
    pub n_words_mean: f64,
}

/// A figure that reports of an older version lack.
fn undefined() -> f64 {
    f64::NAN
}

/// What a policy wrote for one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// The conversation.
    pub prompt: Prompt,
    /// Suggestions with scores.
    pub suggestions: Vec<Suggestion>,
}

impl Written {
    /// Texts with scores, for the report.
    pub fn scored_texts(&self) -> Vec<ScoredText> {
        self.suggestions.iter().map(|s| ScoredText { text: s.text.clone(), score: s.score }).collect()
    }
}

/// Draws suggestions at temperature 1 for some of `prompts`; prompt `i` draws from seed `seed + i`.
///
/// # Errors
/// The checkpoint cannot be run.
pub fn write_suggestions(
    checkpoint: &Checkpoint,
    prompts: &[Prompt],
    size: SampleSize,
    seed: u64,
) -> Result<Vec<Written>, EvalError> {
    let limits = Limits::of(&checkpoint.manifest.model).fastest();
    let mut engine = threads::cpu_engine(checkpoint, limits)?;
    let mut written = Vec::new();
    for (i, prompt) in evenly(prompts, size.n_prompts).into_iter().enumerate() {
        let request = SuggestRequest {
            prompt: prompt.clone(),
            n_candidates: size.n_per_prompt,
            max_new_tokens: size.max_new_tokens,
            sampling: Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: seed.wrapping_add(i as u64) },
        };
        let outcome = block_on(engine.suggest(&request, &|| 0.0))?;
        written.push(Written { prompt, suggestions: outcome.suggestions });
    }
    Ok(written)
}

/// Figures of what a policy wrote; undefined ones are NaN.
pub fn policy_figures(policy: &str, written: &[Written]) -> PolicyFigures {
    let all: Vec<&Suggestion> = written.iter().flat_map(|w| &w.suggestions).collect();
    let texts: Vec<&str> = all.iter().map(|s| s.text.as_str()).collect();
    let share = |counts: &dyn Fn(&Written) -> usize| {
        written.iter().map(counts).sum::<usize>() as f64 / all.len() as f64 //
    };
    let per_prompt: Vec<f64> = written
        .iter()
        .map(|w| w.suggestions.iter().filter_map(|s| Some(f64::from(s.score?.reward_mean))).collect::<Vec<_>>())
        .filter(|rewards| !rewards.is_empty())
        .map(|rewards| mean(&rewards))
        .collect();
    let (reward_mean, reward_interval) = mean_and_t_interval(&per_prompt);
    PolicyFigures {
        policy: policy.to_owned(),
        n_prompts: written.len(),
        n_suggestions: all.len(),
        reward_mean,
        reward_interval,
        epistemic_std_mean: mean(
            &all.iter().filter_map(|s| Some(f64::from(s.score?.epistemic_std))).collect::<Vec<_>>(),
        ),
        gate_failure_rate: share(&n_gate_failures),
        copy_rate: share(&|w| w.suggestions.iter().filter(|s| !is_not_a_copy(&s.text, &w.prompt)).count()),
        duplicate_rate: share(&n_duplicates),
        distinct_1: distinct_n(&texts, 1),
        distinct_2: distinct_n(&texts, 2),
        self_bleu_2: mean(&written.iter().flat_map(self_bleu).collect::<Vec<_>>()),
        n_words_mean: mean(&texts.iter().map(|t| t.split_whitespace().count() as f64).collect::<Vec<_>>()),
    }
}

fn n_gate_failures(w: &Written) -> usize {
    let group: Vec<Candidate> =
        w.suggestions.iter().map(|s| Candidate { text: &s.text, finished: s.finished }).collect();
    let gate = Gate { max_copies: group.len() };
    gate.check(&w.prompt, &group).iter().filter(|broken| broken.is_some()).count()
}

fn self_bleu(w: &Written) -> Vec<f64> {
    let texts: Vec<&str> = w.suggestions.iter().map(|s| s.text.as_str()).collect();
    self_bleu_2(&texts, Smoothing::AddOne).into_iter().filter(|score| !score.is_nan()).collect()
}

fn n_duplicates(w: &Written) -> usize {
    let distinct: HashSet<&str> = w.suggestions.iter().map(|s| s.text.as_str()).collect();
    w.suggestions.len() - distinct.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::engine::Score;
    use beckon_shared::metrics::assert_close;

    fn suggestion(text: &str, reward_mean: f32, finished: bool) -> Suggestion {
        Suggestion {
            text: text.into(),
            tokens: vec![5],
            logps: vec![-1.0],
            finished,
            score: Some(Score { reward_mean, aleatoric_std: 1.0, epistemic_std: 0.5 }),
        }
    }

    #[test]
    fn figures_by_hand() {
        let written = [
            Written {
                prompt: Prompt::from_query("play the guitar well"),
                suggestions: vec![suggestion("guitar chords", 1.0, true), suggestion("guitar chords", 1.0, true)],
            },
            Written {
                prompt: Prompt::from_query("bake a sourdough bread"),
                suggestions: vec![suggestion("bake a sourdough bread", -1.0, true), suggestion("cake", 0.0, false)],
            },
        ];
        let f = policy_figures("p", &written);
        assert_eq!((f.n_prompts, f.n_suggestions), (2, 4));
        // prompt means 1 and -0.5
        assert_close("reward", f.reward_mean, 0.25, 1e-6);
        assert_close("gate", f.gate_failure_rate, 0.5, 1e-12);
        assert_close("copies", f.copy_rate, 0.25, 1e-12);
        assert_close("duplicates", f.duplicate_rate, 0.25, 1e-12);
        assert_close("distinct-1", f.distinct_1, 7.0 / 9.0, 1e-12);
        // 1 twice; "cake" shares no word with its neighbour, nor the other way round
        assert_close("self-BLEU-2", f.self_bleu_2, 0.5, 1e-12);
        assert_close("words", f.n_words_mean, 9.0 / 4.0, 1e-12);
    }

    #[test]
    fn without_a_reward_model_only_the_reward_is_undefined() {
        let unscored = Suggestion { score: None, ..suggestion("guitar chords", 0.0, true) };
        let prompt = Prompt::from_query("play the guitar well");
        let f = policy_figures("p", &[Written { prompt, suggestions: vec![unscored] }]);
        assert!(f.reward_mean.is_nan() && f.epistemic_std_mean.is_nan());
        assert_close("words", f.n_words_mean, 2.0, 1e-12);
    }

    #[test]
    fn nothing_written_is_undefined_and_survives_json() {
        let figures = policy_figures("p", &[]);
        assert!(figures.reward_mean.is_nan());
        let json = serde_json::to_string(&figures).expect("serialises");
        let back: PolicyFigures = serde_json::from_str(&json).expect("reads null as undefined");
        assert!(back.reward_interval.0.is_nan() && back.n_prompts == 0);
    }
}
