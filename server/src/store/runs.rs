//! Runs and their curves in the store.

use super::{Store, StoreError};
use beckon_shared::control::life::Wish;
use beckon_shared::control::{CheckpointInfo, Metric, RunConfig, RunState, RunStatus, Stage};
use rusqlite::{Connection, OptionalExtension, Row, params};

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
    /// [`StoreError::Sqlite`].
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
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        let sql = "SELECT status, wish, last_record_id FROM runs WHERE audit_id = ?1";
        if let Some(there) = transaction.prepare_cached(sql)?.query_row([audit_id], raw_run).optional()? {
            return Ok(parse_run(&there)?.status);
        }
        transaction.execute(
            "INSERT INTO runs (state, last_record_id, status, audit_id) \
             VALUES (?1, (SELECT coalesce(max(id), 0) FROM records), '{}', ?2)",
            params![state_word(state), audit_id],
        )?;
        let number = transaction.last_insert_rowid();
        status.id = format!("r{number}");
        transaction.execute("UPDATE runs SET status = ?2 WHERE id = ?1", params![number, status_json(&status)?])?;
        transaction.commit()?;
        Ok(status)
    }

    /// Stores state and wish of a run, synced to disk.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn set_run(&self, status: &RunStatus, wish: Option<Wish>) -> Result<(), StoreError> {
        update_run(&self.writer(), status, wish)
    }

    /// Stores how far a running run has come, without a sync; its wish stays.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn set_progress(&self, status: &RunStatus) -> Result<(), StoreError> {
        let sql = "UPDATE runs SET status = ?2 WHERE id = ?1";
        self.journal().prepare_cached(sql)?.execute(params![number(&status.id), status_json(status)?])?;
        Ok(())
    }

    /// Stores the checkpoint of a run and the run's last status together.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn finish_run(&self, status: &RunStatus, info: &CheckpointInfo) -> Result<(), StoreError> {
        let mut writer = self.writer();
        let transaction = writer.transaction()?;
        super::checkpoints::insert(&transaction, info, number(&status.id))?;
        update_run(&transaction, status, None)?;
        Ok(transaction.commit()?)
    }

    /// One run; `None` where there is none with this id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn run(&self, id: &str) -> Result<Option<StoredRun>, StoreError> {
        let Some(number) = number(id) else { return Ok(None) };
        let reader = self.reader();
        let mut statement = reader.prepare_cached("SELECT status, wish, last_record_id FROM runs WHERE id = ?1")?;
        let row = statement.query_row([number], raw_run).optional()?;
        row.map(|raw| parse_run(&raw)).transpose()
    }

    /// All runs, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn runs(&self) -> Result<Vec<StoredRun>, StoreError> {
        let reader = self.reader();
        let mut statement = reader.prepare_cached("SELECT status, wish, last_record_id FROM runs ORDER BY id DESC")?;
        let rows = statement.query_map([], raw_run)?;
        rows.map(|raw| parse_run(&raw?)).collect()
    }

    /// Removes a run with its curves; `false` where there is none.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn remove_run(&self, id: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM runs WHERE id = ?1";
        Ok(self.writer().prepare_cached(sql)?.execute([number(id)])? == 1)
    }

    /// The curves of a run, by stage and step.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn metrics(&self, run_id: &str) -> Result<Vec<Metric>, StoreError> {
        let reader = self.reader();
        let mut statement = reader.prepare_cached(
            "SELECT stage, step, name, value FROM metrics WHERE run_id = ?1 ORDER BY stage, step, name",
        )?;
        let rows = statement.query_map([number(run_id)], |row| {
            let stage: usize = row.get(0)?;
            Ok(Metric {
                run_id: run_id.to_owned(),
                stage: *Stage::ALL.get(stage).ok_or(rusqlite::Error::IntegralValueOutOfRange(0, stage as i64))?,
                step: row.get(1)?,
                name: row.get(2)?,
                value: row.get(3)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

/// Adds a point of a curve, or replaces it where a resumed stage takes the step again. Values that are not finite are left
/// out: neither JSON nor SQLite can hold them, and the stage that met one ends with an error of its own. So is the point of a
/// run that was deleted meanwhile.
pub(super) fn insert_metric(connection: &Connection, metric: &Metric) -> Result<(), StoreError> {
    if !metric.value.is_finite() {
        return Ok(());
    }
    let sql = "INSERT OR REPLACE INTO metrics (run_id, stage, step, name, value) \
               SELECT id, ?2, ?3, ?4, ?5 FROM runs WHERE id = ?1";
    connection.prepare_cached(sql)?.execute(params![
        number(&metric.run_id),
        stage_idx(metric.stage),
        metric.step,
        metric.name,
        metric.value
    ])?;
    Ok(())
}

fn stage_idx(stage: Stage) -> usize {
    Stage::ALL.iter().position(|s| *s == stage).unwrap_or(Stage::ALL.len())
}

fn update_run(connection: &Connection, status: &RunStatus, wish: Option<Wish>) -> Result<(), StoreError> {
    let wish = wish.map(|wish| match wish {
        Wish::Pause => "pause",
        Wish::Cancel => "cancel",
    });
    connection.prepare_cached("UPDATE runs SET state = ?2, wish = ?3, status = ?4 WHERE id = ?1")?.execute(params![
        number(&status.id),
        state_word(status.state),
        wish,
        status_json(status)?
    ])?;
    Ok(())
}

type RawRun = (String, Option<String>, i64);

fn raw_run(row: &Row<'_>) -> rusqlite::Result<RawRun> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
}

fn parse_run((status, wish, last_record_id): &RawRun) -> Result<StoredRun, StoreError> {
    let status = serde_json::from_str(status)
        .map_err(|source| StoreError::Damaged { what: "the status of a run".into(), source })?;
    let wish = match wish.as_deref() {
        Some("pause") => Some(Wish::Pause),
        Some("cancel") => Some(Wish::Cancel),
        _ => None,
    };
    Ok(StoredRun { status, wish, last_record_id: *last_record_id })
}
