//! `/api/log`: what is in the click log, and how more gets in.

use super::blocking;
use super::problem::ApiError;
use crate::app::App;
use crate::import::{ImportError, MAX_IMPORT_BYTES, import_bytes, summary_of_refusal};
use crate::store::RecordQuery;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, FailedToBufferBody};
use axum::extract::{FromRequest, Query, Request, State};
use axum::http::{StatusCode, header};
use beckon_shared::click::Sourced;
use beckon_shared::control::{Event, ImportOutcome, LogSummary};
use beckon_shared::import::Format;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;

/// Records in one answer.
const MAX_LIMIT: u64 = 1_000;

/// What is in the log.
#[utoipa::path(get, path = "/api/log/summary", tag = "log", responses((status = 200, body = LogSummary)))]
pub async fn summary(State(app): State<App>) -> Result<Json<LogSummary>, ApiError> {
    Ok(Json(blocking(move || app.store.summary()).await?))
}

/// Which records `GET /api/log/records` is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RecordsParams {
    /// Of this data set only.
    source: Option<String>,
    /// Leave out this many.
    #[serde(default)]
    offset: u64,
    /// At most this many, 1,000 at most.
    #[serde(default = "default_limit")]
    limit: u64,
}

fn default_limit() -> u64 {
    50
}

/// Records in the order they were imported, 50 unless told, 1,000 at most.
#[utoipa::path(
    get, path = "/api/log/records", tag = "log", params(RecordsParams),
    responses((status = 200, body = Vec<serde_json::Value>))
)]
pub async fn records(
    State(app): State<App>,
    Query(params): Query<RecordsParams>,
) -> Result<Json<Vec<Sourced>>, ApiError> {
    let RecordsParams { source, offset, limit } = params;
    let source = source.filter(|source| !source.is_empty());
    let query = RecordQuery { source, offset, limit: limit.min(MAX_LIMIT) };
    Ok(Json(blocking(move || app.store.records(&query)).await?))
}

/// JSON Schema of one line of our own JSONL.
#[utoipa::path(get, path = "/api/log/schema", tag = "log", responses((status = 200, body = serde_json::Value)))]
pub async fn schema() -> Json<Value> {
    Json(beckon_shared::click::json_schema())
}

/// What `POST /api/log/import` is told beside the file.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportParams {
    /// jsonl, mimics-duo, mimics-manual, intents, upworthy or conversations.
    format: String,
    /// Name of the file, for that of the refused lines.
    #[serde(default)]
    name: String,
}

/// Imports a log file, which is the body. Good lines are stored whatever the others are; 422 where
/// nothing was stored and something was refused.
#[utoipa::path(
    post, path = "/api/log/import", tag = "log", params(ImportParams),
    request_body(content = String, content_type = "application/octet-stream"),
    responses((status = 200, body = ImportOutcome), (status = 422, description = "an outcome, or a problem"))
)]
pub async fn import(
    State(app): State<App>,
    Query(params): Query<ImportParams>,
    request: Request,
) -> Result<(StatusCode, Json<ImportOutcome>), ApiError> {
    let format: Format = params.format.parse().map_err(|error| ApiError::refused(format!("{error}")))?;
    let Ok(_permit) = app.imports.clone().try_acquire_owned() else {
        let detail = "other imports are running; try again when they are done";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail));
    };
    // told before the file is sent where the sender says how long it is
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > MAX_IMPORT_BYTES as u64) {
        return Err(too_large());
    }
    let body = match Bytes::from_request(request, &()).await {
        Ok(body) => body,
        Err(BytesRejection::FailedToBufferBody(FailedToBufferBody::LengthLimitError(_))) => return Err(too_large()),
        Err(error) => return Err(ApiError::new(StatusCode::BAD_REQUEST, "upload broke off", error.body_text())),
    };
    let outcome = blocking(move || {
        let outcome = import_bytes(&app.store, format, &params.name, &body, &app.rejects_dir)?;
        if outcome.n_accepted > 0 {
            let n_records = app.store.n_records().map_err(ImportError::Store)?;
            app.events.announce(&Event::LogChanged { n_records });
        }
        Ok::<_, ImportError>(outcome)
    })
    .await?;
    let refused = summary_of_refusal(&outcome).is_some();
    Ok((if refused { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK }, Json(outcome)))
}

fn too_large() -> ApiError {
    let mib = MAX_IMPORT_BYTES >> 20;
    let detail =
        format!("a file may have {mib} MiB; split it at a line end, or use `beckon import` on the server's machine");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "file too large", detail)
}
