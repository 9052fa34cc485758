//! `beckon run`, `checkpoint`, `experiment`, `events`: steer a server from the terminal, the one on this machine or another.
//!
//! Answers are JSON on standard output, so that they can be piped; what went wrong is said in words.

use crate::remote::Remote;
use anyhow::Context;
use beckon_shared::control::RunCommand;
use beckon_shared::control::command::{Command, segment};
use beckon_shared::control::experiment::ExperimentCommand;
use beckon_shared::control::registry::PRODUCTION;
use beckon_shared::control::tuning::Tuning;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Which server, and who asks.
#[derive(Debug, Clone, Args)]
pub struct ServerArgs {
    /// Address of the server.
    #[arg(long, global = true, env = "BECKON_SERVER", default_value = "http://127.0.0.1:8020")]
    pub server: String,
    /// Token (see `beckon token`); not needed on the machine of a server that listens on a loopback address.
    #[arg(long, global = true, env = "BECKON_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Certificates to trust (PEM), where the server has one of its own.
    #[arg(long, global = true, env = "BECKON_CA")]
    pub ca: Option<PathBuf>,
}

impl ServerArgs {
    /// A client.
    ///
    /// # Errors
    /// The file of certificates cannot be read.
    pub fn open(&self) -> anyhow::Result<Remote> {
        Ok(Remote::new(&self.server, self.token.as_deref(), self.ca.as_deref())?)
    }
}

/// Options of `beckon run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    verb: RunVerb,
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
    /// Make a run over the log as it is now.
    Create {
        /// JSON file that names what differs from the preset.
        #[arg(long)]
        config: Option<PathBuf>,
        /// tiny or nano; comes before the file.
        #[arg(long)]
        preset: Option<String>,
        /// Comes before the file.
        #[arg(long)]
        seed: Option<u64>,
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
        /// As `{"rl": {"kl_beta": 0.2, "learning_rate": 1e-5}}`.
        values: String,
    },
    /// The curves so far.
    Metrics {
        /// As `r3`.
        run: String,
    },
}

/// Does it and prints the answer.
///
/// # Errors
/// In words for people.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let remote = args.server.open()?;
    let steer = |run: &String, action| Command::SteerRun { run: run.clone(), action };
    let command = match &args.verb {
        RunVerb::List => return print(&remote.get("/api/runs")?),
        RunVerb::Show { run } => return print(&remote.get(&format!("/api/runs/{}", segment(run)))?),
        RunVerb::Metrics { run } => return print(&remote.get(&format!("/api/runs/{}/metrics", segment(run)))?),
        RunVerb::Create { config, preset, seed, draft } => {
            let mut config = config.as_deref().map_or(Ok(json!({})), json_file)?;
            for (key, value) in [("preset", preset.as_ref().map(|p| json!(p))), ("seed", seed.map(|s| json!(s)))] {
                if let (Some(value), Some(object)) = (value, config.as_object_mut()) {
                    object.insert(key.into(), value);
                }
            }
            Command::CreateRun { config, draft: *draft }
        }
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

/// Options of `beckon checkpoint`.
#[derive(Debug, Args)]
pub struct CheckpointArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    verb: CheckpointVerb,
}

#[derive(Debug, Subcommand)]
enum CheckpointVerb {
    /// All checkpoints with parents, evaluation results, tags and notes.
    List,
    /// Which was made from which.
    Lineage,
    /// Header of one.
    Show {
        /// Its id.
        checkpoint: String,
    },
    /// Download one.
    Fetch {
        /// Its id.
        checkpoint: String,
        /// File to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Let a tag point to it.
    Promote {
        /// Its id.
        checkpoint: String,
        /// The tag.
        #[arg(long, default_value = PRODUCTION)]
        tag: String,
    },
    /// Let a tag point to where it pointed before.
    RollBack {
        /// The tag.
        #[arg(long, default_value = PRODUCTION)]
        tag: String,
    },
    /// Make a run that starts from it.
    Branch {
        /// Its id.
        checkpoint: String,
        /// JSON file that names what differs from the configuration of the run that made it.
        #[arg(long)]
        config: Option<PathBuf>,
    },
    /// Write a note on it.
    Note {
        /// Its id.
        checkpoint: String,
        /// The text.
        text: String,
    },
    /// Delete one that nothing needs.
    Delete {
        /// Its id.
        checkpoint: String,
    },
}

/// Does it and prints the answer.
///
/// # Errors
/// In words for people.
pub fn checkpoint(args: &CheckpointArgs) -> anyhow::Result<()> {
    let remote = args.server.open()?;
    let command = match &args.verb {
        CheckpointVerb::List => return print(&remote.get("/api/registry")?),
        CheckpointVerb::Lineage => return print(&remote.get("/api/lineage")?),
        CheckpointVerb::Show { checkpoint } => {
            return print(&remote.get(&format!("/api/checkpoints/{}", segment(checkpoint)))?);
        }
        CheckpointVerb::Fetch { checkpoint, out } => return fetch(&remote, checkpoint, out),
        CheckpointVerb::Promote { checkpoint, tag } => {
            Command::Promote { checkpoint: checkpoint.clone(), tag: tag.clone() }
        }
        CheckpointVerb::RollBack { tag } => Command::RollBack { tag: tag.clone() },
        CheckpointVerb::Branch { checkpoint, config } => {
            let config = config.as_deref().map_or(Ok(json!({})), json_file)?;
            Command::Branch { checkpoint: checkpoint.clone(), config }
        }
        CheckpointVerb::Note { checkpoint, text } => {
            Command::Annotate { checkpoint: checkpoint.clone(), text: text.clone() }
        }
        CheckpointVerb::Delete { checkpoint } => Command::DeleteCheckpoint { checkpoint: checkpoint.clone() },
    };
    print(&remote.command(&command)?)
}

/// Downloads into a file beside `out`, and gives it its name once its hashes are right.
fn fetch(remote: &Remote, id: &str, out: &Path) -> anyhow::Result<()> {
    let partial = out.with_extension("partial");
    let shown = partial.display();
    let mut file = std::fs::File::create(&partial).with_context(|| format!("cannot write {shown}"))?;
    let mut body = remote.file(&format!("/api/checkpoints/{}/file", segment(id)))?;
    std::io::copy(&mut body, &mut file).context("the download broke off")?;
    file.sync_all().with_context(|| format!("cannot write {shown}"))?;
    let bytes = std::fs::read(&partial).with_context(|| format!("cannot read {shown}"))?;
    let checkpoint = beckon_shared::checkpoint::Checkpoint::decode(&bytes)
        .with_context(|| format!("what came is not whole; it is left in {shown}"))?;
    anyhow::ensure!(checkpoint.id == id, "what came is {}, not {id}; it is left in {shown}", checkpoint.id);
    std::fs::rename(&partial, out).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{}: {} bytes, hashes right", out.display(), bytes.len());
    Ok(())
}

/// Options of `beckon experiment`.
#[derive(Debug, Args)]
pub struct ExperimentArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(subcommand)]
    verb: ExperimentVerb,
}

#[derive(Debug, Subcommand)]
enum ExperimentVerb {
    /// All experiments, newest first.
    List,
    /// One experiment.
    Show {
        /// As `e2`.
        experiment: String,
    },
    /// Make a draft from a JSON file.
    Create {
        /// The file: name, arms, traffic, settings.
        config: PathBuf,
    },
    /// Begin to assign users.
    Start {
        /// As `e2`.
        experiment: String,
    },
    /// Assign nobody any more.
    Stop {
        /// As `e2`.
        experiment: String,
    },
    /// Switch off: refuse everything at once.
    Kill {
        /// As `e2`.
        experiment: String,
    },
    /// Name the winner.
    Decide {
        /// As `e2`.
        experiment: String,
        /// An arm.
        winner: String,
    },
    /// Forget one that is not running, with everything that it took in.
    Delete {
        /// As `e2`.
        experiment: String,
    },
    /// Make a new ingest key and print it.
    Key {
        /// As `e2`.
        experiment: String,
    },
    /// The analysis as it stands.
    Results {
        /// As `e2`.
        experiment: String,
    },
    /// Put what was shown and clicked into the server's click log; a second time only what is new.
    Harvest {
        /// As `e2`.
        experiment: String,
    },
    /// Write what was shown and clicked as a log file that `beckon import` takes.
    Export {
        /// As `e2`.
        experiment: String,
        /// File to write.
        #[arg(long)]
        out: PathBuf,
    },
}

/// Does it and prints the answer.
///
/// # Errors
/// In words for people.
pub fn experiment(args: &ExperimentArgs) -> anyhow::Result<()> {
    let remote = args.server.open()?;
    let path = |experiment: &str, rest: &str| format!("/api/experiments/{}{rest}", segment(experiment));
    let steer = |experiment: &String, action: ExperimentCommand, winner: Option<&String>| Command::SteerExperiment {
        experiment: experiment.clone(),
        action: action.name().to_owned(),
        winner: winner.cloned(),
    };
    let command = match &args.verb {
        ExperimentVerb::List => return print(&remote.get("/api/experiments")?),
        ExperimentVerb::Show { experiment } => return print(&remote.get(&path(experiment, ""))?),
        ExperimentVerb::Results { experiment } => return print(&remote.get(&path(experiment, "/results"))?),
        ExperimentVerb::Key { experiment } => return print(&remote.post(&path(experiment, "/key"), &json!({}))?),
        ExperimentVerb::Harvest { experiment } => {
            return print(&remote.post(&path(experiment, "/harvest"), &json!({}))?);
        }
        ExperimentVerb::Export { experiment, out } => return export(&remote, &path(experiment, "/export"), out),
        ExperimentVerb::Create { config } => Command::CreateExperiment { config: json_file(config)? },
        ExperimentVerb::Start { experiment } => steer(experiment, ExperimentCommand::Start, None),
        ExperimentVerb::Stop { experiment } => steer(experiment, ExperimentCommand::Stop, None),
        ExperimentVerb::Kill { experiment } => steer(experiment, ExperimentCommand::Kill, None),
        ExperimentVerb::Decide { experiment, winner } => steer(experiment, ExperimentCommand::Decide, Some(winner)),
        ExperimentVerb::Delete { experiment } => Command::DeleteExperiment { experiment: experiment.clone() },
    };
    print(&remote.command(&command)?)
}

/// Downloads into a file beside `out`, and gives it its name once all of it is there.
fn export(remote: &Remote, path: &str, out: &Path) -> anyhow::Result<()> {
    let partial = out.with_extension("partial");
    let shown = partial.display();
    let file = std::fs::File::create(&partial).with_context(|| format!("cannot write {shown}"))?;
    let mut file = std::io::BufWriter::new(file);
    let n_bytes = std::io::copy(&mut remote.file(path)?, &mut file).context("the export broke off")?;
    file.into_inner()
        .map_err(|error| error.into_error())?
        .sync_all()
        .with_context(|| format!("cannot write {shown}"))?;
    std::fs::rename(&partial, out).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{}: {n_bytes} bytes", out.display());
    Ok(())
}

/// Options of `beckon events`.
#[derive(Debug, Args)]
pub struct EventsArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Begin after the event with this number.
    #[arg(long)]
    after: Option<u64>,
    /// End after this many events.
    #[arg(long)]
    limit: Option<usize>,
}

/// Prints events as JSON lines, `{"seq": …, "event": …}`.
///
/// # Errors
/// In words for people; also where the server hangs up.
pub fn events(args: &EventsArgs) -> anyhow::Result<()> {
    let mut left = args.limit.unwrap_or(usize::MAX);
    let mut last = args.after;
    args.server.open()?.events(args.after, |seq, event| {
        last = Some(seq);
        left = left.saturating_sub(1);
        // a closed pipe ends it
        writeln!(std::io::stdout(), "{{\"seq\":{seq},\"event\":{event}}}").is_ok() && left > 0
    })?;
    anyhow::ensure!(args.limit.is_some(), "the server hung up; --after {} goes on from here", last.unwrap_or(0));
    Ok(())
}

fn json_file(path: &Path) -> anyhow::Result<Value> {
    let shown = path.display();
    let text = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
    serde_json::from_slice(&text).with_context(|| format!("{shown} is not JSON"))
}

fn print(value: &Value) -> anyhow::Result<()> {
    if value.is_null() {
        return Ok(());
    }
    match writeln!(std::io::stdout(), "{value:#}") {
        // whoever reads has seen enough, as `head`
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write the answer"),
    }
}
