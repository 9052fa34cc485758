//! How a run on the trainer's thread is watched: curves to store and listeners, wishes to the stage.

use super::Shared;
use crate::stage::{Control, Observer};
use crate::store::Wish;
use beckon_shared::control::{Event, Metric, RunState, Stage};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Progress of a run is stored and announced at most this often, beside every change of stage.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Watches the active run of the board.
pub(super) struct Watch<'a> {
    shared: &'a Shared,
    told: Option<Instant>,
    /// A failing store is reported once a run, not once a step.
    complained: bool,
}

impl<'a> Watch<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, told: None, complained: false }
    }

    fn complain(&mut self, result: Result<(), crate::store::StoreError>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.complained, true)
        {
            eprintln!("beckon: curves are not stored: {error}");
        }
    }
}

impl Observer for Watch<'_> {
    fn metric(&mut self, stage: Stage, step: usize, n_steps: usize, name: &str, value: f64) {
        let mut board = self.shared.board();
        let Some(active) = &mut board.active else { return };
        let status = &mut active.status;
        let new_stage = status.stage != Some(stage);
        (status.stage, status.step, status.n_steps) = (Some(stage), step, n_steps);
        let metric = Metric { run_id: status.id.clone(), stage, step, name: name.to_owned(), value };
        let due = new_stage || self.told.is_none_or(|told| told.elapsed() >= PROGRESS_EVERY);
        let mut stored = Ok(());
        if due {
            self.told = Some(Instant::now());
            // under the lock, so that it cannot overwrite what a command stores
            stored = self.shared.store.set_progress(status);
            self.shared.events.announce(Event::Run(status.clone()));
        }
        drop(board);
        self.complain(stored);
        if value.is_finite() {
            let stored = self.shared.store.add_metric(&metric);
            self.complain(stored);
            self.shared.events.announce(Event::Metric(metric));
        }
    }

    fn log(&mut self, text: &str) {
        let board = self.shared.board();
        let id = board.active.as_ref().map_or("", |active| active.status.id.as_str());
        eprintln!("beckon: {id}: {text}");
    }

    fn device(&mut self, description: &str) {
        let mut board = self.shared.board();
        let Some(active) = &mut board.active else { return };
        active.status.device = Some(description.to_owned());
        let stored = self.shared.store.set_progress(&active.status);
        self.shared.events.announce(Event::Run(active.status.clone()));
        drop(board);
        self.complain(stored);
    }

    fn control(&mut self) -> Control {
        let board = self.shared.board();
        match board.active.as_ref().and_then(|active| active.wish) {
            _ if board.stopping => Control::Cancel,
            Some(Wish::Cancel) => Control::Cancel,
            Some(Wish::Pause) => Control::Pause,
            None => Control::Continue,
        }
    }

    fn wait_while_paused(&mut self) -> Control {
        let mut board = self.shared.board();
        let mut entered = false;
        loop {
            let (stopping, others_wait) = (board.stopping, !board.queue.is_empty());
            let Some(active) = &mut board.active else { return Control::Cancel };
            if stopping || active.wish == Some(Wish::Cancel) {
                return Control::Cancel;
            }
            if !entered {
                if active.wish.is_none() {
                    return Control::Continue; // the wish was taken back before the step ended
                }
                entered = true;
                active.wish = None;
                active.status.state = RunState::Paused;
                if let Err(error) = self.shared.settle(&active.status, None) {
                    // the wish is still stored, so a restart finds the run paused all the same
                    eprintln!("beckon: the pause could not be stored: {error}");
                    self.shared.announce(&active.status);
                }
            } else if active.status.state == RunState::Running {
                return Control::Continue;
            }
            if others_wait {
                active.parked = true;
                return Control::Cancel;
            }
            board = self.shared.changed.wait(board).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
