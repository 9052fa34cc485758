//! The click log in the store: append-only, each record once.

use super::{Store, StoreError};
use beckon_shared::click::{Record, Sourced};
use beckon_shared::control::{LogSummary, SlotSummary, SourceSummary};
use beckon_shared::digest::sha256_hex;
use rusqlite::{Transaction, TransactionBehavior, params};
use std::collections::HashSet;

/// Records per transaction: small enough that curves of a running run wait for a moment only.
const BATCH: usize = 2_000;

/// What adding records did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Added {
    /// Stored now.
    pub n_accepted: u64,
    /// There already (same impression id, or same content for records without an id).
    pub n_duplicates: u64,
}

/// Which records to read.
#[derive(Debug, Clone, Default)]
pub struct RecordQuery {
    /// Of this data set only.
    pub source: Option<String>,
    /// Leave out this many.
    pub offset: u64,
    /// At most this many.
    pub limit: u64,
}

/// Word for the kind of evidence, the `kind` of the JSON.
fn kind(record: &Record) -> &'static str {
    match record {
        Record::Impression(_) => "impression",
        Record::Pane(_) => "pane",
        Record::Counts(_) => "counts",
        Record::Demonstration(_) => "demonstration",
    }
}

fn key(sourced: &Sourced, json: &str) -> String {
    if let Record::Impression(impression) = &sourced.record {
        return format!("i:{}", impression.impression_id);
    }
    format!("h:{}", sha256_hex(format!("{}\0{json}", sourced.source).as_bytes()))
}

/// The first of each set of records that the store would count as one, in order.
pub fn without_duplicates(records: Vec<Sourced>) -> Vec<Sourced> {
    let mut seen = HashSet::new();
    // a record that JSON cannot hold is refused by the store; here it is kept
    records
        .into_iter()
        .filter(|r| serde_json::to_string(&r.record).map_or(true, |json| seen.insert(key(r, &json))))
        .collect()
}

impl Store {
    /// Adds records in order, each batch of 2,000 atomically and synced to disk before this returns. A second record
    /// with a known key is counted and left out, so an import that broke off can simply be repeated.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`], on a full disk say; batches before the failing one stay.
    pub fn add_records(&self, records: &[Sourced]) -> Result<Added, StoreError> {
        let mut added = Added::default();
        for batch in records.chunks(BATCH) {
            let mut writer = self.writer();
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let now = add_batch(&transaction, batch)?;
            transaction.commit()?;
            added.n_accepted += now.n_accepted;
            added.n_duplicates += now.n_duplicates;
        }
        Ok(added)
    }

    /// Number of records of all kinds.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn n_records(&self) -> Result<u64, StoreError> {
        Ok(self.reader().prepare_cached("SELECT count(*) FROM records")?.query_row([], |row| row.get(0))?)
    }

    /// Id of the newest record; 0 where there is none.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn last_record_id(&self) -> Result<i64, StoreError> {
        let sql = "SELECT coalesce(max(id), 0) FROM records";
        Ok(self.reader().prepare_cached(sql)?.query_row([], |row| row.get(0))?)
    }

    /// All records up to and including `last_id`, in the order they were added: the data of a run.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn records_up_to(&self, last_id: i64) -> Result<Vec<Sourced>, StoreError> {
        self.select_records("SELECT id, source, json FROM records WHERE id <= ?1 ORDER BY id", params![last_id])
    }

    /// A page of records in the order they were added.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn records(&self, query: &RecordQuery) -> Result<Vec<Sourced>, StoreError> {
        // SQLite's integers are signed
        let cap = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let (limit, offset) = (cap(query.limit), cap(query.offset));
        match &query.source {
            None => self.select_records(
                "SELECT id, source, json FROM records ORDER BY id LIMIT ?1 OFFSET ?2",
                params![limit, offset],
            ),
            Some(source) => self.select_records(
                "SELECT id, source, json FROM records WHERE source = ?3 ORDER BY id LIMIT ?1 OFFSET ?2",
                params![limit, offset, source],
            ),
        }
    }

    fn select_records(&self, sql: &str, parameters: &[&dyn rusqlite::ToSql]) -> Result<Vec<Sourced>, StoreError> {
        let reader = self.reader();
        let mut statement = reader.prepare_cached(sql)?;
        let mut rows = statement.query(parameters)?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            let record =
                serde_json::from_str(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?).map_err(|source| {
                    StoreError::Damaged { what: format!("record {}", row.get::<_, i64>(0).unwrap_or(0)), source }
                })?;
            records.push(Sourced { source: row.get(1)?, record });
        }
        Ok(records)
    }

    /// What is in the log.
    ///
    /// # Errors
    /// [`StoreError::Sqlite`].
    pub fn summary(&self) -> Result<LogSummary, StoreError> {
        let mut reader = self.reader();
        let transaction = reader.transaction()?; // one snapshot for all three queries
        let sources: Vec<SourceSummary> = transaction
            .prepare_cached(
                "SELECT source, kind, count(*), total(simulated) FROM records GROUP BY source, kind ORDER BY source, kind",
            )?
            .query_map([], |row| {
                let n_simulated: f64 = row.get(3)?;
                Ok(SourceSummary {
                    source: row.get(0)?,
                    kind: row.get(1)?,
                    n_records: row.get(2)?,
                    n_simulated: n_simulated as u64,
                })
            })?
            .collect::<Result<_, _>>()?;
        let slots: Vec<SlotSummary> = transaction
            .prepare_cached("SELECT slot, n_impressions, n_clicks FROM slot_counts ORDER BY slot")?
            .query_map([], |row| {
                Ok(SlotSummary { slot: row.get(0)?, n_impressions: row.get(1)?, n_clicks: row.get(2)? })
            })?
            .collect::<Result<_, _>>()?;
        let n_users = transaction
            .prepare_cached("SELECT count(DISTINCT user_hash) FROM records WHERE user_hash IS NOT NULL")?
            .query_row([], |row| row.get(0))?;
        let impressions = || sources.iter().filter(|s| s.kind == "impression");
        Ok(LogSummary {
            n_records: sources.iter().map(|s| s.n_records).sum(),
            n_impressions: impressions().map(|s| s.n_records).sum(),
            n_simulated: impressions().map(|s| s.n_simulated).sum(),
            n_users,
            n_clicks: slots.iter().map(|s| s.n_clicks).sum(),
            slots,
            sources,
        })
    }
}

fn add_batch(transaction: &Transaction<'_>, batch: &[Sourced]) -> Result<Added, StoreError> {
    let mut insert = transaction.prepare_cached(
        "INSERT INTO records (source, kind, key, simulated, user_hash, json) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
         ON CONFLICT (key) DO NOTHING",
    )?;
    let mut count = transaction.prepare_cached(
        "INSERT INTO slot_counts (slot, n_impressions, n_clicks) VALUES (?1, ?2, ?3) ON CONFLICT (slot) DO UPDATE SET \
         n_impressions = n_impressions + excluded.n_impressions, n_clicks = n_clicks + excluded.n_clicks",
    )?;
    let mut added = Added::default();
    for sourced in batch {
        let json = serde_json::to_string(&sourced.record)
            .map_err(|source| StoreError::Damaged { what: format!("a record of {}", sourced.source), source })?;
        let (simulated, user_hash) = match &sourced.record {
            Record::Impression(impression) => (impression.simulated, Some(&impression.user_hash)),
            _ => (false, None),
        };
        let key = key(sourced, &json);
        let n_inserted =
            insert.execute(params![sourced.source, kind(&sourced.record), key, simulated, user_hash, json])?;
        if n_inserted == 0 {
            added.n_duplicates += 1;
            continue;
        }
        added.n_accepted += 1;
        if let Record::Impression(impression) = &sourced.record {
            for (slot_idx, slot) in impression.slate.iter().enumerate() {
                // a click proves that the slot was seen
                let shown = slot.clicked || slot.visible != Some(false);
                count.execute(params![slot_idx, shown, slot.clicked])?;
            }
        }
    }
    Ok(added)
}
