//! `beckon run`: make, steer and read training runs of a server.

use super::{ServerArgs, download, json_file, print, until_closed};
use anyhow::Context;
use beckon_shared::control::RunCommand;
use beckon_shared::control::command::{Command, segment};
use beckon_shared::control::tuning::Tuning;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Options of `beckon run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    verb: RunVerb,
}

/// What a run is to be like.
#[derive(Debug, Args)]
struct WishArgs {
    /// JSON file that names what differs from the preset.
    #[arg(long)]
    config: Option<PathBuf>,
    /// tiny or nano; comes before the file.
    #[arg(long)]
    preset: Option<String>,
    /// Comes before the file.
    #[arg(long)]
    seed: Option<u64>,
}

impl WishArgs {
    fn config(&self) -> anyhow::Result<Value> {
        let mut config = self.config.as_deref().map_or(Ok(json!({})), json_file)?;
        for (key, value) in [("preset", self.preset.as_ref().map(|p| json!(p))), ("seed", self.seed.map(|s| json!(s)))]
        {
            if let (Some(value), Some(object)) = (value, config.as_object_mut()) {
                object.insert(key.into(), value);
            }
        }
        Ok(config)
    }
}

#[derive(Debug, Subcommand)]
enum RunVerb {
    /// All runs, newest first.
    List,
    /// One run.
    Show {
        /// As `r3`.
        run: String,
    },
    /// Show the configuration that a run would have, every default filled in; nothing is made.
    Check {
        #[command(flatten)]
        wish: WishArgs,
    },
    /// Make a run over the log as it is now.
    Create {
        #[command(flatten)]
        wish: WishArgs,
        /// Only make it; start it later.
        #[arg(long)]
        draft: bool,
    },
    /// Put a draft, or a run that failed, into the queue.
    Start {
        /// As `r3`.
        run: String,
    },
    /// Save and wait at the next step.
    Pause {
        /// As `r3`.
        run: String,
    },
    /// Go on.
    Resume {
        /// As `r3`.
        run: String,
    },
    /// End for good.
    Cancel {
        /// As `r3`.
        run: String,
    },
    /// Forget a run that is not at work; its checkpoint stays.
    Delete {
        /// As `r3`.
        run: String,
    },
    /// Change values from the next step on.
    Tune {
        /// As `r3`.
        run: String,
        /// As `{"rl": {"kl_beta": 0.2, "kl_budget_nats": 2, "learning_rate": 1e-5}}`; also rl.fusion_weights,
        /// sft.learning_rate, garm.learning_rate.
        values: String,
    },
    /// The curves so far.
    Metrics {
        /// As `r3`.
        run: String,
    },
    /// What its policy wrote while it trained.
    Samples {
        /// As `r3`.
        run: String,
    },
    /// What it said, newest first: lines of its log, and its alarms.
    Log {
        /// As `r3`.
        run: String,
        /// At most so many lines; all that are kept unless told.
        #[arg(long)]
        limit: Option<NonZeroUsize>,
    },
    /// Its report as HTML, which is written after the rl stage.
    Report {
        /// As `r3`.
        run: String,
        /// File to write; standard output unless told.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

/// Does it and prints the answer.
///
/// # Errors
/// In words for people.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let remote = args.server.open()?;
    let path = |run: &str, rest: &str| format!("/api/runs/{}{rest}", segment(run));
    let steer = |run: &String, action| Command::SteerRun { run: run.clone(), action };
    let command = match &args.verb {
        RunVerb::List => return print(&remote.list("/api/runs", None)?),
        RunVerb::Show { run } => return print(&remote.get(&path(run, ""))?),
        RunVerb::Metrics { run } => return print(&remote.list(&path(run, "/metrics"), None)?),
        RunVerb::Samples { run } => return print(&remote.get(&path(run, "/samples"))?),
        RunVerb::Log { run, limit } => return print(&remote.list(&path(run, "/log"), *limit)?),
        RunVerb::Report { run, out: Some(out) } => return download(&remote, &path(run, "/report"), out),
        RunVerb::Report { run, out: None } => {
            let mut report = remote.file(&path(run, "/report"))?;
            return until_closed(std::io::copy(&mut report, &mut std::io::stdout()).map(drop));
        }
        RunVerb::Check { wish } => return print(&remote.post("/api/runs/check", &wish.config()?)?),
        RunVerb::Create { wish, draft } => Command::CreateRun { config: wish.config()?, draft: *draft },
        RunVerb::Start { run } => steer(run, RunCommand::Start),
        RunVerb::Pause { run } => steer(run, RunCommand::Pause),
        RunVerb::Resume { run } => steer(run, RunCommand::Resume),
        RunVerb::Cancel { run } => steer(run, RunCommand::Cancel),
        RunVerb::Delete { run } => steer(run, RunCommand::Delete),
        RunVerb::Tune { run, values } => {
            let tuning: Tuning = serde_json::from_str(values).context("the values are not as `{\"rl\": {…}}`")?;
            Command::TuneRun { run: run.clone(), tuning }
        }
    };
    print(&remote.command(&command)?)
}
