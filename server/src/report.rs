//! What a run has shown, as data (`report.json`) and as one page for people (`report.html`).
//!
//! The end of the loop's training half: made by [`crate::pipeline`] from the figures of [`crate::eval`].
//! The page is self-contained: no script, no request, plots as inline SVG. What did not work is said in
//! the same list as what did. Deliberately not here: any computation of a figure.

pub mod findings;
pub mod html;
pub mod plot;

use crate::eval::policy::PolicyFigures;
use crate::eval::reward::SourceFigures;
use crate::eval::{null_as_nan, nulls_as_nan};
use beckon_shared::control::RunConfig;
use beckon_shared::engine::Score;
use beckon_shared::preference::report::PreferenceReport;
use beckon_shared::prompt::Prompt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Version of `report.json`; raised when a field changes meaning.
pub const REPORT_VERSION: u32 = 1;

/// Everything that a run has to show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// Name of the run.
    pub name: String,
    /// Id of the checkpoint that it made.
    pub checkpoint: String,
    /// Where it comes from.
    pub lineage: RunLineage,
    /// What there was to learn from, a row a data set.
    pub data: Vec<SourceCounts>,
    /// What became of the log on the way there: what was left out and why, what the click model could tell.
    #[serde(default)]
    pub preferences: PreferenceReport,
    /// Supervised fine-tuning.
    pub sft: SftReport,
    /// Reward model.
    pub garm: GarmReport,
    /// Reinforcement learning.
    pub rl: RlReport,
    /// Policies on held-out prompts: after SFT, after RL.
    pub policies: Vec<PolicyFigures>,
    /// What a judge of words says of RL's suggestions, made of held-out pairs that nothing was trained on; `None` where
    /// there are too few.
    #[serde(default)]
    pub judged: Option<Judged>,
    /// Suggestions before and after RL for some held-out prompts.
    pub samples: Vec<SamplePrompt>,
    /// What the figures say, in sentences; negative results too.
    pub findings: Vec<String>,
}

impl Report {
    /// The figures that a list of checkpoints shows, by name with a unit: those that are finite.
    pub fn key_figures(&self) -> BTreeMap<String, f64> {
        let mut figures = BTreeMap::from([
            ("held_out_nats_per_token".to_owned(), self.sft.held_out_nll),
            ("held_out_nats_per_token_trigram".to_owned(), self.sft.ngram_nll),
        ]);
        for source in &self.garm.sources {
            if let Some(model) = source.models.first() {
                figures.insert(format!("pair_accuracy {}", source.source), model.accuracy);
                figures.insert(format!("pair_nats {}", source.source), model.nll);
            }
        }
        for policy in &self.policies {
            figures.insert(format!("reward_mean {}", policy.policy), policy.reward_mean);
            figures.insert(format!("gate_failure_rate {}", policy.policy), policy.gate_failure_rate);
        }
        figures.retain(|_, value| value.is_finite());
        figures
    }
}

/// RL against SFT in the eyes of [`beckon_shared::lexical::LexicalModel::judge`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Mean P(a suggestion of RL preferred to one of SFT), 0.5 for no difference.
    #[serde(deserialize_with = "null_as_nan")]
    pub rl_over_sft: f64,
    /// Its 95% t-interval over prompts.
    #[serde(deserialize_with = "nulls_as_nan")]
    pub interval: (f64, f64),
    /// Held-out prompts.
    pub n_prompts: usize,
}

/// Where a report comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunLineage {
    /// SHA-256 over the records, hex.
    pub data_hash: String,
    /// Configuration with every default filled in.
    pub config: RunConfig,
    /// Device as Burn names it.
    pub device: String,
    /// Commit of the code, where known.
    pub commit: Option<String>,
    /// Command that makes the run again.
    pub command: String,
    /// Whether all clicks were simulated.
    pub simulated: bool,
    /// Attribution of the data sets.
    pub attribution: Vec<String>,
    /// Seconds of work per stage; a part lost to a crash is not in it.
    pub wall_secs: Vec<(String, f64)>,
    /// Parameters of the policy.
    pub n_params: usize,
    /// SHA-256 of the tokenizer, hex.
    pub tokenizer_hash: String,
}

/// One data set after the split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceCounts {
    /// Data set.
    pub source: String,
    /// Records in the log.
    pub n_records: u64,
    /// SFT examples: train, held out.
    pub n_sft: (usize, usize),
    /// Pairs: train, held out.
    pub n_pairs: (usize, usize),
    /// Anchors: train, held out.
    pub n_anchors: (usize, usize),
}

/// A curve of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// As the stage named it.
    pub name: String,
    /// Step, value; each step once.
    pub points: Vec<(usize, f64)>,
}

/// SFT against n-gram models on the held-out suggestions, nats per token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SftReport {
    /// What the stage measured while training.
    pub curves: Vec<Curve>,
    /// Before training.
    #[serde(deserialize_with = "null_as_nan")]
    pub held_out_nll_before: f64,
    /// After training.
    #[serde(deserialize_with = "null_as_nan")]
    pub held_out_nll: f64,
    /// Kneser-Ney trigram.
    #[serde(deserialize_with = "null_as_nan")]
    pub ngram_nll: f64,
    /// The same mixed with a cache of the prompt's tokens.
    #[serde(deserialize_with = "null_as_nan")]
    pub cached_ngram_nll: f64,
    /// Tokens that these are means over.
    pub n_held_out_tokens: usize,
    /// Tokens seen in training, with repetition.
    pub n_tokens_seen: u64,
}

/// The reward model on held-out pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GarmReport {
    /// What the stage measured while training.
    pub curves: Vec<Curve>,
    /// T of Φ(z/T) fitted to pairs set aside from training; GaRM's means are divided by it.
    #[serde(deserialize_with = "null_as_nan")]
    pub temperature: f64,
    /// A table a data set.
    pub sources: Vec<SourceFigures>,
    /// How well each part of the spread tells odd text from logged text.
    pub odd_text: Vec<OddText>,
}

/// AUROC of the spread for one kind of out-of-distribution text against logged suggestions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OddText {
    /// Which kind.
    pub kind: String,
    /// Texts of that kind.
    pub n: usize,
    /// Of the epistemic standard deviation.
    #[serde(deserialize_with = "null_as_nan")]
    pub epistemic_auroc: f64,
    /// Of the aleatoric one.
    #[serde(deserialize_with = "null_as_nan")]
    pub aleatoric_auroc: f64,
    /// Of the mean being lower.
    #[serde(deserialize_with = "null_as_nan")]
    pub mean_auroc: f64,
}

/// Reinforcement learning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RlReport {
    /// A value a step.
    pub curves: Vec<Curve>,
}

impl RlReport {
    /// The curve of that name.
    pub fn curve(&self, name: &str) -> Option<&Curve> {
        self.curves.iter().find(|c| c.name == name)
    }
}

/// A suggestion with what GaRM thinks of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScoredText {
    /// As written.
    pub text: String,
    /// GaRM's opinion; `None` where there is no reward model.
    pub score: Option<Score>,
}

/// A held-out prompt, and what the policy wrote before and after RL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplePrompt {
    /// The conversation.
    pub prompt: Prompt,
    /// After SFT.
    pub before: Vec<ScoredText>,
    /// After RL.
    pub after: Vec<ScoredText>,
}

#[cfg(test)]
mod tests;
