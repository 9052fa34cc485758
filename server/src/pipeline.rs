//! Walks the stages in order, Data → SFT → GaRM → RL → Eval → Export; the one place that knows it.
//!
//! Everything lives in one folder a run: `data/` tokenizer, `sft/`, `garm/`, `garm-bt/` (the
//! Bradley-Terry baseline of the same network), `rl/`, `eval/`, `export/` the checkpoint; and
//! `run.json`, `report.json`, `report.html` beside them. Each stage's curves are in its `metrics.jsonl` and, for
//! `tensorboard --logdir RUN`, in its `tensorboard/`. A step whose result is there is not done again,
//! so a run that was killed goes on where its last saved state is. A folder that belongs to another
//! configuration or other records is refused.

pub mod export;
pub mod given;
mod identity;
pub mod judges;
pub mod lineage;
pub mod measure;
pub mod parent;
pub mod recorder;
pub mod teacher;
pub mod tensorboard;

use crate::model::ModelError;
use crate::model::batch::derived_seed;
use crate::model::device::{DeviceError, Devices, pick_devices};
use crate::model::lent::Lent;
use crate::model::memory;
use crate::model::state::{StateError, program, write_atomic};
use crate::report::Report;
use crate::run_config::{RunConfigError, validate_shape};
use crate::stage::garm::{GarmInputs, GarmOutcome, Likelihood};
use crate::stage::rl::{RlInputs, RlOutcome};
use crate::stage::sft::{SftInputs, SftOutcome};
use crate::stage::{Observer, StageContext, StageError, garm, rl, sft};
use beckon_shared::checkpoint::CheckpointError;
use beckon_shared::click::Sourced;
use beckon_shared::config::ModelConfig;
use beckon_shared::control::{CheckpointInfo, RlConfig, RunConfig, Stage};
use beckon_shared::distill::samples::SampleError;
use beckon_shared::lexical::Judge;
use beckon_shared::preference::{Dataset, PreferenceError, SftExample, Split, dataset_with_teacher};
use beckon_shared::tokenizer::{Tokenizer, TokenizerError};
use burn::tensor::Device;
use given::Given;
use identity::claim;
use judges::Judges;
use lineage::Origin;
use recorder::Recorder;
use std::cell::OnceCell;
use std::io;
use std::path::{Path, PathBuf};

/// Purpose of the seed that halves the held-out pairs between the judges, see [`derived_seed`].
const JUDGES: u64 = 6;
/// Fewest held-out examples that the veto's threshold is read from.
const MIN_LOGGED: usize = 200;

/// What a finished run leaves.
#[derive(Debug, Clone)]
pub struct PipelineOutcome {
    /// The checkpoint file, inside the run's folder.
    pub checkpoint_path: PathBuf,
    /// Its description; `run_id` is the caller's to fill in.
    pub checkpoint: CheckpointInfo,
    /// Everything the run has to show.
    pub report: Report,
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The observer said so; state is saved.
    #[error("cancelled; the same command goes on from the saved state")]
    Cancelled,
    /// The log has nothing of a kind that a stage needs.
    #[error("the log has no {missing}: import {remedy}")]
    NoData {
        /// What is missing.
        missing: &'static str,
        /// What would bring it.
        remedy: &'static str,
    },
    /// Adapters, and nothing for them to adapt.
    #[error("lora trains adapters of a parent's policy, and the run has no parent: give one, or leave lora out")]
    NoBase,
    /// The run's folder has not the teacher that its configuration names.
    #[error(
        "the run has no file of its teacher {id:?}: give one with `beckon loop --teacher`, or leave sft.teacher out"
    )]
    NoTeacher {
        /// `sft.teacher.id`.
        id: String,
    },
    /// The teacher's distribution cannot be learnt from.
    #[error("soft targets: {reason}; choose another teacher or set sft.teacher.soft_weight to 0")]
    SoftTargets {
        /// Why.
        reason: String,
    },
    /// A file of samples is none.
    #[error(transparent)]
    Samples(#[from] SampleError),
    /// A setting that the run's network does not allow.
    #[error(transparent)]
    Config(#[from] RunConfigError),
    /// More than the machine has.
    #[error(transparent)]
    Memory(#[from] memory::MemoryError),
    /// The folder holds another run.
    #[error("the folder holds a run with another configuration or other records; choose a new folder: {}", path.display())]
    OtherRun {
        /// Its `run.json`.
        path: PathBuf,
    },
    /// The folder, or a file in it, is another version's.
    #[error(
        "written by Beckon {wrote}, and this is {}: {reason}; finish the run with that version, or start a new one: {}",
        program(),
        path.display()
    )]
    OtherVersion {
        /// Which version.
        wrote: String,
        /// What this one cannot read.
        reason: String,
        /// Which file.
        path: PathBuf,
    },
    /// The disk refused.
    #[error("could not {action} {}: {source}; {}", path.display(), remedy(source))]
    Io {
        /// `create`, `open`, `write`, `read`.
        action: &'static str,
        /// What the disk said.
        #[source]
        source: io::Error,
        /// Which file.
        path: PathBuf,
    },
    /// A file of the run is not what was written there.
    #[error("damaged: {reason}; delete it and run again: {}", path.display())]
    Damaged {
        /// What is wrong.
        reason: String,
        /// Which file.
        path: PathBuf,
    },
    /// No device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A stage failed.
    #[error(transparent)]
    Stage(StageError),
    /// The tokenizer could not be trained or read.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The log could not be turned into preferences.
    #[error("preferences: {0}")]
    Preference(#[from] PreferenceError),
    /// A network could not be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The checkpoint could not be packed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// What a run with LoRA learnt is not what adapters can hold, or a damaged adapter.
    #[error(transparent)]
    Adapter(#[from] beckon_shared::adapter::AdapterError),
    /// The evaluation failed.
    #[error(transparent)]
    Eval(#[from] crate::eval::EvalError),
}

/// What to do about a refusal of the disk.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space and run the same command again, it goes on from the saved state"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "allow writing there, or choose another folder"
        }
        io::ErrorKind::NotFound => "check that the folder above it exists",
        _ => "check the disk, then run the same command again",
    }
}

impl PipelineError {
    /// An [`PipelineError::Io`].
    pub fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, source, path: path.to_owned() }
    }
}

impl From<StateError> for PipelineError {
    fn from(error: StateError) -> Self {
        match error {
            StateError::Io { action, source, path } => Self::Io { action, source, path },
            StateError::OtherRun { path } => Self::OtherRun { path },
            StateError::Malformed { reason, path } => Self::Damaged { reason, path },
            StateError::OtherVersion { wrote, reason, path } => Self::OtherVersion { wrote, reason, path },
        }
    }
}

impl From<StageError> for PipelineError {
    fn from(error: StageError) -> Self {
        match error {
            StageError::Cancelled => Self::Cancelled,
            StageError::State(error) => error.into(),
            other => Self::Stage(other),
        }
    }
}

/// What the training stages made, before evaluation and export.
pub struct Trained {
    /// Preferences of the log.
    pub dataset: Dataset,
    /// Trained on the train side's texts.
    pub tokenizer: Tokenizer,
    /// Shape of both networks, vocabulary as the tokenizer's.
    pub model: ModelConfig,
    /// Where it was trained.
    pub devices: Devices,
    /// SFT's result.
    pub sft: SftOutcome,
    /// GaRM's result.
    pub garm: GarmOutcome,
    /// The baseline's, where it was trained.
    pub baseline: Option<GarmOutcome>,
    /// Made of held-out pairs.
    pub judges: Judges,
    /// RL's result.
    pub rl: RlOutcome,
}

/// Whether GaRM gets a rival of the same network, data and budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// No.
    None,
    /// Bradley-Terry, with GaRM's seed, so that both see the same batches.
    BradleyTerry,
}

/// Runs all stages in `dir` (made where missing), or goes on with a run that was begun there.
///
/// # Errors
/// [`PipelineError`]; what was saved stays.
pub fn run(
    dir: &Path,
    config: &RunConfig,
    records: &[Sourced],
    observer: &mut dyn Observer,
) -> Result<PipelineOutcome, PipelineError> {
    run_as(dir, config, records, &Origin::of(config), &Lent::default(), observer)
}

/// [`run`] with an origin for the lineage, and devices that it may borrow.
///
/// # Errors
/// As [`run`].
pub fn run_as(
    dir: &Path,
    config: &RunConfig,
    records: &[Sourced],
    origin: &Origin,
    lent: &Lent,
    observer: &mut dyn Observer,
) -> Result<PipelineOutcome, PipelineError> {
    let options = Options { lent, baseline: Baseline::BradleyTerry, truth: None };
    let trained = train(dir, config, records, &options, observer)?;
    let run = measure::RunFacts { dir, config, records, origin, changes: observer.changes() };
    let checkpoint = export::pack(&run, &trained, &trained.rl.policy)?;
    let report = measure::report(&run, &trained, &checkpoint, observer)?;
    let adapter = export::adapter(&run, &trained, &checkpoint);
    let (checkpoint_path, checkpoint) = export::write(&run, &checkpoint, observer)?;
    match adapter {
        Ok(Some(adapter)) => export::write_adapter(&checkpoint_path, &adapter)?,
        Ok(None) => {}
        // the checkpoint is whole without it
        Err(PipelineError::Adapter(error)) => {
            observer.alarm(&format!("export: no adapter beside the checkpoint: {error}"))
        }
        Err(error) => return Err(error),
    }
    Ok(PipelineOutcome { checkpoint_path, checkpoint, report })
}

/// What [`train`] has and does beside its configuration.
pub struct Options<'a> {
    /// Devices that the run may borrow.
    pub lent: &'a Lent,
    /// GaRM's rival.
    pub baseline: Baseline,
    /// Watched during RL, where it is known.
    pub truth: Option<&'a dyn Judge>,
}

/// The stages that learn: Data, SFT, GaRM, RL.
///
/// # Errors
/// As [`run`].
pub fn train(
    dir: &Path,
    config: &RunConfig,
    records: &[Sourced],
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Trained, PipelineError> {
    // before the folder is claimed for a run that cannot be
    if config.lora.is_some() && config.parent.is_none() {
        return Err(PipelineError::NoBase);
    }
    let given = Given::load(dir, config)?;
    let shape = given.parent.as_ref().map_or_else(|| config.preset.model(), |parent| parent.model.clone());
    validate_shape(config, &shape)?;
    claim(dir, config, records)?;
    let devices = pick_devices(config, options.lent)?;
    observer.device(&devices.name);
    let (dataset, tokenizer) = prepare(dir, config, records, &given, observer)?;
    let model = given.model(config, &tokenizer);
    // a GPU does not tell what it has left; its own error is caught where the run is
    if devices.first == Device::flex() {
        memory::check(&model, config, memory::free())?;
    }

    let sft = stage(&dir.join("sft"), config, 1, &devices, observer, |ctx| {
        let inputs = SftInputs {
            tokenizer: &tokenizer,
            model: &model,
            init: given.parent.as_ref().map(|parent| &parent.policy),
            lora: config.lora,
            train: &dataset.train.sft,
            held_out: &dataset.held_out.sft,
            soft_targets: given.soft.as_ref().map(teacher::Soft::targets),
        };
        sft::run(ctx, &inputs, &config.sft)
    })?;
    let start = OnceCell::new();
    let garm_inputs = |likelihood| GarmInputs {
        tokenizer: &tokenizer,
        model: &model,
        init: &sft.policy,
        lora: config.lora,
        train: &dataset.train,
        held_out: &dataset.held_out,
        likelihood,
        start: &start,
    };
    let garm = stage(&dir.join("garm"), config, 2, &devices, observer, |ctx| {
        garm::run(ctx, &garm_inputs(Likelihood::Probit), &config.garm)
    })?;
    let baseline = match options.baseline {
        Baseline::None => None,
        Baseline::BradleyTerry => {
            observer.log("garm: the Bradley-Terry baseline of the same network");
            let mut quiet = recorder::Quiet(observer);
            Some(stage(&dir.join("garm-bt"), config, 2, &devices, &mut quiet, |ctx| {
                garm::run(ctx, &garm_inputs(Likelihood::BradleyTerry), &config.garm)
            })?)
        }
    };
    let judges = Judges::of(&dataset.held_out.pairs, derived_seed(config.seed, JUDGES));
    let rl = stage(&dir.join("rl"), config, 3, &devices, observer, |ctx| {
        let inputs = rl_inputs(&tokenizer, &model, (&sft, &garm), &dataset, &judges);
        rl::run(ctx, &RlInputs { lora: config.lora, truth: options.truth, ..inputs }, &config.rl)
    })?;
    Ok(Trained { dataset, tokenizer, model, devices, sft, garm, baseline, judges, rl })
}

/// RL once more, with other settings, from what a run has learnt before it: for ablations. Kept in `dir/NAME`.
///
/// # Errors
/// As [`run`].
pub fn rl_variant(
    (dir, name): (&Path, &str),
    config: &RunConfig,
    rl: &RlConfig,
    trained: &Trained,
    truth: Option<&dyn Judge>,
    observer: &mut dyn Observer,
) -> Result<RlOutcome, PipelineError> {
    let Trained { tokenizer, model, sft, garm, dataset, judges, devices, .. } = trained;
    stage(&dir.join(name), config, 3, devices, observer, |ctx| {
        let inputs = rl_inputs(tokenizer, model, (sft, garm), dataset, judges);
        rl::run(ctx, &RlInputs { lora: config.lora, truth, ..inputs }, rl)
    })
}

/// All weights, no truth.
fn rl_inputs<'a>(
    tokenizer: &'a Tokenizer,
    model: &'a ModelConfig,
    (sft, garm): (&'a SftOutcome, &'a GarmOutcome),
    dataset: &'a Dataset,
    judges: &'a Judges,
) -> RlInputs<'a> {
    RlInputs {
        tokenizer,
        model,
        policy: &sft.policy,
        reward: &garm.reward,
        reward_config: &garm.config,
        prompts: &dataset.train.prompts,
        bc: &dataset.train.sft,
        logged: logged(dataset),
        lora: None,
        judge: judges.choosing.as_ref().map(|judge| judge as &dyn Judge),
        truth: None,
    }
}

/// Logged text for the veto's threshold: the held-out side's where it is enough for a quantile, as GaRM learnt from the other.
fn logged(dataset: &Dataset) -> &[SftExample] {
    let held_out = &dataset.held_out.sft;
    if held_out.len() < MIN_LOGGED { &dataset.train.sft } else { held_out }
}

/// Runs one stage in `dir`, its curves recorded there. `purpose` derives its seed from the run's.
fn stage<T>(
    dir: &Path,
    config: &RunConfig,
    purpose: u64,
    devices: &Devices,
    observer: &mut dyn Observer,
    work: impl FnOnce(&mut StageContext) -> Result<T, StageError>,
) -> Result<T, PipelineError> {
    create_dir(dir)?;
    let mut recorder = Recorder::open(dir, observer)?;

    let mut ctx = StageContext {
        device: devices.first.clone(),
        lent: devices.others.clone(),
        dir: dir.to_owned(),
        seed: derived_seed(config.seed, purpose),
        save_every: config.save_every,
        micro_batch_tokens: config.micro_batch_tokens,
        checkpoint_activations: config.checkpoint_activations,
        observer: &mut recorder,
    };
    let outcome = work(&mut ctx);
    // a curve that could not be written ends the stage as a cancel; the cause comes first
    recorder.finish()?;
    Ok(outcome?)
}

fn create_dir(dir: &Path) -> Result<(), PipelineError> {
    std::fs::create_dir_all(dir).map_err(|source| PipelineError::io("create", dir, source))
}

/// Records to preferences and tokenizer.
fn prepare(
    dir: &Path,
    config: &RunConfig,
    records: &[Sourced],
    given: &Given,
    observer: &mut dyn Observer,
) -> Result<(Dataset, Tokenizer), PipelineError> {
    let dir = dir.join("data");
    create_dir(&dir)?;
    let mut recorder = Recorder::open(&dir, observer)?;
    let samples = given.samples(&dir, config, records, &mut recorder)?;
    let dataset = dataset_with_teacher(records, &samples, &config.preferences, config.seed)?;
    for line in dataset.report.lines() {
        recorder.log(&format!("data: {line}"));
    }
    check_data(&dataset)?;
    let tokenizer = match given.tokenizer() {
        Some(tokenizer) => tokenizer.clone(),
        None => own_tokenizer(&dir.join("tokenizer.json"), &dataset, config)?,
    };
    let train = &dataset.train;
    for (name, n) in [
        ("n_sft_examples", train.sft.len()),
        ("n_pairs", train.pairs.len()),
        ("n_anchors", train.anchors.len()),
        ("n_prompts", train.prompts.len()),
        ("vocab_size", tokenizer.vocab_size()),
    ] {
        recorder.metric(Stage::Data, 1, 1, name, n as f64);
    }
    recorder.finish()?;
    Ok((dataset, tokenizer))
}

/// The tokenizer of a run that takes none over: the one at `path`, or one that is trained and put there.
fn own_tokenizer(path: &Path, dataset: &Dataset, config: &RunConfig) -> Result<Tokenizer, PipelineError> {
    match std::fs::read_to_string(path) {
        Ok(json) => Ok(Tokenizer::from_json(&json)?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let tokenizer = Tokenizer::train(texts(&dataset.train), config.preset.model().vocab_size)?;
            write_atomic(path, tokenizer.to_json().as_bytes())?;
            Ok(tokenizer)
        }
        Err(source) => Err(PipelineError::io("read", path, source)),
    }
}

/// What a stage would miss is said before any work is done.
fn check_data(dataset: &Dataset) -> Result<(), PipelineError> {
    let train = &dataset.train;
    let no = |missing, remedy| Err(PipelineError::NoData { missing, remedy });
    if train.sft.is_empty() {
        return no(
            "suggestion to learn from",
            "impressions with clicks, labelled panes, queries with suggestions, or conversations with a next query",
        );
    }
    if train.pairs.is_empty() {
        return no(
            "pair of a clicked and an unclicked suggestion for one prompt",
            "impressions with clicks, MIMICS click panes, or counts of randomised tests",
        );
    }
    if train.prompts.is_empty() {
        return no("prompt to write suggestions for", "impressions, panes or conversations");
    }
    Ok(())
}

/// Every text of a split, for the tokenizer.
fn texts(split: &Split) -> impl Iterator<Item = &str> {
    let sft = split.sft.iter().map(|e| (&e.prompt, [e.suggestion.as_str(), ""]));
    let pairs = split.pairs.iter().map(|p| (&p.prompt, [p.chosen.as_str(), p.rejected.as_str()]));
    sft.chain(pairs).flat_map(|(prompt, own)| prompt.turns.iter().map(|t| t.text.as_str()).chain(own))
}

#[cfg(test)]
mod tests;
