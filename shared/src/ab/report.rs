//! The whole analysis of one test, with what it assumes: the JSON of `beckon ab analyze` and what the
//! Experiments page shows.
//!
//! The claim comes from one design, chosen before the test: `sequential` (running p-value and confidence
//! sequence, any number of looks) or `fixed` (Welch's test at the planned size, one look). The other design's
//! figures stand in the report for comparison and are marked as no claim. Several treatments: p-values by Holm
//! over the comparisons, intervals at confidence 1 - alpha/m each, so that they hold together. A sample ratio
//! mismatch makes every claim void.

mod basis;
mod comparison;
pub mod headlines;
pub mod verdict;

use super::holm;
use super::input::{Table, User, Users};
use super::moments::Moments;
use super::posterior::Prior;
use super::sample_ratio::{SampleRatio, SampleRatioError, StratumRatio, by_stratum};
use super::sequential::{LookError, Mixture, Running};
use crate::metrics::wilson_interval;
pub use comparison::{AlwaysValid, Comparison, Cuped, FixedHorizon, GuardrailFigures, PosteriorFigures};
use comparison::{ArmData, Question};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use verdict::Verdict;

/// Version of the report's JSON; raised when a field changes meaning.
pub const REPORT_VERSION: u32 = 1;
/// Users in each arm that the confidence sequence is tuned for where nothing was planned.
pub const DEFAULT_PLANNED_USERS: f64 = 10_000.0;
/// Most users that a test is planned for; beyond it the tuning of the confidence sequence runs out of digits.
const MAX_PLANNED_USERS: f64 = 1e12;
/// Shortest and longest window after a user's first exposure: 36 seconds and a year.
const OBSERVATION_HOURS: std::ops::RangeInclusive<f64> = 0.01..=8_760.0;

/// How a claim is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Design {
    /// Any number of looks.
    Sequential,
    /// One look, at the planned size.
    Fixed,
}

/// What was decided before looking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How a claim is made.
    pub design: Design,
    /// Chance of any false claim over all comparisons.
    pub alpha: f64,
    /// The arm that the others are compared with; the first of the data where not named.
    pub control: Option<String>,
    /// Planned share of users by arm; equal where empty.
    pub shares: BTreeMap<String, f64>,
    /// Users in each arm that the test was planned for. Tunes the confidence sequence; under the fixed design
    /// no claim is made before.
    pub planned_users_per_arm: Option<f64>,
    /// Whether the click rate is adjusted by the time before the test. Where no past is known, the report has the figures
    /// without it, and says so.
    pub cuped: bool,
    /// Prior of the lift for the posterior picture; flat where none.
    pub prior: Option<Prior>,
    /// Largest relative rise of the no-suggestion rate that is accepted.
    pub no_suggestion_margin: f64,
    /// Largest relative rise of mean latency that is accepted.
    pub latency_margin: f64,
    /// Hours after a user's first exposure whose exposures and clicks count; the user counts once they are over. Where
    /// none, users count with everything so far, and the always-valid figures are exact only if nobody comes back.
    pub observation_hours: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            design: Design::Sequential,
            alpha: 0.05,
            control: None,
            shares: BTreeMap::new(),
            planned_users_per_arm: None,
            cuped: false,
            prior: None,
            no_suggestion_margin: 0.05,
            latency_margin: 0.05,
            observation_hours: None,
        }
    }
}

impl Settings {
    /// The tuning of one comparison at one level: narrowest at twice the planned users of an arm.
    fn mixture(&self, level: f64) -> Mixture {
        Mixture::narrowest_at(2.0 * self.planned_users_per_arm.unwrap_or(DEFAULT_PLANNED_USERS), level)
    }

    /// Whether a test can be analysed by them, whatever its data are.
    ///
    /// # Errors
    /// [`AnalysisError::Setting`] of the first one that cannot be.
    pub fn validate(&self) -> Result<(), AnalysisError> {
        let check = |ok: bool, field, value: f64, expected| {
            if ok { Ok(()) } else { Err(AnalysisError::Setting { field, value: value.to_string(), expected }) }
        };
        check(self.alpha > 0.0 && self.alpha < 1.0, "alpha", self.alpha, "a level above 0 and below 1, as 0.05")?;
        match self.planned_users_per_arm {
            Some(planned) => {
                let ok = (1.0..=MAX_PLANNED_USERS).contains(&planned);
                check(ok, "planned_users_per_arm", planned, "1 to 1e12 users in each arm")?;
            }
            None if self.design == Design::Fixed => {
                return Err(AnalysisError::Setting {
                    field: "planned_users_per_arm",
                    value: "not given".to_owned(),
                    expected: "a number of users in each arm, as the fixed design has one look there",
                });
            }
            None => {}
        }
        for (field, margin) in
            [("no_suggestion_margin", self.no_suggestion_margin), ("latency_margin", self.latency_margin)]
        {
            let ok = margin >= 0.0 && margin.is_finite();
            check(ok, field, margin, "0 or more, a share of the control's value")?;
        }
        if let Some(prior) = self.prior {
            check(prior.mean.is_finite(), "prior.mean", prior.mean, "a number")?;
            check(prior.std_dev > 0.0 && prior.std_dev.is_finite(), "prior.std_dev", prior.std_dev, "above 0")?;
        }
        if let Some(hours) = self.observation_hours {
            check(OBSERVATION_HOURS.contains(&hours), "observation_hours", hours, "0.01 to 8760 hours")?;
        }
        Ok(())
    }
}

/// What earlier looks at the same test have shown; goes from one report into the next analysis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Looks {
    /// The settings of the first look, which later looks must not change.
    pub settings: Settings,
    /// Control.
    pub control: String,
    /// State of each comparison by treatment.
    pub running: BTreeMap<String, Running>,
}

impl Looks {
    /// These looks together with `other`, a look at the same test that went on from `before` and may not have known of
    /// all of these. Nothing that either has shown is lost, in whatever order they are joined.
    #[must_use]
    pub fn joined(mut self, other: &Self, before: Option<&Self>) -> Self {
        for (treatment, look) in &other.running {
            let earlier = before.and_then(|looks| looks.running.get(treatment));
            let joined = self.running.get(treatment).map_or(*look, |there| there.joined(look, earlier));
            self.running.insert(treatment.clone(), joined);
        }
        self
    }
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AnalysisError {
    /// A setting that cannot be.
    #[error("{field} is {value}; expected {expected}")]
    Setting {
        /// Which, by its name in the JSON of [`Settings`].
        field: &'static str,
        /// What it holds.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// Too few arms.
    #[error("{n_arms} arms in the data; a comparison needs at least two")]
    Arms {
        /// How many.
        n_arms: usize,
    },
    /// An arm that the data do not have.
    #[error("no arm `{name}` in the data; there are {there}")]
    UnknownArm {
        /// Which.
        name: String,
        /// Those that exist.
        there: String,
    },
    /// An arm without a planned share while others have one.
    #[error("no planned share for arm `{name}`; give one for every arm or for none")]
    NoShare {
        /// Which.
        name: String,
    },
    /// CUPED without a past.
    #[error("the data have no time before the test to adjust by: columns `pre_impressions` and `pre_clicks`")]
    NoPast,
    /// Earlier looks were made under other settings.
    #[error("{what} changed since the first look; an always-valid test fixes it before. Undo the change or start anew")]
    Changed {
        /// What.
        what: &'static str,
    },
    /// Shares that cannot be tested.
    #[error(transparent)]
    SampleRatio(#[from] SampleRatioError),
    /// A look that cannot follow the earlier ones.
    #[error(transparent)]
    Look(#[from] LookError),
}

/// An arm as it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmFigures {
    /// Name.
    pub arm: String,
    /// Units.
    pub n_units: u64,
    /// Impressions.
    pub n_impressions: f64,
    /// Clicks.
    pub n_clicks: f64,
    /// Clicks per impression; null without impressions.
    pub ctr: Option<f64>,
    /// Its standard error over units; null for fewer than two.
    pub ctr_std_error: Option<f64>,
    /// Wilson's 95% interval as if impressions were independent: for counts only.
    pub wilson: Option<(f64, f64)>,
    /// Variance over users against that of independent impressions, for `beckon ab plan`; null for counts.
    pub design_effect: Option<f64>,
}

/// A stratum's breakdown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Breakdown {
    /// Name of the stratum, as "device_tier".
    pub by: String,
    /// Its values, the most suspicious first.
    pub strata: Vec<StratumRatio>,
}

/// The analysis of one test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// "user", or "impression" where impressions are taken as independent.
    pub unit: String,
    /// What was decided before looking.
    pub settings: Settings,
    /// Level of one comparison's interval: alpha over the number of comparisons.
    pub level: f64,
    /// Whether any of it comes from simulated users.
    pub simulated: bool,
    /// Arms, control first.
    pub arms: Vec<ArmFigures>,
    /// Did each arm get its share of units?
    pub sample_ratio: SampleRatio,
    /// Where units are missing; only with strata.
    pub sample_ratio_by: Vec<Breakdown>,
    /// One a treatment, in the data's order.
    pub comparisons: Vec<Comparison>,
    /// What the claims rest on.
    pub assumptions: Vec<String>,
    /// What is odd about the data.
    pub warnings: Vec<String>,
}

/// Analyses a test. Gives the report, and the state to hand to the next look at the same test.
///
/// # Errors
/// [`AnalysisError`].
pub fn analyze(table: &Table, settings: &Settings, before: Option<&Looks>) -> Result<(Report, Looks), AnalysisError> {
    settings.validate()?;
    let arms = arms_of(table, settings)?;
    let (names, n_units): (Vec<_>, Vec<_>) = arms.iter().map(|arm| (arm.name.as_str(), arm.n_units())).unzip();
    if let Some(before) = before {
        unchanged(before, settings, names[0])?;
    }
    let shares = shares(settings, &names)?;
    let sample_ratio = SampleRatio::test(&n_units, &shares)?;
    let n_comparisons = arms.len() - 1;
    let level = settings.alpha / n_comparisons as f64;
    let question = Question { settings, level, mixture: settings.mixture(level), table };
    let mut comparisons = Vec::with_capacity(n_comparisons);
    let mut running = BTreeMap::new();
    for treatment in &arms[1..] {
        let earlier = before.and_then(|looks| looks.running.get(&treatment.name));
        let (comparison, state) = question.compare(&arms[0], treatment, earlier)?;
        running.insert(treatment.name.clone(), state);
        comparisons.push(comparison);
    }
    adjust_for_several(&mut comparisons);
    // impressions may differ between arms for good reasons; users may not
    let is_void = arms[0].is_per_user() && sample_ratio.is_mismatch();
    for comparison in &mut comparisons {
        comparison.verdict = Verdict::of(comparison, settings, is_void);
    }
    let report = Report {
        version: REPORT_VERSION,
        unit: if arms[0].is_per_user() { "user" } else { "impression" }.to_owned(),
        settings: settings.clone(),
        level,
        simulated: matches!(table, Table::Users(users) if users.is_simulated),
        sample_ratio_by: breakdowns(table, &names, &shares)?,
        sample_ratio,
        assumptions: basis::assumptions(table, settings),
        warnings: basis::warnings(table, settings, &arms, &comparisons),
        arms: arms.iter().map(ArmData::figures).collect(),
        comparisons,
    };
    Ok((report, Looks { settings: settings.clone(), control: names[0].to_owned(), running }))
}

/// Arms of the data, control first.
fn arms_of<'a>(table: &'a Table, settings: &Settings) -> Result<Vec<ArmData<'a>>, AnalysisError> {
    let mut arms: Vec<ArmData> = match table {
        Table::Counts(counts) => {
            counts.arms.iter().map(|arm| ArmData::of_counts(arm, counts.units_are_users)).collect()
        }
        Table::Users(users) => (0..users.arms.len()).map(|arm| ArmData::of_users(users, arm)).collect(),
    };
    if arms.len() < 2 {
        return Err(AnalysisError::Arms { n_arms: arms.len() });
    }
    let there = || arms.iter().map(|arm| format!("`{}`", arm.name)).collect::<Vec<_>>().join(", ");
    let position = |name: &String| arms.iter().position(|arm| arm.name == *name);
    let known =
        |name: &String| position(name).ok_or_else(|| AnalysisError::UnknownArm { name: name.clone(), there: there() });
    settings.shares.keys().try_for_each(|name| known(name).map(drop))?;
    if let Some(control) = &settings.control {
        let at = known(control)?;
        arms[..=at].rotate_right(1);
    }
    if settings.cuped && !matches!(table, Table::Users(users) if users.has_past) {
        return Err(AnalysisError::NoPast);
    }
    Ok(arms)
}

fn shares(settings: &Settings, names: &[&str]) -> Result<Vec<f64>, AnalysisError> {
    if settings.shares.is_empty() {
        return Ok(vec![1.0; names.len()]);
    }
    let share = |name: &&str| {
        let known = settings.shares.get(*name).copied();
        known.ok_or_else(|| AnalysisError::NoShare { name: (*name).to_owned() })
    };
    names.iter().map(share).collect()
}

/// Level, tuning, control, adjustment and window may not depend on what earlier looks showed.
fn unchanged(before: &Looks, settings: &Settings, control: &str) -> Result<(), AnalysisError> {
    let first = &before.settings;
    // numbers may lose their last bit on the way through JSON
    let differs = |a: f64, b: f64| (a - b).abs() > 1e-12 * a.abs();
    let planned = |settings: &Settings| settings.planned_users_per_arm.unwrap_or(DEFAULT_PLANNED_USERS);
    let hours = |settings: &Settings| settings.observation_hours.unwrap_or(0.0);
    let changed = [
        (differs(first.alpha, settings.alpha), "alpha"),
        (differs(planned(first), planned(settings)), "the planned number of users"),
        (first.cuped != settings.cuped, "the adjustment by the past"),
        (differs(hours(first), hours(settings)), "the observation window"),
        (first.design != settings.design, "the design"),
        (before.control != control, "the control"),
    ];
    match changed.into_iter().find(|(changed, _)| *changed) {
        Some((_, what)) => Err(AnalysisError::Changed { what }),
        None => Ok(()),
    }
}

/// Holm over the comparisons, each design among its own p-values.
fn adjust_for_several(comparisons: &mut [Comparison]) {
    let running: Vec<f64> = comparisons.iter().map(|c| c.always_valid.p_value().unwrap_or(f64::NAN)).collect();
    let fixed: Vec<f64> = comparisons.iter().map(|c| c.fixed_horizon.p_value.unwrap_or(f64::NAN)).collect();
    let (running, fixed) = (holm::adjust(&running), holm::adjust(&fixed));
    for (i, comparison) in comparisons.iter_mut().enumerate() {
        if let AlwaysValid::Figures { p_holm, .. } = &mut comparison.always_valid {
            *p_holm = running[i];
        }
        comparison.fixed_horizon.p_holm = Some(fixed[i]).filter(|p| !p.is_nan());
    }
}

fn breakdowns(table: &Table, names: &[&str], shares: &[f64]) -> Result<Vec<Breakdown>, SampleRatioError> {
    let Table::Users(users) = table else { return Ok(Vec::new()) };
    let columns = users.strata.iter().enumerate();
    let breakdown = |(column, by): (usize, &String)| {
        let mut counts: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for user in &users.users {
            let of_arm = counts.entry(&user.strata[column]).or_insert_with(|| vec![0; names.len()]);
            if let Some(arm) = names.iter().position(|name| *name == users.arms[user.arm]) {
                of_arm[arm] += 1;
            }
        }
        let strata: Vec<_> = counts.into_iter().map(|(value, counts)| (value.to_owned(), counts)).collect();
        Ok(Breakdown { by: by.clone(), strata: by_stratum(&strata, shares)? })
    };
    columns.map(breakdown).collect()
}

/// Wilson's interval where impressions or users are plain counts.
fn wilson_of(n_clicks: f64, n: f64) -> Option<(f64, f64)> {
    (n > 0.0).then(|| wilson_interval(n_clicks, n))
}

/// Moments of the users that `keep` keeps.
fn moments_of(
    users: &Users,
    totals: impl Fn(&User) -> super::moments::Totals,
    keep: impl Fn(&User) -> bool,
) -> Moments {
    Moments::of(users.users.iter().filter(|user| keep(user)).map(totals))
}

#[cfg(test)]
mod tests;
