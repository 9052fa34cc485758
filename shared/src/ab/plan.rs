//! How many users a test needs, and how long that takes. Method B.6.5, oracle T9.
//!
//! Fixed horizon: n = (z_{1-alpha/2} + z_power)² (V_c + V_t) / (p_t - p_c)² users in each arm, V the variance
//! of a user's part of the click rate. Always-valid: at the planned size the confidence sequence that is
//! narrowest there has half-width s sqrt(1 + x) (see [`super::sequential`]), so n = (sqrt(1 + x) + z_power)²
//! (V_c + V_t) / (p_t - p_c)², 1.9 times as many at alpha 5% and power 80%. In return the test may stop
//! earlier, and on average does.
//!
//! V = p (1 - p) · design effect / impressions a user. The design effect is 1 where impressions of a user are
//! independent, more where users differ; a previous test's report prints it.

use super::BURN_IN_CLICKS;
use super::sequential::narrowest_ratio;
use crate::garm::normal::normal_quantile;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

/// What is planned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// Click rate of the control, in (0, 1).
    pub base_rate: f64,
    /// Relative lift to detect, above -1, not 0.
    pub lift: f64,
    /// Two-sided level of one comparison.
    pub alpha: f64,
    /// Chance to detect that lift.
    pub power: f64,
    /// Arms other than the control; the level is divided among them.
    pub n_treatments: usize,
    /// Mean impressions of a user during the test.
    pub impressions_per_user: f64,
    /// Variance over users against that of independent impressions.
    pub design_effect: f64,
    /// Users a day that enter the test, all arms together; days are left out where unknown.
    pub users_per_day: Option<f64>,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} is {value}; expected {expected}")]
pub struct PlanError {
    field: &'static str,
    value: f64,
    expected: &'static str,
}

/// What a test needs under one of the two designs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Size {
    /// Users in each arm.
    pub n_users_per_arm: f64,
    /// Users in all arms.
    pub n_users: f64,
    /// Days, where users a day are known.
    pub days: Option<f64>,
}

/// Both designs for the same question.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// What was asked.
    pub planned: Planned,
    /// Click rate of the treatment under the planned lift.
    pub treatment_rate: f64,
    /// One look, at the end.
    pub fixed_horizon: Size,
    /// Looks whenever one likes; the most that is needed for the planned power, burn-in included.
    pub always_valid: Size,
    /// Users in each arm until the burn-in is over (500 clicks in the arm with the lower rate).
    pub burn_in_users_per_arm: f64,
    /// Users in all arms when an always-valid test of a true effect of the planned size ends, mean over
    /// those that end by `always_valid`; a simulation of the normal limit with 200 looks.
    pub always_valid_users_mean: f64,
    /// Share of those tests that end by `always_valid`; at least `power`.
    pub always_valid_power: f64,
    /// `rho2` for the analysis (per user of one comparison), to be fixed before the first look.
    pub rho2: f64,
}

impl Planned {
    /// # Errors
    /// [`PlanError`] naming the first field that cannot be.
    pub fn validate(&self) -> Result<(), PlanError> {
        let check = |ok, field, value, expected| if ok { Ok(()) } else { Err(PlanError { field, value, expected }) };
        let share = |x: f64| x > 0.0 && x < 1.0;
        check(share(self.base_rate), "base rate", self.base_rate, "a rate above 0 and below 1")?;
        check(self.lift > -1.0 && self.lift != 0.0 && self.lift.is_finite(), "lift", self.lift, "above -1 and not 0")?;
        let rate = self.base_rate * (1.0 + self.lift);
        check(share(rate), "base rate · (1 + lift)", rate, "a rate above 0 and below 1")?;
        check(share(self.alpha), "alpha", self.alpha, "a level above 0 and below 1, as 0.05")?;
        check(self.power > 0.5 && self.power < 1.0, "power", self.power, "above 0.5 and below 1, as 0.8")?;
        check(self.n_treatments > 0, "treatments", 0.0, "at least 1")?;
        let per_user = self.impressions_per_user;
        check(per_user > 0.0 && per_user.is_finite(), "impressions per user", per_user, "above 0")?;
        check(
            self.design_effect > 0.0 && self.design_effect.is_finite(),
            "design effect",
            self.design_effect,
            "above 0",
        )?;
        let daily = self.users_per_day.unwrap_or(1.0);
        check(daily > 0.0 && daily.is_finite(), "users per day", daily, "above 0")
    }

    /// The level of one comparison, divided among the treatments (Bonferroni).
    fn level(&self) -> f64 {
        self.alpha / self.n_treatments as f64
    }

    /// Variance of a user's part of a click rate p.
    fn unit_variance(&self, p: f64) -> f64 {
        p * (1.0 - p) * self.design_effect / self.impressions_per_user
    }

    fn size(&self, n_users_per_arm: f64) -> Size {
        let n_users = n_users_per_arm * (self.n_treatments + 1) as f64;
        Size { n_users_per_arm, n_users, days: self.users_per_day.map(|daily| n_users / daily) }
    }

    /// Users in each arm so that an effect of the planned size is `distance` standard errors.
    fn n_for_distance(&self, distance: f64) -> f64 {
        let treatment_rate = self.base_rate * (1.0 + self.lift);
        let variance = self.unit_variance(self.base_rate) + self.unit_variance(treatment_rate);
        (distance / (treatment_rate - self.base_rate)).powi(2) * variance
    }
}

/// Plans a test under both designs.
///
/// # Errors
/// [`PlanError`].
pub fn plan(planned: Planned) -> Result<Plan, PlanError> {
    planned.validate()?;
    let (alpha, power_quantile) = (planned.level(), normal_quantile(planned.power));
    let fixed = planned.n_for_distance(normal_quantile(1.0 - 0.5 * alpha) + power_quantile);
    let ratio = narrowest_ratio(alpha);
    let without_burn_in = planned.n_for_distance((1.0 + ratio).sqrt() + power_quantile);
    let treatment_rate = planned.base_rate * (1.0 + planned.lift);
    let burn_in = BURN_IN_CLICKS as f64 / (planned.base_rate.min(treatment_rate) * planned.impressions_per_user);
    let always_valid = without_burn_in.max(burn_in);
    let end_distance = (always_valid / planned.n_for_distance(1.0)).sqrt();
    let (share, always_valid_power) = simulate_end(ratio, alpha, end_distance, burn_in / always_valid);
    let size = planned.size(always_valid);
    Ok(Plan {
        planned,
        treatment_rate,
        fixed_horizon: planned.size(fixed),
        always_valid: size,
        burn_in_users_per_arm: burn_in,
        always_valid_users_mean: share * size.n_users,
        always_valid_power,
        rho2: ratio / (2.0 * always_valid),
    })
}

/// Smallest lift above 0 that `n_users_per_arm` detect with the planned power, `planned.lift` aside: (fixed
/// horizon, always valid). `None` where even a rate of 1 would not do.
///
/// # Errors
/// [`PlanError`].
pub fn detectable_lift(planned: Planned, n_users_per_arm: f64) -> Result<(Option<f64>, Option<f64>), PlanError> {
    let largest = (1.0 / planned.base_rate - 1.0) * (1.0 - 1e-9);
    let at = |lift: f64| Planned { lift, ..planned };
    at(largest).validate()?;
    let smallest = |distance: f64| {
        let enough = |lift: f64| at(lift).n_for_distance(distance) <= n_users_per_arm;
        let (mut low, mut high) = (0.0, largest);
        if !enough(high) {
            return None;
        }
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if enough(middle) { high = middle } else { low = middle }
        }
        Some(high)
    };
    let (alpha, power_quantile) = (planned.level(), normal_quantile(planned.power));
    let fixed = smallest(normal_quantile(1.0 - 0.5 * alpha) + power_quantile);
    Ok((fixed, smallest((1.0 + narrowest_ratio(alpha)).sqrt() + power_quantile)))
}

/// When an always-valid test of a true effect ends, in the normal limit: the estimate at share t of the planned
/// size is a Brownian motion with drift, observed at 200 times after `burn_in` (share). Gives the mean share at
/// the end of those that end, and the share of tests that do. Seeded: the same question has the same answer.
fn simulate_end(ratio: f64, alpha: f64, end_distance: f64, burn_in: f64) -> (f64, f64) {
    const N_LOOKS: usize = 200;
    const N_PATHS: usize = 4_000;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let (mut n_ended, mut sum) = (0.0, 0.0);
    for _ in 0..N_PATHS {
        let mut walk = 0.0;
        for look in 1..=N_LOOKS {
            let t = look as f64 / N_LOOKS as f64;
            walk += end_distance / N_LOOKS as f64 + standard_normal(&mut rng) / (N_LOOKS as f64).sqrt();
            // z = walk / sqrt(t); the boundary on z with r = tau²/s² = x t
            let r = ratio * t;
            let boundary2 = 2.0 * (1.0 + r) / r * (0.5 * r.ln_1p() - alpha.ln());
            if t >= burn_in && walk * walk / t >= boundary2 {
                n_ended += 1.0;
                sum += t;
                break;
            }
        }
    }
    (sum / n_ended, n_ended / N_PATHS as f64)
}

/// A draw of N(0, 1) (Box and Muller, one of the pair).
fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    let mut uniform = || ((rng.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()
}
