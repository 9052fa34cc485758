//! What it takes to write the same suggestions again: checkpoint, request with its seed, and the device that wrote them.
//!
//! In the loop: beside the last arrow; the page hands it out as JSON, `beckon replay` reads it. What computed the texts computes
//! them again: the integer paths of all CPUs give the same bits, and so does f32 on all CPUs, so a recording of a page on the CPU
//! comes back exactly. A GPU computes in f32 too, but its sums differ by rounding from those of a CPU or of another GPU, and a
//! draw that lies on an edge may fall the other way.

use crate::engine::{CPU_NAME, KernelPath, SuggestOutcome, SuggestRequest};
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

/// What texts were computed with, as far as it matters to their bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// A CPU with activations in 8 bits.
    Int8,
    /// A CPU in f32.
    F32,
    /// A GPU, in f32; products in f16 where a variant of its kernels says so.
    Gpu,
}

impl Arithmetic {
    /// The path of this CPU that gives the same bits; of a GPU's arithmetic the one that is nearest.
    pub fn kernel_path(self) -> KernelPath {
        match self {
            Self::Int8 => KernelPath::fastest(),
            Self::F32 | Self::Gpu => KernelPath::F32,
        }
    }
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

    /// What computed the texts, by the name of the device.
    pub fn arithmetic(&self) -> Arithmetic {
        match self.device.strip_prefix(CPU_NAME) {
            None => Arithmetic::Gpu,
            Some(path) if path == KernelPath::F32.name() => Arithmetic::F32,
            Some(_) => Arithmetic::Int8,
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
