//! What may be said about one treatment.

use super::comparison::{AlwaysValid, Comparison};
use super::{Design, Settings};
use crate::ab::guardrail::GuardrailVerdict;
use serde::{Deserialize, Serialize};

/// The claim of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Users are missing from an arm: nothing can be claimed.
    SampleRatioMismatch,
    /// Too few clicks for an always-valid claim, or fewer users than planned for a fixed one.
    TooEarly,
    /// Neither arm is better at this level yet.
    Undecided,
    /// The treatment's click rate is higher, and no guardrail is against it.
    TreatmentBetter,
    /// The treatment's click rate is higher, but a guardrail is violated or not yet passed.
    TreatmentBetterButGuarded,
    /// The control's click rate is higher.
    ControlBetter,
}

impl Verdict {
    /// The claim of `comparison` by the chosen design; `is_void` where the sample ratio is wrong.
    pub(super) fn of(comparison: &Comparison, settings: &Settings, is_void: bool) -> Self {
        if is_void {
            return Self::SampleRatioMismatch;
        }
        let p_value = match settings.design {
            Design::Sequential => match &comparison.always_valid {
                // intervals that exclude each other: there is no one effect whose sign could be claimed
                AlwaysValid::Figures { has_drifted: true, .. } => return Self::Undecided,
                AlwaysValid::Figures { p_holm, .. } => *p_holm,
                AlwaysValid::BurnIn { .. } | AlwaysValid::Undefined => return Self::TooEarly,
            },
            Design::Fixed if !comparison.fixed_horizon.is_claim => return Self::TooEarly,
            Design::Fixed => comparison.fixed_horizon.p_holm.unwrap_or(1.0),
        };
        if p_value > settings.alpha {
            return Self::Undecided;
        }
        if comparison.difference.unwrap_or(0.0) <= 0.0 {
            return Self::ControlBetter;
        }
        if comparison.guardrails.iter().all(|guardrail| guardrail.verdict == GuardrailVerdict::Passed) {
            Self::TreatmentBetter
        } else {
            Self::TreatmentBetterButGuarded
        }
    }

    /// The claim in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::SampleRatioMismatch => "void: the arms did not get their shares of users",
            Self::TooEarly => "too early to claim anything",
            Self::Undecided => "undecided",
            Self::TreatmentBetter => "treatment better",
            Self::TreatmentBetterButGuarded => "treatment's click rate higher, but a guardrail has not passed",
            Self::ControlBetter => "control better",
        }
    }
}
