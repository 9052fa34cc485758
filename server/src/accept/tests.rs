//! Slow clients, those that read nothing, TLS, shutdown, and the WebSocket, over real sockets.

use super::*;
use crate::app::router;
use crate::app::tests::{Bench, bench_with, open_doors};
use axum::routing::get;
use beckon_shared::control::command::Reply;
use beckon_shared::control::{Event, RunStatus};
use futures_util::StreamExt;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tungstenite::Message;

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    bench: Bench,
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn start(tls: Option<TlsAcceptor>, limits: Limits) -> Running {
    let bench = bench_with(open_doors());
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel();
    let router = router(bench.app.clone());
    let task = tokio::spawn(serve(listener, tls, router, limits, async { _ = stopped.await }));
    Running { bench, addr, stop, task }
}

async fn end_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
    // a reset is an end too
    _ = end.expect("the server never hung up");
    bytes
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_cut_off() {
    let limits = Limits { head: Duration::from_millis(300), ..Limits::default() };
    let server = start(None, limits).await;
    let mut stream = TcpStream::connect(server.addr).await.expect("connects");
    let begun = Instant::now();
    for byte in b"GET /api/health HTTP/1.1\r\nhost: localhost\r\nx-slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
        if stream.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = end_of(&mut stream).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "a slow head was answered");
    assert!(begun.elapsed() >= limits.head, "it was cut off before its time");
    // others are served meanwhile and after
    let mut quick = TcpStream::connect(server.addr).await.expect("connects");
    quick.write_all(b"GET /api/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.expect("sent");
    assert!(end_of(&mut quick).await.starts_with(b"HTTP/1.1 200"));
}

/// A server of one connection at a time whose writes wait half a second: `/big` is more than the buffers of both sides take, and
/// `/quiet` says something, then nothing for longer than that, and then something more.
async fn serve_one_at_a_time() -> SocketAddr {
    let quiet = || async {
        let words = futures_util::stream::iter(["one ", "two"]).then(|word| async move {
            if word == "two" {
                tokio::time::sleep(Duration::from_millis(800)).await;
            }
            Ok::<_, std::convert::Infallible>(word)
        });
        Body::from_stream(words)
    };
    let big = || async { vec![0_u8; N_BIG] };
    let router = Router::new().route("/big", get(big)).route("/quiet", get(quiet)).route("/", get(|| async { "here" }));
    let limits = Limits { n_connections: 1, write: Duration::from_millis(500), ..Limits::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, None, router, limits, std::future::pending()));
    addr
}

const N_BIG: usize = 48 << 20;

async fn ask(addr: SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.expect("connects");
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream
}

#[tokio::test]
async fn who_reads_nothing_is_cut_off_and_gives_its_place_to_the_next() {
    let addr = serve_one_at_a_time().await;
    let mut reads_nothing = ask(addr, "/big").await;
    let begun = Instant::now();
    let answer = end_of(&mut ask(addr, "/").await).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    assert!(begun.elapsed() >= Duration::from_millis(500), "it was cut off before its time");
    assert!(end_of(&mut reads_nothing).await.len() < N_BIG, "it got everything");
}

#[tokio::test]
async fn who_reads_slowly_gets_everything_and_silence_is_no_stall() {
    let addr = serve_one_at_a_time().await;
    let (mut slow, begun) = (ask(addr, "/big").await, Instant::now());
    let (mut piece, mut n_read) = (vec![0; 8 << 20], 0);
    // always within the limit, and longer than it together
    loop {
        let n = tokio::time::timeout(PATIENCE, slow.read(&mut piece)).await.expect("in time").expect("not cut off");
        if n == 0 {
            break;
        }
        let n_pauses = (n_read + n) / (8 << 20) - n_read / (8 << 20);
        n_read += n;
        tokio::time::sleep(Duration::from_millis(150) * n_pauses as u32).await;
    }
    assert!(n_read > N_BIG && begun.elapsed() >= Duration::from_millis(800), "{n_read} bytes in {:?}", begun.elapsed());
    let quiet = end_of(&mut ask(addr, "/quiet").await).await;
    let quiet = String::from_utf8_lossy(&quiet);
    assert!(quiet.contains("one ") && quiet.contains("two"), "{quiet}");
}

#[tokio::test]
async fn the_shutdown_ends_idle_connections_and_streams() {
    let server = start(None, Limits::default()).await;
    let mut stream = TcpStream::connect(server.addr).await.expect("connects");
    stream.write_all(b"GET /api/events HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200");
    server.bench.app.events.close();
    server.stop.send(()).expect("it runs");
    tokio::time::timeout(PATIENCE, server.task).await.expect("it ends").expect("without a panic");
    end_of(&mut stream).await;
    assert!(TcpStream::connect(server.addr).await.is_err(), "it still takes connections");
}

#[tokio::test]
async fn https_by_certificate_files() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    let dir = tempfile::tempdir().expect("a folder for the test");
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let server = start(Some(tls_from_files(&certificate, &key).expect("usable")), Limits::default()).await;
    let root = ureq::tls::Certificate::from_der(made.cert.der()).to_owned();
    let tls = ureq::tls::TlsConfig::builder().root_certs(ureq::tls::RootCerts::new_with_certs(&[root])).build();
    let agent = ureq::Agent::config_builder().tls_config(tls).build().new_agent();
    let url = format!("https://localhost:{}/api/health", server.addr.port());
    let status = tokio::task::spawn_blocking(move || agent.get(url).call().map(|response| response.status().as_u16()));
    assert_eq!(status.await.expect("no panic").expect("an answer"), 200);
    // plain HTTP on the same port gets nothing
    let mut plain = TcpStream::connect(server.addr).await.expect("connects");
    plain.write_all(b"GET /api/health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("sent");
    assert!(!end_of(&mut plain).await.starts_with(b"HTTP"));
}

#[test]
fn a_certificate_that_is_none_is_named() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let file = dir.path().join("cert.pem");
    std::fs::write(&file, "not a certificate").expect("written");
    let error = tls_from_files(&file, &file).err().expect("refused").to_string();
    assert!(error.contains("cert.pem"), "{error}");
}

/// Sends orders and reads until there are as many answers and an event of a run, which may come in any order.
fn converse(url: &str, orders: &[&str]) -> (Vec<(String, u16, serde_json::Value)>, Vec<Event>) {
    let (mut socket, _) = tungstenite::connect(url).expect("connects");
    for order in orders {
        socket.send(Message::text(*order)).expect("sent");
    }
    let (mut answers, mut events) = (Vec::new(), Vec::new());
    while answers.len() < orders.len() || !events.iter().any(|event| matches!(event, Event::Run(_))) {
        let message = socket.read().expect("a message");
        match serde_json::from_str(message.to_text().expect("text")).expect("a reply") {
            Reply::Answer { key, status, body } => answers.push((key, status, body)),
            Reply::Event { event, .. } => events.push(serde_json::from_value::<Event>(event).expect("an event")),
        }
    }
    (answers, events)
}

#[tokio::test]
async fn orders_and_events_share_a_websocket() {
    let server = start(None, Limits::default()).await;
    let url = format!("ws://localhost:{}/api/control", server.addr.port());
    let order = r#"{"key": "k1", "command": "create_run", "config": {"preset": "tiny"}, "draft": true}"#;
    let pause = r#"{"key": "k2", "command": "steer_run", "run": "r1", "action": "pause"}"#;
    let talk = tokio::task::spawn_blocking(move || converse(&url, &[order, order, pause, "{broken"]));
    let (answers, events) = tokio::time::timeout(PATIENCE, talk).await.expect("in time").expect("no panic");
    let run: RunStatus = serde_json::from_value(answers[0].2.clone()).expect("a run");
    assert_eq!((answers[0].1, run.id.as_str()), (201, "r1"));
    assert_eq!(answers[1], answers[0], "the same order was done twice");
    assert_eq!((answers[2].0.as_str(), answers[2].1), ("k2", 409));
    assert_eq!((answers[3].0.as_str(), answers[3].1), ("", 400));
    assert!(events.iter().any(|event| matches!(event, Event::Run(run) if run.id == "r1")));
}
