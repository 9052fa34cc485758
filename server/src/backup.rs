//! Backup and restore of a data folder: the database as of one moment, checkpoints, and the state of runs, with a list of
//! hashes. A restore checks every hash before it touches the new folder.
//!
//! While a server trains, the files of its run are copied one after the other. Each is whole (files appear by rename), and a run
//! goes on from any saved state, so a restored run repeats at most the steps since the oldest file.

use crate::store::{Store, StoreError};
use beckon_shared::digest::sha256_hex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Name of the database, in a data folder and in a backup.
const DATABASE: &str = "beckon.sqlite";
/// Folders that are copied beside it.
const FOLDERS: [&str; 2] = ["checkpoints", "runs"];
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

/// Copies a file into `to`, and gives its SHA-256; `None` where it vanished.
fn copy(from: &Path, to: &Path) -> Result<Option<String>, BackupError> {
    let bytes = match std::fs::read(from) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(io("read", from))?,
    };
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).map_err(io("make", folder))?;
    }
    std::fs::write(to, &bytes).map_err(io("write", to))?;
    std::fs::File::open(to).and_then(|file| file.sync_all()).map_err(io("write", to))?;
    Ok(Some(sha256_hex(&bytes)))
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backed {
    /// Files in it.
    pub n_files: usize,
    /// Bucket that has the checkpoints, of which the backup holds only what lay in the folder.
    pub bucket: Option<String>,
}

/// Copies everything of `data_dir` into the new folder `out`.
///
/// # Errors
/// [`BackupError`]; what was copied stays, without its list of hashes.
pub fn backup(data_dir: &Path, out: &Path) -> Result<Backed, BackupError> {
    new_folder(out)?;
    // files first: the database then knows at least what they are
    let mut hashes = BTreeMap::new();
    for folder in FOLDERS {
        let mut found = Vec::new();
        files(data_dir, &data_dir.join(folder), &mut found)?;
        for path in found {
            if let Some(hash) = copy(&data_dir.join(&path), &out.join(&path))? {
                hashes.insert(path.to_string_lossy().into_owned(), hash);
            }
        }
    }
    let database = out.join(DATABASE);
    let store = Store::open(&data_dir.join(DATABASE))?;
    store.copy_to(&database)?;
    let bucket = store.setting(STORAGE_SETTING)?.filter(|url| !url.is_empty());
    let bytes = std::fs::read(&database).map_err(io("read", &database))?;
    hashes.insert(DATABASE.to_owned(), sha256_hex(&bytes));
    let list = out.join(LIST);
    let json = serde_json::to_vec_pretty(&hashes).unwrap_or_default();
    std::fs::write(&list, json).map_err(io("write", &list))?;
    Ok(Backed { n_files: hashes.len(), bucket })
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
        let bytes = std::fs::read(&path).map_err(io("read", &path))?;
        if sha256_hex(&bytes) != *hash {
            return Err(damaged(&path, "its content is not what was backed up".into()));
        }
    }
    new_folder(data_dir)?;
    for name in hashes.keys() {
        copy(&from.join(name), &data_dir.join(name))?;
    }
    Ok(hashes.len())
}

#[cfg(test)]
mod tests;
