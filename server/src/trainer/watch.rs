//! How a run on the trainer's thread is watched: curves to store and listeners, wishes to the stage.

use super::Shared;
use crate::crash::{Point, reach};
use crate::stage::{Control, Observer};
use beckon_shared::control::life::Wish;
use beckon_shared::control::sample::{Sample, SampledPrompt};
use beckon_shared::control::tuning::{self, Change, Moment, Tuned};
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
            tracing::error!(%error, "progress is not stored");
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
            stored = self.shared.parts.store.set_progress(status);
            self.shared.parts.events.announce_soon(Event::Run(status.clone()));
        }
        drop(board);
        self.complain(stored);
        if value.is_finite() {
            self.shared.parts.events.announce_soon(Event::Metric(metric));
        }
        Point::of(stage).into_iter().for_each(reach);
    }

    fn log(&mut self, text: &str) {
        let board = self.shared.board();
        let run_id = board.active.as_ref().map_or_else(String::new, |active| active.status.id.clone());
        drop(board);
        tracing::info!(run = %run_id, "{text}");
        self.shared.parts.events.announce(&Event::Line { run_id, text: text.to_owned() });
    }

    fn alarm(&mut self, text: &str) {
        let run_id = self.shared.board().active.as_ref().map(|active| active.status.id.clone());
        tracing::warn!(run = run_id.as_deref().unwrap_or_default(), "{text}");
        self.shared.parts.events.announce(&Event::Alarm { run_id, text: text.to_owned() });
    }

    fn sample(&mut self, stage: Stage, step: usize, prompts: &[SampledPrompt]) {
        let run_id = self.shared.board().active.as_ref().map(|active| active.status.id.clone());
        let Some(run_id) = run_id else { return };
        self.shared.parts.events.announce(&Event::Sample(Sample { run_id, stage, step, prompts: prompts.to_vec() }));
    }

    fn tuned(&mut self, stage: Stage, step: usize) -> Tuned {
        let mut board = self.shared.board();
        let Some(active) = &mut board.active else { return Tuned::default() };
        let now = Moment { stage, step };
        if active.status.changes.iter().any(|change| change.at.is_none()) {
            // stored before it takes effect: a process that dies in between takes it up at this very step again
            let mut status = active.status.clone();
            tuning::take_effect(&mut status.changes, now);
            let settled = self.shared.settle(&status, active.wish);
            match settled {
                Ok(()) => active.status = status,
                Err(error) => {
                    let tuned = tuning::tuned(&active.status.changes, now);
                    drop(board);
                    self.complain(Err(error));
                    return tuned;
                }
            }
        }
        tuning::tuned(&active.status.changes, now)
    }

    fn changes(&self) -> Vec<Change> {
        self.shared.board().active.as_ref().map_or_else(Vec::new, |active| active.status.changes.clone())
    }

    fn device(&mut self, description: &str) {
        let mut board = self.shared.board();
        let Some(active) = &mut board.active else { return };
        active.status.device = Some(description.to_owned());
        let stored = self.shared.parts.store.set_progress(&active.status);
        self.shared.parts.events.announce(&Event::Run(active.status.clone()));
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
                    tracing::error!(%error, "the pause could not be stored");
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
