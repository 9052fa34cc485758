//! The course of a test: estimate, confidence sequence and running p-value at each look, for a picture. Pure,
//! so that the page only draws.

use super::Interval;
use super::estimate::Effect;
use super::sequential::{LookError, Mixture, Running};
use serde::{Deserialize, Serialize};

/// What was known at one look.
#[derive(Debug, Clone, PartialEq)]
pub struct Look {
    /// Name of the look, as a day.
    pub label: String,
    /// The effect of all users so far.
    pub effect: Effect,
    /// Clicks so far of the arm with fewest.
    pub n_clicks_fewest: u64,
}

/// A point of the picture. Before the burn-in is over there is an estimate and no interval.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathPoint {
    /// Name of the look.
    pub label: String,
    /// Users so far.
    pub n_units: f64,
    /// Estimated effect; null where undefined.
    pub estimate: Option<f64>,
    /// Confidence sequence of this look; null before the burn-in is over.
    pub interval: Option<Interval>,
    /// Smallest always-valid p-value so far; null before the burn-in is over.
    pub p_value: Option<f64>,
}

/// Takes all looks in order; gives the points and the state after the last.
///
/// # Errors
/// [`LookError::Shrunk`] where looks are out of order.
pub fn path(looks: &[Look], mixture: Mixture, alpha: f64) -> Result<(Vec<PathPoint>, Running), LookError> {
    let mut running = Running::new(mixture, alpha);
    let mut points = Vec::with_capacity(looks.len());
    for look in looks {
        let effect = &look.effect;
        let taken = match running.look(effect, look.n_clicks_fewest) {
            Ok(()) => true,
            Err(LookError::BurnIn { .. } | LookError::Undefined { .. }) => false,
            Err(shrunk) => return Err(shrunk),
        };
        points.push(PathPoint {
            label: look.label.clone(),
            n_units: effect.n_units,
            estimate: Some(effect.estimate).filter(|estimate| estimate.is_finite()),
            interval: taken.then(|| mixture.interval(effect, alpha)),
            p_value: taken.then(|| running.p_value()),
        });
    }
    Ok((points, running))
}
