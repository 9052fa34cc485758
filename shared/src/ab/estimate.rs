//! A metric of an arm with the variance of one user, and the effect of one arm against another. Method B.6.5.
//!
//! The click rate is a ratio metric: R = Σ clicks / Σ impressions over users. By the delta method its variance is
//! that of the mean over n users of z = (clicks - R · impressions) / mean impressions (Deng, Knoblich and Lu,
//! KDD 2018). A denominator of 1 for each user makes it a plain mean, so both are one code.

use super::moments::{DENOMINATOR, Moments, NUMERATOR};
use serde::{Deserialize, Serialize};

/// A metric of one arm.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// The metric without adjustment, of which a lift is a share; `value` itself where nothing was adjusted.
    pub level: f64,
    /// Variance of one unit's contribution: Var(`value`) = `unit_variance` / `n_units`.
    pub unit_variance: f64,
    /// Units (users).
    pub n_units: f64,
}

impl Estimate {
    /// `n_hits` of `n` independent units: variance p(1-p). Right only where a unit is seen once, or where a
    /// unit is a user and a hit a user who clicked. NaN for n = 0.
    pub fn binomial(n_hits: f64, n: f64) -> Self {
        let p = n_hits / n;
        Self { value: p, level: p, unit_variance: p * (1.0 - p), n_units: n }
    }

    /// Σ numerator / Σ denominator over users by the delta method: variance of a unit
    /// (V_yy - 2 R V_xy + R² V_xx) / x̄², covariances with n - 1. NaN for fewer than two users or no denominator.
    pub fn ratio(users: &Moments) -> Self {
        let (value, unit_variance) = (ratio(users), residual_covariance(users, [0.0; 2]));
        Self { value, level: value, unit_variance, n_units: users.n() as f64 }
    }

    /// Standard error of `value`.
    pub fn std_error(&self) -> f64 {
        (self.unit_variance / self.n_units).sqrt()
    }
}

/// Σ numerator / Σ denominator.
fn ratio(users: &Moments) -> f64 {
    users.mean(NUMERATOR) / users.mean(DENOMINATOR)
}

/// The weights with which (numerator, denominator) enter a user's part of a ratio: (1, -R) / mean denominator.
pub(super) fn ratio_weights(users: &Moments, numerator: usize, denominator: usize) -> [f64; 2] {
    let scale = users.mean(denominator).recip();
    [scale, -scale * users.mean(numerator) * scale]
}

/// Variance of z - `pre_weights`·(pre-period totals), z the user's part of the ratio.
pub(super) fn residual_covariance(users: &Moments, pre_weights: [f64; 2]) -> f64 {
    let [y, x] = ratio_weights(users, NUMERATOR, DENOMINATOR);
    let weights = [y, x, -pre_weights[0], -pre_weights[1]];
    quadratic(users, weights, weights)
}

/// aᵀ C b with the covariance C of the four totals; totals of weight 0 do not count, whatever their covariance.
pub(super) fn quadratic(users: &Moments, a: [f64; 4], b: [f64; 4]) -> f64 {
    let mut sum = 0.0;
    for (i, a) in a.into_iter().enumerate().filter(|(_, a)| *a != 0.0) {
        for (j, b) in b.into_iter().enumerate().filter(|(_, b)| *b != 0.0) {
            sum += a * b * users.covariance(i, j);
        }
    }
    sum
}

/// How far one arm is from another, or from nothing, with the variance of that distance.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    /// The estimate.
    pub estimate: f64,
    /// Its variance, s².
    pub variance: f64,
    /// Units behind it, all arms together.
    pub n_units: f64,
    /// Degrees of freedom (Welch and Satterthwaite); infinite for the normal.
    pub dof: f64,
}

impl Effect {
    /// treatment - control.
    pub fn difference(control: &Estimate, treatment: &Estimate) -> Self {
        let variance = control.unit_variance / control.n_units + treatment.unit_variance / treatment.n_units;
        Self::new(treatment.value - control.value, variance, control, treatment)
    }

    /// (treatment - control) / control, by the delta method on the ratio of the two levels:
    /// Var = s_t² / c² + s_c² t² / c⁴.
    pub fn lift(control: &Estimate, treatment: &Estimate) -> Self {
        let (c2, t2) = (control.level.powi(2), treatment.level.powi(2));
        let variance = treatment.unit_variance / (c2 * treatment.n_units)
            + control.unit_variance * t2 / (c2 * c2 * control.n_units);
        Self::new((treatment.value - control.value) / control.level, variance, control, treatment)
    }

    /// One estimate against nothing, as the net wins of an interleaved test.
    pub fn alone(estimate: &Estimate) -> Self {
        Self {
            estimate: estimate.value,
            variance: estimate.unit_variance / estimate.n_units,
            n_units: estimate.n_units,
            dof: estimate.n_units - 1.0,
        }
    }

    fn new(estimate: f64, variance: f64, control: &Estimate, treatment: &Estimate) -> Self {
        let part = |arm: &Estimate| arm.unit_variance / arm.n_units;
        let (c, t) = (part(control), part(treatment));
        let dof = (c + t).powi(2) / (c * c / (control.n_units - 1.0) + t * t / (treatment.n_units - 1.0));
        Self { estimate, variance, n_units: control.n_units + treatment.n_units, dof }
    }

    /// sqrt(s²).
    pub fn std_error(&self) -> f64 {
        self.variance.sqrt()
    }

    /// Whether anything can be said: a finite estimate and a positive variance.
    pub fn is_defined(&self) -> bool {
        self.estimate.is_finite() && self.variance > 0.0 && self.variance.is_finite()
    }
}
