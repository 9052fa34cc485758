//! There and back, while the store is open; and backups that were tampered with.

use super::*;
use beckon_shared::config::Preset;
use beckon_shared::control::{RunConfig, RunState};

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let data = dir.path().join("data");
    let store = Store::open(&data.join(DATABASE)).expect("opens");
    store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 0, None).expect("stored");
    for (path, text) in
        [("checkpoints/aa.beckon", "a"), ("runs/r1/sft/state.safetensors", "s"), ("runs/x.partial", "p")]
    {
        let path = data.join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, text).expect("written");
    }
    Bench { dir, store }
}

#[test]
fn everything_comes_back_although_the_store_is_in_use() {
    let Bench { dir, store } = bench();
    let [data, out, new] = ["data", "out", "new"].map(|name| dir.path().join(name));
    assert_eq!(backup(&data, &out).expect("copied"), Backed { n_files: 3, bucket: None });
    // what happens later is not in it
    store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 0, None).expect("stored");
    assert_eq!(restore(&out, &new).expect("restored"), 3);
    let restored = Store::open(&new.join(DATABASE)).expect("opens");
    assert_eq!(restored.runs().expect("read").len(), 1);
    let state = std::fs::read_to_string(new.join("runs/r1/sft/state.safetensors")).expect("read");
    assert_eq!(state, "s");
    assert!(!new.join("runs/x.partial").exists());
    assert!(matches!(restore(&out, &new), Err(BackupError::NotEmpty { .. })));
    assert!(matches!(backup(&data, &out), Err(BackupError::NotEmpty { .. })));
}

#[test]
fn a_backup_says_which_bucket_has_the_rest() {
    let Bench { dir, store } = bench();
    store.set_setting(STORAGE_SETTING, "s3://lab/models").expect("stored");
    let backed = backup(&dir.path().join("data"), &dir.path().join("out")).expect("copied");
    assert_eq!(backed.bucket.as_deref(), Some("s3://lab/models"));
}

#[test]
fn a_backup_that_was_changed_or_broke_off_is_refused_before_anything_is_written() {
    let Bench { dir, .. } = bench();
    let [data, out, new] = ["data", "out", "new"].map(|name| dir.path().join(name));
    backup(&data, &out).expect("copied");
    std::fs::write(out.join("checkpoints/aa.beckon"), "b").expect("changed");
    assert!(matches!(restore(&out, &new), Err(BackupError::Damaged { .. })));
    let escaping = r#"{"../evil": "00"}"#;
    std::fs::write(out.join(LIST), escaping).expect("changed");
    assert!(matches!(restore(&out, &new), Err(BackupError::Damaged { .. })));
    std::fs::remove_file(out.join(LIST)).expect("removed");
    assert!(matches!(restore(&out, &new), Err(BackupError::Io { .. })));
    assert!(!new.exists());
}
