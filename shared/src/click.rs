//! The click log: what was shown, what was clicked, and the other kinds of evidence that public data
//! sets carry. First arrow of the loop; importers ([`crate::import`]) parse outside text into these types
//! once, and every later stage takes only them. Method B.1.1.

use crate::prompt::Prompt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Version of the JSONL schema of [`Impression`]; raised when a field changes meaning.
pub const SCHEMA_VERSION: u32 = 1;

/// One suggestion in a slate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The suggestion as shown.
    pub text: String,
    /// Probability with which the logging policy put this text in this slot, in (0, 1]; null where unknown.
    #[serde(default)]
    pub propensity: Option<f64>,
    /// Whether it was in the viewport; null where unknown.
    #[serde(default)]
    pub visible: Option<bool>,
    /// Whether it was clicked.
    pub clicked: bool,
    /// Seconds spent on what the click led to; null where there was no click or it was not measured.
    #[serde(default)]
    pub dwell_secs: Option<f64>,
    /// Whether the user went on with a further turn after the click; null where unknown.
    #[serde(default)]
    pub followed_up: Option<bool>,
}

/// One showing of a slate after an assistant turn: a line of our own JSONL.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Impression {
    /// Unique; a second record with the same id is a duplicate.
    pub impression_id: String,
    /// Pseudonym of the user; splits are by user.
    pub user_hash: String,
    /// When it was shown, milliseconds since 1970-01-01 UTC.
    pub time_millis: i64,
    /// The conversation so far.
    pub prompt: Prompt,
    /// What was shown, slot 0 first.
    pub slate: Vec<Slot>,
    /// Name of the policy that wrote or chose the slate.
    #[serde(default)]
    pub policy: Option<String>,
    /// Checkpoint id of that policy.
    #[serde(default)]
    pub checkpoint: Option<String>,
    /// Experiment, when the impression belongs to one.
    #[serde(default)]
    pub experiment: Option<String>,
    /// Arm of that experiment.
    #[serde(default)]
    pub arm: Option<String>,
    /// True for records of the simulator; shown wherever the record is counted.
    #[serde(default)]
    pub simulated: bool,
}

/// How many impressions a [`Pane`] had, where the source gives only a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImpressionLevel {
    /// Few: noisy.
    Low,
    /// Some.
    Medium,
    /// Many.
    High,
}

/// A slate with its aggregated engagement (MIMICS click data).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pane {
    /// The conversation so far; its query groups panes for splits.
    pub prompt: Prompt,
    /// Suggestions, slot 0 first.
    pub options: Vec<String>,
    /// 0 (never clicked) to 10, relative to other panes.
    pub engagement_level: u8,
    /// How much traffic stands behind the level.
    pub impression_level: ImpressionLevel,
    /// Share of the pane's clicks per option, sums to 1 where there was any click.
    pub conditional_ctr: Vec<f64>,
}

/// A text with its true counts in a randomised test (Upworthy).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Test and picture: only texts of one group may be compared.
    pub group: String,
    /// What all texts of the group answer to.
    pub prompt: Prompt,
    /// The text.
    pub text: String,
    /// Times shown.
    pub n_impressions: u64,
    /// Times clicked.
    pub n_clicks: u64,
}

/// Suggestions known to be good for a prompt without any click: editors' lists, real next queries,
/// labelled panes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demonstration {
    /// The conversation so far.
    pub prompt: Prompt,
    /// Good suggestions, in the source's order.
    pub suggestions: Vec<String>,
    /// Human label where there is one: 0 bad, 1 fair, 2 good.
    pub label: Option<u8>,
}

/// One record of a log, whatever evidence it carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// One showing with clicks.
    Impression(Impression),
    /// An aggregated showing.
    Pane(Pane),
    /// True counts per text.
    Counts(Counts),
    /// Suggestions without clicks.
    Demonstration(Demonstration),
}

/// A record and where it came from; `source` names the data set ("mimics-duo", "upworthy", "log", …).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sourced {
    /// Data set.
    pub source: String,
    /// The record.
    pub record: Record,
}

/// JSON Schema (draft 2020-12) of [`Impression`], as published in `schema/impression.schema.json`
/// and at `/api/log/schema`.
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(Impression).to_value()
}
