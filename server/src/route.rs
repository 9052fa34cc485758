//! HTTP handlers, one file per resource; which path leads to which is in [`crate::app`].
//!
//! In the loop: remote control and data of every step. Handlers parse at the edge, call the store, the catalog or the
//! trainer (which block, so on a blocking thread), and answer with the types of [`beckon_shared::control`].

pub mod checkpoints;
pub mod events;
pub mod health;
pub mod log;
pub mod page;
pub mod problem;
pub mod runs;

use problem::ApiError;

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
