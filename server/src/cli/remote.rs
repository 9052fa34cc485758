//! `beckon run`, `checkpoint`, `experiment`, `events`, `audit`: steer a server from the terminal, the one on this machine or
//! another.
//!
//! Answers are JSON on standard output, so that they can be piped; what went wrong is said in words.

mod run;

pub use run::{RunArgs, run};

use crate::remote::Remote;
use anyhow::Context;
use beckon_shared::control::command::{Command, segment};
use beckon_shared::control::experiment::ExperimentCommand;
use beckon_shared::control::registry::PRODUCTION;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::io::Write;
use std::num::NonZeroUsize;
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

/// Another server than this machine's folders, for commands that work on these unless told.
#[derive(Debug, Clone, Args)]
pub struct FarArgs {
    /// Address of a server that does it; without it this machine does, whatever BECKON_SERVER says.
    #[arg(long, global = true)]
    pub server: Option<String>,
    /// Token of that server (see `beckon token`).
    #[arg(long, global = true, env = "BECKON_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Certificates to trust (PEM), where the server has one of its own.
    #[arg(long, global = true, env = "BECKON_CA")]
    pub ca: Option<PathBuf>,
}

impl FarArgs {
    /// A client, where a server is named.
    ///
    /// # Errors
    /// The file of certificates cannot be read.
    pub fn open(&self) -> anyhow::Result<Option<Remote>> {
        let open = |server: &String| Remote::new(server, self.token.as_deref(), self.ca.as_deref());
        Ok(self.server.as_ref().map(open).transpose()?)
    }
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
    /// Where every tag points, and where a roll back would lead.
    Tags,
    /// Every time that a tag was moved, oldest first, those included that were rolled back.
    History,
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
        CheckpointVerb::List => return print(&remote.list("/api/registry", None)?),
        CheckpointVerb::Lineage => return print(&remote.list("/api/lineage", None)?),
        CheckpointVerb::Tags => return print(&remote.get("/api/tags")?),
        CheckpointVerb::History => return print(&remote.list("/api/promotions", None)?),
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
        ExperimentVerb::List => return print(&remote.list("/api/experiments", None)?),
        ExperimentVerb::Show { experiment } => return print(&remote.get(&path(experiment, ""))?),
        ExperimentVerb::Results { experiment } => return print(&remote.get(&path(experiment, "/results"))?),
        ExperimentVerb::Key { experiment } => return print(&remote.post(&path(experiment, "/key"), &json!({}))?),
        ExperimentVerb::Harvest { experiment } => {
            return print(&remote.post(&path(experiment, "/harvest"), &json!({}))?);
        }
        ExperimentVerb::Export { experiment, out } => return download(&remote, &path(experiment, "/export"), out),
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
fn download(remote: &Remote, path: &str, out: &Path) -> anyhow::Result<()> {
    let mut body = remote.file(path)?;
    let partial = out.with_extension("partial");
    let shown = partial.display();
    let file = std::fs::File::create(&partial).with_context(|| format!("cannot write {shown}"))?;
    let mut file = std::io::BufWriter::new(file);
    let n_bytes = std::io::copy(&mut body, &mut file).context("the download broke off")?;
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

/// Options of `beckon audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// At most so many commands; all unless told.
    #[arg(long)]
    limit: Option<NonZeroUsize>,
}

/// Prints who asked for what and when, newest first.
///
/// # Errors
/// In words for people.
pub fn audit(args: &AuditArgs) -> anyhow::Result<()> {
    print(&args.server.open()?.list("/api/audit", args.limit)?)
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
    until_closed(writeln!(std::io::stdout(), "{value:#}"))
}

/// A closed pipe is no error: whoever reads has seen enough, as `head`.
fn until_closed(written: std::io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write the answer"),
    }
}
