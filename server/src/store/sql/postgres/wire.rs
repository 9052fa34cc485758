//! PostgreSQL's protocol, version 3, as far as the store needs it: one connection that waits for its answers, values as text.
//!
//! Source: the chapter "Frontend/Backend Protocol" of PostgreSQL's documentation. Written out here, since the usual client
//! crates need other features of crates that Burn shares, and everything would be built again. Not here: TLS, `COPY`,
//! cancelling, notifications, passwords by MD5.

use super::super::Value;
use super::Address;
use super::scram::Scram;
use std::collections::HashMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);
/// After which silence a connection counts as lost; longer than the database lets a statement take.
const SILENCE: Duration = Duration::from_secs(90);
/// Longest message that is read.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// Version 3.0.
const PROTOCOL: i32 = 196_608;

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
struct Prepared {
    name: String,
    /// Types of the answer's columns.
    columns: Vec<i32>,
}

/// A connection.
pub(super) struct Wire {
    stream: BufReader<Box<dyn Stream>>,
    out: Vec<u8>,
    prepared: HashMap<String, Prepared>,
    /// An answer was not read to its end, so nothing more can be asked.
    broken: bool,
}

/// A message from the database.
struct Message {
    kind: u8,
    body: Vec<u8>,
    at: usize,
}

impl Message {
    fn take(&mut self, n: usize) -> Result<&[u8], WireError> {
        let end = self.at.checked_add(n).ok_or_else(|| odd("a length beyond all bounds"))?;
        let part = self.body.get(self.at..end).ok_or_else(|| odd("a message that is too short"))?;
        self.at = end;
        Ok(part)
    }

    fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into().map_err(|_| odd("no number"))?))
    }

    fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().map_err(|_| odd("no number"))?))
    }

    fn rest(&mut self) -> &[u8] {
        let from = std::mem::replace(&mut self.at, self.body.len());
        &self.body[from..]
    }

    fn text(&mut self) -> Result<String, WireError> {
        let end =
            self.body[self.at..].iter().position(|byte| *byte == 0).ok_or_else(|| odd("a text without an end"))?;
        let text = String::from_utf8_lossy(&self.body[self.at..self.at + end]).into_owned();
        self.at += end + 1;
        Ok(text)
    }

    /// The fields of an error.
    fn told(&mut self) -> WireError {
        let (mut code, mut message) = (String::new(), String::new());
        while let Ok(kind) = self.take(1).map(|kind| kind[0]) {
            let Some(text) = (kind != 0).then(|| self.text().ok()).flatten() else { break };
            match kind {
                b'C' => code = text,
                b'M' => message = text,
                _ => {}
            }
        }
        WireError::Told { code, message }
    }
}

impl Wire {
    /// Connects and signs in.
    pub(super) fn connect(address: &Address) -> Result<Self, WireError> {
        let stream: Box<dyn Stream> = if address.host.starts_with('/') {
            #[cfg(unix)]
            {
                let path = format!("{}/.s.PGSQL.{}", address.host, address.port);
                let stream = std::os::unix::net::UnixStream::connect(path)?;
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                Box::new(stream)
            }
            #[cfg(not(unix))]
            return Err(odd("nothing: a socket in the file system needs Unix"));
        } else {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
            let mut found = None;
            for candidate in (address.host.as_str(), address.port).to_socket_addrs()? {
                match TcpStream::connect_timeout(&candidate, CONNECT) {
                    Ok(stream) => {
                        found = Some(stream);
                        break;
                    }
                    Err(error) => last = error,
                }
            }
            let Some(stream) = found else { return Err(last.into()) };
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(SILENCE))?;
            stream.set_write_timeout(Some(SILENCE))?;
            Box::new(stream)
        };
        let mut wire =
            Self { stream: BufReader::new(stream), out: Vec::new(), prepared: HashMap::new(), broken: false };
        wire.sign_in(address)?;
        Ok(wire)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// A message; the first of a connection has no kind.
    fn put(&mut self, kind: Option<u8>, body: &[u8]) {
        self.out.extend(kind);
        // a body beyond 2 GiB would not be sent: values are bounded by what a request may carry
        self.out.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
        self.out.extend_from_slice(body);
    }

    fn flush(&mut self) -> Result<(), WireError> {
        let sent = self.stream.get_mut().write_all(&self.out).and_then(|()| self.stream.get_mut().flush());
        self.out.clear();
        self.broken = sent.is_err();
        Ok(sent?)
    }

    /// The next message that is not about something else.
    fn next(&mut self) -> Result<Message, WireError> {
        loop {
            let mut head = [0; 5];
            let read = self.stream.read_exact(&mut head).and_then(|()| {
                let length = i32::from_be_bytes([head[1], head[2], head[3], head[4]]);
                let length = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
                let length = length.filter(|length| *length <= MAX_MESSAGE_BYTES);
                let too_long =
                    || io::Error::new(io::ErrorKind::InvalidData, "the database sent a message without bounds");
                let mut body = vec![0; length.ok_or_else(too_long)?];
                self.stream.read_exact(&mut body).map(|()| body)
            });
            self.broken = read.is_err();
            // notices, parameters of the session, notifications
            match head[0] {
                b'N' | b'S' | b'A' => drop(read?),
                kind => return Ok(Message { kind, body: read?, at: 0 }),
            }
        }
    }

    /// Reads messages up to `ReadyForQuery`, also behind an error, which is then returned.
    fn answers(&mut self, mut take: impl FnMut(Message) -> Result<(), WireError>) -> Result<(), WireError> {
        let mut result = Ok(());
        loop {
            let mut message = match self.next() {
                Ok(message) => message,
                // what it said before it went away says more
                Err(error) => return result.and(Err(error)),
            };
            match message.kind {
                b'Z' => return result,
                b'E' => result = result.and(Err(message.told())),
                _ if result.is_ok() => result = take(message),
                _ => {}
            }
        }
    }

    fn sign_in(&mut self, address: &Address) -> Result<(), WireError> {
        let mut body = PROTOCOL.to_be_bytes().to_vec();
        for (key, value) in [
            ("user", address.user.as_str()),
            ("database", &address.database),
            ("application_name", "beckon"),
            ("client_encoding", "UTF8"),
        ] {
            body.extend_from_slice(format!("{key}\0{value}\0").as_bytes());
        }
        body.push(0);
        self.put(None, &body);
        self.flush()?;
        let mut scram = None;
        loop {
            let mut message = self.next()?;
            match message.kind {
                b'E' => return Err(message.told()),
                b'R' => match message.i32()? {
                    0 => break,
                    3 => self.put(Some(b'p'), format!("{}\0", address.password).as_bytes()),
                    10 => {
                        let offered = String::from_utf8_lossy(message.rest()).into_owned();
                        if !offered.split('\0').any(|name| name == "SCRAM-SHA-256") {
                            return Err(odd("no way to sign in that is known here (SCRAM-SHA-256)"));
                        }
                        let begun = Scram::begin().map_err(|error| WireError::Io(io::Error::other(error)))?;
                        let first = begun.first();
                        let mut body = b"SCRAM-SHA-256\0".to_vec();
                        body.extend_from_slice(&(first.len() as i32).to_be_bytes());
                        body.extend_from_slice(first.as_bytes());
                        self.put(Some(b'p'), &body);
                        scram = Some(begun);
                    }
                    11 => {
                        let scram = scram.as_mut().ok_or_else(|| odd("a challenge without a beginning"))?;
                        let answer =
                            scram.answer(message.rest(), &address.password).ok_or_else(|| odd("no challenge"))?;
                        self.put(Some(b'p'), answer.as_bytes());
                    }
                    12 => {
                        let knows = scram.as_ref().is_some_and(|scram| scram.is_proof(message.rest()));
                        if !knows {
                            return Err(odd("no proof that it knows the password: it is another database"));
                        }
                    }
                    _ => return Err(odd("a way to sign in that is not known here: use scram-sha-256, or no password")),
                },
                _ => return Err(odd("something else than how to sign in")),
            }
            if !self.out.is_empty() {
                self.flush()?;
            }
        }
        self.answers(|_| Ok(()))
    }

    /// Runs statements without parameters.
    pub(super) fn batch(&mut self, sql: &str) -> Result<(), WireError> {
        self.put(Some(b'Q'), format!("{sql}\0").as_bytes());
        self.flush()?;
        self.answers(|_| Ok(()))
    }

    /// Makes a statement known, once.
    fn prepare(&mut self, sql: &str) -> Result<(), WireError> {
        if self.prepared.contains_key(sql) {
            return Ok(());
        }
        let name = format!("s{}", self.prepared.len());
        self.put(Some(b'P'), [name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat().as_slice());
        self.put(Some(b'D'), format!("S{name}\0").as_bytes());
        self.put(Some(b'S'), b"");
        self.flush()?;
        let mut columns = Vec::new();
        self.answers(|mut message| {
            if message.kind == b'T' {
                for _ in 0..message.i16()? {
                    message.text()?;
                    message.take(6)?;
                    columns.push(message.i32()?);
                    message.take(8)?;
                }
            }
            Ok(())
        })?;
        self.prepared.insert(sql.to_owned(), Prepared { name, columns });
        Ok(())
    }

    /// Runs a statement: its rows go to `take` as they come; the number of rows that it touched. An error of `take` ends it.
    pub(super) fn run<E: From<WireError>>(
        &mut self,
        sql: &str,
        values: &[Value],
        take: &mut dyn FnMut(Vec<Value>) -> Result<(), E>,
    ) -> Result<u64, E> {
        self.prepare(sql)?;
        let Some(Prepared { name, columns }) = self.prepared.get(sql) else { return Ok(0) };
        let mut bind = format!("\0{name}\0\0\0").into_bytes();
        bind.extend_from_slice(&(values.len() as i16).to_be_bytes());
        for value in values {
            match text_of(value) {
                None => bind.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(text) => {
                    bind.extend_from_slice(&(text.len() as i32).to_be_bytes());
                    bind.extend_from_slice(text.as_bytes());
                }
            }
        }
        bind.extend_from_slice(&[0, 0]);
        let columns = columns.clone();
        self.put(Some(b'B'), &bind);
        self.put(Some(b'E'), b"\0\0\0\0\0");
        self.put(Some(b'S'), b"");
        self.flush()?;
        let (mut n_rows, mut stopped) = (0, None);
        self.answers(|mut message| {
            match message.kind {
                b'D' if stopped.is_none() => stopped = take(row(&mut message, &columns)?).err(),
                // `INSERT 0 5`, `UPDATE 5`
                b'C' => n_rows = message.text()?.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0),
                _ => {}
            }
            Ok(())
        })?;
        stopped.map_or(Ok(n_rows), Err)
    }
}

/// A value as PostgreSQL reads it, whatever the type of its place is.
fn text_of(value: &Value) -> Option<std::borrow::Cow<'_, str>> {
    Some(match value {
        Value::Null => return None,
        Value::Int(value) => value.to_string().into(),
        Value::Real(value) if value.is_infinite() => (if *value > 0.0 { "Infinity" } else { "-Infinity" }).into(),
        // the shortest text that is this number
        Value::Real(value) => format!("{value:?}").into(),
        Value::Text(text) => text.as_str().into(),
        Value::Blob(bytes) => format!("\\x{}", beckon_shared::digest::hex(bytes)).into(),
    })
}

fn row(message: &mut Message, columns: &[i32]) -> Result<Vec<Value>, WireError> {
    let n_columns = message.i16()?;
    if usize::try_from(n_columns).ok() != Some(columns.len()) {
        return Err(odd("a row of another statement"));
    }
    columns
        .iter()
        .map(|ty| {
            let Ok(length) = usize::try_from(message.i32()?) else { return Ok(Value::Null) };
            let bytes = message.take(length)?;
            let text = std::str::from_utf8(bytes).map_err(|_| odd("text that is not UTF-8"))?;
            value_of(*ty, text).ok_or_else(|| odd("a value that is not of its type"))
        })
        .collect()
}

/// A value from its text, by the number of its type.
fn value_of(ty: i32, text: &str) -> Option<Value> {
    Some(match ty {
        // int8, int2, int4
        20 | 21 | 23 => Value::Int(text.parse().ok()?),
        // float4, float8
        700 | 701 => Value::Real(text.parse().ok()?),
        // bytea
        17 => {
            let hex = text.strip_prefix("\\x")?.as_bytes();
            let digit = |byte: u8| (byte as char).to_digit(16);
            let byte = |pair: &[u8; 2]| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8);
            let (pairs, []) = hex.as_chunks::<2>() else { return None };
            Value::Blob(pairs.iter().map(byte).collect::<Option<_>>()?)
        }
        _ => Value::Text(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_from_their_texts() {
        for (ty, value) in [
            (20, Value::Int(i64::MIN)),
            (701, Value::Real(0.1)),
            (701, Value::Real(-1e-300)),
            (701, Value::Real(f64::INFINITY)),
            (17, Value::Blob(vec![0, 171, 255])),
            (25, Value::Text("a\u{e9}\\x".into())),
        ] {
            let text = text_of(&value).expect("not null");
            assert_eq!(value_of(ty, &text), Some(value.clone()), "{text}");
        }
        assert_eq!(text_of(&Value::Null), None);
        for (ty, text) in [(20, "x"), (17, "\\xabc"), (17, "ab"), (17, "\\xzz")] {
            assert_eq!(value_of(ty, text), None, "{text}");
        }
    }

    #[test]
    fn a_message_that_is_too_short_is_an_error_and_no_panic() {
        let message = |body: &[u8]| Message { kind: b'D', body: body.to_vec(), at: 0 };
        assert!(row(&mut message(&[0, 1, 0, 0, 0, 9, b'1']), &[20]).is_err());
        assert!(row(&mut message(&[0, 2, 0, 0, 0, 1, b'1']), &[20]).is_err());
        assert!(message(b"no end").text().is_err());
        assert!(matches!(row(&mut message(&[0, 1, 0, 0, 0, 1, b'7']), &[20]).as_deref(), Ok([Value::Int(7)])));
    }
}
