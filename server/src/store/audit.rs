//! The audit log: who asked for what and when, and how it was answered. It also makes commands idempotent: a key that comes
//! again with the same request gets the answer of the first time.

use super::presence::is_present;
use super::sql::values;
use super::{Store, StoreError};
use beckon_shared::control::audit::AuditRecord;

/// A command about to be done.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// When, milliseconds since 1970 UTC.
    pub time_millis: i64,
    /// Who.
    pub sender: &'a str,
    /// HTTP method.
    pub method: &'a str,
    /// Path with query.
    pub path: &'a str,
    /// Idempotency key, where there is one.
    pub key: Option<&'a str>,
    /// SHA-256 over method, path and body, hex.
    pub digest: &'a str,
    /// Body, where it is short text.
    pub body: &'a str,
}

/// What the log says about a command that is about to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// New: do it, and finish this entry.
    New(i64),
    /// A process that has ended began the same and did not finish it: do it again with care, and finish this entry.
    BrokenOff(i64),
    /// Done before.
    Done {
        /// HTTP status of the first time.
        status: u16,
        /// Body of the first time.
        answer: String,
    },
    /// Done before, but its answer was too long to be kept.
    NotKept {
        /// HTTP status of the first time.
        status: u16,
    },
    /// The same is being done at this moment.
    Busy,
    /// The key was used for another request.
    OtherRequest,
}

impl Store {
    /// Writes down that a command was asked for, synced to disk, or finds out that it was before. `process` tells this
    /// process from earlier ones.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn begin_command(&self, asked: &Asked<'_>, process: i64) -> Result<Begun, StoreError> {
        self.be_present(process)?;
        self.writer().transaction(|transaction| {
            if let Some(key) = asked.key {
                transaction.lock_name(&format!("{} {key}", asked.sender))?;
                let sql = "SELECT id, digest, process, status, answer FROM audit WHERE sender = ?1 AND key = ?2";
                let found = transaction.first(sql, values![asked.sender, key], |mut row| {
                    let (id, digest): (i64, String) = (row.get(0)?, row.get(1)?);
                    let (by, status): (i64, Option<u16>) = (row.get(2)?, row.get(3)?);
                    Ok((id, digest, by, status, row.get::<Option<String>>(4)?))
                })?;
                match found {
                    Some((_, digest, ..)) if digest != asked.digest => return Ok(Begun::OtherRequest),
                    Some((.., Some(status), Some(answer))) => return Ok(Begun::Done { status, answer }),
                    Some((.., Some(status), None)) => return Ok(Begun::NotKept { status }),
                    Some((_, _, by, None, _)) if by == process || is_present(transaction, by)? => {
                        return Ok(Begun::Busy);
                    }
                    Some((id, ..)) => {
                        transaction.execute("UPDATE audit SET process = ?2 WHERE id = ?1", values![id, process])?;
                        return Ok(Begun::BrokenOff(id));
                    }
                    None => {}
                }
            }
            let sql = "INSERT INTO audit (time_millis, sender, method, path, key, digest, body, process) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) RETURNING id";
            let Asked { time_millis, sender, method, path, key, digest, body } = *asked;
            let values = values![time_millis, sender, method, path, key, digest, body, process];
            Ok(Begun::New(transaction.value(sql, values)?))
        })
    }

    /// Writes down how a command was answered; without `answer`, whoever asks again with its key hears only that it was done.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn finish_command(&self, id: i64, status: u16, answer: Option<&str>) -> Result<(), StoreError> {
        let sql = "UPDATE audit SET status = ?2, answer = ?3 WHERE id = ?1";
        self.writer().execute(sql, values![id, status, answer]).map(drop)
    }

    /// Frees the key of a command that failed for a reason that may pass (5xx, 429): it may be tried again.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn release_command(&self, id: i64, status: u16) -> Result<(), StoreError> {
        let sql = "UPDATE audit SET status = ?2, key = NULL WHERE id = ?1";
        self.writer().execute(sql, values![id, status]).map(drop)
    }

    /// At most `limit` entries before `before` (exclusive), newest first.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub fn audit(&self, before: i64, limit: usize) -> Result<Vec<AuditRecord>, StoreError> {
        let sql = "SELECT id, time_millis, sender, method, path, key, body, status FROM audit \
                   WHERE id < ?1 ORDER BY id DESC LIMIT ?2";
        self.reader().rows(sql, values![before, limit], |mut row| {
            Ok(AuditRecord {
                id: row.get(0)?,
                time_millis: row.get(1)?,
                sender: row.get(2)?,
                method: row.get(3)?,
                path: row.get(4)?,
                key: row.get(5)?,
                body: row.get(6)?,
                status: row.get(7)?,
            })
        })
    }
}
