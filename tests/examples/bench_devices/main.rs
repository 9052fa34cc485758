//! What lent devices cost and gain: SFT steps of nano on the server's own CPU, on one that another process on this machine
//! lends, and split over both.
//!
//! `cargo xtask bench devices`. Both processes share the machine's cores, so this shows the price of the split: a gain needs a second
//! machine.

use beckon_shared::control::{Metric, RunState, Stage};
use beckon_tests::lender::{Lender, TOKEN};
use beckon_tests::machine;
use beckon_tests::process::Server;
use beckon_tests::sample::simulated_log;
use serde_json::{Value, json};
use std::time::Duration;

/// Steps of a round under the clock, and those before it.
const N_STEPS: usize = 6;
const N_WARMUP: usize = 2;
/// Rounds, all settings in turn.
const N_ROUNDS: usize = 3;

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    if !["devices.split", "devices.lent"].iter().any(|own| own.contains(&name)) {
        return;
    }
    let lender = Lender::start(&["--addr", "127.0.0.1:0"]);
    let dir = tempfile::tempdir().expect("a folder");
    let server = Server::start_with(dir.path(), &["--lent-device", &lender.url], &[TOKEN]);
    assert_eq!(server.client.import("log.jsonl", &simulated_log(2_000)).0, 200);
    let settings = [
        json!({"device": "cpu", "n_devices": 1}),
        json!({"device": "cpu", "n_devices": 2}),
        json!({"device": "lent", "n_devices": 1}),
    ];
    let mut speeds = settings.each_ref().map(|_| Vec::new());
    for _ in 0..N_ROUNDS {
        for (speeds, setting) in speeds.iter_mut().zip(&settings) {
            speeds.push(tokens_per_sec(&server, setting));
        }
    }
    let [own, split, lent] = speeds.map(|mut speeds| median(&mut speeds));
    for (name, ours) in [("devices.split", split), ("devices.lent", lent)] {
        let figure = json!({
            "name": name, "device": machine(), "unit": "tokens/s", "ours": ours,
            "rival": own, "rival_name": "own device alone", "ratio": ours / own,
        });
        println!("{figure}");
    }
}

/// Median over the steps of a run that is then ended.
fn tokens_per_sec(server: &Server, setting: &Value) -> f64 {
    let mut config = json!({"preset": "nano", "sft": {"n_steps": 100_000}});
    config.as_object_mut().zip(setting.as_object()).map(|(config, setting)| config.extend(setting.clone()));
    let id = server.client.start_run(&config).id;
    let mut speeds = beckon_tests::wait_for("the steps", Duration::from_secs(600), || {
        let metrics: Vec<Metric> = server.client.metrics(&id);
        let speed = |m: &Metric| m.stage == Stage::Sft && m.name == "tokens_per_sec" && m.step > N_WARMUP;
        let speeds: Vec<f64> = metrics.iter().filter(|m| speed(m)).map(|m| m.value).collect();
        (speeds.len() >= N_STEPS).then_some(speeds)
    });
    server.client.command(&id, "cancel");
    server.client.wait_for_state(&id, RunState::Cancelled, Duration::from_secs(60));
    median(&mut speeds)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
