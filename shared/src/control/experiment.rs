//! Experiments: two or more arms on live traffic, from a draft to a decision.
//!
//! In the loop: the last arrow, from suggestions back to the log. Assignment and statistics are [`crate::ab`]; here is what the
//! server and its clients say to each other. A unit (a user's pseudonym) asks for its assignment, shows suggestions, and
//! reports what was shown and clicked. An exposure counts only where something was visible, or where the arm had nothing to
//! show (for the no-suggestion guardrail).

pub mod harvest;

use crate::ab::assignment::{ArmShare, Assignment, AssignmentError};
use crate::ab::report::{AnalysisError, Looks, Report, Settings};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Most arms of one experiment.
const MAX_ARMS: usize = 8;
/// Most events of one batch.
pub const MAX_BATCH: usize = 1_000;
/// Longest name, unit, impression id, tier or browser, bytes.
const MAX_TEXT_BYTES: usize = 200;
/// Most slots of a slate.
const MAX_SLOTS: usize = 32;
/// Characters of a wrong name that a message repeats.
const MAX_REPEATED: usize = 40;
/// Days before the start of an experiment in which its users' past lies, which `settings.cuped` adjusts by: four weeks.
pub const PAST_DAYS: i64 = 28;

/// What writes the suggestions of an arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A checkpoint of the registry.
    Checkpoint(String),
    /// A prompt template for a model of the client's.
    Template(String),
}

/// How candidates are decoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Decoding {
    /// Candidates a slate is chosen from.
    pub n_candidates: usize,
    /// Sampling temperature.
    pub temperature: f64,
    /// Nucleus.
    pub top_p: f64,
    /// Longest suggestion.
    pub max_new_tokens: usize,
}

impl Default for Decoding {
    fn default() -> Self {
        Self { n_candidates: 8, temperature: 0.8, top_p: 0.95, max_new_tokens: 16 }
    }
}

/// How a slate is chosen from the candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// By GaRM, with spread.
    #[default]
    Reward,
    /// By likelihood.
    Likelihood,
    /// At random.
    Random,
}

/// One arm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// Name.
    pub name: String,
    /// Relative share of the traffic, above 0.
    #[serde(default = "one")]
    pub weight: f64,
    /// What writes.
    pub source: Source,
    /// How.
    #[serde(default)]
    pub decoding: Decoding,
    /// Which are shown.
    #[serde(default)]
    pub selector: Selector,
}

impl Arm {
    /// Whether both arms would write the same.
    fn same_policy(&self, other: &Self) -> bool {
        self.source == other.source && self.decoding == other.decoding && self.selector == other.selector
    }
}

fn one() -> f64 {
    1.0
}

/// How arms meet users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Each user sees one arm.
    #[default]
    Split,
    /// Every user sees slates drafted from both arms; a click is a vote.
    Interleaved,
}

/// What an experiment is. The first arm is the control.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExperimentConfig {
    /// For people.
    pub name: String,
    /// Two to eight; exactly two where they are interleaved.
    pub arms: Vec<Arm>,
    /// How arms meet users.
    #[serde(default)]
    pub layout: Layout,
    /// Experiments of one layer whose stretches do not overlap share no user.
    #[serde(default = "default_layer")]
    pub layer: String,
    /// The stretch of the layer, `[from, to)` within [0, 1]: its length is the share of users that take part.
    #[serde(default = "whole")]
    pub traffic: (f64, f64),
    /// Units that never take part.
    #[serde(default)]
    pub excluded: BTreeSet<String>,
    /// Origins whose pages may ask for assignments and report events.
    #[serde(default)]
    pub allowed_origins: BTreeSet<String>,
    /// What was decided before looking. Where arms are split, `observation_hours` lets users count with that time after
    /// their first exposure, once it is over: then the always-valid figures hold though users come back. `cuped` adjusts by
    /// what the same units were shown and clicked in other experiments of this server in the 28 days before the start, as
    /// it was known then. Their sites must name the same person alike.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub settings: Settings,
}

fn default_layer() -> String {
    "main".into()
}

fn whole() -> (f64, f64) {
    (0.0, 1.0)
}

/// A configuration that was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ExperimentError {
    /// Arms, weights or traffic.
    #[error(transparent)]
    Assignment(#[from] AssignmentError),
    /// A field that cannot be.
    #[error("{field}: {problem}")]
    Field {
        /// Path of the field.
        field: String,
        /// What is wrong, and what was expected.
        problem: String,
    },
}

fn field(field: impl Into<String>, problem: impl Into<String>) -> ExperimentError {
    ExperimentError::Field { field: field.into(), problem: problem.into() }
}

impl ExperimentConfig {
    /// How units are assigned; the id is the salt, so experiments are independent of each other.
    pub fn assignment(&self, id: &str) -> Assignment {
        Assignment {
            salt: id.to_owned(),
            layer: self.layer.clone(),
            from: self.traffic.0,
            to: self.traffic.1,
            arms: self.arms.iter().map(|arm| ArmShare { name: arm.name.clone(), weight: arm.weight }).collect(),
            excluded: self.excluded.clone(),
        }
    }

    /// Settings of the analysis: control and shares are those of the arms.
    pub fn analysis(&self) -> Settings {
        let total: f64 = self.arms.iter().map(|arm| arm.weight).sum();
        let shares: BTreeMap<String, f64> =
            self.arms.iter().map(|arm| (arm.name.clone(), arm.weight / total)).collect();
        Settings { control: self.arms.first().map(|arm| arm.name.clone()), shares, ..self.settings.clone() }
    }

    /// Whether every arm is the same policy: a test of the testing itself.
    pub fn is_aa(&self) -> bool {
        self.arms.windows(2).all(|pair| pair[0].same_policy(&pair[1]))
    }

    /// Checkpoints that the arms need.
    pub fn checkpoints(&self) -> impl Iterator<Item = &str> {
        self.arms.iter().filter_map(|arm| match &arm.source {
            Source::Checkpoint(id) => Some(id.as_str()),
            Source::Template(_) => None,
        })
    }

    /// # Errors
    /// [`ExperimentError`] of the first thing that cannot be.
    pub fn validate(&self) -> Result<(), ExperimentError> {
        self.assignment("e0").validate()?;
        let text = |name: &str, text: &str| {
            let ok = !text.trim().is_empty() && text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control);
            if ok { Ok(()) } else { Err(field(name, format!("expected 1 to {MAX_TEXT_BYTES} bytes of text"))) }
        };
        text("name", &self.name)?;
        text("layer", &self.layer)?;
        if self.arms.len() > MAX_ARMS {
            return Err(field("arms", format!("{} arms, expected at most {MAX_ARMS}", self.arms.len())));
        }
        if self.layout == Layout::Interleaved && self.arms.len() != 2 {
            return Err(field("arms", format!("{} arms, but two are interleaved", self.arms.len())));
        }
        for (i, arm) in self.arms.iter().enumerate() {
            text(&format!("arms[{i}].name"), &arm.name)?;
            let Decoding { n_candidates, temperature, top_p, max_new_tokens } = arm.decoding;
            for (name, ok, expected) in [
                ("n_candidates", (1..=32).contains(&n_candidates), "1 to 32"),
                ("temperature", (0.0..=5.0).contains(&temperature), "0 to 5"),
                ("top_p", top_p > 0.0 && top_p <= 1.0, "above 0, at most 1"),
                ("max_new_tokens", (1..=64).contains(&max_new_tokens), "1 to 64"),
            ] {
                if !ok {
                    return Err(field(format!("arms[{i}].decoding.{name}"), format!("expected {expected}")));
                }
            }
        }
        for origin in &self.allowed_origins {
            let plain = origin.split_once("://").is_some_and(|(scheme, host)| {
                ["http", "https"].contains(&scheme) && !host.is_empty() && !host.contains(['/', '*', ' '])
            });
            if !plain {
                return Err(field("allowed_origins", format!("{origin:?} is no origin; expected https://HOST[:PORT]")));
            }
        }
        self.can_be_analysed()
    }

    /// What no look at the experiment could ever be made with is refused before it begins.
    fn can_be_analysed(&self) -> Result<(), ExperimentError> {
        self.settings.validate().map_err(|error| match error {
            AnalysisError::Setting { field: name, value, expected } => {
                field(format!("settings.{name}"), format!("{value}; expected {expected}"))
            }
            other => field("settings", other.to_string()),
        })?;
        if self.layout == Layout::Split {
            return Ok(());
        }
        if self.settings.cuped {
            let problem = "true, but arms are interleaved, whose votes are not adjusted by the past; leave it out";
            return Err(field("settings.cuped", problem));
        }
        if self.settings.observation_hours.is_some() {
            let problem = "given, but arms are interleaved, whose votes are all counted; leave it out";
            return Err(field("settings.observation_hours", problem));
        }
        Ok(())
    }

    fn has_arm(&self, name: &str) -> bool {
        self.arms.iter().any(|arm| arm.name == name)
    }

    /// Why `name` is refused where an arm is expected.
    fn no_arm(&self, place: &str, name: &str) -> String {
        let name: String = name.chars().take(MAX_REPEATED).collect();
        let there: Vec<String> = self.arms.iter().map(|arm| format!("{:?}", arm.name)).collect();
        format!("{place} is {name:?}, which is no arm; expected {}", there.join(" or "))
    }
}

/// Life of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExperimentState {
    /// Made; nobody is assigned.
    Draft,
    /// Users are assigned.
    Running,
    /// Nobody is assigned any more; clicks on what was shown still count.
    Stopped,
    /// A person has named the winner.
    Decided,
}

/// What a person can ask of an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExperimentCommand {
    /// Begin to assign users.
    Start,
    /// Assign nobody any more.
    Stop,
    /// The same at once and for good: what arrives from now on is refused.
    Kill,
    /// Name the winner.
    Decide,
}

impl ExperimentCommand {
    /// All commands.
    pub const ALL: [Self; 4] = [Self::Start, Self::Stop, Self::Kill, Self::Decide];

    /// The word used in paths and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Kill => "kill",
            Self::Decide => "decide",
        }
    }

    /// The command with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.name() == name)
    }
}

/// The table: what a command makes of a state; `None` where it is not legal.
pub fn next(state: ExperimentState, command: ExperimentCommand) -> Option<ExperimentState> {
    use ExperimentCommand as C;
    use ExperimentState as S;
    match (state, command) {
        (S::Draft, C::Start) => Some(S::Running),
        (S::Running, C::Stop | C::Kill) | (S::Stopped, C::Kill) => Some(S::Stopped),
        (S::Stopped, C::Decide) => Some(S::Decided),
        _ => None,
    }
}

/// An experiment as the server knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExperimentStatus {
    /// `e` and a number, increasing.
    pub id: String,
    /// What it is.
    pub config: ExperimentConfig,
    /// Life.
    pub state: ExperimentState,
    /// The kill switch was used.
    pub killed: bool,
    /// The arm that won, once decided.
    pub winner: Option<String>,
    /// Every arm is the same policy.
    pub aa: bool,
    /// When it was made, milliseconds since 1970 UTC.
    pub created_millis: i64,
    /// When it was started.
    pub started_millis: Option<i64>,
    /// When it was stopped.
    pub stopped_millis: Option<i64>,
}

/// Which arm a unit sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Assigned {
    /// The experiment.
    pub experiment: String,
    /// The arm, with all that the client needs; `None` where the unit does not take part: then show what is in production.
    /// Where arms are interleaved, the first one; `arms` has both.
    pub arm: Option<Arm>,
    /// Both arms to draft from, where they are interleaved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<Arm>,
    /// Probability with which a unit that takes part sees this arm. The propensity of a slot is given the arm, so it is not
    /// part of that.
    pub propensity: Option<f64>,
    /// Why there is no arm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A suggestion that was shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShownSlot {
    /// As shown.
    pub text: String,
    /// Probability with which it came to stand in this slot, given the arm, in (0, 1].
    pub propensity: f64,
    /// Whether it was in the viewport.
    pub visible: bool,
    /// The arm that placed it, where arms are interleaved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arm: Option<String>,
}

/// Something that a client saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum IngestEvent {
    /// A slate was shown, or none could be.
    Exposure(Exposure),
    /// A suggestion was clicked.
    Click(ClickEvent),
}

/// A slate that was shown; without slots, a request that the arm had nothing for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exposure {
    /// Unique within the experiment; a second one is a duplicate.
    pub impression_id: String,
    /// Pseudonym of the user.
    pub unit: String,
    /// The arm it was assigned.
    pub arm: String,
    /// When, milliseconds since 1970 UTC.
    pub time_millis: i64,
    /// The conversation so far, where it may be kept.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub prompt: Option<crate::prompt::Prompt>,
    /// What was shown, slot 0 first.
    pub slate: Vec<ShownSlot>,
    /// Time from request to slate.
    #[serde(default)]
    pub latency_millis: Option<f64>,
    /// Stratum: the client's device class.
    #[serde(default)]
    pub device_tier: Option<String>,
    /// Stratum: the client's browser.
    #[serde(default)]
    pub browser: Option<String>,
    /// True for simulated users.
    #[serde(default)]
    pub simulated: bool,
}

/// A click.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ClickEvent {
    /// Of the exposure.
    pub impression_id: String,
    /// 0-based.
    pub slot: usize,
    /// When, milliseconds since 1970 UTC.
    pub time_millis: i64,
    /// Seconds spent on what it led to.
    #[serde(default)]
    pub dwell_secs: Option<f64>,
}

/// A batch of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IngestBatch {
    /// At most 1,000, exposures before their clicks.
    pub events: Vec<IngestEvent>,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IngestOutcome {
    /// Stored.
    pub n_accepted: usize,
    /// There already.
    pub n_duplicates: usize,
    /// Refused: position in the batch and why.
    pub rejects: Vec<(usize, String)>,
}

/// Results as they stand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Results {
    /// The experiment.
    pub experiment: ExperimentStatus,
    /// Slates shown, all that came in; the report has those that count.
    pub n_exposures: u64,
    /// Clicks, all that came in.
    pub n_clicks: u64,
    /// Some of it comes from simulated users.
    pub simulated: bool,
    /// The analysis; `None` where there is not enough to analyse, and then `why` says what is missing.
    #[schema(value_type = Option<Object>)]
    pub report: Option<Report>,
    /// Votes, where arms are interleaved.
    pub preference: Option<Preference>,
    /// Why there is no analysis.
    pub why: Option<String>,
}

/// Which of two interleaved arms users prefer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Preference {
    /// The control.
    pub a: String,
    /// The other.
    pub b: String,
    /// Net votes per click in [-1, 1], above 0 where `b` is preferred.
    pub net: f64,
    /// Its standard error over users.
    pub std_error: f64,
    /// Users with a click.
    pub n_users: u64,
}

/// The state that goes from one look into the next, as the server stores it.
pub type LooksState = Looks;

impl Exposure {
    /// Whether it may be taken in by the experiment, given the arm that the unit was assigned (`None`: it does not take
    /// part).
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check(&self, assigned: Option<&str>, config: &ExperimentConfig) -> Result<(), String> {
        for (name, text) in [("impression_id", &self.impression_id), ("unit", &self.unit)] {
            if text.is_empty() || text.len() > MAX_TEXT_BYTES {
                return Err(format!("{name} has {} bytes, expected 1 to {MAX_TEXT_BYTES}", text.len()));
            }
        }
        for (name, text) in [("device_tier", &self.device_tier), ("browser", &self.browser)] {
            if text.as_ref().is_some_and(|text| text.len() > MAX_TEXT_BYTES) {
                return Err(format!("{name} is longer than {MAX_TEXT_BYTES} bytes"));
            }
        }
        if self.slate.len() > MAX_SLOTS {
            return Err(format!("{} slots, expected at most {MAX_SLOTS}", self.slate.len()));
        }
        if self.latency_millis.is_some_and(|latency| !(latency >= 0.0 && latency.is_finite())) {
            return Err("latency_millis is not a time".into());
        }
        for (slot, shown) in self.slate.iter().enumerate() {
            if !(shown.propensity > 0.0 && shown.propensity <= 1.0) {
                return Err(format!("slate[{slot}].propensity is {}, expected in (0, 1]", shown.propensity));
            }
            match &shown.arm {
                None if config.layout == Layout::Interleaved => {
                    return Err(format!("slate[{slot}].arm is missing, and arms are interleaved"));
                }
                Some(name) if !config.has_arm(name) => {
                    return Err(config.no_arm(&format!("slate[{slot}].arm"), name));
                }
                _ => {}
            }
        }
        if !self.slate.is_empty() && !self.slate.iter().any(|slot| slot.visible) {
            return Err("nothing of the slate was visible, so nobody was exposed".into());
        }
        if !config.has_arm(&self.arm) {
            return Err(config.no_arm("arm", &self.arm));
        }
        match assigned {
            None => Err("the unit does not take part".into()),
            Some(arm) if config.layout == Layout::Split && arm != self.arm => {
                Err(format!("the unit is assigned to {arm}, not to {}", self.arm))
            }
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
