//! `/api/runs`: start, watch and steer training runs.

use super::blocking;
use super::listing::Part;
use super::problem::ApiError;
use crate::app::App;
use crate::audit::CommandId;
use crate::run_config::{run_config_from_json, tuning_from_json};
use crate::trainer::TrainerError;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use beckon_shared::control::command::segment;
use beckon_shared::control::sample::Sample;
use beckon_shared::control::tuning::Tuning;
use beckon_shared::control::{DeviceChoice, Metric, RunCommand, RunConfig, RunLine, RunStatus, Stage};
use serde::Deserialize;
use utoipa::IntoParams;

/// A report shows texts of the log; whatever they hold, nothing in it may run or load.
const REPORT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'";

/// All runs, newest first.
#[utoipa::path(get, path = "/api/runs", tag = "runs", params(Part), responses((status = 200, body = Vec<RunStatus>)))]
pub async fn list(
    State(app): State<App>,
    Query(part): Query<Part>,
) -> Result<(HeaderMap, Json<Vec<RunStatus>>), ApiError> {
    let statuses = blocking(move || app.trainer.statuses()).await?;
    Ok(part.of("/api/runs", statuses, |run| &run.id))
}

/// How `POST /api/runs` makes a run.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CreateParams {
    /// Only make it; `POST /api/runs/{id}/start` puts it into the queue.
    #[serde(default)]
    draft: bool,
}

/// Makes a run over the log as it is now and queues it; the body names what differs from the preset. The answer shows every
/// default.
#[utoipa::path(
    post, path = "/api/runs", tag = "runs", params(CreateParams), request_body = RunConfig,
    responses((status = 201, body = RunStatus))
)]
pub async fn create(
    State(app): State<App>,
    Query(params): Query<CreateParams>,
    id: Option<Extension<CommandId>>,
    body: Bytes,
) -> Result<(StatusCode, Json<RunStatus>), ApiError> {
    let config = with_device(&app, run_config_from_json(&body)?);
    let audit_id = id.map(|id| id.0.id);
    let status = blocking(move || app.trainer.submit(config, params.draft, audit_id)).await?;
    Ok((StatusCode::CREATED, Json(status)))
}

/// Fills in the server's device where a configuration leaves it open.
pub(super) fn with_device(app: &App, mut config: RunConfig) -> RunConfig {
    if config.device == DeviceChoice::Auto {
        config.device = app.default_device;
    }
    config
}

/// The configuration that a run with this body would have, every default filled in; nothing is made.
#[utoipa::path(
    post, path = "/api/runs/check", tag = "runs", request_body = RunConfig, responses((status = 200, body = RunConfig))
)]
pub async fn check(State(app): State<App>, body: Bytes) -> Result<Json<RunConfig>, ApiError> {
    Ok(Json(with_device(&app, run_config_from_json(&body)?)))
}

/// One run.
#[utoipa::path(get, path = "/api/runs/{id}", tag = "runs", responses((status = 200, body = RunStatus)))]
pub async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<RunStatus>, ApiError> {
    Ok(Json(blocking(move || app.trainer.status(&id)).await?))
}

/// Steers a run: `start`, `pause`, `resume` or `cancel`.
#[utoipa::path(
    post, path = "/api/runs/{id}/{command}", tag = "runs",
    params(("id", Path), ("command" = RunCommand, Path)), responses((status = 200, body = RunStatus))
)]
pub async fn command(
    State(app): State<App>,
    command_id: Option<Extension<CommandId>>,
    Path((id, command)): Path<(String, String)>,
) -> Result<Json<RunStatus>, ApiError> {
    let steers = |command: &RunCommand| !matches!(command, RunCommand::Tune | RunCommand::Delete);
    let Some(command) = RunCommand::from_name(&command).filter(steers) else {
        return Err(ApiError::not_found(format!("{command} is not start, pause, resume or cancel")));
    };
    let again = CommandId::is_again(command_id);
    Ok(Json(blocking(move || app.trainer.command(&id, command, again)).await?))
}

/// Changes values of a run from its next step on: learning rates, of RL `kl_beta`, `kl_budget_nats`, `fusion_weights`.
#[utoipa::path(
    patch, path = "/api/runs/{id}", tag = "runs", request_body = Tuning, responses((status = 200, body = RunStatus))
)]
pub async fn tune(State(app): State<App>, Path(id): Path<String>, body: Bytes) -> Result<Json<RunStatus>, ApiError> {
    let tuning = tuning_from_json(&body)?;
    Ok(Json(blocking(move || app.trainer.tune(&id, tuning)).await?))
}

/// Forgets a run that is not at work, with its folder and curves; its checkpoint stays. The answer is its last state.
#[utoipa::path(
    delete, path = "/api/runs/{id}", tag = "runs",
    responses(
        (status = 200, body = RunStatus),
        (status = 204, description = "the same command did it before the server stopped; the last state went with the run")
    )
)]
pub async fn delete(
    State(app): State<App>,
    Path(id): Path<String>,
    command_id: Option<Extension<CommandId>>,
) -> Result<Response, ApiError> {
    let again = CommandId::is_again(command_id);
    let status = blocking(move || match app.trainer.command(&id, RunCommand::Delete, again) {
        Err(TrainerError::Unknown { .. }) if again => Ok(None),
        done => done.map(Some),
    });
    Ok(match status.await? {
        Some(status) => Json(status).into_response(),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

/// The curves so far, by stage, step and name. The id of a point in `before` is these three with dots between them.
#[utoipa::path(
    get, path = "/api/runs/{id}/metrics", tag = "runs", params(Part), responses((status = 200, body = Vec<Metric>))
)]
pub async fn metrics(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(part): Query<Part>,
) -> Result<(HeaderMap, Json<Vec<Metric>>), ApiError> {
    let (path, asked) = (format!("/api/runs/{}/metrics", segment(&id)), part.clone());
    let metrics = blocking(move || {
        app.trainer.status(&id)?;
        let point = asked.cursor().map(point_of);
        // a cursor that is no point of ours has nothing behind it
        if point == Some(None) {
            return Ok(Vec::new());
        }
        Ok::<_, TrainerError>(app.store.metrics_after(&id, point.flatten(), asked.limit())?)
    });
    let metrics = metrics.await?;
    let next = part.next(&metrics, |Metric { stage, step, name, .. }| format!("{}.{step}.{name}", stage.name()));
    Ok((part.link(&path, next), Json(metrics)))
}

/// Stage, step and name of the point with this id.
fn point_of(id: &str) -> Option<(Stage, usize, &str)> {
    let mut words = id.splitn(3, '.');
    let (stage, step, name) = (words.next()?, words.next()?, words.next()?);
    let stage = Stage::ALL.into_iter().find(|known| known.name() == stage)?;
    Some((stage, step.parse().ok()?, name))
}

/// What the policy of a run wrote while it trained, by stage and step: at each look the same prompts with the same draws. Of each
/// stage the first sample and the newest 49 are kept, as long as the run; a text is cut at 160 characters.
#[utoipa::path(get, path = "/api/runs/{id}/samples", tag = "runs", responses((status = 200, body = Vec<Sample>)))]
pub async fn samples(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Vec<Sample>>, ApiError> {
    let samples = blocking(move || {
        app.trainer.status(&id)?;
        Ok::<_, crate::trainer::TrainerError>(app.store.run_samples(&id)?)
    });
    Ok(Json(samples.await?))
}

/// What a run said, newest first: lines of its log, and its alarms. The newest 10,000 of each are kept as long as the run.
#[utoipa::path(
    get, path = "/api/runs/{id}/log", tag = "runs", params(Part), responses((status = 200, body = Vec<RunLine>))
)]
pub async fn log(
    State(app): State<App>,
    Path(id): Path<String>,
    Query(part): Query<Part>,
) -> Result<(HeaderMap, Json<Vec<RunLine>>), ApiError> {
    let (before, limit) = (part.before_number(), part.limit());
    let path = format!("/api/runs/{}/log", segment(&id));
    let lines = blocking(move || {
        app.trainer.status(&id)?;
        Ok::<_, TrainerError>(app.store.run_lines(&id, before, limit)?)
    });
    let lines = lines.await?;
    let next = part.next(&lines, |line| line.id.to_string());
    Ok((part.link(&path, next), Json(lines)))
}

/// The HTML report of a finished run.
#[utoipa::path(
    get, path = "/api/runs/{id}/report", tag = "runs",
    responses((status = 200, body = String, content_type = "text/html"))
)]
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
