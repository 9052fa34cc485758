//! How a run on the trainer's thread ends: its checkpoint is brought to where it is served from, and its end is stored.
//!
//! The files come first and the row after, so the store is told before that they are on their way. Whatever ends the process in
//! between, the next one removes them, finds the run running, and brings them in again from the run's folder.

use super::watch::Watch;
use super::{Active, Product, RunError, Runner, Shared, guarded};
use crate::catalog::Claim;
use crate::crash::{Point, reach};
use crate::registry::{self, moves};
use crate::store::{StoreError, StoredRun};
use beckon_shared::control::life::Wish;
use beckon_shared::control::{CheckpointInfo, Event, RunState, RunStatus};
use std::sync::atomic::Ordering;

impl Shared {
    /// Runs a run to whatever end and records that end.
    pub(super) fn train(&self, run: &StoredRun, runner: &mut Runner) {
        let id = &run.status.id;
        let end = self.job(run).and_then(|job| {
            let mut watch = Watch::new(self);
            guarded(|| runner(&job, &mut watch))
        });
        let (end, claim) = match end.and_then(|product| self.deliver(id, &product)) {
            Ok((info, claim)) => (Ok(info), Some(claim)),
            Err(error) => (Err(error), None),
        };
        let offered = self.conclude(id, &end);
        if let Ok(info) = &end
            && !offered
        {
            self.withdraw(&info.id);
        }
        drop(claim);
        if offered {
            self.retain();
        }
    }

    /// Records the end of a run; whether its checkpoint is offered now.
    fn conclude(&self, id: &str, end: &Result<CheckpointInfo, RunError>) -> bool {
        let mut board = self.board();
        let stopping = board.stopping;
        let Some(Active { mut status, wish, parked }) = board.active.take() else { return false };
        match end {
            Ok(info) if wish != Some(Wish::Cancel) => match self.finish(&mut status, info) {
                Ok(()) => return true,
                Err(error) => {
                    status.checkpoint = None;
                    fail(&mut status, error.to_string());
                }
            },
            Ok(_) | Err(RunError::Cancelled) if wish == Some(Wish::Cancel) => status.state = RunState::Cancelled,
            // the store has `running` or `paused` already, which is what the next process has to find
            Ok(_) | Err(RunError::Cancelled) if stopping || parked => return false,
            Ok(_) | Err(RunError::Cancelled) => fail(&mut status, "it ended without being asked to".into()),
            Err(RunError::Failed(text)) => fail(&mut status, text.clone()),
        }
        if let Some(error) = &status.error {
            tracing::error!(run = %id, %error, "the run failed");
            let text = format!("run {id} failed: {error}");
            self.parts.events.announce(&Event::Alarm { run_id: Some(id.to_owned()), text });
        }
        if let Err(error) = self.settle(&status, None) {
            tracing::error!(run = %id, %error, "the end of the run could not be stored");
            self.announce(&status);
            board.unsaved.push(status);
        }
        false
    }

    /// Stores a good end together with the checkpoint, and tells of both.
    fn finish(&self, status: &mut RunStatus, info: &CheckpointInfo) -> Result<(), StoreError> {
        status.state = RunState::Finished;
        status.checkpoint = Some(info.id.clone());
        let info = self.parts.store.finish_run(status, info)?;
        reach(Point::Recorded);
        self.parts.catalog.list(info.clone());
        self.parts.events.announce(&Event::Checkpoint(info));
        self.announce(status);
        Ok(())
    }

    /// Puts the checkpoint where it is served from. Nobody else is at its files while the claim is held.
    fn deliver(&self, id: &str, product: &Product) -> Result<(CheckpointInfo, Claim<'_>), RunError> {
        let info = CheckpointInfo { run_id: Some(id.to_owned()), built_in: false, ..product.checkpoint.clone() };
        let failed = |error: &dyn std::fmt::Display| {
            RunError::Failed(format!("{error}; the run's own copy is {}", product.checkpoint_path.display()))
        };
        let (catalog, store) = (&self.parts.catalog, &self.parts.store);
        let claim = catalog.claim(&info.id);
        moves::announce_arrival(catalog, store, &info.id).map_err(|error| failed(&error))?;
        if let Err(error) = catalog.install(&product.checkpoint_path, &info) {
            self.withdraw(&info.id);
            return Err(failed(&error));
        }
        if let Err(error) = store.set_evaluation(&info.id, &product.evaluation) {
            tracing::warn!(run = %id, %error, "the evaluation is not in the registry; the run's report has it");
        }
        reach(Point::Delivered);
        Ok((info, claim))
    }

    /// Takes back what was brought in for a run that did not finish, unless an earlier run made the same.
    fn withdraw(&self, checkpoint: &str) {
        if let Err(error) = moves::settle(&self.parts.catalog, &self.parts.store, checkpoint) {
            tracing::error!(%checkpoint, %error, "files of a checkpoint that is not offered stay until the next start");
        }
    }

    fn retain(&self) {
        let n_kept = self.n_kept.load(Ordering::Relaxed);
        if n_kept == usize::MAX {
            return;
        }
        let (catalog, store) = (&self.parts.catalog, &self.parts.store);
        if let Err(error) = moves::settle_all(catalog, store) {
            tracing::error!(%error, "files of deleted checkpoints are left");
        }
        match registry::retain(catalog, store, &self.parts.events, n_kept) {
            Ok(gone) if gone.is_empty() => {}
            Ok(gone) => tracing::info!(n = gone.len(), "old checkpoints were deleted"),
            Err(error) => tracing::error!(%error, "old checkpoints are not deleted"),
        }
    }
}

fn fail(status: &mut RunStatus, error: String) {
    status.state = RunState::Failed;
    status.error = Some(error);
}
