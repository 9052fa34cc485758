//! Against the whole server on a loopback port, and against one that says what ours never would.

use super::*;
use crate::accept::{Limits, serve};
use crate::app::tests::{Bench, bench_with, open_doors};
use crate::app::{Doors, router};
use crate::import::MAX_IMPORT_BYTES;
use beckon_shared::config::Preset;
use beckon_shared::control::access::Role;
use beckon_shared::control::registry::Promotion;
use beckon_shared::control::{Metric, RunConfig, RunLine, RunState, Stage};
use std::io::Write;
use std::net::TcpListener;
use tokio::runtime::Runtime;

/// A server of its own.
pub(crate) struct Loopback {
    // before the application: what it serves goes first
    _runtime: Runtime,
    pub bench: Bench,
    pub url: String,
}

impl Loopback {
    pub fn start(doors: Doors) -> Self {
        let (bench, runtime) = (bench_with(doors), Runtime::new().expect("a runtime"));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let app = router(bench.app.clone());
        runtime.spawn(serve(listener, None, app, Limits::default(), std::future::pending()));
        Self { _runtime: runtime, bench, url }
    }

    pub fn client(&self, token: Option<&str>) -> Remote {
        Remote::new(&self.url, token, None).expect("a client")
    }

    /// A run that waits for nothing.
    pub fn draft(&self) -> String {
        let config = RunConfig::preset(Preset::Tiny);
        self.bench.app.store.add_run(config, RunState::Draft, 0, None).expect("stored").id
    }
}

/// A line of our own log.
pub(crate) fn impression(id: &str) -> String {
    format!(
        r#"{{"impression_id":"{id}","user_hash":"u","time_millis":1,"prompt":[{{"role":"user","text":"rust"}}],"slate":[{{"text":"rust book","clicked":true}},{{"text":"rust game","clicked":false}}]}}"#
    )
}

#[test]
fn a_list_is_read_to_its_end_over_many_parts() {
    let server = Loopback::start(open_doors());
    let client = server.client(None);
    let ids: Vec<String> = (0..5).map(|_| server.draft()).collect();
    let newest_first: Vec<&String> = ids.iter().rev().collect();
    let runs = |path: &str, limit| -> Vec<String> {
        let runs: Vec<Value> = client.list(path, NonZeroUsize::new(limit)).expect("a list");
        runs.iter().map(|run| run["id"].as_str().expect("an id").to_owned()).collect()
    };
    for path in ["/api/runs", "/api/runs?limit=2", "/api/runs?limit=5"] {
        assert_eq!(runs(path, 0).iter().collect::<Vec<_>>(), newest_first, "{path}");
    }
    assert_eq!(runs("/api/runs", 3).iter().collect::<Vec<_>>(), newest_first[..3]);
}

#[test]
fn tokens_and_moves_of_tags_come_in_parts() {
    let server = Loopback::start(open_doors());
    let (client, store) = (server.client(None), &server.bench.app.store);
    let names = ["ann", "b&b/2", "cid"];
    for (time, name) in names.into_iter().enumerate() {
        let (_, token) = crate::access::new_token(name, Role::Viewer, time as i64, None).expect("random");
        assert!(store.add_token(&token).expect("stored"));
        let (tag, checkpoint) = ("production".to_owned(), name.to_owned());
        let moved = Promotion { tag, checkpoint, time_millis: time as i64, by: "me".into(), undone: false };
        store.promote(&moved).expect("stored");
    }
    let strings = |path: &str, field: &str| -> Vec<Option<String>> {
        let items: Vec<Value> = client.list(path, None).expect("a list");
        items.iter().map(|item| item[field].as_str().map(str::to_owned)).collect()
    };
    let all = names.map(|name| Some(name.to_owned()));
    for limit in 1..=4 {
        assert_eq!(strings(&format!("/api/tokens?limit={limit}"), "name"), all, "{limit}");
        assert_eq!(strings(&format!("/api/promotions?limit={limit}"), "checkpoint"), all, "{limit}");
    }
    let part: Vec<Value> = client.get("/api/promotions?limit=2").expect("a part");
    assert_eq!(part.len(), 2);
    assert_eq!(strings("/api/promotions?before=strange", "checkpoint"), []);
}

#[test]
fn what_is_longer_than_a_part_of_the_server_is_not_cut_off() {
    let server = Loopback::start(open_doors());
    let (client, store, run) = (server.client(None), &server.bench.app.store, server.draft());
    let said: Vec<String> = (0..1_205).map(|i| format!("line {i}")).collect();
    said.iter().for_each(|text| store.add_run_line(&run, 1, false, text).expect("stored"));
    let lines: Vec<RunLine> = client.list(&format!("/api/runs/{run}/log"), None).expect("lines");
    assert!(lines.iter().rev().map(|line| &line.text).eq(&said), "{} lines", lines.len());
    let limited: Vec<RunLine> = client.list(&format!("/api/runs/{run}/log"), NonZeroUsize::new(1_100)).expect("lines");
    assert_eq!(limited, lines[..1_100]);

    let point = |i: usize, name: &str| {
        let stage = if i < 500 { Stage::Sft } else { Stage::Rl };
        Metric { run_id: run.clone(), stage, step: i, name: name.into(), value: 1.0 }
    };
    let points: Vec<Metric> = (0..1_000).flat_map(|i| ["kl.nats", "loss"].map(|name| point(i, name))).collect();
    store.keep_events(&[], &points).expect("stored");
    let curve: Vec<Metric> = client.list(&format!("/api/runs/{run}/metrics"), None).expect("a curve");
    assert!(curve == points, "{} points of {}", curve.len(), points.len());
    for strange in ["loss", "sft.x.loss", "sft.1", "end.1.loss"] {
        let none: Vec<Metric> = client.get(&format!("/api/runs/{run}/metrics?before={strange}")).expect("a part");
        assert_eq!(none, [], "{strange}");
    }
}

#[test]
fn a_log_file_is_streamed_to_the_server_and_what_it_refuses_is_told() {
    let server = Loopback::start(open_doors());
    let (client, dir) = (server.client(None), tempfile::tempdir().expect("a folder for the test"));
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    // longer than what a connection holds on its way
    let lines: Vec<String> = (0..20_000).map(|i| impression(&format!("i-{i}"))).collect();
    let log = file("my log.jsonl", &(lines.join("\n") + "\n{broken\n"));
    let outcome = client.import(&log, Format::Jsonl).expect("imported");
    assert_eq!((outcome.n_accepted, outcome.n_duplicates, outcome.n_rejected), (20_000, 0, 1));
    assert_eq!(outcome.rejects[0].line, 20_001);
    assert!(outcome.rejects_file.is_some_and(|path| path.contains("my_log")), "the file's name was lost");
    let nothing = client.import(&file("garbage.jsonl", "not json\n"), Format::Jsonl).expect("an outcome");
    assert_eq!((nothing.n_accepted, nothing.n_rejected), (0, 1));

    let large = dir.path().join("large.jsonl");
    File::create(&large).and_then(|file| file.set_len(MAX_IMPORT_BYTES as u64 + 1)).expect("a sparse file");
    let error = client.import(&large, Format::Jsonl).expect_err("too large").to_string();
    assert!(error.contains("256 MiB") && error.contains("split it"), "{error}");
    let error = client.import(&dir.path().join("none"), Format::Jsonl).expect_err("no file").to_string();
    assert!(error.contains("cannot read") && error.contains("none"), "{error}");
}

#[test]
fn a_refusal_is_told_in_the_servers_words_also_before_a_file_is_read() {
    let server = Loopback::start(Doors { token_needed: true, ..open_doors() });
    let dir = tempfile::tempdir().expect("a folder for the test");
    let log = dir.path().join("log.jsonl");
    File::create(&log).and_then(|file| file.set_len(64 << 20)).expect("a sparse file");
    let client = server.client(None);
    for error in [
        client.import(&log, Format::Jsonl).expect_err("no token"),
        client.list::<Value>("/api/audit", None).expect_err("no token"),
        client.delete("/api/tokens/ann").expect_err("no token"),
    ] {
        assert!(matches!(&error, RemoteError::Refused(problem) if problem.status == 401), "{error}");
        assert!(error.to_string().contains("needs a token"), "{error}");
    }
}

/// Answers every request with the same.
fn parrot(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                line.clear();
            }
            stream.write_all(answer.as_bytes()).expect("sent");
        }
    });
    url
}

#[test]
fn a_list_that_leads_to_another_server_or_to_itself_is_not_followed() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\nlink: ";
    for target in ["http://elsewhere.example/api/runs", "@elsewhere.example/", "/api/runs"] {
        let answer = format!("{head}<{target}>; rel=\"next\"\r\n\r\n[]");
        let client = Remote::new(&parrot(answer.leak()), Some("secret"), None).expect("a client");
        let error = client.list::<Vec<Value>>("/api/runs", None).expect_err("not followed").to_string();
        assert!(error.contains("goes on at") && error.contains(target), "{error}");
    }
}
