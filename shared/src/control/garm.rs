//! The reward model's part of a run's configuration. Method B.2, B.7.

use serde::{Deserialize, Serialize};

/// Gaussian reward model, method B.2 and B.7.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GarmConfig {
    /// Optimiser steps.
    pub n_steps: usize,
    /// Pairs per step.
    pub batch_pairs: usize,
    /// Peak learning rate; the variance head runs at 0.3 of it.
    pub learning_rate: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// l_anc.
    pub anchor_weight: f64,
    /// l_neg.
    pub synthetic_weight: f64,
    /// a of the text regularisation (method B.2.6 L_text, GRM): the loss is (1 - a) times the others plus a times that of the
    /// preferred suggestions' text under the trunk, which then has all layers of the policy. 0 (the default, and left out)
    /// turns it off; below 1.
    #[serde(skip_serializing_if = "super::tuning::is_default")]
    pub text_weight: f64,
    /// Share of steps with the variance held at 1 (Case V warm-up).
    pub variance_warmup: f64,
    /// v_min.
    pub variance_floor: f64,
    /// D_f of the whitened feature.
    pub feature_dims: usize,
    /// Layers of its trunk, the first ones of the policy's. Where it is left out: all, or with adapters and without
    /// `text_weight` that part whose features explain the training pairs best.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_layers: Option<usize>,
}

impl Default for GarmConfig {
    fn default() -> Self {
        Self {
            n_steps: 250,
            batch_pairs: 32,
            learning_rate: 3e-4,
            weight_decay: 0.1,
            anchor_weight: 0.5,
            synthetic_weight: 0.2,
            text_weight: 0.0,
            variance_warmup: 0.1,
            variance_floor: 0.01,
            feature_dims: 16,
            n_layers: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::RlConfig;
    use serde_json::json;

    #[test]
    fn settings_that_came_later_leave_the_identity_of_a_configuration_as_it_was() {
        let garm = serde_json::to_value(GarmConfig::default()).expect("JSON");
        assert_eq!((garm.get("text_weight"), garm.get("synthetic_weight")), (None, Some(&json!(0.2))));
        let rl = serde_json::to_value(RlConfig::default()).expect("JSON");
        assert_eq!((rl.get("overlong_buffer"), rl.get("max_new_tokens")), (None, Some(&json!(16))));
        let (garm_on, rl_on) = (json!({"text_weight": 0.01}), json!({"overlong_buffer": 4}));
        let read: GarmConfig = serde_json::from_value(garm_on.clone()).expect("valid");
        assert_eq!(serde_json::to_value(&read).expect("JSON")["text_weight"], garm_on["text_weight"]);
        let read: RlConfig = serde_json::from_value(rl_on.clone()).expect("valid");
        assert_eq!(serde_json::to_value(&read).expect("JSON")["overlong_buffer"], rl_on["overlong_buffer"]);
    }
}
