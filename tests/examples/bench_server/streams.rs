//! A thousand listeners while a run trains: how late events come, what it costs the run, and how much memory it takes.

use crate::alone;
use crate::download::memory_mb;
use beckon_server::remote::Remote;
use beckon_shared::control::command::Command;
use beckon_shared::control::{Metric, Stage};
use beckon_tests::process::Server;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Listeners.
const N_STREAMS: usize = 1_000;
/// Events whose delivery is timed, and the pause between them.
const N_EVENTS: usize = 40;
const PAUSE: Duration = Duration::from_millis(400);
/// Rounds with and without listeners, in turn.
const N_ROUNDS: usize = 3;
/// What the listeners look for; four digits follow.
const MARK: &[u8] = b"bench-mark-";

/// When each event was asked for, and the delays of all deliveries.
#[derive(Default)]
struct Clock {
    asked: Mutex<Vec<Option<Instant>>>,
    delays: Mutex<Vec<Duration>>,
    n_open: AtomicUsize,
}

/// Figures of the whole.
pub fn measure(server: &Server, checkpoint: &str) -> Vec<Value> {
    let run = server.client.start_run(&json!({"preset": "nano", "device": "cpu", "sft": {"n_steps": 100_000}})).id;
    beckon_tests::wait_for("the first steps", Duration::from_secs(300), || (step(server, &run) >= 3).then_some(()));
    let quiet_mb = memory_mb(server.pid());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let clock = Arc::new(Clock { asked: Mutex::new(vec![None; N_ROUNDS * N_EVENTS]), ..Clock::default() });
    let (mut alone_rate, mut heard_rate) = (Vec::new(), Vec::new());
    let mut loud_mb = 0.0_f64;
    for round in 0..N_ROUNDS {
        alone_rate.push(steps_per_sec(server, &run, || std::thread::sleep(PAUSE * N_EVENTS as u32)));
        let remote = Remote::new(&server.client.url, None, None).expect("a client");
        let (addr, for_streams) = (server.client.url.trim_start_matches("http://").to_owned(), Arc::clone(&clock));
        heard_rate.push(runtime.block_on(async {
            let tasks: Vec<_> =
                (0..N_STREAMS).map(|_| tokio::spawn(listen(addr.clone(), Arc::clone(&for_streams)))).collect();
            while clock.n_open.load(Ordering::Relaxed) < N_STREAMS {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let first = step_at(server, &run);
            for event in 0..N_EVENTS {
                ask(&remote, checkpoint, &clock, round * N_EVENTS + event).await;
                tokio::time::sleep(PAUSE).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            loud_mb = loud_mb.max(memory_mb(server.pid()));
            let last = step_at(server, &run);
            tasks.iter().for_each(tokio::task::JoinHandle::abort);
            rate(first, last)
        }));
        clock.n_open.store(0, Ordering::Relaxed);
        std::thread::sleep(Duration::from_secs(1));
    }
    server.client.command(&run, "cancel");
    let mut delays = std::mem::take(&mut *clock.delays.lock().expect("no panic"));
    delays.sort();
    let all = N_ROUNDS * N_EVENTS * N_STREAMS;
    assert_eq!(delays.len(), all, "deliveries are missing");
    let at = |share: f64| delays[((all - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let (alone_rate, heard_rate) = (median(&mut alone_rate), median(&mut heard_rate));
    vec![
        alone("server.streams_1000.delivery_p50", "ms", at(0.5)),
        alone("server.streams_1000.delivery_p99", "ms", at(0.99)),
        alone("server.streams_1000.delivery_max", "ms", at(1.0)),
        alone("server.streams_1000.steps_per_sec_alone", "1/s", alone_rate),
        alone("server.streams_1000.training_slower", "%", (1.0 - heard_rate / alone_rate) * 100.0),
        alone("server.streams_1000.memory_more", "MB", loud_mb - quiet_mb),
    ]
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Causes one event, on another thread, as the client blocks.
async fn ask(remote: &Remote, checkpoint: &str, clock: &Clock, event: usize) {
    let text = format!("{}{event:04}", String::from_utf8_lossy(MARK));
    let command = Command::Annotate { checkpoint: checkpoint.to_owned(), text };
    let remote = remote.clone();
    clock.asked.lock().expect("no panic")[event] = Some(Instant::now());
    let done = tokio::task::spawn_blocking(move || remote.command(&command)).await.expect("a thread");
    done.expect("a note");
}

/// Reads one stream for as long as it is open, and notes when marks come.
async fn listen(addr: String, clock: Arc<Clock>) {
    let mut stream = TcpStream::connect(&addr).await.expect("connects");
    let request = format!("GET /api/events HTTP/1.1\r\nhost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asks");
    let mut buffer = vec![0; 4 << 10];
    let mut kept: Vec<u8> = Vec::new();
    let mut is_open = false;
    loop {
        let n = stream.read(&mut buffer).await.expect("reads");
        assert!(n > 0, "the server hung up: {}", String::from_utf8_lossy(&kept));
        kept.extend_from_slice(&buffer[..n]);
        if !is_open && kept.windows(4).any(|four| four == b"\r\n\r\n") {
            assert!(kept.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&kept));
            is_open = true;
            clock.n_open.fetch_add(1, Ordering::Relaxed);
        }
        while let Some(event) = mark(&mut kept) {
            let asked = clock.asked.lock().expect("no panic")[event];
            let delay = asked.expect("it was asked for").elapsed();
            clock.delays.lock().expect("no panic").push(delay);
        }
        // a mark may be cut in two
        let surplus = kept.len().saturating_sub(MARK.len() + 4);
        if is_open {
            kept.drain(..surplus);
        }
    }
}

/// The next mark in what came, taken out of it with everything before it.
fn mark(kept: &mut Vec<u8>) -> Option<usize> {
    let at = kept.windows(MARK.len()).position(|part| part == MARK)?;
    let digits = kept.get(at + MARK.len()..at + MARK.len() + 4)?;
    let event = std::str::from_utf8(digits).ok()?.parse().ok()?;
    kept.drain(..at + MARK.len() + 4);
    Some(event)
}

fn step(server: &Server, run: &str) -> usize {
    let metrics: Vec<Metric> = server.client.metrics(run);
    metrics.iter().filter(|m| m.stage == Stage::Sft && m.name == "loss").map(|m| m.step).max().unwrap_or(0)
}

/// The step and the moment at which it came: waits for the next one, so that a rate counts whole steps.
fn step_at(server: &Server, run: &str) -> (usize, Instant) {
    let before = step(server, run);
    beckon_tests::wait_for("a step", Duration::from_secs(120), || {
        let now = step(server, run);
        (now > before).then(|| (now, Instant::now()))
    })
}

fn steps_per_sec(server: &Server, run: &str, meanwhile: impl FnOnce()) -> f64 {
    let first = step_at(server, run);
    meanwhile();
    rate(first, step_at(server, run))
}

fn rate(first: (usize, Instant), last: (usize, Instant)) -> f64 {
    (last.0 - first.0) as f64 / (last.1 - first.1).as_secs_f64()
}
