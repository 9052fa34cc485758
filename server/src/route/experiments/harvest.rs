//! What an experiment took in, back to the click log: as a file of our own JSONL, or straight into the store.

use super::{find, unknown};
use crate::app::App;
use crate::route::blocking;
use crate::route::problem::ApiError;
use crate::store::{Store, StoreError};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use beckon_shared::click::{Impression, Record, Sourced};
use beckon_shared::control::Event;
use beckon_shared::control::experiment::ExperimentStatus;
use beckon_shared::control::experiment::harvest::{HarvestOutcome, impression};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Exposures read at once, and parts of an export that may wait for the connection.
const PAGE: usize = 500;
const CHANNEL: usize = 4;
/// The data set of harvested impressions, as of those that are imported.
const SOURCE: &str = "log";

/// Walks the exposures by pages: the impressions of each, and how many had no conversation. Ends where `each` says so.
fn pages<E: From<StoreError>>(
    store: &Store,
    experiment: &ExperimentStatus,
    mut each: impl FnMut(Vec<Impression>, u64) -> Result<(), E>,
) -> Result<(), E> {
    let mut after = String::new();
    loop {
        let page = store.exposures_after(&experiment.id, &after, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after.clone_from(&last.impression_id);
        let n_page = page.len();
        let impressions: Vec<Impression> =
            page.iter().filter_map(|(exposure, clicks)| impression(experiment, exposure, clicks)).collect();
        let n_without_prompt = (n_page - impressions.len()) as u64;
        each(impressions, n_without_prompt)?;
    }
}

/// Puts what was shown and clicked into the click log, with propensities, arm and checkpoint; a second time only what is
/// new. Exposures whose conversation was not kept are counted and left out.
#[utoipa::path(
    post, path = "/api/experiments/{id}/harvest", tag = "experiments",
    responses((status = 200, body = HarvestOutcome))
)]
pub async fn harvest(State(app): State<App>, Path(id): Path<String>) -> Result<Json<HarvestOutcome>, ApiError> {
    let outcome = blocking(move || {
        let experiment = find(&app, &id)?;
        let mut outcome = HarvestOutcome::default();
        pages(&app.store, &experiment, |impressions, n_without_prompt| {
            let sourced = |impression| Sourced { source: SOURCE.into(), record: Record::Impression(impression) };
            let records: Vec<Sourced> = impressions.into_iter().map(sourced).collect();
            let added = app.store.add_records(&records)?;
            outcome.n_accepted += added.n_accepted;
            outcome.n_duplicates += added.n_duplicates;
            outcome.n_without_prompt += n_without_prompt;
            Ok::<_, ApiError>(())
        })?;
        if outcome.n_accepted > 0 {
            app.events.announce(&Event::LogChanged { n_records: app.store.n_records()? });
        }
        Ok::<_, ApiError>(outcome)
    });
    Ok(Json(outcome.await?))
}

/// The same as a file: one impression a line, as `beckon import` and `POST /api/log/import` take it.
#[utoipa::path(
    get, path = "/api/experiments/{id}/export", tag = "experiments",
    responses((status = 200, body = String, content_type = "application/jsonl"))
)]
pub async fn export(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let (store, wanted) = (std::sync::Arc::clone(&app.store), id.clone());
    let experiment = blocking(move || store.experiment(&wanted)).await?.ok_or_else(|| unknown(&id))?;
    let (sender, receiver) = mpsc::channel::<std::io::Result<Bytes>>(CHANNEL);
    tokio::task::spawn_blocking(move || {
        let walked = pages(&app.store, &experiment, |impressions, _| {
            let text = crate::simulate::logging::to_jsonl(&impressions);
            sender.blocking_send(Ok(Bytes::from(text))).map_err(|_| Ended::Gone)
        });
        if let Err(Ended::Store(error)) = walked {
            tracing::error!(%error, "an export broke off");
            // an error here means that the client went away
            let _ = sender.blocking_send(Err(std::io::Error::other("the store cannot be read")));
        }
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/jsonl")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, Body::from_stream(ReceiverStream::new(receiver))).into_response())
}

/// Why an export ended early.
enum Ended {
    /// The client went away.
    Gone,
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
