//! Every route through the whole router, without a socket.

use super::*;
use crate::limit::Rate;
use crate::model::lent::Lent;
use crate::route::checkpoints::compressed::Compressed;
use crate::stage::Observer;
use crate::trainer::{Job, Product, RunError, TrainerParts};
use axum::body::{Body, to_bytes};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use axum::response::Response;
use beckon_shared::control::PROTOCOL_VERSION;
use beckon_shared::control::sample::Sample;
use beckon_shared::control::{Event, ImportOutcome, LogSummary, Problem, RunLine, RunState, RunStatus, Stage};
use serde::de::DeserializeOwned;
use tower::ServiceExt;

/// An application with its folder.
pub(crate) struct Bench {
    pub dir: tempfile::TempDir,
    pub app: App,
}

fn waits_for_cancel(_: &Job, observer: &mut dyn Observer) -> Result<Product, RunError> {
    while observer.control() != crate::stage::Control::Cancel {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(RunError::Cancelled)
}

/// Everything is allowed, as on a loopback address.
pub(crate) fn open_doors() -> Doors {
    let rate = Rate { per_sec: 1e6, burst: 1e6 };
    let (requests, failures) = (Limiter::new(rate), Limiter::new(Rate { per_sec: 0.01, burst: 5.0 }));
    Doors { remote: false, token_needed: false, origins: Vec::new(), requests, failures }
}

fn bench() -> Bench {
    bench_with(open_doors())
}

pub(crate) fn bench_with(doors: Doors) -> Bench {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let store = Arc::new(Store::open(&dir.path().join("beckon.sqlite")).expect("a fresh store"));
    let (catalog, _) = Catalog::open(&dir.path().join("checkpoints"), None, &store, None).expect("a fresh catalog");
    let (events, catalog) = (Arc::new(Events::open(Arc::clone(&store), 100).expect("opens")), Arc::new(catalog));
    let parts = TrainerParts {
        store: Arc::clone(&store),
        events: Arc::clone(&events),
        catalog: Arc::clone(&catalog),
        runs_dir: dir.path().join("runs"),
        lent: Lent::default(),
    };
    let trainer = Trainer::start(parts, Box::new(waits_for_cancel));
    let app = App::new(Parts {
        store,
        events,
        catalog,
        trainer: trainer.expect("starts"),
        compressed: Compressed::default(),
        telemetry: Telemetry::default(),
        imports: Arc::new(Semaphore::new(MAX_IMPORTS)),
        rejects_dir: dir.path().join("rejects"),
        default_device: DeviceChoice::Cpu,
        device: "cpu (test)".into(),
        doors,
        tls: false,
    });
    Bench { dir, app }
}

pub(crate) fn request(method: Method, path: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("host", "localhost:8020");
    request.body(body.into()).expect("a request")
}

impl Bench {
    /// Offers the first of the tests' checkpoints; its id.
    pub fn offer_checkpoint(&self) -> String {
        let (id, file) = crate::catalog::tests::checkpoint_file(1);
        let from = self.dir.path().join("out.beckon");
        std::fs::write(&from, &file).expect("written");
        let info = crate::catalog::tests::info(&id, file.len());
        self.app.catalog.install(&from, &info).expect("whole");
        self.app.catalog.list(info);
        id
    }

    pub async fn send(&self, request: Request<Body>) -> Response {
        router(self.app.clone()).oneshot(request).await.expect("infallible")
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(request(Method::GET, path, Body::empty())).await
    }

    pub async fn post(&self, path: &str, body: &str) -> Response {
        self.send(request(Method::POST, path, body.to_owned())).await
    }

    /// Sends and checks that the answer is a problem with this status; returns its detail.
    pub async fn problem(&self, request: Request<Body>, status: u16) -> String {
        let what = format!("{} {}", request.method(), request.uri());
        let response = self.send(request).await;
        assert_eq!(response.status(), status, "{what}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
        let problem: Problem = json(response).await;
        assert_eq!(problem.status, status, "{what}");
        assert!(!problem.detail.is_empty() && !problem.title.is_empty(), "{what}: {problem:?}");
        problem.detail
    }
}

pub(crate) async fn text(response: Response) -> String {
    let bytes = to_bytes(response.into_body(), 1 << 20).await.expect("a whole body");
    String::from_utf8(bytes.to_vec()).expect("text")
}

pub(crate) async fn json<T: DeserializeOwned>(response: Response) -> T {
    let text = text(response).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

const GOOD: &str = r#"{"impression_id":"a","user_hash":"u","time_millis":1,"prompt":[{"role":"user","text":"rust"}],"slate":[{"text":"rust book","clicked":true},{"text":"rust game","clicked":false}]}"#;

#[tokio::test]
async fn health_tells_version_protocol_and_device() {
    let response = bench().get("/api/health").await;
    assert_eq!(response.headers()["beckon-protocol"], PROTOCOL_VERSION.to_string());
    assert_eq!(response.headers()["cross-origin-embedder-policy"], "require-corp");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    let health: crate::route::health::Health = json(response).await;
    assert_eq!((health.status.as_str(), health.device.as_str()), ("ok", "cpu (test)"));
}

#[tokio::test]
async fn errors_have_one_form_whoever_makes_them() {
    let bench = bench();
    let get = |path: &str| request(Method::GET, path, Body::empty());
    let detail = bench.problem(get("/api/nothing"), 404).await;
    assert!(detail.contains("/api/nothing"), "{detail}");
    let detail = bench.problem(request(Method::DELETE, "/api/runs", ""), 405).await;
    assert!(detail.contains("DELETE /runs"), "{detail}");
    bench.problem(get("/api/log/records?limit=many"), 400).await;
    bench.problem(get("/api/runs/r9"), 404).await;
    bench.problem(get("/api/runs/r9/metrics"), 404).await;
    bench.problem(get("/api/runs/r9/report"), 404).await;
    bench.problem(get("/api/runs/r9/log"), 404).await;
    bench.problem(get("/api/checkpoints/abc"), 404).await;
    bench.problem(get("/api/checkpoints/abc/file"), 404).await;
    bench.problem(request(Method::POST, "/api/runs/r9/explode", ""), 404).await;
    bench.problem(get("/missing.js"), 404).await;
    bench.problem(request(Method::POST, "/train", ""), 405).await;
}

#[tokio::test]
async fn a_log_with_a_broken_line_keeps_the_good_ones() {
    let bench = bench();
    let response = bench.post("/api/log/import?format=jsonl&name=my.jsonl", &format!("{GOOD}\n{{broken\n")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let outcome: ImportOutcome = json(response).await;
    assert_eq!((outcome.n_accepted, outcome.n_duplicates, outcome.n_rejected), (1, 0, 1));
    assert_eq!(outcome.rejects[0].line, 2);
    let file = std::fs::read_to_string(outcome.rejects_file.expect("refused lines are written")).expect("readable");
    assert_eq!(file.lines().count(), 1);
    let summary: LogSummary = json(bench.get("/api/log/summary").await).await;
    assert_eq!((summary.n_impressions, summary.n_clicks, summary.slots.len()), (1, 1, 2));
    let records: Vec<serde_json::Value> = json(bench.get("/api/log/records").await).await;
    assert_eq!(records[0]["record"]["impression_id"], "a");

    let again: ImportOutcome = json(bench.post("/api/log/import?format=jsonl&name=my.jsonl", GOOD).await).await;
    assert_eq!((again.n_accepted, again.n_duplicates, again.n_rejected), (0, 1, 0));
}

#[tokio::test]
async fn an_import_of_garbage_is_refused_with_the_reasons() {
    let bench = bench();
    let response = bench.post("/api/log/import?format=jsonl&name=x", "{]\nnot json at all\n").await;
    assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let outcome: ImportOutcome = json(response).await;
    assert_eq!((outcome.n_accepted, outcome.n_rejected), (0, 2));
    for format in ["jsonl", "mimics-duo", "mimics-manual", "intents", "upworthy", "conversations"] {
        let path = format!("/api/log/import?format={format}&name=x");
        let binary = request(Method::POST, &path, vec![0xff, 0xfe, 0x00, 0x0a, 0x80]);
        assert_eq!(bench.send(binary).await.status(), StatusCode::UNPROCESSABLE_ENTITY, "{format}");
    }
    bench.problem(request(Method::POST, "/api/log/import?format=xml", ""), 422).await;
    bench.problem(request(Method::POST, "/api/log/import", ""), 400).await;
    let mut large = request(Method::POST, "/api/log/import?format=jsonl", "");
    large.headers_mut().insert("content-length", HeaderValue::from(MAX_IMPORT_BYTES as u64 + 1));
    let detail = bench.problem(large, 413).await;
    assert!(detail.contains("256 MiB"), "{detail}");
}

#[tokio::test]
async fn a_run_is_created_steered_and_listed() {
    let bench = bench();
    let response = bench.post("/api/runs", r#"{"preset": "tiny", "seed": 3}"#).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let created: RunStatus = json(response).await;
    assert_eq!((created.config.seed, created.config.device), (3, DeviceChoice::Cpu));
    let detail = bench.problem(request(Method::POST, "/api/runs", r#"{"sft": {"n_stepz": 1}}"#), 422).await;
    assert!(detail.contains("sft.n_stepz"), "{detail}");
    bench.problem(request(Method::POST, "/api/runs", r#"{"rl": {"group_size": 1}}"#), 422).await;
    let waiting: RunStatus = json(bench.post("/api/runs", r#"{"preset": "tiny"}"#).await).await;
    let paused: RunStatus = json(bench.post(&format!("/api/runs/{}/pause", waiting.id), "").await).await;
    assert_eq!(paused.state, RunState::Paused);
    bench.problem(request(Method::POST, &format!("/api/runs/{}/pause", waiting.id), ""), 409).await;
    let all: Vec<RunStatus> = json(bench.get("/api/runs").await).await;
    assert_eq!(all.iter().map(|run| run.id.as_str()).collect::<Vec<_>>(), ["r2", "r1"]);
    let curve: Vec<serde_json::Value> = json(bench.get("/api/runs/r1/metrics").await).await;
    assert_eq!(curve.len(), 0);
    let report = request(Method::GET, "/api/runs/r1/report", Body::empty());
    bench.problem(report, 404).await;
}

#[tokio::test]
async fn what_a_run_said_is_read_part_by_part() {
    let bench = bench();
    let run: RunStatus = json(bench.post("/api/runs?draft=true", r#"{"preset": "tiny"}"#).await).await;
    for n in 0..5 {
        bench.app.events.announce(&Event::Line { run_id: run.id.clone(), text: format!("line {n}") });
    }
    bench.app.events.announce(&Event::Alarm { run_id: Some(run.id.clone()), text: "look here".into() });
    let (mut path, mut said) = ("/api/runs/r1/log?limit=4".to_owned(), Vec::new());
    loop {
        let response = bench.get(&path).await;
        let link = response.headers().get("link").map(|link| link.to_str().expect("text").to_owned());
        said.extend(json::<Vec<RunLine>>(response).await);
        let Some(link) = link else { break };
        path = link.strip_prefix('<').and_then(|link| link.split_once('>')).expect("a link").0.to_owned();
    }
    let texts: Vec<(&str, bool)> = said.iter().map(|line| (line.text.as_str(), line.alarm)).collect();
    let lines = ["line 4", "line 3", "line 2", "line 1", "line 0"].map(|text| (text, false));
    assert_eq!(texts, [[("look here", true)].as_slice(), &lines].concat());

    let sample = Sample { run_id: run.id, stage: Stage::Rl, step: 25, prompts: Vec::new() };
    bench.app.events.announce(&Event::Sample(sample.clone()));
    assert_eq!(json::<Vec<Sample>>(bench.get("/api/runs/r1/samples").await).await, [sample]);
    bench.problem(request(Method::GET, "/api/runs/r9/samples", Body::empty()), 404).await;
}

#[tokio::test]
async fn a_file_of_a_test_is_analysed() {
    let bench = bench();
    let wish = r#"{"text": "arm,users,clicks\nA,12000,600\nB,12000,800\n"}"#;
    let analysed: serde_json::Value = json(bench.post("/api/analyze", wish).await).await;
    assert_eq!(analysed["report"]["comparisons"][0]["verdict"], "treatment_better", "{analysed}");
    let detail = bench.problem(request(Method::POST, "/api/analyze", r#"{"txt": ""}"#), 422).await;
    assert!(detail.contains("txt"), "{detail}");
    let large = request(Method::POST, "/api/analyze", vec![b' '; analyze::MAX_BODY_BYTES + 1]);
    assert!(bench.problem(large, 413).await.contains("16 MiB"));
}

#[tokio::test]
async fn a_returning_listener_goes_on_after_its_last_event() {
    let bench = bench();
    for n_records in 0..3 {
        bench.app.events.announce(&Event::LogChanged { n_records });
    }
    let mut listen = request(Method::GET, "/api/events", Body::empty());
    listen.headers_mut().insert("last-event-id", HeaderValue::from_static("100"));
    let response = bench.send(listen).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    bench.app.events.close();
    let lines = text(response).await;
    let ids: Vec<&str> = lines.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["101", "102"]);
    let data: Vec<Event> = lines
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|json| serde_json::from_str(json).expect("an event"))
        .collect();
    assert_eq!(data, [Event::LogChanged { n_records: 1 }, Event::LogChanged { n_records: 2 }]);
}

#[tokio::test]
async fn other_hosts_and_other_origins_are_refused() {
    let bench = bench();
    let with = |method, name: &'static str, value: &'static str| {
        let mut request = request(method, "/api/runs", r#"{"preset": "tiny"}"#);
        request.headers_mut().insert(name, HeaderValue::from_static(value));
        request
    };
    bench.problem(with(Method::GET, "host", "evil.example"), 421).await;
    bench.problem(with(Method::GET, "host", "localhost.evil.example:8020"), 421).await;
    bench.problem(with(Method::POST, "origin", "https://evil.example"), 403).await;
    bench.problem(with(Method::POST, "origin", "null"), 403).await;
    bench.problem(with(Method::POST, "sec-fetch-site", "cross-site"), 403).await;
    for host in ["127.0.0.1:8020", "[::1]:8020", "localhost", "LOCALHOST:1"] {
        assert_eq!(bench.send(with(Method::GET, "host", host)).await.status(), StatusCode::OK, "{host}");
    }
    let own = bench.send(with(Method::POST, "origin", "http://localhost:8020")).await;
    assert_eq!(own.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn every_route_of_the_page_gives_its_index() {
    let bench = bench();
    for path in ["/", "/data", "/train", "/preview"] {
        let response = bench.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8", "{path}");
        assert_eq!(response.headers()["cache-control"], "no-cache", "{path}");
    }
    let etag = bench.get("/").await.headers()["etag"].clone();
    let mut again = request(Method::GET, "/", Body::empty());
    again.headers_mut().insert("if-none-match", etag);
    assert_eq!(bench.send(again).await.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn the_schema_describes_an_impression() {
    let schema: serde_json::Value = json(bench().get("/api/log/schema").await).await;
    assert!(schema["properties"]["impression_id"].is_object(), "{schema}");
}

#[tokio::test]
async fn a_checkpoint_is_fetched_whole_in_parts_and_not_twice() {
    let bench = bench();
    let (id, file) = crate::catalog::tests::checkpoint_file(1);
    let info = crate::catalog::tests::info(&id, file.len());
    let from = bench.dir.path().join("out.beckon");
    std::fs::write(&from, &file).expect("written");
    bench.app.catalog.install(&from, &info).expect("whole");
    bench.app.catalog.list(info.clone());
    let listed: Vec<beckon_shared::control::CheckpointInfo> = json(bench.get("/api/checkpoints").await).await;
    assert_eq!(listed, [info]);
    let manifest: beckon_shared::checkpoint::Manifest = json(bench.get(&format!("/api/checkpoints/{id}")).await).await;
    assert_eq!(manifest.name, "test 1");

    let path = format!("/api/checkpoints/{id}/file");
    let whole = bench.get(&path).await;
    assert_eq!(whole.headers()["etag"], format!("\"{id}\""));
    assert_eq!(whole.headers()["content-length"], file.len().to_string());
    assert!(whole.headers()["cache-control"].to_str().expect("text").contains("immutable"));
    assert_eq!(to_bytes(whole.into_body(), 1 << 24).await.expect("whole"), file);

    let with = |name: &'static str, value: &str| {
        let mut request = request(Method::GET, &path, Body::empty());
        request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a value"));
        request
    };
    let part = bench.send(with("range", "bytes=1000-")).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()["content-range"], format!("bytes 1000-{}/{}", file.len() - 1, file.len()));
    assert_eq!(to_bytes(part.into_body(), 1 << 24).await.expect("whole"), file[1000..]);
    bench.problem(with("range", &format!("bytes={}-", file.len())), 416).await;
    let known = bench.send(with("if-none-match", &format!("\"{id}\""))).await;
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn an_adapter_is_listed_and_fetched_by_those_who_have_its_base() {
    let bench = bench();
    let ((base, base_file), (id, file)) =
        (crate::catalog::tests::checkpoint_file(1), crate::catalog::tests::checkpoint_file(2));
    let from = bench.dir.path().join("out.beckon");
    for (id, file) in [(&base, &base_file), (&id, &file)] {
        std::fs::write(&from, file).expect("written");
        let info = crate::catalog::tests::info(id, file.len());
        bench.app.catalog.install(&from, &info).expect("whole");
        bench.app.catalog.list(info);
        let adapter = crate::catalog::tests::adapter_file(&base_file, &crate::catalog::tests::checkpoint_file(2).0);
        std::fs::write(from.with_extension("adapter"), adapter).expect("written");
    }
    let entries: Vec<beckon_shared::control::registry::RegistryEntry> = json(bench.get("/api/registry").await).await;
    assert_eq!((&entries[0].info.id, &entries[1].adapter), (&id, &None));
    let adapter = entries[0].adapter.clone().expect("an adapter");
    assert_eq!(adapter.base, base);

    let path = format!("/api/checkpoints/{id}/adapter");
    let whole = bench.get(&path).await;
    assert_eq!(whole.headers()["etag"], format!("\"{}\"", adapter.id));
    let bytes = to_bytes(whole.into_body(), 1 << 24).await.expect("whole");
    assert_eq!(bytes.len() as u64, adapter.n_bytes);
    beckon_shared::adapter::AdapterFile::decode(&bytes).expect("a whole adapter");
    let mut part = request(Method::GET, &path, Body::empty());
    part.headers_mut().insert("range", HeaderValue::from_static("bytes=100-"));
    let part = bench.send(part).await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(to_bytes(part.into_body(), 1 << 24).await.expect("whole"), bytes[100..]);
    let none = request(Method::GET, &format!("/api/checkpoints/{base}/adapter"), Body::empty());
    assert!(bench.problem(none, 404).await.contains("lora"));

    let asking = async |headers: &[(&'static str, &str)]| {
        let mut asked = request(Method::GET, &path, Body::empty());
        for (name, value) in headers {
            asked.headers_mut().insert(*name, HeaderValue::from_str(value).expect("a header"));
        }
        bench.send(asked).await
    };
    // twice: made, and kept
    for _ in 0..2 {
        let small = asking(&[("accept-encoding", "br, gzip")]).await;
        let tag = format!("\"{}-gzip\"", adapter.id);
        for (name, value) in [("content-encoding", "gzip"), ("etag", &*tag), ("vary", "accept-encoding")] {
            assert_eq!(small.headers()[name], value);
        }
        let compressed = to_bytes(small.into_body(), 1 << 24).await.expect("whole");
        assert!(compressed.len() < bytes.len(), "{} of {}", compressed.len(), bytes.len());
        let mut decoded = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&*compressed), &mut decoded).expect("gzip");
        assert_eq!(decoded, bytes);
        let known = asking(&[("accept-encoding", "gzip"), ("if-none-match", &tag)]).await;
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
        assert_eq!(known.headers()["etag"], tag);
    }
    // a part is one of the file, and so is what a client gets that takes no gzip or has only the tag of the compressed form
    let part = asking(&[("accept-encoding", "gzip"), ("range", "bytes=100-199")]).await;
    assert_eq!((part.status(), part.headers().get("content-encoding")), (StatusCode::PARTIAL_CONTENT, None));
    assert_eq!(to_bytes(part.into_body(), 1 << 24).await.expect("whole"), bytes[100..200]);
    let plain =
        asking(&[("accept-encoding", "gzip;q=0"), ("if-none-match", &format!("\"{}-gzip\"", adapter.id))]).await;
    assert_eq!((plain.status(), plain.headers().get("content-encoding")), (StatusCode::OK, None));
    assert_eq!(plain.headers()["vary"], "accept-encoding");
}

#[tokio::test]
async fn a_draft_is_made_started_tuned_and_deleted() {
    let bench = bench();
    let send = |method, path: &str, body: &str| bench.send(request(method, path, body.to_owned()));
    let draft: RunStatus = json(bench.post("/api/runs?draft=true", r#"{"preset": "tiny"}"#).await).await;
    assert_eq!(draft.state, RunState::Draft);
    let tuned: RunStatus = json(send(Method::PATCH, "/api/runs/r1", r#"{"rl": {"kl_beta": 0.5}}"#).await).await;
    assert_eq!(tuned.changes[0].tuning.rl.kl_beta, Some(0.5));
    let refused = request(Method::PATCH, "/api/runs/r1", r#"{"rl": {"n_steps": 5}}"#);
    assert!(bench.problem(refused, 422).await.contains("n_steps"));
    bench.problem(request(Method::PATCH, "/api/runs/r1", r#"{"rl": {"kl_beta": -5}}"#), 422).await;
    let detail = bench.problem(request(Method::POST, "/api/runs/r1/pause", ""), 409).await;
    assert!(detail.contains("a draft") && detail.contains("start or cancel it"), "{detail}");
    let started: RunStatus = json(bench.post("/api/runs/r1/start", "").await).await;
    assert_eq!(started.state, RunState::Queued);
    bench.problem(request(Method::DELETE, "/api/runs/r1", ""), 409).await;
    json::<RunStatus>(bench.post("/api/runs?draft=true", r#"{"preset": "tiny"}"#).await).await;
    assert_eq!(send(Method::DELETE, "/api/runs/r2", "").await.status(), StatusCode::OK);
    bench.problem(request(Method::GET, "/api/runs/r2", Body::empty()), 404).await;
    bench.problem(request(Method::POST, "/api/runs/r1/tune", ""), 404).await;
    let checked: beckon_shared::control::RunConfig =
        json(bench.post("/api/runs/check", r#"{"preset": "tiny"}"#).await).await;
    assert_eq!((checked.save_every, checked.device), (20, DeviceChoice::Cpu), "defaults are not shown");
}

#[tokio::test]
async fn lists_come_in_parts_that_lead_to_each_other() {
    let bench = bench();
    for _ in 0..5 {
        bench.post("/api/runs?draft=true", r#"{"preset": "tiny"}"#).await;
    }
    let (mut path, mut ids) = ("/api/runs?limit=2".to_owned(), Vec::new());
    loop {
        let response = bench.get(&path).await;
        let link = response.headers().get("link").map(|link| link.to_str().expect("text").to_owned());
        let part: Vec<RunStatus> = json(response).await;
        ids.extend(part.into_iter().map(|run| run.id));
        let Some(link) = link else { break };
        path = link.split(['<', '>']).nth(1).expect("a target").to_owned();
    }
    assert_eq!(ids, ["r5", "r4", "r3", "r2", "r1"]);
}

#[tokio::test]
async fn a_checkpoint_is_promoted_rolled_back_noted_and_deleted_when_nothing_needs_it() {
    let bench = bench();
    let ids: Vec<String> = (1..=3)
        .map(|seed| {
            let (id, file) = crate::catalog::tests::checkpoint_file(seed);
            let from = bench.dir.path().join("out.beckon");
            std::fs::write(&from, &file).expect("written");
            let info = crate::catalog::tests::info(&id, file.len());
            bench.app.catalog.install(&from, &info).expect("whole");
            bench.app.catalog.list(info);
            id
        })
        .collect();
    let promote = |id: &str| request(Method::POST, &format!("/api/checkpoints/{id}/promote"), "");
    let back = || request(Method::POST, "/api/tags/production/roll-back", "");
    let tagged = async || -> Vec<String> {
        let tags: Vec<beckon_shared::control::registry::Promotion> = json(bench.get("/api/tags").await).await;
        tags.into_iter().map(|tag| tag.checkpoint).collect()
    };
    bench.problem(back(), 404).await;
    for id in [&ids[0], &ids[1], &ids[1]] {
        assert_eq!(bench.send(promote(id)).await.status(), StatusCode::OK);
    }
    assert_eq!(tagged().await, [ids[1].clone()]);
    let delete = |id: &str| request(Method::DELETE, &format!("/api/checkpoints/{id}"), "");
    assert!(bench.problem(delete(&ids[1]), 409).await.contains("production"));
    assert!(bench.problem(delete(&ids[0]), 409).await.contains("roll back"), "the way back was cut off");
    assert_eq!(bench.send(back()).await.status(), StatusCode::OK);
    assert_eq!(tagged().await, [ids[0].clone()]);
    bench.problem(back(), 409).await;
    let note = request(Method::PUT, &format!("/api/checkpoints/{}/note", ids[2]), r#"{"text": "odd"}"#);
    let entry: beckon_shared::control::registry::RegistryEntry = json(bench.send(note).await).await;
    assert_eq!((entry.note.as_str(), entry.info.id.as_str()), ("odd", ids[2].as_str()));
    assert_eq!(bench.send(delete(&ids[2])).await.status(), StatusCode::NO_CONTENT);
    bench.problem(request(Method::GET, &format!("/api/checkpoints/{}/file", ids[2]), ""), 404).await;
    bench.problem(promote("../../etc/passwd"), 404).await;
    let other = request(Method::POST, &format!("/api/checkpoints/{}/promote", ids[0]), r#"{"tag": "../x"}"#);
    bench.problem(other, 422).await;
}

#[tokio::test]
async fn a_branch_starts_from_a_checkpoint_and_keeps_it() {
    let bench = bench();
    let id = bench.offer_checkpoint();
    let path = format!("/api/checkpoints/{id}/branch");
    let response = bench.post(&path, r#"{"preset": "tiny", "seed": 9}"#).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let run: RunStatus = json(response).await;
    assert_eq!((run.config.parent.as_deref(), run.config.seed), (Some(id.as_str()), 9));
    let detail = bench.problem(request(Method::DELETE, &format!("/api/checkpoints/{id}"), ""), 409).await;
    assert!(detail.contains("run r1"), "{detail}");
    let detail = bench.problem(request(Method::POST, "/api/runs", r#"{"parent": "gone"}"#), 422).await;
    assert!(detail.contains("gone"), "{detail}");
}

#[tokio::test]
async fn a_teacher_is_a_checkpoint_that_is_offered_and_stays_while_it_is_needed() {
    let bench = bench();
    let id = bench.offer_checkpoint();
    let taught = |id: &str| format!(r#"{{"preset": "tiny", "sft": {{"teacher": {{"id": "{id}"}}}}}}"#);
    let response = bench.post("/api/runs", &taught(&id)).await;
    assert_eq!(response.status(), StatusCode::CREATED);
    let run: RunStatus = json(response).await;
    assert_eq!(run.config.sft.teacher.map(|teacher| teacher.id), Some(id.clone()));
    let detail = bench.problem(request(Method::DELETE, &format!("/api/checkpoints/{id}"), ""), 409).await;
    assert!(detail.contains("run r1"), "{detail}");
    let detail = bench.problem(request(Method::POST, "/api/runs", taught("gone")), 422).await;
    assert!(detail.contains("gone") && detail.contains("sft.teacher.id"), "{detail}");
}

#[tokio::test]
async fn a_test_is_planned_as_by_the_command() {
    let bench = bench();
    let plan: serde_json::Value = json(bench.get("/api/plan?base_rate=0.05&lift=0.34&users_per_day=1000").await).await;
    let same = beckon_shared::ab::plan::plan(beckon_shared::ab::plan::Planned {
        base_rate: 0.05,
        lift: 0.34,
        alpha: 0.05,
        power: 0.8,
        n_treatments: 1,
        impressions_per_user: 1.0,
        design_effect: 1.0,
        users_per_day: Some(1000.0),
    });
    assert_eq!(plan, serde_json::to_value(same.expect("planned")).expect("JSON"));
    let refused = async |query: &str| {
        bench.problem(request(Method::GET, &format!("/api/plan?base_rate=0.05{query}"), ""), 422).await
    };
    assert!(refused("&lift=0").await.contains("lift is 0"));
    for neither in ["", "&lift=0.1&users=100"] {
        assert!(refused(neither).await.contains("one of lift and users"), "{neither}");
    }
    assert!(refused("&users=-1").await.contains("users is -1"));

    // the other way round: what so many users detect
    let n_users = plan["fixed_horizon"]["n_users_per_arm"].as_f64().expect("a number");
    let lifts: serde_json::Value = json(bench.get(&format!("/api/plan?base_rate=0.05&users={n_users}")).await).await;
    let lift = lifts["fixed_horizon_lift"].as_f64().expect("a lift");
    assert!((lift - 0.34).abs() < 1e-6, "{lifts}");
    assert!(lifts["always_valid_lift"].as_f64().is_some_and(|always_valid| always_valid > lift), "{lifts}");
}

#[tokio::test]
async fn readiness_and_figures() {
    let bench = bench();
    assert_eq!(bench.get("/api/ready").await.status(), StatusCode::OK);
    bench.get("/api/runs/r1").await;
    let figures = text(bench.get("/api/metrics").await).await;
    let line = "beckon_http_requests_total{method=\"GET\",route=\"/api/runs/{id}\",status=\"404\"} 1";
    assert!(figures.contains(line), "{figures}");
    bench.app.trainer.stop();
    assert_eq!(bench.get("/api/ready").await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_document_has_exactly_the_routes_and_a_page_shows_it() {
    let bench = bench();
    let document: serde_json::Value = json(bench.get(crate::openapi::PATH).await).await;
    let mut described = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let methods = item.as_object().expect("an item").keys();
        described.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
    }
    let mut there: Vec<String> =
        rules(&bench.app).iter().map(|rule| format!("{} /api{}", guard::tests::method(rule), rule.path)).collect();
    described.sort();
    there.sort();
    assert_eq!(described, there);
    let (page, script) = (text(bench.get(crate::openapi::PAGE).await).await, text(bench.get("/docs.js").await).await);
    assert!(page.contains("/docs.js") && script.contains(crate::openapi::PATH), "{page}");
    assert!(!(page + &script).contains("https://"), "the page asks someone else");
}
