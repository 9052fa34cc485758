//! Values that may change while a run trains, and from which step on they did.
//!
//! A run is a function of data, parent, configuration and seed; a change by hand would break that. So each change is
//! written down with the step at which it took effect ([`Change::at`]), and a run that goes on from a saved state applies it
//! at that same step again. The checkpoint's lineage carries the list.

use super::Stage;
use crate::reward::components::NAMES;
use serde::{Deserialize, Serialize};

/// Largest factor by which a learning rate of 1 would still be taken for a mistake.
const MAX_RATE: f64 = 1.0;
/// Largest KL coefficient and fusion weight.
const MAX_WEIGHT: f64 = 1_000.0;
/// Largest KL budget, nats.
const MAX_BUDGET: f64 = 1e6;

/// New values, named as in [`super::RunConfig`]; what is left out stays.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tuning {
    /// SFT.
    #[serde(skip_serializing_if = "is_default")]
    pub sft: RateTuning,
    /// GaRM.
    #[serde(skip_serializing_if = "is_default")]
    pub garm: RateTuning,
    /// RL.
    #[serde(skip_serializing_if = "is_default")]
    pub rl: RlTuning,
}

/// Of a supervised stage.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RateTuning {
    /// Peak learning rate; the schedule's shape stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
}

/// Of RL.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RlTuning {
    /// Learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// beta, from which the controller goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_beta: Option<f64>,
    /// Budget of the controller, nats per sequence; the alarm about the distance is measured by it too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_budget_nats: Option<f64>,
    /// w_m of the fusion, one a component in their order (method B.4.3).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fusion_weights: Option<Vec<f64>>,
}

/// Whether a setting may be left out of JSON: one that came later must not change how older configurations read.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A change that was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TuningError {
    /// Nothing in it.
    #[error(
        "nothing to change: give one of sft.learning_rate, garm.learning_rate, rl.learning_rate, rl.kl_beta, \
         rl.kl_budget_nats, rl.fusion_weights"
    )]
    Empty,
    /// A number that the stage cannot work with.
    #[error("{field} is {value}, expected {expected}")]
    Range {
        /// Path of the key.
        field: &'static str,
        /// What it holds.
        value: f64,
        /// What it should hold.
        expected: &'static str,
    },
    /// Not one weight a component.
    #[error("rl.fusion_weights has {found} values, expected one for each of {}", NAMES.join(", "))]
    Weights {
        /// How many there are.
        found: usize,
    },
    /// Its stage is over.
    #[error("{} has ended, so {}.* has no effect any more", stage.name(), stage.name())]
    Over {
        /// Which stage.
        stage: Stage,
    },
}

impl Tuning {
    /// Checks every number, and that no value is for a stage before `current` (`None`: not begun).
    ///
    /// # Errors
    /// [`TuningError`], the first that is found.
    pub fn check(&self, current: Option<Stage>) -> Result<(), TuningError> {
        if is_default(self) {
            return Err(TuningError::Empty);
        }
        let range = |field, value: Option<f64>, least: f64, most: f64, expected| match value {
            // refuses NaN
            Some(value) if !(value >= least && value <= most) => Err(TuningError::Range { field, value, expected }),
            _ => Ok(()),
        };
        const RATE: &str = "above 0, at most 1";
        const WEIGHT: &str = "0 or more, at most 1,000";
        let smallest = f64::MIN_POSITIVE;
        range("sft.learning_rate", self.sft.learning_rate, smallest, MAX_RATE, RATE)?;
        range("garm.learning_rate", self.garm.learning_rate, smallest, MAX_RATE, RATE)?;
        range("rl.learning_rate", self.rl.learning_rate, smallest, MAX_RATE, RATE)?;
        range("rl.kl_beta", self.rl.kl_beta, 0.0, MAX_WEIGHT, WEIGHT)?;
        range("rl.kl_budget_nats", self.rl.kl_budget_nats, smallest, MAX_BUDGET, "above 0, at most 1,000,000")?;
        if let Some(weights) = &self.rl.fusion_weights {
            if weights.len() != NAMES.len() {
                return Err(TuningError::Weights { found: weights.len() });
            }
            weights.iter().try_for_each(|w| range("rl.fusion_weights", Some(*w), 0.0, MAX_WEIGHT, WEIGHT))?;
        }
        let parts = [
            (Stage::Sft, !is_default(&self.sft)),
            (Stage::Garm, !is_default(&self.garm)),
            (Stage::Rl, !is_default(&self.rl)),
        ];
        match parts.into_iter().find(|(stage, named)| *named && current.is_some_and(|current| current > *stage)) {
            Some((stage, _)) => Err(TuningError::Over { stage }),
            None => Ok(()),
        }
    }
}

/// A change and when it took effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Change {
    /// Stage and step (steps done before) from which it holds; `None` until the run takes its next step.
    pub at: Option<Moment>,
    /// The new values.
    pub tuning: Tuning,
}

/// A place in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Moment {
    /// Stage at work.
    pub stage: Stage,
    /// Steps done in it.
    pub step: usize,
}

/// What a stage has to use at a step instead of its configuration; `None` leaves the configuration's value.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tuned {
    /// Peak learning rate of the stage.
    pub learning_rate: Option<f64>,
    /// beta, to be taken over at this very step; the controller moves it from there.
    pub kl_beta: Option<f64>,
    /// Budget of the KL controller, nats per sequence.
    pub kl_budget_nats: Option<f64>,
    /// w_m.
    pub fusion_weights: Option<Vec<f64>>,
}

/// Marks every change that has not taken effect as doing so at `now`; whether there was one.
pub fn take_effect(changes: &mut [Change], now: Moment) -> bool {
    let mut any = false;
    for change in changes.iter_mut().filter(|change| change.at.is_none()) {
        change.at = Some(now);
        any = true;
    }
    any
}

/// The values in effect at `now`. A run that goes on from an older state asks for the same moments again and gets the same
/// answers.
pub fn tuned(changes: &[Change], now: Moment) -> Tuned {
    let mut tuned = Tuned::default();
    for Change { at, tuning } in changes {
        let Some(at) = at.filter(|at| *at <= now) else { continue };
        match now.stage {
            Stage::Sft => tuned.learning_rate = tuning.sft.learning_rate.or(tuned.learning_rate),
            Stage::Garm => tuned.learning_rate = tuning.garm.learning_rate.or(tuned.learning_rate),
            Stage::Rl => {
                tuned.learning_rate = tuning.rl.learning_rate.or(tuned.learning_rate);
                tuned.fusion_weights = tuning.rl.fusion_weights.clone().or(tuned.fusion_weights);
                tuned.kl_budget_nats = tuning.rl.kl_budget_nats.or(tuned.kl_budget_nats);
                // a value given in an earlier stage is taken over at the first step
                if at == now || (now.step == 0 && at.stage < Stage::Rl) {
                    tuned.kl_beta = tuning.rl.kl_beta.or(tuned.kl_beta);
                }
            }
            Stage::Data | Stage::Eval | Stage::Export => {}
        }
    }
    tuned
}

#[cfg(test)]
mod tests;
