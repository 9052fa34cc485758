//! CUPED: less variance by what the same users did before the test (Deng, Xu, Kohavi and Walker, WSDM 2013).
//! Method B.6.5, oracle T9.
//!
//! An arm's metric R becomes R - θ (P - P̄), P the same metric of the time before the test and P̄ that of all
//! users. Assignment cannot depend on the past, so E[P - P̄] = 0 in each arm and the effect stays unbiased (to
//! first order, as θ is estimated). θ = Cov(z, c) / Var(c) over the users of both arms together, with z and c a
//! user's parts of R and P by the delta method; for denominators of 1 that is the textbook's Cov(y, x) /
//! Var(x). A user without a past counts as one that pulls in no direction. Whether to adjust is decided before
//! looking.

use super::estimate::{Estimate, quadratic, ratio_weights, residual_covariance};
use super::moments::{DENOMINATOR, Moments, NUMERATOR, PRE_DENOMINATOR, PRE_NUMERATOR};

/// Two arms, adjusted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adjusted {
    /// The coefficient θ.
    pub theta: f64,
    /// Control; `level` is the metric before adjustment.
    pub control: Estimate,
    /// Treatment.
    pub treatment: Estimate,
    /// Share of the variance of the difference that the past explains, in [0, 1] but for chance.
    pub variance_reduction: f64,
}

/// Adjusts two arms by their past. `None` where the past explains nothing: nobody has one, or it is the same
/// for all.
pub fn adjust(control: &Moments, treatment: &Moments) -> Option<Adjusted> {
    let all = control.merge(*treatment);
    let [y, x] = ratio_weights(&all, NUMERATOR, DENOMINATOR);
    let [py, px] = ratio_weights(&all, PRE_NUMERATOR, PRE_DENOMINATOR);
    let past = [0.0, 0.0, py, px];
    let theta = quadratic(&all, [y, x, 0.0, 0.0], past) / quadratic(&all, past, past);
    if !theta.is_finite() || theta == 0.0 {
        return None;
    }
    let pre_ratio = |users: &Moments| users.mean(PRE_NUMERATOR) / users.mean(PRE_DENOMINATOR);
    let adjusted = |users: &Moments| {
        let plain = Estimate::ratio(users);
        let weights = ratio_weights(users, PRE_NUMERATOR, PRE_DENOMINATOR).map(|w| theta * w);
        Estimate {
            value: plain.value - theta * (pre_ratio(users) - pre_ratio(&all)),
            unit_variance: residual_covariance(users, weights),
            ..plain
        }
    };
    let (c, t) = (adjusted(control), adjusted(treatment));
    let variance = |c: &Estimate, t: &Estimate| c.unit_variance / c.n_units + t.unit_variance / t.n_units;
    let before = variance(&Estimate::ratio(control), &Estimate::ratio(treatment));
    let defined = c.value.is_finite() && t.value.is_finite();
    defined.then_some(Adjusted { theta, control: c, treatment: t, variance_reduction: 1.0 - variance(&c, &t) / before })
}
