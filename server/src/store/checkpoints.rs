//! The list of checkpoints in the store; the files lie in `DATA_DIR/checkpoints`, or in a bucket.
//!
//! A file cannot come or go together with its row, so what happens to it is written down before: a checkpoint is `arriving` from
//! before its files appear until its row does, `leaving` from the moment its row is removed, and `gone` when its files are too.
//! What a process that died has left halfway is brought to its end by [`crate::registry::moves`]. A checkpoint is there where it
//! has a row, or nothing of this kind was ever said of it (the built-in one).
//!
//! What begins to need a checkpoint is written under the same lock as what removes one, so that neither misses the other.

use super::sql::{Connection, values};
use super::{Store, StoreError};
use beckon_shared::control::CheckpointInfo;

/// Name of the lock.
const LOCK: &str = "checkpoints of beckon";
const SET_STATE: &str = "INSERT INTO checkpoint_moves (id, state) VALUES (?1, ?2) \
                         ON CONFLICT (id) DO UPDATE SET state = excluded.state";

impl Store {
    /// Registers a checkpoint that no run of this store made. One that is registered already stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn add_checkpoint(&self, info: &CheckpointInfo) -> Result<(), StoreError> {
        self.writer().transaction(|transaction| insert(transaction, info, None))
    }

    /// All registered checkpoints, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, StoreError> {
        self.reader().rows("SELECT info FROM checkpoints ORDER BY seq DESC", values![], |mut row| {
            serde_json::from_str(&row.get::<String>(0)?)
                .map_err(|source| StoreError::Damaged { what: "the description of a checkpoint".into(), source })
        })
    }

    /// Whether a checkpoint is registered.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn has_checkpoint(&self, id: &str) -> Result<bool, StoreError> {
        has_row(&mut self.reader(), id)
    }

    /// Writes down that the files of a checkpoint are about to come; `false` where others of the same content are leaving.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn checkpoint_arrives(&self, id: &str) -> Result<bool, StoreError> {
        let sql = "INSERT INTO checkpoint_moves (id, state) VALUES (?1, 'arriving') \
                   ON CONFLICT (id) DO UPDATE SET state = excluded.state WHERE checkpoint_moves.state <> 'leaving'";
        Ok(self.writer().execute(sql, values![id])? == 1)
    }

    /// Writes down that nothing is left of a checkpoint.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn checkpoint_is_gone(&self, id: &str) -> Result<(), StoreError> {
        self.writer().transaction(|transaction| {
            transaction.execute(SET_STATE, values![id, "gone"])?;
            transaction.execute("DELETE FROM checkpoint_notes WHERE id = ?1", values![id]).map(drop)
        })
    }

    /// Writes down that the files of a checkpoint stay where they are.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn checkpoint_stays(&self, id: &str) -> Result<(), StoreError> {
        settle(&mut self.writer(), id)
    }

    /// Checkpoints whose files were on their way when they were last heard of.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn moving_checkpoints(&self) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT id FROM checkpoint_moves WHERE state <> 'gone' ORDER BY id";
        self.reader().rows(sql, values![], |mut row| row.get(0))
    }
}

/// A checkpoint's id fixes its content, so a second registration has nothing to change; only a run that turns out to have made
/// what was found without one is added. Its files stay from here on.
pub(super) fn insert(connection: &mut Connection, info: &CheckpointInfo, run: Option<i64>) -> Result<(), StoreError> {
    let json = serde_json::to_string(info)
        .map_err(|source| StoreError::Damaged { what: format!("checkpoint {}", info.id), source })?;
    let sql = "INSERT INTO checkpoints (id, run_id, info) VALUES (?1, ?2, ?3) \
               ON CONFLICT (id) DO UPDATE SET run_id = excluded.run_id, info = excluded.info \
               WHERE checkpoints.run_id IS NULL AND excluded.run_id IS NOT NULL";
    connection.execute(sql, values![&info.id, run, json])?;
    settle(connection, &info.id)
}

/// A registered checkpoint as it is described now.
pub(super) fn described(connection: &mut Connection, id: &str) -> Result<CheckpointInfo, StoreError> {
    let json: String = connection.value("SELECT info FROM checkpoints WHERE id = ?1", values![id])?;
    serde_json::from_str(&json)
        .map_err(|source| StoreError::Damaged { what: "the description of a checkpoint".into(), source })
}

fn settle(connection: &mut Connection, id: &str) -> Result<(), StoreError> {
    connection.execute("DELETE FROM checkpoint_moves WHERE id = ?1", values![id]).map(drop)
}

fn has_row(connection: &mut Connection, id: &str) -> Result<bool, StoreError> {
    connection.value::<i64>("SELECT count(*) FROM checkpoints WHERE id = ?1", values![id]).map(|n| n > 0)
}

/// Lets no checkpoint be removed, and nothing begin to need one, until the transaction ends.
pub(super) fn lock(transaction: &mut Connection) -> Result<(), StoreError> {
    transaction.lock_name(LOCK)
}

/// Whether a checkpoint is there; what is written of it under the [`lock`] finds it there too.
pub(super) fn is_there(transaction: &mut Connection, id: &str) -> Result<bool, StoreError> {
    let sql = "SELECT count(*) FROM checkpoint_moves WHERE id = ?1 \
               AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE checkpoints.id = ?1)";
    transaction.value::<i64>(sql, values![id]).map(|n| n == 0)
}

/// Makes sure that checkpoints are there, and stay until the transaction ends, which writes what needs them.
pub(super) fn hold<'a>(transaction: &mut Connection, ids: impl IntoIterator<Item = &'a str>) -> Result<(), StoreError> {
    let ids: Vec<&str> = ids.into_iter().collect();
    if ids.is_empty() {
        return Ok(());
    }
    lock(transaction)?;
    ids.into_iter().try_for_each(|id| match is_there(transaction, id)? {
        true => Ok(()),
        false => Err(StoreError::Gone { id: id.to_owned() }),
    })
}

/// Removes a checkpoint's row, under the [`lock`]; its files are leaving from here on.
pub(super) fn remove(transaction: &mut Connection, id: &str) -> Result<(), StoreError> {
    transaction.execute("DELETE FROM checkpoints WHERE id = ?1", values![id])?;
    transaction.execute("DELETE FROM checkpoint_notes WHERE id = ?1", values![id])?;
    transaction.execute(SET_STATE, values![id, "leaving"]).map(drop)
}

/// Whether the store knows a checkpoint: it is registered, or was and has left files.
pub(super) fn is_known(transaction: &mut Connection, id: &str) -> Result<bool, StoreError> {
    let sql = "SELECT count(*) FROM checkpoint_moves WHERE id = ?1 AND state = 'leaving'";
    Ok(has_row(transaction, id)? || transaction.value::<i64>(sql, values![id])? > 0)
}

/// Registered checkpoints, and those whose run is about to end with them.
pub(super) fn all_ids(connection: &mut Connection) -> Result<(Vec<String>, Vec<String>), StoreError> {
    let registered = connection.rows("SELECT id FROM checkpoints", values![], |mut row| row.get(0))?;
    let sql = "SELECT id FROM checkpoint_moves WHERE state = 'arriving'";
    Ok((registered, connection.rows(sql, values![], |mut row| row.get(0))?))
}
