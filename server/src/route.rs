//! HTTP handlers, one file per resource; which path leads to which is in [`crate::app`].
//!
//! In the loop: remote control and data of every step. Handlers parse at the edge, call the store, the catalog or the
//! trainer (which block, so on a blocking thread), and answer with the types of [`beckon_shared::control`].

pub mod analyze;
pub mod audit;
pub mod checkpoints;
pub mod control;
pub mod events;
pub mod experiments;
pub mod health;
pub mod listing;
pub mod log;
pub mod page;
pub mod plan;
pub mod problem;
pub mod runs;
pub mod session;
pub mod tags;
pub mod tokens;

use axum::Json;
use problem::ApiError;
use serde::de::DeserializeOwned;

/// Reads a JSON body; the error names the path of the key at fault.
pub(crate) fn parsed<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    Json::from_bytes(body).map(|Json(value)| value).map_err(|error| ApiError::refused(error.body_text()))
}

/// Runs something that blocks (SQLite, files) where it holds up no other request.
pub(crate) async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, ApiError>
where
    T: Send + 'static,
    E: Into<ApiError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(ApiError::internal(&format!("a request's work broke off: {error}"))),
    }
}
