//! `/api/checkpoints`: what the page loads its policy and reward model from.

use super::problem::ApiError;
use crate::app::App;
use crate::catalog::Content;
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use beckon_shared::checkpoint::Manifest;
use beckon_shared::control::CheckpointInfo;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Bytes read at once from a file on its way out.
const PIECE_BYTES: usize = 256 << 10;

/// `GET /api/checkpoints`: newest first, the built-in one last.
pub async fn list(State(app): State<App>) -> Json<Vec<CheckpointInfo>> {
    Json(app.catalog.infos())
}

/// `GET /api/checkpoints/{id}`: the header of the file.
pub async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Manifest>, ApiError> {
    let manifest = app.catalog.manifest(&id).ok_or_else(|| unknown(&id))?;
    Ok(Json((*manifest).clone()))
}

/// `GET /api/checkpoints/{id}/file`: the bytes, whole or (with a `Range` of one part) from where a broken-off download
/// goes on. The id fixes the content, so it is the entity tag and caches may keep it for good.
pub async fn file(State(app): State<App>, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    let (content, n_bytes) = app.catalog.content(&id).ok_or_else(|| unknown(&id))?;
    let etag = format!("\"{id}\"");
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let mut response = if text(header::IF_NONE_MATCH).is_some_and(|tags| tags == "*" || tags.contains(&etag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        // a part of another content would not fit to what the client has
        let fits = text(header::IF_RANGE).is_none_or(|tag| tag == etag);
        match text(header::RANGE).filter(|_| fits).map(|range| parse_range(range, n_bytes)) {
            Some(Some(Asked::Nothing)) => {
                let detail = format!("the file has {n_bytes} bytes");
                let mut response =
                    ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "no such range", detail).into_response();
                insert(&mut response, header::CONTENT_RANGE, &format!("bytes */{n_bytes}"));
                return Ok(response);
            }
            Some(Some(Asked::Part(range))) => {
                let shown = format!("bytes {}-{}/{n_bytes}", range.start, range.end - 1);
                let mut response = send(&content, range)?;
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                insert(&mut response, header::CONTENT_RANGE, &shown);
                response
            }
            // no range, or one of a form that a server may ignore
            None | Some(None) => send(&content, 0..n_bytes)?,
        }
    };
    insert(&mut response, header::ETAG, &etag);
    insert(&mut response, header::ACCEPT_RANGES, "bytes");
    insert(&mut response, header::CACHE_CONTROL, "public, max-age=31536000, immutable");
    Ok(response)
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no checkpoint {id}; GET /api/checkpoints lists those that can be fetched"))
}

fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    // every value is made of digits, hexadecimal digits and fixed words
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[derive(Debug, PartialEq)]
enum Asked {
    Part(Range<u64>),
    Nothing,
}

/// One part of `bytes=first-last`, `bytes=first-` or `bytes=-n`; `None` for anything else.
fn parse_range(text: &str, n_bytes: u64) -> Option<Asked> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", n) => n_bytes.saturating_sub(n.parse().ok()?)..n_bytes,
        (first, "") => first.parse().ok()?..n_bytes,
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(n_bytes)
        }
    };
    Some(if range.is_empty() { Asked::Nothing } else { Asked::Part(range) })
}

/// The bytes of `range`, from memory or piece by piece from the file.
fn send(content: &Content, range: Range<u64>) -> Result<Response, ApiError> {
    let length = range.end - range.start;
    let body = match content {
        Content::BuiltIn(bytes) => {
            // a range was checked against the length, which is that of the slice
            let part = bytes.get(range.start as usize..range.end as usize).unwrap_or_default();
            Body::from(part)
        }
        Content::File(path) => {
            let file = File::open(path).map_err(|error| {
                ApiError::internal(&format!("cannot read the checkpoint: {error}: {}", path.display()))
            })?;
            let (sender, receiver) = mpsc::channel(4);
            let path = path.clone();
            tokio::task::spawn_blocking(move || read_pieces(file, &path, range, &sender));
            Body::from_stream(ReceiverStream::new(receiver))
        }
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(length)),
    ];
    Ok((headers, body).into_response())
}

fn read_pieces(
    mut file: File,
    path: &std::path::Path,
    range: Range<u64>,
    sender: &mpsc::Sender<std::io::Result<Bytes>>,
) {
    let mut rest = range.end - range.start;
    let mut sought = file.seek(SeekFrom::Start(range.start)).map(|_| ());
    while rest > 0 {
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(rest).unwrap_or(PIECE_BYTES))];
        let read = std::mem::replace(&mut sought, Ok(())).and_then(|()| file.read_exact(&mut piece));
        if let Err(error) = &read {
            eprintln!("beckon: cannot read the checkpoint: {error}: {}", path.display());
        }
        rest -= piece.len() as u64;
        let failed = read.is_err();
        // an error here means that the client went away
        if sender.blocking_send(read.map(|()| Bytes::from(piece))).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        let part = |range| Some(Asked::Part(range));
        assert_eq!(parse_range("bytes=0-9", 100), part(0..10));
        assert_eq!(parse_range("bytes=90-", 100), part(90..100));
        assert_eq!(parse_range("bytes=-7", 100), part(93..100));
        assert_eq!(parse_range("bytes=-700", 100), part(0..100));
        assert_eq!(parse_range("bytes=90-900", 100), part(90..100));
        assert_eq!(parse_range("bytes=100-", 100), Some(Asked::Nothing));
        assert_eq!(parse_range("bytes=-0", 100), Some(Asked::Nothing));
        for ignored in ["bytes=9-3", "bytes=a-b", "bytes=1-2,5-6", "lines=1-2", "bytes=5"] {
            assert_eq!(parse_range(ignored, 100), None, "{ignored}");
        }
    }
}
