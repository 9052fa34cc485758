//! `GET /api/health`: whether the server answers, and what it is.

use crate::app::App;
use axum::Json;
use axum::extract::State;
use beckon_shared::control::PROTOCOL_VERSION;
use serde::{Deserialize, Serialize};

/// Answer of `GET /api/health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `ok` whenever the server answers.
    pub status: String,
    /// Version of the program.
    pub version: String,
    /// [`PROTOCOL_VERSION`].
    pub protocol: u32,
    /// Where runs compute unless they say otherwise, in words.
    pub device: String,
}

/// `GET /api/health`.
pub async fn health(State(app): State<App>) -> Json<Health> {
    Json(Health {
        status: "ok".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        protocol: PROTOCOL_VERSION,
        device: app.device.clone(),
    })
}
