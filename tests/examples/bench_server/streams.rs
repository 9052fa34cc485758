//! A thousand listeners while a run trains: how late events come, what it costs the run, and how much memory it takes.

use crate::alone;
use crate::cpu::Cpu;
use crate::download::memory_mb;
use beckon_server::eval::mean_and_t_interval;
use beckon_server::remote::Remote;
use beckon_shared::control::command::Command;
use beckon_tests::process::Server;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Listeners.
const N_STREAMS: usize = 1_000;
/// Events of a part whose delivery is timed, and the pause between them.
const N_EVENTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(400);
/// After a part for its last deliveries, and again for the connections to end.
const REST: Duration = Duration::from_millis(400);
/// Rounds, each with every kind of part twice, the second time in reversed order: what changes evenly while a round lasts, as the
/// machine's speed, is the same for all kinds. Short parts, so that little changes meanwhile; as many rounds as it takes to tell 5 %
/// from less where a round strays by 6 %.
const N_ROUNDS: usize = 24;
const ROUND: [Listeners; 6] = {
    use Listeners::{None, Reading, Unread};
    [None, Unread, Reading, Reading, Unread, None]
};
/// What the listeners look for; four digits follow.
const MARK: &[u8] = b"bench-mark-";

/// When each event was asked for, and the delays of all deliveries.
#[derive(Default)]
struct Clock {
    asked: Mutex<Vec<Option<Instant>>>,
    /// Of each round.
    delays: Mutex<Vec<Vec<Duration>>>,
    n_open: AtomicUsize,
}

/// What the thousand do in a part of a round.
#[derive(Clone, Copy, PartialEq)]
enum Listeners {
    /// They are not there.
    None,
    /// Their connections are open, and what comes stays in the system's buffers: what the server alone does.
    Unread,
    /// They read, on this machine's cores.
    Reading,
}

/// What a part of a round showed.
#[derive(Clone, Copy)]
struct Part {
    steps_per_sec: f64,
    /// Processor time per second.
    cpu: Cpu,
}

/// Figures of the whole.
pub fn measure(server: &Server, checkpoint: &str) -> Vec<Value> {
    let run = server.client.start_run(&json!({"preset": "nano", "device": "cpu", "sft": {"n_steps": 100_000}})).id;
    beckon_tests::wait_for("the first steps", Duration::from_secs(300), || (step(server, &run) >= 3).then_some(()));
    let quiet_mb = memory_mb(server.pid());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let n_asked = ROUND.len() * N_ROUNDS * N_EVENTS;
    let clock = Arc::new(Clock { asked: Mutex::new(vec![None; n_asked]), ..Clock::default() });
    let (mut parts, mut loud_mb, mut event) = ([const { Vec::new() }; 3], 0.0_f64, 0..);
    for round in 1..=N_ROUNDS {
        clock.delays.lock().expect("no panic").push(Vec::new());
        for listeners in ROUND {
            let part = runtime.block_on(async {
                let streams = Streams::open(listeners, server, &clock).await;
                let remote = Remote::new(&server.client.url, None, None).expect("a client");
                let (first, before) = (step_at(server, &run), Cpu::now(server.pid()));
                for event in event.by_ref().take(N_EVENTS) {
                    ask(&remote, checkpoint, &clock, event).await;
                    tokio::time::sleep(PAUSE).await;
                }
                let (last, after) = (step_at(server, &run), Cpu::now(server.pid()));
                let secs = (last.1 - first.1).as_secs_f64();
                loud_mb = loud_mb.max(memory_mb(server.pid()));
                tokio::time::sleep(REST).await;
                streams.close(event.start - 1);
                Part { steps_per_sec: (last.0 - first.0) as f64 / secs, cpu: after.since(before, secs) }
            });
            eprintln!(
                "{:<8} {:.2} steps/s, processor seconds a second: {:?}",
                listeners.name(),
                part.steps_per_sec,
                part.cpu
            );
            parts[listeners as usize].push(part);
            clock.n_open.store(0, Ordering::Relaxed);
            std::thread::sleep(REST);
        }
        if round.is_multiple_of(5) {
            let [none, unread, reading] = &parts;
            let [unread, reading] = [unread, reading].map(|heard| slower(none, heard));
            eprintln!("after {round} rounds slower by the server alone {unread:.1?} %, with readers {reading:.1?} %");
        }
    }
    server.client.command(&run, "cancel");
    let delays = sorted(std::mem::take(&mut *clock.delays.lock().expect("no panic")));
    let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let of = |listeners: Listeners, value: fn(&Part) -> f64| {
        median(&mut parts[listeners as usize].iter().map(value).collect::<Vec<_>>())
    };
    let slower = |listeners| slower(&parts[Listeners::None as usize], &parts[listeners as usize]);
    let (reading, unread) = (slower(Listeners::Reading), slower(Listeners::Unread));
    let more = |listeners, value: fn(&Part) -> f64| of(listeners, value) - of(Listeners::None, value);
    vec![
        alone("server.streams_1000.delivery_p50", "ms", at(0.5)),
        alone("server.streams_1000.delivery_p99", "ms", at(0.99)),
        alone("server.streams_1000.delivery_max", "ms", at(1.0)),
        alone("server.streams_1000.steps_per_sec_alone", "1/s", of(Listeners::None, |part| part.steps_per_sec)),
        alone("server.streams_1000.training_slower", "%", reading.0),
        alone("server.streams_1000.training_slower_at_least", "%", reading.1.0),
        alone("server.streams_1000.training_slower_at_most", "%", reading.1.1),
        alone("server.streams_1000.training_slower_by_server_alone", "%", unread.0),
        alone("server.streams_1000.training_slower_by_server_alone_at_least", "%", unread.1.0),
        alone("server.streams_1000.training_slower_by_server_alone_at_most", "%", unread.1.1),
        alone("server.streams_1000.server_cpu_more", "cores", more(Listeners::Reading, |part| part.cpu.serving)),
        alone("server.streams_1000.client_cpu_more", "cores", more(Listeners::Reading, |part| part.cpu.client)),
        alone("server.streams_1000.memory_more", "MB", loud_mb - quiet_mb),
    ]
}

impl Listeners {
    fn name(self) -> &'static str {
        ["none", "unread", "reading"][self as usize]
    }
}

/// The connections of a part.
enum Streams {
    None,
    Unread(Vec<std::net::TcpStream>),
    Reading(Vec<tokio::task::JoinHandle<()>>),
}

impl Streams {
    async fn open(listeners: Listeners, server: &Server, clock: &Arc<Clock>) -> Self {
        let addr = server.client.url.trim_start_matches("http://").to_owned();
        match listeners {
            Listeners::None => Self::None,
            Listeners::Unread => {
                let mut streams = Vec::new();
                for _ in 0..N_STREAMS {
                    let mut stream = connect(&addr).await;
                    stream.read_u8().await.expect("the head");
                    // the system wakes nobody for it
                    streams.push(stream.into_std().expect("a stream"));
                }
                Self::Unread(streams)
            }
            Listeners::Reading => {
                let listen = |_| tokio::spawn(listen(addr.clone(), Arc::clone(clock)));
                let tasks = (0..N_STREAMS).map(listen).collect();
                while clock.n_open.load(Ordering::Relaxed) < N_STREAMS {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Self::Reading(tasks)
            }
        }
    }

    /// Ends them; what was not read has to be there up to the last event.
    fn close(self, last: usize) {
        match self {
            Self::None => {}
            Self::Reading(tasks) => tasks.iter().for_each(tokio::task::JoinHandle::abort),
            Self::Unread(streams) => {
                let mark = format!("{}{last:04}", String::from_utf8_lossy(MARK));
                for mut stream in streams {
                    let mut text = Vec::new();
                    // ends where nothing is there
                    let _ = std::io::Read::read_to_end(&mut stream, &mut text);
                    assert!(String::from_utf8_lossy(&text).contains(&mark), "the buffers were full before {mark}");
                }
            }
        }
    }
}

/// An open stream with room for what comes in a part.
async fn connect(addr: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(1 << 20).expect("a buffer");
    let mut stream = socket.connect(addr.parse().expect("an address")).await.expect("connects");
    let request = format!("GET /api/events HTTP/1.1\r\nhost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("asks");
    stream
}

/// All deliveries, the quickest first; tells the slow end of each round.
fn sorted(rounds: Vec<Vec<Duration>>) -> Vec<Duration> {
    for round in &rounds {
        let mut round = round.clone();
        assert_eq!(round.len(), 2 * N_EVENTS * N_STREAMS, "deliveries are missing"); // two parts read
        round.sort();
        eprintln!("99 of 100 deliveries of a round within {:.0?}", round[(round.len() - 1) * 99 / 100]);
    }
    let mut all = rounds.concat();
    all.sort();
    all
}

/// By how many percent training is slower than alone, with an interval that holds the truth in 95 of 100 such measurements: a round
/// is one observation, the ratio of its steps a second.
fn slower(alone: &[Part], heard: &[Part]) -> (f64, (f64, f64)) {
    let rate = |parts: &[Part]| parts.iter().map(|part| part.steps_per_sec).sum::<f64>();
    let of_round = |(alone, heard)| (1.0 - rate(heard) / rate(alone)) * 100.0;
    mean_and_t_interval(&alone.chunks(2).zip(heard.chunks(2)).map(of_round).collect::<Vec<f64>>())
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
    let mut stream = connect(&addr).await;
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
            clock.delays.lock().expect("no panic").last_mut().expect("a round").push(delay);
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
    server.client.run(run).step
}

/// The step and the moment at which it came: waits for the next one, so that a rate counts whole steps.
fn step_at(server: &Server, run: &str) -> (usize, Instant) {
    let before = step(server, run);
    beckon_tests::wait_for("a step", Duration::from_secs(120), || {
        let now = step(server, run);
        (now > before).then(|| (now, Instant::now()))
    })
}
