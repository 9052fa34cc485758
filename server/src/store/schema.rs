//! Schema of the database and its migrations: each entry of [`MIGRATIONS`] leads from the version before it to its
//! own, and none is ever edited after a release.

use super::StoreError;
use super::sql::{Connection, Dialect, values};
use std::path::Path;

/// "bckn": tells our files from those of other programs.
const APPLICATION_ID: i64 = 0x62_63_6b_6e;

const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE records (
        id INTEGER PRIMARY KEY,
        source TEXT NOT NULL,
        kind TEXT NOT NULL,
        -- 'i:' and the impression id, or 'h:' and the SHA-256 of source and record: what makes a duplicate
        key TEXT NOT NULL UNIQUE,
        simulated INTEGER NOT NULL,
        user_hash TEXT,
        json TEXT NOT NULL
    ) STRICT;
    CREATE INDEX records_by_source ON records (source, kind, simulated);
    CREATE INDEX records_by_user ON records (user_hash) WHERE user_hash IS NOT NULL;
    -- kept in the transaction that adds the records, so that the summary need not read every slate
    CREATE TABLE slot_counts (
        slot INTEGER PRIMARY KEY,
        n_impressions INTEGER NOT NULL,
        n_clicks INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        state TEXT NOT NULL,
        -- pause or cancel asked for and not yet done; null otherwise
        wish TEXT,
        -- the run reads records up to this id, whatever is imported later
        last_record_id INTEGER NOT NULL,
        status TEXT NOT NULL
    ) STRICT;
    CREATE TABLE metrics (
        run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        stage INTEGER NOT NULL,
        step INTEGER NOT NULL,
        name TEXT NOT NULL,
        value REAL NOT NULL,
        PRIMARY KEY (run_id, stage, step, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE checkpoints (
        seq INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        run_id INTEGER REFERENCES runs (id) ON DELETE SET NULL,
        info TEXT NOT NULL
    ) STRICT;
    CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
",
    "
    -- the newest events, as they were sent
    CREATE TABLE events (seq INTEGER PRIMARY KEY, json TEXT NOT NULL) STRICT;
    CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL,
        hash BLOB NOT NULL,
        created_millis INTEGER NOT NULL,
        expires_millis INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        time_millis INTEGER NOT NULL,
        sender TEXT NOT NULL,
        method TEXT NOT NULL,
        path TEXT NOT NULL,
        key TEXT,
        digest TEXT NOT NULL,
        body TEXT NOT NULL,
        process INTEGER NOT NULL,
        -- null until it was answered
        status INTEGER,
        -- body of the answer where a key may ask for it again
        answer TEXT,
        UNIQUE (sender, key)
    ) STRICT;
    -- so that a run whose request broke off is not made twice
    ALTER TABLE runs ADD COLUMN audit_id INTEGER;
    CREATE UNIQUE INDEX runs_by_audit ON runs (audit_id) WHERE audit_id IS NOT NULL;
    CREATE TABLE checkpoint_notes (
        id TEXT PRIMARY KEY,
        note TEXT NOT NULL DEFAULT '',
        evaluation TEXT NOT NULL DEFAULT '{}'
    ) STRICT, WITHOUT ROWID;
    -- a tag points to its newest row that was not undone
    CREATE TABLE promotions (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        tag TEXT NOT NULL,
        checkpoint TEXT NOT NULL,
        time_millis INTEGER NOT NULL,
        sender TEXT NOT NULL,
        undone INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX promotions_by_tag ON promotions (tag, seq);
    CREATE TABLE experiments (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        status TEXT NOT NULL,
        -- SHA-256 of the ingest key's secret
        key_hash BLOB,
        -- what earlier looks have shown
        looks TEXT,
        audit_id INTEGER UNIQUE
    ) STRICT;
    CREATE TABLE exposures (
        experiment INTEGER NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,
        impression_id TEXT NOT NULL,
        unit TEXT NOT NULL,
        arm TEXT NOT NULL,
        time_millis INTEGER NOT NULL,
        n_slots INTEGER NOT NULL,
        latency_millis REAL,
        device_tier TEXT NOT NULL,
        browser TEXT NOT NULL,
        simulated INTEGER NOT NULL,
        -- the exposure as it came: prompt, slate, propensities
        json TEXT NOT NULL,
        PRIMARY KEY (experiment, impression_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX exposures_by_unit ON exposures (experiment, unit);
    CREATE TABLE clicks (
        experiment INTEGER NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,
        impression_id TEXT NOT NULL,
        slot INTEGER NOT NULL,
        -- the arm that placed the suggestion, where arms are interleaved
        arm TEXT,
        time_millis INTEGER NOT NULL,
        dwell_secs REAL,
        PRIMARY KEY (experiment, impression_id, slot)
    ) STRICT, WITHOUT ROWID;
",
    "
    -- what runs said, which outlives the events that told it
    CREATE TABLE run_lines (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        time_millis INTEGER NOT NULL,
        alarm INTEGER NOT NULL,
        text TEXT NOT NULL
    ) STRICT;
    CREATE INDEX run_lines_by_run ON run_lines (run_id, alarm, id);
",
    "
    -- checkpoints whose files are not where their row says: arriving, leaving, or gone with it
    CREATE TABLE checkpoint_moves (id TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT, WITHOUT ROWID;
",
    "
    -- what the policies of runs wrote while they trained
    CREATE TABLE run_samples (
        run_id INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        stage INTEGER NOT NULL,
        step INTEGER NOT NULL,
        -- prompts with suggestions, as they were sent
        prompts TEXT NOT NULL,
        PRIMARY KEY (run_id, stage, step)
    ) STRICT, WITHOUT ROWID;
",
    "
    -- what units had been shown and clicked elsewhere when an experiment that adjusts by it was started; slates, and
    -- slates with a click, those of real users apart from those of simulated ones
    CREATE TABLE pasts (
        experiment INTEGER NOT NULL REFERENCES experiments (id) ON DELETE CASCADE,
        unit TEXT NOT NULL,
        n_shown INTEGER NOT NULL,
        n_clicked INTEGER NOT NULL,
        n_shown_simulated INTEGER NOT NULL,
        n_clicked_simulated INTEGER NOT NULL,
        PRIMARY KEY (experiment, unit)
    ) STRICT, WITHOUT ROWID;
",
];

fn known() -> i64 {
    MIGRATIONS.len() as i64
}

fn since(found: i64) -> &'static [&'static str] {
    MIGRATIONS.get(usize::try_from(found).unwrap_or(0)..).unwrap_or_default()
}

/// Brings the file to the newest schema, in one transaction: of two processes that open a fresh file, the second waits and then
/// finds it migrated.
pub(super) fn migrate_file(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let known = known();
    connection.transaction(|transaction| {
        let application_id: i64 = transaction.value("PRAGMA application_id", values![])?;
        let found: i64 = transaction.value("PRAGMA user_version", values![])?;
        let n_tables: i64 = transaction.value("SELECT count(*) FROM sqlite_schema", values![])?;
        if application_id != APPLICATION_ID && (application_id != 0 || found != 0 || n_tables > 0) {
            return Err(StoreError::Foreign { path: path.to_owned() });
        }
        if found > known {
            return Err(StoreError::Newer { found, known, path: path.to_owned() });
        }
        if found < known {
            since(found).iter().try_for_each(|sql| transaction.batch(sql))?;
            transaction.batch(&format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {known}"))?;
        }
        Ok(())
    })
}

/// The same for a PostgreSQL database, whose version stands in a table of its own.
pub(super) fn migrate_tables(connection: &mut Connection, database: &str) -> Result<(), StoreError> {
    let known = known();
    connection.transaction(|transaction| {
        transaction.lock_name("the tables of beckon")?;
        transaction.batch("CREATE TABLE IF NOT EXISTS beckon_schema (version BIGINT NOT NULL)")?;
        let found =
            transaction.first("SELECT version FROM beckon_schema", values![], |mut row| row.get(0))?.unwrap_or(0);
        if found > known {
            return Err(StoreError::Newer { found, known, path: database.into() });
        }
        for sql in since(found) {
            transaction.batch(&Dialect::Postgres.schema(sql)).map_err(|error| match error {
                // `duplicate_table`
                StoreError::Postgres { code, message } if code == "42P07" => {
                    StoreError::ForeignTables { database: database.to_owned(), reason: message }
                }
                error => error,
            })?;
        }
        transaction.execute("DELETE FROM beckon_schema", values![])?;
        transaction.execute("INSERT INTO beckon_schema (version) VALUES (?1)", values![known]).map(drop)
    })
}
