//! The HTTP application: what handlers share, which path leads where, and what every request passes through.
//!
//! There is no authentication yet. What protects a server on a loopback address from pages of other sites is that a
//! request has to name a loopback host (a rebound DNS name does not) and must not come from another origin.

use crate::catalog::Catalog;
use crate::events::Events;
use crate::import::MAX_IMPORT_BYTES;
use crate::route::problem::{self, ApiError};
use crate::route::{checkpoints, events, health, log, page, runs};
use crate::store::Store;
use crate::trainer::Trainer;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use beckon_shared::control::{DeviceChoice, PROTOCOL_VERSION};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Imports at a time; each may hold a file of [`MAX_IMPORT_BYTES`] in memory.
pub const MAX_IMPORTS: usize = 2;
/// Largest body of any other request.
const MAX_BODY_BYTES: usize = 1 << 20;

/// What handlers share.
pub struct Parts {
    /// The log, runs and curves.
    pub store: Arc<Store>,
    /// Announcements.
    pub events: Arc<Events>,
    /// Checkpoints that can be fetched.
    pub catalog: Arc<Catalog>,
    /// Runs.
    pub trainer: Trainer,
    /// [`MAX_IMPORTS`] permits.
    pub imports: Arc<Semaphore>,
    /// Where refused lines of imports are written.
    pub rejects_dir: PathBuf,
    /// For runs that leave the choice to the server.
    pub default_device: DeviceChoice,
    /// The default device in words.
    pub device: String,
    /// Whether other machines may connect; then any host name is right.
    pub allow_remote: bool,
}

/// Cheap to clone, as axum wants its state.
#[derive(Clone)]
pub struct App(Arc<Parts>);

impl App {
    /// Wraps the parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// All routes.
pub fn router(app: App) -> Router {
    let api = Router::new()
        .route("/health", get(health::health))
        .route("/log/summary", get(log::summary))
        .route("/log/records", get(log::records))
        .route("/log/schema", get(log::schema))
        .route("/log/import", post(log::import).layer(DefaultBodyLimit::max(MAX_IMPORT_BYTES)))
        .route("/runs", get(runs::list).post(runs::create))
        .route("/runs/{id}", get(runs::show))
        .route("/runs/{id}/metrics", get(runs::metrics))
        .route("/runs/{id}/report", get(runs::report))
        .route("/runs/{id}/{command}", post(runs::command))
        .route("/checkpoints", get(checkpoints::list))
        .route("/checkpoints/{id}", get(checkpoints::show))
        .route("/checkpoints/{id}/file", get(checkpoints::file))
        .route("/events", get(events::listen))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(problem::in_one_form));
    Router::new()
        .nest("/api", api)
        .fallback(page::page)
        .layer(from_fn_with_state(app.clone(), guard))
        .layer(from_fn(page::security_headers))
        .layer(from_fn(protocol_header))
        .with_state(app)
}

async fn unknown(uri: Uri) -> ApiError {
    ApiError::not_found(format!("/api{} is not a path of this server", uri.path()))
}

async fn protocol_header(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert("beckon-protocol", HeaderValue::from(PROTOCOL_VERSION));
    response
}

/// Refuses requests that a page of another site may have made.
async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let host = request.uri().authority().map(|authority| authority.as_str()).or(text(header::HOST)).unwrap_or_default();
    if !app.allow_remote && !is_loopback_name(host) {
        let detail =
            format!("this server answers to localhost, not to {host:?}; start it with --allow-remote to change that");
        return ApiError::new(StatusCode::MISDIRECTED_REQUEST, "wrong host", detail).into_response();
    }
    let from_elsewhere = match text(header::ORIGIN) {
        Some(origin) => origin.split_once("://").is_none_or(|(_, origin_host)| origin_host != host),
        None => text(header::HeaderName::from_static("sec-fetch-site")).is_some_and(|site| site == "cross-site"),
    };
    if from_elsewhere && !request.method().is_safe() {
        let detail = "requests that change something must come from the server's own page or from a program";
        return ApiError::new(StatusCode::FORBIDDEN, "other origin", detail).into_response();
    }
    next.run(request).await
}

/// Whether `host` (with or without a port) names the machine itself.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    let address = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests;
