//! There and back, while the store is open; and backups that were tampered with.

use super::*;
use crate::catalog::tests::{checkpoint_file, info};
use crate::catalog::{Catalog, CatalogError};
use beckon_shared::config::Preset;
use beckon_shared::control::registry::Promotion;
use beckon_shared::control::{CheckpointInfo, RunConfig, RunState, RunStatus};

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
    let backed = Backed { n_files: 3, bucket: None, missing: Vec::new() };
    assert_eq!(backup(&data, &out).expect("copied"), backed);
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
fn a_folder_without_a_database_is_not_backed_up_as_an_empty_one() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let error = backup(dir.path(), &dir.path().join("out")).expect_err("nothing is there");
    assert!(error.to_string().contains("pg_dump"), "{error}");
    assert!(!dir.path().join("out").exists() && !dir.path().join(DATABASE).exists());
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

/// A data folder as a server leaves it.
struct Served {
    dir: tempfile::TempDir,
    store: Store,
    catalog: Catalog,
}

fn served() -> Served {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let (store, catalog) = open(&dir.path().join("data"));
    Served { dir, store, catalog: catalog.expect("opens").0 }
}

fn open(data: &Path) -> (Store, Result<(Catalog, Vec<CatalogError>), CatalogError>) {
    let store = Store::open(&data.join(DATABASE)).expect("opens");
    let catalog = Catalog::open(&data.join("checkpoints"), None, &store, None);
    (store, catalog)
}

impl Served {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn begin(&self) -> RunStatus {
        let run = self.store.add_run(RunConfig::preset(Preset::Tiny), RunState::Running, 0, None).expect("stored");
        self.write(&format!("data/runs/{}/run.json", run.id), run.id.as_bytes());
        run
    }

    /// Ends a run with checkpoint number `seed`.
    fn finish(&self, mut run: RunStatus, seed: u64) -> String {
        let (id, file) = checkpoint_file(seed);
        let from = self.write(&format!("data/runs/{}/out.beckon", run.id), &file);
        let info = CheckpointInfo { run_id: Some(run.id.clone()), ..info(&id, file.len()) };
        self.catalog.install(&from, &info).expect("whole");
        (run.state, run.checkpoint) = (RunState::Finished, Some(id.clone()));
        self.catalog.list(self.store.finish_run(&run, &info).expect("stored"));
        id
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, bytes).expect("written");
        path
    }

    fn promote(&self, checkpoint: &str) {
        let (tag, checkpoint, by) = ("production".to_owned(), checkpoint.to_owned(), "me".to_owned());
        self.store.promote(&Promotion { tag, checkpoint, time_millis: 1, by, undone: false }).expect("stored");
    }

    /// Backs up while `then` happens between database and files, and opens what is restored from that.
    fn round_trip(&self, then: impl FnOnce()) -> (Backed, Store, Catalog, Vec<String>) {
        let backed = backup_while(&self.path("data"), &self.path("out"), then).expect("copied");
        assert_eq!(restore(&self.path("out"), &self.path("new")).expect("restored"), backed.n_files);
        let (store, catalog) = open(&self.path("new"));
        let (catalog, refused) = catalog.expect("opens");
        (backed, store, catalog, refused.iter().map(ToString::to_string).collect())
    }
}

#[test]
fn a_restored_server_has_runs_checkpoints_tags_notes_and_refused_lines() {
    let served = served();
    let run = served.begin();
    let id = served.finish(run.clone(), 1);
    served.promote(&id);
    served.store.set_note(&id, "good").expect("stored");
    served.write("data/rejects/log-1.rejects.jsonl", b"{}\n");
    served.write("data/lock", b"");
    // more than is read at once
    let state: Vec<u8> = (0..2 * PIECE_BYTES + 5).map(|i| (i >> 3) as u8).collect();
    served.write("data/runs/r1/state", &state);
    let (backed, store, catalog, refused) = served.round_trip(|| ());
    assert_eq!((backed.missing, refused), (vec![], vec![]));
    let restored = store.run(&run.id).expect("read").expect("it is there").status;
    assert_eq!((restored.state, restored.checkpoint.as_ref()), (RunState::Finished, Some(&id)));
    assert_eq!(catalog.infos(), served.catalog.infos());
    assert_eq!(catalog.read(&id).expect("read"), checkpoint_file(1).1);
    assert_eq!(store.tags().expect("read"), served.store.tags().expect("read"));
    assert_eq!(store.checkpoint_notes().expect("read")[&id].note, "good");
    assert!(std::fs::read(served.path("new/runs/r1/state")).expect("read") == state, "a large file came back changed");
    for name in ["rejects/log-1.rejects.jsonl", "runs/r1/run.json"] {
        assert!(served.path("new").join(name).exists(), "{name}");
    }
    assert!(!served.path("new").join("lock").exists());
}

#[test]
fn what_ends_begins_and_goes_while_the_files_are_copied_leaves_a_whole_backup() {
    let served = served();
    let (running, done) = (served.begin(), served.begin());
    let deleted = served.finish(done, 2);
    let mut made = String::new();
    let (backed, store, catalog, refused) = served.round_trip(|| {
        made = served.finish(running.clone(), 1);
        let later = served.begin();
        assert_eq!(later.id, "r3");
        served.store.forget_checkpoint(&deleted, |_, _| Ok::<_, ()>(())).expect("stored").expect("allowed");
        served.catalog.remove(&deleted).expect("removed");
    });
    // the run goes on, and its checkpoint is there already
    assert_eq!(store.run(&running.id).expect("read").expect("it is there").status.state, RunState::Running);
    let offered: Vec<String> = catalog.infos().into_iter().map(|info| info.id).collect();
    assert_eq!(offered, [made]);
    // what is not there is named, now and at every start
    assert_eq!(backed.missing, std::slice::from_ref(&deleted));
    assert!(refused.len() == 1 && refused[0].contains(&deleted) && refused[0].contains("missing"), "{refused:?}");
    // its number will be another run's
    assert!(served.path("new/runs/r1").exists() && !served.path("new/runs/r3").exists());
}
