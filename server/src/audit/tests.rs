//! Commands whose client goes away, that take longer than the limit, whose handler panics, and whose answer is long.

use super::*;
use crate::accept::{Limits, serve};
use crate::app::guard::admit;
use crate::app::tests::{Bench, bench_with, open_doors, request, text};
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodFilter, on};
use axum::{Json, Router};
use beckon_shared::control::access::Need;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tower::ServiceExt;

const PATIENCE: Duration = Duration::from_secs(10);
const COMMAND: &str = "POST /command HTTP/1.1\r\nhost: localhost\r\nidempotency-key: k\r\ncontent-length: 0\r\n";

/// `POST /command` behind what every command passes through.
fn command<H, T>(bench: &Bench, time_limit: Duration, handler: H) -> Router
where
    H: Handler<T, ()>,
    T: 'static,
{
    let (method, path, record) = (MethodFilter::POST, "/command", Record::Whole);
    let rule = Rule { method, path, need: Need::Operate, record, time_limit };
    let route = on(method, handler).route_layer(from_fn_with_state((bench.app.clone(), rule), admit));
    Router::new().route(path, route)
}

async fn send(router: &Router) -> Response {
    let mut request = request(Method::POST, "/command", "");
    request.headers_mut().insert(KEY_HEADER, HeaderValue::from_static("k"));
    router.clone().oneshot(request).await.expect("infallible")
}

/// A command that says when it begins, waits until it may end, and counts how often it was done.
struct Waiting {
    bench: Bench,
    router: Router,
    begun: Arc<Notify>,
    may_end: Arc<Notify>,
    n_done: Arc<AtomicUsize>,
}

impl Waiting {
    fn new(time_limit: Duration) -> Self {
        let bench = bench_with(open_doors());
        let (begun, may_end, n_done) =
            (Arc::new(Notify::new()), Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (tells, waits, counts) = (Arc::clone(&begun), Arc::clone(&may_end), Arc::clone(&n_done));
        let handler = move || async move {
            tells.notify_one();
            waits.notified().await;
            let n = counts.fetch_add(1, Ordering::Relaxed) + 1;
            (StatusCode::CREATED, Json(json!({ "n": n })))
        };
        let router = command(&bench, time_limit, handler);
        Self { bench, router, begun, may_end, n_done }
    }

    async fn has_begun(&self) {
        timeout(PATIENCE, self.begun.notified()).await.expect("the command never began");
    }

    /// Serves it on a port, until told to stop.
    async fn serve(&self) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let router = self.router.clone();
        let task = tokio::spawn(serve(listener, None, router, Limits::default(), async { _ = stopped.await }));
        (addr, stop, task)
    }

    /// A client that sends the command and goes away once it has begun.
    async fn abandoned(&self, addr: SocketAddr) {
        let mut stream = TcpStream::connect(addr).await.expect("connects");
        stream.write_all(format!("{COMMAND}\r\n").as_bytes()).await.expect("sent");
        self.has_begun().await;
        drop(stream);
        // until the server has seen it
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    /// The answer of the first time, once it is there.
    async fn settled(&self) -> Response {
        let begun = Instant::now();
        loop {
            let response = send(&self.router).await;
            let is_open = [StatusCode::CONFLICT, StatusCode::REQUEST_TIMEOUT].contains(&response.status());
            if !is_open || begun.elapsed() > PATIENCE {
                return response;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// It was done once, and that answer is what its key gives.
    async fn was_done_once(&self) {
        let again = self.settled().await;
        assert_eq!(again.status(), StatusCode::CREATED);
        assert_eq!(again.headers()[REPLAYED_HEADER], "true");
        assert_eq!(text(again).await, r#"{"n":1}"#);
        assert_eq!(self.n_done.load(Ordering::Relaxed), 1);
        let log = self.bench.app.store.audit(i64::MAX, 10).expect("read");
        assert_eq!(log.iter().map(|entry| entry.status).collect::<Vec<_>>(), [Some(201)]);
    }
}

#[tokio::test]
async fn a_command_outlives_the_client_that_sent_it() {
    let waiting = Waiting::new(PATIENCE);
    let (addr, _stop, _task) = waiting.serve().await;
    waiting.abandoned(addr).await;
    waiting.may_end.notify_one();
    // over the wire too
    let begun = Instant::now();
    let answer = loop {
        let mut stream = TcpStream::connect(addr).await.expect("connects");
        stream.write_all(format!("{COMMAND}connection: close\r\n\r\n").as_bytes()).await.expect("sent");
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
        if !answer.starts_with("HTTP/1.1 409") || begun.elapsed() > PATIENCE {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(answer.starts_with("HTTP/1.1 201") && answer.ends_with(r#"{"n":1}"#), "{answer}");
    waiting.was_done_once().await;
}

#[tokio::test]
async fn a_shutdown_waits_for_a_command_whose_client_went_away() {
    let waiting = Waiting::new(PATIENCE);
    let (addr, stop, mut task) = waiting.serve().await;
    waiting.abandoned(addr).await;
    stop.send(()).expect("it runs");
    let early = timeout(Duration::from_millis(200), &mut task).await;
    assert!(early.is_err(), "the server ended in the middle of a command");
    waiting.may_end.notify_one();
    timeout(PATIENCE, task).await.expect("it ends").expect("without a panic");
    waiting.was_done_once().await;
}

#[tokio::test]
async fn a_command_that_takes_longer_than_the_limit_keeps_its_answer() {
    let waiting = Waiting::new(Duration::from_millis(100));
    let first = send(&waiting.router).await;
    assert_eq!(first.status(), StatusCode::REQUEST_TIMEOUT);
    let detail = text(first).await;
    assert!(detail.contains(KEY_HEADER), "{detail}");
    waiting.has_begun().await;
    let busy = send(&waiting.router).await.status();
    assert!([StatusCode::CONFLICT, StatusCode::REQUEST_TIMEOUT].contains(&busy), "{busy}");
    waiting.may_end.notify_one();
    waiting.was_done_once().await;
}

async fn breaks() -> StatusCode {
    panic!("on purpose, by a test");
}

#[tokio::test]
async fn a_handler_that_panics_gives_its_key_back() {
    let bench = bench_with(open_doors());
    let router = command(&bench, PATIENCE, breaks);
    for _ in 0..2 {
        assert_eq!(send(&router).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    let log = bench.app.store.audit(i64::MAX, 10).expect("read");
    assert_eq!(log.iter().map(|entry| entry.status).collect::<Vec<_>>(), [Some(500); 2]);
}

#[tokio::test]
async fn a_long_answer_is_given_and_kept() {
    let bench = bench_with(open_doors());
    let arm = |name: &str| json!({"name": name, "source": {"template": name}});
    let excluded: Vec<String> = (0..60_000).map(|i| format!("user-{i:05}")).collect();
    let config = json!({"name": "long", "arms": [arm("a"), arm("b")], "excluded": excluded}).to_string();
    assert!(config.len() > 512 << 10 && config.len() < crate::app::MAX_BODY_BYTES);
    let create = async || {
        let mut request = request(Method::POST, "/api/experiments", config.clone());
        request.headers_mut().insert(KEY_HEADER, HeaderValue::from_static("k"));
        let response = bench.send(request).await;
        (response.status(), response.headers().contains_key(REPLAYED_HEADER), text(response).await)
    };
    let (first, again) = (create().await, create().await);
    assert_eq!((first.0, first.1), (StatusCode::CREATED, false), "{}", first.2);
    assert!(first.2.contains("user-59999"));
    assert_eq!((again.0, again.1), (StatusCode::CREATED, true), "{}", again.2);
    assert!(again.2 == first.2, "another answer came the second time");
    assert_eq!(bench.app.store.experiments().expect("read").len(), 1);
}

#[tokio::test]
async fn an_answer_that_is_too_long_to_keep_is_given_once() {
    let bench = bench_with(open_doors());
    let router = command(&bench, PATIENCE, || async { "x".repeat(MAX_ANSWER_BYTES + 1) });
    let first = send(&router).await;
    assert_eq!(first.status(), StatusCode::OK);
    let bytes = to_bytes(first.into_body(), 2 * MAX_ANSWER_BYTES).await.expect("whole");
    assert_eq!(bytes.len(), MAX_ANSWER_BYTES + 1);
    let again = send(&router).await;
    assert_eq!(again.status(), StatusCode::CONFLICT);
    let detail = text(again).await;
    assert!(detail.contains("done before") && detail.contains("200"), "{detail}");
}

#[tokio::test]
async fn an_answer_is_copied_up_to_the_limit_and_goes_on_whole() {
    for (limit, kept) in [(5, None), (6, Some("abcdef"))] {
        let parts = stream::iter(["ab", "cd", "ef"]).map(Ok::<_, std::io::Error>);
        let (body, copy) = copied(Body::from_stream(parts), limit).await.expect("whole");
        assert_eq!(copy.as_deref(), kept.map(str::as_bytes), "at most {limit}");
        assert_eq!(&to_bytes(body, 100).await.expect("whole")[..], b"abcdef", "at most {limit}");
    }
    let broken = stream::iter([Ok("ab"), Err(std::io::Error::other("gone"))]);
    assert!(copied(Body::from_stream(broken), 100).await.is_err());
}

/// A command of an earlier process, which died between its effect and its answer.
fn broke_off(bench: &Bench, path: &str, key: &str) {
    let digest = sha256_hex(format!("DELETE {path}\n").as_bytes());
    let asked = Asked {
        time_millis: 1,
        sender: crate::access::LOCAL,
        method: "DELETE",
        path,
        key: Some(key),
        digest: &digest,
        body: "",
    };
    let begun = bench.app.store.begin_command(&asked, process().wrapping_add(1)).expect("begun");
    assert!(matches!(begun, Begun::New(_)), "{begun:?}");
}

#[tokio::test]
async fn what_was_deleted_by_a_command_that_broke_off_is_deleted_when_it_comes_again() {
    let bench = bench_with(open_doors());
    for path in ["/api/checkpoints/ab", "/api/experiments/e7", "/api/runs/r7", "/api/tokens/ann"] {
        broke_off(&bench, path, path);
        let delete = async |key: Option<&str>| {
            let mut request = request(Method::DELETE, path, "");
            let key = key.map(|key| HeaderValue::from_str(key).expect("a key"));
            key.into_iter().for_each(|key| drop(request.headers_mut().insert(KEY_HEADER, key)));
            bench.send(request).await
        };
        let again = delete(Some(path)).await;
        assert_eq!(again.status(), StatusCode::NO_CONTENT, "{path}");
        assert!(!again.headers().contains_key(REPLAYED_HEADER), "{path}");
        // from now on it is the answer of this key; without it, or with another, there is nothing to delete
        let replayed = delete(Some(path)).await;
        assert_eq!(replayed.status(), StatusCode::NO_CONTENT, "{path}");
        assert_eq!(replayed.headers()[REPLAYED_HEADER], "true", "{path}");
        assert_eq!(delete(None).await.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(delete(Some(&format!("{path}/new"))).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn what_a_command_that_broke_off_has_left_is_deleted_when_it_comes_again() {
    let bench = bench_with(open_doors());
    let role = beckon_shared::control::access::Role::Viewer;
    let (_, token) = crate::access::new_token("ann", role, 0, None).expect("random");
    assert!(bench.app.store.add_token(&token).expect("stored"));
    broke_off(&bench, "/api/tokens/ann", "k");
    let mut request = request(Method::DELETE, "/api/tokens/ann", "");
    request.headers_mut().insert(KEY_HEADER, HeaderValue::from_static("k"));
    assert_eq!(bench.send(request).await.status(), StatusCode::NO_CONTENT);
    assert_eq!(bench.app.store.tokens().expect("read"), []);
}
