//! `/api/runs`: start, watch and steer training runs.

use super::blocking;
use super::problem::ApiError;
use crate::app::App;
use crate::run_config::run_config_from_json;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use beckon_shared::control::{DeviceChoice, Metric, RunCommand, RunStatus};

/// A report shows texts of the log; whatever they hold, nothing in it may run or load.
const REPORT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'";

/// `GET /api/runs`: all runs, newest first.
pub async fn list(State(app): State<App>) -> Result<Json<Vec<RunStatus>>, ApiError> {
    Ok(Json(blocking(move || app.trainer.statuses()).await?))
}

/// `POST /api/runs`: queues a run over the log as it is now; the body names what differs from the preset.
pub async fn create(State(app): State<App>, body: Bytes) -> Result<(StatusCode, Json<RunStatus>), ApiError> {
    let mut config = run_config_from_json(&body)?;
    if config.device == DeviceChoice::Auto {
        config.device = app.default_device;
    }
    let status = blocking(move || app.trainer.submit(config)).await?;
    Ok((StatusCode::CREATED, Json(status)))
}

/// `GET /api/runs/{id}`.
pub async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<RunStatus>, ApiError> {
    Ok(Json(blocking(move || app.trainer.status(&id)).await?))
}

/// `POST /api/runs/{id}/{command}`, where the command is `pause`, `resume` or `cancel`.
pub async fn command(
    State(app): State<App>,
    Path((id, command)): Path<(String, String)>,
) -> Result<Json<RunStatus>, ApiError> {
    let command = match command.as_str() {
        "pause" => RunCommand::Pause,
        "resume" => RunCommand::Resume,
        "cancel" => RunCommand::Cancel,
        _ => return Err(ApiError::not_found(format!("{command} is not pause, resume or cancel"))),
    };
    Ok(Json(blocking(move || app.trainer.command(&id, command)).await?))
}

/// `GET /api/runs/{id}/metrics`: the curves so far, by stage and step.
pub async fn metrics(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Vec<Metric>>, ApiError> {
    let metrics = blocking(move || {
        app.trainer.status(&id)?;
        Ok::<_, crate::trainer::TrainerError>(app.store.metrics(&id)?)
    });
    Ok(Json(metrics.await?))
}

/// `GET /api/runs/{id}/report`: the HTML report of a finished run.
pub async fn report(State(app): State<App>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let html = blocking(move || {
        // the id is one of ours from here on, so it is safe as a folder name
        let status = app.trainer.status(&id)?;
        match std::fs::read(app.trainer.run_dir(&status.id).join("report.html")) {
            Ok(html) => Ok(html),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(ApiError::not_found(format!("run {id} has no report yet; it is written after the rl stage")))
            }
            Err(error) => Err(ApiError::internal(&format!("cannot read the report of {id}: {error}"))),
        }
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(REPORT_POLICY)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, html.await?).into_response())
}
