//! `/api/session`: how the page signs in. The token goes into a cookie that scripts cannot read and other sites cannot use.

use super::problem::ApiError;
use crate::access::COOKIE;
use crate::app::App;
use crate::app::guard::{address_of, denied, holder_of};
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use beckon_shared::control::access::{Role, Sender};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use utoipa::ToSchema;

/// Life of the cookie, seconds; the token may end earlier.
const MAX_AGE_SECS: u32 = 30 * 86_400;

/// Who the server takes the sender for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Name of the token; `local` where none is needed, `None` where there is none.
    pub name: Option<String>,
    /// What its holder may do; `None`: nothing.
    pub role: Option<Role>,
}

impl From<&Sender> for Session {
    fn from(sender: &Sender) -> Self {
        match sender {
            Sender::Holder { name, role } => Self { name: Some(name.clone()), role: Some(*role) },
            Sender::Anonymous => Self { name: None, role: None },
            Sender::Ingest { .. } => Self { name: Some(sender.name()), role: None },
        }
    }
}

/// A token to sign in with.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// As an admin gave it.
    pub token: String,
}

/// Who is signed in.
#[utoipa::path(get, path = "/api/session", tag = "access", responses((status = 200, body = Session)))]
pub async fn show(Extension(sender): Extension<Sender>) -> Json<Session> {
    Json(Session::from(&sender))
}

/// Signs in: sets the cookie.
#[utoipa::path(
    post, path = "/api/session", tag = "access", request_body = SignIn, responses((status = 200, body = Session))
)]
pub async fn sign_in(
    State(app): State<App>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let SignIn { token } = super::parsed(&body)?;
    let token = token.trim();
    let sender = match holder_of(&app, token.to_owned()).await? {
        Ok(sender @ Sender::Holder { .. }) => sender,
        Ok(_) => return Err(ApiError::unauthorized("this is an ingest key, not a token")),
        Err(error) => return Err(denied(&app, &address_of(peer.as_ref().map(|peer| &peer.0)), error)),
    };
    let mut response = Json(Session::from(&sender)).into_response();
    set_cookie(&mut response, token, MAX_AGE_SECS, app.tls)?;
    Ok(response)
}

/// Signs out: removes the cookie.
#[utoipa::path(delete, path = "/api/session", tag = "access", responses((status = 204)))]
pub async fn sign_out(State(app): State<App>) -> Result<Response, ApiError> {
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_cookie(&mut response, "", 0, app.tls)?;
    Ok(response)
}

fn set_cookie(response: &mut Response, value: &str, max_age_secs: u32, secure: bool) -> Result<(), ApiError> {
    let secure = if secure { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={max_age_secs}{secure}");
    // a token that was found in the store is letters, digits and `_`
    let cookie = HeaderValue::from_str(&cookie).map_err(|_| ApiError::unauthorized("the token is not known"))?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(())
}
