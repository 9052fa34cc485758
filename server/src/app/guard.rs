//! What a request passes through before a handler sees it: its id and log line, host and origin, sender and role, limits.

use super::{App, Rule};
use crate::access::{AccessError, IdentifyError, LOCAL, identify, token_of};
use crate::audit::{KEY_HEADER, recorded};
use crate::route::blocking;
use crate::route::problem::ApiError;
use axum::extract::{ConnectInfo, MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use beckon_shared::control::PROTOCOL_VERSION;
use beckon_shared::control::access::{Need, Role, Sender};
use beckon_shared::digest::hex;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tracing::Instrument;

/// Header that carries the id of a request; one that a proxy sent is kept.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id taken over.
const MAX_ID_BYTES: usize = 64;

/// Gives the request an id, counts it, and writes a line about it.
pub async fn observe(State(app): State<App>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let plain = |id: &&str| {
        !id.is_empty() && id.len() <= MAX_ID_BYTES && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let id = text(request.headers(), &REQUEST_ID).filter(plain).map_or_else(new_id, str::to_owned);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::info_span!("request", id = %id, %method, path = %path);
    let mut response = next.run(request).instrument(span.clone()).await;
    let (status, secs) = (response.status().as_u16(), begun.elapsed().as_secs_f64());
    let route = response.extensions().get::<MatchedRoute>().map_or("other", |route| route.0.as_str());
    app.telemetry.answered(method_label(&method), route, status, secs);
    span.in_scope(|| {
        if status >= 500 {
            tracing::warn!(status, millis = secs * 1e3, "answered");
        } else {
            tracing::debug!(status, millis = secs * 1e3, "answered");
        }
    });
    let headers = response.headers_mut();
    headers.insert("beckon-protocol", HeaderValue::from(PROTOCOL_VERSION));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    response
}

/// Name of a method for the figures: what is made up would make a series each.
fn method_label(method: &Method) -> &str {
    const KNOWN: [Method; 7] =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    if KNOWN.contains(method) { method.as_str() } else { "other" }
}

/// Pattern of the route that answered, for the figures.
#[derive(Clone)]
struct MatchedRoute(String);

fn new_id() -> String {
    let mut id = [0; 8];
    // an id that is not random is still an id
    let _ = getrandom::fill(&mut id);
    hex(&id)
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Refuses requests that a page of another site may have made, and answers what such a page asks before it sends one it may.
pub async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let host = authority.or(text(headers, &header::HOST)).unwrap_or_default();
    if !app.doors.remote && !is_loopback_name(host) {
        let detail =
            format!("this server answers to localhost, not to {host:?}; listen on another address to change that");
        return ApiError::new(StatusCode::MISDIRECTED_REQUEST, "wrong host", detail).into_response();
    }
    let origin = text(headers, &header::ORIGIN);
    let foreign = origin.filter(|origin| !is_origin_of(origin, host)).map(str::to_owned);
    let Some(foreign) = foreign else {
        let cross_site = text(headers, &HeaderName::from_static("sec-fetch-site")) == Some("cross-site");
        if cross_site && origin.is_none() && !request.method().is_safe() {
            return other_origin("").into_response();
        }
        return next.run(request).await;
    };
    let listed = match origin_is_listed(&app, &foreign, request.uri().path()).await {
        Ok(listed) => listed,
        Err(error) => return error.into_response(),
    };
    // a browser sends the Origin of a WebSocket and lets any page open one, so it counts as a change
    let harmless = request.method().is_safe() && !headers.contains_key(header::UPGRADE);
    if !listed {
        let preflight = request.method() == Method::OPTIONS;
        return if harmless && !preflight { next.run(request).await } else { other_origin(&foreign).into_response() };
    }
    let mut response = match request.method() {
        &Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    allow(response.headers_mut(), &foreign);
    response
}

fn is_origin_of(origin: &str, host: &str) -> bool {
    origin.split_once("://").is_some_and(|(_, origin_host)| origin_host == host)
}

fn other_origin(origin: &str) -> ApiError {
    let detail = format!(
        "requests that change something must come from the server's own page, a program, or a listed origin; {origin:?} is \
         none of them"
    );
    ApiError::new(StatusCode::FORBIDDEN, "other origin", detail)
}

/// Whether pages of `origin` may use `path`: all of it where the server lists the origin, the intake of an experiment where
/// that does.
async fn origin_is_listed(app: &App, origin: &str, path: &str) -> Result<bool, ApiError> {
    if app.doors.origins.iter().any(|listed| listed == origin) {
        return Ok(true);
    }
    let intake = path.strip_prefix("/api/experiments/").and_then(|rest| rest.split_once('/'));
    let Some((id, "assignment" | "events")) = intake else { return Ok(false) };
    let (app, id, origin) = (app.clone(), id.to_owned(), origin.to_owned());
    blocking(move || {
        app.store.experiment(&id).map(|found| found.is_some_and(|e| e.config.allowed_origins.contains(&origin)))
    })
    .await
}

/// What a browser needs to hear. Cookies of the page are never part of it.
fn allow(headers: &mut HeaderMap, origin: &str) {
    let Ok(origin) = HeaderValue::from_str(origin) else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, PUT, PATCH, DELETE"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type, idempotency-key, last-event-id"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "link, retry-after, x-request-id, beckon-protocol"),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
        // the isolation of the own page would keep the answer from the other one
        (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Whether `host` (with or without a port) names the machine itself.
pub(super) fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split(':').next().unwrap_or_default(),
    };
    let address = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Lets a request through to its handler where its sender may, not too often, within the time.
pub async fn admit(
    State((app, rule)): State<(App, Rule)>,
    path: MatchedPath,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let route = MatchedRoute(path.as_str().to_owned());
    let experiment = params.iter().find(|(name, _)| *name == "id").map(|(_, value)| value.to_owned());
    let address = address_of(request.extensions().get());
    let mut response = match sender_of(&app, &rule, experiment.as_deref(), request.headers(), address).await {
        Err(error) => error.into_response(),
        Ok(sender) => {
            request.extensions_mut().insert(sender.clone());
            let done = recorded(app, rule, sender, request, next);
            let done = tokio::time::timeout(rule.time_limit, done).await;
            done.unwrap_or_else(|_| too_slow(rule.time_limit).into_response())
        }
    };
    response.extensions_mut().insert(route);
    response
}

/// Address of a connection's other side, as the limits know it.
pub(crate) fn address_of(peer: Option<&ConnectInfo<SocketAddr>>) -> String {
    peer.map_or_else(|| "unknown".to_owned(), |peer| peer.0.ip().to_string())
}

/// What a client hears that did not send its request, or get its answer, within `limit`.
pub(crate) fn too_slow(limit: Duration) -> ApiError {
    let detail = format!(
        "the request was not complete within {} s; a command with an {KEY_HEADER} goes on, and the same request with the \
         same key gets its answer",
        limit.as_secs()
    );
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "too slow", detail)
}

async fn sender_of(
    app: &App,
    rule: &Rule,
    experiment: Option<&str>,
    headers: &HeaderMap,
    address: String,
) -> Result<Sender, ApiError> {
    let sender = find_sender(app, rule, headers, &address).await?;
    let client = match &sender {
        Sender::Anonymous => address,
        // every visitor of a site has the same key
        Sender::Ingest { .. } => format!("{} at {address}", sender.name()),
        Sender::Holder { .. } => sender.name(),
    };
    app.doors.requests.take(&client).map_err(|wait| ApiError::too_often(&client, wait))?;
    if !sender.may(rule.need, experiment) {
        return Err(match &sender {
            Sender::Anonymous if !app.doors.token_needed && is_forwarded(headers) => ApiError::unauthorized(
                "a proxy has passed this on, so it needs a token: make one (`beckon token add NAME --role admin`), sign in at \
                 /sign-in, and start the server with --require-token",
            ),
            Sender::Anonymous => ApiError::unauthorized("this needs a token; the page asks for it at /sign-in"),
            sender => forbidden(sender, rule.need),
        });
    }
    let coded = headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding.as_bytes() != b"identity");
    if coded {
        let detail = "compressed bodies are not read; send it as it is";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "compressed body", detail));
    }
    Ok(sender)
}

/// Headers in which a proxy says for whom it asks.
const FORWARDED: [&str; 6] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"];

fn is_forwarded(headers: &HeaderMap) -> bool {
    FORWARDED.iter().any(|name| headers.contains_key(*name))
}

async fn find_sender(app: &App, rule: &Rule, headers: &HeaderMap, address: &str) -> Result<Sender, ApiError> {
    // a page of another origin is not the person at the machine, even where it is listed, and neither is who comes through a
    // proxy on it
    let host = text(headers, &header::HOST).unwrap_or_default();
    let is_own = text(headers, &header::ORIGIN).is_none_or(|origin| is_origin_of(origin, host));
    let without = || match app.doors.token_needed || !is_own || is_forwarded(headers) {
        true => Sender::Anonymous,
        false => Sender::Holder { role: Role::Admin, name: LOCAL.into() },
    };
    let token = token_of(headers).map_err(|error| denied(app, address, error))?;
    let Some(token) = token else { return Ok(without()) };
    match holder_of(app, token).await? {
        Ok(sender) => Ok(sender),
        // a cookie that has ended must not keep anyone from signing in again, nor from health
        Err(_) if rule.need == Need::Nothing => Ok(Sender::Anonymous),
        Err(error) => Err(denied(app, address, error)),
    }
}

/// Whose token it is, or what is wrong with it.
pub(crate) async fn holder_of(app: &App, token: String) -> Result<Result<Sender, AccessError>, ApiError> {
    let store = std::sync::Arc::clone(&app.store);
    let found = blocking(move || match identify(&store, &token, crate::now_millis()) {
        Ok(sender) => Ok(Ok(sender)),
        Err(IdentifyError::Access(error)) => Ok(Err(error)),
        Err(IdentifyError::Store(error)) => Err(error),
    });
    found.await
}

/// Refuses a wrong token and counts it: an address that sends many has to wait.
pub(crate) fn denied(app: &App, address: &str, error: AccessError) -> ApiError {
    match app.doors.failures.take(address) {
        Ok(()) => ApiError::unauthorized(error.to_string()),
        Err(wait) => ApiError::too_often(address, wait),
    }
}

fn forbidden(sender: &Sender, need: Need) -> ApiError {
    let needed = match need {
        Need::Nothing | Need::View => "a viewer's token",
        Need::Ingest => "the ingest key of this experiment or an operator's token",
        Need::Operate => "an operator's token",
        Need::Administer => "an admin's token",
    };
    ApiError::new(StatusCode::FORBIDDEN, "not allowed", format!("{} may not do this; it needs {needed}", sender.name()))
}

#[cfg(test)]
pub(crate) mod tests;
