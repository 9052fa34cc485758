//! Choosing the next token from logits. To be written (types are fixed).

use serde::{Deserialize, Serialize};

/// How tokens are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// 0 means greedy.
    pub temperature: f32,
    /// Keep the k most likely; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set with this mass; 1 keeps all.
    pub top_p: f32,
    /// Candidate `i` draws from ChaCha8 stream `i` of this seed.
    pub seed: u64,
}
