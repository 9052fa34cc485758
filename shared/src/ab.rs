//! Statistics of A/B tests: from impressions and clicks of two or more arms to a claim that may be made while the
//! test still runs. Last arrow of the loop; method B.6.5, oracle T9.
//!
//! The unit is the user: users are assigned ([`assignment`]), users are counted ([`sample_ratio`]), and the
//! variance of a click rate is that over users ([`estimate`]), since impressions of one user are not
//! independent.
//!
//! | module | what |
//! | --- | --- |
//! | [`moments`] | per-user totals, means and covariances that can be merged |
//! | [`estimate`] | ratio metric by the delta method; difference and lift of two arms |
//! | [`cuped`] | variance reduction by what users did before the test |
//! | [`sequential`] | always-valid p-value and confidence sequence (mSPRT, asymptotic confidence sequence) |
//! | [`fixed`] | the test for one look at a planned size, and its interval |
//! | [`holm`] | several comparisons at once |
//! | [`sample_ratio`] | did the arms get the users they should have, and if not, where |
//! | [`guardrail`] | non-inferiority of latency and of the no-suggestion rate |
//! | [`posterior`] | Bayesian posterior of the lift, as a picture |
//! | [`plan`] | users and days that a test needs |
//! | [`assignment`], [`interleave`] | which unit sees what, in the two designs |
//! | [`path`] | interval and p-value over the days of a test |
//! | [`input`], [`report`] | counts or rows of users from outside; the whole analysis with its assumptions |
//!
//! What must hold for an always-valid claim, said again in each report:
//! 1. users are independent, and each is in one arm, which a salted hash chose;
//! 2. the totals of a user do not change after the user was counted: a user who comes back is counted over a
//!    fixed time after the first exposure, or not before the end of it. Otherwise old terms of the sum move, and
//!    the guarantee is only as good as the approximation that they do not;
//! 3. the guarantee is asymptotic (the variance is estimated): no claim before [`BURN_IN_CLICKS`] clicks in each arm;
//! 4. the tuning (`rho2`, from the planned number of users) was fixed before the first look.
//!
//! A fixed-horizon p-value holds for one look at the planned size. It is never combined with a running one: a
//! [`report`] makes its claim by one of the two designs, chosen beforehand.

pub mod assignment;
pub mod cuped;
pub mod estimate;
pub mod fixed;
pub mod guardrail;
pub mod holm;
pub mod input;
pub mod interleave;
pub mod moments;
pub mod path;
pub mod plan;
pub mod posterior;
pub mod report;
pub mod sample_ratio;
pub mod sequential;

/// Clicks that each arm needs before anything always-valid is said (method B.6.5).
pub const BURN_IN_CLICKS: u64 = 500;

/// A two-sided interval; `low <= high` unless it is said to be otherwise.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// `centre` ± `half`.
    pub fn around(centre: f64, half: f64) -> Self {
        Self { low: centre - half, high: centre + half }
    }

    /// Whether `value` lies inside, ends included.
    pub fn contains(self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

#[cfg(test)]
mod tests;
