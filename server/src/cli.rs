//! The command line: the same words as the loop's arrows, in the same order. One file per command.

mod ab;
mod backup;
mod bench;
mod device;
mod eval;
mod import;
mod model;
mod remote;
mod replay;
mod run_loop;
mod serve;
mod simulate;
mod terminal;
mod token;

use beckon_shared::control::DeviceChoice;
use clap::{Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};

/// Exit code of a command that was interrupted, as shells count SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// Turns clicks on suggestions into better suggestions, and runs the result in the page.
#[derive(Debug, Parser)]
#[command(name = "beckon", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the page: the log, training runs, and suggestions in the browser.
    Serve(serve::ServeArgs),
    /// Put a log file, or a folder of known files, into the database.
    Import(import::ImportArgs),
    /// Run the whole loop in the terminal: log → SFT → GaRM → RL → checkpoint and report.
    Loop(run_loop::LoopArgs),
    /// Judge a policy, a reward model, or the whole loop on simulated users.
    Eval(eval::EvalArgs),
    /// Analyse an A/B test, or plan one.
    Ab(ab::AbArgs),
    /// Pretrained policies: fetch, import, list, show, export.
    Model(model::ModelArgs),
    /// Write suggestions again that a page recorded, and say where they differ.
    Replay(replay::ReplayArgs),
    /// Write a click log of simulated users with a known true click rate.
    Simulate(simulate::SimulateArgs),
    /// Make and steer training runs of a server.
    Run(remote::RunArgs),
    /// List, fetch, promote and branch checkpoints of a server.
    Checkpoint(remote::CheckpointArgs),
    /// Make, steer and read experiments of a server.
    Experiment(remote::ExperimentArgs),
    /// Print what a server tells its listeners.
    Events(remote::EventsArgs),
    /// Print who asked a server for what, and when; for admins.
    Audit(remote::AuditArgs),
    /// Copy everything of a data folder, also while it is served.
    Backup(backup::BackupArgs),
    /// Put a backup into a new data folder, its hashes checked.
    Restore(backup::RestoreArgs),
    /// Make, list and remove the tokens that open a server.
    Token(token::TokenArgs),
    /// Show what this machine can train on, or lend it.
    Device(device::DeviceArgs),
    /// Measure speed.
    #[command(hide = true)]
    Bench(bench::BenchArgs),
}

/// Where Burn computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceArg {
    /// GPU where there is a real one, else CPU.
    Auto,
    /// CPU (Burn flex).
    Cpu,
    /// GPU (Burn wgpu).
    Gpu,
    /// Only those that --lent-device names.
    Lent,
}

impl From<DeviceArg> for DeviceChoice {
    fn from(device: DeviceArg) -> Self {
        match device {
            DeviceArg::Auto => Self::Auto,
            DeviceArg::Cpu => Self::Cpu,
            DeviceArg::Gpu => Self::Gpu,
            DeviceArg::Lent => Self::Lent,
        }
    }
}

/// The person ended a command; its state is saved.
#[derive(Debug, thiserror::Error)]
#[error("{how_to_go_on}")]
pub struct Interrupted {
    /// What to type.
    pub how_to_go_on: String,
}

impl Interrupted {
    fn saved_in(dir: &Path, command: &str) -> Self {
        let dir = dir.display();
        Self { how_to_go_on: format!("saved in {dir}; the same command goes on from there:\n  {command}") }
    }
}

/// The command as it was typed, arguments with other than plain characters in quotes.
fn typed() -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,".contains(c);
    let quote = |word: String| {
        let bare = !word.is_empty() && word.chars().all(plain);
        if bare { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    };
    let program = std::iter::once("beckon".to_owned());
    program.chain(std::env::args().skip(1).map(quote)).collect::<Vec<_>>().join(" ")
}

/// Runs a command.
///
/// # Errors
/// In words for people; [`Interrupted`] where the person ended it.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(args) => serve::serve(&args),
        Command::Import(args) => import::import(&args),
        Command::Loop(args) => run_loop::run_loop(&args),
        Command::Eval(args) => eval::eval(&args),
        Command::Ab(args) => ab::ab(&args),
        Command::Model(args) => model::model(&args),
        Command::Replay(args) => replay::replay(&args),
        Command::Simulate(args) => simulate::simulate(&args),
        Command::Run(args) => remote::run(&args),
        Command::Checkpoint(args) => remote::checkpoint(&args),
        Command::Experiment(args) => remote::experiment(&args),
        Command::Events(args) => remote::events(&args),
        Command::Audit(args) => remote::audit(&args),
        Command::Backup(args) => backup::backup(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Token(args) => token::token(&args),
        Command::Device(args) => device::device(&args),
        Command::Bench(args) => bench::bench(&args),
    }
}

/// The platform's folder for application data; `./beckon-data` where the environment names none.
fn default_data_dir() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = variable("HOME");
    let base = if cfg!(windows) {
        variable("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        home.map(|home| home.join("Library/Application Support"))
    } else {
        variable("XDG_DATA_HOME").or_else(|| home.map(|home| home.join(".local/share")))
    };
    base.map_or_else(|| PathBuf::from("beckon-data"), |base| base.join("beckon"))
}

#[cfg(test)]
mod tests;
