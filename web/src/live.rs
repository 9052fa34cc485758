//! What the page knows of the server, kept current by server-sent events: runs, curves, checkpoints, the
//! log. One [`Live`] is provided to all pages; each signal changes in one place, here.

use crate::api::{self, ApiError};
use crate::curve::Curves;
use crate::eta::StepRate;
use crate::format;
use crate::platform::{clock, spawn, stream};
use beckon_shared::control::{CheckpointInfo, Event, LogSummary, Metric, RunState, RunStatus};
use beckon_shared::json;
use leptos::prelude::*;

/// How often buffered metrics reach the curves, milliseconds.
const FLUSH_MILLIS: i32 = 200;
/// Metrics that may wait (a background tab's timers are slow); beyond it they are flushed at once.
const MAX_BUFFERED: usize = 10_000;
/// Pause between an event and reading what it tells of, so that many imports, or many lines of a run, cost one call.
const READ_DELAY_MILLIS: i32 = 300;

/// Times that the list of runs is read again because an event overtook it.
const MAX_REREADS: usize = 5;

/// A resource of the server.
#[derive(Debug, Clone, PartialEq)]
pub enum Fetched<T> {
    /// Asked for.
    Waiting,
    /// As last read.
    Here(T),
    /// Could not be read, and was never there.
    Failed(String),
}

impl<T> Fetched<T> {
    /// The value, where there is one.
    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Here(value) => Some(value),
            _ => None,
        }
    }

    /// Why there is none.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed(reason) => Some(reason),
            _ => None,
        }
    }

    /// A new answer replaces the old one; a failure does not replace a value.
    pub fn take(&mut self, answer: Result<T, ApiError>) {
        match answer {
            Ok(value) => *self = Self::Here(value),
            Err(_) if matches!(self, Self::Here(_)) => {}
            Err(error) => *self = Self::Failed(error.to_string()),
        }
    }
}

/// State of the event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Not there yet.
    Connecting,
    /// Events arrive.
    Open,
    /// Broken; tried again all the time.
    Lost,
}

/// Everything that follows the server.
#[derive(Clone, Copy)]
pub struct Live {
    /// Event stream.
    pub connection: RwSignal<Connection>,
    /// Runs, newest first.
    pub runs: RwSignal<Fetched<Vec<RunStatus>>>,
    /// Checkpoints, newest first.
    pub checkpoints: RwSignal<Fetched<Vec<CheckpointInfo>>>,
    /// The log.
    pub summary: RwSignal<Fetched<LogSummary>>,
    /// Changes whenever records were added.
    pub log_version: RwSignal<u64>,
    /// Raised with every change of the registry of checkpoints.
    pub registry_version: RwSignal<u64>,
    /// Raised with every change of an experiment.
    pub experiments_version: RwSignal<u64>,
    /// Raised when a run has said something.
    pub lines_version: RwSignal<u64>,
    /// Curves of the runs looked at.
    pub curves: RwSignal<Curves>,
    /// Speed of the run at work.
    pub rate: RwSignal<StepRate>,
    /// Last thing said to screen readers.
    pub announcement: RwSignal<String>,
    buffer: StoredValue<Vec<Metric>>,
    summary_due: StoredValue<bool>,
    lines_due: StoredValue<bool>,
    n_run_events: StoredValue<u64>,
}

impl Live {
    /// Starts listening and reads everything once.
    pub fn start() -> Self {
        let live = Self {
            connection: RwSignal::new(Connection::Connecting),
            runs: RwSignal::new(Fetched::Waiting),
            checkpoints: RwSignal::new(Fetched::Waiting),
            summary: RwSignal::new(Fetched::Waiting),
            log_version: RwSignal::new(0),
            registry_version: RwSignal::new(0),
            experiments_version: RwSignal::new(0),
            lines_version: RwSignal::new(0),
            curves: RwSignal::new(Curves::default()),
            rate: RwSignal::new(StepRate::default()),
            announcement: RwSignal::new(String::new()),
            buffer: StoredValue::new(Vec::new()),
            summary_due: StoredValue::new(false),
            lines_due: StoredValue::new(false),
            n_run_events: StoredValue::new(0),
        };
        live.refetch();
        stream::listen(
            api::EVENTS_URL,
            move |text| {
                // an event of a newer server that this page does not know is passed over
                if let Ok(event) = json::parse(&text) {
                    live.apply(event);
                }
            },
            move |link| live.linked(link),
        );
        clock::every(FLUSH_MILLIS, move || live.flush());
        live
    }

    /// Says something to screen readers.
    pub fn announce(&self, text: impl Into<String>) {
        self.announcement.set(text.into());
    }

    /// Reads runs, checkpoints and summary again.
    pub fn refetch(&self) {
        let live = *self;
        spawn(async move {
            // an event that came while the list was on its way is newer than the list
            let mut asked_at = live.run_events();
            let mut answer = api::runs().await;
            for _ in 0..MAX_REREADS {
                if answer.is_err() || live.run_events() == asked_at {
                    break;
                }
                asked_at = live.run_events();
                answer = api::runs().await;
            }
            live.runs.update(|r| r.take(answer));
            let answer = api::checkpoints().await;
            live.checkpoints.update(|c| c.take(answer));
            live.read_summary().await;
        });
    }

    /// Reads a run's curves from the start, and forgets those of runs that are neither this one nor at work.
    pub fn open_curves(&self, run_id: String) {
        let live = *self;
        spawn(async move {
            let Ok(history) = api::metrics(&run_id).await else { return };
            let at_work = live.runs.with_untracked(|runs| {
                let runs = runs.value().into_iter().flatten();
                runs.filter(|r| !r.state.is_final()).map(|r| r.id.clone()).collect::<Vec<_>>()
            });
            live.curves.update(|curves| {
                let mut keep: Vec<&str> = at_work.iter().map(String::as_str).collect();
                keep.push(&run_id);
                curves.keep_only(&keep);
                history.iter().for_each(|metric| curves.insert(metric));
            });
        });
    }

    /// Events about runs so far: what [`Self::answered`] wants to know of the moment a request was sent.
    pub fn run_events(&self) -> u64 {
        self.n_run_events.get_value()
    }

    /// Takes the status that a request brought. An event that came while the request was under way is newer than its
    /// answer, which then counts only for a run that is not known yet.
    pub fn answered(&self, asked_at: u64, status: RunStatus) {
        let is_known =
            self.runs.with_untracked(|r| r.value().is_some_and(|list| list.iter().any(|r| r.id == status.id)));
        if self.run_events() == asked_at || !is_known {
            self.upsert_run(status);
        }
    }

    /// Takes a deleted run off the list.
    pub fn forget_run(&self, id: &str) {
        self.runs.update(|runs| {
            if let Fetched::Here(list) = runs {
                list.retain(|run| run.id != id);
            }
        });
    }

    /// Puts a run's new status in its place.
    fn upsert_run(&self, status: RunStatus) {
        if let (RunState::Running, Some(stage)) = (status.state, status.stage) {
            self.rate.update(|r| r.observe(stage, status.step, clock::now_secs()));
        } else {
            self.rate.update(StepRate::reset);
        }
        let mut changed = None;
        self.runs.update(|runs| {
            let list = match runs {
                Fetched::Here(list) => list,
                other => {
                    *other = Fetched::Here(Vec::new());
                    let Fetched::Here(list) = other else { return };
                    list
                }
            };
            match list.iter_mut().find(|r| r.id == status.id) {
                Some(old) => {
                    if old.state != status.state {
                        changed = Some(state_sentence(&status));
                    }
                    *old = status;
                }
                None => list.insert(0, status),
            }
        });
        if let Some(text) = changed {
            self.announce(text);
        }
    }

    fn linked(&self, link: stream::Link) {
        let before = self.connection.get_untracked();
        let now = match link {
            stream::Link::Open => Connection::Open,
            stream::Link::Lost => Connection::Lost,
        };
        if before != now {
            self.connection.set(now);
        }
        if now == Connection::Open && before == Connection::Lost {
            // the server may be another one by now
            self.refetch();
            self.refetch_curves();
            self.lines_soon();
        }
    }

    fn apply(&self, event: Event) {
        match event {
            Event::Run(status) => {
                self.n_run_events.update_value(|n| *n += 1);
                self.upsert_run(status);
            }
            Event::Metric(metric) => {
                let n = self.buffer.try_update_value(|buffer| {
                    buffer.push(metric);
                    buffer.len()
                });
                if n.is_some_and(|n| n >= MAX_BUFFERED) {
                    self.flush();
                }
            }
            Event::Checkpoint(info) => {
                let text = format!("New checkpoint {}", info.name);
                self.checkpoints.update(|checkpoints| {
                    let mut list = checkpoints.value().cloned().unwrap_or_default();
                    list.retain(|c| c.id != info.id);
                    list.insert(0, info);
                    *checkpoints = Fetched::Here(list);
                });
                self.registry_version.update(|version| *version += 1);
                self.announce(text);
            }
            Event::RunDeleted { id } => self.forget_run(&id),
            Event::Registry { id, entry } => {
                if entry.is_none() {
                    self.checkpoints.update(|checkpoints| {
                        if let Fetched::Here(list) = checkpoints {
                            list.retain(|checkpoint| checkpoint.id != id);
                        }
                    });
                }
                self.registry_version.update(|version| *version += 1);
            }
            Event::Experiment(_) | Event::ExperimentDeleted { .. } => {
                self.experiments_version.update(|version| *version += 1);
            }
            Event::Alarm { text, .. } => {
                self.announce(text);
                self.lines_soon();
            }
            Event::Line { .. } | Event::Sample(_) => self.lines_soon(),
            Event::LogChanged { .. } => self.summary_soon(),
            Event::Missed { .. } => {
                self.refetch();
                self.refetch_curves();
                self.lines_soon();
            }
        }
    }

    fn refetch_curves(&self) {
        let ids = self.curves.with_untracked(Curves::run_ids);
        ids.into_iter().for_each(|id| self.open_curves(id));
    }

    fn summary_soon(&self) {
        if self.summary_due.get_value() {
            return;
        }
        self.summary_due.set_value(true);
        let live = *self;
        spawn(async move {
            clock::sleep(READ_DELAY_MILLIS).await;
            live.summary_due.set_value(false);
            live.read_summary().await;
        });
    }

    fn lines_soon(&self) {
        if self.lines_due.get_value() {
            return;
        }
        self.lines_due.set_value(true);
        let live = *self;
        spawn(async move {
            clock::sleep(READ_DELAY_MILLIS).await;
            live.lines_due.set_value(false);
            live.lines_version.update(|version| *version += 1);
        });
    }

    async fn read_summary(&self) {
        let answer = api::log_summary().await;
        self.summary.update(|s| s.take(answer));
        self.log_version.update(|v| *v += 1);
    }

    /// Moves buffered metrics into the curves, and the step of the newest into its run.
    fn flush(&self) {
        let metrics = self.buffer.try_update_value(std::mem::take).unwrap_or_default();
        let Some(newest) = metrics.last().cloned() else { return };
        self.curves.update(|curves| metrics.iter().for_each(|metric| curves.insert(metric)));
        self.rate.update(|r| r.observe(newest.stage, newest.step, clock::now_secs()));
        let is_ahead =
            |run: &RunStatus| run.id == newest.run_id && run.stage == Some(newest.stage) && run.step < newest.step;
        let any = self.runs.with_untracked(|runs| runs.value().is_some_and(|list| list.iter().any(is_ahead)));
        if any {
            self.runs.update(|runs| {
                if let Fetched::Here(list) = runs
                    && let Some(run) = list.iter_mut().find(|run| is_ahead(run))
                {
                    run.step = newest.step;
                }
            });
        }
    }
}

fn state_sentence(run: &RunStatus) -> String {
    let what = match run.state {
        RunState::Draft => "is a draft",
        RunState::Queued => "is waiting",
        RunState::Running => "is training",
        RunState::Paused => "is paused",
        RunState::Cancelled => "was cancelled",
        RunState::Failed => "failed",
        RunState::Finished => "has finished",
    };
    format!("Run {} {} {what}", run.id, run.config.name)
}

/// Progress of a run within its stage, in [0, 1].
#[expect(clippy::cast_precision_loss, reason = "step counts")]
pub fn stage_share(run: &RunStatus) -> f64 {
    if run.n_steps == 0 { 0.0 } else { (run.step as f64 / run.n_steps as f64).clamp(0.0, 1.0) }
}

/// `SFT 120/300`.
pub fn stage_progress(run: &RunStatus) -> String {
    run.stage.map_or_else(
        || "starting".to_owned(),
        |stage| {
            format!("{} {}/{}", stage_label(stage), format::count(run.step as u64), format::count(run.n_steps as u64))
        },
    )
}

/// Name of a stage for people.
pub fn stage_label(stage: beckon_shared::control::Stage) -> &'static str {
    use beckon_shared::control::Stage;
    match stage {
        Stage::Data => "Data",
        Stage::Sft => "SFT",
        Stage::Garm => "GaRM",
        Stage::Rl => "RL",
        Stage::Eval => "Eval",
        Stage::Export => "Export",
    }
}
