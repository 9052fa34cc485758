//! `/api/tokens`: who may come in. Only admins see it; a token's secret is shown once, when it is made.

use super::blocking;
use super::listing::Part;
use super::problem::ApiError;
use crate::access::new_token;
use crate::app::App;
use crate::audit::CommandId;
use crate::store::StoredToken;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Json};
use beckon_shared::control::access::Role;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest name, bytes.
const MAX_NAME_BYTES: usize = 100;
const DAY_MILLIS: i64 = 86_400_000;
/// Longest life, days.
const MAX_DAYS: u32 = 3_650;

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenInfo {
    /// For people; unique.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// When it was made, milliseconds since 1970 UTC.
    pub created_millis: i64,
    /// When it ends; `None`: never.
    pub expires_millis: Option<i64>,
}

impl From<StoredToken> for TokenInfo {
    fn from(token: StoredToken) -> Self {
        let StoredToken { name, role, created_millis, expires_millis, .. } = token;
        Self { name, role, created_millis, expires_millis }
    }
}

/// A token to be made.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenWish {
    /// 1 to 100 bytes.
    pub name: String,
    /// Role.
    pub role: Role,
    /// Days until it ends, 1 to 3,650; never where it is left out.
    #[serde(default)]
    pub days: Option<u32>,
}

/// A token just made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// Give this to the holder; it cannot be shown again.
    pub token: String,
    /// What is kept.
    pub info: TokenInfo,
}

/// Checks a wish and makes the token: its text, and what to keep.
///
/// # Errors
/// A name or a life that is refused, or no randomness.
pub fn token_from_wish(wish: &TokenWish, now_millis: i64) -> Result<(String, StoredToken), ApiError> {
    let TokenWish { name, role, days } = wish;
    if name.trim().is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(ApiError::refused(format!("a name is 1 to {MAX_NAME_BYTES} bytes of text")));
    }
    if days.is_some_and(|days| days == 0 || days > MAX_DAYS) {
        return Err(ApiError::refused(format!("days is 1 to {MAX_DAYS}")));
    }
    let expires_millis = days.map(|days| now_millis + i64::from(days) * DAY_MILLIS);
    new_token(name, *role, now_millis, expires_millis)
        .map_err(|error| ApiError::internal(&format!("the system gives no randomness: {error}")))
}

/// All tokens, oldest first, without secrets; the name of one is its id in `before`.
#[utoipa::path(get, path = "/api/tokens", tag = "access", params(Part), responses((status = 200, body = Vec<TokenInfo>)))]
pub async fn list(
    State(app): State<App>,
    Query(part): Query<Part>,
) -> Result<(HeaderMap, Json<Vec<TokenInfo>>), ApiError> {
    let tokens = blocking(move || app.store.tokens()).await?;
    let infos: Vec<TokenInfo> = tokens.into_iter().map(TokenInfo::from).collect();
    Ok(part.of("/api/tokens", infos, |info| &info.name))
}

/// Makes a token.
#[utoipa::path(
    post, path = "/api/tokens", tag = "access", request_body = TokenWish, responses((status = 201, body = NewToken))
)]
pub async fn create(State(app): State<App>, body: Bytes) -> Result<(StatusCode, Json<NewToken>), ApiError> {
    let (token, stored) = token_from_wish(&super::parsed(&body)?, crate::now_millis())?;
    let info = TokenInfo::from(stored.clone());
    if !blocking(move || app.store.add_token(&stored)).await? {
        let detail = format!("there is a token named {}; remove it first or take another name", info.name);
        return Err(ApiError::new(StatusCode::CONFLICT, "name taken", detail));
    }
    Ok((StatusCode::CREATED, Json(NewToken { token, info })))
}

/// Removes a token; its holder is out at once, and streams that it opened end within 15 s.
#[utoipa::path(delete, path = "/api/tokens/{name}", tag = "access", responses((status = 204)))]
pub async fn delete(
    State(app): State<App>,
    Path(name): Path<String>,
    command_id: Option<Extension<CommandId>>,
) -> Result<StatusCode, ApiError> {
    let shown = name.clone();
    // where it is done again, it may have been removed the first time
    let again = CommandId::is_again(command_id);
    if blocking(move || app.store.remove_token(&name)).await? || again {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(ApiError::not_found(format!("there is no token named {shown}")))
}
