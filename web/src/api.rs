//! The server's REST interface, typed.

use crate::platform::http::{self, Body, NetworkError};
use crate::platform::{clock, spawn};
use beckon_shared::click::Sourced;
use beckon_shared::control::command::Command;
use beckon_shared::control::experiment::{ExperimentStatus, Results};
use beckon_shared::control::listing;
use beckon_shared::control::registry::{Promotion, RegistryEntry, TagState};
use beckon_shared::control::{CheckpointInfo, ImportOutcome, LogSummary, Metric, Problem, RunCommand, RunStatus};
use beckon_shared::json;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Pause before a command that got no answer is sent again.
const AGAIN_MILLIS: i32 = 1_000;

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
    let answer = http::send("POST", &url, body, None).await?;
    if answer.status == 422
        && let Ok(outcome) = json::parse(&answer.text)
    {
        return Ok(outcome);
    }
    typed(&url, understood(&url, answer)?)
}

/// `GET /api/runs`.
pub async fn runs() -> Result<Vec<RunStatus>, ApiError> {
    list("/api/runs").await
}

/// `POST /api/runs/{id}/{command}`.
pub async fn command_run(id: &str, action: RunCommand) -> Result<RunStatus, ApiError> {
    command(&Command::SteerRun { run: id.to_owned(), action }).await
}

/// Sends a command; the answer is the resulting state.
pub async fn command<T: DeserializeOwned>(command: &Command) -> Result<T, ApiError> {
    typed("a command", order(command).await?)
}

/// Sends a command whose answer is not looked at as a type. Where no answer comes it is sent once more, with the key of the
/// first time: it may have been done, and is then answered as it was.
pub async fn order(command: &Command) -> Result<Answered, ApiError> {
    let call = command.call();
    let key = http::fresh_key();
    let mut again = key.is_some();
    loop {
        let body = call.body.as_ref().map_or(Body::None, |body| Body::Json(body.to_string()));
        match http::send(call.method, &call.path, body, key.as_deref()).await {
            Ok(answer) => return understood(&call.path, answer),
            Err(_) if again => again = false,
            Err(error) => return Err(error.into()),
        }
        clock::sleep(AGAIN_MILLIS).await;
    }
}

/// `GET /api/registry`, newest first.
pub async fn registry() -> Result<Vec<RegistryEntry>, ApiError> {
    list("/api/registry").await
}

/// `GET /api/experiments`, newest first.
pub async fn experiments() -> Result<Vec<ExperimentStatus>, ApiError> {
    list("/api/experiments").await
}

/// `GET /api/experiments/{id}/results`.
pub async fn results(id: &str) -> Result<Results, ApiError> {
    get(&format!("/api/experiments/{}/results", http::encoded(id))).await
}

/// `GET /api/tags`.
pub async fn tags() -> Result<Vec<TagState>, ApiError> {
    get("/api/tags").await
}

/// `GET /api/promotions`, oldest first.
pub async fn promotions() -> Result<Vec<Promotion>, ApiError> {
    list("/api/promotions").await
}

/// `GET /api/runs/{id}/metrics`.
pub async fn metrics(id: &str) -> Result<Vec<Metric>, ApiError> {
    list(&format!("/api/runs/{}/metrics", http::encoded(id))).await
}

/// `GET /api/checkpoints`, newest first.
pub async fn checkpoints() -> Result<Vec<CheckpointInfo>, ApiError> {
    list("/api/checkpoints").await
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

/// An answer that is no refusal.
#[derive(Debug)]
pub struct Answered {
    /// What it says; `null` where it says nothing.
    pub value: Value,
    /// Where the list that it is goes on.
    pub next: Option<String>,
}

/// Any call, its answer as it came. What may change something has a key of its own, so that it is done once even where
/// the browser sends it again.
///
/// # Errors
/// No answer, a refusal with its reason, or no JSON.
pub async fn ask(method: &str, url: &str, body: Body) -> Result<Answered, ApiError> {
    let key = if method == "GET" { None } else { http::fresh_key() };
    understood(url, http::send(method, url, body, key.as_deref()).await?)
}

/// Any call; `then` takes the answer, or why there is none. One future for all that is asked once and only shown.
pub fn call(method: &'static str, url: String, body: Body, then: impl FnOnce(Result<Answered, String>) + 'static) {
    let then: Box<dyn FnOnce(Result<Answered, String>)> = Box::new(then);
    spawn_call(method, url, body, then);
}

fn spawn_call(method: &'static str, url: String, body: Body, then: Box<dyn FnOnce(Result<Answered, String>)>) {
    spawn(async move { then(ask(method, &url, body).await.map_err(|error| error.to_string())) });
}

/// A list that is only shown, with all its parts; `then` takes it, or why there is none.
pub fn call_list(url: &'static str, then: impl FnOnce(Result<Value, String>) + 'static) {
    spawn(async move { then(whole(url).await.map(|answer| answer.value).map_err(|error| error.to_string())) });
}

/// A list with all its parts.
async fn whole(url: &str) -> Result<Answered, ApiError> {
    let mut list = ask("GET", url, Body::None).await?;
    while let Some(next) = list.next.take() {
        let part = ask("GET", &next, Body::None).await?;
        listing::append(&mut list.value, part.value);
        list.next = part.next;
    }
    Ok(list)
}

async fn list<T: DeserializeOwned>(url: &str) -> Result<T, ApiError> {
    typed(url, whole(url).await?)
}

fn understood(url: &str, answer: http::Answer) -> Result<Answered, ApiError> {
    let http::Answer { status, text, next } = answer;
    let is_ok = (200..300).contains(&status);
    let value = if text.is_empty() && is_ok { Ok(Value::Null) } else { serde_json::from_str(&text) };
    match value {
        Ok(value) if is_ok => Ok(Answered { value, next }),
        Ok(value) => {
            Err(serde_json::from_value(value)
                .map_or_else(|_| strange(url, format!("status {status}")), ApiError::Refused))
        }
        Err(error) => Err(strange(url, if is_ok { error.to_string() } else { format!("status {status}") })),
    }
}

fn strange(url: &str, reason: String) -> ApiError {
    ApiError::NotUnderstood { call: url.to_owned(), reason }
}

fn typed<T: DeserializeOwned>(url: &str, answer: Answered) -> Result<T, ApiError> {
    serde_json::from_value(answer.value).map_err(|error| strange(url, error.to_string()))
}

async fn get<T: DeserializeOwned>(url: &str) -> Result<T, ApiError> {
    typed(url, ask("GET", url, Body::None).await?)
}
