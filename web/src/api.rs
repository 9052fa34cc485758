//! The server's REST interface, typed.

use crate::platform::http::{self, Body, NetworkError};
use beckon_shared::click::Sourced;
use beckon_shared::control::command::Command;
use beckon_shared::control::experiment::harvest::HarvestOutcome;
use beckon_shared::control::experiment::{ExperimentStatus, Results};
use beckon_shared::control::registry::{Lineage, RegistryEntry, TagState};
use beckon_shared::control::{
    CheckpointInfo, ImportOutcome, LogSummary, Metric, Problem, RunCommand, RunConfig, RunStatus,
};
use beckon_shared::json;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why a call gave no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// No answer.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The server refused and said why.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// An answer that this page does not understand: versions differ, or something stands in between.
    #[error("the server's answer to {call} was not understood ({reason}); reload the page")]
    NotUnderstood {
        /// Which call.
        call: String,
        /// What was wrong.
        reason: String,
    },
}

/// `GET /api/log/summary`.
pub async fn log_summary() -> Result<LogSummary, ApiError> {
    get("/api/log/summary").await
}

/// `GET /api/log/records`, newest import last.
pub async fn records(source: Option<&str>, offset: u64, limit: u64) -> Result<Vec<Sourced>, ApiError> {
    let source = source.map(|s| format!("&source={}", http::encoded(s))).unwrap_or_default();
    get(&format!("/api/log/records?offset={offset}&limit={limit}{source}")).await
}

/// `POST /api/log/import`. Also `Ok` where every line was refused: the outcome says so.
pub async fn import(format: &str, name: &str, body: Body) -> Result<ImportOutcome, ApiError> {
    let url = format!("/api/log/import?format={}&name={}", http::encoded(format), http::encoded(name));
    let answer = http::send("POST", &url, body).await?;
    if answer.status == 422
        && let Ok(outcome) = json::parse(&answer.text)
    {
        return Ok(outcome);
    }
    parsed("import", answer)
}

/// `GET /api/runs`.
pub async fn runs() -> Result<Vec<RunStatus>, ApiError> {
    get("/api/runs").await
}

/// `POST /api/runs`.
pub async fn start_run(config: &RunConfig) -> Result<RunStatus, ApiError> {
    post("/api/runs", config).await
}

/// `POST /api/runs/{id}/{command}`.
pub async fn command_run(id: &str, action: RunCommand) -> Result<RunStatus, ApiError> {
    command(&Command::SteerRun { run: id.to_owned(), action }).await
}

/// Sends a command; the answer is the resulting state.
pub async fn command<T: DeserializeOwned>(command: &Command) -> Result<T, ApiError> {
    let call = command.call();
    let body = call.body.map_or(Body::None, |body| Body::Json(body.to_string()));
    let answer = http::send(call.method, &call.path, body).await?;
    // nothing to read is `null`
    let text = if answer.text.is_empty() { "null".to_owned() } else { answer.text };
    parsed(&call.path, http::Answer { text, ..answer })
}

/// `GET /api/registry`, newest first.
pub async fn registry() -> Result<Vec<RegistryEntry>, ApiError> {
    get("/api/registry").await
}

/// `GET /api/lineage`.
pub async fn lineage() -> Result<Lineage, ApiError> {
    get("/api/lineage").await
}

/// `GET /api/experiments`, newest first.
pub async fn experiments() -> Result<Vec<ExperimentStatus>, ApiError> {
    get("/api/experiments").await
}

/// `GET /api/experiments/{id}/results`.
pub async fn results(id: &str) -> Result<Results, ApiError> {
    get(&format!("/api/experiments/{}/results", http::encoded(id))).await
}

/// `POST /api/experiments/{id}/harvest`.
pub async fn harvest(id: &str) -> Result<HarvestOutcome, ApiError> {
    let url = format!("/api/experiments/{}/harvest", http::encoded(id));
    parsed(&url, http::send("POST", &url, Body::None).await?)
}

/// `GET /api/tags`.
pub async fn tags() -> Result<Vec<TagState>, ApiError> {
    get("/api/tags").await
}

/// `POST /api/experiments/{id}/key`: a new ingest key.
pub async fn new_key(id: &str) -> Result<String, ApiError> {
    let url = format!("/api/experiments/{}/key", http::encoded(id));
    let answer: serde_json::Value = parsed(&url, http::send("POST", &url, Body::None).await?)?;
    Ok(answer["key"].as_str().unwrap_or_default().to_owned())
}

/// `GET /api/runs/{id}/metrics`.
pub async fn metrics(id: &str) -> Result<Vec<Metric>, ApiError> {
    get(&format!("/api/runs/{}/metrics", http::encoded(id))).await
}

/// `GET /api/checkpoints`, newest first.
pub async fn checkpoints() -> Result<Vec<CheckpointInfo>, ApiError> {
    get("/api/checkpoints").await
}

/// Address of a checkpoint's bytes.
pub fn checkpoint_url(id: &str) -> String {
    format!("/api/checkpoints/{}/file", http::encoded(id))
}

/// Address of the adapter beside a checkpoint.
pub fn adapter_url(id: &str) -> String {
    format!("/api/checkpoints/{}/adapter", http::encoded(id))
}

/// Address of a run's report.
pub fn report_url(id: &str) -> String {
    format!("/api/runs/{}/report", http::encoded(id))
}

/// Address of the JSON Schema of our own log format.
pub const SCHEMA_URL: &str = "/api/log/schema";
/// Address of the events.
pub const EVENTS_URL: &str = "/api/events";

async fn get<T: DeserializeOwned>(url: &str) -> Result<T, ApiError> {
    parsed(url, http::send("GET", url, Body::None).await?)
}

async fn post<T: DeserializeOwned>(url: &str, body: &impl Serialize) -> Result<T, ApiError> {
    let text = serde_json::to_string(body)
        .map_err(|e| ApiError::NotUnderstood { call: url.to_owned(), reason: e.to_string() })?;
    parsed(url, http::send("POST", url, Body::Json(text)).await?)
}

fn parsed<T: DeserializeOwned>(call: &str, answer: http::Answer) -> Result<T, ApiError> {
    if (200..300).contains(&answer.status) {
        return json::parse(&answer.text)
            .map_err(|e| ApiError::NotUnderstood { call: call.to_owned(), reason: e.to_string() });
    }
    Err(json::parse(&answer.text).map_or_else(
        |_| ApiError::NotUnderstood { call: call.to_owned(), reason: format!("status {}", answer.status) },
        ApiError::Refused,
    ))
}
