//! From records to what the stages learn from. Second arrow of the loop; method B.1.4, B.1.5.
//! To be written (types are fixed).

use crate::prompt::Prompt;
use serde::{Deserialize, Serialize};

/// A suggestion to imitate, SFT's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SftExample {
    /// Data set.
    pub source: String,
    /// Split key: user, query or test.
    pub group: String,
    /// The conversation so far.
    pub prompt: Prompt,
    /// What to write.
    pub suggestion: String,
    /// Evidence for it, relative; mean 1 over a data set.
    pub weight: f32,
}

/// Two suggestions for one prompt, GaRM's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Data set.
    pub source: String,
    /// Split key: user, query or test.
    pub group: String,
    /// The conversation so far.
    pub prompt: Prompt,
    /// The one with more evidence.
    pub chosen: String,
    /// The other.
    pub rejected: String,
    /// P(chosen is preferred), in (0.5, 1].
    pub label: f32,
    /// Mean 1 over a data set.
    pub weight: f32,
}

/// An absolute engagement level of one suggestion, GaRM's anchor (method B.2.4 A; thresholds 0 and 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Anchor {
    /// Data set.
    pub source: String,
    /// Split key: user, query or test.
    pub group: String,
    /// The conversation so far.
    pub prompt: Prompt,
    /// The suggestion.
    pub suggestion: String,
    /// 0 no click, 1 click, 2 satisfied click (or the data set's lower, middle, upper level).
    pub level: u8,
    /// Mean 1 over a data set.
    pub weight: f32,
}

/// One side of a split.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Split {
    /// SFT examples.
    pub sft: Vec<SftExample>,
    /// Preference pairs.
    pub pairs: Vec<Pair>,
    /// Anchors.
    pub anchors: Vec<Anchor>,
    /// Distinct prompts to write suggestions for (conversation-like sources only, no `Counts`).
    pub prompts: Vec<Prompt>,
}

/// Preferences of a log, split by group (user, query or test), never by row.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Dataset {
    /// To learn from.
    pub train: Split,
    /// To judge by.
    pub held_out: Split,
}
