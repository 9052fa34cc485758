//! `GET /api/events`: what happens, as server-sent events.

use super::problem::ApiError;
use crate::app::App;
use crate::events::Numbered;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use std::time::Duration;
use tokio_stream::{Stream, StreamExt};

/// Time between comments on a quiet stream, so that neither side takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /api/events`: events from now on, or from the one after the `Last-Event-ID` header.
pub async fn listen(
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, ApiError> {
    // a number that does not parse is no number of ours: the listener is told that it missed events
    let last_seq = headers
        .get("last-event-id")
        .map(|value| value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX));
    let stream = app
        .events
        .listen(last_seq)
        .map_err(|error| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no room", error.to_string()))?;
    let stream = stream.map(|Numbered { seq, event }| Event::default().id(seq.to_string()).json_data(event));
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
