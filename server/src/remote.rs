//! A client of a server, near or far: what `beckon --server URL` and simulated traffic speak with.
//!
//! Commands go as the requests that [`Command::call`] says, each with a fresh idempotency key, and are tried again with the
//! same key where no answer came: the server does them once.

use beckon_shared::control::command::{Command, segment};
use beckon_shared::control::listing::{append, next_part};
use beckon_shared::control::{ImportOutcome, Problem};
use beckon_shared::digest::hex;
use beckon_shared::import::Format;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{Method, Request, Response, request};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

/// Tries where no answer comes, and the pause after the first.
const N_TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Largest answer that is read into memory.
const MAX_ANSWER_BYTES: u64 = 256 << 20;
/// Most items of a list that are asked for at a time.
const MAX_PART: usize = 1_000;
/// How long the server may work on a log file; its own limit comes first.
const IMPORT_LIMIT: Duration = Duration::from_secs(1_000);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// No answer.
    #[error("no answer from {url}: {source}")]
    NoAnswer {
        /// What was asked for.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// The server refused and said why.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// An answer of another kind than expected: versions differ, or something stands in between.
    #[error("the answer of {url} was not understood ({reason})")]
    NotUnderstood {
        /// What was asked for.
        url: String,
        /// What was wrong.
        reason: String,
    },
    /// A file that is to be sent cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// What the system said.
        source: std::io::Error,
        /// Which file.
        path: PathBuf,
    },
    /// The file with certificates cannot be read.
    #[error("cannot read certificates from {}: {reason}", path.display())]
    Certificates {
        /// What is wrong.
        reason: String,
        /// Which file.
        path: PathBuf,
    },
}

/// Speaks to one server.
#[derive(Clone)]
pub struct Remote {
    agent: Agent,
    url: String,
    token: Option<String>,
}

impl Remote {
    /// For `url` (`http://HOST[:PORT]`), with a token or ingest key; `ca` names a file of certificates to trust beside
    /// nothing else, for a server with one of its own.
    ///
    /// # Errors
    /// [`RemoteError::Certificates`].
    pub fn new(url: &str, token: Option<&str>, ca: Option<&Path>) -> Result<Self, RemoteError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(60)));
        if let Some(path) = ca {
            let failed = |reason: String| RemoteError::Certificates { reason, path: path.to_owned() };
            let pem = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
            let items: Vec<PemItem> =
                parse_pem(&pem).collect::<Result<_, _>>().map_err(|error| failed(error.to_string()))?;
            let certificates: Vec<Certificate> = items
                .into_iter()
                .filter_map(|item| if let PemItem::Certificate(certificate) = item { Some(certificate) } else { None })
                .collect();
            let roots = RootCerts::new_with_certs(&certificates);
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self { agent: config.build().new_agent(), url, token: token.map(str::to_owned) })
    }

    /// Sends a command, once in effect whatever happens to answers on the way.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn command(&self, command: &Command) -> Result<Value, RemoteError> {
        let call = command.call();
        let body = call.body.as_ref().map(Value::to_string).unwrap_or_default();
        self.send(call.method, &call.path, Some(&new_key()), body.as_bytes())
    }

    /// `GET`, parsed.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, RemoteError> {
        let value = self.send("GET", path, None, b"")?;
        serde_json::from_value(value).map_err(|error| self.not_understood(path, &error))
    }

    /// `GET` of a list, part after part to its end (RFC 8288), or at most the first `limit` items; `path` has no query then.
    ///
    /// # Errors
    /// [`RemoteError`]; also where a part leads to another server.
    pub fn list<T: DeserializeOwned>(&self, path: &str, limit: Option<NonZeroUsize>) -> Result<T, RemoteError> {
        let limit = limit.map(NonZeroUsize::get);
        let first = limit.map_or_else(|| path.to_owned(), |limit| format!("{path}?limit={}", limit.min(MAX_PART)));
        let (mut whole, mut next) = self.part(&first)?;
        while let Some(path) = next {
            if limit.is_some_and(|limit| whole.as_array().is_none_or(|items| items.len() >= limit)) {
                break;
            }
            let part;
            (part, next) = self.part(&path)?;
            append(&mut whole, part);
        }
        if let (Some(items), Some(limit)) = (whole.as_array_mut(), limit) {
            items.truncate(limit);
        }
        serde_json::from_value(whole).map_err(|error| self.not_understood(path, &error))
    }

    /// A part of a list, and the path of the next one.
    fn part(&self, path: &str) -> Result<(Value, Option<String>), RemoteError> {
        let response = self.answer("GET", path, None, b"")?;
        let mut links = response.headers().get_all("link").iter().filter_map(|link| link.to_str().ok());
        let next = match links.find_map(next_part) {
            None => None,
            // a token goes to its own server alone
            Some(target) => match target.strip_prefix(&self.url).unwrap_or(target) {
                next if next.starts_with('/') && next != path => Some(next.to_owned()),
                _ => return Err(self.not_understood(path, &format!("the list goes on at {target}"))),
            },
        };
        Ok((self.value(path, response)?, next))
    }

    /// `POST` of JSON, parsed. Tried again where no answer came, so it has to be idempotent by itself.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<T, RemoteError> {
        let body = serde_json::to_vec(body).map_err(|error| self.not_understood(path, &error))?;
        let value = self.send("POST", path, None, &body)?;
        serde_json::from_value(value).map_err(|error| self.not_understood(path, &error))
    }

    /// `POST` of JSON, parsed, sent a single time: where no answer comes, it may have been done.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn post_once<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<T, RemoteError> {
        let body = serde_json::to_vec(body).map_err(|error| self.not_understood(path, &error))?;
        let value = self.value(path, self.once("POST", path, None, &body)?)?;
        serde_json::from_value(value).map_err(|error| self.not_understood(path, &error))
    }

    /// `DELETE`, once in effect as a [`Remote::command`].
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn delete(&self, path: &str) -> Result<(), RemoteError> {
        self.send("DELETE", path, Some(&new_key()), b"").map(drop)
    }

    /// Puts a log file into the server's log, streamed from the disk. Records that are there already are counted and not added
    /// again, so it is tried again where no answer came. A file of which nothing could be imported is an outcome too.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn import(&self, file: &Path, format: Format) -> Result<ImportOutcome, RemoteError> {
        let name = file.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
        let path = format!("/api/log/import?format={}&name={}", format.name(), segment(&name));
        let mut response = persistently(|| self.upload(&path, file))?;
        let status = response.status();
        let bytes = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        let bytes = bytes.map_err(|error| self.not_understood(&path, &error))?;
        match serde_json::from_slice(&bytes) {
            Ok(outcome) if status.is_success() || status.as_u16() == 422 => Ok(outcome),
            Err(error) if status.is_success() => Err(self.not_understood(&path, &error)),
            _ => Err(self.refusal(&path, status.as_u16(), &bytes)),
        }
    }

    /// Sends a file a single time.
    fn upload(&self, path: &str, file: &Path) -> Result<Response<Body>, RemoteError> {
        let unread = |source| RemoteError::File { source, path: file.to_owned() };
        let opened = File::open(file).map_err(unread)?;
        let request = self.request(Method::POST, path, None).header("content-type", "application/octet-stream");
        // a server that refuses it does so before the file, and hangs up: its reason would be lost in the middle of one
        let request = request
            .header("expect", "100-continue")
            .body(&opened)
            .map_err(|error| self.not_understood(path, &error))?;
        let request = self.agent.configure_request(request).timeout_recv_response(Some(IMPORT_LIMIT)).build();
        self.agent.run(request).map_err(|source| self.no_answer(path, source))
    }

    /// A file, streamed.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn file(&self, path: &str) -> Result<impl Read + use<>, RemoteError> {
        let response = self.once("GET", path, None, b"")?;
        if !response.status().is_success() {
            return Err(self.problem(path, response));
        }
        Ok(response.into_body().into_reader())
    }

    /// Events from the one after `after` on, as their numbers and JSON, until `each` says false or the server hangs up.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn events(&self, after: Option<u64>, mut each: impl FnMut(u64, &str) -> bool) -> Result<(), RemoteError> {
        let path = after.map_or_else(|| "/api/events".to_owned(), |after| format!("/api/events?after={after}"));
        let mut seq = 0;
        for line in BufReader::new(self.file(&path)?).lines().map_while(Result::ok) {
            if let Some(id) = line.strip_prefix("id:") {
                seq = id.trim().parse().unwrap_or(seq);
            } else if let Some(data) = line.strip_prefix("data:")
                && !each(seq, data.trim_start())
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn send(&self, method: &str, path: &str, key: Option<&str>, body: &[u8]) -> Result<Value, RemoteError> {
        self.value(path, self.answer(method, path, key, body)?)
    }

    fn answer(&self, method: &str, path: &str, key: Option<&str>, body: &[u8]) -> Result<Response<Body>, RemoteError> {
        persistently(|| self.once(method, path, key, body))
    }

    fn value(&self, path: &str, mut response: Response<Body>) -> Result<Value, RemoteError> {
        if !response.status().is_success() {
            return Err(self.problem(path, response));
        }
        let text = response.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        let text = text.map_err(|error| self.not_understood(path, &error))?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&text).map_err(|error| self.not_understood(path, &error))
    }

    fn problem(&self, path: &str, mut response: Response<Body>) -> RemoteError {
        let status = response.status().as_u16();
        self.refusal(path, status, &response.body_mut().read_to_vec().unwrap_or_default())
    }

    fn refusal(&self, path: &str, status: u16, body: &[u8]) -> RemoteError {
        match serde_json::from_slice::<Problem>(body) {
            Ok(problem) => RemoteError::Refused(problem),
            Err(_) => self.not_understood(path, &format!("status {status}")),
        }
    }

    fn once(&self, method: &str, path: &str, key: Option<&str>, body: &[u8]) -> Result<Response<Body>, RemoteError> {
        let method: Method = method.parse().map_err(|error| self.not_understood(path, &error))?;
        let has_body = !matches!(method, Method::GET | Method::DELETE);
        let request = self.request(method, path, key);
        let sent = if has_body {
            let request = request.header("content-type", "application/json").body(body);
            self.agent.run(request.map_err(|error| self.not_understood(path, &error))?)
        } else {
            self.agent.run(request.body(()).map_err(|error| self.not_understood(path, &error))?)
        };
        sent.map_err(|source| self.no_answer(path, source))
    }

    fn request(&self, method: Method, path: &str, key: Option<&str>) -> request::Builder {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        request
    }

    fn no_answer(&self, path: &str, source: ureq::Error) -> RemoteError {
        RemoteError::NoAnswer { url: format!("{}{path}", self.url), source: Box::new(source) }
    }

    fn not_understood(&self, path: &str, reason: &dyn std::fmt::Display) -> RemoteError {
        RemoteError::NotUnderstood { url: format!("{}{path}", self.url), reason: reason.to_string() }
    }
}

/// Does it until there is an answer that tells more than to come again, a few times at most. Nothing is known of a request without
/// an answer, so it has to be one that is done once however often it is sent.
fn persistently(mut once: impl FnMut() -> Result<Response<Body>, RemoteError>) -> Result<Response<Body>, RemoteError> {
    let mut pause = FIRST_PAUSE;
    for _ in 1..N_TRIES {
        match once() {
            Err(RemoteError::NoAnswer { .. }) => {}
            Ok(response) if response.status().as_u16() == 429 => {}
            other => return other,
        }
        std::thread::sleep(pause);
        pause *= 3;
    }
    once()
}

fn new_key() -> String {
    let mut key = [0; 16];
    // without randomness the clock has to do
    if getrandom::fill(&mut key).is_err() {
        key[..8].copy_from_slice(&crate::now_millis().to_le_bytes());
    }
    hex(&key)
}

#[cfg(test)]
pub(crate) mod tests;
