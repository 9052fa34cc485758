//! `GET /api/control`: a WebSocket for both ways. Orders come in, answers and events go out.
//!
//! An order is done as the request that it stands for, by the same router: roles, limits, audit and idempotency are the same,
//! and the key of an order is its idempotency key. Orders of one connection are done in turn.

use super::events::{LOOK_EVERY, ListenParams, beat};
use super::problem::ApiError;
use crate::accept::Slot;
use crate::access::Pass;
use crate::app::{App, router};
use crate::audit::KEY_HEADER;
use crate::events::Numbered;
use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::Response;
use beckon_shared::control::Problem;
use beckon_shared::control::access::Need;
use beckon_shared::control::command::{Order, Reply};
use futures_util::stream::{Stream, StreamExt};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

/// Largest message of a client, bytes.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Largest answer to an order.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// What is taken over from the request that opened the connection.
const IDENTITY: [header::HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, header::HOST];

/// Opens the connection; with `after`, events from the one after that number on. It is closed (1008) within 15 s once its token is
/// removed or has expired.
#[utoipa::path(
    get, path = "/api/control", tag = "events", params(ListenParams),
    responses((status = 101, description = "a WebSocket: `Order` in, `Reply` out"), (status = 426, description = "no upgrade"))
)]
pub async fn open(
    State(app): State<App>,
    Query(params): Query<ListenParams>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    slot: Option<Extension<Slot>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| {
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "no upgrade", format!("this path speaks WebSocket only: {error}"))
    })?;
    let events = app
        .events
        .listen(params.after)
        .map_err(|error| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no room", error.to_string()))?;
    let client = Client::new(app, &headers, peer.map(|peer| peer.0), slot.map(|slot| slot.0));
    let upgrade =
        upgrade.max_message_size(MAX_MESSAGE_BYTES).on_failed_upgrade(|error| tracing::debug!(%error, "no WebSocket"));
    Ok(upgrade.on_upgrade(move |socket| client.serve(socket, events, LOOK_EVERY)))
}

struct Client {
    app: App,
    identity: HeaderMap,
    pass: Pass,
    peer: Option<ConnectInfo<SocketAddr>>,
    slot: Option<Slot>,
}

impl Client {
    fn new(app: App, headers: &HeaderMap, peer: Option<ConnectInfo<SocketAddr>>, slot: Option<Slot>) -> Self {
        let identity =
            IDENTITY.iter().flat_map(|name| headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        let (identity, pass) = (identity.collect(), Pass::new(Arc::clone(&app.store), headers, Need::View));
        Self { app, identity, pass, peer, slot }
    }

    /// Until either side ends it, or the client's pass, looked at `every` so often, is no longer good.
    async fn serve(self, mut socket: WebSocket, events: impl Stream<Item = Arc<Numbered>>, every: Duration) {
        tokio::pin!(events);
        let (mut beat, mut why) = (beat(every), None);
        loop {
            let reply = tokio::select! {
                _ = beat.tick() => {
                    if self.pass.is_good().await {
                        continue;
                    }
                    why = Some(CloseFrame { code: close_code::POLICY, reason: "the token is no longer good".into() });
                    break;
                }
                event = events.next() => match event {
                    Some(numbered) => event_reply(&numbered),
                    None => break,
                },
                message = socket.recv() => match message {
                    Some(Ok(Message::Text(text))) => self.answer(&text).await,
                    Some(Ok(Message::Binary(_))) => refusal("", "an order is a text message"),
                    // answered by the protocol itself
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                },
            };
            // a reply is strings, numbers and lists of them, so it has a JSON form
            let text = serde_json::to_string(&reply).unwrap_or_default();
            if socket.send(Message::Text(text.into())).await.is_err() {
                return;
            }
        }
        // an error means that the client is gone already
        let _ = socket.send(Message::Close(why)).await;
    }

    async fn answer(&self, text: &str) -> Reply {
        let order: Order = match serde_json::from_str(text) {
            Ok(order) => order,
            Err(error) => {
                let key = serde_json::from_str::<Value>(text).ok();
                let key = key.as_ref().and_then(|value| value["key"].as_str()).unwrap_or_default();
                return refusal(key, &format!("not an order: {error}"));
            }
        };
        let Ok(key) = HeaderValue::from_str(&order.key) else {
            return refusal("", "a key is visible ASCII characters");
        };
        let call = order.command.call();
        let body = call.body.as_ref().map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = Request::builder().method(call.method).uri(&call.path).header(KEY_HEADER, key).body(body);
        let Ok(mut request) = request else { return refusal(&order.key, "the order names no path of this server") };
        request.headers_mut().extend(self.identity.clone());
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        if let Some(slot) = &self.slot {
            request.extensions_mut().insert(slot.clone());
        }
        let response = match router(self.app.clone()).oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), MAX_ANSWER_BYTES).await.unwrap_or_default();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Reply::Answer { key: order.key, status, body }
    }
}

fn event_reply(numbered: &Numbered) -> Reply {
    Reply::Event { seq: numbered.seq, event: serde_json::from_str(&numbered.json).unwrap_or(Value::Null) }
}

fn refusal(key: &str, detail: &str) -> Reply {
    let problem = Problem { title: "bad order".into(), status: 400, detail: detail.into() };
    let body = serde_json::to_value(problem).unwrap_or(Value::Null);
    Reply::Answer { key: key.to_owned(), status: 400, body }
}

#[cfg(test)]
mod tests;
