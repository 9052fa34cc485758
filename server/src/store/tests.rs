//! Round trips, counts, and files that are not ours.

use super::*;
use beckon_shared::click::{Counts, Impression, Record, Slot, Sourced};
use beckon_shared::config::Preset;
use beckon_shared::control::life::Wish;
use beckon_shared::control::{CheckpointInfo, Metric, RunConfig, RunState, Stage};
use beckon_shared::prompt::Prompt;

fn open() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let store = Store::open(&dir.path().join("beckon.sqlite")).expect("a fresh store");
    (dir, store)
}

fn slot(clicked: bool, visible: Option<bool>) -> Slot {
    Slot { text: "more".into(), propensity: Some(0.1), visible, clicked, dwell_secs: None, followed_up: None }
}

fn impression(id: &str, user: &str, slate: Vec<Slot>, simulated: bool) -> Sourced {
    let impression = Impression {
        impression_id: id.into(),
        user_hash: user.into(),
        time_millis: 1,
        prompt: Prompt::from_query("rust"),
        slate,
        policy: None,
        checkpoint: None,
        experiment: None,
        arm: None,
        simulated,
    };
    Sourced { source: "log".into(), record: Record::Impression(impression) }
}

fn counts(text: &str) -> Sourced {
    let counts = Counts {
        group: "g".into(),
        prompt: Prompt::from_query("news"),
        text: text.into(),
        n_impressions: 10,
        n_clicks: 1,
    };
    Sourced { source: "upworthy".into(), record: Record::Counts(counts) }
}

#[test]
fn records_come_back_as_they_were_and_each_once() {
    let (_dir, store) = open();
    let records = vec![impression("a", "u", vec![slot(true, None)], false), counts("x"), counts("y")];
    let added = store.add_records(&records).expect("stored");
    assert_eq!(added, Added { n_accepted: 3, n_duplicates: 0 });
    let again = [counts("y"), impression("a", "other", vec![], true), counts("z")];
    let added = store.add_records(&again).expect("stored");
    assert_eq!(added, Added { n_accepted: 1, n_duplicates: 2 });
    let mut want = records;
    want.push(counts("z"));
    assert_eq!(store.records_up_to(store.last_record_id().expect("id")).expect("read"), want);
    let query = RecordQuery { source: Some("upworthy".into()), offset: 1, limit: 1 };
    assert_eq!(store.records(&query).expect("read"), [counts("y")]);
}

#[test]
fn the_summary_counts_shown_slots_clicks_users_and_simulated_records() {
    let (_dir, store) = open();
    let hidden = Some(false);
    store
        .add_records(&[
            impression("a", "u", vec![slot(true, Some(true)), slot(false, None)], false),
            impression("b", "u", vec![slot(false, Some(true)), slot(false, hidden)], true),
            impression("c", "v", vec![slot(true, hidden)], true),
            counts("x"),
        ])
        .expect("stored");
    let summary = store.summary().expect("read");
    assert_eq!((summary.n_records, summary.n_impressions, summary.n_simulated), (4, 3, 2));
    assert_eq!((summary.n_users, summary.n_clicks), (2, 2));
    let slots: Vec<_> = summary.slots.iter().map(|s| (s.slot, s.n_impressions, s.n_clicks)).collect();
    assert_eq!(slots, [(0, 3, 2), (1, 1, 0)]);
    let sources: Vec<_> = summary.sources.iter().map(|s| (s.source.as_str(), s.kind.as_str(), s.n_records)).collect();
    assert_eq!(sources, [("log", "impression", 3), ("upworthy", "counts", 1)]);
}

#[test]
fn the_store_outlives_its_process() {
    let (dir, store) = open();
    store.add_records(&[counts("x")]).expect("stored");
    let mut status = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 5, None).expect("stored");
    status.state = RunState::Running;
    store.set_run(&status, Some(Wish::Pause)).expect("stored");
    store.set_setting("theme", "dark").expect("stored");
    drop(store);
    let store = Store::open(&dir.path().join("beckon.sqlite")).expect("opens again");
    assert_eq!(store.n_records().expect("read"), 1);
    let run = store.run("r1").expect("read").expect("is there");
    assert_eq!(run, StoredRun { status, wish: Some(Wish::Pause), last_record_id: 1 });
    assert_eq!(store.setting("theme").expect("read").as_deref(), Some("dark"));
    assert_eq!(store.setting("other").expect("read"), None);
}

#[test]
fn a_run_reads_the_log_as_it_was_when_asked_for() {
    let (_dir, store) = open();
    store.add_records(&[counts("x")]).expect("stored");
    let id = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 0, None).expect("stored").id;
    store.add_records(&[counts("y")]).expect("stored");
    let run = store.run(&id).expect("read").expect("is there");
    assert_eq!(store.records_up_to(run.last_record_id).expect("read"), [counts("x")]);
}

#[test]
fn a_step_taken_again_replaces_its_metric_and_nan_is_left_out() {
    let (_dir, store) = open();
    let run_id = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 0, None).expect("stored").id;
    let metric = |step, value| Metric { run_id: run_id.clone(), stage: Stage::Sft, step, name: "loss".into(), value };
    for point in [metric(1, 3.0), metric(2, 2.0), metric(2, 2.5), metric(3, f64::NAN)] {
        store.keep_events(&[], &[point]).expect("stored");
    }
    assert_eq!(store.metrics(&run_id).expect("read"), [metric(1, 3.0), metric(2, 2.5)]);
    assert_eq!(store.metrics("r99").expect("read"), []);
}

#[test]
fn a_finished_run_and_its_checkpoint_are_stored_together() {
    let (_dir, store) = open();
    let mut status = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 0, None).expect("stored");
    let info = CheckpointInfo {
        id: "ab".into(),
        name: "tiny".into(),
        run_id: Some(status.id.clone()),
        n_bytes: 3,
        created_millis: 4,
        simulated: true,
        built_in: false,
    };
    status.state = RunState::Finished;
    store.finish_run(&status, &info).expect("stored");
    assert_eq!(store.checkpoints().expect("read"), [info]);
    assert_eq!(store.run(&status.id).expect("read").expect("is there").status, status);
}

#[test]
fn ids_that_are_not_ours_find_nothing() {
    let (_dir, store) = open();
    store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 0, None).expect("stored");
    for id in ["1", "r01", "r-1", "r1 ", "../r1", "r", ""] {
        assert_eq!(store.run(id).expect("read"), None, "{id:?}");
    }
}

fn open_error(prepare: impl FnOnce(&Path)) -> StoreError {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let path = dir.path().join("beckon.sqlite");
    prepare(&path);
    match Store::open(&path) {
        Ok(_) => panic!("the store opened"),
        Err(error) => error,
    }
}

#[test]
fn files_that_are_not_our_database_are_refused_by_name() {
    let text = open_error(|path| std::fs::write(path, "not a database, ".repeat(500)).expect("written"));
    assert!(matches!(text, StoreError::NotSqlite { .. }), "{text}");
    let foreign = open_error(|path| {
        Connection::open(path).and_then(|c| c.execute_batch("CREATE TABLE bookmarks (url TEXT)")).expect("made");
    });
    assert!(matches!(foreign, StoreError::Foreign { .. }), "{foreign}");
    let newer = open_error(|path| {
        drop(Store::open(path).expect("a fresh store"));
        Connection::open(path).and_then(|c| c.execute_batch("PRAGMA user_version = 99")).expect("changed");
    });
    assert!(matches!(newer, StoreError::Newer { found: 99, .. }), "{newer}");
    assert!(newer.to_string().contains("schema version 99"), "{newer}");
}
