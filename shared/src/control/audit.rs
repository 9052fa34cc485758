//! The audit log as the server shows it.

use serde::{Deserialize, Serialize};

/// One command: who asked for what and when, and how it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditRecord {
    /// Increases.
    pub id: i64,
    /// When, milliseconds since 1970 UTC.
    pub time_millis: i64,
    /// Name of the token, or `local` where none is needed.
    pub sender: String,
    /// HTTP method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Idempotency key.
    pub key: Option<String>,
    /// Body, where it is short text.
    pub body: String,
    /// HTTP status of the answer; `None` where the process died before it.
    pub status: Option<u16>,
}
