//! Checkpoints that come and go while others begin to need them.

use super::{Open, running};
use crate::store::{Needs, RolledBack, Store, StoreError};
use beckon_shared::config::Preset;
use beckon_shared::control::registry::Promotion;
use beckon_shared::control::{CheckpointInfo, RunConfig, RunState, RunStatus};
use std::time::Duration;

/// Checkpoint `ab`, which is one of those of [`running`].
const ID: &str = "ab";

fn info(run_id: Option<&str>) -> CheckpointInfo {
    CheckpointInfo {
        id: ID.into(),
        name: "tiny".into(),
        run_id: run_id.map(str::to_owned),
        n_bytes: 3,
        created_millis: 4,
        simulated: true,
        built_in: false,
    }
}

fn promotion(checkpoint: &str) -> Promotion {
    let (tag, checkpoint, by) = ("production".into(), checkpoint.into(), "me".into());
    Promotion { tag, checkpoint, time_millis: 1, by, undone: false }
}

fn branch(store: &Store) -> Result<RunStatus, StoreError> {
    let config = RunConfig { parent: Some(ID.into()), ..RunConfig::preset(Preset::Tiny) };
    store.add_run(config, RunState::Queued, 0, None)
}

fn forget(store: &Store, id: &str) {
    store.forget_checkpoint(id, |_, _| Ok::<_, ()>(())).expect("stored").expect("allowed");
}

fn is_gone<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Gone { id }) if id == ID)
}

pub(super) fn what_is_being_deleted_can_no_more_come_to_be_needed(open: Open<'_>) {
    let (a, b) = (open(), open());
    a.add_checkpoint(&info(None)).expect("stored");
    // one server has looked who needs it and not removed it yet, when others ask for it at another
    let outcomes = std::thread::scope(|scope| {
        let mut asked = None;
        let look = |needs: Needs, is_known: bool| {
            assert!(is_known && needs.users.is_empty() && needs.tags.is_empty());
            asked = Some(scope.spawn(|| {
                let tested = b.add_experiment(running(), None);
                [is_gone(&b.promote(&promotion(ID))), is_gone(&branch(&b)), is_gone(&tested)]
            }));
            std::thread::sleep(Duration::from_millis(50));
            Ok::<_, ()>(())
        };
        a.forget_checkpoint(ID, look).expect("stored").expect("allowed");
        asked.expect("it was asked").join().expect("answered")
    });
    assert_eq!(outcomes, [true; 3], "what was deleted is needed now");
    assert!(b.tags().expect("read").is_empty() && b.runs().expect("read").is_empty());
    assert!(b.experiments().expect("read").is_empty() && !b.has_checkpoint(ID).expect("read"));
    // also once nothing is left of it, until a run makes it again
    b.checkpoint_is_gone(ID).expect("stored");
    assert!(is_gone(&a.promote(&promotion(ID))));
    let mut maker = a.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 0, None).expect("stored");
    maker.state = RunState::Finished;
    a.finish_run(&maker, &info(Some(&maker.id))).expect("stored");
    b.promote(&promotion(ID)).expect("it is there");
    // whoever asks first is seen
    let kept = a.forget_checkpoint(ID, |needs, _| if needs.tags.is_empty() { Ok(()) } else { Err(needs.tags) });
    let kept = kept.expect("asked").expect_err("it is tagged");
    assert_eq!(kept.into_values().collect::<Vec<_>>(), [promotion(ID)]);
    assert!(a.has_checkpoint(ID).expect("read"));
}

pub(super) fn files_on_their_way_are_known_until_a_row_says_that_they_stay(open: Open<'_>) {
    let store = open();
    assert!(store.checkpoint_arrives(ID).expect("stored"));
    assert_eq!(store.moving_checkpoints().expect("read"), [ID]);
    assert_eq!(store.needs().expect("read").users.len(), 1, "a run is about to end with it");
    let mut run = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Running, 0, None).expect("stored");
    run.state = RunState::Finished;
    store.finish_run(&run, &info(Some(&run.id))).expect("stored");
    assert!(store.moving_checkpoints().expect("read").is_empty());
    forget(&store, ID);
    assert_eq!(store.moving_checkpoints().expect("read"), [ID]);
    assert!(!store.checkpoint_arrives(ID).expect("asked"), "others of the same content are leaving");
    store.checkpoint_is_gone(ID).expect("stored");
    assert!(store.moving_checkpoints().expect("read").is_empty());
    assert!(store.checkpoint_arrives(ID).expect("stored"));
}

pub(super) fn a_run_that_made_what_was_found_without_it_is_named(open: Open<'_>) {
    let store = open();
    store.add_checkpoint(&info(None)).expect("stored");
    let finish = || {
        let mut run = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Running, 0, None).expect("stored");
        run.state = RunState::Finished;
        let info = info(Some(&run.id));
        store.finish_run(&run, &info).expect("stored").run_id
    };
    assert_eq!(finish().as_deref(), Some("r1"));
    assert_eq!(store.checkpoints().expect("read"), [info(Some("r1"))]);
    // the first that made it stays its maker
    assert_eq!(finish().as_deref(), Some("r1"));
    store.add_checkpoint(&info(None)).expect("there");
    assert_eq!(store.checkpoints().expect("read"), [info(Some("r1"))]);
}

pub(super) fn a_tag_does_not_go_back_to_what_was_deleted(open: Open<'_>) {
    let store = open();
    for checkpoint in [ID, "cd", "ef"] {
        store.promote(&promotion(checkpoint)).expect("promoted");
    }
    assert_eq!(store.roll_back_targets().expect("read"), [("cd".to_owned(), "production".to_owned())]);
    forget(&store, ID);
    assert_eq!(store.roll_back("production").expect("done"), RolledBack::To(promotion("cd")));
    assert!(store.roll_back_targets().expect("read").is_empty());
    assert_eq!(store.roll_back("production").expect("asked"), RolledBack::Gone(ID.into()));
    assert_eq!(store.tags().expect("read")["production"].checkpoint, "cd");
}
