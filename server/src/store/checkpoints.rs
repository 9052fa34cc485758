//! The list of checkpoints in the store; the files lie in `DATA_DIR/checkpoints`.

use super::sql::{Connection, values};
use super::{Store, StoreError};
use beckon_shared::control::CheckpointInfo;

impl Store {
    /// Registers a checkpoint that no run of this store made. One that is registered already stays as it is.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn add_checkpoint(&self, info: &CheckpointInfo) -> Result<(), StoreError> {
        insert(&mut self.writer(), info, None)
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
}

/// A checkpoint's id fixes its content, so a second registration has nothing to change.
pub(super) fn insert(connection: &mut Connection, info: &CheckpointInfo, run: Option<i64>) -> Result<(), StoreError> {
    let json = serde_json::to_string(info)
        .map_err(|source| StoreError::Damaged { what: format!("checkpoint {}", info.id), source })?;
    let sql = "INSERT INTO checkpoints (id, run_id, info) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING";
    connection.execute(sql, values![&info.id, run, json]).map(drop)
}
