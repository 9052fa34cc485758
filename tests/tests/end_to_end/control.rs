//! Remote control: what the page and other programs can ask of the server, and what they are told.

use beckon_shared::control::{Event, LogSummary, RunState, Stage};
use beckon_tests::client::Client;
use beckon_tests::process::{Server, beckon, printed};
use beckon_tests::sample::{hand_written_log, simulated_log, tiny_config};
use serde_json::json;
use std::time::Duration;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

#[test]
fn good_lines_are_kept_and_broken_ones_named_and_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let good = hand_written_log();
    let mut lines: Vec<&str> = good.lines().collect();
    let wrong_type = lines[1].replace("hand-2", "hand-3").replace("\"clicked\":false", "\"clicked\":\"no\"");
    lines.insert(1, "{\"impression_id\": \"cut off");
    lines.push(&wrong_type);
    let (status, outcome) = server.client.import("mixed.jsonl", &(lines.join("\n") + "\n"));
    assert_eq!((status, outcome.n_accepted, outcome.n_rejected), (200, 2, 2), "{outcome:?}");
    assert_eq!(outcome.rejects[0].line, 2, "{outcome:?}");
    assert_eq!(outcome.rejects[1].line, 4, "{outcome:?}");
    let field = outcome.rejects[1].field.clone().unwrap_or_default();
    assert!(field.contains("clicked"), "the field at fault is not named: {outcome:?}");
    let written = std::fs::read_to_string(outcome.rejects_file.expect("a file of rejects")).unwrap();
    assert!(written.contains("cut off") && written.contains("hand-3"), "{written}");

    let summary: LogSummary = server.client.get("/api/log/summary").json();
    assert_eq!((summary.n_impressions, summary.n_clicks, summary.n_simulated), (2, 1, 0));
    let (status, again) = server.client.import("again.jsonl", &good);
    assert_eq!((status, again.n_accepted, again.n_duplicates), (200, 0, 2));
    let (status, refused) = server.client.import("bad.jsonl", "not json\n");
    assert_eq!((status, refused.n_accepted, refused.n_rejected), (422, 0, 1));
}

#[test]
fn an_empty_log_is_told_apart_and_cannot_be_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let (status, outcome) = server.client.import("empty.jsonl", "");
    assert_eq!((status, outcome.n_accepted, outcome.n_rejected), (422, 0, 1));
    assert!(outcome.rejects[0].reason.contains("empty"), "{:?}", outcome.rejects);
    let run = server.client.start_run(&tiny_config(1, json!({})));
    let failed = beckon_tests::wait_for("the run to fail", SECONDS(60), || {
        let run = server.client.run(&run.id);
        assert_ne!(run.state, RunState::Finished, "trained on nothing");
        (run.state == RunState::Failed).then_some(run)
    });
    let why = failed.error.expect("a reason");
    assert!(why.contains("import") || why.contains("no "), "the reason does not say what to do: {why}");
}

#[test]
fn a_run_is_watched_paused_resumed_and_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let client = &server.client;
    assert_eq!(client.import("log.jsonl", &simulated_log(300)).0, 200);
    let events = client.events();
    let run = client.start_run(&tiny_config(3, json!({"sft": {"n_steps": 100_000}})));
    assert_ne!(run.state, RunState::Finished);
    let step = events.wait_for("a metric of sft", SECONDS(60), |event| match event {
        Event::Metric(metric) if metric.stage == Stage::Sft && metric.name == "loss" => Some(metric.step),
        _ => None,
    });
    assert!(client.metrics(&run.id).iter().any(|metric| metric.name == "loss" && metric.step == step));

    client.command(&run.id, "resume").problem(409);
    assert_eq!(client.command(&run.id, "pause").status, 200);
    let paused = client.wait_for_state(&run.id, RunState::Paused, SECONDS(30));
    std::thread::sleep(SECONDS(1));
    assert_eq!(client.run(&run.id).step, paused.step, "a paused run went on");
    events.drain();
    std::thread::sleep(SECONDS(1));
    let late = events.drain();
    assert!(!late.iter().any(|event| matches!(event, Event::Metric(_))), "metrics of a paused run: {late:?}");
    client.command(&run.id, "pause").problem(409);

    assert_eq!(client.command(&run.id, "resume").status, 200);
    events.wait_for("a step after the pause", SECONDS(30), |event| match event {
        Event::Metric(metric) if metric.step > paused.step => Some(()),
        _ => None,
    });
    assert_eq!(client.command(&run.id, "cancel").status, 200);
    beckon_tests::wait_for("the run to be cancelled", SECONDS(30), || {
        (client.run(&run.id).state == RunState::Cancelled).then_some(())
    });
    for command in ["pause", "resume", "cancel"] {
        let problem = client.command(&run.id, command).problem(409);
        assert!(problem.detail.contains(&run.id), "{problem:?}");
    }
    client.command("r999", "pause").problem(404);
}

#[test]
fn a_configuration_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let refuse = |config: serde_json::Value, word: &str| {
        let problem = server.client.post("/api/runs", config.to_string().as_bytes()).problem(422);
        assert!(problem.detail.contains(word), "{word} is not named: {problem:?}");
    };
    refuse(json!({"preset": "tiny", "sfd": {}}), "sfd");
    refuse(json!({"preset": "tiny", "sft": {"n_stepz": 3}}), "n_stepz");
    refuse(json!({"preset": "tiny", "rl": {"n_steps": "many"}}), "n_steps");
    let none: Vec<serde_json::Value> = server.client.get("/api/runs").json();
    assert!(none.is_empty(), "a refused configuration left a run: {none:?}");
}

#[test]
fn a_taken_port_and_a_taken_folder_are_named() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(dir.path(), &[]);
    let addr = server.client.url.trim_start_matches("http://");
    let port = addr.rsplit(':').next().unwrap();
    let serve = |addr: &str, data_dir: &std::path::Path| {
        let data_dir = data_dir.to_str().unwrap();
        beckon(["serve", "--addr", addr, "--device", "cpu", "--data-dir", data_dir], other.path())
    };
    let second = serve(addr, other.path());
    assert!(!second.status.success());
    let text = printed(&second);
    assert!(text.contains("in use") && text.contains(port), "{text}");
    let third = serve("127.0.0.1:0", dir.path());
    assert!(!third.status.success() && printed(&third).contains("another beckon"), "{}", printed(&third));
    assert_eq!(Client::new(&server.client.url).get("/api/health").status, 200, "the first server suffered");
}

#[test]
fn a_request_from_another_site_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let from = |origin: &str| {
        let request = agent.post(format!("{}/api/runs", server.client.url)).header("origin", origin);
        request.send("{\"preset\": \"tiny\"}").unwrap().status().as_u16()
    };
    assert_eq!(from("https://example.com"), 403);
    assert_eq!(from(&server.client.url.clone()), 201);
}

#[test]
fn sigterm_saves_and_the_next_start_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.client.import("log.jsonl", &simulated_log(300)).0, 200);
    let run = server.client.start_run(&tiny_config(4, json!({"sft": {"n_steps": 100_000}})));
    let reached = beckon_tests::wait_for("step 5 of sft", SECONDS(60), || {
        let run = server.client.run(&run.id);
        (run.stage == Some(Stage::Sft) && run.step >= 5).then_some(run.step)
    });
    assert!(server.terminate().success(), "SIGTERM is no failure");
    let server = Server::start(dir.path(), &[]);
    let later = beckon_tests::wait_for("the run to go on", SECONDS(60), || {
        let run = server.client.run(&run.id);
        (run.state == RunState::Running && run.stage == Some(Stage::Sft) && run.step > 0).then_some(run.step)
    });
    assert!(later >= reached, "started again at {later} after {reached}");
}

#[test]
fn the_terminal_steers_a_far_server_by_the_same_verbs() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap().to_owned();
    let made = beckon(["token", "add", "me", "--role", "operator", "--data-dir", &data], dir.path());
    let text = printed(&made);
    let token = text.split_whitespace().find(|word| word.len() > 40).expect("a token");
    let server = Server::start(dir.path(), &["--require-token"]);
    let asked = |words: &[&str], token: &str| {
        let output =
            beckon(words.iter().copied().chain(["--server", &server.client.url, "--token", token]), dir.path());
        (output.status.success(), printed(&output))
    };
    let done = |words: &[&str]| -> serde_json::Value {
        let (ok, text) = asked(words, token);
        assert!(ok, "{words:?}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    };
    assert!(!asked(&["run", "list"], "beckon_wrong").0, "a wrong token was taken");
    assert_eq!(done(&["run", "create", "--preset", "tiny", "--draft"])["state"], "draft");
    assert_eq!(
        done(&["run", "tune", "r1", r#"{"rl": {"kl_beta": 0.2}}"#])["changes"][0]["tuning"]["rl"]["kl_beta"],
        0.2
    );
    assert_eq!(done(&["run", "list"])[0]["id"], "r1");
    done(&["run", "delete", "r1"]);
    assert_eq!(done(&["run", "list"]), json!([]));
    // what does not go is refused in the server's words
    let (ok, text) = asked(&["run", "pause", "r1"], token);
    assert!(!ok && text.contains("r1"), "{text}");
    let built_in = done(&["checkpoint", "list"])[0]["info"]["id"].as_str().expect("the built-in one").to_owned();
    done(&["checkpoint", "note", &built_in, "looks right"]);
    done(&["checkpoint", "promote", &built_in]);
    let listed = done(&["checkpoint", "list"]);
    assert_eq!((&listed[0]["note"], &listed[0]["tags"]), (&json!("looks right"), &json!(["production"])), "{listed}");
    let arm = json!({"name": "a", "source": {"checkpoint": built_in}});
    let config = json!({"name": "aa", "arms": [arm, {"name": "b", "source": {"checkpoint": built_in}}]});
    std::fs::write(dir.path().join("test.json"), config.to_string()).unwrap();
    assert_eq!(done(&["experiment", "create", "test.json"])["aa"], true);
    done(&["experiment", "start", "e1"]);
    assert!(asked(&["experiment", "delete", "e1"], token).1.contains("stop it first"));
    done(&["experiment", "stop", "e1"]);
    done(&["experiment", "delete", "e1"]);
    assert_eq!(done(&["experiment", "list"]), json!([]));
    let events = asked(&["events", "--after", "0", "--limit", "3"], token).1;
    assert!(events.lines().filter(|line| line.starts_with("{\"seq\"")).count() == 3, "{events}");
}

#[test]
fn off_loopback_nothing_starts_without_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let refused = beckon(["serve", "--addr", "0.0.0.0:0", "--device", "cpu", "--data-dir", data], dir.path());
    let text = printed(&refused);
    assert!(!refused.status.success() && text.contains("needs a token") && text.contains("beckon token add"), "{text}");
}

#[test]
fn log_lines_are_json_with_the_id_of_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--log-json"], &[("BECKON_LOG", "debug")]);
    let agent = ureq::Agent::new_with_defaults();
    agent.get(format!("{}/api/ready", server.client.url)).header("x-request-id", "looked-for").call().unwrap();
    let line = beckon_tests::wait_for("the line", SECONDS(20), || {
        server.log().lines().find(|line| line.contains("looked-for") && line.contains("answered")).map(str::to_owned)
    });
    let line: serde_json::Value = serde_json::from_str(&line).expect("a line is one JSON value");
    assert_eq!((&line["span"]["id"], &line["fields"]["status"]), (&json!("looked-for"), &json!(200)), "{line}");
}
