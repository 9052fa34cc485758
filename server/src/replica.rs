//! What a server does that shares its store with others: it stays present, keeps the right to train where it trains, and takes
//! in checkpoints that others made.
//!
//! Everything else needs no care: states, tokens, experiments and keys are read from the store at every request, events by
//! [`crate::events`]. Rate limits are each server's own.

use crate::app::App;
use crate::audit;
use std::collections::HashSet;
use std::sync::Weak;
use std::time::Duration;

/// Time between two looks at the store.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Failures that are remembered as told.
const MAX_TOLD: usize = 100;

/// Starts the thread; it ends with the application. `trains` says whether this server has the right to.
pub fn watch(app: &App, trains: bool) {
    let app = app.downgrade();
    let thread = std::thread::Builder::new().name("replica".into()).spawn(move || look(&app, trains));
    // a process that cannot start a thread at its beginning cannot go on
    if let Err(error) = thread {
        panic!("cannot start the thread that watches the other servers: {error}");
    }
}

fn look(app: &Weak<crate::app::Parts>, trains: bool) {
    let mut told = HashSet::new();
    // each failure is told once
    let mut complain = |text: String| {
        if told.len() >= MAX_TOLD {
            told.clear();
        }
        if told.insert(text.clone()) {
            tracing::error!("{text}");
        }
    };
    loop {
        std::thread::sleep(LOOK_EVERY);
        let Some(app) = app.upgrade() else { return };
        match app.catalog.refresh(&app.store) {
            Ok(refused) => refused.iter().for_each(|error| complain(error.to_string())),
            Err(error) => complain(format!("checkpoints of the other servers cannot be taken in: {error}")),
        }
        if trains {
            match app.store.hold_training(audit::process()) {
                Ok(true) => {}
                Ok(false) => {
                    // a run on two servers at a time would write over itself
                    complain(
                        "another server has the right to train since the database was away: no run goes on here".into(),
                    );
                    app.trainer.stop();
                }
                Err(error) => complain(format!("the right to train cannot be looked at: {error}")),
            }
        }
    }
}
