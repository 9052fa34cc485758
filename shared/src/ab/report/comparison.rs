//! One treatment against the control: effects, claims of both designs, posterior, guardrails and the course
//! over days.

use super::verdict::Verdict;
use super::{AnalysisError, ArmFigures, Design, Settings, moments_of, wilson_of};
use crate::ab::estimate::{Effect, Estimate};
use crate::ab::guardrail::{self, GuardrailVerdict};
use crate::ab::input::{ArmCounts, Table, User, Users};
use crate::ab::moments::{Moments, Totals};
use crate::ab::path::{Look, PathPoint, path};
use crate::ab::posterior::Posterior;
use crate::ab::sequential::{LookError, Mixture, Running};
use crate::ab::{BURN_IN_CLICKS, Interval, cuped, fixed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Points of the posterior's picture.
const DENSITY_POINTS: usize = 81;

/// What the sequential design says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum AlwaysValid {
    /// Holds at any look.
    Figures {
        /// Whether it is the claim of this report: the design is sequential.
        is_claim: bool,
        /// Smallest p-value of all looks, for this comparison alone.
        p_value: f64,
        /// The same by Holm over the comparisons.
        p_holm: f64,
        /// Confidence sequence of the difference in click rate, intersected over looks.
        interval: Interval,
        /// Confidence sequence of the lift, at this look; null where the control has no clicks.
        lift_interval: Option<Interval>,
        /// Tuning per user.
        rho2: f64,
        /// Looks so far, this one included.
        n_looks: u64,
        /// Users of both arms when the p-value first fell to the level.
        crossed_at: Option<f64>,
        /// Whether the intervals of different looks exclude each other: the effect changed while the test ran.
        has_drifted: bool,
    },
    /// Nothing may be said yet.
    BurnIn {
        /// Clicks of the arm with fewest.
        n_clicks: u64,
        /// Clicks that each arm needs.
        needed: u64,
    },
    /// No variance, or no impressions.
    Undefined,
}

impl AlwaysValid {
    /// The running p-value, where there is one.
    pub fn p_value(&self) -> Option<f64> {
        match self {
            Self::Figures { p_value, .. } => Some(*p_value),
            Self::BurnIn { .. } | Self::Undefined => None,
        }
    }
}

/// Welch's test, for one look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FixedHorizon {
    /// Whether it is the claim of this report: the design is fixed and the planned size is reached.
    pub is_claim: bool,
    /// Two-sided; null where undefined.
    pub p_value: Option<f64>,
    /// By Holm over the comparisons.
    pub p_holm: Option<f64>,
    /// Of the difference in click rate.
    pub interval: Option<Interval>,
    /// When these figures hold.
    pub valid_when: String,
}

/// What the adjustment by the past did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Cuped {
    /// Whether the figures of this comparison are adjusted.
    pub is_used: bool,
    /// Coefficient.
    pub theta: f64,
    /// Share of the variance that the past explains.
    pub variance_reduction: f64,
}

/// Posterior of the lift; a picture, no claim.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PosteriorFigures {
    /// P(lift > 0).
    pub probability_to_win: f64,
    /// Lift lost on average by choosing the treatment.
    pub loss_of_treatment: f64,
    /// Lift lost on average by staying with the control.
    pub loss_of_control: f64,
    /// Central interval at 1 - level.
    pub interval: Interval,
    /// (lift, density) pairs for a picture.
    pub density: Vec<(f64, f64)>,
}

/// One guardrail.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardrailFigures {
    /// "no_suggestion_rate" or "latency_millis_mean".
    pub metric: String,
    /// Of the control; null where undefined.
    pub control: Option<f64>,
    /// Of the treatment.
    pub treatment: Option<f64>,
    /// Interval of treatment / control - 1 by the report's design; null before that may speak (burn-in, planned
    /// size).
    pub lift_interval: Option<Interval>,
    /// Accepted rise, relative.
    pub margin: f64,
    /// Whether it passed.
    pub verdict: GuardrailVerdict,
}

/// One treatment against the control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Control arm.
    pub control: String,
    /// Treatment arm.
    pub treatment: String,
    /// What may be said.
    pub verdict: Verdict,
    /// Click rate of the treatment minus that of the control; null where undefined.
    pub difference: Option<f64>,
    /// Its standard error.
    pub difference_std_error: Option<f64>,
    /// Difference over the control's click rate.
    pub lift: Option<f64>,
    /// The figures of the sequential design.
    pub always_valid: AlwaysValid,
    /// The figures of the fixed design.
    pub fixed_horizon: FixedHorizon,
    /// Adjustment by the time before the test; null where there is none.
    pub cuped: Option<Cuped>,
    /// Posterior of the lift; null where undefined.
    pub posterior: Option<PosteriorFigures>,
    /// Guardrails that the data allow.
    pub guardrails: Vec<GuardrailFigures>,
    /// The test day by day; empty where rows have no days.
    pub path: Vec<PathPoint>,
}

/// One arm's data.
pub(super) struct ArmData<'a> {
    pub(super) name: String,
    source: Source<'a>,
}

enum Source<'a> {
    Counts { counts: &'a ArmCounts, are_users: bool },
    Users { users: &'a Users, arm: usize, clicks: Moments },
}

impl<'a> ArmData<'a> {
    pub(super) fn of_counts(counts: &'a ArmCounts, are_users: bool) -> Self {
        Self { name: counts.arm.clone(), source: Source::Counts { counts, are_users } }
    }

    pub(super) fn of_users(users: &'a Users, arm: usize) -> Self {
        let clicks = moments_of(users, |user| user.clicks, |user| user.arm == arm);
        Self { name: users.arms[arm].clone(), source: Source::Users { users, arm, clicks } }
    }

    pub(super) fn is_per_user(&self) -> bool {
        !matches!(self.source, Source::Counts { are_users: false, .. })
    }

    pub(super) fn n_units(&self) -> u64 {
        match &self.source {
            Source::Counts { counts, .. } => counts.n_units,
            Source::Users { clicks, .. } => clicks.n(),
        }
    }

    /// Clicks and impressions (or users, where only those were counted).
    fn sums(&self) -> (f64, f64) {
        match &self.source {
            Source::Counts { counts, .. } => (counts.n_clicks as f64, counts.n_units as f64),
            Source::Users { users, arm, .. } => {
                let of_arm = users.users.iter().filter(|user| user.arm == *arm).map(|user| user.clicks);
                of_arm.fold((0.0, 0.0), |sums, t| (sums.0 + t.numerator, sums.1 + t.denominator))
            }
        }
    }

    fn estimate(&self) -> Estimate {
        match &self.source {
            Source::Counts { counts, .. } => Estimate::binomial(counts.n_clicks as f64, counts.n_units as f64),
            Source::Users { clicks, .. } => Estimate::ratio(clicks),
        }
    }

    pub(super) fn figures(&self) -> ArmFigures {
        let ((n_clicks, n_impressions), estimate) = (self.sums(), self.estimate());
        let is_counts = matches!(self.source, Source::Counts { .. });
        let independent = estimate.value * (1.0 - estimate.value) / n_impressions * estimate.n_units;
        ArmFigures {
            arm: self.name.clone(),
            n_units: self.n_units(),
            n_impressions,
            n_clicks,
            ctr: finite(estimate.value),
            ctr_std_error: finite(estimate.std_error()),
            wilson: wilson_of(n_clicks, n_impressions).filter(|_| is_counts),
            design_effect: finite(estimate.unit_variance / independent).filter(|_| !is_counts),
        }
    }
}

/// JSON has no NaN: undefined is null.
fn finite(value: f64) -> Option<f64> {
    Some(value).filter(|value| value.is_finite())
}

/// What all comparisons of a test share.
pub(super) struct Question<'a> {
    pub(super) settings: &'a Settings,
    pub(super) level: f64,
    pub(super) mixture: Mixture,
    pub(super) table: &'a Table,
}

impl Question<'_> {
    /// Compares; gives the state for the next look too.
    pub(super) fn compare(
        &self,
        control: &ArmData,
        treatment: &ArmData,
        earlier: Option<&Running>,
    ) -> Result<(Comparison, Running), AnalysisError> {
        let adjusted = match (&control.source, &treatment.source) {
            (Source::Users { clicks: c, .. }, Source::Users { clicks: t, .. }) => cuped::adjust(c, t),
            _ => None,
        };
        let used = adjusted.filter(|_| self.settings.cuped);
        let (c, t) = used.map_or_else(|| (control.estimate(), treatment.estimate()), |a| (a.control, a.treatment));
        let (difference, lift) = (Effect::difference(&c, &t), Effect::lift(&c, &t));
        let n_clicks = control.sums().0.min(treatment.sums().0) as u64;
        let (points, by_day) = self.by_day(control, treatment)?;
        let mut running = earlier.copied().or(by_day).unwrap_or_else(|| Running::new(self.mixture, self.level));
        let is_new_look = earlier.is_some() || by_day.is_none();
        let always_valid = self.always_valid(&mut running, &difference, &lift, n_clicks, is_new_look)?;
        let fixed_horizon = self.fixed_horizon(&difference, &c, &t);
        let may_speak = match self.settings.design {
            Design::Sequential => always_valid.p_value().is_some(),
            Design::Fixed => fixed_horizon.is_claim,
        };
        let comparison = Comparison {
            control: control.name.clone(),
            treatment: treatment.name.clone(),
            verdict: Verdict::TooEarly,
            difference: finite(difference.estimate),
            difference_std_error: finite(difference.std_error()),
            lift: finite(lift.estimate),
            always_valid,
            fixed_horizon,
            cuped: adjusted.map(|a| Cuped {
                is_used: self.settings.cuped,
                theta: a.theta,
                variance_reduction: a.variance_reduction,
            }),
            posterior: lift.is_defined().then(|| self.posterior(&lift)),
            guardrails: self.guardrails(control, treatment, may_speak),
            path: points,
        };
        Ok((comparison, running))
    }

    /// Takes this look, unless the days of the data were looks already.
    fn always_valid(
        &self,
        running: &mut Running,
        difference: &Effect,
        lift: &Effect,
        n_clicks: u64,
        is_new_look: bool,
    ) -> Result<AlwaysValid, LookError> {
        if is_new_look {
            match running.look(difference, n_clicks) {
                Ok(()) => {}
                Err(LookError::BurnIn { n_clicks }) => {
                    return Ok(AlwaysValid::BurnIn { n_clicks, needed: BURN_IN_CLICKS });
                }
                Err(LookError::Undefined { .. }) => return Ok(AlwaysValid::Undefined),
                Err(shrunk) => return Err(shrunk),
            }
        }
        let Some(interval) = running.interval() else {
            return Ok(AlwaysValid::BurnIn { n_clicks, needed: BURN_IN_CLICKS });
        };
        let lift_interval = lift.is_defined().then(|| running.mixture().interval(lift, self.level));
        Ok(AlwaysValid::Figures {
            is_claim: self.settings.design == Design::Sequential,
            p_value: running.p_value(),
            p_holm: running.p_value(),
            interval,
            lift_interval,
            rho2: running.mixture().rho2,
            n_looks: running.n_looks(),
            crossed_at: running.crossed_at(),
            has_drifted: running.has_drifted(),
        })
    }

    fn fixed_horizon(&self, difference: &Effect, control: &Estimate, treatment: &Estimate) -> FixedHorizon {
        let planned = self.settings.planned_users_per_arm;
        let fewest = control.n_units.min(treatment.n_units);
        let is_claim = self.settings.design == Design::Fixed
            && difference.is_defined()
            && planned.is_some_and(|planned| fewest >= planned);
        let valid_when = match (self.settings.design, planned) {
            (Design::Fixed, Some(planned)) => format!("looked at once, when each arm has {planned} users"),
            _ => {
                "looked at once, at a size planned beforehand; here for comparison, not a claim of this test".to_owned()
            }
        };
        FixedHorizon {
            is_claim,
            p_value: difference.is_defined().then(|| fixed::p_value(difference, 0.0)),
            p_holm: None,
            interval: difference.is_defined().then(|| fixed::interval(difference, self.level)),
            valid_when,
        }
    }

    fn posterior(&self, lift: &Effect) -> PosteriorFigures {
        let posterior = Posterior::of(lift, self.settings.prior);
        PosteriorFigures {
            probability_to_win: posterior.probability_to_win(),
            loss_of_treatment: posterior.loss_of_treatment(),
            loss_of_control: posterior.loss_of_control(),
            interval: posterior.interval(self.level),
            density: posterior.density(DENSITY_POINTS),
        }
    }

    /// Guardrails; without intervals, and so undecided, where the design may not speak yet.
    fn guardrails(&self, control: &ArmData, treatment: &ArmData, may_speak: bool) -> Vec<GuardrailFigures> {
        let (Source::Users { users, arm: c, .. }, Source::Users { arm: t, .. }) = (&control.source, &treatment.source)
        else {
            return Vec::new();
        };
        let settings = self.settings;
        let metrics: [(&str, bool, f64, fn(&User) -> Totals); 2] = [
            ("no_suggestion_rate", users.has_requests, settings.no_suggestion_margin, |user| user.no_suggestion),
            ("latency_millis_mean", users.has_latency, settings.latency_margin, |user| user.latency_millis),
        ];
        let there = metrics.into_iter().filter(|(_, is_there, ..)| *is_there);
        there
            .map(|(metric, _, margin, totals)| {
                let of_arm = |arm: usize| Estimate::ratio(&moments_of(users, totals, |user| user.arm == arm));
                let (control, treatment) = (of_arm(*c), of_arm(*t));
                let lift = Effect::lift(&control, &treatment);
                let lift_interval = (may_speak && lift.is_defined()).then(|| match settings.design {
                    Design::Sequential => self.mixture.interval(&lift, self.level),
                    Design::Fixed => fixed::interval(&lift, self.level),
                });
                GuardrailFigures {
                    metric: metric.to_owned(),
                    control: finite(control.value),
                    treatment: finite(treatment.value),
                    lift_interval,
                    margin,
                    verdict: lift_interval
                        .map_or(GuardrailVerdict::Undecided, |interval| guardrail::judge(interval, margin)),
                }
            })
            .collect()
    }

    /// The test day by day, users counted on the day of their first exposure; nothing where rows have no days.
    fn by_day(
        &self,
        control: &ArmData,
        treatment: &ArmData,
    ) -> Result<(Vec<PathPoint>, Option<Running>), AnalysisError> {
        let Table::Users(users) = self.table else { return Ok((Vec::new(), None)) };
        let (Source::Users { arm: c, .. }, Source::Users { arm: t, .. }) = (&control.source, &treatment.source) else {
            return Ok((Vec::new(), None));
        };
        if !users.has_days || users.users.iter().any(|user| user.day.is_none()) {
            return Ok((Vec::new(), None));
        }
        let mut days: BTreeMap<&str, [(Moments, f64); 2]> = BTreeMap::new();
        for user in &users.users {
            let Some(arm) = [*c, *t].iter().position(|arm| *arm == user.arm) else { continue };
            let day = days.entry(user.day.as_deref().unwrap_or_default()).or_default();
            day[arm].0.push(user.clicks);
            day[arm].1 += user.clicks.numerator;
        }
        let mut so_far = [(Moments::default(), 0.0); 2];
        let mut looks = Vec::with_capacity(days.len());
        for (day, today) in days {
            for (sum, (moments, n_clicks)) in so_far.iter_mut().zip(today) {
                *sum = (sum.0.merge(moments), sum.1 + n_clicks);
            }
            let [(control, c_clicks), (treatment, t_clicks)] = &so_far;
            let adjusted = cuped::adjust(control, treatment).filter(|_| self.settings.cuped);
            let (c, t) = adjusted.map_or_else(
                || (Estimate::ratio(control), Estimate::ratio(treatment)),
                |adjusted| (adjusted.control, adjusted.treatment),
            );
            looks.push(Look {
                label: day.to_owned(),
                effect: Effect::difference(&c, &t),
                n_clicks_fewest: c_clicks.min(*t_clicks) as u64,
            });
        }
        let (points, running) = path(&looks, self.mixture, self.level)?;
        Ok((points, Some(running)))
    }
}
