//! The OpenAPI 3.1 document, made from the handlers and their types, and a small page that shows it without asking anyone else.
//!
//! What every route may answer beside its own results (problems of the guard, of limits, of the framework) is added here in
//! one place, by what the route needs. A test holds the document and the table of routes together.

use crate::app::App;
use crate::route::{
    analyze, audit, checkpoints, control, events, experiments, health, log, plan, runs, session, tags, tokens,
};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use beckon_shared::control::command::{Command, Order};
use beckon_shared::control::experiment::ExperimentCommand;
use beckon_shared::control::{Event, PROTOCOL_VERSION, Problem, RunCommand};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, PathItem, Ref, RefOr, Required, ResponseBuilder};
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
        runs::list, runs::create, runs::check, runs::show, runs::tune, runs::delete, runs::metrics, runs::samples, runs::log,
        runs::report, runs::command,
        checkpoints::list, checkpoints::show, checkpoints::delete, checkpoints::file, checkpoints::adapter, checkpoints::branch,
        checkpoints::annotate, checkpoints::registry, checkpoints::descent,
        tags::promote, tags::list, tags::roll_back, tags::history,
        experiments::list, experiments::create, experiments::show, experiments::delete, experiments::command,
        experiments::new_key, experiments::assignment, experiments::ingest, experiments::results,
        experiments::harvest::export, experiments::harvest::harvest, plan::show,
        analyze::show,
        events::listen, control::open,
        tokens::list, tokens::create, tokens::delete, audit::list,
    ),
    components(schemas(Problem, Event, Order, Command, RunCommand, ExperimentCommand)),
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
                add_path_parameters(path, operation);
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

/// Every name in braces is a parameter: text, unless the route says more of it.
fn add_path_parameters(path: &str, operation: &mut Operation) {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name);
    let parameters = operation.parameters.get_or_insert_default();
    for name in names {
        let is_known = |known: &RefOr<Parameter>| match known {
            RefOr::T(known) => known.name == name && known.schema.is_some(),
            RefOr::Ref(_) => false,
        };
        if parameters.iter().any(is_known) {
            continue;
        }
        parameters.retain(|known| !matches!(known, RefOr::T(known) if known.name == name));
        let text = ObjectBuilder::new().schema_type(Type::String).build();
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path);
        parameters.push(RefOr::T(parameter.required(Required::True).schema(Some(text)).build()));
    }
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
        (503, "the server is shutting down, has no room at this moment, or cannot reach its database or storage"),
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

    #[test]
    fn every_path_parameter_is_described_and_every_reference_leads_somewhere() {
        let json = serde_json::to_value(document()).expect("json");
        for (path, item) in json["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("operations") {
                for name in path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name) {
                    let known = operation["parameters"].as_array().into_iter().flatten();
                    let found: Vec<_> = known.filter(|p| p["name"] == name && p["in"] == "path").collect();
                    assert!(found.len() == 1 && found[0]["schema"].is_object(), "{method} {path}: {name} is {found:?}");
                    assert_eq!(found[0]["required"], true, "{method} {path}: {name}");
                }
            }
        }
        let text = json.to_string();
        let references = text.split("\"$ref\":\"#/").skip(1).filter_map(|rest| rest.split('"').next());
        for reference in references {
            assert!(json.pointer(&format!("/{reference}")).is_some(), "{reference} leads nowhere");
        }
    }
}
