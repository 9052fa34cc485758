//! Round trips and counts in both databases, files that are not ours, and a database that several servers share.

use super::*;
use beckon_shared::click::{Counts, Impression, Record, Slot, Sourced};
use beckon_shared::config::Preset;
use beckon_shared::control::access::Role;
use beckon_shared::control::experiment::{ExperimentState, ExperimentStatus, IngestEvent};
use beckon_shared::control::life::Wish;
use beckon_shared::control::registry::Promotion;
use beckon_shared::control::sample::{Sample, SampledPrompt};
use beckon_shared::control::{CheckpointInfo, Metric, RunConfig, RunState, Stage};
use beckon_shared::prompt::Prompt;
use checkpoints::{
    a_run_that_made_what_was_found_without_it_is_named, a_tag_does_not_go_back_to_what_was_deleted,
    files_on_their_way_are_known_until_a_row_says_that_they_stay, what_is_being_deleted_can_no_more_come_to_be_needed,
};
use experiments::{
    looks_at_once_lose_nothing, the_past_is_what_other_experiments_took_in_before_the_start,
    users_count_with_their_window_once_it_is_over, votes_and_users_of_no_arm_are_told_apart,
};

mod checkpoints;
mod experiments;
#[path = "../../../tests/src/postgres.rs"]
mod postgres;
mod shared;
mod tls;

/// Opens the same store every time.
type Open<'a> = &'a dyn Fn() -> Store;

/// Each holds in SQLite as a test of its own, and in PostgreSQL, which takes a while to start, in one.
macro_rules! in_both {
    ($($case:ident,)*) => {
        mod in_sqlite {
            $(
                #[test]
                fn $case() {
                    let dir = tempfile::tempdir().expect("a folder for the test");
                    super::$case(&|| super::Store::open(&dir.path().join("beckon.sqlite")).expect("opens"));
                }
            )*
        }

        #[test]
        #[ignore = "needs PostgreSQL"]
        fn every_case_holds_in_postgresql() {
            let server = postgres::Postgres::start();
            $(
                let url = server.fresh(stringify!($case));
                $case(&|| Store::connect(&url).expect("connects"));
            )*
        }
    };
}

in_both! {
    records_come_back_as_they_were_and_each_once,
    the_summary_counts_shown_slots_clicks_users_and_simulated_records,
    the_store_outlives_its_process,
    a_run_reads_the_log_as_it_was_when_asked_for,
    a_step_taken_again_replaces_its_metric_and_nan_is_left_out,
    a_finished_run_and_its_checkpoint_are_stored_together,
    ids_that_are_not_ours_find_nothing,
    a_key_is_one_command_and_what_broke_off_is_found,
    an_experiment_counts_each_exposure_and_click_once,
    users_count_with_their_window_once_it_is_over,
    votes_and_users_of_no_arm_are_told_apart,
    the_past_is_what_other_experiments_took_in_before_the_start,
    looks_at_once_lose_nothing,
    what_is_being_deleted_can_no_more_come_to_be_needed,
    files_on_their_way_are_known_until_a_row_says_that_they_stay,
    a_run_that_made_what_was_found_without_it_is_named,
    a_tag_does_not_go_back_to_what_was_deleted,
    tags_notes_and_tokens_come_back,
    events_come_back_in_their_order,
    what_a_run_said_comes_back_newest_first_and_goes_with_the_run,
    the_first_and_the_newest_samples_of_a_stage_stay_with_their_run,
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

fn records_come_back_as_they_were_and_each_once(open: Open<'_>) {
    let store = open();
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

fn the_summary_counts_shown_slots_clicks_users_and_simulated_records(open: Open<'_>) {
    let store = open();
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

fn the_store_outlives_its_process(open: Open<'_>) {
    let store = open();
    store.add_records(&[counts("x")]).expect("stored");
    let mut status = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 5, None).expect("stored");
    status.state = RunState::Running;
    store.set_run(&status, Some(Wish::Pause)).expect("stored");
    store.set_setting("theme", "dark").expect("stored");
    drop(store);
    let store = open();
    assert_eq!(store.n_records().expect("read"), 1);
    let run = store.run("r1").expect("read").expect("is there");
    assert_eq!(run, StoredRun { status, wish: Some(Wish::Pause), last_record_id: 1 });
    assert_eq!(store.setting("theme").expect("read").as_deref(), Some("dark"));
    assert_eq!(store.setting("other").expect("read"), None);
}

fn a_run_reads_the_log_as_it_was_when_asked_for(open: Open<'_>) {
    let store = open();
    store.add_records(&[counts("x")]).expect("stored");
    let id = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 0, None).expect("stored").id;
    store.add_records(&[counts("y")]).expect("stored");
    let run = store.run(&id).expect("read").expect("is there");
    assert_eq!(store.records_up_to(run.last_record_id).expect("read"), [counts("x")]);
}

fn a_step_taken_again_replaces_its_metric_and_nan_is_left_out(open: Open<'_>) {
    let store = open();
    let run_id = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 0, None).expect("stored").id;
    let metric = |step, value| Metric { run_id: run_id.clone(), stage: Stage::Sft, step, name: "loss".into(), value };
    for point in [metric(1, 3.0), metric(2, 2.0), metric(2, 2.5), metric(3, f64::NAN)] {
        store.keep_events(&[], &[point]).expect("stored");
    }
    assert_eq!(store.metrics(&run_id).expect("read"), [metric(1, 3.0), metric(2, 2.5)]);
    assert_eq!(store.metrics("r99").expect("read"), []);
    let after = |point, limit| store.metrics_after(&run_id, point, limit).expect("read");
    assert_eq!(after(None, 1), [metric(1, 3.0)]);
    assert_eq!(after(Some((Stage::Sft, 1, "loss")), 9), [metric(2, 2.5)]);
    assert_eq!(after(Some((Stage::Sft, 2, "k")), 9), [metric(2, 2.5)]);
    assert_eq!(after(Some((Stage::Sft, 2, "loss")), 9), []);
    assert_eq!(after(Some((Stage::Data, 7, "loss")), 9).len(), 2);
}

fn a_finished_run_and_its_checkpoint_are_stored_together(open: Open<'_>) {
    let store = open();
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

fn ids_that_are_not_ours_find_nothing(open: Open<'_>) {
    let store = open();
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
        rusqlite::Connection::open(path)
            .and_then(|c| c.execute_batch("CREATE TABLE bookmarks (url TEXT)"))
            .expect("made");
    });
    assert!(matches!(foreign, StoreError::Foreign { .. }), "{foreign}");
    let newer = open_error(|path| {
        drop(Store::open(path).expect("a fresh store"));
        rusqlite::Connection::open(path).and_then(|c| c.execute_batch("PRAGMA user_version = 99")).expect("changed");
    });
    assert!(matches!(newer, StoreError::Newer { found: 99, .. }), "{newer}");
    assert!(newer.to_string().contains("schema version 99"), "{newer}");
}

pub(super) fn asked<'a>(key: &'a str, digest: &'a str) -> Asked<'a> {
    let (sender, method, path, body) = ("me", "POST", "/api/runs", "{}");
    Asked { time_millis: 7, sender, method, path, key: Some(key), digest, body }
}

fn a_key_is_one_command_and_what_broke_off_is_found(open: Open<'_>) {
    let store = open();
    let Begun::New(id) = store.begin_command(&asked("k", "d"), 1).expect("begun") else { panic!("it is new") };
    assert_eq!(store.begin_command(&asked("k", "d"), 1).expect("asked"), Begun::Busy);
    assert_eq!(store.begin_command(&asked("k", "other"), 1).expect("asked"), Begun::OtherRequest);
    drop(store);
    // the process that began it is gone
    let store = open();
    assert_eq!(store.begin_command(&asked("k", "d"), 2).expect("asked"), Begun::BrokenOff(id));
    store.finish_command(id, 201, Some("{}")).expect("finished");
    let done = Begun::Done { status: 201, answer: "{}".into() };
    assert_eq!(store.begin_command(&asked("k", "d"), 2).expect("asked"), done);
    let Begun::New(second) = store.begin_command(&asked("k2", "d"), 2).expect("begun") else { panic!("it is new") };
    store.release_command(second, 503).expect("released");
    assert!(matches!(store.begin_command(&asked("k2", "d"), 2).expect("begun"), Begun::New(_)));
    let log = store.audit(i64::MAX, 10).expect("read");
    assert_eq!(log.iter().map(|entry| entry.status).collect::<Vec<_>>(), [None, Some(503), Some(201)]);
    assert_eq!(log.last().map(|entry| (entry.id, entry.key.as_deref())), Some((id, Some("k"))));
}

/// A running experiment of two arms.
pub(super) fn running() -> ExperimentStatus {
    let config = serde_json::json!({
        "name": "test",
        "arms": [{"name": "a", "source": {"checkpoint": "ab"}}, {"name": "b", "source": {"checkpoint": "cd"}}]
    });
    ExperimentStatus {
        id: String::new(),
        config: serde_json::from_value(config).expect("a configuration"),
        state: ExperimentState::Running,
        killed: false,
        winner: None,
        aa: false,
        created_millis: 1,
        started_millis: Some(1),
        stopped_millis: None,
    }
}

/// What a page sends of one user: an exposure of two slots, and a click on the first.
pub(super) fn shown(experiment: &ExperimentStatus, user: usize) -> [IngestEvent; 2] {
    let unit = format!("u{user}");
    let arm = experiment.config.assignment(&experiment.id).arm_of(&unit).expect("every user takes part");
    let slot = |text: &str| serde_json::json!({"text": text, "propensity": 0.5, "visible": true});
    let exposure = serde_json::json!({
        "kind": "exposure", "impression_id": format!("i{user}"), "unit": unit,
        "arm": experiment.config.arms[arm].name, "time_millis": 951_782_400_000_i64 + user as i64,
        "slate": [slot("one"), slot("two")], "latency_millis": 12.5, "browser": "firefox"
    });
    let click = serde_json::json!({
        "kind": "click", "impression_id": format!("i{user}"), "slot": 0, "time_millis": 951_782_400_500_i64
    });
    [exposure, click].map(|event| serde_json::from_value(event).expect("an event"))
}

fn an_experiment_counts_each_exposure_and_click_once(open: Open<'_>) {
    let store = open();
    let experiment = store.add_experiment(running(), Some(3)).expect("added");
    assert_eq!(store.add_experiment(running(), Some(3)).expect("there"), experiment);
    let arms = experiment.config.assignment(&experiment.id);
    let events: Vec<IngestEvent> = (0..20).flat_map(|user| shown(&experiment, user)).collect();
    let ingest =
        |events: &[IngestEvent]| store.ingest(&experiment, events, |unit| arms.arm_of(unit)).expect("taken in");
    assert_eq!(
        (ingest(&events[..30]).n_accepted, ingest(&events).n_accepted, ingest(&events).n_duplicates),
        (30, 10, 40)
    );
    let (users, n_exposures, n_clicks) = store.experiment_users(&experiment, i64::MAX).expect("summed");
    assert_eq!((users.users.len(), n_exposures, n_clicks), (20, 20, 20));
    let first = &users.users[0];
    assert_eq!((first.clicks.numerator, first.clicks.denominator, first.latency_millis.numerator), (1.0, 1.0, 12.5));
    assert_eq!(first.day.as_deref(), Some("2000-02-29"));
    assert_eq!(first.strata, ["unknown", "firefox"]);
    let page = store.exposures_after(&experiment.id, "i17", 5).expect("read");
    let ids: Vec<&str> = page.iter().map(|(exposure, _)| exposure.impression_id.as_str()).collect();
    assert_eq!(ids, ["i18", "i19", "i2", "i3", "i4"]);
    assert!(page.iter().all(|(_, clicks)| clicks.len() == 1));
    store.set_ingest_hash(&experiment.id, &[7; 32]).expect("stored");
    assert_eq!(store.ingest_hash(&experiment.id).expect("read"), Some([7; 32]));
    let stopped = store.change_experiment(&experiment.id, |status| {
        status.state = ExperimentState::Stopped;
        Ok::<_, String>(())
    });
    assert_eq!(stopped.expect("changed").expect("there").expect("allowed").state, ExperimentState::Stopped);
    let refused = store.change_experiment(&experiment.id, |status| {
        status.killed = true;
        Err::<(), _>("no".to_owned())
    });
    assert_eq!(refused.expect("asked").expect("there"), Err("no".to_owned()));
    assert!(!store.experiment(&experiment.id).expect("read").expect("there").killed);
    assert!(store.remove_experiment(&experiment.id).expect("removed"));
    assert_eq!(store.exposures_after(&experiment.id, "", 5).expect("read"), []);
}

fn tags_notes_and_tokens_come_back(open: Open<'_>) {
    let store = open();
    let promotion = |checkpoint: &str, time_millis| Promotion {
        tag: "production".into(),
        checkpoint: checkpoint.into(),
        time_millis,
        by: "me".into(),
        undone: false,
    };
    for (checkpoint, time) in [("a", 1), ("b", 2), ("b", 3)] {
        store.promote(&promotion(checkpoint, time)).expect("promoted");
    }
    assert_eq!(store.promotions(true).expect("read"), [promotion("a", 1), promotion("b", 2)]);
    assert_eq!(store.roll_back_targets().expect("read"), [("a".to_owned(), "production".to_owned())]);
    assert_eq!(store.roll_back("production").expect("done"), RolledBack::To(promotion("a", 1)));
    assert_eq!(store.roll_back("production").expect("done"), RolledBack::NothingBefore);
    assert_eq!(store.roll_back("other").expect("done"), RolledBack::NoTag);
    assert_eq!(store.promotions(false).expect("read"), [promotion("a", 1)]);
    let undone = Promotion { undone: true, ..promotion("b", 2) };
    assert_eq!(store.promotions(true).expect("read"), [promotion("a", 1), undone.clone()]);
    let first = store.promotions_after(0, 1).expect("read");
    assert_eq!(first.iter().map(|(_, moved)| moved).collect::<Vec<_>>(), [&promotion("a", 1)]);
    let rest = store.promotions_after(first[0].0, 5).expect("read");
    assert_eq!(rest.iter().map(|(_, moved)| moved).collect::<Vec<_>>(), [&undone]);
    store.set_note("a", "good").expect("stored");
    let evaluation = [("loss".to_owned(), 0.1), ("nan".to_owned(), f64::NAN)].into();
    store.set_evaluation("a", &evaluation).expect("stored");
    let note = StoredNote { note: "good".into(), evaluation: [("loss".to_owned(), 0.1)].into() };
    assert_eq!(store.checkpoint_notes().expect("read"), [("a".to_owned(), note)].into());
    let token = StoredToken {
        id: "1".into(),
        name: "me".into(),
        role: Role::Operator,
        hash: [9; 32],
        created_millis: 4,
        expires_millis: None,
    };
    assert!(store.add_token(&token).expect("added") && !store.add_token(&token).expect("asked"));
    assert_eq!(store.token("1").expect("read").as_ref(), Some(&token));
    assert_eq!(store.tokens().expect("read"), [token]);
    assert!(store.remove_token("me").expect("removed") && !store.remove_token("me").expect("asked"));
}

fn events_come_back_in_their_order(open: Open<'_>) {
    let store = open();
    assert_eq!(store.event_bounds().expect("read"), None);
    assert_eq!(store.first_event_seq(1_700_000_000_000_000).expect("stored"), 1_700_000_000_000_000);
    assert_eq!(store.first_event_seq(5).expect("read"), 1_700_000_000_000_000);
    let kept: Vec<Kept> = (10..15).map(|seq| (seq, format!("{{\"n\":{seq}}}"))).collect();
    store.keep_events(&kept, &[]).expect("kept");
    assert_eq!(store.events_from(12, 2).expect("read"), kept[2..4]);
    store.forget_events_before(12).expect("forgotten");
    assert_eq!(store.event_bounds().expect("read"), Some((12, 14)));
    assert!(store.keep_events(&kept[4..], &[]).is_err(), "a number is given once");
    assert_eq!(store.events_from(0, 9).expect("read"), kept[2..]);
}

fn what_a_run_said_comes_back_newest_first_and_goes_with_the_run(open: Open<'_>) {
    let store = open();
    let [first, second] = [0; 2]
        .map(|time| store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, time, None).expect("stored").id);
    for (run, time, alarm, text) in [(&first, 1, false, "a"), (&second, 2, true, "b"), (&first, 3, true, "c")] {
        store.add_run_line(run, time, alarm, text).expect("kept");
    }
    for stranger in ["r99", "", "x"] {
        store.add_run_line(stranger, 4, false, "d").expect("left out");
    }
    let lines = |run: &str, before, limit| store.run_lines(run, before, limit).expect("read");
    let said: Vec<_> = lines(&first, i64::MAX, 9).into_iter().map(|l| (l.time_millis, l.alarm, l.text)).collect();
    assert_eq!(said, [(3, true, "c".to_owned()), (1, false, "a".to_owned())]);
    let newest = lines(&first, i64::MAX, 1);
    assert_eq!(newest.len(), 1);
    assert_eq!(lines(&first, newest[0].id, 9)[0].text, "a");
    assert!(store.remove_run(&first).expect("removed"));
    assert_eq!((lines(&first, i64::MAX, 9).len(), lines(&second, i64::MAX, 9).len()), (0, 1));
}

fn the_first_and_the_newest_samples_of_a_stage_stay_with_their_run(open: Open<'_>) {
    let store = open();
    let run = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 0, None).expect("stored").id;
    let sample = |run_id: &str, stage, step, text: &str| {
        let prompts = vec![SampledPrompt::new(&Prompt::from_query("rust"), [(text, None)])];
        Sample { run_id: run_id.to_owned(), stage, step, prompts }
    };
    let add = |sample: &Sample| store.add_run_sample(sample).expect("kept");
    (0..60).for_each(|step| add(&sample(&run, Stage::Rl, step, "a")));
    [0, 900].into_iter().for_each(|step| add(&sample(&run, Stage::Sft, step, "b")));
    add(&sample("r99", Stage::Sft, 1, "of no run"));
    let kept = store.run_samples(&run).expect("read");
    let steps: Vec<(Stage, usize)> = kept.iter().map(|kept| (kept.stage, kept.step)).collect();
    let of_rl = std::iter::once(0).chain(11..60).map(|step| (Stage::Rl, step));
    assert_eq!(steps, [(Stage::Sft, 0), (Stage::Sft, 900)].into_iter().chain(of_rl).collect::<Vec<_>>());
    // a resumed stage takes a step again
    let again = sample(&run, Stage::Sft, 900, "c");
    add(&again);
    let now = store.run_samples(&run).expect("read");
    assert_eq!((now.len(), &now[1]), (kept.len(), &again));
    assert!(store.run_samples("r99").expect("read").is_empty());
    assert!(store.remove_run(&run).expect("removed"));
    assert!(store.run_samples(&run).expect("read").is_empty());
}
