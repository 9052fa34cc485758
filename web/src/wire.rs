//! Messages between the page and the worker that hosts the engine: JSON text, each request with a
//! number that its replies repeat. Pure types; see `worker.rs` for the host and `engine_link.rs` for the
//! page's end.

use beckon_shared::control::CheckpointInfo;
use beckon_shared::control::registry::AdapterInfo;
use beckon_shared::engine::Score;
use beckon_shared::prompt::Prompt;
use beckon_shared::sampling::Sampling;
use serde::{Deserialize, Serialize};

/// Which of the two engines that Preview shows side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The first, always there.
    A,
    /// The second, when two checkpoints are compared.
    B,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// 0 or 1.
    pub fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The letter.
    pub fn letter(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
        }
    }
}

/// Which executor the user wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutorChoice {
    /// The faster of those that pass the self-test.
    #[default]
    Auto,
    /// The CPU, in wasm.
    Cpu,
    /// WebGPU, if it passes the self-test.
    Gpu,
}

/// Executor that does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecutorKind {
    /// wasm.
    Cpu,
    /// WebGPU.
    Gpu,
}

impl ExecutorKind {
    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Cpu => "CPU (wasm)",
            Self::Gpu => "GPU (WebGPU)",
        }
    }
}

/// What the page asks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Fetch, verify, test and measure a checkpoint, then put it in place of the side's old one.
    Load {
        /// Where to.
        side: Side,
        /// Which.
        checkpoint: CheckpointInfo,
        /// On what.
        executor: ExecutorChoice,
        /// What gives the same over another checkpoint, where there is such a thing; it is taken where that one is here.
        over: Option<Over>,
        /// The checkpoint is a GGUF file that no server knows.
        gguf: Option<Gguf>,
    },
    /// Free a side.
    Unload {
        /// Which.
        side: Side,
    },
    /// Write and score suggestions.
    Suggest {
        /// Engine of this side.
        side: Side,
        /// Conversation.
        prompt: Prompt,
        /// M.
        n_candidates: usize,
        /// Longest suggestion.
        max_new_tokens: usize,
        /// Temperature, top-p, seed.
        sampling: Sampling,
    },
    /// Give the GPU's device up, as a driver or browser may at any time: for the test that the page recovers.
    LoseDevice,
    /// Greedy tokens and logits on a named executor, without choosing: for the parity test.
    Greedy {
        /// Checkpoint id.
        checkpoint: CheckpointInfo,
        /// Conversations.
        prompts: Vec<Prompt>,
        /// Tokens for each, fewer where `<|end|>` comes first.
        n_tokens: usize,
        /// Executor.
        executor: ExecutorKind,
        /// What the CPU computes with.
        path: CpuPath,
    },
}

/// Where a GGUF file lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gguf {
    /// On the user's disk: the file goes along with the message.
    Picked,
    /// At an address of the page's origin.
    Address(String),
}

/// An adapter with the checkpoint that it lies over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Over {
    /// The adapter.
    pub adapter: AdapterInfo,
    /// Its base.
    pub base: CheckpointInfo,
}

/// What the CPU computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuPath {
    /// What the page works with.
    Fastest,
    /// f32, which the GPU is tested against.
    F32,
    /// What a browser without relaxed vectors works with.
    Simd128,
}

/// A request with its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToWorker {
    /// Repeated by the replies.
    pub id: u32,
    /// What is asked.
    pub request: Request,
}

/// Where a load stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadStep {
    /// Chunk by chunk from the cache or the server, the hash of each checked.
    Download,
    /// A GGUF file, tensor by tensor.
    Read,
    /// Weights to the executors, shaders compiled.
    Compile,
    /// An adapter in place of another, tested.
    Swap,
    /// CPU against GPU on a known prompt.
    SelfTest,
    /// Which is faster.
    Measure,
}

impl LoadStep {
    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Download => "Loading the checkpoint and checking every chunk's hash",
            Self::Read => "Reading the GGUF file",
            Self::Compile => "Preparing weights and shaders",
            Self::Swap => "Laying the adapter over its base and testing it",
            Self::SelfTest => "Self-test: GPU against CPU",
            Self::Measure => "Measuring both executors",
        }
    }
}

/// Progress of a load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadProgress {
    /// Step at work.
    pub step: LoadStep,
    /// Share of the step done, in [0, 1]; `None` where it cannot be known.
    pub share: Option<f64>,
    /// Name of the checkpoint.
    pub name: String,
}

/// Outcome of the start-up self-test.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SelfTest {
    /// Largest difference of two logits.
    pub max_abs_diff: f32,
    /// What was allowed.
    pub tolerance: f32,
    /// Logits compared.
    pub n_compared: usize,
}

/// Speed of one executor on this device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Executor.
    pub executor: ExecutorKind,
    /// Decoded tokens per second, all candidates together, prefill and scoring included.
    pub tokens_per_sec: f64,
}

/// An engine that is ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Loaded {
    /// What was loaded.
    pub checkpoint: CheckpointInfo,
    /// Parameters of the policy.
    pub n_params: usize,
    /// Longest prompt plus suggestion.
    pub max_seq_len: usize,
    /// Executor in use.
    pub executor: ExecutorKind,
    /// Device as the executor names it.
    pub adapter: String,
    /// Why this executor.
    pub why: String,
    /// Where both executors ran.
    pub self_test: Option<SelfTest>,
    /// Where both were measured.
    pub measured: Vec<Measured>,
    /// The adapter that runs over its base in place of the whole checkpoint.
    pub over: Option<Over>,
    /// It is a GGUF file.
    pub gguf: Option<Gguf>,
    /// Bytes that came over the network; 0 where all came from this browser's cache, or from a file of the user's.
    pub n_fetched_bytes: u64,
    /// Bytes that the browser keeps for this origin, and how many it would; `None` where it does not say.
    pub quota: Option<[f64; 2]>,
    /// Seconds from request to ready.
    pub load_secs: f64,
    /// Something the user should know, as a cache that could not be written.
    pub notice: Option<String>,
}

/// One candidate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suggestion {
    /// Text.
    pub text: String,
    /// GaRM's score; `None` where the checkpoint has no reward model.
    pub score: Option<Score>,
    /// Tokens, the end mark included.
    pub n_tokens: usize,
    /// Log-probability under the policy.
    pub logp_nats: f32,
    /// Whether it ended by itself.
    pub finished: bool,
}

/// Suggestions and what they cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Suggested {
    /// All candidates, in order of their random stream.
    pub candidates: Vec<Suggestion>,
    /// Prompt tokens, all.
    pub n_prompt_tokens: usize,
    /// Decoded tokens of all candidates.
    pub n_decoded_tokens: usize,
    /// Prefill.
    pub prefill_secs: f64,
    /// Decoding of all candidates as one batch.
    pub decode_secs: f64,
    /// Scoring by GaRM.
    pub score_secs: f64,
    /// What the engine holds.
    pub memory: Memory,
    /// The prompt has all the room that there is; where it was longer, its oldest part was left out.
    pub fills_context: bool,
    /// The engine that did it; its executor may have changed (a lost GPU falls back to the CPU).
    pub engine: Loaded,
    /// What `beckon replay` reads, JSON.
    pub recording: String,
}

/// Memory of the engine's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Memory {
    /// Of the worker's wasm module; it never shrinks.
    pub wasm_bytes: u64,
    /// Of buffers on the GPU, both sides together.
    pub device_bytes: u64,
}

/// One greedy step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GreedyStep {
    /// Chosen token.
    pub token: u32,
    /// The five best, best first.
    pub top: Vec<(u32, f32)>,
    /// Every `sample_stride`-th logit, to compare beyond the best ones.
    pub sample: Vec<f32>,
    /// Largest absolute logit, to scale a tolerance by.
    pub max_abs: f32,
}

/// Outcome of [`Request::Greedy`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GreedyReport {
    /// Checkpoint id.
    pub checkpoint: String,
    /// Executor.
    pub executor: ExecutorKind,
    /// Device.
    pub adapter: String,
    /// Distance of the logits in [`GreedyStep::sample`].
    pub sample_stride: usize,
    /// Steps of each prompt.
    pub prompts: Vec<Vec<GreedyStep>>,
    /// Seconds for all.
    pub secs: f64,
}

/// What the worker answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The worker listens; sent once, with number 0.
    Listening,
    /// More to come.
    Progress(LoadProgress),
    /// Answer to `Load`.
    Loaded(Box<Loaded>),
    /// Answer to `Unload` and `LoseDevice`.
    Done,
    /// Answer to `Suggest`.
    Suggested(Box<Suggested>),
    /// Answer to `Greedy`.
    Greedy(GreedyReport),
    /// It did not work, and what to do.
    Failed(String),
}

/// A reply with the number of its request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FromWorker {
    /// Of the request.
    pub id: u32,
    /// The answer.
    pub reply: Reply,
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::json;

    #[test]
    fn messages_read_back() {
        let request = ToWorker {
            id: 7,
            request: Request::Suggest {
                side: Side::B,
                prompt: Prompt::from_query("rust"),
                n_candidates: 8,
                max_new_tokens: 16,
                sampling: Sampling { temperature: 0.8, top_k: 0, top_p: 0.95, seed: u64::MAX },
            },
        };
        let text = serde_json::to_string(&request).expect("plain data");
        assert_eq!(json::parse::<ToWorker>(&text).expect("same types"), request);
        let reply = FromWorker { id: 7, reply: Reply::Failed("no".into()) };
        let text = serde_json::to_string(&reply).expect("plain data");
        assert_eq!(json::parse::<FromWorker>(&text).expect("same types"), reply);
    }
}
