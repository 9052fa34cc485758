//! What every training stage shares: its context, and how it talks to whoever runs it.

pub mod aside;
pub mod folder;
pub mod garm;
#[cfg(test)]
mod one_step;
pub mod rl;
pub mod sft;

use beckon_shared::control::Stage;
use beckon_shared::control::sample::SampledPrompt;
use beckon_shared::control::tuning::{Change, Tuned};
use std::path::PathBuf;

/// What the runner wants of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Save the state, then call [`Observer::wait_while_paused`].
    Pause,
    /// Save the state and return [`StageError::Cancelled`].
    Cancel,
}

/// Whoever runs a stage: the terminal, the server's trainer, a test.
pub trait Observer {
    /// One value of one curve, at `step` of `n_steps`.
    fn metric(&mut self, stage: Stage, step: usize, n_steps: usize, name: &str, value: f64);
    /// A line for people.
    fn log(&mut self, text: &str);
    /// Something looks wrong and the stage goes on: a line for people that should not be overlooked.
    fn alarm(&mut self, text: &str) {
        self.log(text);
    }
    /// What the policy writes after `step` steps of a stage: the same prompts with the same draws at every look.
    fn sample(&mut self, _stage: Stage, _step: usize, _prompts: &[SampledPrompt]) {}
    /// Told once, before the first stage: the device in words, as [`crate::model::device::pick_device`] describes it.
    fn device(&mut self, _description: &str) {}
    /// Asked at every step of a stage, `step` steps being done: the values to use instead of the configuration's. A stage
    /// that goes on from an older state asks for the same steps again and gets the same answers.
    fn tuned(&mut self, _stage: Stage, _step: usize) -> Tuned {
        Tuned::default()
    }
    /// Values changed by hand so far, for the lineage.
    fn changes(&self) -> Vec<Change> {
        Vec::new()
    }
    /// Asked before every step.
    fn control(&mut self) -> Control;
    /// Blocks while paused; returns `Continue` or `Cancel`.
    fn wait_while_paused(&mut self) -> Control;
}

/// Where and how a stage works.
pub struct StageContext<'a> {
    /// Burn device, without autodiff; the stage adds it.
    pub device: burn::tensor::Device,
    /// Others, which take a share of every step.
    pub lent: Vec<burn::tensor::Device>,
    /// Folder of this stage, `RUN/sft` say: training state and results.
    pub dir: PathBuf,
    /// Seed of this stage, derived from the run's.
    pub seed: u64,
    /// Steps between saves of the training state.
    pub save_every: usize,
    /// Padded tokens that may pass the network with a graph at once; no limit where `None`.
    pub micro_batch_tokens: Option<usize>,
    /// Keep the inputs of a network's layers alone, and compute a layer again when its gradient is wanted.
    pub checkpoint_activations: bool,
    /// Who watches.
    pub observer: &'a mut dyn Observer,
}

/// Why a stage ended early.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The user ended it; state is saved.
    #[error("cancelled")]
    Cancelled,
    /// Nothing to learn from.
    #[error("{stage} has no data: {hint}")]
    NoData {
        /// Which stage.
        stage: &'static str,
        /// What to import.
        hint: String,
    },
    /// A loss or gradient was not finite.
    #[error(
        "{stage} diverged at step {step}: {what} is not finite; lower {stage}.learning_rate or look at the last batch"
    )]
    Diverged {
        /// Which stage.
        stage: &'static str,
        /// Step.
        step: usize,
        /// Which quantity.
        what: &'static str,
    },
    /// The tensors or the configuration do not make a network.
    #[error(transparent)]
    Model(#[from] crate::model::ModelError),
    /// Suggestions could not be written.
    #[error(transparent)]
    Engine(#[from] beckon_shared::engine::EngineError),
    /// The training state could not be written or read.
    #[error(transparent)]
    State(#[from] crate::model::state::StateError),
}
