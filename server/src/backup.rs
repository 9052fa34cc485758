//! Backup and restore of a data folder: the database as of one moment, checkpoints, the state of runs, and refused lines of
//! imports, with a list of hashes. A restore checks every hash before it touches the new folder.
//!
//! A server may train meanwhile, so the database comes first: what it names has files by then. Files that are newer do no harm.
//! Each is whole (files appear by rename); a run goes on from any saved state, one that ended meanwhile ends again at once, and a
//! checkpoint that the database does not know is registered at the start. Only the folder of a run that the database does not know
//! stays out, since another run will have its number. What was deleted meanwhile is in the database alone, and is named.

use crate::store::{Store, StoreError};
use beckon_shared::digest::hex;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Name of the database, in a data folder and in a backup.
const DATABASE: &str = crate::store::FILE_NAME;
/// Folders that are copied beside it.
const FOLDERS: [&str; 3] = ["checkpoints", "runs", "rejects"];
/// Bytes that are read at once.
const PIECE_BYTES: usize = 1 << 20;
/// Setting of the database that names the bucket of the checkpoints; empty where they lie in the folder.
pub const STORAGE_SETTING: &str = "storage";
/// The list of hashes, written last: a backup without it broke off.
const LIST: &str = "backup.json";

/// Why a backup or a restore did not come about.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The database could not be copied.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
        /// Which file.
        path: PathBuf,
    },
    /// There is nothing to back up.
    #[error(
        "there is no database in {}; where the server has PostgreSQL, back that up with pg_dump, and its bucket with the means \
         of the storage",
        path.display()
    )]
    NoDatabase {
        /// Which folder.
        path: PathBuf,
    },
    /// The target has something in it.
    #[error("{} is not empty; choose a new folder", path.display())]
    NotEmpty {
        /// Which folder.
        path: PathBuf,
    },
    /// The backup is not whole.
    #[error("the backup is damaged: {reason}: {}", path.display())]
    Damaged {
        /// What is wrong.
        reason: String,
        /// Which file.
        path: PathBuf,
    },
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { action, source, path }
}

fn new_folder(path: &Path) -> Result<(), BackupError> {
    std::fs::create_dir_all(path).map_err(io("make", path))?;
    match std::fs::read_dir(path).map_err(io("list", path))?.next() {
        None => Ok(()),
        Some(_) => Err(BackupError::NotEmpty { path: path.to_owned() }),
    }
}

/// Files under `dir` by their path from `root`, sorted. What a server is writing at this moment (`*.partial`) and what
/// vanishes meanwhile is left out.
fn files(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) -> Result<(), BackupError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io("list", dir))?,
    };
    for entry in entries {
        let path = entry.map_err(io("list", dir))?.path();
        if path.is_dir() {
            files(root, &path, found)?;
        } else if path.extension().is_none_or(|extension| extension != "partial" && extension != "tmp") {
            found.extend(path.strip_prefix(root).map(Path::to_owned));
        }
    }
    found.sort();
    Ok(())
}

/// Copies a file into `to`, and gives the SHA-256 of what was copied; `None` where it vanished.
fn copy(from: &Path, to: &Path) -> Result<Option<String>, BackupError> {
    let source = match File::open(from) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        source => source.map_err(io("read", from))?,
    };
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).map_err(io("make", folder))?;
    }
    let mut target = File::create(to).map_err(io("write", to))?;
    let hash = pass((source, from), (&mut target, to))?;
    target.sync_all().map_err(io("write", to))?;
    Ok(Some(hash))
}

/// SHA-256 of a file.
fn hash_of(path: &Path) -> Result<String, BackupError> {
    let file = File::open(path).map_err(io("read", path))?;
    pass((file, path), (std::io::sink(), path))
}

/// Reads a file to its end, piece by piece, and writes what it has; the SHA-256 of that. The paths are for messages.
fn pass((mut from, source): (File, &Path), (mut to, target): (impl Write, &Path)) -> Result<String, BackupError> {
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE_BYTES]);
    loop {
        let n = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(io("read", source)(error)),
        };
        hash.update(&piece[..n]);
        to.write_all(&piece[..n]).map_err(io("write", target))?;
    }
    let hash: [u8; 32] = hash.finalize().into();
    Ok(hex(&hash))
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backed {
    /// Files in it.
    pub n_files: usize,
    /// Bucket that has the checkpoints, of which the backup holds only what lay in the folder.
    pub bucket: Option<String>,
    /// Checkpoints that the database names and that had no file: deleted while this was made, or lost before. Empty with a
    /// bucket.
    pub missing: Vec<String>,
}

/// Copies everything of `data_dir` into the new folder `out`.
///
/// # Errors
/// [`BackupError`]; what was copied stays, without its list of hashes.
pub fn backup(data_dir: &Path, out: &Path) -> Result<Backed, BackupError> {
    backup_while(data_dir, out, || ())
}

/// The same; `then` is called between the database and the files.
fn backup_while(data_dir: &Path, out: &Path, then: impl FnOnce()) -> Result<Backed, BackupError> {
    if !data_dir.join(DATABASE).is_file() {
        return Err(BackupError::NoDatabase { path: data_dir.to_owned() });
    }
    new_folder(out)?;
    let database = out.join(DATABASE);
    let store = Store::open(&data_dir.join(DATABASE))?;
    // before the copy, which has all of them
    let runs: HashSet<String> = store.runs()?.into_iter().map(|run| run.status.id).collect();
    let checkpoints = store.checkpoints()?;
    store.copy_to(&database)?;
    File::open(&database).and_then(|file| file.sync_all()).map_err(io("write", &database))?;
    let bucket = store.setting(STORAGE_SETTING)?.filter(|url| !url.is_empty());
    then();
    let mut hashes = BTreeMap::from([(DATABASE.to_owned(), hash_of(&database)?)]);
    for folder in FOLDERS {
        let mut found = Vec::new();
        files(data_dir, &data_dir.join(folder), &mut found)?;
        for path in found.into_iter().filter(|path| !is_of_other_run(path, &runs)) {
            if let Some(hash) = copy(&data_dir.join(&path), &out.join(&path))? {
                hashes.insert(path.to_string_lossy().into_owned(), hash);
            }
        }
    }
    let lacks_file = |id: &String| {
        let path = Path::new("checkpoints").join(format!("{id}.beckon"));
        bucket.is_none() && !hashes.contains_key(&*path.to_string_lossy())
    };
    let missing = checkpoints.into_iter().map(|info| info.id).filter(lacks_file).collect();
    let list = out.join(LIST);
    let json = serde_json::to_vec_pretty(&hashes).unwrap_or_default();
    File::create(&list)
        .and_then(|mut file| file.write_all(&json).and_then(|()| file.sync_all()))
        .map_err(io("write", &list))?;
    Ok(Backed { n_files: hashes.len(), bucket, missing })
}

/// Whether a file belongs to a run that is not among `runs`.
fn is_of_other_run(path: &Path, runs: &HashSet<String>) -> bool {
    let folder = path.strip_prefix("runs").ok().and_then(|path| path.iter().next()).and_then(|name| name.to_str());
    let is_run = |name: &&str| name.strip_prefix('r').is_some_and(|number| number.parse::<u64>().is_ok());
    folder.filter(is_run).is_some_and(|name| !runs.contains(name))
}

/// Puts a backup into the new folder `data_dir`; the number of files.
///
/// # Errors
/// [`BackupError`]: a file that is missing or changed is found before anything is written.
pub fn restore(from: &Path, data_dir: &Path) -> Result<usize, BackupError> {
    let list = from.join(LIST);
    let json = std::fs::read(&list).map_err(io("read", &list))?;
    let damaged = |path: &Path, reason: String| BackupError::Damaged { reason, path: path.to_owned() };
    let hashes: BTreeMap<String, String> =
        serde_json::from_slice(&json).map_err(|error| damaged(&list, error.to_string()))?;
    for (name, hash) in &hashes {
        let path = from.join(name);
        let inside = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside {
            return Err(damaged(&list, format!("it names {name:?}, which leads out of the folder")));
        }
        if hash_of(&path)? != *hash {
            return Err(damaged(&path, "its content is not what was backed up".into()));
        }
    }
    new_folder(data_dir)?;
    for (name, hash) in &hashes {
        let path = from.join(name);
        if copy(&path, &data_dir.join(name))?.as_ref() != Some(hash) {
            return Err(damaged(&path, "it changed while it was restored".into()));
        }
    }
    Ok(hashes.len())
}

#[cfg(test)]
mod tests;
