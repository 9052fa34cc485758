//! A client of a server, near or far: what `beckon --server URL` and simulated traffic speak with.
//!
//! Commands go as the requests that [`Command::call`] says, each with a fresh idempotency key, and are tried again with the
//! same key where no answer came: the server does them once.

use beckon_shared::control::Problem;
use beckon_shared::control::command::Command;
use beckon_shared::digest::hex;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{Method, Request, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

/// Tries where no answer comes, and the pause after the first.
const N_TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Largest answer that is read into memory.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

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

    /// `POST` of JSON, parsed. Tried again where no answer came, so it has to be idempotent by itself.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl serde::Serialize) -> Result<T, RemoteError> {
        let body = serde_json::to_vec(body).map_err(|error| self.not_understood(path, &error))?;
        let value = self.send("POST", path, None, &body)?;
        serde_json::from_value(value).map_err(|error| self.not_understood(path, &error))
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
        let mut pause = FIRST_PAUSE;
        let mut n_tries = 0;
        loop {
            n_tries += 1;
            let response = match self.once(method, path, key, body) {
                // nothing is known of a request without an answer; with its key it can be sent again
                Err(RemoteError::NoAnswer { .. }) if n_tries < N_TRIES => None,
                other => Some(other?),
            };
            match response {
                Some(response) if response.status().as_u16() != 429 || n_tries == N_TRIES => {
                    return self.value(path, response);
                }
                _ => std::thread::sleep(pause),
            }
            pause *= 3;
        }
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
        let status = response.status();
        let bytes = response.body_mut().read_to_vec().unwrap_or_default();
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => RemoteError::Refused(problem),
            Err(_) => self.not_understood(path, &format!("status {status}")),
        }
    }

    fn once(&self, method: &str, path: &str, key: Option<&str>, body: &[u8]) -> Result<Response<Body>, RemoteError> {
        let url = format!("{}{path}", self.url);
        let method: Method = method.parse().map_err(|error| self.not_understood(path, &error))?;
        let has_body = !matches!(method, Method::GET | Method::DELETE);
        let mut request = Request::builder().method(method).uri(&url);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let sent = if has_body {
            let request = request.header("content-type", "application/json").body(body);
            self.agent.run(request.map_err(|error| self.not_understood(path, &error))?)
        } else {
            self.agent.run(request.body(()).map_err(|error| self.not_understood(path, &error))?)
        };
        sent.map_err(|source| RemoteError::NoAnswer { url, source: Box::new(source) })
    }

    fn not_understood(&self, path: &str, reason: &dyn std::fmt::Display) -> RemoteError {
        RemoteError::NotUnderstood { url: format!("{}{path}", self.url), reason: reason.to_string() }
    }
}

fn new_key() -> String {
    let mut key = [0; 16];
    // without randomness the clock has to do
    if getrandom::fill(&mut key).is_err() {
        key[..8].copy_from_slice(&crate::now_millis().to_le_bytes());
    }
    hex(&key)
}
