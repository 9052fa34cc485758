//! What a policy writes while it trains, for people: a few suggestions for a few prompts, the same prompts with the same draws
//! at every look, so that only the policy changes from one to the next.
//!
//! Bounded, as it is kept and sent like a line of the log: [`N_PROMPTS`] prompts, [`N_SUGGESTIONS`] of each, texts cut at
//! [`MAX_CHARS`] characters.

use super::Stage;
use crate::engine::Score;
use crate::prompt::Prompt;
use serde::{Deserialize, Serialize};

/// Prompts of a sample, at most.
pub const N_PROMPTS: usize = 3;
/// Suggestions for each, at most.
pub const N_SUGGESTIONS: usize = 3;
/// Characters of a text; of a longer one the last is `…`.
pub const MAX_CHARS: usize = 160;

/// What the policy of a run wrote after a step, as `GET /api/runs/{id}/samples` gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Sample {
    /// Which run.
    pub run_id: String,
    /// Which stage: `sft` or `rl`.
    pub stage: Stage,
    /// Steps of the stage that were done.
    pub step: usize,
    /// The same prompts, in the same order, in every sample of a stage.
    pub prompts: Vec<SampledPrompt>,
}

/// A prompt with what was written for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SampledPrompt {
    /// Its last user turn.
    pub prompt: String,
    /// In the order of their draws, none of them chosen.
    pub suggestions: Vec<SampledText>,
}

/// A suggestion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SampledText {
    /// What was written.
    pub text: String,
    /// What GaRM says of it, where there is one already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
}

impl SampledPrompt {
    /// The first [`N_SUGGESTIONS`] of `texts`, cut. A score that is not finite is left out: JSON has no word for it.
    pub fn new<'a>(prompt: &Prompt, texts: impl IntoIterator<Item = (&'a str, Option<Score>)>) -> Self {
        let is_finite = |s: &Score| [s.reward_mean, s.aleatoric_std, s.epistemic_std].iter().all(|x| x.is_finite());
        let sampled = |(text, score): (&str, Option<Score>)| SampledText {
            text: cut(text.trim()),
            score: score.filter(is_finite),
        };
        let suggestions = texts.into_iter().take(N_SUGGESTIONS).map(sampled).collect();
        Self { prompt: cut(prompt.query().trim()), suggestions }
    }
}

/// A text of at most [`MAX_CHARS`] characters.
fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        None => text.to_owned(),
        Some(_) => text.chars().take(MAX_CHARS - 1).chain(['…']).collect(),
    }
}

/// A sample in one line, for terminals: the first suggestion for each prompt.
pub fn in_one_line(stage: Stage, step: usize, prompts: &[SampledPrompt]) -> String {
    let written = |prompt: &SampledPrompt| {
        let first = prompt.suggestions.first()?;
        let score = first.score.map(|score| format!(" ({:.2} ± {:.2})", score.reward_mean, score.reward_std()));
        // quoted, so that a line break in a text makes none here
        Some(format!("{:?} → {:?}{}", prompt.prompt, first.text, score.unwrap_or_default()))
    };
    let written: Vec<String> = prompts.iter().filter_map(written).collect();
    format!("{} step {step} writes: {}", stage.name(), written.join("; "))
}

/// The newest of the samples of a run, and the first of the same stage to compare it with; `samples` are by stage and step.
pub fn first_and_newest(samples: &[Sample]) -> Option<(&Sample, &Sample)> {
    let newest = samples.last()?;
    let first = samples.iter().find(|sample| sample.stage == newest.stage)?;
    Some((first, newest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORE: Score = Score { reward_mean: 0.5, aleatoric_std: 0.3, epistemic_std: 0.4 };

    #[test]
    fn a_sample_is_bounded_whatever_is_written() {
        let long = "é".repeat(MAX_CHARS + 1);
        let exact = "é".repeat(MAX_CHARS);
        let broken = Score { epistemic_std: f32::NAN, ..SCORE };
        let texts = [(long.as_str(), Some(SCORE)), (exact.as_str(), Some(broken)), (" b ", None), ("left out", None)];
        let sampled = SampledPrompt::new(&Prompt::from_query(&long), texts);
        let shortened = format!("{}…", "é".repeat(MAX_CHARS - 1));
        assert_eq!(sampled.prompt, shortened);
        let want = [(shortened, Some(SCORE)), (exact, None), ("b".to_owned(), None)];
        assert_eq!(sampled.suggestions.into_iter().map(|s| (s.text, s.score)).collect::<Vec<_>>(), want);
    }

    #[test]
    fn a_terminal_gets_one_line() {
        let prompt = |query: &str, text, score| SampledPrompt::new(&Prompt::from_query(query), [(text, score)]);
        let prompts = [prompt("rice", "how\nlong", Some(SCORE)), prompt("rome", "", None)];
        let line = in_one_line(Stage::Rl, 25, &prompts);
        assert_eq!(line, r#"rl step 25 writes: "rice" → "how\nlong" (0.50 ± 0.50); "rome" → """#);
    }

    #[test]
    fn the_newest_is_compared_with_the_first_of_its_stage() {
        let sample = |stage, step| Sample { run_id: "r1".into(), stage, step, prompts: Vec::new() };
        let all = [sample(Stage::Sft, 0), sample(Stage::Sft, 90), sample(Stage::Rl, 0), sample(Stage::Rl, 25)];
        let steps = |samples| first_and_newest(samples).map(|(first, newest)| (newest.stage, first.step, newest.step));
        assert_eq!(steps(&all), Some((Stage::Rl, 0, 25)));
        assert_eq!(steps(&all[..2]), Some((Stage::Sft, 0, 90)));
        assert_eq!(steps(&all[..1]), Some((Stage::Sft, 0, 0)));
        assert_eq!(steps(&[]), None);
    }
}
