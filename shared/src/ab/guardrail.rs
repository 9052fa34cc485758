//! Guardrails: a metric that a better click rate must not be bought with. Non-inferiority by an interval: the
//! treatment passes once the whole interval lies on the good side of a margin. Method B.6.5.
//!
//! Both guardrails here are better when lower (latency, share of requests without a suggestion). The margin is a
//! share of the control's value. Absence of a significant harm is not a pass: too few users are "undecided".

use super::Interval;
use serde::{Deserialize, Serialize};

/// What an interval of the lift of a lower-is-better metric says about a margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardrailVerdict {
    /// Worse by less than the margin, if at all.
    Passed,
    /// Worse by more than the margin.
    Violated,
    /// The interval lies on both sides of the margin.
    Undecided,
}

/// Judges the interval of a lift (treatment / control - 1) against a relative `margin` >= 0.
pub fn judge(lift: Interval, margin: f64) -> GuardrailVerdict {
    if lift.high < margin {
        GuardrailVerdict::Passed
    } else if lift.low > margin {
        GuardrailVerdict::Violated
    } else {
        GuardrailVerdict::Undecided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wide_interval_decides_nothing() {
        let verdict = |low, high| judge(Interval { low, high }, 0.05);
        assert_eq!(verdict(-0.02, 0.04), GuardrailVerdict::Passed);
        assert_eq!(verdict(0.06, 0.2), GuardrailVerdict::Violated);
        assert_eq!(verdict(-0.5, 0.5), GuardrailVerdict::Undecided);
        // worse for certain, but within what was allowed
        assert_eq!(verdict(0.01, 0.04), GuardrailVerdict::Passed);
        assert_eq!(verdict(f64::NAN, f64::NAN), GuardrailVerdict::Undecided);
    }
}
