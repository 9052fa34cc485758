//! PostgreSQL behind [`Connection`]. A connection that was lost is made again by the next statement that does not belong to a
//! transaction.

mod wire;

use super::{Connection, Dialect, Driver, Row, StoreError, Value};
use wire::{Wire, WireError};

/// Where a database is.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::store) struct Address {
    /// A name, an address, or the folder of a socket.
    host: String,
    port: u16,
    user: String,
    password: String,
    database: String,
}

impl Address {
    /// Reads `postgres://USER:PASSWORD@HOST:PORT/DATABASE`; `?host=/run/postgresql` names the folder of a socket.
    ///
    /// # Errors
    /// [`StoreError::DatabaseUrl`], which does not show the password.
    pub(in crate::store) fn parse(url: &str) -> Result<Self, StoreError> {
        let wrong = |reason: &str| StoreError::DatabaseUrl { reason: reason.to_owned() };
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| wrong("it does not begin with postgres://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (at, database) = rest.split_once('/').ok_or_else(|| wrong("it names no database"))?;
        let (who, host) = at.rsplit_once('@').unwrap_or(("", at));
        let (user, password) = who.split_once(':').unwrap_or((who, ""));
        let decoded = |text: &str| decoded(text).ok_or_else(|| wrong("a % in it is not followed by two digits"));
        let (name, port) = match host.rsplit_once(':') {
            // an IPv6 address is in brackets
            Some((name, port)) if !port.ends_with(']') => {
                (name, port.parse().map_err(|_| wrong("the port is not a number"))?)
            }
            _ => (host, 5432),
        };
        let mut host = decoded(name.trim_matches(['[', ']']))?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("host", folder)) => host = decoded(folder)?,
                Some(("sslmode", "disable" | "prefer" | "allow")) => {}
                Some(("sslmode", _)) => {
                    let why =
                        "TLS to the database is not there: use a socket, a private network or a proxy that has it";
                    return Err(wrong(why));
                }
                _ => return Err(wrong("behind the ? only host and sslmode are known")),
            }
        }
        let (user, database) = (decoded(user)?, decoded(database)?);
        if host.is_empty() || user.is_empty() || database.is_empty() {
            return Err(wrong("host, user and database have to be named"));
        }
        let password = decoded(password)?;
        if [&host, &user, &database, &password].iter().any(|part| part.contains('\0')) {
            return Err(wrong("it holds a NUL"));
        }
        Ok(Self { host, port, user, password, database })
    }

    /// For people: without user and password.
    pub(in crate::store) fn shown(&self) -> String {
        format!("{}:{}/{}", self.host, self.port, self.database)
    }

    /// A connection that sends `setup` first, whenever it is made.
    ///
    /// # Errors
    /// [`StoreError::Connect`].
    pub(in crate::store) fn connect(&self, setup: &str) -> Result<Connection, StoreError> {
        let mut link = Link { address: self.clone(), setup: setup.to_owned(), wire: None, in_transaction: false };
        link.wire()?;
        Ok(Connection::new(link))
    }
}

/// Undoes `%41`.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

struct Link {
    address: Address,
    setup: String,
    wire: Option<Wire>,
    in_transaction: bool,
}

impl Link {
    fn lost(&self, reason: String) -> StoreError {
        StoreError::Lost { database: self.address.shown(), reason }
    }

    /// The connection, made anew where it was lost.
    fn wire(&mut self) -> Result<&mut Wire, StoreError> {
        if self.is_broken() {
            self.wire = None;
            // what the transaction did before is gone, so the rest of it must not be done
            if self.in_transaction {
                return Err(self.lost("the connection broke within a transaction".into()));
            }
            let failed = |error| match error {
                WireError::Told { message, .. } => {
                    StoreError::Connect { database: self.address.shown(), reason: message }
                }
                WireError::Io(error) => {
                    StoreError::Connect { database: self.address.shown(), reason: error.to_string() }
                }
            };
            let mut wire = Wire::connect(&self.address).map_err(failed)?;
            wire.batch(&self.setup).map_err(failed)?;
            self.wire = Some(wire);
        }
        let database = self.address.shown();
        // it was filled just now
        self.wire.as_mut().ok_or_else(|| StoreError::Lost { database, reason: "there is no connection".into() })
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
        let again = !self.in_transaction;
        let sql = Dialect::Postgres.statement(sql);
        let mut n_taken = 0;
        let mut counted = |row| {
            n_taken += 1;
            take(Row(row)).map_err(Failure::Taking)
        };
        match self.wire()?.run(&sql, values, &mut counted) {
            Ok(n) => Ok(n),
            Err(Failure::Taking(error)) => Err(error),
            // reading again does no harm, where the database restarted while nobody asked it anything
            Err(Failure::Wire(_)) if again && n_taken == 0 && sql.starts_with("SELECT") && self.is_broken() => {
                let mut taken = |row| take(Row(row)).map_err(Failure::Taking);
                match self.wire()?.run(&sql, values, &mut taken) {
                    Ok(n) => Ok(n),
                    Err(Failure::Taking(error)) => Err(error),
                    Err(Failure::Wire(error)) => Err(self.failed(error)),
                }
            }
            Err(Failure::Wire(error)) => Err(self.failed(error)),
        }
    }

    fn is_broken(&self) -> bool {
        self.wire.as_ref().is_none_or(Wire::is_broken)
    }

    fn failed(&self, error: WireError) -> StoreError {
        match error {
            WireError::Told { message, .. } if self.is_broken() => self.lost(message),
            WireError::Told { code, message } => StoreError::Postgres { code, message },
            WireError::Io(error) => self.lost(error.to_string()),
        }
    }
}

enum Failure {
    Wire(WireError),
    Taking(StoreError),
}

impl From<WireError> for Failure {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
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
        let ends = sql == "COMMIT" || sql == "ROLLBACK";
        if sql == "ROLLBACK" && self.is_broken() {
            // the database did it when the connection broke
            self.in_transaction = false;
            return Ok(());
        }
        let mut done = self.wire()?.batch(sql);
        let begins = sql.starts_with("BEGIN");
        if begins && done.is_err() && self.is_broken() {
            // nothing was asked yet: the connection was old
            done = self.wire()?.batch(sql);
        }
        self.in_transaction = match &done {
            Ok(()) if begins => true,
            Ok(()) if ends => false,
            _ => self.in_transaction,
        };
        done.map_err(|error| self.failed(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_its_parts() {
        let parsed = |url: &str| Address::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        let full = parsed("postgres://me:p%40ss@db.example:6543/beckon?sslmode=disable");
        let parts = [&full.host, &full.user, &full.password, &full.database].map(String::as_str);
        assert_eq!((parts, full.port), (["db.example", "me", "p@ss", "beckon"], 6543));
        assert_eq!(full.shown(), "db.example:6543/beckon");
        let short = parsed("postgresql://me@[::1]/b");
        assert_eq!((short.host.as_str(), short.port, short.password.as_str()), ("::1", 5432, ""));
        assert_eq!(parsed("postgres://me@/b?host=%2Frun%2Fpg").host, "/run/pg");
    }

    #[test]
    fn an_address_that_is_none_is_refused_and_its_password_is_not_told() {
        for url in [
            "mysql://me:secret@h/b",
            "postgres://me:secret@h",
            "postgres://me:secret@h/",
            "postgres://:secret@h/b",
            "postgres://me:secret@h:x/b",
            "postgres://me:secret%4@h/b",
            "postgres://me:secret@h/b?sslmode=require",
            "postgres://me:secret@h/b?options=x",
        ] {
            let text = Address::parse(url).err().unwrap_or_else(|| panic!("{url} was taken")).to_string();
            assert!(!text.contains("secret") && text.contains("postgres://USER"), "{text}");
        }
    }
}
