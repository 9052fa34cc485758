//! Which servers of a shared store are there, and which of them trains: locks that PostgreSQL holds for a connection and lets go
//! with it, so that a process that was killed is gone at once.

use super::sql::{Address, Connection, Dialect, values};
use super::{Store, StoreError};
use std::sync::{Mutex, PoisonError};

/// The lock of the one server that trains, in the space of pairs: "bckn" and a number.
const TRAINING: (i64, i64) = (0x62_63_6b_6e, 1);

/// What keeps this process's locks.
pub(super) struct Presence {
    address: Address,
    keeper: Mutex<Option<Keeper>>,
}

struct Keeper {
    connection: Connection,
    process: i64,
}

impl Presence {
    pub(super) fn new(address: Address) -> Self {
        Self { address, keeper: Mutex::new(None) }
    }

    /// Uses the connection that holds the lock of this process; one that was lost is made again, with the lock.
    fn keep<T>(
        &self,
        process: i64,
        work: impl FnOnce(&mut Connection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if keeper.as_ref().is_none_or(|keeper| keeper.process != process) {
            // the database may take a moment to notice that an earlier connection is gone
            let setup = format!("SET lock_timeout = '30s'; SELECT pg_advisory_lock({process})");
            *keeper = Some(Keeper { connection: self.address.connect(&setup)?, process });
        }
        // it was filled just now
        let connection = keeper.as_mut().map(|keeper| &mut keeper.connection);
        let lost = StoreError::Lost { database: self.address.shown(), reason: "there is no connection".into() };
        work(connection.ok_or(lost)?)
    }
}

impl Store {
    /// Makes sure that other servers see this process: its commands are not taken for broken off.
    pub(super) fn be_present(&self, process: i64) -> Result<(), StoreError> {
        let Some(presence) = &self.presence else { return Ok(()) };
        presence.keep(process, |connection| connection.value::<i64>("SELECT 1", values![]).map(drop))
    }

    /// Takes, or still has, the right to train: one server of a store has it. A store that is not shared always gives it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn hold_training(&self, process: i64) -> Result<bool, StoreError> {
        let Some(presence) = &self.presence else { return Ok(true) };
        presence.keep(process, |connection| {
            let (class, number) = TRAINING;
            let held = format!(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() \
                 AND classid = {class} AND objid = {number} AND objsubid = 2"
            );
            if connection.value::<i64>(&held, values![])? > 0 {
                return Ok(true);
            }
            let take = format!("SELECT CASE WHEN pg_try_advisory_lock({class}, {number}) THEN 1 ELSE 0 END");
            connection.value(&take, values![])
        })
    }
}

/// Whether another process that began a command is still there. With SQLite it is not: one process has the data folder.
pub(super) fn is_present(transaction: &mut Connection, process: i64) -> Result<bool, StoreError> {
    match transaction.dialect() {
        Dialect::Sqlite => Ok(false),
        Dialect::Postgres => {
            // where its lock can be taken, it is gone; this also keeps others from taking its command up
            let sql = "SELECT CASE WHEN pg_try_advisory_xact_lock(?1) THEN 0 ELSE 1 END";
            transaction.value(sql, values![process])
        }
    }
}
