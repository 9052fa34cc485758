//! One connection to PostgreSQL that waits for its answers; messages and passwords are `postgres_protocol`'s.
//!
//! The clients above that crate are asynchronous and change features of what Burn is built with. Not here: TLS, `COPY`,
//! cancelling, notifications.

use super::super::Value;
use super::Address;
use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Header, Message};
use postgres_protocol::message::frontend::{self, BindError};
use postgres_protocol::{IsNull, Oid, types};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// After which silence a connection counts as lost; longer than the database lets a statement take.
const SILENCE: Duration = Duration::from_secs(90);
/// Longest message that is read.
const MAX_MESSAGE_BYTES: i32 = 256 << 20;
/// Bytes that are asked of the stream at once.
const READ_BYTES: usize = 16 << 10;
const TEXT: i16 = 0;
const BINARY: i16 = 1;

/// What can go wrong with a statement.
#[derive(Debug)]
pub(super) enum WireError {
    /// The database said no.
    Told {
        /// SQLSTATE.
        code: String,
        message: String,
    },
    /// The connection is gone.
    Io(io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn odd(what: &str) -> WireError {
    WireError::Io(io::Error::new(io::ErrorKind::InvalidData, format!("the database sent {what}")))
}

/// A stream of either kind.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A statement that the database knows.
#[derive(Clone)]
struct Prepared {
    name: String,
    /// Types of the answer's columns.
    columns: Vec<Oid>,
}

/// A connection.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    /// Read, and not yet a whole message.
    input: BytesMut,
    out: BytesMut,
    prepared: HashMap<String, Prepared>,
    /// An answer was not read to its end, so nothing more can be asked.
    broken: bool,
}

impl Wire {
    /// Connects and signs in.
    pub(super) fn connect(address: &Address) -> Result<Self, WireError> {
        let stream = if address.host.starts_with('/') { local(address)? } else { remote(address)? };
        let (input, out) = (BytesMut::new(), BytesMut::new());
        let mut wire = Self { stream, input, out, prepared: HashMap::new(), broken: false };
        wire.sign_in(address)?;
        Ok(wire)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    fn flush(&mut self) -> Result<(), WireError> {
        let sent = self.stream.write_all(&self.out).and_then(|()| self.stream.flush());
        self.out.clear();
        self.broken = sent.is_err();
        Ok(sent?)
    }

    /// The next message that is not about something else.
    fn next(&mut self) -> Result<Message, WireError> {
        loop {
            let message = self.read();
            self.broken = message.is_err();
            match message? {
                Message::NoticeResponse(_) | Message::ParameterStatus(_) | Message::NotificationResponse(_) => {}
                message => return Ok(message),
            }
        }
    }

    fn read(&mut self) -> Result<Message, WireError> {
        loop {
            if let Some(header) = Header::parse(&self.input)?
                && header.len() > MAX_MESSAGE_BYTES
            {
                return Err(odd("a message without bounds"));
            }
            if let Some(message) = Message::parse(&mut self.input)? {
                return Ok(message);
            }
            let n_read = self.input.len();
            self.input.resize(n_read + READ_BYTES, 0);
            let n = self.stream.read(&mut self.input[n_read..]);
            self.input.truncate(n_read + *n.as_ref().unwrap_or(&0));
            if n? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the database closed the connection").into());
            }
        }
    }

    /// Sends what was put together and reads messages up to `ReadyForQuery`, also behind an error, which is then returned.
    fn ask(&mut self, mut take: impl FnMut(Message) -> Result<(), WireError>) -> Result<(), WireError> {
        self.flush()?;
        let mut result = Ok(());
        loop {
            let message = match self.next() {
                Ok(message) => message,
                // what it said before it went away says more
                Err(error) => return result.and(Err(error)),
            };
            match message {
                Message::ReadyForQuery(_) => return result,
                Message::ErrorResponse(body) => result = result.and(Err(told(&body))),
                message if result.is_ok() => result = take(message),
                _ => {}
            }
        }
    }

    fn sign_in(&mut self, address: &Address) -> Result<(), WireError> {
        let Address { user, password, database, .. } = address;
        let parameters = [
            ("user", user.as_str()),
            ("database", database),
            ("application_name", "beckon"),
            ("client_encoding", "UTF8"),
        ];
        frontend::startup_message(parameters, &mut self.out)?;
        let mut scram: Option<ScramSha256> = None;
        let without = || odd("a challenge without a beginning");
        loop {
            self.flush()?;
            match self.next()? {
                Message::AuthenticationOk => break,
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(password.as_bytes(), &mut self.out)?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(user.as_bytes(), password.as_bytes(), body.salt());
                    frontend::password_message(hash.as_bytes(), &mut self.out)?;
                }
                Message::AuthenticationSasl(body) => {
                    if !body.mechanisms().any(|name| Ok(name == SCRAM_SHA_256))? {
                        return Err(odd("no way to sign in that is known here (SCRAM-SHA-256)"));
                    }
                    let begun = scram.insert(ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported()));
                    frontend::sasl_initial_response(SCRAM_SHA_256, begun.message(), &mut self.out)?;
                }
                Message::AuthenticationSaslContinue(body) => {
                    let scram = scram.as_mut().ok_or_else(without)?;
                    scram.update(body.data())?;
                    frontend::sasl_response(scram.message(), &mut self.out)?;
                }
                // it has to prove that it knows the password too
                Message::AuthenticationSaslFinal(body) => scram.as_mut().ok_or_else(without)?.finish(body.data())?,
                Message::ErrorResponse(body) => return Err(told(&body)),
                _ => return Err(odd("a way to sign in that is not known here: use scram-sha-256, or no password")),
            }
        }
        self.ask(|_| Ok(()))
    }

    /// Runs statements without parameters.
    pub(super) fn batch(&mut self, sql: &str) -> Result<(), WireError> {
        frontend::query(sql, &mut self.out)?;
        self.ask(|_| Ok(()))
    }

    /// A statement that the database knows; told to it once.
    fn prepare(&mut self, sql: &str) -> Result<Prepared, WireError> {
        if let Some(prepared) = self.prepared.get(sql) {
            return Ok(prepared.clone());
        }
        let name = format!("s{}", self.prepared.len());
        frontend::parse(&name, sql, [], &mut self.out)?;
        frontend::describe(b'S', &name, &mut self.out)?;
        frontend::sync(&mut self.out);
        let mut columns = Vec::new();
        self.ask(|message| {
            if let Message::RowDescription(body) = message {
                columns = body.fields().map(|field| Ok(field.type_oid())).collect()?;
            }
            Ok(())
        })?;
        let prepared = Prepared { name, columns };
        self.prepared.insert(sql.to_owned(), prepared.clone());
        Ok(prepared)
    }

    /// Runs a statement: its rows go to `take` as they come; the number of rows that it touched. An error of `take` ends it.
    pub(super) fn run<E: From<WireError>>(
        &mut self,
        sql: &str,
        values: &[Value],
        take: &mut dyn FnMut(Vec<Value>) -> Result<(), E>,
    ) -> Result<u64, E> {
        let Prepared { name, columns } = self.prepare(sql)?;
        self.put_values(&name, values, &columns)?;
        let (mut n_rows, mut stopped) = (0, None);
        self.ask(|message| {
            match message {
                Message::DataRow(body) if stopped.is_none() => stopped = take(row(&body, &columns)?).err(),
                // `INSERT 0 5`, `UPDATE 5`
                Message::CommandComplete(body) => {
                    n_rows = body.tag()?.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
                }
                _ => {}
            }
            Ok(())
        })?;
        stopped.map_or(Ok(n_rows), Err)
    }

    /// Numbers go as text, which fits whatever number their place is; what comes back is binary where its type is known.
    fn put_values(&mut self, statement: &str, values: &[Value], columns: &[Oid]) -> Result<(), WireError> {
        let formats = values.iter().map(|value| if matches!(value, Value::Blob(_)) { BINARY } else { TEXT });
        let answers = columns.iter().map(|ty| if reader(*ty).is_some() { BINARY } else { TEXT });
        let put = |value: &Value, out: &mut BytesMut| {
            match value {
                Value::Null => return Ok(IsNull::Yes),
                Value::Int(value) => types::text_to_sql(&value.to_string(), out),
                Value::Real(value) => types::text_to_sql(&real_text(*value), out),
                Value::Text(text) => types::text_to_sql(text, out),
                Value::Blob(bytes) => types::bytea_to_sql(bytes, out),
            }
            Ok(IsNull::No)
        };
        frontend::bind("", statement, formats, values, put, answers, &mut self.out).map_err(|error| match error {
            BindError::Conversion(error) => io::Error::other(error),
            BindError::Serialization(error) => error,
        })?;
        frontend::execute("", 0, &mut self.out)?;
        frontend::sync(&mut self.out);
        Ok(())
    }
}

/// The socket in the folder that the address names.
#[cfg(unix)]
fn local(address: &Address) -> Result<Box<dyn Stream>, WireError> {
    let path = format!("{}/.s.PGSQL.{}", address.host, address.port);
    let stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(Box::new(stream))
}

#[cfg(not(unix))]
fn local(_: &Address) -> Result<Box<dyn Stream>, WireError> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "a socket in the file system needs Unix").into())
}

fn remote(address: &Address) -> Result<Box<dyn Stream>, WireError> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for candidate in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&candidate, CONNECT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                return Ok(Box::new(stream));
            }
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

fn told(body: &ErrorResponseBody) -> WireError {
    let (mut code, mut message) = (String::new(), String::new());
    let read = body.fields().for_each(|field| {
        let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => code = text(),
            b'M' => message = text(),
            _ => {}
        }
        Ok(())
    });
    read.map_or_else(WireError::Io, |()| WireError::Told { code, message })
}

fn real_text(value: f64) -> String {
    // Rust's own words for these are not the database's; else the shortest text that is this number
    if value.is_infinite() { if value > 0.0 { "Infinity" } else { "-Infinity" }.into() } else { format!("{value:?}") }
}

type Reader = fn(&[u8]) -> Option<Value>;

/// How a type is read from its bytes, by the number that PostgreSQL gives it; other types come as text.
fn reader(ty: Oid) -> Option<Reader> {
    Some(match ty {
        17 => |bytes| Some(Value::Blob(types::bytea_from_sql(bytes).to_vec())),
        20 => |bytes| types::int8_from_sql(bytes).ok().map(Value::Int),
        21 => |bytes| types::int2_from_sql(bytes).ok().map(|value| Value::Int(value.into())),
        23 => |bytes| types::int4_from_sql(bytes).ok().map(|value| Value::Int(value.into())),
        700 => |bytes| types::float4_from_sql(bytes).ok().map(|value| Value::Real(value.into())),
        701 => |bytes| types::float8_from_sql(bytes).ok().map(Value::Real),
        _ => return None,
    })
}

fn text(bytes: &[u8]) -> Option<Value> {
    types::text_from_sql(bytes).ok().map(|text| Value::Text(text.to_owned()))
}

fn row(body: &DataRowBody, columns: &[Oid]) -> Result<Vec<Value>, WireError> {
    let ranges: Vec<_> = body.ranges().collect()?;
    if ranges.len() != columns.len() {
        return Err(odd("a row of another statement"));
    }
    let value = |(range, ty): (Option<std::ops::Range<usize>>, &Oid)| match range {
        None => Ok(Value::Null),
        Some(range) => {
            let bytes = body.buffer().get(range).ok_or_else(|| odd("a row that is too short"))?;
            reader(*ty).unwrap_or(text)(bytes).ok_or_else(|| odd("a value that is not of its type"))
        }
    };
    ranges.into_iter().zip(columns).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row as the database sends it: type, length, number of columns, then each with its length.
    fn data_row(columns: &[&[u8]]) -> DataRowBody {
        let mut body = (columns.len() as i16).to_be_bytes().to_vec();
        for column in columns {
            body.extend_from_slice(&(column.len() as i32).to_be_bytes());
            body.extend_from_slice(column);
        }
        let mut message = BytesMut::from(&b"D"[..]);
        message.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
        message.extend_from_slice(&body);
        match Message::parse(&mut message) {
            Ok(Some(Message::DataRow(row))) => row,
            _ => panic!("a row"),
        }
    }

    #[test]
    fn columns_are_read_by_their_types() {
        let body = data_row(&[&7i64.to_be_bytes(), &0.1f64.to_be_bytes(), &[0, 171, 255], "a\u{e9}".as_bytes()]);
        let want = [Value::Int(7), Value::Real(0.1), Value::Blob(vec![0, 171, 255]), Value::Text("a\u{e9}".into())];
        assert_eq!(row(&body, &[20, 701, 17, 25]).ok().as_deref(), Some(&want[..]));
        assert!(row(&body, &[20, 701, 17]).is_err(), "a column too many");
        assert!(row(&data_row(&[&[1, 2]]), &[20]).is_err(), "no eight bytes");
        assert!(row(&data_row(&[&[0xff]]), &[25]).is_err(), "not UTF-8");
    }

    #[test]
    fn numbers_beyond_all_bounds_are_said_in_the_database_s_words() {
        let texts = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.1, -1e-300].map(real_text);
        assert_eq!(texts, ["Infinity", "-Infinity", "NaN", "0.1", "-1e-300"]);
    }
}
