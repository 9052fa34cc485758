//! The trainer: one OS thread that owns the device and runs one run after the other.
//!
//! In the loop: turns a configuration and the log into a checkpoint by [`crate::pipeline`], on request of the page or
//! another program. Burn orders work by OS thread, so no device call of a run is made anywhere else. The store is told
//! every change of state before anyone else is, so a restart goes on where the process ended: runs that were running
//! or queued are taken up again from their saved state, paused ones stay paused.
//!
//! A paused run keeps its place on the thread (and its tensors in memory) until another run is waiting; then it is put
//! aside, and resuming it queues it again. Not here: what a stage does, and how its state is saved.

mod watch;

use crate::catalog::{Catalog, CatalogError};
use crate::events::Events;
use crate::pipeline::lineage::Origin;
use crate::pipeline::{self, PipelineError};
use crate::stage::Observer;
use crate::store::{Store, StoreError, StoredRun, Wish};
use beckon_shared::click::Sourced;
use beckon_shared::control::{CheckpointInfo, Event, RunCommand, RunConfig, RunState, RunStatus};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use watch::Watch;

/// Runs that may wait.
pub const MAX_QUEUED: usize = 16;

/// Why a request to the trainer was not done.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// [`MAX_QUEUED`] runs wait.
    #[error("{MAX_QUEUED} runs are waiting already; cancel one or try again when one has ended")]
    QueueFull,
    /// No run with this id.
    #[error("there is no run {id}")]
    Unknown {
        /// The id asked for.
        id: String,
    },
    /// The run's state does not allow it.
    #[error("run {id} is {state}, so it cannot be {command}")]
    NotPossible {
        /// Which run.
        id: String,
        /// Its state in words.
        state: &'static str,
        /// What was asked, as a participle.
        command: &'static str,
    },
    /// The server is stopping.
    #[error("the server is shutting down; ask again after its restart")]
    Stopping,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a run is made from.
pub struct Job {
    /// Folder of the run's state and results.
    pub dir: PathBuf,
    /// Configuration.
    pub config: RunConfig,
    /// The log as it was when the run was asked for.
    pub records: Vec<Sourced>,
    /// For the checkpoint's lineage.
    pub origin: Origin,
}

/// What a run that reached its end made.
pub struct Product {
    /// The checkpoint file, inside the run's folder.
    pub checkpoint_path: PathBuf,
    /// Its description.
    pub checkpoint: CheckpointInfo,
}

/// How a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The observer said so; state is saved.
    #[error("cancelled")]
    Cancelled,
    /// Anything else, in words for people.
    #[error("{0}")]
    Failed(String),
}

/// Runs a whole run on the calling thread; [`run_pipeline`] in the product, something quick in tests.
pub type Runner = dyn FnMut(&Job, &mut dyn Observer) -> Result<Product, RunError> + Send;

/// Runs the real thing, [`crate::pipeline::run`].
///
/// # Errors
/// [`RunError`].
pub fn run_pipeline(job: &Job, observer: &mut dyn Observer) -> Result<Product, RunError> {
    match pipeline::run_as(&job.dir, &job.config, &job.records, &job.origin, observer) {
        Ok(outcome) => Ok(Product { checkpoint_path: outcome.checkpoint_path, checkpoint: outcome.checkpoint }),
        Err(PipelineError::Cancelled) => Err(RunError::Cancelled),
        Err(error) => Err(RunError::Failed(error.to_string())),
    }
}

/// The run on the thread.
struct Active {
    status: RunStatus,
    wish: Option<Wish>,
    /// Put aside while paused, to let another run go ahead.
    parked: bool,
}

#[derive(Default)]
struct Board {
    /// Ids, next first.
    queue: VecDeque<String>,
    active: Option<Active>,
    stopping: bool,
    /// Runs whose end the store refused, as on a full disk. The next process finds them running and takes them up.
    unsaved: Vec<RunStatus>,
}

impl Board {
    /// The status that the store does not have.
    fn newer(&self, id: &str) -> Option<&RunStatus> {
        let active = self.active.as_ref().map(|active| &active.status);
        active.into_iter().chain(&self.unsaved).find(|status| status.id == id)
    }
}

struct Shared {
    board: Mutex<Board>,
    /// Signalled at every change of the board.
    changed: Condvar,
    store: Arc<Store>,
    events: Arc<Events>,
    catalog: Arc<Catalog>,
    /// Holds one folder per run.
    runs_dir: PathBuf,
}

/// Handle to the trainer. Methods block for as long as a write to disk takes.
pub struct Trainer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Trainer {
    /// Starts the thread and takes up the runs that an earlier process left. `runner` is made on the thread.
    ///
    /// # Errors
    /// [`TrainerError::Store`] where the runs cannot be read.
    pub fn start(
        store: Arc<Store>,
        events: Arc<Events>,
        catalog: Arc<Catalog>,
        runs_dir: PathBuf,
        mut runner: Box<Runner>,
    ) -> Result<Self, TrainerError> {
        let queue = take_up(&store)?;
        let board = Mutex::new(Board { queue, ..Board::default() });
        let shared = Arc::new(Shared { board, changed: Condvar::new(), store, events, catalog, runs_dir });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("trainer".into()).spawn(move || {
            while let Some(run) = for_thread.next() {
                for_thread.train(&run, &mut *runner);
            }
        });
        // a process that cannot start a thread at its beginning cannot go on
        let thread = thread.unwrap_or_else(|error| panic!("cannot start the trainer's thread: {error}"));
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Queues a run over the log as it is now.
    ///
    /// # Errors
    /// [`TrainerError::QueueFull`], `Stopping`, `Store`.
    pub fn submit(&self, config: RunConfig) -> Result<RunStatus, TrainerError> {
        let mut board = self.shared.board();
        board.check_room()?;
        let status = self.shared.store.add_run(config, crate::now_millis())?;
        board.queue.push_back(status.id.clone());
        self.shared.announce(&status);
        Ok(status)
    }

    /// Does what a person asks of a run. A running run does it at its next step: until then the status returned here
    /// says `running`, and an event tells when it is done.
    ///
    /// # Errors
    /// [`TrainerError::Unknown`], `NotPossible`, `QueueFull`, `Stopping`, `Store`.
    pub fn command(&self, id: &str, command: RunCommand) -> Result<RunStatus, TrainerError> {
        let mut board = self.shared.board();
        if board.stopping {
            return Err(TrainerError::Stopping);
        }
        if let Some(active) = board.active.as_mut().filter(|active| active.status.id == id) {
            return self.shared.command_active(active, command);
        }
        let stored = self.shared.store.run(id)?.ok_or_else(|| TrainerError::Unknown { id: id.to_owned() })?;
        self.shared.command_waiting(&mut board, stored.status, command)
    }

    /// A run as it is now.
    ///
    /// # Errors
    /// [`TrainerError::Unknown`], `Store`.
    pub fn status(&self, id: &str) -> Result<RunStatus, TrainerError> {
        let board = self.shared.board();
        match board.newer(id) {
            Some(status) => Ok(status.clone()),
            None => match self.shared.store.run(id)? {
                Some(stored) => Ok(stored.status),
                None => Err(TrainerError::Unknown { id: id.to_owned() }),
            },
        }
    }

    /// All runs as they are now, newest first.
    ///
    /// # Errors
    /// [`TrainerError::Store`].
    pub fn statuses(&self) -> Result<Vec<RunStatus>, TrainerError> {
        let board = self.shared.board();
        let mut statuses: Vec<RunStatus> = self.shared.store.runs()?.into_iter().map(|run| run.status).collect();
        for status in &mut statuses {
            if let Some(newer) = board.newer(&status.id) {
                *status = newer.clone();
            }
        }
        Ok(statuses)
    }

    /// Folder of a run's state and report.
    pub fn run_dir(&self, id: &str) -> PathBuf {
        self.shared.runs_dir.join(id)
    }

    /// Asks the running stage to save and stop, and starts nothing more. The run keeps its state, so the next process
    /// takes it up again.
    pub fn stop(&self) {
        self.shared.board().stopping = true;
        self.shared.changed.notify_all();
    }

    /// Waits for the thread to end; call [`Trainer::stop`] before.
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // panics of a run are caught on the thread, so there is nothing left to report here
            let _ = thread.join();
        }
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        self.stop();
        self.join();
    }
}

impl Board {
    fn check_room(&self) -> Result<(), TrainerError> {
        if self.stopping {
            return Err(TrainerError::Stopping);
        }
        if self.queue.len() >= MAX_QUEUED { Err(TrainerError::QueueFull) } else { Ok(()) }
    }
}

/// Ids of the runs to go on with, those that were running first; wishes that were not done yet are done now.
fn take_up(store: &Store) -> Result<VecDeque<String>, StoreError> {
    let mut queue = VecDeque::new();
    let mut n_running = 0;
    for StoredRun { mut status, wish, .. } in store.runs()?.into_iter().rev() {
        match (status.state, wish) {
            (RunState::Running | RunState::Queued | RunState::Paused, Some(Wish::Cancel)) => {
                status.state = RunState::Cancelled;
                store.set_run(&status, None)?;
            }
            (RunState::Running, Some(Wish::Pause)) => {
                status.state = RunState::Paused;
                store.set_run(&status, None)?;
            }
            (RunState::Running, None) => {
                queue.insert(n_running, status.id);
                n_running += 1;
            }
            (RunState::Queued, _) => queue.push_back(status.id),
            _ => {}
        }
    }
    Ok(queue)
}

fn not_possible(status: &RunStatus, state: &'static str, command: RunCommand) -> TrainerError {
    let command = match command {
        RunCommand::Pause => "paused",
        RunCommand::Resume => "resumed",
        RunCommand::Cancel => "cancelled",
    };
    TrainerError::NotPossible { id: status.id.clone(), state, command }
}

fn state_in_words(state: RunState) -> &'static str {
    match state {
        RunState::Queued => "waiting for its turn",
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::Cancelled => "cancelled",
        RunState::Failed => "failed",
        RunState::Finished => "finished",
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells listeners about a change, and the thread to look at the board.
    fn announce(&self, status: &RunStatus) {
        self.events.announce(Event::Run(status.clone()));
        self.changed.notify_all();
    }

    /// Stores and announces; on an error nothing has changed.
    fn settle(&self, status: &RunStatus, wish: Option<Wish>) -> Result<(), StoreError> {
        self.store.set_run(status, wish)?;
        self.announce(status);
        Ok(())
    }

    fn command_active(&self, active: &mut Active, command: RunCommand) -> Result<RunStatus, TrainerError> {
        let held = active.status.state == RunState::Paused;
        let (wish, state) = match (command, active.wish) {
            (_, Some(Wish::Cancel)) => return Err(not_possible(&active.status, "being cancelled", command)),
            (RunCommand::Cancel, _) => (Some(Wish::Cancel), active.status.state),
            (RunCommand::Pause, _) if held => return Err(not_possible(&active.status, "paused", command)),
            (RunCommand::Pause, _) => (Some(Wish::Pause), active.status.state),
            (RunCommand::Resume, None) if !held => return Err(not_possible(&active.status, "running", command)),
            (RunCommand::Resume, _) => (None, RunState::Running),
        };
        if active.parked && command == RunCommand::Resume {
            // it is on its way off the thread; a moment later it can be queued
            return Err(not_possible(&active.status, "being put aside for a moment", command));
        }
        let status = RunStatus { state, ..active.status.clone() };
        self.settle(&status, wish)?;
        active.status = status.clone();
        active.wish = wish;
        Ok(status)
    }

    fn command_waiting(
        &self,
        board: &mut Board,
        mut status: RunStatus,
        command: RunCommand,
    ) -> Result<RunStatus, TrainerError> {
        let queued = board.queue.contains(&status.id);
        status.state = match command {
            RunCommand::Pause if queued => RunState::Paused,
            RunCommand::Cancel if queued || status.state == RunState::Paused => RunState::Cancelled,
            RunCommand::Resume if status.state == RunState::Paused => {
                board.check_room()?;
                RunState::Queued
            }
            _ => return Err(not_possible(&status, state_in_words(status.state), command)),
        };
        self.store.set_run(&status, None)?;
        board.queue.retain(|id| *id != status.id);
        if status.state == RunState::Queued {
            board.queue.push_back(status.id.clone());
        }
        self.announce(&status);
        Ok(status)
    }

    /// Waits for the next run and marks it running; `None` when the trainer is to stop.
    fn next(&self) -> Option<StoredRun> {
        let mut board = self.board();
        loop {
            if board.stopping {
                return None;
            }
            let Some(id) = board.queue.pop_front() else {
                board = self.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            match self.begin(&mut board, &id) {
                Ok(Some(run)) => return Some(run),
                Ok(None) => eprintln!("beckon: run {id} is not in the database any more"),
                // left out for now; it stays queued in the database and is taken up at the next start
                Err(error) => eprintln!("beckon: cannot start run {id}: {error}"),
            }
        }
    }

    fn begin(&self, board: &mut Board, id: &str) -> Result<Option<StoredRun>, StoreError> {
        let Some(mut run) = self.store.run(id)? else { return Ok(None) };
        run.status.state = RunState::Running;
        run.status.error = None;
        self.settle(&run.status, None)?;
        board.active = Some(Active { status: run.status.clone(), wish: None, parked: false });
        Ok(Some(run))
    }

    /// Runs a run to whatever end and records that end.
    fn train(&self, run: &StoredRun, runner: &mut Runner) {
        let id = &run.status.id;
        let end = self.job(run).and_then(|job| {
            let mut watch = Watch::new(self);
            // the run's own state is on disk and written atomically, so nothing half-done survives a panic
            catch_unwind(AssertUnwindSafe(|| runner(&job, &mut watch)))
                .unwrap_or_else(|panic| Err(RunError::Failed(panic_text(&*panic))))
        });
        let end = end.and_then(|product| self.deliver(id, &product));
        let mut board = self.board();
        let stopping = board.stopping;
        let Some(active) = board.active.take() else { return };
        let Active { mut status, wish, parked } = active;
        match end {
            Ok(info) if wish != Some(Wish::Cancel) => {
                status.state = RunState::Finished;
                status.checkpoint = Some(info.id.clone());
                match self.store.finish_run(&status, &info) {
                    Ok(()) => {
                        self.catalog.list(info.clone());
                        self.events.announce(Event::Checkpoint(info));
                        self.announce(&status);
                        return;
                    }
                    Err(error) => {
                        status.checkpoint = None;
                        fail(&mut status, error.to_string());
                    }
                }
            }
            Ok(_) | Err(RunError::Cancelled) if wish == Some(Wish::Cancel) => status.state = RunState::Cancelled,
            // the store has `running` or `paused` already, which is what the next process has to find
            Ok(_) | Err(RunError::Cancelled) if stopping || parked => return,
            Ok(_) | Err(RunError::Cancelled) => fail(&mut status, "it ended without being asked to".into()),
            Err(RunError::Failed(text)) => fail(&mut status, text),
        }
        if let Some(error) = &status.error {
            eprintln!("beckon: run {id} failed: {error}");
        }
        if let Err(error) = self.settle(&status, None) {
            eprintln!("beckon: the end of run {id} could not be stored: {error}");
            self.announce(&status);
            board.unsaved.push(status);
        }
    }

    fn job(&self, run: &StoredRun) -> Result<Job, RunError> {
        let failed = |error: &dyn std::fmt::Display| RunError::Failed(error.to_string());
        let dir = self.runs_dir.join(&run.status.id);
        std::fs::create_dir_all(&dir)
            .map_err(|error| RunError::Failed(format!("cannot make the run's folder: {error}: {}", dir.display())))?;
        let records = self.store.records_up_to(run.last_record_id).map_err(|error| failed(&error))?;
        let config = run.status.config.clone();
        Ok(Job { dir, origin: Origin::of(&config), config, records })
    }

    /// Puts the checkpoint where it is served from.
    fn deliver(&self, id: &str, product: &Product) -> Result<CheckpointInfo, RunError> {
        let info = CheckpointInfo { run_id: Some(id.to_owned()), built_in: false, ..product.checkpoint.clone() };
        self.catalog.install(&product.checkpoint_path, &info).map_err(|error: CatalogError| {
            RunError::Failed(format!("{error}; the run's own copy is {}", product.checkpoint_path.display()))
        })?;
        Ok(info)
    }
}

fn fail(status: &mut RunStatus, error: String) {
    status.state = RunState::Failed;
    status.error = Some(error);
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("internal error (please report it): {}", text.unwrap_or("a panic without a text"))
}

#[cfg(test)]
mod tests;
