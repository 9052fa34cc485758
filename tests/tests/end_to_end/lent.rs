//! Runs on devices that another process lends, alone and beside the server's own.

use beckon_shared::control::{Metric, RunState, Stage};
use beckon_tests::client::Client;
use beckon_tests::lender::{Lender, TOKEN};
use beckon_tests::process::Server;
use beckon_tests::sample::{simulated_log, tiny_config};
use serde_json::json;
use std::net::UdpSocket;
use std::time::Duration;

const RUN_LIMIT: Duration = Duration::from_secs(300);

fn finished(client: &Client, config: &serde_json::Value) -> String {
    let id = client.start_run(config).id;
    let run = client.wait_for_state(&id, RunState::Finished, RUN_LIMIT);
    assert!(run.checkpoint.is_some(), "{run:?}");
    id
}

/// The loss of every step of a stage.
fn losses(client: &Client, id: &str, stage: Stage) -> Vec<f64> {
    let metrics: Vec<Metric> = client.metrics(id);
    metrics.into_iter().filter(|m| m.stage == stage && m.name == "loss").map(|m| m.value).collect()
}

#[test]
fn a_step_split_over_two_processes_learns_what_one_process_does_and_a_lost_one_can_come_back() {
    let lender = Lender::start(&["--addr", "127.0.0.1:0"]);
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &["--lent-device", &lender.url], &[TOKEN]);
    let client = &server.client;
    assert_eq!(client.import("log.jsonl", &simulated_log(300)).0, 200);
    let problem = client.post("/api/runs", tiny_config(1, json!({"n_devices": 3})).to_string().as_bytes()).problem(422);
    assert!(problem.detail.contains("3 devices") && problem.detail.contains("--lent-device"), "{}", problem.detail);

    let alone = finished(client, &tiny_config(1, json!({})));
    let split = finished(client, &tiny_config(1, json!({"n_devices": 2})));
    let device = client.run(&split).device.unwrap_or_default();
    assert!(device.contains("flex") && device.contains(&lender.url), "{device}");
    // the first steps: rounding grows with every step, and rollouts fork at the first token that differs
    for (stage, n) in [(Stage::Sft, 12), (Stage::Garm, 6), (Stage::Rl, 1)] {
        let (alone, split) = (losses(client, &alone, stage), losses(client, &split, stage));
        assert!(alone.len() >= n && split.len() == alone.len(), "{stage:?}: {} and {}", alone.len(), split.len());
        for (step, (a, b)) in alone.iter().zip(&split).take(n).enumerate() {
            let tolerance = if stage == Stage::Rl { 0.05 * a.abs().max(1.0) } else { 2e-3 * a.abs().max(0.1) };
            assert!((a - b).abs() < tolerance, "{stage:?}, step {step}: {a} and {b}");
        }
    }

    // the lender dies in the middle of a run, and comes back
    let long = tiny_config(2, json!({"n_devices": 2, "sft": {"n_steps": 200}}));
    let id = client.start_run(&long).id;
    beckon_tests::wait_for("a saved step", RUN_LIMIT, || (client.run(&id).step >= 5).then_some(()));
    let addr = lender.addr().to_owned();
    drop(lender);
    let run = client.wait_for_state(&id, RunState::Failed, RUN_LIMIT);
    let error = run.error.unwrap_or_default();
    assert!(error.contains("lent device") && error.contains("beckon device lend"), "{error}");
    let n_done = losses(client, &id, Stage::Sft).len();
    let _lender = Lender::start(&["--addr", &addr]);
    assert_eq!(client.command(&id, "start").status, 200);
    client.wait_for_state(&id, RunState::Finished, RUN_LIMIT);
    assert!(losses(client, &id, Stage::Sft).len() < 200 + n_done, "it went on from its saved state");
}

#[test]
fn a_run_can_compute_on_a_lent_device_alone_over_an_encrypted_connection() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("lender.key");
    let lender = Lender::start(&["--addr", &format!("127.0.0.1:{port}"), "--key", key.to_str().unwrap()]);
    assert!(lender.url.starts_with("iroh://"), "{}", lender.url);
    let server = Server::start_with(&dir.path().join("data"), &["--lent-device", &lender.url], &[TOKEN]);
    let client = &server.client;
    assert_eq!(client.import("log.jsonl", &simulated_log(300)).0, 200);
    let id = finished(client, &tiny_config(1, json!({"device": "lent", "rl": {"n_steps": 2}})));
    let device = client.run(&id).device.unwrap_or_default();
    assert!(device.contains(&lender.url) && !device.contains("flex"), "{device}");
}
