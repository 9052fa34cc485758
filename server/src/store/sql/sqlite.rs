//! SQLite behind [`Connection`].

use super::{Connection, Dialect, Driver, Row, StoreError, Value};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Statement, params_from_iter};
use std::path::Path;
use std::time::Duration;

/// How long a statement waits for another connection or process before it gives up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens a file; `synchronous` is SQLite's pragma of that name.
pub(in crate::store) fn open_file(path: &Path, synchronous: &str) -> Result<Connection, StoreError> {
    let opened = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => StoreError::NotSqlite { path: path.to_owned() },
        _ => StoreError::Open { source, path: path.to_owned() },
    };
    let connection = rusqlite::Connection::open(path).map_err(opened)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(opened)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(opened)?;
    connection.pragma_update(None, "synchronous", synchronous).map_err(opened)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(opened)?;
    // every statement of the store
    connection.set_prepared_statement_cache_capacity(128);
    Ok(Connection::new(File(connection)))
}

struct File(rusqlite::Connection);

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let value = match self {
            Self::Null => ValueRef::Null,
            Self::Int(value) => ValueRef::Integer(*value),
            Self::Real(value) => ValueRef::Real(*value),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Blob(bytes) => ValueRef::Blob(bytes),
        };
        Ok(ToSqlOutput::Borrowed(value))
    }
}

impl Driver for File {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        Ok(self.0.prepare_cached(sql)?.execute(params_from_iter(values))? as u64)
    }

    fn each(
        &mut self,
        sql: &str,
        values: &[Value],
        take: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached(sql)?;
        let n_columns = Statement::column_count(&statement);
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next()? {
            let columns = (0..n_columns).map(|column| {
                Ok(match row.get_ref(column)? {
                    ValueRef::Null => Value::Null,
                    ValueRef::Integer(value) => Value::Int(value),
                    ValueRef::Real(value) => Value::Real(value),
                    text @ ValueRef::Text(_) => Value::Text(text.as_str().map_err(rusqlite::Error::from)?.to_owned()),
                    ValueRef::Blob(bytes) => Value::Blob(bytes.to_owned()),
                })
            });
            take(Row(columns.collect::<Result<_, StoreError>>()?))?;
        }
        Ok(())
    }

    fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        Ok(self.0.execute_batch(sql)?)
    }
}
