//! What must survive: the click log, runs with their curves, events, the registry of checkpoints, tokens and the audit log,
//! in one SQLite file.
//!
//! In the loop: holds the output of the first arrow and the bookkeeping of all others. Sources: SQLite's
//! write-ahead log (readers never wait for a writer). Methods block, so asynchronous callers go through
//! `tokio::task::spawn_blocking`. Not here: checkpoint files and training state, which are files beside it.
//!
//! Three connections share the file. What a caller is told is stored goes through `writer`, which syncs to disk
//! before it returns. Curves and progress go through `journal`, which survives the death of the process but may
//! lose the last moments at a power cut; a resumed stage writes those again. Reads go through `reader`.

mod audit;
mod checkpoints;
mod events;
mod experiments;
mod records;
mod registry;
mod runs;
mod schema;
mod tokens;

pub use audit::{Asked, Begun};
pub use events::Kept;
pub use records::{Added, RecordQuery, without_duplicates};
pub use registry::{RolledBack, StoredNote};
pub use runs::StoredRun;
pub use tokens::StoredToken;

use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a statement waits for another connection or process before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened or created.
    #[error("cannot open the database: {source}: {path}")]
    Open {
        /// What SQLite said.
        source: rusqlite::Error,
        /// Which file.
        path: PathBuf,
    },
    /// The folder of the database could not be made.
    #[error("cannot make the folder of the database: {source}: {path}")]
    Folder {
        /// What the system said.
        source: std::io::Error,
        /// Which folder.
        path: PathBuf,
    },
    /// The file is something else than SQLite.
    #[error("not an SQLite database; move it away or choose another --data-dir: {path}")]
    NotSqlite {
        /// Which file.
        path: PathBuf,
    },
    /// SQLite, but not ours.
    #[error("an SQLite database of another program; choose another --data-dir: {path}")]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// Written by a newer beckon.
    #[error(
        "the database has schema version {found}, this beckon knows up to {known}; use a newer beckon, or another \
         --data-dir: {path}"
    )]
    Newer {
        /// Version of the file.
        found: i64,
        /// Newest version known here.
        known: i64,
        /// Which file.
        path: PathBuf,
    },
    /// A statement failed (a full disk shows here).
    #[error("database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A stored value does not parse.
    #[error("database: {what} does not parse: {source}")]
    Damaged {
        /// Which row.
        what: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// The open store; share it behind an `Arc`.
pub struct Store {
    writer: Mutex<Connection>,
    journal: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl Store {
    /// Opens `path`, creating and migrating it as needed.
    ///
    /// # Errors
    /// [`StoreError`]: not SQLite, another program's, newer than this program, or not accessible.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|source| StoreError::Folder { source, path: folder.to_owned() })?;
        }
        let mut writer = connect(path, "FULL")?;
        schema::migrate(&mut writer, path)?;
        Ok(Self {
            writer: Mutex::new(writer),
            journal: Mutex::new(connect(path, "NORMAL")?),
            reader: Mutex::new(connect(path, "NORMAL")?),
        })
    }

    /// Writes a consistent copy of the whole store into a new file, also while others write to it.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; also where `path` exists.
    pub fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        self.reader().execute("VACUUM INTO ?1", [path.to_string_lossy()])?;
        Ok(())
    }

    /// Value of a setting.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn setting(&self, key: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM settings WHERE key = ?1";
        Ok(self.reader().prepare_cached(sql)?.query_row([key], |row| row.get(0)).optional()?)
    }

    /// Stores a setting.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn set_setting(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO settings (key, value) VALUES (?1, ?2) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.writer().prepare_cached(sql)?.execute(params![key, value])?;
        Ok(())
    }

    fn writer(&self) -> MutexGuard<'_, Connection> {
        lock(&self.writer)
    }

    fn journal(&self) -> MutexGuard<'_, Connection> {
        lock(&self.journal)
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        lock(&self.reader)
    }
}

/// A connection is consistent after a panic (SQLite rolls an open transaction back), so poison is no reason to stop.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(path: &Path, synchronous: &str) -> Result<Connection, StoreError> {
    let opened = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => StoreError::NotSqlite { path: path.to_owned() },
        _ => StoreError::Open { source, path: path.to_owned() },
    };
    let connection = Connection::open(path).map_err(opened)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(opened)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(opened)?;
    connection.pragma_update(None, "synchronous", synchronous).map_err(opened)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(opened)?;
    Ok(connection)
}

#[cfg(test)]
mod tests;
