//! Checkpoints in a bucket, against a real server that speaks S3: two beckons, one bucket.

use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::control::RunState;
use beckon_tests::moto::{BUCKET, KEY, Moto};
use beckon_tests::process::{Server, binary, printed};
use beckon_tests::sample::{simulated_log, tiny_config};
use serde_json::json;
use std::path::Path;
use std::time::Duration;

fn start(dir: &Path, moto: &Moto) -> Server {
    let storage = format!("s3://{BUCKET}/models");
    Server::start_with(dir, &["--storage", &storage, "--s3-endpoint", &moto.url], &KEY)
}

/// The built-in checkpoint with an id of its own.
fn checkpoint(command: &str) -> (String, Vec<u8>) {
    let bytes = std::fs::read(beckon_tests::process::root().join("server/assets/nano.beckon")).unwrap();
    let mut checkpoint = Checkpoint::decode(&bytes).unwrap();
    checkpoint.manifest.lineage.command = command.to_owned();
    let bytes = checkpoint.encode().unwrap();
    (Checkpoint::decode(&bytes).unwrap().id, bytes)
}

fn key(id: &str) -> String {
    format!("models/{id}.beckon")
}

fn offered(server: &Server) -> Vec<String> {
    server.client.checkpoints().into_iter().filter(|info| !info.built_in).map(|info| info.id).collect()
}

#[test]
#[ignore = "needs moto"]
fn a_bucket_keeps_checkpoints_for_every_server_and_shows_no_half_one() {
    let moto = Moto::start();
    let (first_dir, second_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (own, own_bytes) = checkpoint("of the folder");
    let folder = first_dir.path().join("checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{own}.beckon")), &own_bytes).unwrap();
    // a half object, one whose content is another's, and what is no checkpoint's name
    let (half, half_bytes) = checkpoint("half");
    let (other, _) = checkpoint("other");
    moto.put(&key(&half), &half_bytes[..half_bytes.len() / 2]);
    moto.put(&key(&other), &own_bytes);
    moto.put("models/..%2F..%2Fevil.beckon", &own_bytes);
    moto.put("models/notes.txt", b"not a checkpoint");

    // a new bucket gets what the folder has
    let first = start(first_dir.path(), &moto);
    assert_eq!(offered(&first), std::slice::from_ref(&own));
    assert_eq!(moto.get(&key(&own)).as_ref(), Some(&own_bytes));
    let log = first.log();
    assert!(log.contains(&half) && log.contains(&other), "what was refused is not named: {log}");
    assert_eq!(moto.get(&key(&half)).map(|bytes| bytes.len()), Some(half_bytes.len() / 2), "it was overwritten");

    // a run's checkpoint goes there
    assert_eq!(first.client.import("log.jsonl", &simulated_log(300)).0, 200);
    let run = first.client.start_run(&tiny_config(1, json!({}))).id;
    first.client.wait_for_state(&run, RunState::Finished, Duration::from_secs(240));
    let made = first.client.run(&run).checkpoint.expect("a checkpoint");
    let made_bytes = moto.get(&key(&made)).expect("it is in the bucket");
    assert_eq!(Checkpoint::decode(&made_bytes).unwrap().id, made);

    // another server, with an empty folder, offers both: whole, in parts, and by their tags
    let second = start(second_dir.path(), &moto);
    let mut both = offered(&second);
    both.sort();
    let mut want = vec![own.clone(), made.clone()];
    want.sort();
    assert_eq!(both, want);
    let whole = second.client.get(&format!("/api/checkpoints/{made}/file"));
    assert_eq!((whole.status, whole.body == made_bytes), (200, true));
    let url = format!("{}/api/checkpoints/{made}/file", second.client.url);
    let mut part = ureq::get(&url).header("range", "bytes=100-199").call().unwrap();
    assert_eq!((part.status().as_u16(), part.headers()["etag"].to_str().unwrap()), (206, &*format!("\"{made}\"")));
    assert_eq!(part.body_mut().read_to_vec().unwrap(), made_bytes[100..200]);

    // deleted on one, it is gone from the bucket
    let delete = ureq::delete(&format!("{}/api/checkpoints/{own}", first.client.url)).call().unwrap();
    assert_eq!((delete.status().as_u16(), moto.get(&key(&own))), (204, None));
    assert_eq!(offered(&first), [made]);
}

#[test]
#[ignore = "needs moto"]
fn a_bucket_that_cannot_be_used_is_named() {
    let moto = Moto::start();
    let dir = tempfile::tempdir().unwrap();
    let serve = |storage: &str, key: &[(&str, &str)]| {
        let mut command = std::process::Command::new(binary());
        command.args(["serve", "--addr", "127.0.0.1:0", "--device", "cpu", "--storage", storage]);
        command.args(["--s3-endpoint", &moto.url, "--data-dir"]).arg(dir.path());
        KEY.iter().for_each(|(name, _)| _ = command.env_remove(name));
        printed(&command.envs(key.iter().copied()).output().unwrap())
    };
    let without_key = serve("s3://lab", &[]);
    assert!(without_key.contains("AWS_ACCESS_KEY_ID"), "{without_key}");
    let unknown = serve("s3://none", &KEY);
    assert!(unknown.contains("s3://none") && unknown.contains("NoSuchBucket"), "{unknown}");
}
