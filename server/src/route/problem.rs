//! Errors as every route sends them: RFC 9457 `application/problem+json`.
//!
//! What the sender can mend is told in full. What it cannot (5xx) is logged here and sent without details.

use crate::import::ImportError;
use crate::run_config::RunConfigError;
use crate::store::StoreError;
use crate::trainer::TrainerError;
use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use beckon_shared::control::Problem;

/// Longest text of a refused request that is passed on.
const MAX_DETAIL_BYTES: usize = 16 << 10;

/// The one error type of all routes.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    title: &'static str,
    detail: String,
    /// Seconds to wait before another try.
    retry_secs: Option<u64>,
}

impl ApiError {
    /// An error that the sender can mend.
    pub fn new(status: StatusCode, title: &'static str, detail: impl Into<String>) -> Self {
        Self { status, title, detail: detail.into(), retry_secs: None }
    }

    /// 401.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not signed in", detail)
    }

    /// 429, with the time to wait.
    pub fn too_often(client: &str, wait: std::time::Duration) -> Self {
        let secs = wait.as_secs() + 1;
        let detail = format!("too many requests from {client}; wait {secs} s");
        Self { retry_secs: Some(secs), ..Self::new(StatusCode::TOO_MANY_REQUESTS, "too often", detail) }
    }

    /// What happened, where, and what to do.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// 404.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not found", detail)
    }

    /// 422: understood and refused.
    pub fn refused(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", detail)
    }

    /// 500; `cause` goes to the log only.
    pub fn internal(cause: &str) -> Self {
        tracing::error!(cause, "internal error");
        let detail = "something went wrong inside the server; its log says what";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error", detail)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem { title: self.title.into(), status: self.status.as_u16(), detail: self.detail };
        let mut response = (self.status, Json(problem)).into_response();
        let content_type = HeaderValue::from_static("application/problem+json");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, content_type);
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"beckon\""));
        }
        if let Some(secs) = self.retry_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let disk_full = match &error {
            StoreError::Database(cause) => cause.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            // `disk_full`
            StoreError::Postgres { code, .. } => code == "53100",
            StoreError::Nul => return Self::refused(error.to_string()),
            StoreError::Gone { .. } => return Self::not_found(error.to_string()),
            StoreError::Connect { .. } | StoreError::Lost { .. } => {
                tracing::error!(%error, "no database");
                let detail = "the server cannot reach its database; try again";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, "no database", detail);
            }
            _ => false,
        };
        if disk_full {
            tracing::error!(%error, "disk full");
            let detail = "the server's disk is full; nothing of the last step was stored, free some space and repeat";
            return Self::new(StatusCode::INSUFFICIENT_STORAGE, "disk full", detail);
        }
        Self::internal(&error.to_string())
    }
}

impl From<TrainerError> for ApiError {
    fn from(error: TrainerError) -> Self {
        let text = error.to_string();
        let (status, title) = match error {
            TrainerError::QueueFull => (StatusCode::TOO_MANY_REQUESTS, "queue full"),
            TrainerError::Unknown { .. } => (StatusCode::NOT_FOUND, "not found"),
            TrainerError::NotPossible { .. } => (StatusCode::CONFLICT, "not possible now"),
            TrainerError::Tuning { .. }
            | TrainerError::NoParent { .. }
            | TrainerError::NoTeacher { .. }
            | TrainerError::Device(_) => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
            TrainerError::Folder { .. } => return Self::internal(&text),
            TrainerError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "shutting down"),
            TrainerError::Elsewhere => (StatusCode::CONFLICT, "not possible here"),
            TrainerError::Store(error) => return error.into(),
        };
        Self::new(status, title, text)
    }
}

impl From<ImportError> for ApiError {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::Store(error) => error.into(),
            ImportError::Rejects { .. } => Self::internal(&error.to_string()),
        }
    }
}

impl From<RunConfigError> for ApiError {
    fn from(error: RunConfigError) -> Self {
        Self::refused(error.to_string())
    }
}

/// Gives errors of the framework (an unreadable query string, a method that a path does not know) the form of all
/// others.
pub async fn in_one_form(request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    let response = next.run(request).await;
    let status = response.status();
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let plain = content_type.is_none_or(|value| value.starts_with("text/plain"));
    if !(plain && (status.is_client_error() || status.is_server_error())) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, MAX_DETAIL_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let error = match status {
        StatusCode::METHOD_NOT_ALLOWED => ApiError::new(status, "method not allowed", format!("{what} is not known")),
        _ if status.is_server_error() => ApiError::internal(&format!("{what}: {status} {text}")),
        _ => ApiError::new(status, "bad request", format!("{what}: {text}")),
    };
    let mut response = error.into_response();
    if let Some(allow) = parts.headers.get(header::ALLOW) {
        response.headers_mut().insert(header::ALLOW, allow.clone());
    }
    response
}
