//! kill -9 in the middle of a run: after the restart it goes on, and its result is bit-equal to that of a run
//! that nobody interrupted.

use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::control::{RunState, Stage};
use beckon_tests::client::Client;
use beckon_tests::process::Server;
use beckon_tests::sample::{simulated_log, tiny_config};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

const RUN_LIMIT: Duration = Duration::from_secs(240);

/// Every tensor file that the stages of a run left, by its path within the run's folder, sorted.
fn results(run_dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for stage in ["sft", "garm", "rl"] {
        for entry in std::fs::read_dir(run_dir.join(stage)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(run_dir).unwrap().to_string_lossy().into_owned();
            if name.ends_with(".safetensors") && !name.contains("state") {
                found.push((name, std::fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

fn checkpoint_of(client: &Client, run_id: &str) -> Checkpoint {
    let id = client.run(run_id).checkpoint.expect("a finished run has a checkpoint");
    let file = client.get(&format!("/api/checkpoints/{id}/file"));
    assert_eq!(file.status, 200);
    Checkpoint::decode(&file.body).expect("the checkpoint is whole")
}

/// Runs to the end while killing the server once in each stage; gives the server that saw the end.
fn run_through_kills(dir: &Path, config: &serde_json::Value) -> (Server, String) {
    let mut server = Server::start(dir, &[]);
    assert_eq!(server.client.import("log.jsonl", &simulated_log(400)).0, 200);
    let run = server.client.start_run(config);
    for stage in [Stage::Sft, Stage::Garm, Stage::Rl] {
        beckon_tests::wait_for(&format!("the middle of {}", stage.name()), RUN_LIMIT, || {
            let run = server.client.run(&run.id);
            assert!(!run.state.is_final(), "it ended before it could be killed in {}: {run:?}", stage.name());
            // past one save (every 4 steps) and between two
            (run.stage == Some(stage) && run.step >= 5).then_some(())
        });
        server.kill();
        server = Server::start(dir, &[]);
    }
    server.client.wait_for_state(&run.id, RunState::Finished, RUN_LIMIT);
    (server, run.id)
}

#[test]
fn a_killed_run_resumes_and_ends_bit_equal() {
    let (killed_dir, quiet_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // enough steps that a poll every 50 ms finds each stage at work
    let more = json!({"sft": {"n_steps": 60}, "garm": {"n_steps": 60}, "rl": {"n_steps": 24}});
    let config = tiny_config(11, more);
    let (killed, killed_id) = run_through_kills(killed_dir.path(), &config);

    let quiet = Server::start(quiet_dir.path(), &[]);
    assert_eq!(quiet.client.import("log.jsonl", &simulated_log(400)).0, 200);
    let quiet_id = quiet.client.start_run(&config).id;
    quiet.client.wait_for_state(&quiet_id, RunState::Finished, RUN_LIMIT);

    let of_killed = results(&killed_dir.path().join("runs").join(&killed_id));
    let of_quiet = results(&quiet_dir.path().join("runs").join(&quiet_id));
    let names = |list: &[(String, Vec<u8>)]| list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&of_killed), names(&of_quiet));
    for stage in ["sft/", "garm/", "rl/"] {
        assert!(of_quiet.iter().any(|(name, _)| name.starts_with(stage)), "no result of {stage}");
    }
    for ((name, killed), (_, quiet)) in of_killed.iter().zip(&of_quiet) {
        assert!(killed == quiet, "{name} differs after kill -9");
    }
    let (one, other) = (checkpoint_of(&killed.client, &killed_id), checkpoint_of(&quiet.client, &quiet_id));
    assert!(one.tensors == other.tensors, "the checkpoints differ after kill -9");

    // the comparison can fail: another seed gives another policy
    let third_id = quiet.client.start_run(&tiny_config(12, json!({}))).id;
    quiet.client.wait_for_state(&third_id, RunState::Finished, RUN_LIMIT);
    assert!(checkpoint_of(&quiet.client, &third_id).tensors != other.tensors, "two seeds give the same policy");
}
