//! `beckon import`: log files into the database, here or of a server, with what was refused and why.

use super::remote::FarArgs;
use crate::import::{files_of_folder, import_bytes, in_words, summary_of_refusal};
use crate::remote::Remote;
use crate::store::Store;
use anyhow::{Context, bail};
use beckon_shared::control::{ImportOutcome, LogSummary};
use beckon_shared::import::Format;
use clap::Args;
use std::path::{Path, PathBuf};

/// Options of `beckon import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A log file, or a folder in which files with known names and *.jsonl are looked for.
    pub path: PathBuf,
    /// jsonl, mimics-duo, mimics-manual, intents, upworthy or conversations; not needed for a folder.
    #[arg(long)]
    pub format: Option<Format>,
    /// Folder of the database, where no server is named [default: the platform's folder for application data]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL database of the server, where it has one; the data folder then says nothing.
    #[arg(long, env = "BECKON_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    /// Folder for files with the refused lines; a server that is named has its own.
    #[arg(long, default_value = "rejects")]
    pub rejects: PathBuf,
    #[command(flatten)]
    pub far: FarArgs,
}

/// Where the records go.
enum Log {
    Here { store: Box<Store>, rejects: PathBuf },
    There { remote: Remote, server: String },
}

/// Imports, and prints what was stored, known already and refused.
///
/// # Errors
/// In words for people; also where nothing could be imported and something was refused.
pub fn import(args: &ImportArgs) -> anyhow::Result<()> {
    let shown = args.path.display();
    let metadata = std::fs::metadata(&args.path).with_context(|| format!("cannot read {shown}"))?;
    let files = match (metadata.is_dir(), args.format) {
        (true, _) => files_of_folder(&args.path).with_context(|| format!("cannot list {shown}"))?,
        (false, Some(format)) => vec![(args.path.clone(), format)],
        (false, None) => bail!("say how {shown} is written with --format (beckon import --help lists the formats)"),
    };
    if files.is_empty() {
        bail!("no log file was found in {shown}: no known name and no *.jsonl");
    }
    let log = open(args)?;
    let mut refusals = Vec::new();
    for (path, format) in files {
        refusals.extend(import_file(&log, &path, format)?);
    }
    match &log {
        Log::Here { store, .. } => println!("the log in {} has {} records now", store.place(), store.n_records()?),
        Log::There { remote, server } => {
            let LogSummary { n_records, .. } = remote.get("/api/log/summary")?;
            println!("the log of {server} has {n_records} records now");
        }
    }
    if !refusals.is_empty() {
        bail!("{}", refusals.join("; "));
    }
    Ok(())
}

fn open(args: &ImportArgs) -> anyhow::Result<Log> {
    if let (Some(remote), Some(server)) = (args.far.open()?, &args.far.server) {
        return Ok(Log::There { remote, server: server.clone() });
    }
    let data_dir = args.data_dir.clone().unwrap_or_else(super::default_data_dir);
    let store = Box::new(Store::of(args.database.as_deref(), &data_dir)?);
    Ok(Log::Here { store, rejects: args.rejects.clone() })
}

/// Imports one file; returns what to complain about where it brought nothing but refusals.
fn import_file(log: &Log, path: &Path, format: Format) -> anyhow::Result<Option<String>> {
    let shown = path.display();
    let (outcome, place): (ImportOutcome, _) = match log {
        Log::Here { store, rejects } => {
            let bytes = std::fs::read(path).with_context(|| format!("cannot read {shown}"))?;
            let name = path.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
            (import_bytes(store, format, &name, &bytes, rejects)?, "")
        }
        Log::There { remote, .. } => {
            (remote.import(path, format).with_context(|| shown.to_string())?, ", on the server")
        }
    };
    println!(
        "{shown}: {} imported as {}, {} known already, {} refused",
        outcome.n_accepted, outcome.source, outcome.n_duplicates, outcome.n_rejected
    );
    for reject in outcome.rejects.iter().take(5) {
        println!("  {}", in_words(reject));
    }
    if let Some(file) = &outcome.rejects_file {
        println!("  all refused lines{place}: {file}");
    }
    Ok(summary_of_refusal(&outcome).map(|text| format!("{shown}: {text}")))
}
