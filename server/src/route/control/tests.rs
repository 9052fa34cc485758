//! A WebSocket is closed when the token that opened it is removed.

use super::*;
use crate::accept::{Limits, serve};
use crate::access::new_token;
use crate::app::tests::{bench_with, open_doors};
use axum::Router;
use axum::routing::get;
use beckon_shared::control::Event;
use beckon_shared::control::access::Role;
use tokio::net::TcpListener;
use tungstenite::Message as Heard;

const OFTEN: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_socket_is_closed_soon_after_its_token_is_removed() {
    let bench = bench_with(open_doors());
    let (text, token) = new_token("ann", Role::Viewer, 0, None).expect("random");
    assert!(bench.app.store.add_token(&token).expect("stored"));
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {text}")).expect("a value"));
    let app = bench.app.clone();
    let route = get(move |upgrade: WebSocketUpgrade| async move {
        let events = app.events.listen(None).expect("open");
        let client = Client::new(app, &headers, None, None);
        upgrade.on_upgrade(move |socket| client.serve(socket, events, OFTEN))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("ws://{}/", listener.local_addr().expect("an address"));
    let router = Router::new().route("/", route);
    tokio::spawn(serve(listener, None, router, Limits::default(), std::future::pending()));

    let connect = tokio::task::spawn_blocking(move || tungstenite::connect(url).expect("connects").0);
    let mut socket = connect.await.expect("no panic");
    // several looks later it is still open
    tokio::time::sleep(5 * OFTEN).await;
    bench.app.events.announce(&Event::LogChanged { n_records: 1 });
    let read = tokio::task::spawn_blocking(move || (socket.read().expect("an event"), socket));
    let (event, mut socket) = tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("no panic");
    assert!(event.to_text().expect("text").contains("n_records"), "{event}");

    assert!(bench.app.store.remove_token("ann").expect("removed"));
    let read = tokio::task::spawn_blocking(move || socket.read().expect("a message"));
    match tokio::time::timeout(PATIENCE, read).await.expect("the socket stays open").expect("no panic") {
        Heard::Close(Some(frame)) => assert_eq!(u16::from(frame.code), close_code::POLICY, "{frame}"),
        other => panic!("not an end: {other:?}"),
    }
}
