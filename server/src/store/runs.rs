//! Runs and their curves in the store.

use super::sql::{Connection, Row, values};
use super::{Store, StoreError};
use beckon_shared::control::life::Wish;
use beckon_shared::control::{CheckpointInfo, Metric, RunConfig, RunState, RunStatus, Stage};

/// A run with what only the server needs.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRun {
    /// As the protocol shows it.
    pub status: RunStatus,
    /// Asked for and not yet done.
    pub wish: Option<Wish>,
    /// The run reads records up to this id.
    pub last_record_id: i64,
}

/// Number of a run from its id (`r12`); `None` for anything else, so an id from outside is safe as a folder name.
fn number(id: &str) -> Option<i64> {
    let digits = id.strip_prefix('r')?;
    let number = digits.parse().ok()?;
    (format!("{number}") == digits).then_some(number)
}

fn state_word(state: RunState) -> &'static str {
    match state {
        RunState::Draft => "draft",
        RunState::Queued => "queued",
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::Cancelled => "cancelled",
        RunState::Failed => "failed",
        RunState::Finished => "finished",
    }
}

fn status_json(status: &RunStatus) -> Result<String, StoreError> {
    serde_json::to_string(status).map_err(|source| StoreError::Damaged { what: format!("run {}", status.id), source })
}

impl Store {
    /// Adds a run over the records that are there now, and gives it its id. A second one for the same entry of the audit
    /// log is not added: the first is returned.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn add_run(
        &self,
        config: RunConfig,
        state: RunState,
        now_millis: i64,
        audit_id: Option<i64>,
    ) -> Result<RunStatus, StoreError> {
        let mut status = RunStatus {
            id: String::new(),
            config,
            state,
            stage: None,
            step: 0,
            n_steps: 0,
            created_millis: now_millis,
            device: None,
            checkpoint: None,
            error: None,
            changes: Vec::new(),
        };
        self.writer().transaction(|transaction| {
            let sql = "SELECT status, wish, last_record_id FROM runs WHERE audit_id = ?1";
            if let Some(there) = transaction.first(sql, values![audit_id], stored_run)? {
                return Ok(there.status);
            }
            let sql = "INSERT INTO runs (state, last_record_id, status, audit_id) \
                       VALUES (?1, (SELECT coalesce(max(id), 0) FROM records), '{}', ?2) RETURNING id";
            let number: i64 = transaction.value(sql, values![state_word(state), audit_id])?;
            status.id = format!("r{number}");
            let sql = "UPDATE runs SET status = ?2 WHERE id = ?1";
            transaction.execute(sql, values![number, status_json(&status)?])?;
            Ok(status)
        })
    }

    /// Stores state and wish of a run, synced to disk.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn set_run(&self, status: &RunStatus, wish: Option<Wish>) -> Result<(), StoreError> {
        update_run(&mut self.writer(), status, wish)
    }

    /// Stores how far a running run has come, without a sync; its wish stays.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn set_progress(&self, status: &RunStatus) -> Result<(), StoreError> {
        let sql = "UPDATE runs SET status = ?2 WHERE id = ?1";
        self.journal().execute(sql, values![number(&status.id), status_json(status)?]).map(drop)
    }

    /// Stores the checkpoint of a run and the run's last status together.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn finish_run(&self, status: &RunStatus, info: &CheckpointInfo) -> Result<(), StoreError> {
        self.writer().transaction(|transaction| {
            super::checkpoints::insert(transaction, info, number(&status.id))?;
            update_run(transaction, status, None)
        })
    }

    /// One run; `None` where there is none with this id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn run(&self, id: &str) -> Result<Option<StoredRun>, StoreError> {
        let Some(number) = number(id) else { return Ok(None) };
        let sql = "SELECT status, wish, last_record_id FROM runs WHERE id = ?1";
        self.reader().first(sql, values![number], stored_run)
    }

    /// All runs, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn runs(&self) -> Result<Vec<StoredRun>, StoreError> {
        let sql = "SELECT status, wish, last_record_id FROM runs ORDER BY id DESC";
        self.reader().rows(sql, values![], stored_run)
    }

    /// Removes a run with its curves; `false` where there is none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_run(&self, id: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM runs WHERE id = ?1";
        Ok(self.writer().execute(sql, values![number(id)])? == 1)
    }

    /// The curves of a run, by stage and step.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn metrics(&self, run_id: &str) -> Result<Vec<Metric>, StoreError> {
        let sql = "SELECT stage, step, name, value FROM metrics WHERE run_id = ?1 ORDER BY stage, step, name";
        self.reader().rows(sql, values![number(run_id)], |mut row| {
            let stage = *Stage::ALL
                .get(row.get::<usize>(0)?)
                .ok_or(StoreError::Column { column: 0, want: "the number of a stage" })?;
            let (step, name, value) = (row.get(1)?, row.get(2)?, row.get(3)?);
            Ok(Metric { run_id: run_id.to_owned(), stage, step, name, value })
        })
    }
}

/// Adds a point of a curve, or replaces it where a resumed stage takes the step again. Values that are not finite are left
/// out: neither JSON nor SQLite can hold them, and the stage that met one ends with an error of its own. So is the point of a
/// run that was deleted meanwhile.
pub(super) fn insert_metric(connection: &mut Connection, metric: &Metric) -> Result<(), StoreError> {
    if !metric.value.is_finite() {
        return Ok(());
    }
    let sql = "INSERT INTO metrics (run_id, stage, step, name, value) \
               SELECT id, CAST(?2 AS BIGINT), CAST(?3 AS BIGINT), CAST(?4 AS TEXT), CAST(?5 AS DOUBLE PRECISION) \
               FROM runs WHERE id = ?1 \
               ON CONFLICT (run_id, stage, step, name) DO UPDATE SET value = excluded.value";
    let Metric { run_id, stage, step, name, value } = metric;
    connection.execute(sql, values![number(run_id), stage_idx(*stage), *step, name, *value]).map(drop)
}

fn stage_idx(stage: Stage) -> usize {
    Stage::ALL.iter().position(|s| *s == stage).unwrap_or(Stage::ALL.len())
}

fn update_run(connection: &mut Connection, status: &RunStatus, wish: Option<Wish>) -> Result<(), StoreError> {
    let wish = wish.map(|wish| match wish {
        Wish::Pause => "pause",
        Wish::Cancel => "cancel",
    });
    let sql = "UPDATE runs SET state = ?2, wish = ?3, status = ?4 WHERE id = ?1";
    let values = values![number(&status.id), state_word(status.state), wish, status_json(status)?];
    connection.execute(sql, values).map(drop)
}

fn stored_run(mut row: Row) -> Result<StoredRun, StoreError> {
    let (status, wish): (String, Option<String>) = (row.get(0)?, row.get(1)?);
    let status = serde_json::from_str(&status)
        .map_err(|source| StoreError::Damaged { what: "the status of a run".into(), source })?;
    let wish = match wish.as_deref() {
        Some("pause") => Some(Wish::Pause),
        Some("cancel") => Some(Wish::Cancel),
        _ => None,
    };
    Ok(StoredRun { status, wish, last_record_id: row.get(2)? })
}
