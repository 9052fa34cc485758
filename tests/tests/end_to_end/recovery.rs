//! kill -9 in the middle of a run: after the restart it goes on, and its result is bit-equal to that of a run
//! that nobody interrupted.

use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::control::registry::{Promotion, RegistryEntry};
use beckon_shared::control::{Event, RunState, Stage};
use beckon_tests::client::Client;
use beckon_tests::process::Server;
use beckon_tests::sample::{simulated_log, tiny_config};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};

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

/// Everything that can be seen is whole: each listed checkpoint decodes to what it says it is, and nothing half is left in
/// their folder.
fn everything_is_whole(server: &Server, dir: &Path) {
    for info in server.client.checkpoints() {
        let file = server.client.get(&format!("/api/checkpoints/{}/file", info.id));
        assert_eq!(file.status, 200, "{}", file.text());
        let checkpoint = Checkpoint::decode(&file.body).expect("a listed checkpoint is whole");
        assert_eq!(checkpoint.id, info.id);
    }
    for entry in std::fs::read_dir(dir.join("checkpoints")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let is_whole = Checkpoint::decode(&bytes).is_ok();
        assert!(is_whole || path.extension().is_none_or(|extension| extension != "beckon"), "half: {}", path.display());
    }
}

/// Kills the server as soon as an event says that the run is in `stage`; whether it was caught there.
fn kill_in(server: Server, run: &str, stage: Stage) -> bool {
    let events = server.client.events();
    let end = Instant::now() + RUN_LIMIT;
    let is_there = |server: &Server| server.client.run(run).stage.is_some_and(|now| now >= stage);
    while !is_there(&server) && Instant::now() < end {
        // told by an event, or found by a look in between
        let told = events
            .drain()
            .into_iter()
            .any(|event| matches!(event, Event::Run(status) if status.id == run && status.stage == Some(stage)));
        if told {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let status = server.client.run(run);
    server.kill();
    status.stage == Some(stage) && !status.state.is_final()
}

#[test]
fn killed_in_every_state_a_run_comes_back_as_it_was_and_ends_once() {
    let dir = tempfile::tempdir().unwrap();
    let start = || Server::start(dir.path(), &[]);
    let server = start();
    assert_eq!(server.client.import("log.jsonl", &simulated_log(400)).0, 200);
    // the first starts and the second waits
    let more = json!({"sft": {"n_steps": 40}});
    let ids = [21, 22].map(|seed| server.client.start_run(&tiny_config(seed, more.clone())).id);
    assert_eq!(server.client.run(&ids[1]).state, RunState::Queued);
    server.kill();
    let server = start();
    let states = ids.clone().map(|id| server.client.run(&id).state);
    assert_eq!(states[1], RunState::Queued, "the order of the queue changed");
    assert!(matches!(states[0], RunState::Queued | RunState::Running), "{states:?}");
    everything_is_whole(&server, dir.path());
    let mut server = server;
    let mut caught = Vec::new();
    for stage in [Stage::Sft, Stage::Eval, Stage::Export] {
        // the first run in each stage; evaluation and export are short, so the second has another try
        for id in &ids {
            if server.client.run(id).state.is_final() || caught.contains(&stage) {
                continue;
            }
            if kill_in(server, id, stage) {
                caught.push(stage);
            }
            server = start();
            everything_is_whole(&server, dir.path());
        }
    }
    assert!(caught.contains(&Stage::Sft) && caught.contains(&Stage::Eval), "only caught in {caught:?}");
    for id in &ids {
        server.client.wait_for_state(id, RunState::Finished, RUN_LIMIT);
    }
    everything_is_whole(&server, dir.path());
    let made: Vec<_> = server.client.checkpoints().into_iter().filter_map(|info| info.run_id).collect();
    for id in &ids {
        assert_eq!(made.iter().filter(|run| *run == id).count(), 1, "checkpoints of {id}: {made:?}");
    }
}

#[test]
fn killed_while_promoting_the_tag_is_where_the_same_request_says() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    let bytes = &crate::trained::trained().checkpoint_bytes;
    let own = Checkpoint::decode(bytes).unwrap().id;
    std::fs::write(folder.join(format!("{own}.beckon")), bytes).unwrap();
    let mut server = Server::start(dir.path(), &[]);
    let others = server.client.checkpoints().into_iter().map(|info| info.id).filter(|id| *id != own);
    let ids: Vec<String> = std::iter::once(own.clone()).chain(others).collect();
    assert!(ids.len() >= 2, "the built-in checkpoint is the second");
    let n_rounds = 12;
    for round in 0..n_rounds {
        let (id, key) = (ids[round % 2].clone(), format!("promote-{round}"));
        let path = format!("/api/checkpoints/{id}/promote");
        let (client, first_path, first_key) = (server.client.clone(), path.clone(), key.clone());
        let asked = std::thread::spawn(move || client.try_post_once(&first_path, &first_key));
        // somewhere within the request: it takes a few milliseconds
        std::thread::sleep(Duration::from_micros(700 * round as u64));
        server.kill();
        let _ = asked.join();
        server = Server::start(dir.path(), &[]);
        let reply = server.client.post_once(&path, &key);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let entry: RegistryEntry = server
            .client
            .get("/api/registry")
            .json::<Vec<RegistryEntry>>()
            .into_iter()
            .find(|entry| entry.info.id == id)
            .expect("it is listed");
        assert_eq!(entry.tags, ["production"], "round {round}");
    }
    let history: Vec<Promotion> = server.client.get("/api/promotions").json();
    assert_eq!(history.len(), n_rounds, "a promotion was done twice or not at all: {history:?}");
}
