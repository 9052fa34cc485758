//! `GET /api/audit`: who asked for what, and when.

use super::blocking;
use super::listing::Part;
use super::problem::ApiError;
use crate::app::App;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use beckon_shared::control::audit::AuditRecord;

/// Commands, newest first.
#[utoipa::path(get, path = "/api/audit", tag = "access", params(Part), responses((status = 200, body = Vec<AuditRecord>)))]
pub async fn list(
    State(app): State<App>,
    Query(part): Query<Part>,
) -> Result<(HeaderMap, Json<Vec<AuditRecord>>), ApiError> {
    let (before, limit) = (part.before_number(), part.limit());
    let records = blocking(move || app.store.audit(before, limit)).await?;
    let next = part.next(&records, |record| record.id.to_string());
    Ok((part.link("/api/audit", next), Json(records)))
}
