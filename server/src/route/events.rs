//! `GET /api/events`: what happens, as server-sent events.

use super::problem::ApiError;
use crate::app::App;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;
use std::convert::Infallible;
use std::time::Duration;
use utoipa::IntoParams;

/// A stream that was quiet for one to two of these gets a comment, so that neither side takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// From where to listen.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListenParams {
    /// Number of the last event that the listener saw; the header `Last-Event-ID` comes first.
    pub after: Option<u64>,
}

/// Events from now on, or from the one after `Last-Event-ID`: none is left out or sent twice, also over a restart. What is
/// too old to be kept is announced as `missed` with how many events it was.
#[utoipa::path(
    get, path = "/api/events", tag = "events",
    params(ListenParams, ("last-event-id" = Option<String>, Header)),
    responses((status = 200, body = String, content_type = "text/event-stream"))
)]
pub async fn listen(
    State(app): State<App>,
    Query(params): Query<ListenParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    // a number that does not parse is no number of ours: the listener is told that it missed events
    let last_seq = headers
        .get("last-event-id")
        .map(|value| value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX))
        .or(params.after);
    let stream = app
        .events
        .listen_in_batches(last_seq)
        .map_err(|error| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no room", error.to_string()))?;
    // one timer for the whole stream: one for every batch would cost about as much as the batch
    let mut beat = tokio::time::interval(KEEP_ALIVE);
    beat.reset();
    let frames = stream::unfold((Box::pin(stream), beat, true), async |(mut stream, mut beat, mut quiet)| {
        let frame = loop {
            tokio::select! {
                biased;
                batch = stream.next() => {
                    quiet = false;
                    break batch?.sse();
                }
                _ = beat.tick() => {
                    if std::mem::replace(&mut quiet, true) {
                        break Bytes::from_static(b": still here\n\n");
                    }
                }
            }
        };
        Some((Ok::<_, Infallible>(frame), (stream, beat, quiet)))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(frames)).into_response())
}
