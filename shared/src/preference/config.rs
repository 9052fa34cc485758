//! Every choice between a log and what the stages learn from, as one part of a run's configuration.
//! Method B.1 and B.7; all defaults are our design.

use crate::click_model::ClickModelConfig;
use crate::ctr::PriorFit;
use crate::distill::DistillConfig;
use serde::{Deserialize, Serialize};

/// How preferences are made.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PreferenceConfig {
    /// What is left out of the log.
    pub filter: FilterConfig,
    /// What is held out.
    pub split: SplitConfig,
    /// How position is told from quality.
    pub click_model: ClickModelConfig,
    /// How the prior of click rates is fitted.
    pub prior: PriorFit,
    /// Which pairs are made, and how many.
    pub pairs: PairConfig,
    /// Which suggestions are imitated.
    pub distill: DistillConfig,
}

/// Impressions that are left out (method B.1.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// A user with more clicks than this within some minute is a bot.
    pub bot_clicks_per_minute: usize,
    /// So is one whose busiest minute is above this quantile of all users' (from 1,000 users on).
    pub bot_quantile: f64,
    /// The same slate again for the same user within this time is a refresh.
    pub refresh_secs: f64,
    /// A click is satisfied from this dwell time on (or with a further turn).
    pub satisfied_secs: f64,
    /// A click bounced below this dwell time.
    pub bounced_secs: f64,
}

impl Default for FilterConfig {
    fn default() -> Self {
        Self {
            bot_clicks_per_minute: 50,
            bot_quantile: 0.999,
            refresh_secs: 2.0,
            satisfied_secs: 10.0,
            bounced_secs: 2.0,
        }
    }
}

/// What keeps impressions together in a split; counts are always split by test, panes and lists by query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SplitKey {
    /// Held-out users' clicks, on conversations that others may have had too.
    #[default]
    User,
    /// Held-out conversations (by how they begin, which panes and lists share).
    Prompt,
}

/// Train against held out, never by row (method B.1.1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SplitConfig {
    /// What keeps impressions together.
    pub by: SplitKey,
    /// Share of groups held out, percent; 100 leaves nothing to learn from: for judging on a log that no run has seen.
    pub held_out_percent: u64,
    /// Share of a data set's impressions, the latest ones, that nothing is learnt from, percent; of them the
    /// held-out groups' are the held-out side. 0 splits by group alone.
    pub latest_percent: u64,
    /// Fewest impressions of a data set from which its time is split; below, only groups are.
    pub min_timed: usize,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self { by: SplitKey::User, held_out_percent: 15, latest_percent: 20, min_timed: 5_000 }
    }
}

/// Pairs (method B.1.4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PairConfig {
    /// M: largest inverse-examination weight.
    pub max_position_weight: f64,
    /// Label of clicked over unclicked, 1 - epsilon.
    pub hard_label: f64,
    /// Label of satisfied over bounced.
    pub satisfied_label: f64,
    /// Smallest |2y - 1| of a soft pair.
    pub min_contrast: f64,
    /// Expected examinations from which a suggestion's own rate enters a pair.
    pub min_examinations: f64,
    /// Pairs of rates kept of one context.
    pub max_per_context: usize,
    /// Pairs kept of one group of a test.
    pub max_per_test: usize,
    /// Pairs of one user kept of one day (UTC).
    pub max_per_user_day: usize,
    /// Clicks taken to stand behind the shares of a pane with few, some and many impressions, where the
    /// shares themselves do not say more.
    pub level_clicks: [f64; 3],
}

impl Default for PairConfig {
    fn default() -> Self {
        Self {
            max_position_weight: 5.0,
            hard_label: 0.98,
            satisfied_label: 0.9,
            min_contrast: 0.1,
            min_examinations: 5.0,
            max_per_context: 30,
            max_per_test: 12,
            max_per_user_day: 50,
            level_clicks: [1.0, 1.0, 2.0],
        }
    }
}

/// A value that preferences cannot be made with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{field} is {value}, expected {expected}")]
pub struct PreferenceConfigError {
    /// Path of the key within a run's configuration.
    pub field: &'static str,
    /// What it holds.
    pub value: f64,
    /// What it should hold.
    pub expected: &'static str,
}

/// Refuses NaN too.
fn within(
    field: &'static str,
    value: f64,
    range: (f64, f64),
    expected: &'static str,
) -> Result<(), PreferenceConfigError> {
    let ok = value >= range.0 && value <= range.1;
    if ok { Ok(()) } else { Err(PreferenceConfigError { field, value, expected }) }
}

impl PreferenceConfig {
    /// Checks every number.
    ///
    /// # Errors
    /// The first key that is out of range, by its path in a run's configuration.
    pub fn validate(&self) -> Result<(), PreferenceConfigError> {
        self.filter.validate()?;
        self.split.validate()?;
        self.pairs.validate()?;
        let model = &self.click_model;
        const CLICKS: &str = "above 0, at most 1,000";
        within("preferences.click_model.prior_clicks", model.prior_clicks, (1e-9, 1e3), CLICKS)?;
        let n = model.n_resamples as f64;
        within("preferences.click_model.n_resamples", n, (0.0, 1e4), "0 to 10,000")?;
        self.distill.validate()
    }
}

impl FilterConfig {
    fn validate(&self) -> Result<(), PreferenceConfigError> {
        let clicks = self.bot_clicks_per_minute as f64;
        within("preferences.filter.bot_clicks_per_minute", clicks, (1.0, 1e6), "1 to 1,000,000")?;
        within("preferences.filter.bot_quantile", self.bot_quantile, (0.5, 1.0), "0.5 to 1")?;
        const SECS: &str = "0 to 86,400";
        within("preferences.filter.refresh_secs", self.refresh_secs, (0.0, 86_400.0), SECS)?;
        within("preferences.filter.bounced_secs", self.bounced_secs, (0.0, 86_400.0), SECS)?;
        const AFTER: &str = "bounced_secs or more, at most 86,400";
        within("preferences.filter.satisfied_secs", self.satisfied_secs, (self.bounced_secs, 86_400.0), AFTER)
    }
}

impl SplitConfig {
    fn validate(&self) -> Result<(), PreferenceConfigError> {
        let (groups, latest) = (self.held_out_percent as f64, self.latest_percent as f64);
        within("preferences.split.held_out_percent", groups, (1.0, 100.0), "1 to 100")?;
        within("preferences.split.latest_percent", latest, (0.0, 90.0), "0 to 90")
    }
}

impl PairConfig {
    fn validate(&self) -> Result<(), PreferenceConfigError> {
        const LABEL: &str = "above 0.5, at most 1";
        let label = (0.5 + 1e-9, 1.0);
        within("preferences.pairs.max_position_weight", self.max_position_weight, (1.0, 1e3), "1 to 1,000")?;
        within("preferences.pairs.hard_label", self.hard_label, label, LABEL)?;
        within("preferences.pairs.satisfied_label", self.satisfied_label, label, LABEL)?;
        within("preferences.pairs.min_contrast", self.min_contrast, (0.0, 1.0), "0 to 1")?;
        const EXAMINATIONS: &str = "above 0, at most 1,000,000";
        within("preferences.pairs.min_examinations", self.min_examinations, (1e-9, 1e6), EXAMINATIONS)?;
        for (field, n) in [
            ("preferences.pairs.max_per_context", self.max_per_context),
            ("preferences.pairs.max_per_test", self.max_per_test),
            ("preferences.pairs.max_per_user_day", self.max_per_user_day),
        ] {
            within(field, n as f64, (1.0, 1e6), "1 to 1,000,000")?;
        }
        for clicks in self.level_clicks {
            within("preferences.pairs.level_clicks", clicks, (0.1, 1e3), "three numbers of 0.1 to 1,000")?;
        }
        Ok(())
    }
}
