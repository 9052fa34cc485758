//! Runs and their curves in the store.

use super::sql::{Connection, Row, values};
use super::{Store, StoreError};
use beckon_shared::control::life::Wish;
use beckon_shared::control::sample::Sample;
use beckon_shared::control::{CheckpointInfo, Metric, RunConfig, RunLine, RunState, RunStatus, Stage};

/// Lines of a run that are kept, and as many alarms; the newest.
const MAX_LINES: usize = 10_000;
/// Samples of a stage of a run that are kept; the first and the newest.
const MAX_SAMPLES: usize = 50;

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
    /// [`StoreError::Database`]; `Gone` where a checkpoint that it starts or learns from was deleted.
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
            let RunConfig { parent, sft, .. } = &status.config;
            let teacher = sft.teacher.as_ref().map(|teacher| teacher.id.as_str());
            super::checkpoints::hold(transaction, parent.as_deref().into_iter().chain(teacher))?;
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

    /// Stores the checkpoint of a run and the run's last status together; the checkpoint as it is registered now, which says
    /// another run where that made the same one before.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn finish_run(&self, status: &RunStatus, info: &CheckpointInfo) -> Result<CheckpointInfo, StoreError> {
        self.writer().transaction(|transaction| {
            super::checkpoints::lock(transaction)?;
            super::checkpoints::insert(transaction, info, number(&status.id))?;
            update_run(transaction, status, None)?;
            super::checkpoints::described(transaction, &info.id)
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
        all(&mut self.reader())
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
        self.metrics_after(run_id, None, usize::MAX)
    }

    /// At most `limit` points of a run's curves behind the one with this stage, step and name, or from the first on, in the order
    /// of [`Store::metrics`].
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn metrics_after(
        &self,
        run_id: &str,
        point: Option<(Stage, usize, &str)>,
        limit: usize,
    ) -> Result<Vec<Metric>, StoreError> {
        // stages are counted from 0
        let (stage, step, name) =
            point.map_or((-1, 0, ""), |(stage, step, name)| (stage_idx(stage) as i64, step, name));
        let sql = "SELECT stage, step, name, value FROM metrics WHERE run_id = ?1 AND (stage, step, name) > (?2, ?3, ?4) \
                   ORDER BY stage, step, name LIMIT ?5";
        self.reader().rows(sql, values![number(run_id), stage, step, name, limit], |mut row| {
            let stage = stage_of(row.get(0)?)?;
            let (step, name, value) = (row.get(1)?, row.get(2)?, row.get(3)?);
            Ok(Metric { run_id: run_id.to_owned(), stage, step, name, value })
        })
    }

    /// Keeps a line of a run's log, or an alarm, without a sync. That of a run that is not there, or was deleted meanwhile, is
    /// left out.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn add_run_line(&self, run_id: &str, time_millis: i64, alarm: bool, text: &str) -> Result<(), StoreError> {
        let number = number(run_id);
        self.journal().transaction(|transaction| {
            let sql = "INSERT INTO run_lines (run_id, time_millis, alarm, text) \
                       SELECT id, CAST(?2 AS BIGINT), CAST(?3 AS BIGINT), CAST(?4 AS TEXT) FROM runs WHERE id = ?1";
            transaction.execute(sql, values![number, time_millis, alarm, text])?;
            let sql = "DELETE FROM run_lines WHERE run_id = ?1 AND alarm = ?2 AND id <= \
                       (SELECT id FROM run_lines WHERE run_id = ?1 AND alarm = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)";
            transaction.execute(sql, values![number, alarm, MAX_LINES]).map(drop)
        })
    }

    /// At most `limit` lines and alarms of a run with ids below `before`, newest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn run_lines(&self, run_id: &str, before: i64, limit: usize) -> Result<Vec<RunLine>, StoreError> {
        let sql = "SELECT id, time_millis, alarm, text FROM run_lines WHERE run_id = ?1 AND id < ?2 \
                   ORDER BY id DESC LIMIT ?3";
        self.reader().rows(sql, values![number(run_id), before, limit], |mut row| {
            Ok(RunLine { id: row.get(0)?, time_millis: row.get(1)?, alarm: row.get(2)?, text: row.get(3)? })
        })
    }

    /// Keeps what a policy wrote, without a sync; where a resumed stage takes the step again it replaces what was kept. That of a
    /// run that is not there, or was deleted meanwhile, is left out.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn add_run_sample(&self, sample: &Sample) -> Result<(), StoreError> {
        let Sample { run_id, stage, step, prompts } = sample;
        let prompts = serde_json::to_string(prompts)
            .map_err(|source| StoreError::Damaged { what: format!("a sample of run {run_id}"), source })?;
        let (number, stage) = (number(run_id), stage_idx(*stage));
        self.journal().transaction(|transaction| {
            let sql = "INSERT INTO run_samples (run_id, stage, step, prompts) \
                       SELECT id, CAST(?2 AS BIGINT), CAST(?3 AS BIGINT), CAST(?4 AS TEXT) FROM runs WHERE id = ?1 \
                       ON CONFLICT (run_id, stage, step) DO UPDATE SET prompts = excluded.prompts";
            transaction.execute(sql, values![number, stage, *step, prompts])?;
            let sql = "DELETE FROM run_samples WHERE run_id = ?1 AND stage = ?2 AND step <= \
                       (SELECT step FROM run_samples WHERE run_id = ?1 AND stage = ?2 ORDER BY step DESC LIMIT 1 OFFSET ?3) \
                       AND step > (SELECT min(step) FROM run_samples WHERE run_id = ?1 AND stage = ?2)";
            transaction.execute(sql, values![number, stage, MAX_SAMPLES - 1]).map(drop)
        })
    }

    /// What the policy of a run wrote, by stage and step.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn run_samples(&self, run_id: &str) -> Result<Vec<Sample>, StoreError> {
        let sql = "SELECT stage, step, prompts FROM run_samples WHERE run_id = ?1 ORDER BY stage, step";
        self.reader().rows(sql, values![number(run_id)], |mut row| {
            let (stage, step, prompts) = (stage_of(row.get(0)?)?, row.get(1)?, row.get::<String>(2)?);
            let prompts = serde_json::from_str(&prompts)
                .map_err(|source| StoreError::Damaged { what: format!("a sample of run {run_id}"), source })?;
            Ok(Sample { run_id: run_id.to_owned(), stage, step, prompts })
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

/// All runs, newest first.
pub(super) fn all(connection: &mut Connection) -> Result<Vec<StoredRun>, StoreError> {
    let sql = "SELECT status, wish, last_record_id FROM runs ORDER BY id DESC";
    connection.rows(sql, values![], stored_run)
}

fn stage_idx(stage: Stage) -> usize {
    Stage::ALL.iter().position(|s| *s == stage).unwrap_or(Stage::ALL.len())
}

fn stage_of(idx: usize) -> Result<Stage, StoreError> {
    Stage::ALL.get(idx).copied().ok_or(StoreError::Column { column: 0, want: "the number of a stage" })
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
