//! Whether the server answers, whether it can work, and its figures for Prometheus.

use super::blocking;
use super::problem::ApiError;
use crate::app::App;
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use beckon_shared::control::PROTOCOL_VERSION;
use serde::{Deserialize, Serialize};

/// Answer of `GET /api/health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Health {
    /// `ok` whenever the server answers.
    pub status: String,
    /// Version of the program.
    pub version: String,
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Where runs compute unless they say otherwise, in words.
    pub device: String,
}

/// Whether the server answers, and what it is.
#[utoipa::path(get, path = "/api/health", tag = "server", responses((status = 200, body = Health)))]
pub async fn health(State(app): State<App>) -> Json<Health> {
    Json(Health {
        status: "ok".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        protocol: PROTOCOL_VERSION,
        device: app.device.clone(),
    })
}

/// Answer of `GET /api/ready`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Readiness {
    /// The database can be written.
    pub store: bool,
    /// The trainer takes runs.
    pub trainer: bool,
}

/// Whether the server can work: 200, or 503 with what is missing.
#[utoipa::path(
    get, path = "/api/ready", tag = "server",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness))
)]
pub async fn ready(State(app): State<App>) -> Result<(StatusCode, Json<Readiness>), ApiError> {
    let readiness = blocking(move || {
        let store = app.store.set_setting("ready", "").is_ok();
        Ok::<_, ApiError>(Readiness { store, trainer: app.trainer.is_alive() })
    });
    let readiness = readiness.await?;
    let ok = readiness.store && readiness.trainer;
    Ok((if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(readiness)))
}

/// Figures in the text format of Prometheus (OpenMetrics).
#[utoipa::path(
    get, path = "/api/metrics", tag = "server",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"))
)]
pub async fn metrics(State(app): State<App>) -> Result<Response, ApiError> {
    let text = blocking(move || {
        app.telemetry.set_gauges(app.events.n_listeners(), app.trainer.n_queued(), app.store.n_records()?);
        app.telemetry.text().map_err(|error| ApiError::internal(&format!("figures cannot be written: {error}")))
    });
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text.await?).into_response())
}
