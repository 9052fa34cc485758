//! SFT's teacher as a part of a run's configuration. Method B.1.5 (2), (5).

use serde::{Deserialize, Serialize};

/// A teacher of SFT: what it writes for the conversations of the log is a candidate for imitation beside what was
/// clicked. A checkpoint with the run's tokenizer can also lend its distribution over tokens (soft targets).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TeacherConfig {
    /// Id of a checkpoint. `beckon loop --teacher FILE` fills it in: the id of that checkpoint, or the SHA-256 of that
    /// file of samples.
    pub id: String,
    /// n: suggestions that a checkpoint writes for a conversation; 0 asks for none.
    pub n_samples: usize,
    /// Temperature at which it draws them.
    pub temperature: f64,
    /// Longest of them in tokens; one that has not ended by then is left out.
    pub max_new_tokens: usize,
    /// Conversations that it writes for at most, taken evenly from the log's.
    pub max_prompts: usize,
    /// a: share of the soft targets in the loss of a token, the rest is cross-entropy; 0 turns them off. A run with soft
    /// targets and without a parent takes the teacher's tokenizer over.
    pub soft_weight: f64,
    /// T of the soft targets: both distributions are flattened by it.
    pub soft_temperature: f64,
}

impl Default for TeacherConfig {
    fn default() -> Self {
        Self {
            id: String::new(),
            n_samples: 8,
            temperature: 0.8,
            max_new_tokens: 16,
            max_prompts: 2_000,
            soft_weight: 0.0,
            soft_temperature: 2.0,
        }
    }
}

impl TeacherConfig {
    /// The first number that is out of range: path of its key in a run's configuration, what it holds, what it should.
    pub fn fault(&self) -> Option<(&'static str, f64, &'static str)> {
        let whole = |n: usize| n as f64;
        let ranges = [
            ("sft.teacher.n_samples", whole(self.n_samples), 0.0, 64.0, "0 to 64"),
            ("sft.teacher.temperature", self.temperature, 0.0, 100.0, "0 to 100"),
            ("sft.teacher.max_new_tokens", whole(self.max_new_tokens), 1.0, 64.0, "1 to 64"),
            ("sft.teacher.max_prompts", whole(self.max_prompts), 1.0, 1e7, "1 to 10,000,000"),
            ("sft.teacher.soft_weight", self.soft_weight, 0.0, 1.0, "0 to 1"),
            ("sft.teacher.soft_temperature", self.soft_temperature, 0.01, 100.0, "0.01 to 100"),
        ];
        // refuses NaN
        let wrong = ranges.into_iter().find(|(_, value, least, most, _)| !(value >= least && value <= most));
        wrong.map(|(field, value, _, _, expected)| (field, value, expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_named() {
        let base = TeacherConfig::default;
        assert_eq!(base().fault(), None);
        for (config, field) in [
            (TeacherConfig { temperature: f64::NAN, ..base() }, "sft.teacher.temperature"),
            (TeacherConfig { max_new_tokens: 0, ..base() }, "sft.teacher.max_new_tokens"),
            (TeacherConfig { soft_weight: 1.5, ..base() }, "sft.teacher.soft_weight"),
            (TeacherConfig { soft_temperature: 0.0, ..base() }, "sft.teacher.soft_temperature"),
        ] {
            assert_eq!(config.fault().map(|fault| fault.0), Some(field));
        }
    }
}
