//! Click models: how a click comes about, so that what position did can be told from what the suggestion
//! did. Between the click log and preferences; method B.1.2, oracles C1 to C13, property test 7.
//!
//! | module | P(click on slot k) | for |
//! | --- | --- | --- |
//! | [`choice`] (default) | `w_k v_k / (1 + Σ w_j v_j)` | chips shown together, one click ends the impression |
//! | [`position`] | `θ_k γ_k` | several clicks possible, vertical list |
//! | [`regression`] | `θ_k σ(c + w·f_k)` | the same where nearly every string is shown once |
//! | [`cascade`] | `γ_k Π_{j<k} (1-γ_j)` | strict reading from the top, one click |
//! | [`trust`] | `α_k γ_k + β_k` | users click because of the place |
//!
//! [`fit`] checks first whether the log can tell position from quality at all ([`identify`]: a rank condition
//! on who was shown where) and refuses where it cannot, in words; then it estimates how likely each slot is
//! looked at, with intervals ([`bootstrap`]). None of this is the paper's (method A.2): the models are
//! standard, that a refusal stands before the estimate is ours.
//!
//! Dimension key: `K` slots, `I` items, `F` features. Pure f64 over counts; not here: pairs and examples
//! ([`crate::preference`], [`crate::distill`]).

pub mod bootstrap;
pub mod cascade;
pub mod choice;
pub mod context;
pub mod identify;
pub mod log;
pub mod position;
pub mod regression;
pub mod trust;

use choice::ChoiceModel;
pub use context::ContextKey;
use identify::Ties;
use log::ClickLog;
use position::PositionModel;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use trust::TrustModel;

/// Which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClickModelKind {
    /// One choice a slate.
    #[default]
    Choice,
    /// Position times attraction.
    Position,
    /// Position times a function of features, for unique strings.
    Regression,
    /// From the top to the first click.
    Cascade,
    /// Position with trust in the place.
    Trust,
}

/// Which showings share an item, and so an attraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ItemKey {
    /// The same words in the same context.
    #[default]
    Suggestion,
    /// The same words anywhere.
    Text,
    /// Everything in the same context: for unique strings whose order within the slate was random, as it
    /// takes every slot of a context to be equally good.
    Context,
}

/// Settings of a click model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClickModelConfig {
    /// Which model.
    pub kind: ClickModelKind,
    /// Which showings share an attraction.
    pub item: ItemKey,
    /// Which conversations are one context.
    pub context: ContextKey,
    /// s: clicks that every item is given at the log's mean attraction, so that rare items do not explain
    /// everything by themselves.
    pub prior_clicks: f64,
    /// Resamplings of users behind each interval; 0 for none.
    pub n_resamples: usize,
}

impl Default for ClickModelConfig {
    fn default() -> Self {
        Self {
            kind: ClickModelKind::default(),
            item: ItemKey::default(),
            context: ContextKey::default(),
            prior_clicks: 0.5,
            n_resamples: 60,
        }
    }
}

/// How likely a slot is looked at, relative to the first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Examination {
    /// θ_k (choice model: v_k; trust: α_k).
    pub theta: f64,
    /// 95% interval, users resampled; absent where there are too few of them.
    pub interval: Option<(f64, f64)>,
}

/// A fitted click model.
#[derive(Debug, Clone, PartialEq)]
pub struct Fitted {
    /// Which model.
    pub kind: ClickModelKind,
    /// By slot, `[K]`; the first is 1 by the gauge.
    pub slots: Vec<Examination>,
    /// β_k by slot, `[K]`: P(click) of a suggestion without any attraction, for the place alone; empty for every model but trust.
    pub beta: Vec<f64>,
    /// P(click | looked at) by item, `[I]`.
    pub attraction: Vec<f64>,
}

/// Why there is no estimate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ClickModelError {
    /// Nothing was clicked.
    #[error("no click in {n_slates} slates: position and quality cannot be estimated; import impressions with clicks")]
    NoClicks {
        /// Slates in the log.
        n_slates: usize,
    },
    /// Position and quality cannot be told apart.
    #[error(
        "position bias is not identified: items tie only {rank} of {needed} slot contrasts ({groups}); show the same \
         suggestions in other slots (random order in 1-5% of the traffic), or share attraction among more of them \
         (item: context, or kind: regression)"
    )]
    NotIdentified {
        /// Contrasts that are measured.
        rank: usize,
        /// Contrasts that would be needed.
        needed: usize,
        /// Slots in words, in sets between which nothing moves.
        groups: String,
    },
}

/// Slot sets in words: "slots 0 and 2 | slot 1".
pub fn slots_in_words(groups: &[Vec<usize>]) -> String {
    let mut text = String::new();
    for (i, group) in groups.iter().enumerate() {
        let slots: Vec<String> = group.iter().map(ToString::to_string).collect();
        let word = if slots.len() == 1 { "slot" } else { "slots" };
        // writing into a string cannot fail
        let _ = write!(text, "{}{word} {}", if i == 0 { "" } else { " | " }, slots.join(", "));
    }
    text
}

/// Fits `config.kind` to a log. `features` `[I][F]` are read by the regression alone.
///
/// # Errors
/// [`ClickModelError`]; a refusal comes before anything is estimated.
///
/// # Panics
/// If the regression is asked for with fewer feature vectors than items.
pub fn fit(
    log: &ClickLog,
    features: &[Vec<f64>],
    config: &ClickModelConfig,
    seed: u64,
) -> Result<Fitted, ClickModelError> {
    if log.n_clicks() == 0 {
        return Err(ClickModelError::NoClicks { n_slates: log.slates.len() });
    }
    check_identified(log, features, config.kind)?;
    let all = log.equal_weights();
    let point = Point::of(log, features, config, &all, None);
    let refit = |weights: &[f64]| Some(Point::of(log, features, config, weights, Some(&point)).theta);
    let intervals = bootstrap::intervals(log.n_users, config.n_resamples, seed, refit);
    let slots = point
        .theta
        .iter()
        .enumerate()
        .map(|(k, theta)| Examination { theta: *theta, interval: intervals.as_ref().map(|all| all[k]) });
    let beta = point.trust.as_ref().map_or_else(Vec::new, |trust| (0..log.n_slots).map(|k| trust.beta(k)).collect());
    Ok(Fitted { kind: config.kind, slots: slots.collect(), beta, attraction: point.attraction.clone() })
}

/// θ and attraction of one fit, with what a refit starts from.
struct Point {
    theta: Vec<f64>,
    attraction: Vec<f64>,
    choice: Option<ChoiceModel>,
    position: Option<PositionModel>,
    trust: Option<TrustModel>,
}

impl Point {
    fn of(
        log: &ClickLog,
        features: &[Vec<f64>],
        config: &ClickModelConfig,
        weights: &[f64],
        near: Option<&Self>,
    ) -> Self {
        let (n_slots, n_items) = (log.n_slots, log.n_items);
        // s clicks are so many showings at the log's click rate
        let n_shown: usize = log.slates.iter().map(|s| s.shown.len()).sum();
        let prior_showings = config.prior_clicks * n_shown as f64 / log.n_clicks().max(1) as f64;
        let mut point = Self { theta: Vec::new(), attraction: Vec::new(), choice: None, position: None, trust: None };
        match config.kind {
            ClickModelKind::Choice => {
                let start = near.and_then(|p| p.choice.clone()).unwrap_or_else(|| ChoiceModel::start(log));
                let model = start.fitted(log, weights, config.prior_clicks);
                point.theta = model.slot_weights.clone();
                point.attraction = model.item_weights.iter().map(|w| w / (1.0 + w)).collect();
                point.choice = Some(model);
            }
            ClickModelKind::Position => {
                let start = near.and_then(|p| p.position.clone());
                let start = start.unwrap_or_else(|| PositionModel::start(n_slots, n_items));
                let model = start.fitted(&log.cells(weights), prior_showings);
                (point.theta, point.attraction) = (model.theta.clone(), model.gamma.clone());
                point.position = Some(model);
            }
            ClickModelKind::Regression => {
                let model = regression::fit(&log.cells(weights), features, n_slots);
                (point.theta, point.attraction) = (model.position.theta, model.position.gamma);
            }
            ClickModelKind::Cascade => {
                let model = cascade::fit(log, weights);
                let first = model.examined.first().copied().unwrap_or(1.0);
                point.theta = model.examined.iter().map(|e| e / first).collect();
                point.attraction = model.gamma;
            }
            ClickModelKind::Trust => {
                let start = near.and_then(|p| p.trust.clone()).unwrap_or_else(|| TrustModel::start(n_slots, n_items));
                let model = start.fitted(&log.cells(weights), prior_showings);
                point.theta = (0..n_slots).map(|k| model.alpha(k)).collect();
                point.attraction = model.gamma.clone();
                point.trust = Some(model);
            }
        }
        point
    }
}

/// Refuses where no data of this shape could tell the slots apart.
fn check_identified(log: &ClickLog, features: &[Vec<f64>], kind: ClickModelKind) -> Result<(), ClickModelError> {
    let cells = log.cells(&log.equal_weights());
    let mut used = vec![false; log.n_slots];
    let mut slots_of: Vec<Vec<usize>> = vec![Vec::new(); log.n_items];
    let mut clicked = vec![false; log.n_items];
    for cell in &cells {
        used[cell.slot] = true;
        slots_of[cell.item].push(cell.slot);
        clicked[cell.item] |= cell.clicked > 0.0;
    }
    let refuse = |rank, needed, groups: &[Vec<usize>]| {
        Err(ClickModelError::NotIdentified { rank, needed, groups: slots_in_words(groups) })
    };
    match kind {
        // reading from the top says by itself what was seen
        ClickModelKind::Cascade => Ok(()),
        ClickModelKind::Regression => {
            let needed = used.iter().filter(|u| **u).count().saturating_sub(1);
            let rank = regression::rank(&cells, features, log.n_slots);
            if rank >= needed { Ok(()) } else { refuse(rank, needed, &[(0..log.n_slots).collect()]) }
        }
        ClickModelKind::Choice | ClickModelKind::Position | ClickModelKind::Trust => {
            let moved = || slots_of.iter().zip(&clicked).filter(|(_, c)| **c).map(|(s, _)| s.as_slice());
            let ties = Ties::of_items(moved(), used.clone());
            if !ties.is_complete() {
                return refuse(ties.rank(), ties.needed(), &ties.groups());
            }
            // α and β of a slot are two unknowns: one moving item gives one equation
            let n_moving = |k: usize| moved().filter(|slots| slots.len() > 1 && slots.contains(&k)).count();
            let thin: Vec<Vec<usize>> =
                (1..log.n_slots).filter(|k| used[*k] && n_moving(*k) < 2).map(|k| vec![k]).collect();
            if kind == ClickModelKind::Trust && !thin.is_empty() {
                return refuse(2 * ties.needed() - thin.len(), 2 * ties.needed(), &thin);
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
