//! The list of checkpoints in the store; the files lie in `DATA_DIR/checkpoints`.

use super::{Store, StoreError};
use beckon_shared::control::CheckpointInfo;
use rusqlite::{Connection, params};

impl Store {
    /// Registers a checkpoint that no run of this store made. One that is registered already stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn add_checkpoint(&self, info: &CheckpointInfo) -> Result<(), StoreError> {
        insert(&self.writer(), info, None)
    }

    /// All registered checkpoints, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, StoreError> {
        let reader = self.reader();
        let mut statement = reader.prepare_cached("SELECT info FROM checkpoints ORDER BY seq DESC")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.map(|info| {
            serde_json::from_str(&info?)
                .map_err(|source| StoreError::Damaged { what: "the description of a checkpoint".into(), source })
        })
        .collect()
    }
}

/// A checkpoint's id fixes its content, so a second registration has nothing to change.
pub(super) fn insert(connection: &Connection, info: &CheckpointInfo, run: Option<i64>) -> Result<(), StoreError> {
    let json = serde_json::to_string(info)
        .map_err(|source| StoreError::Damaged { what: format!("checkpoint {}", info.id), source })?;
    let sql = "INSERT INTO checkpoints (id, run_id, info) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING";
    connection.prepare_cached(sql)?.execute(params![info.id, run, json])?;
    Ok(())
}
