//! kill -9 in the middle of a run: after the restart it goes on, and its result is bit-equal to that of a run
//! that nobody interrupted. In every state of a run, a promotion and a deletion the server dies at a point of the program
//! ([`beckon_server::crash`]), so that none is missed.

use beckon_server::crash::{Point, VARIABLE};
use beckon_server::store::{FILE_NAME, Store};
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::control::registry::{Promotion, RegistryEntry};
use beckon_shared::control::{RunState, RunStatus, Stage};
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

/// Nothing half is among the checkpoints of a folder; their number.
fn n_whole_files(dir: &Path) -> usize {
    let paths = std::fs::read_dir(dir.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path());
    let checkpoints: Vec<_> = paths.filter(|path| path.extension().is_some_and(|ext| ext == "beckon")).collect();
    for path in &checkpoints {
        assert!(Checkpoint::decode(&std::fs::read(path).unwrap()).is_ok(), "half: {}", path.display());
    }
    checkpoints.len()
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
    n_whole_files(dir);
}

/// Value of the variable by which a server dies when it comes to `point` for the `nth` time, as by kill -9.
fn at(point: Point, nth: usize) -> String {
    format!("{}:{nth}", point.name())
}

/// Waits until a server has died at `point`.
fn died(mut server: Server, point: Point) {
    let status = server.ended(RUN_LIMIT);
    assert!(!status.success(), "{status}");
    let line = format!("the crash point {} is reached", point.name());
    // its last line may come behind its end
    beckon_tests::wait_for(&line, Duration::from_secs(10), || server.log().contains(&line).then_some(()));
}

/// The store of a server that is gone.
fn left_behind(dir: &Path) -> Store {
    Store::open(&dir.join(FILE_NAME)).unwrap()
}

fn status_of(dir: &Path, run: &str) -> RunStatus {
    left_behind(dir).run(run).unwrap().expect("it is stored").status
}

#[test]
fn killed_in_every_state_a_run_comes_back_as_it_was_and_ends_once() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    // queued: the first begins, the second is stored and its answer does not come
    let server = Server::start_with(dir, &[], &[(VARIABLE, at(Point::Queued, 2).as_str())]);
    assert_eq!(server.client.import("log.jsonl", &simulated_log(400)).0, 200);
    let first = server.client.start_run(&tiny_config(21, json!({}))).id;
    let asked = tiny_config(22, json!({})).to_string();
    assert!(!server.client.try_post("/api/runs", asked.as_bytes()), "it was answered");
    died(server, Point::Queued);
    let is_next = |state: RunState| matches!(state, RunState::Queued | RunState::Running);
    assert!(is_next(status_of(dir, &first).state), "{:?}", status_of(dir, &first));
    let ids = [first, "r2".to_owned()];

    let states = [
        (Point::Starting, 1),
        (Point::Training, 10),
        (Point::Evaluating, 1),
        (Point::Checkpointing, 1),
        (Point::Delivered, 1),
        (Point::Recorded, 1),
    ];
    for (point, nth) in states {
        died(Server::spawn(dir, &[], &[(VARIABLE, at(point, nth).as_str())]), point);
        let [run, waiting] = ids.each_ref().map(|id| status_of(dir, id));
        assert_eq!(waiting.state, RunState::Queued, "{point:?}: the order of the queue changed");
        let is_recorded = point == Point::Recorded;
        assert_eq!(run.state, if is_recorded { RunState::Finished } else { RunState::Running }, "{point:?}");
        let makers: Vec<_> = left_behind(dir).checkpoints().unwrap().into_iter().map(|info| info.run_id).collect();
        let has_file = is_recorded || point == Point::Delivered;
        assert_eq!(makers, if is_recorded { vec![Some(ids[0].clone())] } else { vec![] }, "{point:?}");
        assert_eq!(n_whole_files(dir), usize::from(has_file), "{point:?}");
    }

    let server = Server::start(dir, &[]);
    for id in &ids {
        server.client.wait_for_state(id, RunState::Finished, RUN_LIMIT);
    }
    everything_is_whole(&server, dir);
    let made: Vec<_> = server.client.checkpoints().into_iter().filter_map(|info| info.run_id).collect();
    assert_eq!(made, [ids[1].as_str(), &ids[0]], "each made one, the newest first");
}

/// Puts a checkpoint of our own into the folder of a data folder; its id.
fn copy_in(dir: &Path) -> String {
    let folder = dir.join("checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    let bytes = &crate::trained::trained().checkpoint_bytes;
    let id = Checkpoint::decode(bytes).unwrap().id;
    std::fs::write(folder.join(format!("{id}.beckon")), bytes).unwrap();
    id
}

#[test]
fn killed_while_promoting_the_tag_is_where_the_same_request_says() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let own = copy_in(dir);
    // before and after the moment from which it counts
    for (round, point) in [Point::Promoting, Point::Promoted].into_iter().enumerate() {
        let server = Server::start_with(dir, &[], &[(VARIABLE, point.name())]);
        let built_in = server.client.checkpoints().into_iter().find(|info| info.built_in);
        let other = built_in.expect("a built-in checkpoint").id;
        let (id, before) = if round == 0 { (&own, None) } else { (&other, Some(&own)) };
        let (path, key) = (format!("/api/checkpoints/{id}/promote"), format!("promote-{round}"));
        assert!(!server.client.try_post_once(&path, &key), "it was answered");
        died(server, point);
        let tags = left_behind(dir).tags().unwrap();
        let now = tags.get("production").map(|promotion| &promotion.checkpoint);
        assert_eq!(now, if point == Point::Promoted { Some(id) } else { before }, "{point:?}");
        let server = Server::start(dir, &[]);
        let reply = server.client.post_once(&path, &key);
        assert_eq!(reply.status, 200, "{}", reply.text());
        let entries: Vec<RegistryEntry> = server.client.get("/api/registry").json();
        let entry = entries.into_iter().find(|entry| entry.info.id == *id).expect("it is listed");
        assert_eq!(entry.tags, ["production"], "{point:?}");
        let history: Vec<Promotion> = server.client.get("/api/promotions").json();
        assert_eq!(history.len(), round + 1, "a promotion was done twice or not at all: {history:?}");
    }
}

#[test]
fn killed_while_deleting_nothing_is_left_of_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let own = copy_in(dir);
    let server = Server::start_with(dir, &[], &[(VARIABLE, Point::Deleting.name())]);
    assert!(server.client.checkpoints().iter().any(|info| info.id == own));
    let answer = ureq::delete(&format!("{}/api/checkpoints/{own}", server.client.url)).call();
    assert!(answer.is_err(), "it was answered");
    died(server, Point::Deleting);
    assert!(!left_behind(dir).has_checkpoint(&own).unwrap());
    assert_eq!(n_whole_files(dir), 1, "the file went first");
    let server = Server::start(dir, &[]);
    assert!(server.client.checkpoints().iter().all(|info| info.built_in), "it came back");
    assert_eq!(n_whole_files(dir), 0);
}
