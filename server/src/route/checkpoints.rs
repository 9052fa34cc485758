//! `/api/checkpoints`: what the page loads its policy and reward model from, and the registry of them.

pub mod compressed;
mod sending;

use super::listing::Part;
use super::page::accepts;
use super::problem::ApiError;
use super::{blocking, runs};
use crate::app::App;
use crate::audit::CommandId;
use crate::catalog::bucket::BucketError;
use crate::catalog::{CatalogError, Content};
use crate::registry::{self, RegistryError};
use crate::run_config::branch_config;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use beckon_shared::checkpoint::Manifest;
use beckon_shared::control::registry::{Lineage, MAX_NOTE_BYTES, Note, RegistryEntry, lineage};
use beckon_shared::control::{CheckpointInfo, RunConfig, RunStatus};
use sending::send;
use std::collections::BTreeSet;
use std::ops::Range;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// Of content that its address fixes.
const FOR_GOOD: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

/// Checkpoints, newest first, the built-in one last.
#[utoipa::path(
    get, path = "/api/checkpoints", tag = "checkpoints", params(Part), responses((status = 200, body = Vec<CheckpointInfo>))
)]
pub async fn list(State(app): State<App>, Query(part): Query<Part>) -> (HeaderMap, Json<Vec<CheckpointInfo>>) {
    part.of("/api/checkpoints", app.catalog.infos(), |info| &info.id)
}

/// Checkpoints with everything that the registry knows of each: parent, evaluation results, tags, note.
#[utoipa::path(
    get, path = "/api/registry", tag = "checkpoints", params(Part), responses((status = 200, body = Vec<RegistryEntry>))
)]
pub async fn registry(
    State(app): State<App>,
    Query(part): Query<Part>,
) -> Result<(HeaderMap, Json<Vec<RegistryEntry>>), ApiError> {
    let entries = blocking(move || registry::entries(&app.catalog, &app.store)).await?;
    Ok(part.of("/api/registry", entries, |entry| &entry.info.id))
}

/// Which checkpoint was made from which log and which parent: a part of the nodes, roots first, with the edges that lead to them.
/// Parts behind each other are the whole graph.
#[utoipa::path(get, path = "/api/lineage", tag = "checkpoints", params(Part), responses((status = 200, body = Lineage)))]
pub async fn descent(State(app): State<App>, Query(part): Query<Part>) -> Result<(HeaderMap, Json<Lineage>), ApiError> {
    let entries = blocking(move || registry::entries(&app.catalog, &app.store)).await?;
    let (graph, next) = part_of_graph(&part, lineage(&entries));
    Ok((part.link("/api/lineage", next), Json(graph)))
}

/// A part of the nodes with the edges that lead to them, and the node that the next part comes after.
fn part_of_graph(part: &Part, graph: Lineage) -> (Lineage, Option<String>) {
    let (nodes, next) = part.cut(graph.nodes, |node| &node.id);
    let ids: BTreeSet<&str> = nodes.iter().map(|node| node.id.as_str()).collect();
    let edges = graph.edges.into_iter().filter(|edge| ids.contains(edge.to.as_str())).collect();
    (Lineage { nodes, edges }, next)
}

/// Makes a run that starts from this checkpoint's policy; the body names what differs from the configuration of the run that
/// made it.
#[utoipa::path(
    post, path = "/api/checkpoints/{id}/branch", tag = "checkpoints", request_body = RunConfig,
    responses((status = 201, body = RunStatus))
)]
pub async fn branch(
    State(app): State<App>,
    Path(id): Path<String>,
    command_id: Option<Extension<CommandId>>,
    body: Bytes,
) -> Result<(StatusCode, Json<RunStatus>), ApiError> {
    let manifest = app.catalog.manifest(&id).ok_or_else(|| unknown(&id))?;
    let config = runs::with_device(&app, branch_config(&id, &manifest.lineage.config, &body)?);
    let audit_id = command_id.map(|id| id.0.id);
    let status = blocking(move || app.trainer.submit(config, false, audit_id)).await?;
    Ok((StatusCode::CREATED, Json(status)))
}

/// Replaces the note on a checkpoint.
#[utoipa::path(
    put, path = "/api/checkpoints/{id}/note", tag = "checkpoints", request_body = Note,
    responses((status = 200, body = RegistryEntry))
)]
pub async fn annotate(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<RegistryEntry>, ApiError> {
    let note: Note = super::parsed(&body)?;
    if note.text.len() > MAX_NOTE_BYTES {
        return Err(ApiError::refused(format!("a note may have {MAX_NOTE_BYTES} bytes, this has {}", note.text.len())));
    }
    let entry = blocking(move || {
        registry::entry(&app.catalog, &app.store, &id)?;
        app.store.set_note(&id, &note.text)?;
        registry::announce(&app.catalog, &app.store, &app.events, &id)
    });
    Ok(Json(entry.await?))
}

/// Deletes a checkpoint that nothing needs: not built in, not tagged, not a parent, not used by a run or an experiment.
#[utoipa::path(delete, path = "/api/checkpoints/{id}", tag = "checkpoints", responses((status = 204)))]
pub async fn delete(
    State(app): State<App>,
    Path(id): Path<String>,
    command_id: Option<Extension<CommandId>>,
) -> Result<StatusCode, ApiError> {
    let again = CommandId::is_again(command_id);
    blocking(move || match registry::delete(&app.catalog, &app.store, &app.events, &id) {
        // it went the first time
        Err(RegistryError::Unknown { .. }) if again => Ok(()),
        done => done,
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

impl From<BucketError> for ApiError {
    /// The storage is another machine's: its failure may pass.
    fn from(error: BucketError) -> Self {
        tracing::error!(%error, "the storage of checkpoints failed");
        let detail = "the storage of checkpoints did not do it; try again; the server's log says why";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage unavailable", detail)
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Unknown { .. } => Self::not_found(error.to_string()),
            RegistryError::Kept(_) => Self::new(StatusCode::CONFLICT, "needed", error.to_string()),
            RegistryError::Catalog(CatalogError::Bucket(error)) => error.into(),
            RegistryError::Catalog(_) => Self::internal(&error.to_string()),
            RegistryError::Store(error) => error.into(),
        }
    }
}

/// The header of the file.
#[utoipa::path(
    get, path = "/api/checkpoints/{id}", tag = "checkpoints", responses((status = 200, body = serde_json::Value))
)]
pub async fn show(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Manifest>, ApiError> {
    let manifest = app.catalog.manifest(&id).ok_or_else(|| unknown(&id))?;
    Ok(Json((*manifest).clone()))
}

/// The bytes, whole or (with a `Range` of one part) from where a broken-off download
/// goes on. The id fixes the content, so it is the entity tag and caches may keep it for good.
#[utoipa::path(
    get, path = "/api/checkpoints/{id}/file", tag = "checkpoints",
    params(("id", Path), ("range" = Option<String>, Header, description = "`bytes=first-last`, one part")),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "the client has it"),
        (status = 416, body = beckon_shared::control::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn file(State(app): State<App>, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    let (content, n_bytes) = app.catalog.content(&id).ok_or_else(|| unknown(&id))?;
    answer(&content, n_bytes, &id, &headers).await
}

/// What the run of this checkpoint learnt, as factors over the checkpoint it started from: for a client that has that one.
/// Ranges and entity tag as with the whole file; whole, it comes with gzip to those who accept it. 404 where the run trained all
/// weights.
#[utoipa::path(
    get, path = "/api/checkpoints/{id}/adapter", tag = "checkpoints",
    params(("id", Path), ("range" = Option<String>, Header, description = "`bytes=first-last`, one part")),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 304, description = "the client has it"),
        (status = 416, body = beckon_shared::control::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn adapter(State(app): State<App>, Path(id): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    app.catalog.content(&id).ok_or_else(|| unknown(&id))?;
    let (info, content) = app.catalog.adapter(&id).ok_or_else(|| {
        ApiError::not_found(format!("checkpoint {id} has no adapter: its run did not train with lora; fetch its file"))
    })?;
    let small = info.n_bytes <= compressed::MAX_FILE_BYTES;
    let mut response = if small && !headers.contains_key(header::RANGE) && accepts(&headers, "gzip") {
        answer_compressed(app, content, info.id, &headers).await?
    } else {
        answer(&content, info.n_bytes, &info.id, &headers).await?
    };
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    Ok(response)
}

/// The same content with gzip: another representation, so with an entity tag of its own.
async fn answer_compressed(app: App, content: Content, id: String, headers: &HeaderMap) -> Result<Response, ApiError> {
    let etag = format!("\"{id}-gzip\"");
    let mut response = if is_known(headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let bytes = blocking(move || app.compressed.get(&id, &content)).await?;
        let coding = HeaderValue::from_static("gzip");
        ([(header::CONTENT_TYPE, OCTETS), (header::CONTENT_ENCODING, coding)], bytes).into_response()
    };
    insert(&mut response, header::ETAG, &etag);
    response.headers_mut().insert(header::CACHE_CONTROL, FOR_GOOD);
    Ok(response)
}

/// Whether the client says that it has what the tag stands for.
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let tags = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    tags.is_some_and(|tags| tags == "*" || tags.contains(etag))
}

/// Content that `id` fixes, whole or in part.
async fn answer(content: &Content, n_bytes: u64, id: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let etag = format!("\"{id}\"");
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let mut response = if is_known(headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        // a part of another content would not fit to what the client has
        let fits = text(header::IF_RANGE).is_none_or(|tag| tag == etag);
        match text(header::RANGE).filter(|_| fits).map(|range| parse_range(range, n_bytes)) {
            Some(Some(Asked::Nothing)) => {
                let detail = format!("the file has {n_bytes} bytes");
                let mut response =
                    ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "no such range", detail).into_response();
                insert(&mut response, header::CONTENT_RANGE, &format!("bytes */{n_bytes}"));
                return Ok(response);
            }
            Some(Some(Asked::Part(range))) => {
                let shown = format!("bytes {}-{}/{n_bytes}", range.start, range.end - 1);
                let mut response = send(content, range).await?;
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                insert(&mut response, header::CONTENT_RANGE, &shown);
                response
            }
            // no range, or one of a form that a server may ignore
            None | Some(None) => send(content, 0..n_bytes).await?,
        }
    };
    insert(&mut response, header::ETAG, &etag);
    insert(&mut response, header::ACCEPT_RANGES, "bytes");
    response.headers_mut().insert(header::CACHE_CONTROL, FOR_GOOD);
    Ok(response)
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no checkpoint {id}; GET /api/checkpoints lists those that can be fetched"))
}

fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    // every value is made of digits, hexadecimal digits and fixed words
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[derive(Debug, PartialEq)]
enum Asked {
    Part(Range<u64>),
    Nothing,
}

/// One part of `bytes=first-last`, `bytes=first-` or `bytes=-n`; `None` for anything else.
fn parse_range(text: &str, n_bytes: u64) -> Option<Asked> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", n) => n_bytes.saturating_sub(n.parse().ok()?)..n_bytes,
        (first, "") => first.parse().ok()?..n_bytes,
        (first, last) => {
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(n_bytes)
        }
    };
    Some(if range.is_empty() { Asked::Nothing } else { Asked::Part(range) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::control::registry::{LineageEdge, LineageNode};

    #[test]
    fn parts_of_the_graph_behind_each_other_are_the_whole() {
        let node = |id: &str| LineageNode { id: id.into(), kind: "checkpoint".into(), name: id.into() };
        let edge = |from: &str, to: &str| LineageEdge { from: from.into(), to: to.into(), run_id: None };
        let whole = Lineage {
            nodes: ["data", "a", "b", "c"].map(node).into(),
            edges: vec![edge("data", "a"), edge("data", "b"), edge("a", "b"), edge("b", "c")],
        };
        let (mut joined, mut query) = (Lineage::default(), "limit=2".to_owned());
        loop {
            let uri = format!("/api/lineage?{query}").parse().expect("an address");
            let part = Query::<Part>::try_from_uri(&uri).expect("a part").0;
            let (got, next) = part_of_graph(&part, whole.clone());
            assert_eq!(got.nodes.len(), 2);
            joined.nodes.extend(got.nodes);
            joined.edges.extend(got.edges);
            let Some(next) = next else { break };
            query = format!("limit=2&before={next}");
        }
        assert_eq!(joined, whole);
    }

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        let part = |range| Some(Asked::Part(range));
        assert_eq!(parse_range("bytes=0-9", 100), part(0..10));
        assert_eq!(parse_range("bytes=90-", 100), part(90..100));
        assert_eq!(parse_range("bytes=-7", 100), part(93..100));
        assert_eq!(parse_range("bytes=-700", 100), part(0..100));
        assert_eq!(parse_range("bytes=90-900", 100), part(90..100));
        assert_eq!(parse_range("bytes=100-", 100), Some(Asked::Nothing));
        assert_eq!(parse_range("bytes=-0", 100), Some(Asked::Nothing));
        for ignored in ["bytes=9-3", "bytes=a-b", "bytes=1-2,5-6", "lines=1-2", "bytes=5"] {
            assert_eq!(parse_range(ignored, 100), None, "{ignored}");
        }
    }
}
