//! The test for one look at a size that was planned: Welch's t on the effect. For comparison, and for tests
//! that have ended; looking at it repeatedly makes far more than alpha of A/A tests look significant (method
//! B.8, property 9: 29% at alpha 5% with a look every 100 users).

use super::Interval;
use super::estimate::Effect;
use crate::special::{student_tails, student_two_sided_quantile};

/// Two-sided p-value of "the effect is `null`".
pub fn p_value(effect: &Effect, null: f64) -> f64 {
    student_tails((effect.estimate - null) / effect.std_error(), effect.dof)
}

/// Interval at confidence 1 - `alpha`.
///
/// # Panics
/// If `alpha` is not strictly between 0 and 1.
pub fn interval(effect: &Effect, alpha: f64) -> Interval {
    Interval::around(effect.estimate, student_two_sided_quantile(alpha, effect.dof) * effect.std_error())
}
