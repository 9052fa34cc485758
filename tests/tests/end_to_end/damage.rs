//! Damage from outside: bad checkpoint files, and a disk that fills up in the middle of a run.

use crate::trained::trained;
use beckon_server::model::state::TrainState;
use beckon_shared::checkpoint::{Checkpoint, CheckpointError};
use beckon_shared::control::{RunState, Stage};
use beckon_tests::process::Server;
use beckon_tests::sample::{simulated_log, tiny_config};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Magic, header length, header hash: where the header begins.
const HEADER_AT: usize = 8 + 4 + 32;

/// The same file with another format version, its header hash made to fit again.
fn with_version(file: &[u8], version: u32) -> Vec<u8> {
    let length = u32::from_le_bytes(file[8..12].try_into().unwrap()) as usize;
    let (header, payload) = file[HEADER_AT..].split_at(length);
    let mut manifest: serde_json::Value = serde_json::from_slice(header).unwrap();
    manifest["format_version"] = version.into();
    let header = serde_json::to_vec(&manifest).unwrap();
    let mut changed = file[..8].to_vec();
    changed.extend(u32::try_from(header.len()).unwrap().to_le_bytes());
    changed.extend(beckon_shared::digest::sha256(&header));
    changed.extend(&header);
    changed.extend(payload);
    changed
}

#[test]
fn damaged_checkpoints_are_refused_and_the_old_one_stays() {
    let whole = &trained().checkpoint_bytes;
    let good = Checkpoint::decode(whole).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut flipped_header = whole.clone();
    flipped_header[HEADER_AT + 20] ^= 1;
    let bad = [
        ("cut", whole[..whole.len() - 1].to_vec()),
        ("cut-in-header", whole[..HEADER_AT + 10].to_vec()),
        ("empty", Vec::new()),
        ("flipped", flipped),
        ("flipped-header", flipped_header),
        ("newer", with_version(whole, 99)),
    ];
    assert!(Checkpoint::decode(&with_version(whole, good.manifest.format_version)).is_ok(), "the forgery itself fails");
    let error = Checkpoint::decode(&bad[5].1).unwrap_err();
    assert!(matches!(error, CheckpointError::UnknownVersion { .. }) && error.to_string().contains("99"), "{error}");

    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{}.beckon", good.id)), whole).unwrap();
    let before = Server::start(dir.path(), &[]).client.checkpoints();
    for (name, bytes) in &bad {
        std::fs::write(folder.join(format!("{name}.beckon")), bytes).unwrap();
    }
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.client.checkpoints(), before, "the list changed");
    assert!(before.iter().any(|info| info.id == good.id));
    for (name, _) in &bad {
        let log = server.log();
        let told = log.lines().any(|line| line.contains("refused") && line.contains(&format!("{name}.beckon")));
        assert!(told, "nothing was said about {name}:\n{log}");
    }
    let file = server.client.get(&format!("/api/checkpoints/{}/file", good.id));
    assert!(&file.body == whole, "the old checkpoint changed");
}

/// A small file system in memory, unmounted when dropped.
struct SmallDisk {
    dir: PathBuf,
    /// Keeps the folder it is mounted on.
    _parent: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(mebibytes: u32) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("disk");
        std::fs::create_dir(&dir).unwrap();
        let size = format!("size={mebibytes}m");
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&dir).status().unwrap();
        assert!(status.success(), "mount");
        Self { dir, _parent: parent }
    }

    /// Fills what is left to the last byte; gives the file that does.
    fn fill(&self) -> PathBuf {
        let path = self.dir.join("ballast");
        let mut file = std::fs::File::create(&path).unwrap();
        for block in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; block]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.dir).status();
    }
}

fn state_file(data_dir: &Path, run_id: &str) -> PathBuf {
    data_dir.join("runs").join(run_id).join("sft/state.safetensors")
}

#[test]
#[ignore = "needs root to mount a small tmpfs"]
fn a_full_disk_leaves_checkpoint_and_training_state_whole() {
    let whole = &trained().checkpoint_bytes;
    let id = Checkpoint::decode(whole).unwrap().id;
    let disk = SmallDisk::mount(32);
    let folder = disk.dir.join("checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{id}.beckon")), whole).unwrap();
    let server = Server::start(&disk.dir, &[]);
    assert_eq!(server.client.import("log.jsonl", &simulated_log(300)).0, 200);
    let run = server.client.start_run(&tiny_config(5, json!({"sft": {"n_steps": 100_000}})));
    let limit = Duration::from_secs(60);
    beckon_tests::wait_for("a saved state", limit, || state_file(&disk.dir, &run.id).exists().then_some(()));
    let ballast = disk.fill();

    let failed = beckon_tests::wait_for("the run to fail", limit, || {
        let run = server.client.run(&run.id);
        (run.state == RunState::Failed).then_some(run)
    });
    let why = failed.error.expect("a reason");
    assert!(why.to_lowercase().contains("space") || why.contains("full"), "{why}");
    let state = TrainState::load(&state_file(&disk.dir, &run.id)).expect("the last saved state is whole");
    let state = state.expect("a state was saved");
    assert!(!state.tensors.is_empty());
    let file = server.client.get(&format!("/api/checkpoints/{id}/file"));
    assert!(file.status == 200 && &file.body == whole, "the old checkpoint suffered");

    std::fs::remove_file(ballast).unwrap();
    let next = server.client.start_run(&tiny_config(6, json!({})));
    beckon_tests::wait_for("a run after the disk has room again", limit, || {
        let run = server.client.run(&next.id);
        assert_ne!(run.state, RunState::Failed, "{:?}", run.error);
        (run.stage > Some(Stage::Sft)).then_some(())
    });
}
