//! What it takes to write the same suggestions again: checkpoint, request with its seed, and the device that wrote them.
//!
//! In the loop: beside the last arrow; the page hands it out as JSON, `beckon replay` reads it. The integer paths of all CPUs
//! give the same bits, so a recording of a page on the CPU comes back exactly; between CPU and GPU sums differ by rounding, and
//! a draw that lies on an edge may fall the other way.

use crate::engine::{SuggestOutcome, SuggestRequest};
use serde::{Deserialize, Serialize};

/// Version of the JSON.
pub const VERSION: u32 = 1;

/// Suggestions with their origin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// [`VERSION`].
    pub version: u32,
    /// Id of the checkpoint.
    pub checkpoint: String,
    /// Id of the adapter, where the page ran it over its base in place of the whole checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Executor and kernel path, as [`crate::engine::Executor::device_name`] names them.
    pub device: String,
    /// What was asked, the seed included.
    pub request: SuggestRequest,
    /// Texts in order of their random stream.
    pub texts: Vec<String>,
}

/// A candidate that came out otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// 0-based.
    pub candidate: usize,
    /// Text in the recording.
    pub recorded: Option<String>,
    /// Text of now.
    pub now: Option<String>,
}

impl Recording {
    /// Keeps an outcome.
    pub fn of(checkpoint: &str, device: String, request: &SuggestRequest, outcome: &SuggestOutcome) -> Self {
        let texts = outcome.suggestions.iter().map(|s| s.text.clone()).collect();
        Self {
            version: VERSION,
            checkpoint: checkpoint.to_owned(),
            adapter: None,
            device,
            request: request.clone(),
            texts,
        }
    }

    /// Where another outcome of the same request differs.
    pub fn differences(&self, outcome: &SuggestOutcome) -> Vec<Difference> {
        let now = |i: usize| outcome.suggestions.get(i).map(|s| s.text.clone());
        let n = self.texts.len().max(outcome.suggestions.len());
        let all = (0..n).map(|i| Difference { candidate: i, recorded: self.texts.get(i).cloned(), now: now(i) });
        all.filter(|d| d.recorded != d.now).collect()
    }
}
