//! One kind of connection over SQLite and PostgreSQL, so that every statement of the store is written once, in what both
//! understand, with numbered placeholders (`?1`).
//!
//! Where the two differ stands in [`dialect`] alone: types of the schema, how a transaction begins, and locks, which SQLite
//! does not need, since one writer at a time has the file.

pub(super) mod dialect;
mod postgres;
mod sqlite;

use super::StoreError;
pub(super) use dialect::Dialect;
pub(super) use postgres::Address;
pub(super) use sqlite::open_file;

/// A value on its way into or out of the database.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

/// `values![a, b]`: parameters of a statement.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::store::sql::Value::from($value)),*] };
}
pub(super) use values;

macro_rules! from_int {
    ($($int:ty),*) => { $(
        impl From<$int> for Value {
            /// Numbers beyond the databases' signed 64 bits become the largest.
            fn from(value: $int) -> Self {
                Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
            }
        }
        impl FromValue for $int {
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    Value::Int(value) => value.try_into().ok(),
                    _ => None,
                }
            }
        }
    )* };
}
from_int!(i64, u64, u32, u16, usize);

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl From<&[u8; 32]> for Value {
    fn from(value: &[u8; 32]) -> Self {
        Self::Blob(value.to_vec())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What a column can be read as.
pub(super) trait FromValue: Sized {
    /// `None` where it is something else.
    fn from_value(value: Value) -> Option<Self>;
}

impl FromValue for bool {
    fn from_value(value: Value) -> Option<Self> {
        i64::from_value(value).map(|value| value != 0)
    }
}

impl FromValue for f64 {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Real(value) => Some(value),
            Value::Int(value) => Some(value as f64),
            _ => None,
        }
    }
}

impl FromValue for String {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl FromValue for [u8; 32] {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Blob(bytes) => bytes.try_into().ok(),
            _ => None,
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

/// A row of an answer; each column is taken once.
#[derive(Debug)]
pub(super) struct Row(Vec<Value>);

impl Row {
    /// Takes a column.
    ///
    /// # Errors
    /// [`StoreError::Column`] where it is not there or something else.
    pub(super) fn get<T: FromValue>(&mut self, column: usize) -> Result<T, StoreError> {
        let value = self.0.get_mut(column).map(|value| std::mem::replace(value, Value::Null));
        let wrong = StoreError::Column { column, want: std::any::type_name::<T>() };
        value.and_then(T::from_value).ok_or(wrong)
    }
}

/// What each database does in its own way. Statements are in [`Dialect::Sqlite`]'s form.
pub(super) trait Driver: Send {
    fn dialect(&self) -> Dialect;
    /// Runs a statement; how many rows it changed.
    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError>;
    /// Brings the rows of an answer one by one.
    fn each(
        &mut self,
        sql: &str,
        values: &[Value],
        take: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;
    /// Runs statements without parameters, as they are.
    fn batch(&mut self, sql: &str) -> Result<(), StoreError>;
}

/// A connection to either database.
pub(super) struct Connection {
    driver: Box<dyn Driver>,
}

impl Connection {
    pub(super) fn new(driver: impl Driver + 'static) -> Self {
        Self { driver: Box::new(driver) }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.driver.dialect()
    }

    /// Runs a statement; how many rows it changed.
    pub(super) fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        self.driver.execute(sql, values)
    }

    /// Runs statements without parameters, in the database's own words.
    pub(super) fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        self.driver.batch(sql)
    }

    /// Every row of an answer, each made into something by `take`.
    pub(super) fn rows<T>(
        &mut self,
        sql: &str,
        values: &[Value],
        mut take: impl FnMut(Row) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut rows = Vec::new();
        self.driver.each(sql, values, &mut |row| {
            rows.push(take(row)?);
            Ok(())
        })?;
        Ok(rows)
    }

    /// The first row of an answer, where there is one.
    pub(super) fn first<T>(
        &mut self,
        sql: &str,
        values: &[Value],
        take: impl FnMut(Row) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.rows(sql, values, take)?.into_iter().next())
    }

    /// The first column of the one row of an answer.
    pub(super) fn value<T: FromValue>(&mut self, sql: &str, values: &[Value]) -> Result<T, StoreError> {
        let missing = StoreError::Column { column: 0, want: std::any::type_name::<T>() };
        self.first(sql, values, |mut row| row.get(0))?.ok_or(missing)
    }

    /// Does `work` whole or not at all: on an error, or a panic, nothing of it is kept.
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.within(self.dialect().begin(), work)
    }

    /// Lets `work` read everything as of one moment.
    pub(super) fn snapshot<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.within(self.dialect().begin_snapshot(), work)
    }

    fn within<T>(
        &mut self,
        begin: &str,
        work: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.batch(begin)?;
        let mut open = Open { connection: self, done: false };
        let result = work(open.connection)?;
        open.connection.batch("COMMIT")?;
        open.done = true;
        Ok(result)
    }

    /// Lets no other transaction write to `table` until this one ends.
    pub(super) fn lock_table(&mut self, table: &str) -> Result<(), StoreError> {
        match self.dialect().lock_table(table) {
            Some(sql) => self.batch(&sql),
            None => Ok(()),
        }
    }

    /// Lets no other transaction take the same name until this one ends.
    pub(super) fn lock_name(&mut self, name: &str) -> Result<(), StoreError> {
        match self.dialect().lock_name() {
            Some(sql) => self.rows(sql, values![name], |_| Ok(())).map(drop),
            None => Ok(()),
        }
    }
}

/// A transaction that is rolled back unless it is done.
struct Open<'a> {
    connection: &'a mut Connection,
    done: bool,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if !self.done {
            // where even that fails, the connection is gone and the database does it
            let _ = self.connection.batch("ROLLBACK");
        }
    }
}
