//! A WebSocket on a connection that was HTTP: the handshake, and text messages both ways. The protocol itself is
//! `tungstenite`, which reads and writes blocking; here it works on buffers that the connection fills and empties.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Error, Message, WebSocket};

/// Largest message of a client, bytes.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Bytes read at once.
const PIECE_BYTES: usize = 8 << 10;

/// A request that is no WebSocket handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the header {name} is missing or not {expected}")]
pub struct NoHandshake {
    /// Name of the header.
    pub name: &'static str,
    /// What it should hold.
    pub expected: &'static str,
}

/// The answer to a handshake (RFC 6455, 4.2.2), and what becomes the connection once it is sent.
///
/// # Errors
/// [`NoHandshake`].
pub fn accept(request: &mut Request) -> Result<(Response, OnUpgrade), NoHandshake> {
    let headers = request.headers();
    let check = |ok, name, expected| if ok { Ok(()) } else { Err(NoHandshake { name, expected }) };
    check(request.method() == Method::GET, "method", "GET")?;
    check(holds(headers, &header::CONNECTION, "upgrade"), "connection", "Upgrade")?;
    check(holds(headers, &header::UPGRADE, "websocket"), "upgrade", "websocket")?;
    check(holds(headers, &header::SEC_WEBSOCKET_VERSION, "13"), "sec-websocket-version", "13")?;
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
    let answer = key.and_then(|key| HeaderValue::from_str(&key).ok());
    let answer = answer.ok_or(NoHandshake { name: "sec-websocket-key", expected: "16 bytes in Base64" })?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let out = response.headers_mut();
    out.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    out.insert(header::SEC_WEBSOCKET_ACCEPT, answer);
    Ok((response, hyper::upgrade::on(request)))
}

fn holds(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(word))
}

/// Bytes that came and bytes that have to go.
#[derive(Default)]
struct Wire {
    input: VecDeque<u8>,
    output: Vec<u8>,
    ended: bool,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.input.is_empty() && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.input.read(buffer)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The server's end of a WebSocket.
pub struct Socket {
    stream: TokioIo<Upgraded>,
    protocol: WebSocket<Wire>,
    piece: Vec<u8>,
}

impl Socket {
    /// On a connection whose handshake is done.
    pub fn new(stream: Upgraded) -> Self {
        let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES));
        let protocol = WebSocket::from_raw_socket(Wire::default(), Role::Server, Some(config));
        Self { stream: TokioIo::new(stream), protocol, piece: vec![0; PIECE_BYTES] }
    }

    /// The next text message; `None` once the connection has ended, was closed or broke the protocol. A message that is not
    /// text comes as an empty one. May be dropped before it is ready: nothing is lost.
    pub async fn receive(&mut self) -> Option<String> {
        loop {
            match self.protocol.read() {
                Ok(Message::Text(text)) => return Some(text.as_str().to_owned()),
                Ok(Message::Binary(_)) => return Some(String::new()),
                // answers to pings and closings are in the output by now
                Ok(_) => {
                    self.flush().await.ok()?;
                    continue;
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => {
                    let _ = self.flush().await;
                    return None;
                }
            }
            self.flush().await.ok()?;
            let n = self.stream.read(&mut self.piece).await.ok()?;
            let wire = self.protocol.get_mut();
            wire.ended = n == 0;
            wire.input.extend(&self.piece[..n]);
        }
    }

    /// Sends a text message.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn send(&mut self, text: String) -> Result<(), Error> {
        self.protocol.write(Message::text(text))?;
        self.flush().await.map_err(Error::Io)
    }

    /// Says that nothing more will come. An error means that the client is gone already.
    pub async fn close(&mut self) {
        let _ = self.protocol.close(None);
        let _ = self.flush().await;
    }

    /// Writes what has to go, piece by piece, so that a dropped call loses nothing.
    async fn flush(&mut self) -> io::Result<()> {
        match self.protocol.flush() {
            Ok(()) | Err(Error::ConnectionClosed | Error::AlreadyClosed) => {}
            Err(Error::Io(error)) => return Err(error),
            Err(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
        while !self.protocol.get_ref().output.is_empty() {
            let n = self.stream.write(&self.protocol.get_ref().output).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.protocol.get_mut().output.drain(..n);
        }
        self.stream.flush().await
    }
}
