//! The outer half of the loop: an experiment with simulated users through the public endpoints, its results, and what was
//! clicked back in the log, where the next run learns from it. And the events of all that over connections that break.

use crate::trained::trained;
use beckon_server::remote::Remote;
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::control::experiment::harvest::HarvestOutcome;
use beckon_shared::control::experiment::{ExperimentStatus, Results};
use beckon_shared::control::{LogSummary, RunState};
use beckon_tests::client::Client;
use beckon_tests::process::{Server, beckon, printed};
use beckon_tests::sample::{simulated_log, tiny_config};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// A running experiment of the simulator's policy against the trained checkpoint; its id and ingest key.
fn running(client: &Client, checkpoint: &str) -> (String, String) {
    let arms = json!([
        {"name": "control", "source": {"template": "simulator"}},
        {"name": "treatment", "source": {"checkpoint": checkpoint}, "decoding": {"n_candidates": 6, "max_new_tokens": 12}},
    ]);
    let config = json!({"name": "simulated", "arms": arms}).to_string();
    let made: ExperimentStatus = client.post("/api/experiments", config.as_bytes()).json();
    let key: Value = client.post(&format!("/api/experiments/{}/key", made.id), b"").json();
    assert_eq!(client.post(&format!("/api/experiments/{}/start", made.id), b"").status, 200);
    (made.id, key["key"].as_str().expect("a key").to_owned())
}

fn simulate(url: &str, experiment: &str, key: &str, dir: &Path) -> Value {
    let args = ["simulate", "--server", url, "--experiment", experiment, "--key", key, "--users", "120"];
    let output = beckon(args.into_iter().chain(["--visits", "2", "--prompts", "10", "--seed", "5"]), dir);
    assert!(output.status.success(), "{}", printed(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", printed(&output)))
}

#[test]
fn simulated_users_visit_an_experiment_and_their_clicks_train_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::decode(&trained().checkpoint_bytes).unwrap();
    std::fs::create_dir_all(dir.path().join("checkpoints")).unwrap();
    let file = dir.path().join("checkpoints").join(format!("{}.beckon", checkpoint.id));
    std::fs::write(file, &trained().checkpoint_bytes).unwrap();
    let server = Server::start(dir.path(), &[]);
    let client = &server.client;
    let (id, key) = running(client, &checkpoint.id);

    let visits = simulate(&client.url, &id, &key, dir.path());
    assert_eq!((&visits["n_users"], &visits["n_exposures"]), (&json!(120), &json!(240)), "{visits}");
    let again = simulate(&client.url, &id, &key, dir.path());
    assert_eq!(
        (&again["n_accepted"], &again["n_duplicates"]),
        (&json!(0), &visits["n_accepted"]),
        "counted twice: {again}"
    );

    let results: Results = client.get(&format!("/api/experiments/{id}/results")).json();
    assert!(results.simulated, "simulated users are not labelled");
    let n_shown = 240 - visits["n_empty"].as_u64().expect("a count");
    assert_eq!((results.n_exposures, json!(results.n_clicks)), (n_shown, visits["n_clicks"].clone()));
    assert!(results.n_clicks > 10, "{visits}");
    let report = results.report.expect("an analysis");
    assert!(!report.sample_ratio.is_mismatch(), "{:?}", report.sample_ratio);
    assert_eq!(report.arms.iter().map(|arm| arm.n_units).sum::<u64>(), 120);

    // back into the log: with propensities, arm and checkpoint, once
    let harvest = || client.post(&format!("/api/experiments/{id}/harvest"), b"").json::<HarvestOutcome>();
    let first = harvest();
    assert_eq!((first.n_accepted, first.n_duplicates, first.n_without_prompt), (n_shown, 0, 0));
    assert_eq!((harvest().n_accepted, harvest().n_duplicates), (0, n_shown));
    let summary: LogSummary = client.get("/api/log/summary").json();
    assert_eq!((summary.n_impressions, summary.n_simulated), (n_shown, n_shown));
    let log = client.get(&format!("/api/experiments/{id}/export"));
    assert_eq!((log.status, log.content_type.as_str()), (200, "application/jsonl"));
    let lines: Vec<Value> = log.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len() as u64, n_shown);
    for line in &lines {
        assert_eq!((&line["experiment"], &line["simulated"]), (&json!(id), &json!(true)), "{line}");
        let expected = if line["arm"] == "treatment" { json!(checkpoint.id) } else { Value::Null };
        assert_eq!(line["checkpoint"], expected, "{line}");
        for slot in line["slate"].as_array().expect("a slate") {
            assert!(slot["propensity"].as_f64().is_some_and(|p| p > 0.0 && p <= 1.0), "{line}");
        }
    }
    // the file is a log like any other
    let (status, outcome) = client.import("again.jsonl", &log.text());
    assert_eq!((status, outcome.n_accepted, outcome.n_duplicates, outcome.n_rejected), (200, 0, n_shown, 0));
    let run = client.start_run(&tiny_config(2, json!({})));
    let run = client.wait_for_state(&run.id, RunState::Finished, Duration::from_secs(240));
    let made = run.checkpoint.expect("a checkpoint");
    assert!(client.checkpoints().iter().any(|info| info.id == made && info.simulated), "it does not say simulated");
}

#[test]
fn a_stopped_experiment_turns_simulated_users_away_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let arm = |name: &str| json!({"name": name, "source": {"template": name}});
    let config = json!({"name": "n", "arms": [arm("a"), arm("b")]}).to_string();
    assert_eq!(server.client.post("/api/experiments", config.as_bytes()).status, 201);
    let args = ["simulate", "--server", &server.client.url, "--experiment", "e1", "--users", "3"];
    let output = beckon(args, dir.path());
    let text = printed(&output);
    assert!(!output.status.success() && text.contains("draft"), "{text}");
}

#[test]
fn two_hundred_broken_connections_see_every_event_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--rate", "10000"]);
    assert_eq!(server.client.import("log.jsonl", &simulated_log(300)).0, 200);
    let run = server.client.start_run(&tiny_config(6, json!({"sft": {"n_steps": 100_000}})));
    let remote = Remote::new(&server.client.url, None, None).unwrap();
    // 0 asks for everything that is kept, led by `missed` as it is no number of this server
    let mut seen: Vec<(u64, String)> = Vec::new();
    let mut last = 0;
    for connection in 0..200u64 {
        // cut after 1 to 37 events, without any pattern that the server could fall into step with
        let mut left = 1 + connection * connection * 7919 % 37;
        remote
            .events(Some(last), |seq, event| {
                seen.push((seq, event.to_owned()));
                last = seq;
                left -= 1;
                left > 0
            })
            .unwrap();
    }
    server.client.command(&run.id, "cancel");
    assert!(seen[0].1.contains("missed"), "{:?}", seen[0]);
    assert!(!seen[1..].iter().any(|(_, event)| event.contains("\"missed\"")), "an event was lost");
    let gap = seen.windows(2).find(|pair| pair[1].0 != pair[0].0 + 1);
    assert_eq!(gap, None, "left out or repeated");
    // the same in one go
    let mut whole = Vec::new();
    remote
        .events(Some(0), |seq, event| {
            whole.push((seq, event.to_owned()));
            whole.len() < seen.len()
        })
        .unwrap();
    assert_eq!(seen, whole);
}
