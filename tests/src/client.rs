//! A client for the server's routes and its events.

use beckon_shared::control::listing::next_part;
use beckon_shared::control::{CheckpointInfo, Event, ImportOutcome, Metric, Problem, RunState, RunStatus};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Speaks to one server.
#[derive(Clone)]
pub struct Client {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    agent: ureq::Agent,
}

/// What a route answered.
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `content-type`.
    pub content_type: String,
    /// Where a list goes on.
    pub next: Option<String>,
    /// Body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Body as one of our types.
    ///
    /// # Panics
    /// When it is something else.
    #[track_caller]
    pub fn json<T: for<'a> serde::Deserialize<'a>>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in the answer {}: {}", self.status, self.text()))
    }

    /// The problem that an error carries.
    ///
    /// # Panics
    /// When the answer is no problem of this status.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Problem {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.content_type, "application/problem+json");
        self.json()
    }
}

impl Client {
    /// A client of `http://127.0.0.1:PORT`.
    pub fn new(url: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(5)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .build();
        Self { url: url.to_owned(), agent: config.new_agent() }
    }

    /// GET; asks again where it asked too often, as a test that waits for a state does.
    ///
    /// # Panics
    /// When there is no answer at all.
    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        loop {
            let reply = reply(self.agent.get(format!("{}{path}", self.url)).call());
            if reply.status != 429 {
                return reply;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// POST of a body.
    ///
    /// # Panics
    /// When there is no answer at all.
    #[track_caller]
    pub fn post(&self, path: &str, body: &[u8]) -> Reply {
        reply(self.agent.post(format!("{}{path}", self.url)).send(body))
    }

    /// POST without a body, with an idempotency key.
    ///
    /// # Panics
    /// When there is no answer at all.
    #[track_caller]
    pub fn post_once(&self, path: &str, key: &str) -> Reply {
        reply(self.agent.post(format!("{}{path}", self.url)).header("idempotency-key", key).send_empty())
    }

    /// The same where the server may die meanwhile; whether there was an answer.
    pub fn try_post_once(&self, path: &str, key: &str) -> bool {
        self.agent.post(format!("{}{path}", self.url)).header("idempotency-key", key).send_empty().is_ok()
    }

    /// POST of a body where the server may die meanwhile; whether there was an answer.
    pub fn try_post(&self, path: &str, body: &[u8]) -> bool {
        self.agent.post(format!("{}{path}", self.url)).send(body).is_ok()
    }

    /// Imports own JSONL and gives status and outcome.
    #[track_caller]
    pub fn import(&self, name: &str, log: &str) -> (u16, ImportOutcome) {
        let reply = self.post(&format!("/api/log/import?format=jsonl&name={name}"), log.as_bytes());
        (reply.status, reply.json())
    }

    /// Starts a run.
    #[track_caller]
    pub fn start_run(&self, config: &Value) -> RunStatus {
        let reply = self.post("/api/runs", config.to_string().as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
        reply.json()
    }

    /// A run as it is now.
    #[track_caller]
    pub fn run(&self, id: &str) -> RunStatus {
        self.get(&format!("/api/runs/{id}")).json()
    }

    /// `pause`, `resume` or `cancel`.
    #[track_caller]
    pub fn command(&self, id: &str, command: &str) -> Reply {
        self.post(&format!("/api/runs/{id}/{command}"), b"")
    }

    /// Waits for a state.
    ///
    /// # Panics
    /// When the run ends in another one, or `limit` is over.
    #[track_caller]
    pub fn wait_for_state(&self, id: &str, state: RunState, limit: Duration) -> RunStatus {
        crate::wait_for(&format!("{id} to be {state:?}"), limit, || {
            let run = self.run(id);
            assert!(run.state == state || !run.state.is_final(), "{id} is {:?}: {:?}", run.state, run.error);
            (run.state == state).then_some(run)
        })
    }

    /// Checkpoints, newest first.
    #[track_caller]
    pub fn checkpoints(&self) -> Vec<CheckpointInfo> {
        self.get("/api/checkpoints").json()
    }

    /// Curves of a run, part after part.
    #[track_caller]
    pub fn metrics(&self, id: &str) -> Vec<Metric> {
        let (mut metrics, mut next) = (Vec::new(), Some(format!("/api/runs/{id}/metrics")));
        while let Some(path) = next {
            let mut part = self.get(&path);
            next = part.next.take();
            metrics.extend(part.json::<Vec<Metric>>());
        }
        metrics
    }

    /// Listens to the events from now on.
    ///
    /// # Panics
    /// When the server does not answer with a stream of events.
    #[track_caller]
    pub fn events(&self) -> Events {
        let response = self.agent.get(format!("{}/api/events", self.url)).call().expect("a stream of events");
        assert_eq!(response.status().as_u16(), 200);
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let reader = BufReader::new(response.into_body().into_reader());
            for line in reader.lines().map_while(Result::ok) {
                let event = line.strip_prefix("data:").and_then(|data| serde_json::from_str(data.trim_start()).ok());
                if event.is_some_and(|event: Event| sender.send(event).is_err()) {
                    return;
                }
            }
        });
        Events { receiver }
    }
}

#[track_caller]
fn reply(outcome: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Reply {
    let mut response = outcome.expect("an answer");
    let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let next = response.headers().get("link").and_then(|value| next_part(value.to_str().ok()?));
    Reply {
        status: response.status().as_u16(),
        content_type: content_type.to_owned(),
        next: next.map(str::to_owned),
        body: response.body_mut().with_config().limit(1 << 30).read_to_vec().expect("a whole body"),
    }
}

/// Events of a server, in order.
pub struct Events {
    receiver: Receiver<Event>,
}

impl Events {
    /// The first event from here on that `pick` wants.
    ///
    /// # Panics
    /// When none comes within `limit` or the stream ends.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, limit: Duration, mut pick: impl FnMut(Event) -> Option<T>) -> T {
        let end = Instant::now() + limit;
        loop {
            match self.receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    if let Some(picked) = pick(event) {
                        return picked;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("waited {limit:?} in vain for the event: {what}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the events ended before: {what}"),
            }
        }
    }

    /// Events that are there already.
    pub fn drain(&self) -> Vec<Event> {
        self.receiver.try_iter().collect()
    }
}
