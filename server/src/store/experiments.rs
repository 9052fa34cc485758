//! Experiments in the store: their states, what was shown and clicked, and the sums over users that the analysis takes.

use super::sql::{Connection, Row, Value, values};
use super::{Store, StoreError};
use beckon_shared::ab::input::{Observed, RETURNED_AFTER_MILLIS, User, Users, observation_millis};
use beckon_shared::ab::interleave::Votes;
use beckon_shared::ab::moments::Totals;
use beckon_shared::control::experiment::{
    ClickEvent, ExperimentState, ExperimentStatus, Exposure, IngestEvent, IngestOutcome, Layout, LooksState, PAST_DAYS,
};

/// How long a window has to be over before its user counts: reports that are late a little are in, and what one server
/// has counted is over by the clock of another that stops the experiment.
const SETTLING_MILLIS: i64 = 300_000;
const DAY_MILLIS: i64 = 86_400_000;

/// Number of an experiment from its id (`e12`); `None` for anything else.
fn number(id: &str) -> Option<i64> {
    let digits = id.strip_prefix('e')?;
    let number = digits.parse().ok()?;
    (format!("{number}") == digits).then_some(number)
}

fn json<T: serde::Serialize>(value: &T, what: &str) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Damaged { what: what.to_owned(), source })
}

fn parsed<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Damaged { what: what.to_owned(), source })
}

impl Store {
    /// Adds an experiment and gives it its id, which is set in `status`. A second one for the same entry of the audit log
    /// is not added: the first is returned.
    ///
    /// # Errors
    /// [`StoreError`]; `Gone` where a checkpoint of its arms was deleted.
    pub fn add_experiment(
        &self,
        mut status: ExperimentStatus,
        audit_id: Option<i64>,
    ) -> Result<ExperimentStatus, StoreError> {
        self.writer().transaction(|transaction| {
            let sql = "SELECT status FROM experiments WHERE audit_id = ?1";
            if let Some(there) = transaction.first(sql, values![audit_id], |mut row| row.get::<String>(0))? {
                return parsed(&there, "an experiment");
            }
            super::checkpoints::hold(transaction, status.config.checkpoints())?;
            let sql = "INSERT INTO experiments (status, audit_id) VALUES ('{}', ?1) RETURNING id";
            let number: i64 = transaction.value(sql, values![audit_id])?;
            status.id = format!("e{number}");
            let text = json(&status, "an experiment")?;
            transaction.execute("UPDATE experiments SET status = ?2 WHERE id = ?1", values![number, text])?;
            Ok(status)
        })
    }

    /// One experiment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn experiment(&self, id: &str) -> Result<Option<ExperimentStatus>, StoreError> {
        let sql = "SELECT status FROM experiments WHERE id = ?1";
        let text = self.reader().first(sql, values![number(id)], |mut row| row.get::<String>(0))?;
        text.map(|text| parsed(&text, "an experiment")).transpose()
    }

    /// All experiments, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn experiments(&self) -> Result<Vec<ExperimentStatus>, StoreError> {
        let sql = "SELECT status FROM experiments ORDER BY id DESC";
        self.reader().rows(sql, values![], |mut row| parsed(&row.get::<String>(0)?, "an experiment"))
    }

    /// Changes an experiment's status where `change` says so, in one transaction, synced to disk; `None` where there is
    /// none with this id. What `change` refuses changes nothing. Where it starts an experiment whose `settings.cuped` is
    /// set, the past of all units is kept with it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn change_experiment<E>(
        &self,
        id: &str,
        change: impl FnOnce(&mut ExperimentStatus) -> Result<(), E>,
    ) -> Result<Option<Result<ExperimentStatus, E>>, StoreError> {
        self.writer().transaction(|transaction| {
            let sql = format!("SELECT status FROM experiments WHERE id = ?1{}", transaction.dialect().for_update());
            let text = transaction.first(&sql, values![number(id)], |mut row| row.get::<String>(0))?;
            let Some(text) = text else { return Ok(None) };
            let mut status: ExperimentStatus = parsed(&text, "an experiment")?;
            let was_started = status.started_millis.is_some();
            if let Err(refusal) = change(&mut status) {
                return Ok(Some(Err(refusal)));
            }
            if status.config.settings.cuped
                && !was_started
                && let Some(now_millis) = status.started_millis
            {
                keep_pasts(transaction, number(id), now_millis)?;
            }
            let text = json(&status, "an experiment")?;
            transaction.execute("UPDATE experiments SET status = ?2 WHERE id = ?1", values![number(id), text])?;
            Ok(Some(Ok(status)))
        })
    }

    /// Removes an experiment with all its events; `false` where there is none.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn remove_experiment(&self, id: &str) -> Result<bool, StoreError> {
        Ok(self.writer().execute("DELETE FROM experiments WHERE id = ?1", values![number(id)])? == 1)
    }

    /// Replaces the ingest key's hash.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn set_ingest_hash(&self, id: &str, hash: &[u8; 32]) -> Result<(), StoreError> {
        let sql = "UPDATE experiments SET key_hash = ?2 WHERE id = ?1";
        self.writer().execute(sql, values![number(id), hash]).map(drop)
    }

    /// SHA-256 of the ingest key's secret.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn ingest_hash(&self, id: &str) -> Result<Option<[u8; 32]>, StoreError> {
        let sql = "SELECT key_hash FROM experiments WHERE id = ?1";
        Ok(self.reader().first(sql, values![number(id)], |mut row| row.get::<Option<[u8; 32]>>(0))?.flatten())
    }

    /// What earlier looks at an experiment have shown.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn looks(&self, id: &str) -> Result<Option<LooksState>, StoreError> {
        let sql = "SELECT looks FROM experiments WHERE id = ?1";
        let text = self.reader().first(sql, values![number(id)], |mut row| row.get::<Option<String>>(0))?;
        text.flatten().map(|text| parsed(&text, "the looks at an experiment")).transpose()
    }

    /// Keeps what a look has shown that went on from the looks `before`, together with what others have shown
    /// meanwhile: what is kept only grows.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep_looks(&self, id: &str, before: Option<&LooksState>, looks: &LooksState) -> Result<(), StoreError> {
        let what = "the looks at an experiment";
        self.journal().transaction(|transaction| {
            // not a lock on the row, which would wait for the events that come in
            transaction.lock_name(&format!("looks at {id}"))?;
            let sql = "SELECT looks FROM experiments WHERE id = ?1";
            let there = transaction.first(sql, values![number(id)], |mut row| row.get::<Option<String>>(0))?;
            let text = match there.flatten() {
                Some(there) => json(&parsed::<LooksState>(&there, what)?.joined(looks, before), what)?,
                None => json(looks, what)?,
            };
            transaction.execute("UPDATE experiments SET looks = ?2 WHERE id = ?1", values![number(id), text]).map(drop)
        })
    }

    /// Stores a batch of events in one transaction, synced to disk before this returns. Events that are there already are
    /// counted and left out, so a batch whose answer was lost can be sent again. `arm_of` gives a unit's arm.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the batch is stored.
    pub fn ingest(
        &self,
        experiment: &ExperimentStatus,
        events: &[IngestEvent],
        arm_of: impl Fn(&str) -> Option<usize>,
    ) -> Result<IngestOutcome, StoreError> {
        let is_new = experiment.state == ExperimentState::Running;
        self.writer().transaction(|transaction| {
            let mut outcome = IngestOutcome::default();
            for (idx, event) in events.iter().enumerate() {
                let stored = match event {
                    IngestEvent::Exposure(_) if !is_new => Err("the experiment is not running".into()),
                    IngestEvent::Exposure(exposure) => {
                        let arm = arm_of(&exposure.unit).map(|arm| experiment.config.arms[arm].name.as_str());
                        match exposure.check(arm, &experiment.config) {
                            Ok(()) => Ok(insert_exposure(transaction, experiment, exposure)?),
                            Err(why) => Err(why),
                        }
                    }
                    IngestEvent::Click(click) => insert_click(transaction, experiment, click)?,
                };
                match stored {
                    Ok(true) => outcome.n_accepted += 1,
                    Ok(false) => outcome.n_duplicates += 1,
                    Err(why) => outcome.rejects.push((idx, why)),
                }
            }
            Ok(outcome)
        })
    }

    /// Sums over the users of an experiment, as the analysis takes them: clicked slates over slates, requests without a
    /// suggestion over requests, latency, and strata. Where the experiment has `observation_hours`, they are of that
    /// time after a user's first exposure, and of users for whom it was over some minutes before `now_millis`, and before
    /// the end of the experiment. With them the numbers of all slates and clicks that came in. The past of a user is what
    /// was kept of the unit when the experiment was started, of the same kind of traffic: real or simulated.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn experiment_users(
        &self,
        experiment: &ExperimentStatus,
        now_millis: i64,
    ) -> Result<(Users, u64, u64), StoreError> {
        let arms: Vec<String> = experiment.config.arms.iter().map(|arm| arm.name.clone()).collect();
        let has_past = experiment.config.settings.cuped;
        let window = window(experiment, now_millis);
        let mut parameters = values![number(&experiment.id)].to_vec();
        parameters.extend(window.into_iter().flatten().map(Value::from));
        let mut users = Users {
            arms: arms.clone(),
            strata: beckon_shared::ab::input::USUAL_STRATA.map(str::to_owned).to_vec(),
            has_past,
            has_requests: true,
            has_latency: true,
            has_days: true,
            ..Users::default()
        };
        let (mut n_exposures, mut n_clicks, mut n_waiting, mut n_returned) = (0, 0, 0, 0);
        self.reader().rows(&sums_of_users(window.is_some(), has_past), &parameters, |mut row| {
            let is_simulated: bool = row.get(11)?;
            users.is_simulated |= is_simulated;
            n_exposures += row.get::<u64>(12)?;
            n_clicks += row.get::<u64>(13)?;
            let arm: String = row.get(0)?;
            // only one that came in before arms were checked is none
            let Some(arm) = arms.iter().position(|name| *name == arm) else { return Ok(()) };
            let (shown, clicked, requests, none): (f64, f64, f64, f64) =
                (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
            // whoever counts does so with the first exposure at least
            if requests == 0.0 {
                n_waiting += 1;
                return Ok(());
            }
            let (latency, timed): (Option<f64>, f64) = (row.get(5)?, row.get(6)?);
            let (first, last): (i64, i64) = (row.get(7)?, row.get(8)?);
            n_returned += u64::from(last.saturating_sub(first) > RETURNED_AFTER_MILLIS);
            let totals = |numerator, denominator| Totals { numerator, denominator, ..Totals::default() };
            let (pre_numerator, pre_denominator) = if has_past { past(&mut row, is_simulated)? } else { (0.0, 0.0) };
            users.users.push(User {
                arm,
                clicks: Totals { pre_numerator, pre_denominator, ..totals(clicked, shown) },
                no_suggestion: totals(none, requests),
                latency_millis: totals(latency.unwrap_or(0.0), timed),
                day: Some(day(first)),
                strata: vec![row.get(9)?, row.get(10)?],
            });
            Ok(())
        })?;
        users.has_latency = users.users.iter().any(|user| user.latency_millis.denominator > 0.0);
        users.observed = match experiment.config.settings.observation_hours {
            Some(hours) => Observed::Window { hours, n_waiting },
            None => Observed::SoFar { n_returned },
        };
        Ok((users, n_exposures, n_clicks))
    }

    /// Votes of the users of an interleaved experiment: clicks on what the second arm placed minus those on the first's.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn experiment_votes(&self, experiment: &ExperimentStatus) -> Result<Vec<Votes>, StoreError> {
        let [first, second] = experiment.config.arms.as_slice() else { return Ok(Vec::new()) };
        let sql = "SELECT CAST(sum(CASE WHEN c.arm = ?3 THEN 1 ELSE -1 END) AS BIGINT), count(*) \
             FROM clicks c JOIN exposures e ON e.experiment = c.experiment AND e.impression_id = c.impression_id \
             WHERE c.experiment = ?1 AND c.arm IN (?2, ?3) GROUP BY e.unit ORDER BY e.unit";
        self.reader().rows(sql, values![number(&experiment.id), &first.name, &second.name], |mut row| {
            Ok(Votes { net: row.get(0)?, n_clicks: row.get(1)? })
        })
    }

    /// At most `limit` exposures with something shown, each with its clicks, by impression id from the one after `after` on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn exposures_after(
        &self,
        id: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(Exposure, Vec<ClickEvent>)>, StoreError> {
        let mut reader = self.reader();
        let sql = "SELECT json FROM exposures WHERE experiment = ?1 AND impression_id > ?2 AND n_slots > 0 \
                   ORDER BY impression_id LIMIT ?3";
        let exposures: Vec<Exposure> = reader
            .rows(sql, values![number(id), after, limit], |mut row| parsed(&row.get::<String>(0)?, "an exposure"))?;
        let sql = "SELECT impression_id, slot, time_millis, dwell_secs FROM clicks \
                   WHERE experiment = ?1 AND impression_id = ?2 ORDER BY slot";
        let with_clicks = exposures.into_iter().map(|exposure| {
            let clicks = reader.rows(sql, values![number(id), &exposure.impression_id], |mut row| {
                let (impression_id, slot) = (row.get(0)?, row.get(1)?);
                Ok(ClickEvent { impression_id, slot, time_millis: row.get(2)?, dwell_secs: row.get(3)? })
            })?;
            Ok((exposure, clicks))
        });
        with_clicks.collect()
    }
}

/// Where users are observed for a fixed time: the latest first exposure of a user who counts, and that time, both in
/// milliseconds. A time that the end of the experiment cut off is never over.
fn window(experiment: &ExperimentStatus, now_millis: i64) -> Option<[i64; 2]> {
    let width = observation_millis(experiment.config.settings.observation_hours?);
    let settled = now_millis.saturating_sub(SETTLING_MILLIS);
    let end = experiment.stopped_millis.map_or(settled, |stopped| stopped.min(settled));
    Some([end.saturating_sub(width), width])
}

/// Statement that sums over each user of experiment `?1`; where it is `windowed`, over the time `?3` after a first
/// exposure at `?2` at the latest, and over nothing for other users. With `has_past` the columns of [`past`] follow.
fn sums_of_users(windowed: bool, has_past: bool) -> String {
    let (past, join_past) = if has_past {
        let past = ", max(p.n_shown), max(p.n_clicked), max(p.n_shown_simulated), max(p.n_clicked_simulated)";
        (past, "LEFT JOIN pasts p ON p.experiment = e.experiment AND p.unit = e.unit")
    } else {
        ("", "")
    };
    // the time is only added to first exposures before `?2`, so that no client's clock makes the sum overflow
    let (join, inside, clicked) = if windowed {
        let join = "LEFT JOIN (\
                 SELECT unit, min(time_millis) + ?3 AS ends FROM exposures WHERE experiment = ?1 \
                 GROUP BY unit HAVING min(time_millis) <= ?2\
             ) w ON w.unit = e.unit";
        (join, "e.time_millis < w.ends", "c.first_millis < w.ends")
    } else {
        ("", "TRUE", "c.n > 0")
    };
    format!(
        "SELECT min(e.arm), \
                CAST(sum(CASE WHEN {inside} AND e.n_slots > 0 THEN 1 ELSE 0 END) AS BIGINT), \
                CAST(sum(CASE WHEN {inside} AND e.n_slots > 0 AND {clicked} THEN 1 ELSE 0 END) AS BIGINT), \
                CAST(sum(CASE WHEN {inside} THEN 1 ELSE 0 END) AS BIGINT), \
                CAST(sum(CASE WHEN {inside} AND e.n_slots = 0 THEN 1 ELSE 0 END) AS BIGINT), \
                sum(CASE WHEN {inside} AND e.n_slots > 0 THEN e.latency_millis END), \
                CAST(sum(CASE WHEN {inside} AND e.n_slots > 0 AND e.latency_millis IS NOT NULL THEN 1 ELSE 0 END) \
                     AS BIGINT), \
                min(e.time_millis), max(e.time_millis), \
                min(CASE WHEN {inside} THEN e.device_tier END), min(CASE WHEN {inside} THEN e.browser END), \
                max(e.simulated), CAST(sum(CASE WHEN e.n_slots > 0 THEN 1 ELSE 0 END) AS BIGINT), \
                CAST(sum(coalesce(c.n, 0)) AS BIGINT){past} \
         FROM exposures e {join} {join_past} LEFT JOIN (\
             SELECT impression_id, count(*) AS n, min(time_millis) AS first_millis FROM clicks \
             WHERE experiment = ?1 GROUP BY impression_id\
         ) c ON c.impression_id = e.impression_id \
         WHERE e.experiment = ?1 GROUP BY e.unit ORDER BY min(e.time_millis), e.unit"
    )
}

/// Slates with a click, and slates, that a unit had been shown before, from a row of [`sums_of_users`]; none for a unit
/// that was new. What was simulated is no past of what is real, and the other way round.
fn past(row: &mut Row, is_simulated: bool) -> Result<(f64, f64), StoreError> {
    let shown = if is_simulated { 16 } else { 14 };
    let (n_shown, n_clicked): (Option<f64>, Option<f64>) = (row.get(shown)?, row.get(shown + 1)?);
    Ok((n_clicked.unwrap_or(0.0), n_shown.unwrap_or(0.0)))
}

/// Keeps what units have been shown and clicked in the other experiments, in the [`PAST_DAYS`] before `now_millis`, as the
/// past that experiment `id` adjusts by; interleaved slates are slates like others. It has to be in the transaction that
/// starts the experiment: then all of it came in before anybody saw an arm, whatever time a client reports, and neither
/// late reports nor the deletion of another experiment move what looks have counted. The times of clients only say what is
/// too old. A look then finds a unit's past by its key; the slates of the other experiments are read here, once.
fn keep_pasts(transaction: &mut Connection, id: Option<i64>, now_millis: i64) -> Result<(), StoreError> {
    let since = now_millis.saturating_sub(PAST_DAYS * DAY_MILLIS);
    let sql = "SELECT id, status FROM experiments WHERE id <> ?1 ORDER BY id";
    let others = transaction.rows(sql, values![id], |mut row| {
        let status: ExperimentStatus = parsed(&row.get::<String>(1)?, "an experiment")?;
        Ok((row.get::<i64>(0)?, status))
    })?;
    let sql = "INSERT INTO pasts (experiment, unit, n_shown, n_clicked, n_shown_simulated, n_clicked_simulated) \
               SELECT CAST(?1 AS BIGINT), e.unit, \
                      sum(CASE WHEN e.simulated = 0 THEN 1 ELSE 0 END), \
                      sum(CASE WHEN e.simulated = 0 AND c.impression_id IS NOT NULL THEN 1 ELSE 0 END), \
                      sum(CASE WHEN e.simulated <> 0 THEN 1 ELSE 0 END), \
                      sum(CASE WHEN e.simulated <> 0 AND c.impression_id IS NOT NULL THEN 1 ELSE 0 END) \
               FROM exposures e LEFT JOIN (\
                   SELECT DISTINCT impression_id FROM clicks WHERE experiment = ?2\
               ) c ON c.impression_id = e.impression_id \
               WHERE e.experiment = ?2 AND e.n_slots > 0 AND e.time_millis >= ?3 GROUP BY e.unit \
               ON CONFLICT (experiment, unit) DO UPDATE SET \
                   n_shown = pasts.n_shown + excluded.n_shown, n_clicked = pasts.n_clicked + excluded.n_clicked, \
                   n_shown_simulated = pasts.n_shown_simulated + excluded.n_shown_simulated, \
                   n_clicked_simulated = pasts.n_clicked_simulated + excluded.n_clicked_simulated";
    for (other, status) in others {
        let is_too_old = status.stopped_millis.is_some_and(|stopped| stopped < since);
        if status.started_millis.is_some() && !is_too_old {
            transaction.execute(sql, values![id, other, since])?;
        }
    }
    Ok(())
}

/// Checkpoints that experiments which are not decided need, with the experiment in words.
pub(super) fn checkpoints_in_use(connection: &mut Connection) -> Result<Vec<(String, String)>, StoreError> {
    let all: Vec<ExperimentStatus> =
        connection.rows("SELECT status FROM experiments ORDER BY id", values![], |mut row| {
            parsed(&row.get::<String>(0)?, "an experiment")
        })?;
    let open = all.into_iter().filter(|e| e.state != ExperimentState::Decided);
    let pairs = |e: ExperimentStatus| {
        let user = format!("experiment {}", e.id);
        e.config.checkpoints().map(|id| (id.to_owned(), user.clone())).collect::<Vec<_>>()
    };
    Ok(open.flat_map(pairs).collect())
}

/// The day of a moment in milliseconds since 1970, `YYYY-MM-DD` UTC. Source: Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`.
fn day(time_millis: i64) -> String {
    let days = time_millis.div_euclid(86_400_000) + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // months counted from March, so that the leap day is the last of a year
    let month = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

fn insert_exposure(
    transaction: &mut Connection,
    experiment: &ExperimentStatus,
    exposure: &Exposure,
) -> Result<bool, StoreError> {
    let text = json(exposure, "an exposure")?;
    let sql = "INSERT INTO exposures \
               (experiment, impression_id, unit, arm, time_millis, n_slots, latency_millis, device_tier, browser, \
                simulated, json) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) ON CONFLICT DO NOTHING";
    let n = transaction.execute(
        sql,
        values![
            number(&experiment.id),
            &exposure.impression_id,
            &exposure.unit,
            &exposure.arm,
            exposure.time_millis,
            exposure.slate.len(),
            exposure.latency_millis,
            exposure.device_tier.as_deref().unwrap_or("unknown"),
            exposure.browser.as_deref().unwrap_or("unknown"),
            exposure.simulated,
            text,
        ],
    )?;
    Ok(n == 1)
}

fn insert_click(
    transaction: &mut Connection,
    experiment: &ExperimentStatus,
    click: &ClickEvent,
) -> Result<Result<bool, String>, StoreError> {
    let number = number(&experiment.id);
    let sql = "SELECT json FROM exposures WHERE experiment = ?1 AND impression_id = ?2";
    let found = transaction.first(sql, values![number, &click.impression_id], |mut row| row.get::<String>(0))?;
    let Some(found) = found else { return Ok(Err("there is no exposure with this impression_id".into())) };
    let exposure: Exposure = parsed(&found, "an exposure")?;
    let Some(slot) = exposure.slate.get(click.slot) else {
        return Ok(Err(format!("slot {} of {}", click.slot, exposure.slate.len())));
    };
    if !slot.visible {
        return Ok(Err(format!("slot {} was not visible", click.slot)));
    }
    let arm = match experiment.config.layout {
        Layout::Split => None,
        Layout::Interleaved => slot.arm.as_deref(),
    };
    let sql = "INSERT INTO clicks (experiment, impression_id, slot, arm, time_millis, dwell_secs) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
    let dwell_secs = click.dwell_secs.filter(|secs| secs.is_finite());
    let values = values![number, &click.impression_id, click.slot, arm, click.time_millis, dwell_secs];
    Ok(Ok(transaction.execute(sql, values)? == 1))
}

#[cfg(test)]
mod tests {
    use super::day;

    #[test]
    fn a_moment_has_its_day() {
        for (time_millis, want) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (951_782_400_000, "2000-02-29"),
            (4_107_542_399_999, "2100-02-28"),
            (4_107_542_400_000, "2100-03-01"),
            (1_798_761_599_999, "2026-12-31"),
        ] {
            assert_eq!(day(time_millis), want);
        }
    }
}
