//! The control protocol: what the page, the CLI and other programs say to the server about runs, logs
//! and checkpoints, and what the server tells them. JSON over REST and server-sent events, and over a WebSocket for both
//! ways.
//!
//! [`life`] is the table of states and commands of a run, [`command`] the commands as messages, [`experiment`] the outcome arrow, [`tuning`] what may change
//! while a run trains, [`sample`] what its policy writes meanwhile, [`registry`] the checkpoints, [`access`] who may do what.

pub mod access;
pub mod audit;
pub mod command;
mod event;
pub mod experiment;
mod garm;
pub mod life;
pub mod listing;
mod lora;
pub mod registry;
pub mod sample;
mod teacher;
pub mod tuning;

pub use garm::GarmConfig;
pub use life::RunCommand;
pub use lora::{BasePrecision, LoraConfig, LoraTargets};
pub use teacher::TeacherConfig;

use crate::config::Preset;
use crate::garm::effective::EffectiveReward;
use crate::preference::PreferenceConfig;
use crate::reward::advantage::Advantage;
use crate::reward::components::ComponentWeights;
use crate::reward::fusion::Fusion;
use crate::reward::kl_controller::KlPlacement;
use serde::{Deserialize, Serialize};

/// Raised when a message changes meaning; sent as header `beckon-protocol`.
pub const PROTOCOL_VERSION: u32 = 2;

/// The arrows of the loop that a run walks, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Records to preferences, splits and tokenizer.
    Data,
    /// Supervised fine-tuning on what was clicked.
    Sft,
    /// Gaussian reward model.
    Garm,
    /// Reinforcement learning against the fused reward.
    Rl,
    /// Held-out evaluation and the report.
    Eval,
    /// Quantized checkpoint for the page.
    Export,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Self; 6] = [Self::Data, Self::Sft, Self::Garm, Self::Rl, Self::Eval, Self::Export];

    /// The word used in URLs, folders and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Sft => "sft",
            Self::Garm => "garm",
            Self::Rl => "rl",
            Self::Eval => "eval",
            Self::Export => "export",
        }
    }
}

/// Where Burn computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// GPU where there is a real one, else CPU.
    #[default]
    Auto,
    /// Burn flex.
    Cpu,
    /// Burn wgpu, WGSL flavour.
    Gpu,
    /// Only those that other processes lend to the server.
    Lent,
}

/// Supervised fine-tuning, method B.1.5 and B.7.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// Optimiser steps.
    pub n_steps: usize,
    /// Token budget of one batch (padded).
    pub batch_tokens: usize,
    /// Peak learning rate; cosine to a tenth after a linear warm-up.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    pub n_warmup_steps: usize,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// beta_w of B.1.5: temperature of the click weights.
    pub beta_w: f64,
    /// Whose suggestions are imitated beside those of the log; only the log's where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<TeacherConfig>,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            n_steps: 900,
            batch_tokens: 1_024,
            learning_rate: 1e-3,
            n_warmup_steps: 50,
            weight_decay: 0.1,
            beta_w: 1.0,
            teacher: None,
        }
    }
}

/// Reinforcement learning, method B.4, B.5 and B.7.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RlConfig {
    /// Steps: batches of rollouts, each learnt from in `updates_per_batch` optimiser steps.
    pub n_steps: usize,
    /// Optimiser steps on one batch of rollouts, 1 to 8. 1 is strictly on-policy; the others weigh what was drawn by
    /// the policy's ratio to the one that drew it, clipped as `advantage` says (method B.5.2).
    pub updates_per_batch: usize,
    /// Prompts per step.
    pub batch_prompts: usize,
    /// G, rollouts per prompt.
    pub group_size: usize,
    /// Longest suggestion in tokens.
    pub max_new_tokens: usize,
    /// The last of `max_new_tokens`, in which a suggestion loses up to 1 of its utility, the more the longer it is (DAPO's
    /// soft overlong punishment, method B.5.1). 0 (the default, and left out) turns it off; at most `max_new_tokens`.
    #[serde(skip_serializing_if = "tuning::is_default")]
    pub overlong_buffer: usize,
    /// Learning rate.
    pub learning_rate: f64,
    /// beta: KL to the reference, per sequence-nat, as k1 in the reward.
    pub kl_beta: f64,
    /// Budget of the adaptive controller, nats per sequence.
    pub kl_budget_nats: f64,
    /// k_al: pessimism towards aleatoric spread.
    pub aleatoric_penalty: f64,
    /// k_ep: pessimism towards epistemic spread.
    pub epistemic_penalty: f64,
    /// Share of logged text whose epistemic spread lies below the veto's threshold: where GaRM knows less, it may not
    /// praise (method B.3 (3)). 1 turns the veto off.
    pub veto_quantile: f64,
    /// eta: behaviour-cloning term on SFT data.
    pub bc_weight: f64,
    /// What is maximised of a reward distribution.
    pub effective: EffectiveReward,
    /// w_m of each reward component.
    pub weights: ComponentWeights,
    /// How components become one utility.
    pub fusion: Fusion,
    /// How utilities become a loss.
    pub advantage: Advantage,
    /// Where the KL term stands.
    pub kl_placement: KlPlacement,
}

impl Default for RlConfig {
    fn default() -> Self {
        Self {
            n_steps: 80,
            updates_per_batch: 1,
            batch_prompts: 16,
            group_size: 8,
            max_new_tokens: 16,
            overlong_buffer: 0,
            learning_rate: 5e-5,
            kl_beta: 0.03,
            kl_budget_nats: 4.0,
            aleatoric_penalty: 0.25,
            epistemic_penalty: 1.0,
            veto_quantile: 0.999,
            bc_weight: 0.05,
            effective: EffectiveReward::default(),
            weights: ComponentWeights::default(),
            fusion: Fusion::default(),
            advantage: Advantage::default(),
            kl_placement: KlPlacement::default(),
        }
    }
}

/// What a run is a function of, beside the data: configuration and seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// Shown in lists.
    pub name: String,
    /// Model size.
    pub preset: Preset,
    /// Every random choice of the run follows from it.
    pub seed: u64,
    /// Where Burn computes.
    pub device: DeviceChoice,
    /// Over how many devices each step's rows are split: `device`, then those that other processes lend to the server, in its
    /// order.
    pub n_devices: usize,
    /// From the log to what the stages learn from.
    pub preferences: PreferenceConfig,
    /// SFT stage.
    pub sft: SftConfig,
    /// GaRM stage.
    pub garm: GarmConfig,
    /// RL stage.
    pub rl: RlConfig,
    /// Steps between saves of the training state.
    pub save_every: usize,
    /// Padded tokens that pass a network at once while it learns: a step's gradient is then summed over parts of at most
    /// this size. The same up to rounding, in less memory, for more time. Whole batches where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
    /// Keep of a network's activations the inputs of its layers alone while it learns, and compute each layer again when its
    /// gradient is wanted. The same up to rounding, in less memory the more layers there are, for a second forward pass.
    pub checkpoint_activations: bool,
    /// Train adapters in place of all weights; needs a parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraConfig>,
    /// Id of the checkpoint whose policy SFT starts from, and whose shape and tokenizer the run has; from scratch, in
    /// the preset's shape, where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self::preset(Preset::Nano)
    }
}

impl RunConfig {
    /// Defaults of a preset.
    pub fn preset(preset: Preset) -> Self {
        let base = Self {
            name: "nano".into(),
            preset,
            seed: 0,
            device: DeviceChoice::Auto,
            n_devices: 1,
            preferences: PreferenceConfig::default(),
            // more than small data need: the policy with the lowest validation loss is kept
            sft: SftConfig { n_steps: 2_500, ..SftConfig::default() },
            garm: GarmConfig { feature_dims: 32, learning_rate: 1e-4, ..GarmConfig::default() },
            // the reward model of small click data is weak: stay close to SFT
            rl: RlConfig { n_steps: 60, learning_rate: 2e-5, kl_beta: 0.1, kl_budget_nats: 1.5, ..RlConfig::default() },
            save_every: 50,
            micro_batch_tokens: None,
            checkpoint_activations: false,
            lora: None,
            parent: None,
        };
        match preset {
            Preset::Nano => base,
            Preset::Tiny => Self {
                name: "tiny".into(),
                sft: SftConfig { n_steps: 900, n_warmup_steps: 20, learning_rate: 3e-3, ..base.sft },
                garm: GarmConfig { n_steps: 300, feature_dims: 16, learning_rate: 1e-3, ..base.garm },
                rl: RlConfig { n_steps: 60, learning_rate: 5e-4, ..RlConfig::default() },
                save_every: 20,
                ..base
            },
        }
    }
}

/// Life of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Made, and not asked to start.
    Draft,
    /// Waiting for the trainer.
    Queued,
    /// Training.
    Running,
    /// Stopped at a step, state saved.
    Paused,
    /// Ended by the user.
    Cancelled,
    /// Ended by an error, see `RunStatus::error`.
    Failed,
    /// Done; `RunStatus::checkpoint` holds the result.
    Finished,
}

impl RunState {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Cancelled | Self::Failed | Self::Finished)
    }
}

/// A run as the server knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RunStatus {
    /// `r` and a number, increasing.
    pub id: String,
    /// Configuration with every default filled in.
    pub config: RunConfig,
    /// Life.
    pub state: RunState,
    /// Stage at work; `None` before the first.
    pub stage: Option<Stage>,
    /// Steps done in that stage.
    pub step: usize,
    /// Steps of that stage.
    pub n_steps: usize,
    /// When it was asked for, milliseconds since 1970 UTC.
    pub created_millis: i64,
    /// Device as Burn names it, once chosen.
    pub device: Option<String>,
    /// Checkpoint id when finished.
    pub checkpoint: Option<String>,
    /// Why it failed, and what to do.
    pub error: Option<String>,
    /// Values changed while it trained, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<tuning::Change>,
}

/// One value of one curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Metric {
    /// Which run.
    pub run_id: String,
    /// Which stage.
    pub stage: Stage,
    /// Step within the stage.
    pub step: usize,
    /// Curve, as `loss`, `reward_mean`, `kl_nats`, `tokens_per_sec`.
    pub name: String,
    /// Value.
    pub value: f64,
}

/// A line of a run's log, or one of its alarms, as `GET /api/runs/{id}/log` gives them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RunLine {
    /// Grows from line to line, over all runs.
    pub id: i64,
    /// When it was said, milliseconds since 1970 UTC.
    pub time_millis: i64,
    /// Whether a person should look at it.
    pub alarm: bool,
    /// What was said; of an alarm also what to do.
    pub text: String,
}

/// A checkpoint in a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckpointInfo {
    /// SHA-256 of the file's header, hex; the header holds the hash of every chunk.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Run that made it; `None` for the built-in one.
    pub run_id: Option<String>,
    /// Size of the file.
    pub n_bytes: u64,
    /// When it was made, milliseconds since 1970 UTC.
    pub created_millis: i64,
    /// Trained on simulated clicks only.
    pub simulated: bool,
    /// Shipped with the product.
    pub built_in: bool,
}

/// What the server tells those who listen on `/api/events`; `id:` of the event carries a sequence number.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(tag = "kind", content = "data", rename_all = "snake_case")] // read by `event`
#[allow(clippy::large_enum_variant)] // short-lived, and nearly always the large one or a metric
pub enum Event {
    /// A run changed.
    Run(RunStatus),
    /// A curve grew.
    Metric(Metric),
    /// What the policy of a run writes now.
    Sample(sample::Sample),
    /// A new checkpoint can be fetched.
    Checkpoint(CheckpointInfo),
    /// A run was deleted.
    RunDeleted {
        /// Its id.
        id: String,
    },
    /// What the registry knows of a checkpoint changed; `None`: it was deleted.
    Registry {
        /// Which.
        id: String,
        /// As it is now.
        entry: Option<registry::RegistryEntry>,
    },
    /// An experiment changed.
    Experiment(experiment::ExperimentStatus),
    /// An experiment was deleted.
    ExperimentDeleted {
        /// Its id.
        id: String,
    },
    /// A line of a run's log.
    Line {
        /// Which run.
        run_id: String,
        /// The text.
        text: String,
    },
    /// Something that a person should look at.
    Alarm {
        /// Which run, where it is one.
        run_id: Option<String>,
        /// What, and what to do.
        text: String,
    },
    /// The log changed.
    LogChanged {
        /// Records after the change.
        n_records: u64,
    },
    /// The listener fell behind, or named a number of another server; it should read the resources again.
    Missed {
        /// How many events of this server are gone; 0 where nothing is known.
        n_events: u64,
    },
}

/// One refused line of an import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Reject {
    /// 1-based line (or record) in the input.
    pub line: usize,
    /// Field at fault where one can be named.
    pub field: Option<String>,
    /// What is wrong and what was expected.
    pub reason: String,
    /// The line as it came, cut at 2,000 characters.
    pub text: String,
}

/// Outcome of an import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ImportOutcome {
    /// Data set name under which the records were stored.
    pub source: String,
    /// Records stored.
    pub n_accepted: u64,
    /// Records that were there already.
    pub n_duplicates: u64,
    /// Lines refused.
    pub n_rejected: u64,
    /// The first refused lines (at most 20).
    pub rejects: Vec<Reject>,
    /// File with all refused lines on the server, where there are any.
    pub rejects_file: Option<String>,
}

/// CTR of a slot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SlotSummary {
    /// 0-based.
    pub slot: usize,
    /// Times shown (known to be out of view excluded).
    pub n_impressions: u64,
    /// Times clicked.
    pub n_clicks: u64,
}

/// One data set of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SourceSummary {
    /// Data set.
    pub source: String,
    /// Evidence: `impression`, `pane`, `counts`, `demonstration`.
    pub kind: String,
    /// Records.
    pub n_records: u64,
    /// Of them simulated.
    pub n_simulated: u64,
}

/// What is in the log.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogSummary {
    /// Records of all kinds.
    pub n_records: u64,
    /// Showings with clicks.
    pub n_impressions: u64,
    /// Of them simulated.
    pub n_simulated: u64,
    /// Distinct users.
    pub n_users: u64,
    /// Clicks.
    pub n_clicks: u64,
    /// CTR by slot.
    pub slots: Vec<SlotSummary>,
    /// Data sets.
    pub sources: Vec<SourceSummary>,
}

/// An error as every route sends it (RFC 9457, `application/problem+json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// Short name of the kind of problem.
    pub title: String,
    /// HTTP status.
    pub status: u16,
    /// What happened, where, and what to do.
    pub detail: String,
}
