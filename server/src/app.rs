//! The HTTP application: what handlers share, which path leads where and what it needs, and what every request passes
//! through.
//!
//! From the outside in: log line and figures, security headers, host and origin ([`guard`]), sender and role, rate limit, time
//! limit, audit log. What a route needs of its sender stands beside the route, and a test walks the whole table.

pub mod guard;

use crate::audit::Record;
use crate::catalog::Catalog;
use crate::events::Events;
use crate::import::MAX_IMPORT_BYTES;
use crate::limit::Limiter;
use crate::route::checkpoints::compressed::Compressed;
use crate::route::problem::{self, ApiError};
use crate::route::{
    analyze, audit, checkpoints, control, events, experiments, health, log, page, plan, runs, session, tags, tokens,
};
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::trainer::Trainer;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Uri;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{MethodFilter, MethodRouter, get, on};
use beckon_shared::control::DeviceChoice;
use beckon_shared::control::access::Need;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Imports at a time; each may hold a file of [`MAX_IMPORT_BYTES`] in memory.
pub const MAX_IMPORTS: usize = 2;
/// Largest body of any other request.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// How long a request may take, its body included.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// The same for a large file.
const IMPORT_TIME_LIMIT: Duration = Duration::from_secs(900);

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
    /// Adapters with gzip.
    pub compressed: Compressed,
    /// Figures.
    pub telemetry: Telemetry,
    /// [`MAX_IMPORTS`] permits.
    pub imports: Arc<Semaphore>,
    /// Where refused lines of imports are written.
    pub rejects_dir: PathBuf,
    /// For runs that leave the choice to the server.
    pub default_device: DeviceChoice,
    /// The default device in words.
    pub device: String,
    /// Who may come in.
    pub doors: Doors,
    /// Whether browsers reach it by HTTPS.
    pub tls: bool,
}

/// Who may come in, and how often.
pub struct Doors {
    /// Whether other machines may connect; then any host name is right.
    pub remote: bool,
    /// Whether every request needs a token; always so where `remote` is.
    pub token_needed: bool,
    /// Other origins whose pages may use the interface, with a token.
    pub origins: Vec<String>,
    /// Requests of each sender.
    pub requests: Limiter,
    /// Wrong tokens of each address.
    pub failures: Limiter,
}

/// Cheap to clone, as axum wants its state.
#[derive(Clone)]
pub struct App(Arc<Parts>);

impl App {
    /// Wraps the parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// For a thread that must not keep it alive.
    pub fn downgrade(&self) -> Weak<Parts> {
        Arc::downgrade(&self.0)
    }
}

impl Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// What a route asks of a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rule {
    /// Method.
    pub method: MethodFilter,
    /// Pattern under `/api`.
    pub path: &'static str,
    /// Of its sender.
    pub need: Need,
    /// What goes into the audit log.
    pub record: Record,
    /// How long it may take; streams are not cut.
    pub time_limit: Duration,
}

/// Routes with their rules.
struct Routes {
    app: App,
    router: Router<App>,
    rules: Vec<Rule>,
}

impl Routes {
    fn route<H, T>(self, method: MethodFilter, path: &'static str, need: Need, handler: H) -> Self
    where
        H: Handler<T, App>,
        T: 'static,
    {
        let changes = method != MethodFilter::GET && need != Need::Ingest;
        let record = if changes { Record::Whole } else { Record::Nothing };
        self.add(Rule { method, path, need, record, time_limit: TIME_LIMIT }, on(method, handler))
    }

    fn add(mut self, rule: Rule, handler: MethodRouter<App>) -> Self {
        let state = (self.app.clone(), rule);
        self.router = self.router.route(rule.path, handler.route_layer(from_fn_with_state(state, guard::admit)));
        self.rules.push(rule);
        self
    }
}

/// Every route under `/api` with what it needs.
fn routes(app: App) -> Routes {
    const GET: MethodFilter = MethodFilter::GET;
    const POST: MethodFilter = MethodFilter::POST;
    const PUT: MethodFilter = MethodFilter::PUT;
    const PATCH: MethodFilter = MethodFilter::PATCH;
    const DELETE: MethodFilter = MethodFilter::DELETE;
    use Need::{Administer, Ingest, Nothing, Operate, View};
    let head = |method, path, need, time_limit| Rule { method, path, need, record: Record::Head, time_limit };
    let silent = |method, path| Rule { method, path, need: Nothing, record: Record::Nothing, time_limit: TIME_LIMIT };
    let import = on(POST, log::import).layer(DefaultBodyLimit::max(MAX_IMPORT_BYTES));
    let analysis = on(POST, analyze::show).layer(DefaultBodyLimit::max(analyze::MAX_BODY_BYTES));
    Routes { app, router: Router::new(), rules: Vec::new() }
        .route(GET, "/health", Nothing, health::health)
        .route(GET, "/ready", Nothing, health::ready)
        .route(GET, "/metrics", View, health::metrics)
        .route(GET, "/session", Nothing, session::show)
        .add(silent(POST, "/session"), on(POST, session::sign_in))
        .add(silent(DELETE, "/session"), on(DELETE, session::sign_out))
        .route(GET, "/log/summary", View, log::summary)
        .route(GET, "/log/records", View, log::records)
        .route(GET, "/log/schema", View, log::schema)
        .add(head(POST, "/log/import", Operate, IMPORT_TIME_LIMIT), import)
        .route(GET, "/runs", View, runs::list)
        .route(POST, "/runs", Operate, runs::create)
        .add(Rule { need: View, ..silent(POST, "/runs/check") }, on(POST, runs::check))
        .route(GET, "/runs/{id}", View, runs::show)
        .route(PATCH, "/runs/{id}", Operate, runs::tune)
        .route(DELETE, "/runs/{id}", Operate, runs::delete)
        .route(GET, "/runs/{id}/metrics", View, runs::metrics)
        .route(GET, "/runs/{id}/samples", View, runs::samples)
        .route(GET, "/runs/{id}/log", View, runs::log)
        .route(GET, "/runs/{id}/report", View, runs::report)
        .route(POST, "/runs/{id}/{command}", Operate, runs::command)
        .route(GET, "/checkpoints", View, checkpoints::list)
        .route(GET, "/checkpoints/{id}", View, checkpoints::show)
        .route(DELETE, "/checkpoints/{id}", Operate, checkpoints::delete)
        .route(GET, "/checkpoints/{id}/file", View, checkpoints::file)
        .route(GET, "/checkpoints/{id}/adapter", View, checkpoints::adapter)
        .route(POST, "/checkpoints/{id}/branch", Operate, checkpoints::branch)
        .route(PUT, "/checkpoints/{id}/note", Operate, checkpoints::annotate)
        .route(POST, "/checkpoints/{id}/promote", Operate, tags::promote)
        .route(GET, "/registry", View, checkpoints::registry)
        .route(GET, "/lineage", View, checkpoints::descent)
        .route(GET, "/tags", View, tags::list)
        .route(POST, "/tags/{tag}/roll-back", Operate, tags::roll_back)
        .route(GET, "/promotions", View, tags::history)
        .route(GET, "/plan", View, plan::show)
        .add(Rule { need: View, ..silent(POST, "/analyze") }, analysis)
        .route(GET, "/experiments", View, experiments::list)
        .route(POST, "/experiments", Operate, experiments::create)
        .route(GET, "/experiments/{id}", View, experiments::show)
        .route(DELETE, "/experiments/{id}", Operate, experiments::delete)
        .route(GET, "/experiments/{id}/results", View, experiments::results)
        .route(GET, "/experiments/{id}/assignment", Ingest, experiments::assignment)
        .route(POST, "/experiments/{id}/events", Ingest, experiments::ingest)
        .add(head(POST, "/experiments/{id}/key", Operate, TIME_LIMIT), on(POST, experiments::new_key))
        .route(GET, "/experiments/{id}/export", View, experiments::harvest::export)
        .route(POST, "/experiments/{id}/harvest", Operate, experiments::harvest::harvest)
        .route(POST, "/experiments/{id}/{command}", Operate, experiments::command)
        .route(GET, "/events", View, events::listen)
        .route(GET, "/control", View, control::open)
        .route(GET, "/tokens", Administer, tokens::list)
        .add(head(POST, "/tokens", Administer, TIME_LIMIT), on(POST, tokens::create))
        .route(DELETE, "/tokens/{name}", Administer, tokens::delete)
        .route(GET, "/audit", Administer, audit::list)
}

/// The table of routes and what each needs.
pub fn rules(app: &App) -> Vec<Rule> {
    routes(app.clone()).rules
}

/// All routes.
pub fn router(app: App) -> Router {
    let api = routes(app.clone())
        .router
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(problem::in_one_form));
    Router::new()
        .nest("/api", api)
        .merge(crate::openapi::pages())
        .route("/sign-in", get(page::sign_in))
        .route("/sign-in.js", get(page::sign_in_script))
        .fallback(page::page)
        .layer(from_fn_with_state(app.clone(), guard::guard))
        .layer(from_fn(page::security_headers))
        .layer(from_fn_with_state(app.clone(), guard::observe))
        .with_state(app)
}

async fn unknown(uri: Uri) -> ApiError {
    ApiError::not_found(format!("/api{} is not a path of this server", uri.path()))
}

#[cfg(test)]
pub(crate) mod tests;
