//! What must survive: the click log, runs with their curves, events, the registry of checkpoints, tokens and the audit log,
//! in one SQLite file or one PostgreSQL database.
//!
//! In the loop: holds the output of the first arrow and the bookkeeping of all others. Statements are written once, in what both
//! databases understand ([`sql`]). Methods block, so asynchronous callers go through `tokio::task::spawn_blocking`. Not here:
//! checkpoint files and training state, which are files.
//!
//! Three connections. What a caller is told is stored goes through `writer`, which syncs to disk before it returns. Curves and
//! progress go through `journal`, which survives the death of the process but may lose the last moments at a power cut; a
//! resumed stage writes those again. Reads go through `reader`; SQLite's write-ahead log lets them wait for no writer.

mod audit;
mod checkpoints;
mod events;
mod experiments;
mod presence;
mod records;
mod registry;
mod runs;
mod schema;
mod sql;
mod tokens;

pub use audit::{Asked, Begun};
pub use events::Kept;
pub use records::{Added, RecordQuery, without_duplicates};
pub use registry::{Needs, RolledBack, StoredNote};
pub use runs::StoredRun;
pub use tokens::StoredToken;

use presence::Presence;
use sql::{Address, Connection, open_file, values};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Name of the SQLite file in a data folder.
pub const FILE_NAME: &str = "beckon.sqlite";

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
    Database(#[from] rusqlite::Error),
    /// The same in PostgreSQL.
    #[error("database: {message} ({code})")]
    Postgres {
        /// SQLSTATE.
        code: String,
        /// What it said.
        message: String,
    },
    /// What names a PostgreSQL database does not.
    #[error("the address of the database is none: {reason}; write postgres://USER:PASSWORD@HOST/DATABASE")]
    DatabaseUrl {
        /// What is wrong with it.
        reason: String,
    },
    /// PostgreSQL does not let us in.
    #[error("cannot connect to the database {database}: {reason}")]
    Connect {
        /// Host and name.
        database: String,
        /// Why.
        reason: String,
    },
    /// The connection to PostgreSQL broke; what was asked last may have been done.
    #[error("lost the database {database}: {reason}")]
    Lost {
        /// Host and name.
        database: String,
        /// Why.
        reason: String,
    },
    /// The tables of another program have our names.
    #[error("the database {database} has tables of another program; make one for beckon alone: {reason}")]
    ForeignTables {
        /// Host and name.
        database: String,
        /// Which table.
        reason: String,
    },
    /// What was to be written needs a checkpoint that was deleted meanwhile.
    #[error("there is no checkpoint {id}: it was deleted")]
    Gone {
        /// Id of the checkpoint.
        id: String,
    },
    /// A text that PostgreSQL cannot hold.
    #[error("a text with the character U+0000 cannot be stored in PostgreSQL")]
    Nul,
    /// A column is not what the statement promises: the database was changed by hand.
    #[error("database: column {column} of an answer is not {want}")]
    Column {
        /// Number of the column.
        column: usize,
        /// What it should be.
        want: &'static str,
    },
    /// Asked of a database that has its own way.
    #[error("{database} is PostgreSQL: back it up with pg_dump, and restore it with pg_restore")]
    NoCopy {
        /// Host and name.
        database: String,
    },
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
    /// Where other servers may use the same store.
    presence: Option<Presence>,
    /// File, or host and name of the database.
    place: String,
}

impl Store {
    /// Opens the SQLite file `path`, creating and migrating it as needed.
    ///
    /// # Errors
    /// [`StoreError`]: not SQLite, another program's, newer than this program, or not accessible.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|source| StoreError::Folder { source, path: folder.to_owned() })?;
        }
        let mut writer = open_file(path, "FULL")?;
        schema::migrate_file(&mut writer, path)?;
        Ok(Self {
            writer: Mutex::new(writer),
            journal: Mutex::new(open_file(path, "NORMAL")?),
            reader: Mutex::new(open_file(path, "NORMAL")?),
            presence: None,
            place: path.display().to_string(),
        })
    }

    /// Connects to a PostgreSQL database, creating and migrating its tables as needed.
    ///
    /// # Errors
    /// [`StoreError`]: no such address, no way in, tables of another program or of a newer beckon.
    pub fn connect(url: &str) -> Result<Self, StoreError> {
        let address = Address::parse(url)?;
        let limits = "SET statement_timeout = '60s'; SET lock_timeout = '30s'; \
                      SET idle_in_transaction_session_timeout = '60s'";
        let mut writer = address.connect(limits)?;
        schema::migrate_tables(&mut writer, &address.shown())?;
        Ok(Self {
            writer: Mutex::new(writer),
            journal: Mutex::new(address.connect(&format!("{limits}; SET synchronous_commit = off"))?),
            // a whole log may be read at once
            reader: Mutex::new(address.connect(&format!("{limits}; SET statement_timeout = '10min'"))?),
            place: address.shown(),
            presence: Some(Presence::new(address)),
        })
    }

    /// The store of a data folder, or the PostgreSQL database where one is named.
    ///
    /// # Errors
    /// As [`Store::open`] and [`Store::connect`].
    pub fn of(database: Option<&str>, data_dir: &Path) -> Result<Self, StoreError> {
        database.map_or_else(|| Self::open(&data_dir.join(FILE_NAME)), Self::connect)
    }

    /// Where it is, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether other servers may use it at the same time.
    pub fn is_shared(&self) -> bool {
        self.presence.is_some()
    }

    /// Writes a consistent copy of the whole store into a new file, also while others write to it.
    ///
    /// # Errors
    /// [`StoreError::Database`], also where `path` exists; `NoCopy` for PostgreSQL.
    pub fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        if self.is_shared() {
            return Err(StoreError::NoCopy { database: self.place.clone() });
        }
        self.reader().execute("VACUUM INTO ?1", values![&*path.to_string_lossy()]).map(drop)
    }

    /// Value of a setting.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn setting(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.reader().first("SELECT value FROM settings WHERE key = ?1", values![key], |mut row| row.get(0))
    }

    /// Stores a setting.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn set_setting(&self, key: &str, value: &str) -> Result<(), StoreError> {
        let sql = "INSERT INTO settings (key, value) VALUES (?1, ?2) \
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        self.writer().execute(sql, values![key, value]).map(drop)
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

/// A connection is consistent after a panic (an open transaction is rolled back), so poison is no reason to stop.
fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
