//! Past events in the store, so that a listener that comes back, even after a restart, misses nothing.

use super::sql::{Connection, values};
use super::{Store, StoreError};
use beckon_shared::control::Metric;

/// An event as it is kept and sent: its number and its JSON.
pub type Kept = (u64, String);

/// Setting that counts the events of a shared store.
const NEXT_SEQ: &str = "next_event_seq";

impl Store {
    /// Keeps events and the curve points that they tell of, in one transaction, without a sync: it survives the death of
    /// the process. Points that are not finite are left out: neither JSON nor SQLite can hold them.
    ///
    /// # Errors
    /// [`StoreError::Database`]; then nothing of it is kept.
    pub fn keep_events(&self, events: &[Kept], metrics: &[Metric]) -> Result<(), StoreError> {
        self.journal().transaction(|transaction| insert(transaction, events, metrics))
    }

    /// The same where several servers share the store: the database gives the numbers, in the order in which the events can be
    /// seen, so who reads on from a number misses none.
    ///
    /// # Errors
    /// As [`Store::keep_events`].
    pub fn append_events(&self, jsons: &[String], metrics: &[Metric]) -> Result<(), StoreError> {
        self.journal().transaction(|transaction| {
            // the row stays locked until the end: numbers become visible in their order, without a gap
            let sql = "UPDATE settings SET value = CAST(CAST(value AS BIGINT) + ?2 AS TEXT) WHERE key = ?1 \
                       RETURNING CAST(value AS BIGINT)";
            let next: u64 = transaction.value(sql, values![NEXT_SEQ, jsons.len()])?;
            let first = next - jsons.len() as u64;
            let numbered = jsons.iter().enumerate().map(|(idx, json)| (first + idx as u64, json.clone()));
            insert(transaction, &numbered.collect::<Vec<_>>(), metrics)
        })
    }

    /// Number of the next event where several servers share the store; `seq` where there was none yet.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn next_shared_seq(&self, seq: u64) -> Result<u64, StoreError> {
        self.setting_or(NEXT_SEQ, seq)
    }

    /// At most `limit` kept events from `seq` on, in order.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn events_from(&self, seq: u64, limit: usize) -> Result<Vec<Kept>, StoreError> {
        let sql = "SELECT seq, json FROM events WHERE seq >= ?1 ORDER BY seq LIMIT ?2";
        self.reader().rows(sql, values![seq, limit], |mut row| Ok((row.get(0)?, row.get(1)?)))
    }

    /// Numbers of the oldest and the newest kept event.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn event_bounds(&self) -> Result<Option<(u64, u64)>, StoreError> {
        let sql = "SELECT min(seq), max(seq) FROM events";
        let bounds = self.reader().first(sql, values![], |mut row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(bounds.and_then(|(oldest, newest): (Option<u64>, Option<u64>)| oldest.zip(newest)))
    }

    /// The first number that was ever given here: `seq` where none is written down yet, and from then on the same.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn first_event_seq(&self, seq: u64) -> Result<u64, StoreError> {
        self.setting_or("first_event_seq", seq)
    }

    /// A number among the settings; `or` from now on where there was none.
    fn setting_or(&self, key: &str, or: u64) -> Result<u64, StoreError> {
        let sql = "INSERT INTO settings (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO NOTHING";
        self.writer().execute(sql, values![key, or.to_string()])?;
        Ok(self.setting(key)?.and_then(|text| text.parse().ok()).unwrap_or(or))
    }

    /// Forgets the events before `seq`.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn forget_events_before(&self, seq: u64) -> Result<(), StoreError> {
        self.journal().execute("DELETE FROM events WHERE seq < ?1", values![seq]).map(drop)
    }
}

fn insert(transaction: &mut Connection, events: &[Kept], metrics: &[Metric]) -> Result<(), StoreError> {
    for metric in metrics {
        super::runs::insert_metric(transaction, metric)?;
    }
    for (seq, json) in events {
        transaction.execute("INSERT INTO events (seq, json) VALUES (?1, ?2)", values![*seq, json])?;
    }
    Ok(())
}
