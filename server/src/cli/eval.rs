//! `beckon eval`: judges a policy or a reward model on held-out records, or the whole loop on simulated users.

use super::run_loop::{PresetArg, read_folder};
use super::terminal::{Terminal, interrupt_flag};
use super::{Interrupted, typed};
use crate::eval::simulator::{self, SimulatorConfig};
use crate::pipeline::PipelineError;
use crate::run_config::run_config_from_json;
use anyhow::Context;
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::preference::dataset_from_records;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Options of `beckon eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What a checkpoint's policy writes for held-out prompts, as JSON.
    Policy(Judged),
    /// How well a checkpoint's reward model tells held-out pairs apart, as JSON.
    Reward(Judged),
    /// What a log gives to learn from: what is left out and why, what the click model can tell of the slots, pairs,
    /// candidates for imitation; as JSON, without any training.
    Preferences(PreferencesArgs),
    /// Gold click rates of the loop's policies in worlds with known truth.
    Simulator(SimulatorArgs),
}

/// What is judged on what.
#[derive(Debug, Args)]
struct Judged {
    /// Checkpoint file.
    #[arg(long)]
    checkpoint: PathBuf,
    /// Folder with the log, as for `beckon loop`.
    #[arg(long)]
    data: PathBuf,
    /// Seed of the split; that of the checkpoint's run unless told, so that what is held out was not learnt from.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, Args)]
struct PreferencesArgs {
    /// Folder with the log, as for `beckon loop`.
    #[arg(long)]
    data: PathBuf,
    /// JSON file with a run configuration; its `preferences` and `seed` are read.
    #[arg(long)]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SimulatorArgs {
    /// Folder for the runs; the same folder goes on where it ended.
    #[arg(long)]
    out: PathBuf,
    /// Worlds, each with a log and a run of its own.
    #[arg(long, default_value_t = SimulatorConfig::default().n_seeds)]
    seeds: usize,
    /// Model size.
    #[arg(long, value_enum, default_value_t = PresetArg::Tiny)]
    preset: PresetArg,
    /// Impressions in each log.
    #[arg(long, default_value_t = SimulatorConfig::default().n_impressions)]
    impressions: usize,
    /// Users in each log.
    #[arg(long, default_value_t = SimulatorConfig::default().n_users)]
    users: usize,
    /// Conversations that the click rate is a mean over.
    #[arg(long, default_value_t = SimulatorConfig::default().n_prompts)]
    prompts: usize,
    /// Run RL again without the OOD term, with single-stage fusion, and on the reward's mean alone.
    #[arg(long)]
    ablations: bool,
    /// Print JSON in place of a table.
    #[arg(long)]
    json: bool,
}

/// Judges, and prints the figures.
///
/// # Errors
/// In words for people; [`Interrupted`] after Ctrl-C with the state saved.
pub fn eval(args: &EvalArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Policy(judged) => judge(judged, crate::eval::policy),
        What::Reward(judged) => judge(judged, crate::eval::reward),
        What::Preferences(args) => preferences(args),
        What::Simulator(args) => on_simulator(args),
    }
}

fn preferences(args: &PreferencesArgs) -> anyhow::Result<()> {
    let json = match &args.config {
        Some(path) => std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => Vec::new(),
    };
    let config = run_config_from_json(&json)?;
    let records = read_folder(&args.data, &PathBuf::from("rejects"))?;
    let dataset = dataset_from_records(&records, &config.preferences, config.seed)?;
    for line in dataset.report.lines() {
        eprintln!("{line}");
    }
    println!("{}", serde_json::to_string_pretty(&dataset.report)?);
    Ok(())
}

type Judge =
    fn(&std::path::Path, &[beckon_shared::click::Sourced], u64) -> Result<serde_json::Value, crate::eval::EvalError>;

fn judge(judged: &Judged, judge: Judge) -> anyhow::Result<()> {
    let shown = judged.checkpoint.display();
    let bytes = std::fs::read(&judged.checkpoint).with_context(|| format!("cannot read {shown}"))?;
    let checkpoint = Checkpoint::decode(&bytes).with_context(|| format!("refused {shown}"))?;
    let seed = judged.seed.unwrap_or(checkpoint.manifest.lineage.seed);
    let records = read_folder(&judged.data, &PathBuf::from("rejects"))?;
    println!("{:#}", judge(&judged.checkpoint, &records, seed)?);
    Ok(())
}

fn on_simulator(args: &SimulatorArgs) -> anyhow::Result<()> {
    let config = SimulatorConfig {
        n_seeds: args.seeds,
        preset: args.preset.into(),
        n_impressions: args.impressions,
        n_users: args.users,
        n_prompts: args.prompts,
        ablations: args.ablations,
    };
    let mut terminal = Terminal::new(interrupt_flag().context("cannot listen for Ctrl-C")?);
    let end = simulator::run(config, &args.out, &mut terminal);
    terminal.finish();
    match end {
        Ok(figures) if args.json => println!("{}", serde_json::to_string_pretty(&figures)?),
        Ok(figures) => println!("{}", figures.table()),
        Err(PipelineError::Cancelled) => return Err(Interrupted::saved_in(&args.out, &typed()).into()),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
