//! Every command leaves a line in the audit log before it is done, and is done once: a request that comes again with the
//! same `Idempotency-Key` gets the answer of the first time.
//!
//! A key belongs to its sender and to one request (method, path, body); with another request it is refused. A command that has
//! begun is done to its end whether or not its client waits for the answer. Where the process died between a command and its
//! answer, the same request is done again, with [`CommandId::again`] set: commands whose effect is there already then answer
//! with the state, or that there is nothing left where they were to delete.

use crate::accept::Slot;
use crate::app::guard::too_slow;
use crate::app::{App, Rule};
use crate::route::problem::ApiError;
use crate::store::{Asked, Begun};
use axum::Extension;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use beckon_shared::control::access::Sender;
use beckon_shared::control::command::MAX_KEY_BYTES;
use beckon_shared::digest::sha256_hex;
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::time::timeout;
use tracing::Instrument;

/// Largest answer that is kept for a key: answers tell what was asked for, and more, so they are longer than
/// [`crate::app::MAX_BODY_BYTES`] at times.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Longest body that the log shows.
const MAX_SHOWN_BYTES: usize = 4 << 10;
/// Header that carries the key.
pub const KEY_HEADER: &str = "idempotency-key";
/// Header of an answer that was given before.
pub const REPLAYED_HEADER: &str = "idempotency-replayed";

/// Tells this process from earlier ones that used the same store.
static PROCESS: LazyLock<i64> = LazyLock::new(|| {
    let mut random = [0; 8];
    // without randomness the clock has to do
    if getrandom::fill(&mut random).is_err() {
        random = crate::now_millis().to_le_bytes();
    }
    i64::from_le_bytes(random)
});

/// The number of this process.
pub(crate) fn process() -> i64 {
    *PROCESS
}

/// What of a request goes into the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Nothing: it changes nothing, or it comes by the thousand and has keys of its own.
    Nothing,
    /// Method and path; the body is large or secret. Keys have no effect.
    Head,
    /// Everything, and the answer is kept for its key.
    Whole,
}

/// Entry of the audit log that a command belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandId {
    /// Id of the entry.
    pub id: i64,
    /// An earlier process may have done it.
    pub again: bool,
}

impl CommandId {
    /// Whether an earlier process may have done what a handler with this extension is about to do.
    pub fn is_again(of_request: Option<Extension<Self>>) -> bool {
        of_request.is_some_and(|id| id.0.again)
    }
}

/// A command as the log is told of it.
struct Command {
    sender: Sender,
    method: String,
    /// With query, as the client wrote it.
    path: String,
    key: Option<String>,
    body: Bytes,
}

/// Writes the request down and does it, unless it was done before.
///
/// From its first line in the log to its last a command is a task of its own: a client that goes away, or a time limit, ends the
/// wait for the answer and not the command, whose key would else stay taken. Of the request's body a command has all before it
/// begins; what has to read on ([`Record::Head`]) ends at the rule's time limit.
pub async fn recorded(app: App, rule: Rule, sender: Sender, request: Request, next: Next) -> Response {
    let (request, key, body, limit) = match rule.record {
        Record::Nothing => return next.run(request).await,
        Record::Head => (request, None, Bytes::new(), Some(rule.time_limit)),
        Record::Whole => match with_body(request).await {
            Ok((request, key, body)) => (request, key, body, None),
            Err(error) => return error.into_response(),
        },
    };
    let command = Command { sender, method: request.method().to_string(), path: full_path(&request), key, body };
    let done = tokio::spawn(carry_out(app, command, limit, request, next).in_current_span());
    done.await.unwrap_or_else(|error| ApiError::internal(&format!("a command broke off: {error}")).into_response())
}

/// The request with its key and body, which it still has.
async fn with_body(request: Request) -> Result<(Request, Option<String>, Bytes), ApiError> {
    let key = key_of(&request)?;
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, crate::app::MAX_BODY_BYTES).await.map_err(|error| too_large(&error))?;
    Ok((Request::from_parts(parts, Body::from(body.clone())), key, body))
}

/// A command from its first line in the log to its last; its handler has `limit`, where there is one.
async fn carry_out(app: App, command: Command, limit: Option<Duration>, mut request: Request, next: Next) -> Response {
    // to the end, so that a shutdown waits for it
    let _slot = request.extensions().get::<Slot>().cloned();
    let (again, id) = match begin(&app, &command).await {
        Ok(begun) => begun,
        Err(response) => return response,
    };
    request.extensions_mut().insert(CommandId { id, again });
    // a handler that panics has an end too
    let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
    let handled = match limit {
        None => handled.await,
        Some(limit) => timeout(limit, handled).await.unwrap_or_else(|_| Ok(too_slow(limit).into_response())),
    };
    let response = handled.unwrap_or_else(|_| ApiError::internal("the handler of a command panicked").into_response());
    finish(&app, id, response, command.key.is_some()).await
}

/// A body that could not be read to its end: too long, or the client went away.
fn too_large(error: &axum::Error) -> ApiError {
    let text = error.to_string();
    if text.contains("length limit") {
        let kib = crate::app::MAX_BODY_BYTES >> 10;
        return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body too large", format!("a body may have {kib} KiB"));
    }
    ApiError::new(StatusCode::BAD_REQUEST, "body broke off", text)
}

fn key_of(request: &Request) -> Result<Option<String>, ApiError> {
    let Some(value) = request.headers().get(KEY_HEADER) else { return Ok(None) };
    let plain = |byte: u8| byte.is_ascii_graphic();
    match value.to_str() {
        Ok(key) if !key.is_empty() && key.len() <= MAX_KEY_BYTES && key.bytes().all(plain) => Ok(Some(key.to_owned())),
        _ => {
            let detail = format!("an {KEY_HEADER} is 1 to {MAX_KEY_BYTES} visible ASCII characters");
            Err(ApiError::new(StatusCode::BAD_REQUEST, "bad key", detail))
        }
    }
}

/// Begins the entry; the answer where there is nothing left to do.
async fn begin(app: &App, command: &Command) -> Result<(bool, i64), Response> {
    let Command { sender, method, path, key, body } = command;
    let digest = sha256_hex(&[method.as_bytes(), b" ", path.as_bytes(), b"\n", &body[..]].concat());
    let shown = std::str::from_utf8(body).ok().filter(|text| text.len() <= MAX_SHOWN_BYTES).unwrap_or_default();
    let (app, sender, shown) = (app.clone(), sender.name(), shown.to_owned());
    let (method, path, key) = (method.clone(), path.clone(), key.clone());
    let begun = crate::route::blocking(move || {
        let asked = Asked {
            time_millis: crate::now_millis(),
            sender: &sender,
            method: &method,
            path: &path,
            key: key.as_deref(),
            digest: &digest,
            body: &shown,
        };
        app.store.begin_command(&asked, process())
    });
    let error = match begun.await {
        Ok(Begun::New(id)) => return Ok((false, id)),
        Ok(Begun::BrokenOff(id)) => return Ok((true, id)),
        Ok(Begun::Done { status, answer }) => return Err(replay(status, answer)),
        Ok(Begun::NotKept { status }) => {
            let detail = format!(
                "this was done before and answered with {status}, but the answer is too long to be kept; see what is there now"
            );
            ApiError::new(StatusCode::CONFLICT, "done before", detail)
        }
        Ok(Begun::Busy) => {
            let detail = "the same request is being done at this moment; ask again for its answer";
            ApiError::new(StatusCode::CONFLICT, "in progress", detail)
        }
        Ok(Begun::OtherRequest) => {
            let detail = format!("this {KEY_HEADER} was used for another request; take a new one");
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "key reused", detail)
        }
        Err(error) => error,
    };
    Err(error.into_response())
}

/// Path with query, as the client wrote it.
fn full_path(request: &Request) -> String {
    let original = request.extensions().get::<axum::extract::OriginalUri>().map(|uri| &uri.0);
    let uri = original.unwrap_or(request.uri());
    uri.path_and_query().map_or_else(|| uri.path().to_owned(), |path| path.as_str().to_owned())
}

fn replay(status: u16, answer: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
    let mut response = (status, answer).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(REPLAYED_HEADER, HeaderValue::from_static("true"));
    response
}

/// What failed for a reason that may pass can be tried again with the same key.
fn may_pass(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// Ends the entry with the answer.
async fn finish(app: &App, id: i64, response: Response, keep: bool) -> Response {
    let (mut parts, mut body) = response.into_parts();
    let mut answer = None;
    if keep && !may_pass(parts.status) {
        match copied(body, MAX_ANSWER_BYTES).await {
            Ok((same, kept)) => (body, answer) = (same, kept),
            Err(error) => {
                let error = ApiError::internal(&format!("an answer broke off: {error}"));
                (parts, body) = error.into_response().into_parts();
            }
        }
    }
    let (store, status) = (Arc::clone(&app.store), parts.status);
    let finished = crate::route::blocking(move || {
        if may_pass(status) {
            return store.release_command(id, status.as_u16());
        }
        let answer = answer.as_ref().map(|bytes: &Bytes| String::from_utf8_lossy(bytes));
        store.finish_command(id, status.as_u16(), answer.as_deref())
    });
    if finished.await.is_err() {
        // it was done; the log has its beginning
        tracing::error!(id, "the end of a command is not in the audit log");
    }
    Response::from_parts(parts, body)
}

/// An answer's body as it goes on to the client, and its bytes where they are at most `limit`.
async fn copied(body: Body, limit: usize) -> Result<(Body, Option<Bytes>), axum::Error> {
    let mut rest = body.into_data_stream();
    let (mut read, mut n_bytes) = (Vec::new(), 0);
    while let Some(part) = rest.next().await {
        let part = part?;
        n_bytes += part.len();
        read.push(part);
        if n_bytes > limit {
            let read = stream::iter(read).map(Ok::<_, axum::Error>);
            return Ok((Body::from_stream(read.chain(rest)), None));
        }
    }
    let mut bytes = Vec::with_capacity(n_bytes);
    read.iter().for_each(|part| bytes.extend_from_slice(part));
    let bytes = Bytes::from(bytes);
    Ok((Body::from(bytes.clone()), Some(bytes)))
}

#[cfg(test)]
mod tests;
