//! The trainer: one OS thread that owns the device and runs one run after the other.
//!
//! In the loop: turns a configuration and the log into a checkpoint by [`crate::pipeline`], on request of the page or
//! another program. Burn orders work by OS thread, so no device call of a run is made anywhere else. The store is told
//! every change of state before anyone else is, so a restart goes on where the process ended: runs that were running
//! or queued are taken up again from their saved state, paused ones stay paused.
//!
//! A paused run keeps its place on the thread (and its tensors in memory) until another run is waiting; then it is put
//! aside, and resuming it queues it again. Not here: what a stage does, and how its state is saved.

mod end;
mod error;
mod job;
mod watch;

use crate::catalog::Catalog;
use crate::crash::{Point, reach};
use crate::events::Events;
use crate::model::device::check_number;
use crate::model::lent::Lent;
use crate::pipeline;
use crate::pipeline::lineage::Origin;
use crate::registry::moves;
use crate::store::{Store, StoreError, StoredRun};
use beckon_shared::control::life::{self, Standing, Step, Wish};
use beckon_shared::control::tuning::{Change, Tuning};
use beckon_shared::control::{Event, RunCommand, RunConfig, RunState, RunStatus};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

pub use error::TrainerError;
pub use job::{Job, Product, RunError, Runner, guarded, run_pipeline};

/// Runs that may wait.
pub const MAX_QUEUED: usize = 16;
/// Pause after which a run that the store did not let begin is tried again.
const BEGIN_AGAIN_AFTER: Duration = Duration::from_secs(1);

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

/// What the trainer works with.
pub struct TrainerParts {
    /// Runs and the log.
    pub store: Arc<Store>,
    /// Announcements.
    pub events: Arc<Events>,
    /// Where checkpoints go.
    pub catalog: Arc<Catalog>,
    /// Holds one folder per run.
    pub runs_dir: PathBuf,
    /// Devices that runs may borrow.
    pub lent: Lent,
}

struct Shared {
    board: Mutex<Board>,
    /// Signalled at every change of the board.
    changed: Condvar,
    parts: TrainerParts,
    /// Checkpoints that a finished run leaves beside those that are needed.
    n_kept: AtomicUsize,
    /// Another server of the same store trains.
    elsewhere: bool,
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
    pub fn start(parts: TrainerParts, mut runner: Box<Runner>) -> Result<Self, TrainerError> {
        let queue = take_up(&parts.store)?;
        if let Err(error) = moves::settle_all(&parts.catalog, &parts.store) {
            tracing::error!(%error, "files of checkpoints that are not offered are left");
        }
        let board = Mutex::new(Board { queue, ..Board::default() });
        let shared = Arc::new(Shared { board, ..Shared::idle(parts) });
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

    /// The trainer of a server that only serves: it shows the runs of the store, as another server trains them, and steers
    /// none.
    pub fn elsewhere(parts: TrainerParts) -> Self {
        let shared = Shared { elsewhere: true, ..Shared::idle(parts) };
        Self { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    /// Queues a run over the log as it is now, or only makes it where `state` is `draft`. A second call for the same
    /// entry of the audit log returns the run of the first.
    ///
    /// # Errors
    /// [`TrainerError::NoParent`], `NoTeacher`, `Device`, `QueueFull`, `Stopping`, `Elsewhere`, `Store`.
    pub fn submit(&self, config: RunConfig, draft: bool, audit_id: Option<i64>) -> Result<RunStatus, TrainerError> {
        self.shared.check_here()?;
        if let Some(id) = config.parent.as_ref().filter(|id| self.shared.parts.catalog.content(id).is_none()) {
            return Err(TrainerError::NoParent { id: id.clone() });
        }
        let teacher = config.sft.teacher.as_ref().map(|teacher| &teacher.id);
        if let Some(id) = teacher.filter(|id| self.shared.parts.catalog.content(id).is_none()) {
            return Err(TrainerError::NoTeacher { id: id.clone() });
        }
        check_number(&config, &self.shared.parts.lent)?;
        let mut board = self.shared.board();
        if !draft {
            board.check_room()?;
        }
        let state = if draft { RunState::Draft } else { RunState::Queued };
        let parent = config.parent.clone();
        let added = self.shared.parts.store.add_run(config, state, crate::now_millis(), audit_id);
        let status = added.map_err(|error| match error {
            // deleted since it was looked for
            StoreError::Gone { id } if Some(&id) == parent.as_ref() => TrainerError::NoParent { id },
            StoreError::Gone { id } => TrainerError::NoTeacher { id },
            error => error.into(),
        })?;
        let at_work = board.active.as_ref().is_some_and(|active| active.status.id == status.id);
        if status.state == RunState::Queued && !at_work && !board.queue.contains(&status.id) {
            board.queue.push_back(status.id.clone());
            reach(Point::Queued);
        }
        self.shared.announce(&status);
        Ok(status)
    }

    /// Does what a person asks of a run, as [`life::step`] says. A running run does it at its next step: until then the
    /// status returned here says `running`, and an event tells when it is done. With `again`, a command whose effect is
    /// there already is answered with the state instead of being refused.
    ///
    /// # Errors
    /// [`TrainerError::Unknown`], `NotPossible`, `QueueFull`, `Stopping`, `Elsewhere`, `Store`, `Folder`.
    pub fn command(&self, id: &str, command: RunCommand, again: bool) -> Result<RunStatus, TrainerError> {
        self.shared.check_here()?;
        let mut board = self.shared.board();
        if board.stopping {
            return Err(TrainerError::Stopping);
        }
        let (status, standing) = self.shared.standing(&board, id)?;
        if again && life::already(standing, command) {
            return Ok(status);
        }
        let step = life::step(standing, command)
            .map_err(|refusal| TrainerError::NotPossible { id: id.to_owned(), refusal })?;
        match step {
            Step::Become(state) => self.shared.become_state(&mut board, status, state),
            Step::Wish(wish) => self.shared.set_wish(&mut board, status, Some(wish)),
            Step::Unwish => self.shared.set_wish(&mut board, status, None),
            // the values come with `Trainer::tune`
            Step::Tune => Ok(status),
            Step::Vanish => self.vanish(&mut board, status),
        }
    }

    /// Changes values of a run from its next step on.
    ///
    /// # Errors
    /// [`TrainerError::Unknown`], `NotPossible`, `Tuning`, `Stopping`, `Elsewhere`, `Store`.
    pub fn tune(&self, id: &str, tuning: Tuning) -> Result<RunStatus, TrainerError> {
        self.shared.check_here()?;
        let mut board = self.shared.board();
        if board.stopping {
            return Err(TrainerError::Stopping);
        }
        let (mut status, standing) = self.shared.standing(&board, id)?;
        life::step(standing, RunCommand::Tune)
            .map_err(|refusal| TrainerError::NotPossible { id: id.to_owned(), refusal })?;
        tuning.check(status.stage).map_err(|source| TrainerError::Tuning { id: id.to_owned(), source })?;
        if status.changes.last().is_none_or(|last| last.at.is_some() || last.tuning != tuning) {
            status.changes.push(Change { at: None, tuning });
        }
        let wish = board.active.as_ref().filter(|active| active.status.id == id).and_then(|active| active.wish);
        self.shared.settle(&status, wish)?;
        if let Some(active) = board.active.as_mut().filter(|active| active.status.id == id) {
            active.status = status.clone();
        }
        Ok(status)
    }

    fn vanish(&self, board: &mut Board, status: RunStatus) -> Result<RunStatus, TrainerError> {
        let id = status.id.clone();
        self.shared.parts.store.remove_run(&id)?;
        board.unsaved.retain(|unsaved| unsaved.id != id);
        self.shared.parts.events.announce(&Event::RunDeleted { id: id.clone() });
        let path = self.run_dir(&id);
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(TrainerError::Folder { id, source, path })
            }
            _ => Ok(status),
        }
    }

    /// After every run, deletes all but the newest `n_kept` checkpoints that nothing needs.
    pub fn keep_checkpoints(&self, n_kept: usize) {
        self.shared.n_kept.store(n_kept, Ordering::Relaxed);
    }

    /// Whether the thread is at work or waits for work, where it is on this server.
    pub fn is_alive(&self) -> bool {
        if self.shared.elsewhere {
            return true;
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|thread| !thread.is_finished()) && !self.shared.board().stopping
    }

    /// Runs that wait for the device.
    pub fn n_queued(&self) -> usize {
        self.shared.board().queue.len()
    }

    /// A run as it is now.
    ///
    /// # Errors
    /// [`TrainerError::Unknown`], `Store`.
    pub fn status(&self, id: &str) -> Result<RunStatus, TrainerError> {
        let board = self.shared.board();
        match board.newer(id) {
            Some(status) => Ok(status.clone()),
            None => match self.shared.parts.store.run(id)? {
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
        let mut statuses: Vec<RunStatus> = self.shared.parts.store.runs()?.into_iter().map(|run| run.status).collect();
        for status in &mut statuses {
            if let Some(newer) = board.newer(&status.id) {
                *status = newer.clone();
            }
        }
        Ok(statuses)
    }

    /// Folder of a run's state and report.
    pub fn run_dir(&self, id: &str) -> PathBuf {
        self.shared.parts.runs_dir.join(id)
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

impl Shared {
    /// With nothing queued.
    fn idle(parts: TrainerParts) -> Self {
        Self {
            board: Mutex::default(),
            changed: Condvar::new(),
            parts,
            n_kept: AtomicUsize::new(usize::MAX),
            elsewhere: false,
        }
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_here(&self) -> Result<(), TrainerError> {
        if self.elsewhere { Err(TrainerError::Elsewhere) } else { Ok(()) }
    }

    /// Tells listeners about a change, and the thread to look at the board.
    fn announce(&self, status: &RunStatus) {
        self.parts.events.announce(&Event::Run(status.clone()));
        self.changed.notify_all();
    }

    /// Stores and announces; on an error nothing has changed.
    fn settle(&self, status: &RunStatus, wish: Option<Wish>) -> Result<(), StoreError> {
        self.parts.store.set_run(status, wish)?;
        self.announce(status);
        Ok(())
    }

    /// A run as it is now, and where it stands.
    fn standing(&self, board: &Board, id: &str) -> Result<(RunStatus, Standing), TrainerError> {
        if let Some(active) = board.active.as_ref().filter(|active| active.status.id == id) {
            let Active { status, wish, parked } = active;
            return Ok((status.clone(), Standing::on_device(status.state, *wish, *parked)));
        }
        let status = match board.newer(id) {
            Some(status) => status.clone(),
            None => self.parts.store.run(id)?.ok_or_else(|| TrainerError::Unknown { id: id.to_owned() })?.status,
        };
        let standing = Standing::off_device(status.state);
        Ok((status, standing))
    }

    fn become_state(&self, board: &mut Board, status: RunStatus, state: RunState) -> Result<RunStatus, TrainerError> {
        if state == RunState::Queued {
            board.check_room()?;
        }
        let status = RunStatus { state, ..status };
        self.settle(&status, None)?;
        if let Some(active) = board.active.as_mut().filter(|active| active.status.id == status.id) {
            active.status = status.clone();
            active.wish = None;
            return Ok(status);
        }
        board.unsaved.retain(|unsaved| unsaved.id != status.id);
        board.queue.retain(|id| *id != status.id);
        if state == RunState::Queued {
            board.queue.push_back(status.id.clone());
        }
        Ok(status)
    }

    fn set_wish(&self, board: &mut Board, status: RunStatus, wish: Option<Wish>) -> Result<RunStatus, TrainerError> {
        self.settle(&status, wish)?;
        if let Some(active) = board.active.as_mut().filter(|active| active.status.id == status.id) {
            active.wish = wish;
        }
        Ok(status)
    }

    /// Waits for the next run and marks it running; `None` when the trainer is to stop. A run that cannot begin because the store
    /// fails keeps its place.
    fn next(&self) -> Option<StoredRun> {
        let mut board = self.board();
        let mut complained = false;
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
                Ok(None) => tracing::warn!(run = %id, "the run is not in the database any more"),
                // no other try would read it: it stays queued in the database, and those behind it go ahead
                Err(error @ (StoreError::Damaged { .. } | StoreError::Column { .. })) => {
                    tracing::error!(run = %id, %error, "cannot start the run");
                }
                Err(error) => {
                    if !std::mem::replace(&mut complained, true) {
                        tracing::error!(run = %id, %error, "cannot start the run yet; it is tried again");
                    }
                    board.queue.push_front(id);
                    let waited = self.changed.wait_timeout_while(board, BEGIN_AGAIN_AFTER, |board| !board.stopping);
                    board = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn begin(&self, board: &mut Board, id: &str) -> Result<Option<StoredRun>, StoreError> {
        let Some(mut run) = self.parts.store.run(id)? else { return Ok(None) };
        run.status.state = RunState::Running;
        run.status.error = None;
        self.settle(&run.status, None)?;
        reach(Point::Starting);
        board.active = Some(Active { status: run.status.clone(), wish: None, parked: false });
        Ok(Some(run))
    }

    fn job(&self, run: &StoredRun) -> Result<Job, RunError> {
        let failed = |error: &dyn std::fmt::Display| RunError::Failed(error.to_string());
        let dir = self.parts.runs_dir.join(&run.status.id);
        std::fs::create_dir_all(&dir)
            .map_err(|error| RunError::Failed(format!("cannot make the run's folder: {error}: {}", dir.display())))?;
        let records = self.parts.store.records_up_to(run.last_record_id).map_err(|error| failed(&error))?;
        let config = run.status.config.clone();
        if let Some(parent) = &config.parent {
            let bytes = self.parts.catalog.read(parent).map_err(|error| failed(&error))?;
            pipeline::parent::place(&dir, &bytes).map_err(|error| failed(&error))?;
        }
        if let Some(teacher) = &config.sft.teacher {
            let bytes = self.parts.catalog.read(&teacher.id).map_err(|error| failed(&error))?;
            pipeline::teacher::place(&dir, &bytes, false).map_err(|error| failed(&error))?;
        }
        Ok(Job { dir, origin: Origin::of(&config), config, records, lent: self.parts.lent.clone() })
    }
}

#[cfg(test)]
mod tests;
