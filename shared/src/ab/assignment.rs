//! Which arm a unit sees: a function of the experiment's salt and the unit's name, so that no table is kept,
//! the same unit always sees the same arm, and different experiments are independent. Method B.6.5.
//!
//! Two hashes per unit. The first, salted by the *layer*, gives a point in [0, 1); an experiment owns a stretch
//! of its layer, and stretches of one layer that do not overlap share no user. The second, salted by the
//! experiment, chooses the arm by cumulative weights. Growing the stretch at its end therefore adds users and
//! moves none; changing weights or arms moves users, and needs a new salt (a new experiment).

use crate::digest::sha256;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// An arm and its share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmShare {
    /// Name.
    pub name: String,
    /// Relative weight, above 0.
    pub weight: f64,
}

/// How units are assigned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// Unique to the experiment; chooses the arm.
    pub salt: String,
    /// Name of the layer; experiments of one layer can exclude each other.
    pub layer: String,
    /// Start of the stretch of the layer, in [0, 1].
    pub from: f64,
    /// End of the stretch, not included; `to - from` is the traffic share.
    pub to: f64,
    /// Arms with weights.
    pub arms: Vec<ArmShare>,
    /// Units that never take part (staff, bots, users of an incompatible test).
    #[serde(default)]
    pub excluded: BTreeSet<String>,
}

/// Why an assignment cannot be.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AssignmentError {
    /// Nothing to hash with.
    #[error("{field} is empty; expected a name unique to the {of}")]
    Empty {
        /// Which field.
        field: &'static str,
        /// What it names.
        of: &'static str,
    },
    /// Not a stretch of [0, 1].
    #[error("traffic from {from} to {to}; expected 0 <= from < to <= 1")]
    Traffic {
        /// Start.
        from: f64,
        /// End.
        to: f64,
    },
    /// Too few arms.
    #[error("{n_arms} arms; expected at least two")]
    Arms {
        /// How many.
        n_arms: usize,
    },
    /// An arm that cannot be.
    #[error("arm `{name}`: {problem}")]
    Arm {
        /// Which.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
}

impl Assignment {
    /// # Errors
    /// [`AssignmentError`] of the first thing that cannot be.
    pub fn validate(&self) -> Result<(), AssignmentError> {
        for (field, text, of) in [("salt", &self.salt, "experiment"), ("layer", &self.layer, "layer")] {
            if text.is_empty() {
                return Err(AssignmentError::Empty { field, of });
            }
        }
        if !(0.0 <= self.from && self.from < self.to && self.to <= 1.0) {
            return Err(AssignmentError::Traffic { from: self.from, to: self.to });
        }
        if self.arms.len() < 2 {
            return Err(AssignmentError::Arms { n_arms: self.arms.len() });
        }
        for (i, arm) in self.arms.iter().enumerate() {
            let problem = if arm.name.is_empty() {
                "no name"
            } else if !(arm.weight > 0.0 && arm.weight.is_finite()) {
                "its weight is not above 0"
            } else if self.arms[..i].iter().any(|before| before.name == arm.name) {
                "named twice"
            } else {
                continue;
            };
            return Err(AssignmentError::Arm { name: arm.name.clone(), problem });
        }
        Ok(())
    }

    /// The index of the unit's arm; `None` where it does not take part.
    pub fn arm_of(&self, unit: &str) -> Option<usize> {
        let place = point(&["beckon-layer-1", &self.layer], unit);
        if !(self.from <= place && place < self.to) || self.excluded.contains(unit) {
            return None;
        }
        let total: f64 = self.arms.iter().map(|arm| arm.weight).sum();
        let target = total * point(&["beckon-arm-1", &self.salt], unit);
        let mut end = 0.0;
        let found = self.arms.iter().position(|arm| {
            end += arm.weight;
            target < end
        });
        // a sum of weights may round below the total
        found.or(self.arms.len().checked_sub(1))
    }

    /// The probability with which a unit of the experiment sees the arm.
    pub fn share(&self, arm: usize) -> f64 {
        self.arms[arm].weight / self.arms.iter().map(|arm| arm.weight).sum::<f64>()
    }
}

/// A point in [0, 1) from SHA-256 of the parts, each with its length before it, so that no two lists of parts
/// give the same bytes; 53 bits.
fn point(salt: &[&str], unit: &str) -> f64 {
    let mut bytes = Vec::new();
    for part in salt.iter().chain([&unit]) {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    let digest = sha256(&bytes);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    (u64::from_le_bytes(first) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests;
