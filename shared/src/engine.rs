//! The inference engine: M suggestions from one prefill, scored by GaRM. To be written; the public
//! interface that others build on is fixed here.
//!
//! ```text
//! pub struct SuggestRequest { prompt: Prompt, n_candidates: usize, max_new_tokens: usize, sampling: Sampling }
//! pub struct Score { reward_mean: f32, aleatoric_std: f32, epistemic_std: f32 }   // + fn reward_std(): sqrt of summed squares
//! pub struct Suggestion { text: String, tokens: Vec<u32>, logps: Vec<f32> /* nats per token */, finished: bool, score: Score }
//! pub struct SuggestOutcome { suggestions: Vec<Suggestion>, n_prompt_tokens: usize, n_decoded_tokens: usize,
//!                             prefill_secs: f64, decode_secs: f64, score_secs: f64 }      // by the caller's clock
//! pub enum Executor { Cpu(cpu::CpuExecutor), Gpu(gpu::GpuExecutor) }               // kind(), device_name()
//! pub struct Row { token: u32, seq: Option<u32> /* None: prompt row */, pos: u32 /* absolute */ }
//! impl Executor {
//!   /// one forward pass of one network over any rows (prefill, decode step, scoring): a prompt row attends
//!   /// to prompt rows <= pos; a candidate row to the whole prompt and to its own suffix <= pos.
//!   async fn forward(&mut self, network: Network /* Policy | Reward */, rows: &[Row], output: Output /* Logits(rows) | Hidden */) -> Result<Vec<f32>, EngineError>
//! }
//! impl Engine {
//!   pub fn cpu(checkpoint: &Checkpoint) -> Result<Engine, EngineError>
//!   pub async fn gpu(checkpoint: &Checkpoint, gpu: &GpuContext) -> Result<Engine, EngineError>   // GpuContext::request() picks the adapter
//!   pub async fn suggest(&mut self, request: &SuggestRequest, clock: &dyn Fn() -> f64) -> Result<SuggestOutcome, EngineError>
//!   pub async fn score(&mut self, prompt: &Prompt, suggestions: &[String]) -> Result<Vec<Score>, EngineError>
//!   pub async fn greedy(&mut self, prompt: &Prompt, n_tokens: usize) -> Result<Vec<GreedyStep>, EngineError>  // token, logits: Vec<f32>
//! }
//! ```

use serde::{Deserialize, Serialize};

/// GaRM's answer for one suggestion: N(reward_mean, aleatoric_std²) over users, and how unsure the model
/// itself is. Method B.2, B.3.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Score {
    /// mu, on the scale that the anchors fix (thresholds 0 and 1).
    pub reward_mean: f32,
    /// sqrt(v): users differ.
    pub aleatoric_std: f32,
    /// sqrt(v_ep): the suggestion is unlike what the reward model was trained on.
    pub epistemic_std: f32,
}

impl Score {
    /// Both spreads together: sqrt(aleatoric_std² + epistemic_std²).
    pub fn reward_std(&self) -> f32 {
        self.aleatoric_std.hypot(self.epistemic_std)
    }
}
