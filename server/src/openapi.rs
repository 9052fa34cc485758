//! The OpenAPI 3.1 document, made from the handlers and their types, and a small page that shows it without asking anyone else.
//!
//! What every route may answer beside its own results (problems of the guard, of limits, of the framework) is added here in
//! one place, by what the route needs. A test holds the document and the table of routes together.

use crate::app::App;
use crate::route::{audit, checkpoints, control, events, experiments, health, log, runs, session, tags, tokens};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use beckon_shared::control::command::{Command, Order};
use beckon_shared::control::{Event, PROTOCOL_VERSION, Problem};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, PathItem, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi};

/// Where the document is.
pub const PATH: &str = "/openapi.json";
/// Where the page is that shows it.
pub const PAGE: &str = "/docs";

#[derive(OpenApi)]
#[openapi(
    info(title = "Beckon", description = "Training, checkpoints, experiments and events of a Beckon server."),
    paths(
        health::health, health::ready, health::metrics,
        session::show, session::sign_in, session::sign_out,
        log::summary, log::records, log::schema, log::import,
        runs::list, runs::create, runs::check, runs::show, runs::tune, runs::delete, runs::metrics, runs::report,
        runs::command,
        checkpoints::list, checkpoints::show, checkpoints::delete, checkpoints::file, checkpoints::branch,
        checkpoints::annotate, checkpoints::registry, checkpoints::descent,
        tags::promote, tags::list, tags::roll_back, tags::history,
        experiments::list, experiments::create, experiments::show, experiments::delete, experiments::command,
        experiments::new_key, experiments::assignment, experiments::ingest, experiments::results,
        experiments::harvest::export, experiments::harvest::harvest,
        events::listen, control::open,
        tokens::list, tokens::create, tokens::delete, audit::list,
    ),
    components(schemas(Problem, Event, Order, Command)),
    modifiers(&Everywhere),
)]
struct Api;

/// What holds for every route.
struct Everywhere;

impl Modify for Everywhere {
    fn modify(&self, document: &mut Document) {
        document.info.version = format!("{PROTOCOL_VERSION}");
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        for (path, item) in &mut document.paths.paths {
            for (method, operation) in operations(item) {
                add_problems(path, method, operation);
            }
        }
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem { get, put, post, delete, patch, .. } = item;
    let all = [("GET", get), ("PUT", put), ("POST", post), ("DELETE", delete), ("PATCH", patch)];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Problems that a request to any route, to one with an id, or with a body may meet.
fn add_problems(path: &str, method: &str, operation: &mut Operation) {
    let mut problems = vec![
        (400, "the request cannot be read"),
        (401, "a token is needed, or the one sent is not right"),
        (403, "the token does not allow it, or the request comes from another origin"),
        (408, "the request was not complete in time"),
        (415, "compressed bodies are not read"),
        (421, "the host name is not this server's"),
        (429, "too many requests, or the queue is full; Retry-After says how long to wait"),
        (500, "something went wrong inside the server; its log says what"),
        (503, "the server is shutting down, or has no room at this moment"),
    ];
    if path.contains('{') {
        problems.push((404, "there is nothing with this id"));
    }
    if method != "GET" {
        problems.extend([
            (409, "not possible in the present state, or the same request is being done"),
            (413, "the body is too large"),
            (422, "understood and refused; the detail says why"),
            (507, "the disk is full"),
        ]);
    }
    for (status, description) in problems {
        let content = ContentBuilder::new().schema(Some(RefOr::Ref(Ref::from_schema_name("Problem")))).build();
        let response =
            ResponseBuilder::new().description(description).content("application/problem+json", content).build();
        // what a route says of a status itself comes first
        operation.responses.responses.entry(status.to_string()).or_insert(RefOr::T(response));
    }
}

/// The document.
pub fn document() -> Document {
    Api::openapi()
}

/// Document and page as routes.
pub fn pages() -> Router<App> {
    let json = serde_json::to_value(document()).unwrap_or_default();
    Router::new()
        .route(PATH, get(move || async move { Json(json) }))
        .route(PAGE, get(|| file("text/html; charset=utf-8", include_str!("openapi/page.html"))))
        .route("/docs.js", get(|| file("text/javascript; charset=utf-8", include_str!("openapi/page.js"))))
}

async fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, HeaderValue); 2] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_openapi_3_1_and_every_answer_is_described() {
        let json = serde_json::to_value(document()).expect("json");
        assert!(json["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")), "{}", json["openapi"]);
        let create = &json["paths"]["/api/runs"]["post"]["responses"];
        for status in ["201", "400", "401", "403", "409", "413", "415", "422", "429"] {
            assert!(create[status].is_object(), "{status} is missing: {create}");
        }
        assert!(json["components"]["schemas"]["RunStatus"]["properties"]["changes"].is_object());
        assert!(json["components"]["schemas"]["Problem"].is_object());
    }
}
