//! How a run trains adapters of a parent's policy.

use serde::{Deserialize, Serialize};

/// Low-rank adaptation of a parent's policy: only thin matrices beside its weights are trained (arXiv 2106.09685).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// r: width of the matrices.
    pub rank: usize,
    /// What they write is multiplied by alpha / r.
    pub alpha: f64,
    /// Which weights have them.
    pub targets: LoraTargets,
    /// How the frozen weights are held while a run trains; what it hands on is made of them as they were.
    #[serde(skip_serializing_if = "BasePrecision::is_default")]
    pub base_precision: BasePrecision,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, targets: LoraTargets::All, base_precision: BasePrecision::F32 }
    }
}

/// Weights that get adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoraTargets {
    /// Query, key, value and output.
    Attention,
    /// These and the feed-forward's three.
    #[default]
    All,
}

/// Precision of a frozen base's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BasePrecision {
    /// 32 bits, on every device.
    #[default]
    F32,
    /// 16 bits, half the memory: the layers' matrices on a GPU that computes with them. Embedding, norms, attention, logits,
    /// adapters, gradients and rewards stay in 32.
    F16,
}

impl BasePrecision {
    /// Left out of what is written, so that a configuration without it stays what it was.
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_without_half_precision_is_written_as_before_there_was_a_choice() {
        let plain = LoraConfig::default();
        let text = serde_json::to_string(&plain).expect("JSON");
        assert_eq!(text, r#"{"rank":8,"alpha":16.0,"targets":"all"}"#);
        assert_eq!(serde_json::from_str::<LoraConfig>(&text).expect("read again"), plain);
        let half = LoraConfig { base_precision: BasePrecision::F16, ..plain };
        let text = serde_json::to_string(&half).expect("JSON");
        assert!(text.contains(r#""base_precision":"f16""#), "{text}");
        assert_eq!(serde_json::from_str::<LoraConfig>(&text).expect("read again"), half);
    }
}
