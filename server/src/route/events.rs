//! `GET /api/events`: what happens, as server-sent events.

use super::problem::ApiError;
use crate::access::Pass;
use crate::app::App;
use crate::events::Batch;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use beckon_shared::control::access::Need;
use futures_util::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior, interval};
use utoipa::IntoParams;

/// How often a stream looks whether its listener may still listen. One that was quiet for one to two of these gets a comment, so
/// that neither side takes the connection for dead.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(15);

/// From where to listen.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListenParams {
    /// Number of the last event that the listener saw; the header `Last-Event-ID` comes first.
    pub after: Option<u64>,
}

/// Events from now on, or from the one after `Last-Event-ID`: none is left out or sent twice, also over a restart. What is
/// too old to be kept is announced as `missed` with how many events it was. The stream ends within 15 s once its token is removed
/// or has expired.
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
    let pass = Pass::new(Arc::clone(&app.store), &headers, Need::View);
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, Body::from_stream(frames(stream, pass, LOOK_EVERY))).into_response())
}

/// What a listener is sent until there is nothing more or its pass, looked at `every` so often, is no longer good.
fn frames(
    batches: impl Stream<Item = Arc<Batch>> + Send + 'static,
    pass: Pass,
    every: Duration,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    let listener = Listener { batches: Box::pin(batches), pass, beat: beat(every), quiet: true };
    stream::unfold(listener, async |mut listener| Some((Ok::<_, Infallible>(listener.next().await?), listener)))
}

/// Ticks `every` so often from then on; what was missed is not made up for.
pub(super) fn beat(every: Duration) -> Interval {
    let mut beat = interval(every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat.reset();
    beat
}

struct Listener<S> {
    batches: Pin<Box<S>>,
    pass: Pass,
    /// One timer for the whole stream: one for every batch would cost about as much as the batch.
    beat: Interval,
    quiet: bool,
}

impl<S: Stream<Item = Arc<Batch>>> Listener<S> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                // the beat first, which a stream that always has something must not hold up
                biased;
                _ = self.beat.tick() => {
                    if !self.pass.is_good().await {
                        return None;
                    }
                    if std::mem::replace(&mut self.quiet, true) {
                        return Some(Bytes::from_static(b": still here\n\n"));
                    }
                }
                batch = self.batches.next() => {
                    self.quiet = false;
                    return Some(batch?.sse());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
