//! Past events in the store, so that a listener that comes back, even after a restart, misses nothing.

use super::{Store, StoreError};
use beckon_shared::control::Metric;
use rusqlite::params;

/// An event as it is kept and sent: its number and its JSON.
pub type Kept = (u64, String);

impl Store {
    /// Keeps events and the curve points that they tell of, in one transaction, without a sync: it survives the death of
    /// the process. Points that are not finite are left out: neither JSON nor SQLite can hold them.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`]; then nothing of it is kept.
    pub fn keep_events(&self, events: &[Kept], metrics: &[Metric]) -> Result<(), StoreError> {
        let mut journal = self.journal();
        let transaction = journal.transaction()?;
        for metric in metrics {
            super::runs::insert_metric(&transaction, metric)?;
        }
        {
            let mut insert = transaction.prepare_cached("INSERT INTO events (seq, json) VALUES (?1, ?2)")?;
            for (seq, json) in events {
                insert.execute(params![signed(*seq), json])?;
            }
        }
        Ok(transaction.commit()?)
    }

    /// At most `limit` kept events from `seq` on, in order.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn events_from(&self, seq: u64, limit: usize) -> Result<Vec<Kept>, StoreError> {
        let reader = self.reader();
        let mut statement =
            reader.prepare_cached("SELECT seq, json FROM events WHERE seq >= ?1 ORDER BY seq LIMIT ?2")?;
        let rows = statement
            .query_map(params![signed(seq), limit], |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Numbers of the oldest and the newest kept event.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn event_bounds(&self) -> Result<Option<(u64, u64)>, StoreError> {
        let reader = self.reader();
        let (oldest, newest): (Option<i64>, Option<i64>) = reader
            .prepare_cached("SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(oldest.zip(newest).map(|(oldest, newest)| (oldest.unsigned_abs(), newest.unsigned_abs())))
    }

    /// The first number that was ever given here: `seq` where none is written down yet, and from then on the same.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn first_event_seq(&self, seq: u64) -> Result<u64, StoreError> {
        const KEY: &str = "first_event_seq";
        if let Some(first) = self.setting(KEY)?.and_then(|text| text.parse().ok()) {
            return Ok(first);
        }
        self.set_setting(KEY, &seq.to_string())?;
        Ok(seq)
    }

    /// Forgets the events before `seq`.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn forget_events_before(&self, seq: u64) -> Result<(), StoreError> {
        self.journal().prepare_cached("DELETE FROM events WHERE seq < ?1")?.execute([signed(seq)])?;
        Ok(())
    }
}

/// SQLite's integers are signed; numbers begin at a clock in microseconds, far below the limit.
fn signed(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
