//! PostgreSQL behind [`super::Connection`], spoken to by `tokio-postgres`. A connection that was lost is made again by the next
//! statement that does not belong to a transaction.

mod address;
mod value;

use super::{Dialect, Driver, Row, StoreError, Value};
use crate::outbound;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::error::Severity;
use tokio_postgres::{Client, Statement};

pub(in crate::store) use address::Address;

/// After which silence a connection counts as lost; longer than the database lets a statement take.
const SILENCE: Duration = Duration::from_secs(90);
/// Rows that are handed over at once, where that many are there.
const N_ROWS: usize = 512;

/// A connection that can be used, or could be when it was last used.
struct Live {
    client: Arc<Client>,
    /// Statements that the database knows.
    prepared: HashMap<String, Statement>,
}

struct Link {
    address: Address,
    /// Sent first, whenever the connection is made.
    setup: String,
    live: Option<Live>,
    in_transaction: bool,
}

impl Link {
    fn connect(address: Address, setup: &str) -> Result<Self, StoreError> {
        let mut link = Self { address, setup: setup.to_owned(), live: None, in_transaction: false };
        link.live()?;
        Ok(link)
    }

    fn is_broken(&self) -> bool {
        self.live.as_ref().is_none_or(|live| live.client.is_closed())
    }

    fn lost(&self, reason: String) -> StoreError {
        StoreError::Lost { database: self.address.shown(), reason }
    }

    /// The connection, made anew where it was lost.
    fn live(&mut self) -> Result<&mut Live, StoreError> {
        if self.is_broken() {
            self.live = None;
            // what the transaction did before is gone, so the rest of it must not be done
            if self.in_transaction {
                return Err(self.lost("the connection broke within a transaction".into()));
            }
            let (address, setup) = (self.address.clone(), self.setup.clone());
            let opened = outbound::wait(async move {
                let opened = async {
                    let client = address.open().await?;
                    client.batch_execute(&setup).await.map_err(|error| told(&error))?;
                    Ok(client)
                };
                tokio::time::timeout(SILENCE, opened).await.unwrap_or_else(|_| Err("it does not answer".into()))
            });
            let client = opened.map_err(|reason| StoreError::Connect { database: self.address.shown(), reason })?;
            self.live = Some(Live { client: Arc::new(client), prepared: HashMap::new() });
        }
        let database = self.address.shown();
        // it was filled just now
        self.live.as_mut().ok_or_else(|| StoreError::Lost { database, reason: "there is no connection".into() })
    }

    /// Waits for an answer of the connection, which is given up where that says that it is gone, or nothing.
    fn answer<T: Send + 'static>(
        &mut self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reason = match outbound::wait(async move { tokio::time::timeout(SILENCE, asked).await }) {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if !ends_connection(&error) => return Err(refused(&error)),
            Ok(Err(error)) => told(&error),
            Err(_) => format!("no answer for {} s", SILENCE.as_secs()),
        };
        self.live = None;
        Err(self.lost(reason))
    }

    /// A statement that the database knows; told to it once.
    fn prepared(&mut self, sql: &str) -> Result<(Arc<Client>, Statement), StoreError> {
        let live = self.live()?;
        let client = Arc::clone(&live.client);
        if let Some(statement) = live.prepared.get(sql) {
            return Ok((client, statement.clone()));
        }
        let (asked, text) = (Arc::clone(&client), sql.to_owned());
        let statement = self.answer(async move { asked.prepare(&text).await })?;
        self.live()?.prepared.insert(sql.to_owned(), statement.clone());
        Ok((client, statement))
    }

    /// Runs a statement once: its rows go to `take` as they come; the number of rows that it touched.
    fn try_run(
        &mut self,
        sql: &str,
        values: &[Value],
        take: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let (client, statement) = self.prepared(sql)?;
        let n_columns = statement.columns().len();
        let values = values.to_vec();
        let (mut page, mut rows) = self.answer(async move {
            let mut rows = Box::pin(client.query_raw(&statement, values).await?.ready_chunks(N_ROWS));
            Ok((rows.next().await, rows))
        })?;
        while let Some(some) = page {
            for row in some {
                let row = row.map_err(|error| self.failed(&error))?;
                let columns = (0..n_columns).map(|column| row.try_get(column).map_err(|error| refused(&error)));
                take(Row(columns.collect::<Result<_, _>>()?))?;
            }
            (page, rows) = self.answer(async move { Ok(rows.into_future().await) })?;
        }
        Ok(rows.as_ref().get_ref().get_ref().rows_affected().unwrap_or(0))
    }

    fn run(
        &mut self,
        sql: &str,
        values: &[Value],
        take: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        if values.iter().any(|value| matches!(value, Value::Text(text) if text.contains('\0'))) {
            return Err(StoreError::Nul);
        }
        let sql = Dialect::Postgres.statement(sql);
        let again = !self.in_transaction && sql.starts_with("SELECT");
        let mut n_taken = 0;
        let mut counted = |row| {
            n_taken += 1;
            take(row)
        };
        match self.try_run(&sql, values, &mut counted) {
            // reading again does no harm, where the database restarted while nobody asked it anything
            Err(StoreError::Lost { .. }) if again && n_taken == 0 => self.try_run(&sql, values, take),
            done => done,
        }
    }

    /// Runs statements without parameters once.
    fn try_batch(&mut self, sql: &str) -> Result<(), StoreError> {
        let (client, sql) = (Arc::clone(&self.live()?.client), sql.to_owned());
        self.answer(async move { client.batch_execute(&sql).await })
    }

    /// What an error means that came among rows.
    fn failed(&mut self, error: &tokio_postgres::Error) -> StoreError {
        if ends_connection(error) {
            self.live = None;
            return self.lost(told(error));
        }
        refused(error)
    }
}

/// Whether the connection is of no use behind an error: it broke, or the database ends it.
fn ends_connection(error: &tokio_postgres::Error) -> bool {
    match error.as_db_error() {
        Some(told) => matches!(told.parsed_severity(), Some(Severity::Fatal | Severity::Panic)),
        None => error.is_closed() || error.source().is_some_and(|cause| cause.is::<std::io::Error>()),
    }
}

/// An error of a statement, behind which the connection goes on.
fn refused(error: &tokio_postgres::Error) -> StoreError {
    let code = error.code().map_or("no code", |code| code.code());
    StoreError::Postgres { code: code.to_owned(), message: told(error) }
}

/// What the database said; where it said nothing, what happened and why.
fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(told) => told.message().to_owned(),
        None => {
            let causes = std::iter::successors(error.source(), |&cause| cause.source());
            causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
        }
    }
}

impl Driver for Link {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn execute(&mut self, sql: &str, values: &[Value]) -> Result<u64, StoreError> {
        self.run(sql, values, &mut |_| Ok(()))
    }

    fn each(
        &mut self,
        sql: &str,
        values: &[Value],
        take: &mut dyn FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.run(sql, values, take).map(drop)
    }

    fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        let (begins, rolls_back) = (sql.starts_with("BEGIN"), sql == "ROLLBACK");
        if rolls_back && self.is_broken() {
            // the database did it when the connection broke
            self.in_transaction = false;
            return Ok(());
        }
        let mut done = self.try_batch(sql);
        if begins && matches!(done, Err(StoreError::Lost { .. })) && !self.in_transaction {
            // nothing was asked yet: the connection was old
            done = self.try_batch(sql);
        }
        self.in_transaction = match &done {
            Ok(()) if begins => true,
            Ok(()) if rolls_back || sql == "COMMIT" => false,
            Err(StoreError::Lost { .. }) if rolls_back => false,
            _ => self.in_transaction,
        };
        done
    }
}
