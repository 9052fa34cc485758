//! What the analysis of an experiment is given: users with their windows, votes, and what looks have shown.

use super::{Open, running};
use crate::store::Store;
use crate::store::sql::values;
use beckon_shared::ab::input::{Observed, parse};
use beckon_shared::ab::interleave::Votes;
use beckon_shared::ab::report::{AnalysisError, Looks, Settings, analyze};
use beckon_shared::control::experiment::{ExperimentState, ExperimentStatus, IngestEvent, IngestOutcome, Layout};
use serde_json::json;

const HOUR: i64 = 3_600_000;
/// What a window has to be over for.
const SETTLED: i64 = 300_000;
/// 29 February 2000.
const START: i64 = 951_782_400_000;

/// A slate of two slots; nothing where `arms` names none for them.
fn exposure(
    experiment: &ExperimentStatus,
    id: &str,
    unit: &str,
    time_millis: i64,
    arms: &[Option<&str>],
) -> IngestEvent {
    let arm = experiment.config.assignment(&experiment.id).arm_of(unit).expect("every user takes part");
    let slot = |arm: &Option<&str>| json!({"text": "x", "propensity": 0.5, "visible": true, "arm": arm});
    let event = json!({
        "kind": "exposure", "impression_id": id, "unit": unit, "arm": experiment.config.arms[arm].name,
        "time_millis": time_millis, "slate": arms.iter().map(slot).collect::<Vec<_>>(), "latency_millis": 10.0,
        // a value that would come first where it is not left out
        "browser": if id == "after" { "edge" } else { "firefox" }
    });
    serde_json::from_value(event).expect("an event")
}

fn click(id: &str, slot: usize, time_millis: i64) -> IngestEvent {
    let event = json!({"kind": "click", "impression_id": id, "slot": slot, "time_millis": time_millis});
    serde_json::from_value(event).expect("an event")
}

fn take_in(store: &Store, experiment: &ExperimentStatus, events: &[IngestEvent]) -> IngestOutcome {
    let arms = experiment.config.assignment(&experiment.id);
    store.ingest(experiment, events, |unit| arms.arm_of(unit)).expect("taken in")
}

pub(super) fn users_count_with_their_window_once_it_is_over(open: Open<'_>) {
    let store = open();
    let mut status = running();
    status.config.settings.observation_hours = Some(24.0);
    let mut experiment = store.add_experiment(status, None).expect("added");
    let show = |id: &str, unit: &str, time_millis| exposure(&experiment, id, unit, time_millis, &[None, None]);
    let events = [
        show("first", "early", START),
        show("within", "early", START + 23 * HOUR),
        show("after", "early", START + 25 * HOUR),
        exposure(&experiment, "nothing", "early", START + 26 * HOUR, &[]),
        click("first", 0, START + 24 * HOUR),
        click("within", 1, START + 23 * HOUR + 1),
        click("after", 0, START + 25 * HOUR + 1),
        show("other", "late", START + 10 * HOUR),
        click("other", 0, START + 10 * HOUR + 1),
        // clocks of clients can be anything
        show("past", "slow", i64::MIN),
        show("future", "fast", i64::MAX),
    ];
    let outcome = take_in(&store, &experiment, &events);
    assert_eq!((outcome.n_accepted, outcome.rejects), (events.len(), vec![]));
    let sums = |experiment: &ExperimentStatus, millis: i64| {
        let (users, n_exposures, n_clicks) = store.experiment_users(experiment, START + millis).expect("summed");
        assert_eq!((n_exposures, n_clicks), (6, 4), "what came in is counted, in a window or not");
        let clicks: Vec<_> = users.users.iter().map(|u| (u.clicks.numerator, u.clicks.denominator)).collect();
        (clicks, users)
    };
    let window = |n_waiting| Observed::Window { hours: 24.0, n_waiting };
    let (clicks, users) = sums(&experiment, 24 * HOUR + SETTLED - 1);
    assert_eq!((clicks, users.observed), (vec![(0.0, 1.0)], window(3)));
    let (clicks, users) = sums(&experiment, 24 * HOUR + SETTLED);
    assert_eq!((clicks, users.observed), (vec![(0.0, 1.0), (1.0, 2.0)], window(2)));
    let early = &users.users[1];
    assert_eq!((early.no_suggestion.numerator, early.no_suggestion.denominator), (0.0, 2.0));
    assert_eq!((early.latency_millis.numerator, early.latency_millis.denominator), (20.0, 2.0));
    assert_eq!((early.day.as_deref(), early.strata[1].as_str()), (Some("2000-02-29"), "firefox"));
    let (clicks, users) = sums(&experiment, 1_000 * HOUR);
    assert_eq!((clicks, users.observed), (vec![(0.0, 1.0), (1.0, 2.0), (1.0, 1.0)], window(1)));
    // nobody is shown anything any more, so hours that the end cut off are not like the others
    experiment.stopped_millis = Some(START + 30 * HOUR);
    let (clicks, users) = sums(&experiment, 1_000 * HOUR);
    assert_eq!((clicks, users.observed), (vec![(0.0, 1.0), (1.0, 2.0)], window(2)));
    experiment.config.settings.observation_hours = None;
    let (clicks, users) = sums(&experiment, 0);
    assert_eq!(clicks, [(0.0, 1.0), (3.0, 3.0), (1.0, 1.0), (0.0, 1.0)]);
    assert_eq!(users.observed, Observed::SoFar { n_returned: 1 });
}

pub(super) fn votes_and_users_of_no_arm_are_told_apart(open: Open<'_>) {
    let store = open();
    let mut status = running();
    status.config.layout = Layout::Interleaved;
    let experiment = store.add_experiment(status, None).expect("added");
    for (unit, slot) in [("u1", 1), ("u2", 0), ("u3", 1)] {
        let events = [exposure(&experiment, unit, unit, START, &[Some("a"), Some("b")]), click(unit, slot, START + 1)];
        assert_eq!(take_in(&store, &experiment, &events).rejects, []);
    }
    let misspelt = exposure(&experiment, "u4", "u4", START, &[Some("a"), Some("B")]);
    let outcome = take_in(&store, &experiment, &[misspelt, click("u4", 1, START + 1)]);
    assert_eq!((outcome.n_accepted, outcome.rejects.len()), (0, 2));
    let why = r#"slate[1].arm is "B", which is no arm; expected "a" or "b""#;
    assert_eq!(outcome.rejects[0], (0, why.to_owned()));
    // as they could come in before names were checked
    for sql in [
        "UPDATE clicks SET arm = 'B' WHERE impression_id = 'u3'",
        "UPDATE exposures SET arm = 'B', simulated = 1 WHERE impression_id = 'u3'",
    ] {
        assert_eq!(store.writer().execute(sql, values![]).expect("changed"), 1);
    }
    let vote = |net| Votes { net, n_clicks: 1.0 };
    assert_eq!(store.experiment_votes(&experiment).expect("counted"), [vote(1.0), vote(-1.0)]);
    let (users, n_exposures, n_clicks) = store.experiment_users(&experiment, START).expect("summed");
    assert_eq!((users.users.len(), n_exposures, n_clicks), (2, 3, 3));
    assert!(users.is_simulated, "who counts in no arm is labelled all the same");
}

/// An experiment that was a draft until now.
fn started(store: &Store, cuped: bool, now_millis: i64) -> ExperimentStatus {
    let mut draft = ExperimentStatus { state: ExperimentState::Draft, started_millis: None, ..running() };
    draft.config.settings.cuped = cuped;
    let id = store.add_experiment(draft, None).expect("added").id;
    let start = |status: &mut ExperimentStatus| {
        (status.state, status.started_millis) = (ExperimentState::Running, Some(now_millis));
        Ok::<(), ()>(())
    };
    store.change_experiment(&id, start).expect("written").expect("is there").expect("a draft can start")
}

fn simulated(mut event: IngestEvent) -> IngestEvent {
    if let IngestEvent::Exposure(exposure) = &mut event {
        exposure.simulated = true;
    }
    event
}

pub(super) fn the_past_is_what_other_experiments_took_in_before_the_start(open: Open<'_>) {
    let store = open();
    let earlier = started(&store, false, START - 1_000 * HOUR);
    let mut votes = running();
    votes.config.layout = Layout::Interleaved;
    let votes = store.add_experiment(votes, None).expect("added");
    let show = |experiment: &ExperimentStatus, id: &str, unit: &str, time_millis| {
        exposure(experiment, id, unit, time_millis, &[None, None])
    };
    let take_in = |experiment: &ExperimentStatus, events: &[IngestEvent]| {
        let outcome = take_in(&store, experiment, events);
        assert_eq!((outcome.n_accepted, outcome.rejects), (events.len(), vec![]));
    };
    let oldest = START - 28 * 24 * HOUR;
    let before = [
        show(&earlier, "too old", "u1", oldest - 1),
        click("too old", 0, oldest),
        show(&earlier, "oldest", "u1", oldest),
        show(&earlier, "twice", "u1", START - HOUR),
        click("twice", 0, START - HOUR),
        click("twice", 1, START - HOUR),
        exposure(&earlier, "nothing", "u1", START - HOUR, &[]),
        // a clock that is fast makes no past of what is yet to come
        show(&earlier, "fast", "u2", START + 5 * HOUR),
        show(&earlier, "real", "u4", START - HOUR),
        click("real", 0, START - HOUR),
        simulated(show(&earlier, "robot", "u1", START - HOUR)),
        click("robot", 0, START - HOUR),
        simulated(show(&earlier, "robot too", "u5", START - HOUR)),
        click("robot too", 1, START - HOUR),
    ];
    take_in(&earlier, &before);
    let drafted = exposure(&votes, "vote", "u1", START - HOUR, &[Some("a"), Some("b")]);
    take_in(&votes, &[drafted, click("vote", 1, START - HOUR)]);
    let mut adjusted = started(&store, true, START);
    let plain = started(&store, false, START);
    // what comes in now may depend on the arm, whatever time it names
    let late = show(&earlier, "late", "u1", START - HOUR);
    take_in(&earlier, &[late, click("late", 0, START - HOUR), click("oldest", 0, START - HOUR)]);
    for experiment in [&adjusted, &plain] {
        let now = ["u1", "u2", "u3"].map(|unit| show(experiment, unit, unit, START + HOUR));
        take_in(experiment, &now);
        take_in(experiment, &["u4", "u5"].map(|unit| simulated(show(experiment, unit, unit, START + HOUR))));
    }
    let pasts = |experiment: &ExperimentStatus| {
        let (users, ..) = store.experiment_users(experiment, START + 1_000 * HOUR).expect("summed");
        let past: Vec<_> = users.users.iter().map(|u| (u.clicks.pre_numerator, u.clicks.pre_denominator)).collect();
        assert!(users.users.iter().all(|u| (u.clicks.numerator, u.clicks.denominator) == (0.0, 1.0)));
        (users.has_past, past)
    };
    let want = (true, vec![(2.0, 3.0), (0.0, 1.0), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0)]);
    assert_eq!(pasts(&adjusted), want);
    assert_eq!(pasts(&plain), (false, vec![(0.0, 0.0); 5]));
    adjusted.config.settings.observation_hours = Some(1.0);
    assert_eq!(pasts(&adjusted), want, "users who count with a window have the same past");
    assert!(store.remove_experiment(&earlier.id).expect("removed"));
    assert_eq!(pasts(&adjusted), want, "looks have counted it");
    assert!(store.remove_experiment(&adjusted.id).expect("removed"));
    assert_eq!(store.reader().value::<u64>("SELECT count(*) FROM pasts", values![]).expect("counted"), 0);
}

/// A look at two arms of `n` users that goes on from `before`.
fn look(n: u64, [a, b]: [u64; 2], before: Option<&Looks>) -> Result<Looks, AnalysisError> {
    let settings = Settings { planned_users_per_arm: Some(20_000.0), ..Settings::default() };
    let table = parse(format!("arm,users,clicks\na,{n},{a}\nb,{n},{b}\n").as_bytes(), &[]).expect("reads");
    analyze(&table, &settings, before).map(|(_, looks)| looks)
}

pub(super) fn looks_at_once_lose_nothing(open: Open<'_>) {
    let (one, other) = (open(), open());
    let id = &one.add_experiment(running(), None).expect("added").id;
    one.keep_looks(id, None, &look(10_000, [500, 510], None).expect("a look")).expect("kept");
    let before = one.looks(id).expect("read");
    // both begin from the same; that of fewer users ends last
    let earlier = look(12_000, [600, 800], before.as_ref()).expect("a look");
    let later = look(20_000, [1_050, 1_100], before.as_ref()).expect("a look");
    one.keep_looks(id, before.as_ref(), &later).expect("kept");
    other.keep_looks(id, before.as_ref(), &earlier).expect("kept");
    let kept = one.looks(id).expect("read").expect("there");
    let (got, want) = (kept.running["b"].p_value(), earlier.running["b"].p_value());
    assert!(want < 0.05 && (got - want).abs() <= 1e-12, "{got} against {want}");
    assert_eq!(kept.running["b"].n_looks(), 3);
    assert!(look(19_000, [900, 900], Some(&kept)).is_err(), "the users of the later look are forgotten");
    std::thread::scope(|scope| {
        for store in [&one, &other] {
            scope.spawn(move || {
                for _ in 0..20 {
                    let before = store.looks(id).expect("read");
                    let look = look(20_000, [1_050, 1_100], before.as_ref()).expect("a look");
                    store.keep_looks(id, before.as_ref(), &look).expect("kept");
                }
            });
        }
    });
    assert_eq!(one.looks(id).expect("read").expect("there").running["b"].n_looks(), 43);
}
