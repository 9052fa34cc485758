//! Checkpoints in a bucket, against a real server that speaks S3: two beckons, one bucket.

use beckon_shared::checkpoint::{CHUNK_BYTES, Checkpoint, PREFIX_BYTES, decode_header, header_bytes};
use beckon_shared::control::RunState;
use beckon_shared::digest::{sha256, sha256_hex};
use beckon_tests::moto::{BUCKET, KEY, Moto};
use beckon_tests::process::{Server, binary, printed, root};
use beckon_tests::sample::{simulated_log, tiny_config};
use beckon_tests::wait_for;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

fn start(dir: &Path, moto: &Moto) -> Server {
    let storage = format!("s3://{BUCKET}/models");
    Server::start_with(dir, &["--storage", &storage, "--s3-endpoint", &moto.url], &KEY)
}

/// The built-in checkpoint with an id of its own, padded to this many bytes of payload.
fn checkpoint(command: &str, payload_bytes: usize) -> (String, Vec<u8>) {
    let bytes = std::fs::read(root().join("server/assets/nano.beckon")).unwrap();
    let mut manifest = decode_header(&bytes).unwrap().manifest;
    let mut payload = bytes[header_bytes(&bytes).unwrap()..].to_vec();
    payload.resize(payload.len().max(payload_bytes), 7);
    manifest.lineage.command = command.to_owned();
    manifest.payload_bytes = payload.len() as u64;
    manifest.chunks = payload.chunks(CHUNK_BYTES).map(sha256_hex).collect();
    let json = serde_json::to_vec(&manifest).unwrap();
    let length = u32::try_from(json.len()).unwrap().to_le_bytes();
    let file = [&bytes[..8], &length, &sha256(&json), &json, &payload].concat();
    assert_eq!(file.len(), PREFIX_BYTES + json.len() + payload.len());
    (Checkpoint::decode(&file).unwrap().id, file)
}

fn key(id: &str) -> String {
    format!("models/{id}.beckon")
}

fn offered(server: &Server) -> Vec<String> {
    server.client.checkpoints().into_iter().filter(|info| !info.built_in).map(|info| info.id).collect()
}

/// Largest memory that the process ever had, bytes.
fn peak_memory(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[test]
#[ignore = "needs moto"]
fn a_bucket_keeps_checkpoints_for_every_server_and_shows_no_half_one() {
    let moto = Moto::start();
    let (first_dir, second_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (own, own_bytes) = checkpoint("of the folder", 0);
    let folder = first_dir.path().join("checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{own}.beckon")), &own_bytes).unwrap();
    // a half object, one whose content is another's, and what is no checkpoint's name
    let (half, half_bytes) = checkpoint("half", 0);
    let (other, _) = checkpoint("other", 0);
    moto.put(&key(&half), &half_bytes[..half_bytes.len() / 2]);
    moto.put(&key(&other), &own_bytes);
    moto.put("models/notes.txt", b"not a checkpoint");

    // a new bucket gets what the folder has
    let first = start(first_dir.path(), &moto);
    assert_eq!(offered(&first), std::slice::from_ref(&own));
    assert!(moto.get(&key(&own)).is_some_and(|object| object == own_bytes), "it did not arrive as it was");
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

    // a run there begins with it: the file is fetched, verified, and kept
    assert_eq!(second.client.import("log.jsonl", &simulated_log(300)).0, 200);
    let run = second.client.start_run(&tiny_config(2, json!({"parent": made}))).id;
    second.client.wait_for_state(&run, RunState::Finished, Duration::from_secs(240));
    let kept = std::fs::read(second_dir.path().join(format!("checkpoints/{made}.beckon"))).unwrap();
    assert!(kept == made_bytes, "the copy is another");

    // deleted on one, it is gone from the bucket
    let delete = ureq::delete(&format!("{}/api/checkpoints/{own}", first.client.url)).call().unwrap();
    assert_eq!((delete.status().as_u16(), moto.get(&key(&own)).is_none()), (204, true));
    assert_eq!(offered(&first), [made]);
}

#[test]
#[ignore = "needs moto"]
fn a_large_checkpoint_goes_up_in_parts_and_is_streamed_without_being_held() {
    const PAYLOAD: usize = 160 << 20;
    let moto = Moto::start();
    let (first_dir, second_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (large, bytes) = checkpoint("large", PAYLOAD);
    let folder = first_dir.path().join("checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{large}.beckon")), &bytes).unwrap();
    start(first_dir.path(), &moto).kill();
    assert!(moto.get(&key(&large)).is_some_and(|object| object == bytes), "it did not arrive as it was");

    let second = start(second_dir.path(), &moto);
    let before = peak_memory(&second);
    let got = second.client.get(&format!("/api/checkpoints/{large}/file"));
    assert_eq!((got.status, got.body == bytes), (200, true));
    let grown = peak_memory(&second).saturating_sub(before);
    assert!(grown < PAYLOAD / 4, "the server grew by {grown} bytes while it streamed {PAYLOAD}");
    assert!(!second_dir.path().join(format!("checkpoints/{large}.beckon")).exists(), "it was streamed from a copy");

    // without the bucket it says so, and works again with it
    drop(moto);
    let problem = second.client.get(&format!("/api/checkpoints/{large}/file")).problem(503);
    assert_eq!(problem.title, "storage unavailable");
    // its line may come behind its answer
    wait_for("a line that names the storage", Duration::from_secs(10), || {
        second.log().contains("no answer from").then_some(())
    });
    assert_eq!(second.client.get("/api/health").status, 200);
}

#[test]
#[ignore = "needs moto"]
fn a_bucket_that_cannot_be_used_is_named_at_the_start() {
    let moto = Moto::start();
    let dir = tempfile::tempdir().unwrap();
    let serve = |storage: &str, endpoint: &str, key: &[(&str, &str)]| {
        let mut command = std::process::Command::new(binary());
        command.args(["serve", "--addr", "127.0.0.1:0", "--device", "cpu", "--storage", storage]);
        command.args(["--s3-endpoint", endpoint, "--data-dir"]).arg(dir.path());
        KEY.iter().for_each(|(name, _)| _ = command.env_remove(name));
        let output = command.envs(key.iter().copied()).output().unwrap();
        assert!(!output.status.success());
        printed(&output)
    };
    let without_key = serve("s3://lab", &moto.url, &[]);
    assert!(without_key.contains("AWS_ACCESS_KEY_ID"), "{without_key}");
    let unknown = serve("s3://none", &moto.url, &KEY);
    assert!(unknown.contains("s3://none") && unknown.contains("no such bucket"), "{unknown}");
    let nobody = serve(&format!("s3://{BUCKET}"), "http://127.0.0.1:9", &KEY);
    assert!(nobody.contains("no answer from http://127.0.0.1:9"), "{nobody}");
}
