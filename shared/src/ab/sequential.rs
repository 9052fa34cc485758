//! Always-valid inference: a p-value and an interval that hold however often one looks and whenever one stops.
//! Method B.6.5, oracle T9, property test 9.
//!
//! Mixture sequential probability ratio test with a normal mixture N(0, tau²) over the effect (Johari et al.,
//! Operations Research 2022), on an estimate θ̂ with estimated variance s²:
//!
//! Λ = sqrt(s² / (s² + tau²)) · exp(tau² θ̂² / (2 s² (s² + tau²))), p = 1/Λ.
//!
//! All θ for which Λ stays below 1/alpha are the confidence sequence. With tau² = rho² V, V = n s² the variance
//! of one unit's contribution, this is the asymptotic confidence sequence of Waudby-Smith et al. (Annals of
//! Statistics 2024, arXiv 2103.06476, equation 9), which is what we use: `rho2` is fixed before the first look,
//! s² is estimated at each. Units are users, of both arms together, so `rho2` is per user. The guarantee is
//! asymptotic; hence [`super::BURN_IN_CLICKS`], which [`Running`] enforces.

use super::estimate::Effect;
use super::{BURN_IN_CLICKS, Interval};
use serde::{Deserialize, Serialize};

/// The ratio x = tau² / s² at which the interval at confidence 1 - `alpha` is narrowest: the solution of
/// x = ln(1 + x) - 2 ln alpha. 8.21 for 0.05, 11.76 for 0.01.
///
/// The half-width is then exactly s sqrt(1 + x).
///
/// # Panics
/// If `alpha` is not strictly between 0 and 1.
pub fn narrowest_ratio(alpha: f64) -> f64 {
    assert!(alpha > 0.0 && alpha < 1.0, "a level needs 0 < alpha < 1, got {alpha}");
    let mut x = -2.0 * alpha.ln();
    // a contraction with factor 1 / (1 + x)
    for _ in 0..200 {
        x = x.ln_1p() - 2.0 * alpha.ln();
    }
    x
}

/// How the mixture is tuned.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// tau² / V, per unit; above 0.
    pub rho2: f64,
}

impl Mixture {
    /// Narrowest at `n_units` (all arms together) for intervals at confidence 1 - `alpha`.
    ///
    /// # Panics
    /// If `alpha` is not strictly between 0 and 1.
    pub fn narrowest_at(n_units: f64, alpha: f64) -> Self {
        Self { rho2: narrowest_ratio(alpha) / n_units }
    }

    /// tau² of an effect: rho² · n s².
    pub fn tau2(self, effect: &Effect) -> f64 {
        self.rho2 * effect.n_units * effect.variance
    }

    /// ln Λ against the hypothesis that the effect is `null`.
    pub fn log_likelihood_ratio(self, effect: &Effect, null: f64) -> f64 {
        let (s2, tau2) = (effect.variance, self.tau2(effect));
        let distance2 = (effect.estimate - null).powi(2);
        0.5 * (s2 / (s2 + tau2)).ln() + tau2 * distance2 / (2.0 * s2 * (s2 + tau2))
    }

    /// min(1, 1/Λ): always-valid p-value of this look alone; [`Running`] keeps the smallest.
    pub fn p_value(self, effect: &Effect, null: f64) -> f64 {
        (-self.log_likelihood_ratio(effect, null)).exp().min(1.0)
    }

    /// Half-width sqrt(2 s² (s² + tau²) / tau² · ln(sqrt((s² + tau²) / s²) / alpha)) at confidence 1 - `alpha`.
    pub fn half_width(self, effect: &Effect, alpha: f64) -> f64 {
        let (s2, tau2) = (effect.variance, self.tau2(effect));
        (2.0 * s2 * (s2 + tau2) / tau2 * (((s2 + tau2) / s2).sqrt() / alpha).ln()).sqrt()
    }

    /// The confidence sequence at this look.
    pub fn interval(self, effect: &Effect, alpha: f64) -> Interval {
        Interval::around(effect.estimate, self.half_width(effect, alpha))
    }
}

/// Why a look was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LookError {
    /// Too few clicks for the asymptotics.
    #[error("burn-in: {n_clicks} clicks in the smaller arm, {BURN_IN_CLICKS} needed before an always-valid claim")]
    BurnIn {
        /// Clicks of the arm with fewest.
        n_clicks: u64,
    },
    /// Fewer units than at the look before.
    #[error("{n_units} units, fewer than the {before} of the look before; an always-valid test only grows")]
    Shrunk {
        /// Units now.
        n_units: f64,
        /// Units then.
        before: f64,
    },
    /// No variance, or no finite estimate.
    #[error("the effect is undefined: estimate {estimate}, variance {variance}")]
    Undefined {
        /// The estimate.
        estimate: f64,
        /// Its variance.
        variance: f64,
    },
}

/// A comparison that is looked at again and again: tuning and level as they were fixed before the first look, and
/// what the looks so far have shown. Serialisable, so that a claim outlives the process that made it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Running {
    mixture: Mixture,
    alpha: f64,
    p_value: f64,
    within: Option<Interval>,
    n_units: f64,
    n_looks: u64,
    crossed_at: Option<f64>,
}

impl Running {
    /// Before the first look.
    ///
    /// # Panics
    /// If `alpha` is not strictly between 0 and 1 or `mixture.rho2` is not above 0.
    pub fn new(mixture: Mixture, alpha: f64) -> Self {
        assert!(alpha > 0.0 && alpha < 1.0, "a level needs 0 < alpha < 1, got {alpha}");
        assert!(mixture.rho2 > 0.0, "rho2 must be above 0, got {}", mixture.rho2);
        Self { mixture, alpha, p_value: 1.0, within: None, n_units: 0.0, n_looks: 0, crossed_at: None }
    }

    /// Takes a look: the p-value becomes the smallest so far, the interval the intersection of all so far.
    ///
    /// # Errors
    /// [`LookError`]; the state is then unchanged, and nothing may be claimed from this look.
    pub fn look(&mut self, effect: &Effect, n_clicks_fewest: u64) -> Result<(), LookError> {
        if n_clicks_fewest < BURN_IN_CLICKS {
            return Err(LookError::BurnIn { n_clicks: n_clicks_fewest });
        }
        if effect.n_units < self.n_units {
            return Err(LookError::Shrunk { n_units: effect.n_units, before: self.n_units });
        }
        if !effect.is_defined() {
            return Err(LookError::Undefined { estimate: effect.estimate, variance: effect.variance });
        }
        self.within = intersection(self.within, Some(self.mixture.interval(effect, self.alpha)));
        self.p_value = self.p_value.min(self.mixture.p_value(effect, 0.0));
        self.n_units = effect.n_units;
        self.n_looks += 1;
        if self.p_value <= self.alpha && self.crossed_at.is_none() {
            self.crossed_at = Some(effect.n_units);
        }
        Ok(())
    }

    /// This state together with `other`, which went on from `before` (`None`: from the start, over the same days as this
    /// one) and may not have known of all looks of this one. A p-value and an interval that hold at any look hold for
    /// the looks of both, so the order does not matter.
    #[must_use]
    pub fn joined(&self, other: &Self, before: Option<&Self>) -> Self {
        let n_known = before.map_or(self.n_looks.min(other.n_looks), |before| before.n_looks);
        Self {
            mixture: self.mixture,
            alpha: self.alpha,
            p_value: self.p_value.min(other.p_value),
            within: intersection(self.within, other.within),
            n_units: self.n_units.max(other.n_units),
            n_looks: self.n_looks + other.n_looks.saturating_sub(n_known),
            crossed_at: self.crossed_at.into_iter().chain(other.crossed_at).reduce(f64::min),
        }
    }

    /// The tuning.
    pub fn mixture(&self) -> Mixture {
        self.mixture
    }

    /// The level of the interval.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Smallest p-value of all looks; 1 before the first.
    pub fn p_value(&self) -> f64 {
        self.p_value
    }

    /// Intersection of the intervals of all looks; `None` before the first. Empty (`low > high`) where the effect
    /// moved while the test ran, which a test of one effect cannot explain: see [`Self::has_drifted`].
    pub fn interval(&self) -> Option<Interval> {
        self.within
    }

    /// Whether the intervals of different looks exclude each other: the effect changed over time (or an
    /// alpha-rare chance).
    pub fn has_drifted(&self) -> bool {
        self.within.is_some_and(|within| within.low > within.high)
    }

    /// Looks taken after the burn-in.
    pub fn n_looks(&self) -> u64 {
        self.n_looks
    }

    /// Units when the p-value first fell to alpha.
    pub fn crossed_at(&self) -> Option<f64> {
        self.crossed_at
    }
}

/// What lies in both, where there are both.
fn intersection(a: Option<Interval>, b: Option<Interval>) -> Option<Interval> {
    match (a, b) {
        (Some(a), Some(b)) => Some(Interval { low: a.low.max(b.low), high: a.high.min(b.high) }),
        (a, b) => a.or(b),
    }
}
