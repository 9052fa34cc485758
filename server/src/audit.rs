//! Every command leaves a line in the audit log before it is done, and is done once: a request that comes again with the
//! same `Idempotency-Key` gets the answer of the first time.
//!
//! A key belongs to its sender and to one request (method, path, body); with another request it is refused. Where the
//! process died between a command and its answer, the same request is done again, with [`CommandId::again`] set: commands
//! whose effect is there already then answer with the state.

use crate::app::App;
use crate::route::problem::ApiError;
use crate::store::{Asked, Begun};
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use beckon_shared::control::access::Sender;
use beckon_shared::control::command::MAX_KEY_BYTES;
use beckon_shared::digest::sha256_hex;
use std::sync::LazyLock;

/// Largest answer that is kept for a key.
const MAX_ANSWER_BYTES: usize = 256 << 10;
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

/// Writes the request down and does it, unless it was done before.
pub async fn recorded(app: App, record: Record, sender: &Sender, request: Request, next: Next) -> Response {
    match record {
        Record::Nothing => next.run(request).await,
        Record::Head => {
            let (method, path) = (request.method().to_string(), full_path(&request));
            match begin(&app, sender, (method, path), None, &[]).await {
                Ok((_, id)) => finish(&app, id, next.run(request).await, false).await,
                Err(response) => response,
            }
        }
        Record::Whole => {
            let key = match key_of(&request) {
                Ok(key) => key,
                Err(error) => return error.into_response(),
            };
            let (parts, body) = request.into_parts();
            let body = match to_bytes(body, crate::app::MAX_BODY_BYTES).await {
                Ok(body) => body,
                Err(error) => return too_large(&error).into_response(),
            };
            let mut request = Request::from_parts(parts, Body::from(body.clone()));
            let (method, path) = (request.method().to_string(), full_path(&request));
            match begin(&app, sender, (method, path), key.as_deref(), &body).await {
                Ok((again, id)) => {
                    request.extensions_mut().insert(CommandId { id, again });
                    finish(&app, id, next.run(request).await, key.is_some()).await
                }
                Err(response) => response,
            }
        }
    }
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
async fn begin(
    app: &App,
    sender: &Sender,
    (method, path): (String, String),
    key: Option<&str>,
    body: &[u8],
) -> Result<(bool, i64), Response> {
    let digest = sha256_hex(&[method.as_bytes(), b" ", path.as_bytes(), b"\n", body].concat());
    let shown = std::str::from_utf8(body).ok().filter(|text| text.len() <= MAX_SHOWN_BYTES).unwrap_or_default();
    let (app, sender, shown, key) = (app.clone(), sender.name(), shown.to_owned(), key.map(str::to_owned));
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
    match begun.await {
        Ok(Begun::New(id)) => Ok((false, id)),
        Ok(Begun::BrokenOff(id)) => Ok((true, id)),
        Ok(Begun::Done { status, answer }) => Err(replay(status, answer)),
        Ok(Begun::Busy) => {
            let detail = "the same request is being done at this moment; ask again for its answer";
            Err(ApiError::new(StatusCode::CONFLICT, "in progress", detail).into_response())
        }
        Ok(Begun::OtherRequest) => {
            let detail = format!("this {KEY_HEADER} was used for another request; take a new one");
            Err(ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "key reused", detail).into_response())
        }
        Err(error) => Err(error.into_response()),
    }
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

/// Ends the entry with the answer.
async fn finish(app: &App, id: i64, response: Response, keep: bool) -> Response {
    let (parts, body) = response.into_parts();
    let status = parts.status;
    // what failed for a reason that may pass can be tried again with the same key
    let passing = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    let (body, answer) = if keep && !passing {
        match to_bytes(body, MAX_ANSWER_BYTES).await {
            Ok(bytes) => (Body::from(bytes.clone()), Some(bytes)),
            Err(error) => {
                return ApiError::internal(&format!("an answer is too long to keep: {error}")).into_response();
            }
        }
    } else {
        (body, None)
    };
    let store = std::sync::Arc::clone(&app.store);
    let finished = crate::route::blocking(move || {
        if passing {
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
