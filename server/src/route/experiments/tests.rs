//! An experiment from draft to decision through the whole router, with an ingest key from a listed origin.

use super::*;
use crate::app::Doors;
use crate::app::tests::{Bench, bench_with, json, open_doors, request};
use axum::http::{HeaderValue, Method, Request};
use serde_json::json;

const SITE: &str = "https://site.example";

/// A running experiment of two templates, and its ingest key.
async fn running(bench: &Bench) -> String {
    let arm = |name: &str| json!({"name": name, "source": {"template": name}});
    let config = json!({"name": "test", "arms": [arm("control"), arm("treatment")], "allowed_origins": [SITE]});
    let draft: ExperimentStatus = json(bench.post("/api/experiments", &config.to_string()).await).await;
    assert_eq!((draft.id.as_str(), draft.state, draft.aa), ("e1", ExperimentState::Draft, false));
    let key: NewKey = json(bench.post("/api/experiments/e1/key", "").await).await;
    assert_eq!(bench.post("/api/experiments/e1/start", "").await.status(), StatusCode::OK);
    key.key
}

fn from_site(method: Method, path: &str, body: &str, key: &str) -> Request<axum::body::Body> {
    let mut request = request(method, path, body.to_owned());
    let headers = request.headers_mut();
    headers.insert("origin", HeaderValue::from_static(SITE));
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {key}")).expect("a value"));
    request
}

/// Shows one slate to `unit` in its arm, and clicks it where `clicks` says so.
async fn show(bench: &Bench, key: &str, unit: &str, clicks: impl Fn(&str) -> bool) -> serde_json::Value {
    let path = format!("/api/experiments/e1/assignment?unit={unit}");
    let assigned: Assigned = json(bench.send(from_site(Method::GET, &path, "", key)).await).await;
    let arm = assigned.arm.expect("all take part").name;
    assert_eq!(assigned.propensity, Some(0.5));
    let exposure = json!({"kind": "exposure", "impression_id": format!("i-{unit}"), "unit": unit, "arm": arm,
        "time_millis": 1, "slate": [{"text": "a", "propensity": 0.5, "visible": true}], "device_tier": "phone"});
    let click = json!({"kind": "click", "impression_id": format!("i-{unit}"), "slot": 0, "time_millis": 2});
    let events = if clicks(&arm) { vec![exposure, click] } else { vec![exposure] };
    json!({ "events": events })
}

#[tokio::test]
async fn shown_and_clicked_slates_come_in_once_and_are_analysed() {
    let bench = bench_with(Doors { token_needed: false, ..open_doors() });
    let key = running(&bench).await;
    let (mut n_events, mut n_clicks) = (0, 0);
    for i in 0..60 {
        let batch = show(&bench, &key, &format!("u{i}"), |arm| arm == "treatment").await.to_string();
        let send = || from_site(Method::POST, "/api/experiments/e1/events", &batch, &key);
        let first: IngestOutcome = json(bench.send(send()).await).await;
        assert_eq!((first.n_duplicates, first.rejects), (0, vec![]));
        let again: IngestOutcome = json(bench.send(send()).await).await;
        assert_eq!((again.n_accepted, again.n_duplicates), (0, first.n_accepted), "an event was counted twice");
        n_events += first.n_accepted;
        n_clicks += first.n_accepted - 1;
    }
    assert!(n_clicks > 10 && n_events == 60 + n_clicks);
    let results: Results = json(bench.get("/api/experiments/e1/results").await).await;
    assert_eq!((results.n_exposures, results.n_clicks, results.simulated), (60, n_clicks as u64, false));
    let report = results.report.expect("an analysis");
    let ctr = |name: &str| report.arms.iter().find(|arm| arm.arm == name).and_then(|arm| arm.ctr);
    assert_eq!((ctr("control"), ctr("treatment")), (Some(0.0), Some(1.0)));
    assert_eq!(report.arms[0].arm, "control");
    assert!(bench.app.store.looks("e1").expect("read").is_some(), "the look is forgotten");
}

#[tokio::test]
async fn an_experiment_that_could_never_be_analysed_is_refused_with_the_field() {
    let bench = bench_with(open_doors());
    let arm = |name: &str| json!({"name": name, "source": {"template": name}});
    let usual = serde_json::to_value(beckon_shared::ab::report::Settings::default()).expect("plain data");
    for (layout, field, value) in [
        ("interleaved", "cuped", json!(true)),
        ("split", "design", json!("fixed")),
        ("split", "observation_hours", json!(0.0)),
    ] {
        let mut settings = usual.clone();
        settings[field] = value;
        let config = json!({"name": "test", "arms": [arm("a"), arm("b")], "layout": layout, "settings": settings});
        let config = config.to_string();
        let why = bench.problem(request(Method::POST, "/api/experiments", config), 422).await;
        let named = if field == "design" { "planned_users_per_arm" } else { field };
        assert!(why.contains(&format!("settings.{named}: ")), "{why}");
    }
    assert_eq!(bench.app.store.experiments().expect("read"), [], "a refused one was made");
}

/// A running experiment of two templates, with what was decided about the past.
async fn begun(bench: &Bench, cuped: bool) -> ExperimentStatus {
    let arm = |name: &str| json!({"name": name, "source": {"template": name}});
    let settings = beckon_shared::ab::report::Settings { cuped, ..Default::default() };
    let config = json!({"name": "test", "arms": [arm("a"), arm("b")], "settings": settings});
    let draft: ExperimentStatus = json(bench.post("/api/experiments", &config.to_string()).await).await;
    json(bench.post(&format!("/api/experiments/{}/start", draft.id), "").await).await
}

/// The same 120 people each see `n_slates` an hour ago by their clocks, and click as many as `n_clicked` says.
async fn visit(
    bench: &Bench,
    experiment: &ExperimentStatus,
    name: &str,
    simulated: bool,
    (n_slates, n_clicked): (usize, fn(usize) -> usize),
) {
    let arms = experiment.config.assignment(&experiment.id);
    let time = crate::now_millis() - 3_600_000;
    let mut events = Vec::new();
    for user in 0..120 {
        let unit = format!("u{user}");
        let arm = &experiment.config.arms[arms.arm_of(&unit).expect("all take part")].name;
        for slate in 0..n_slates {
            let id = format!("{name}-{unit}-{slate}");
            let shown = json!([{"text": "x", "propensity": 0.5, "visible": true}]);
            events.push(json!({"kind": "exposure", "impression_id": id, "unit": unit, "arm": arm, "time_millis": time,
                "slate": shown, "simulated": simulated}));
            if slate < n_clicked(user) {
                events.push(json!({"kind": "click", "impression_id": id, "slot": 0, "time_millis": time}));
            }
        }
    }
    let path = format!("/api/experiments/{}/events", experiment.id);
    let outcome: IngestOutcome = json(bench.post(&path, &json!({ "events": events }).to_string()).await).await;
    assert_eq!((outcome.n_accepted, outcome.rejects), (events.len(), vec![]));
}

/// Every other one likes to click, here of four slates.
const BEFORE: (usize, fn(usize) -> usize) = (4, |user| if user % 2 == 0 { 3 } else { usize::from(user % 3 == 0) });
/// The same people and two slates.
const NOW: (usize, fn(usize) -> usize) =
    (2, |user| if user % 2 == 0 { 2 - usize::from(user % 5 == 0) } else { usize::from(user % 7 == 0) });

async fn report(bench: &Bench, experiment: &ExperimentStatus) -> beckon_shared::ab::report::Report {
    let path = format!("/api/experiments/{}/results", experiment.id);
    json::<Results>(bench.get(&path).await).await.report.expect("an analysis")
}

#[tokio::test]
async fn what_users_did_in_earlier_experiments_narrows_the_interval() {
    let bench = bench_with(Doors { token_needed: false, ..open_doors() });
    let earlier = begun(&bench, false).await;
    visit(&bench, &earlier, "before", false, BEFORE).await;
    let experiment = begun(&bench, true).await;
    visit(&bench, &experiment, "now", false, NOW).await;
    let first = report(&bench, &experiment).await;
    let comparison = &first.comparisons[0];
    let cuped = comparison.cuped.expect("a past");
    assert!(cuped.is_used && cuped.variance_reduction > 0.3, "{cuped:?}");
    let of_arms: f64 = first.arms.iter().filter_map(|arm| arm.ctr_std_error).map(|error| error * error).sum();
    let share = comparison.difference_std_error.expect("defined").powi(2) / of_arms;
    assert!((share - (1.0 - cuped.variance_reduction)).abs() <= 1e-9, "{share} against {cuped:?}");
    let interval = comparison.fixed_horizon.interval.expect("defined");
    assert!(interval.high - interval.low < 2.0 * 1.96 * of_arms.sqrt(), "{interval:?}");
    let said = |what: &str| first.assumptions.iter().any(|assumption| assumption.contains(what));
    assert!(said("known of 120 of 120 users") && said("in the 28 days before this one was started"));
    assert!(!first.warnings.iter().any(|warning| warning.contains("cuped")), "{:?}", first.warnings);
    // the earlier experiment goes on, and its users now do the opposite: no past, whatever their clocks say
    visit(&bench, &earlier, "late", false, (4, |user| if user % 2 == 0 { 0 } else { 4 })).await;
    let second = report(&bench, &experiment).await;
    let figures = |report: &beckon_shared::ab::report::Report| {
        (report.comparisons[0].cuped, report.comparisons[0].difference, report.comparisons[0].difference_std_error)
    };
    assert_eq!(figures(&second), figures(&first));
}

#[tokio::test]
async fn simulated_users_are_no_past_of_real_ones_and_without_a_past_the_report_says_so() {
    let bench = bench_with(Doors { token_needed: false, ..open_doors() });
    let earlier = begun(&bench, false).await;
    visit(&bench, &earlier, "before", true, BEFORE).await;
    let real = begun(&bench, true).await;
    visit(&bench, &real, "now", false, NOW).await;
    let alone = report(&bench, &real).await;
    assert_eq!(alone.comparisons[0].cuped, None);
    assert!(alone.comparisons[0].difference_std_error.is_some(), "the figures stay");
    let warned = |warning: &String| warning.starts_with("`b` against `a` is not adjusted, though `cuped` is set");
    assert!(alone.warnings.iter().any(warned), "{:?}", alone.warnings);
    let drill = begun(&bench, true).await;
    visit(&bench, &drill, "now", true, NOW).await;
    let drilled = report(&bench, &drill).await;
    assert!(drilled.simulated && drilled.comparisons[0].cuped.is_some_and(|cuped| cuped.is_used));
}

#[tokio::test]
async fn events_that_cannot_be_are_refused_one_by_one() {
    let bench = bench_with(open_doors());
    let key = running(&bench).await;
    let mut batch = show(&bench, &key, "u1", |_| true).await;
    let events = batch["events"].as_array_mut().expect("a list");
    let mut wrong_arm = events[0].clone();
    wrong_arm["impression_id"] = json!("i-2");
    wrong_arm["arm"] = json!(if wrong_arm["arm"] == "control" { "treatment" } else { "control" });
    let mut unseen = events[0].clone();
    unseen["impression_id"] = json!("i-3");
    unseen["slate"][0]["visible"] = json!(false);
    let stray = json!({"kind": "click", "impression_id": "i-9", "slot": 0, "time_millis": 2});
    let far = json!({"kind": "click", "impression_id": "i-u1", "slot": 7, "time_millis": 2});
    events.extend([wrong_arm, unseen, stray, far]);
    let request = from_site(Method::POST, "/api/experiments/e1/events", &batch.to_string(), &key);
    let outcome: IngestOutcome = json(bench.send(request).await).await;
    assert_eq!(outcome.n_accepted, 2);
    let at: Vec<usize> = outcome.rejects.iter().map(|(idx, _)| *idx).collect();
    assert_eq!(at, [2, 3, 4, 5], "{:?}", outcome.rejects);
}

#[tokio::test]
async fn a_key_opens_its_own_experiment_only_and_a_new_one_replaces_it() {
    let bench = bench_with(open_doors());
    let key = running(&bench).await;
    let arm = |name: &str| json!({"name": name, "source": {"template": name}});
    let config = json!({"name": "other", "arms": [arm("a"), arm("b")], "allowed_origins": [SITE]});
    bench.post("/api/experiments", &config.to_string()).await;
    let other = "/api/experiments/e2/assignment?unit=u";
    bench.problem(from_site(Method::GET, other, "", &key), 403).await;
    for path in ["/api/experiments/e1", "/api/experiments/e1/results", "/api/runs", "/api/audit"] {
        let mut request = from_site(Method::GET, path, "", &key);
        request.headers_mut().remove("origin");
        bench.problem(request, 403).await;
    }
    let mut elsewhere = from_site(Method::POST, "/api/experiments/e1/events", r#"{"events": []}"#, &key);
    elsewhere.headers_mut().insert("origin", HeaderValue::from_static("https://evil.example"));
    bench.problem(elsewhere, 403).await;
    let preflight = from_site(Method::OPTIONS, "/api/experiments/e1/events", "", &key);
    assert_eq!(bench.send(preflight).await.headers()["access-control-allow-origin"], SITE);
    bench.post("/api/experiments/e1/key", "").await;
    let own = "/api/experiments/e1/assignment?unit=u";
    bench.problem(from_site(Method::GET, own, "", &key), 401).await;
}

#[tokio::test]
async fn the_kill_switch_refuses_everything_at_once() {
    let bench = bench_with(open_doors());
    let key = running(&bench).await;
    let batch = show(&bench, &key, "u1", |_| true).await.to_string();
    assert_eq!(bench.post("/api/experiments/e1/kill", "").await.status(), StatusCode::OK);
    let own = "/api/experiments/e1/assignment?unit=u1";
    let assigned: Assigned = json(bench.send(from_site(Method::GET, own, "", &key)).await).await;
    assert_eq!((assigned.arm, assigned.why.as_deref()), (None, Some("the experiment is switched off")));
    bench.problem(from_site(Method::POST, "/api/experiments/e1/events", &batch, &key), 409).await;
    bench.problem(request(Method::POST, "/api/experiments/e1/start", ""), 409).await;
    bench.problem(request(Method::POST, "/api/experiments/e1/decide", ""), 422).await;
    let decided: ExperimentStatus =
        json(bench.post("/api/experiments/e1/decide", r#"{"winner": "control"}"#).await).await;
    assert_eq!(decided.winner.as_deref(), Some("control"));
}

#[tokio::test]
async fn a_checkpoint_under_test_cannot_be_deleted_and_a_missing_one_not_tested() {
    let bench = bench_with(open_doors());
    let id = bench.offer_checkpoint();
    let config = |checkpoint: &str| {
        let arm = |name: &str| json!({"name": name, "source": {"checkpoint": checkpoint}});
        json!({"name": "aa", "arms": [arm("a"), arm("b")]}).to_string()
    };
    let made: ExperimentStatus = json(bench.post("/api/experiments", &config(&id)).await).await;
    assert!(made.aa);
    let delete = request(Method::DELETE, &format!("/api/checkpoints/{id}"), "");
    assert!(bench.problem(delete, 409).await.contains("experiment e1"));
    let missing = request(Method::POST, "/api/experiments", config("gone"));
    assert!(bench.problem(missing, 422).await.contains("gone"));
    assert_eq!(bench.send(request(Method::DELETE, "/api/experiments/e1", "")).await.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn clicks_on_interleaved_slates_are_votes_of_users() {
    let bench = bench_with(Doors { token_needed: false, ..open_doors() });
    let arm = |name: &str| json!({"name": name, "source": {"template": name}});
    let config = json!({"name": "test", "arms": [arm("a"), arm("b")], "layout": "interleaved"});
    let _: ExperimentStatus = json(bench.post("/api/experiments", &config.to_string()).await).await;
    assert_eq!(bench.post("/api/experiments/e1/start", "").await.status(), StatusCode::OK);
    let slot = |arm: &str| json!({"text": arm, "propensity": 0.5, "visible": true, "arm": arm});
    // three users click what b placed, one what a placed
    for (unit, clicked) in [("u1", 1), ("u2", 1), ("u3", 0), ("u4", 1)] {
        let path = format!("/api/experiments/e1/assignment?unit={unit}");
        let assigned: Assigned = json(bench.get(&path).await).await;
        assert_eq!(assigned.arms.iter().map(|arm| &*arm.name).collect::<Vec<_>>(), ["a", "b"]);
        let exposure = json!({"kind": "exposure", "impression_id": format!("i-{unit}"), "unit": unit, "arm": "a",
            "time_millis": 1, "slate": [slot("a"), slot("b")]});
        let click = json!({"kind": "click", "impression_id": format!("i-{unit}"), "slot": clicked, "time_millis": 2});
        let outcome: IngestOutcome =
            json(bench.post("/api/experiments/e1/events", &json!({"events": [exposure, click]}).to_string()).await)
                .await;
        assert_eq!((outcome.n_accepted, outcome.rejects), (2, vec![]));
    }
    // a vote for nobody is refused by name, and counts for nobody
    let misspelt = json!({"kind": "exposure", "impression_id": "i-u5", "unit": "u5", "arm": "a", "time_millis": 1,
        "slate": [slot("a"), slot("B")]});
    let outcome: IngestOutcome =
        json(bench.post("/api/experiments/e1/events", &json!({"events": [misspelt]}).to_string()).await).await;
    assert!(outcome.rejects[0].1.starts_with("slate[1].arm is \"B\""), "{:?}", outcome.rejects);
    let results: Results = json(bench.get("/api/experiments/e1/results").await).await;
    let preference = results.preference.expect("four users clicked");
    assert_eq!((preference.n_users, preference.net, &*preference.b), (4, 0.5, "b"));
    assert!(preference.std_error > 0.0 && results.report.is_none(), "{preference:?}");
}
