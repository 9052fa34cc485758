//! Entries from all three sources, and retention over real files.

use super::*;
use crate::catalog::tests::{checkpoint_file, info};
use beckon_shared::config::Preset;
use beckon_shared::control::registry::{PRODUCTION, Promotion};
use beckon_shared::control::{RunConfig, RunState};
use std::collections::BTreeMap;
use std::sync::Arc;

struct Bench {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    catalog: Catalog,
    events: Events,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let store = Arc::new(Store::open(&dir.path().join("beckon.sqlite")).expect("opens"));
    let (catalog, _) = Catalog::open(&dir.path().join("checkpoints"), None, &store, None).expect("opens");
    let events = Events::open(Arc::clone(&store), 0).expect("opens");
    Bench { dir, store, catalog, events }
}

impl Bench {
    /// Takes in checkpoint number `seed`, later ones made later.
    fn add(&self, seed: u64) -> String {
        let (id, file) = checkpoint_file(seed);
        let from = self.dir.path().join("out.beckon");
        std::fs::write(&from, &file).expect("written");
        let info = beckon_shared::control::CheckpointInfo { created_millis: seed as i64, ..info(&id, file.len()) };
        self.catalog.install(&from, &info).expect("whole");
        self.store.add_checkpoint(&info).expect("stored");
        self.catalog.list(info);
        id
    }

    fn promote(&self, id: &str) {
        let promotion = Promotion {
            tag: PRODUCTION.into(),
            checkpoint: id.into(),
            time_millis: 1,
            by: "test".into(),
            undone: false,
        };
        self.store.promote(&promotion).expect("stored");
    }

    fn open_again(&self) -> (Catalog, Vec<CatalogError>) {
        Catalog::open(&self.dir.path().join("checkpoints"), None, &self.store, None).expect("opens")
    }

    fn delete(&self, id: &str) -> Result<(), RegistryError> {
        delete(&self.catalog, &self.store, &self.events, id)
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("checkpoints")).expect("listed").count()
    }
}

#[test]
fn an_entry_joins_file_notes_tags_and_evaluation() {
    let bench = bench();
    let id = bench.add(1);
    bench.promote(&id);
    bench.store.set_note(&id, "first").expect("stored");
    let figures = BTreeMap::from([("nats".to_owned(), 2.5), ("undefined".to_owned(), f64::NAN)]);
    bench.store.set_evaluation(&id, &figures).expect("stored");
    let entry = entry(&bench.catalog, &bench.store, &id).expect("there");
    assert_eq!((entry.note.as_str(), entry.tags.as_slice()), ("first", &[PRODUCTION.to_owned()][..]));
    assert_eq!(entry.evaluation, BTreeMap::from([("nats".to_owned(), 2.5)]));
    assert_eq!((entry.data_hash.as_str(), entry.parent), ("00", None));
}

#[test]
fn retention_deletes_the_oldest_and_never_what_is_promoted_or_the_way_back() {
    let bench = bench();
    let ids: Vec<String> = (1..=6).map(|seed| bench.add(seed)).collect();
    bench.promote(&ids[0]);
    bench.promote(&ids[1]);
    let gone = retain(&bench.catalog, &bench.store, &bench.events, 2).expect("deleted");
    assert_eq!(gone, ids[2..4]);
    assert_eq!(bench.files(), 4);
    let left: Vec<String> = bench.catalog.infos().into_iter().map(|info| info.id).collect();
    assert_eq!(left, [&ids[5], &ids[4], &ids[1], &ids[0]].map(Clone::clone));
    let again = retain(&bench.catalog, &bench.store, &bench.events, 0).expect("deleted");
    assert_eq!(again, ids[4..6]);
    assert!(matches!(bench.delete(&ids[1]), Err(RegistryError::Kept(_))));
    assert!(matches!(bench.delete("x"), Err(RegistryError::Unknown { .. })));
}

#[test]
fn a_deleted_checkpoint_does_not_come_back_at_the_next_start() {
    let bench = bench();
    let id = bench.add(1);
    bench.delete(&id).expect("deleted");
    let (catalog, refused) = bench.open_again();
    assert!(refused.is_empty() && catalog.infos().is_empty());
    assert_eq!(bench.store.checkpoints().expect("read"), []);
}

#[test]
fn a_run_that_can_be_started_again_keeps_what_it_starts_from() {
    let bench = bench();
    let (parent, other) = (bench.add(1), bench.add(2));
    let config = RunConfig { parent: Some(parent.clone()), ..RunConfig::preset(Preset::Tiny) };
    let mut run = bench.store.add_run(config, RunState::Queued, 0, None).expect("stored");
    for state in [RunState::Draft, RunState::Queued, RunState::Running, RunState::Paused, RunState::Failed] {
        run.state = state;
        bench.store.set_run(&run, None).expect("stored");
        let error = bench.delete(&parent).expect_err("a run needs it").to_string();
        assert!(error.contains("run r1"), "{state:?}: {error}");
    }
    assert_eq!(retain(&bench.catalog, &bench.store, &bench.events, 0).expect("deleted"), [other]);
    run.state = RunState::Cancelled;
    bench.store.set_run(&run, None).expect("stored");
    bench.delete(&parent).expect("nothing needs it");
}

#[test]
fn what_a_run_made_keeps_its_parent_also_where_only_the_store_knows_it_yet() {
    let bench = bench();
    let parent = bench.add(1);
    let config = RunConfig { parent: Some(parent.clone()), ..RunConfig::preset(Preset::Tiny) };
    let mut run = bench.store.add_run(config, RunState::Running, 0, None).expect("stored");
    (run.state, run.checkpoint) = (RunState::Finished, Some("child".into()));
    bench.store.finish_run(&run, &info("child", 1)).expect("stored");
    let error = bench.delete(&parent).expect_err("it is a parent").to_string();
    assert!(error.contains("checkpoint child"), "{error}");
    // one without a file can be deleted too
    bench.delete("child").expect("nothing needs it");
    bench.delete(&parent).expect("nothing needs it");
    assert!(bench.store.checkpoints().expect("read").is_empty());
}

#[test]
fn what_a_dying_process_left_of_deletions_and_deliveries_is_ended_by_the_next() {
    let bench = bench();
    let [deleted, delivered, kept] = [1, 2, 3].map(|seed| bench.add(seed));
    // between row and file of a deletion, and between file and row of a delivery; the third was made for the second time
    for id in [&deleted, &delivered] {
        bench.store.forget_checkpoint(id, |_, _| Ok::<_, ()>(())).expect("stored").expect("allowed");
    }
    bench.store.checkpoint_is_gone(&delivered).expect("stored");
    for id in [&delivered, &kept] {
        assert!(bench.store.checkpoint_arrives(id).expect("stored"));
    }
    let (catalog, refused) = bench.open_again();
    let offered = || catalog.infos().into_iter().map(|info| info.id).collect::<Vec<_>>();
    assert_eq!((offered(), refused.len(), bench.files()), (vec![kept.clone()], 0, 3), "it was taken for copied in");
    moves::settle_all(&catalog, &bench.store).expect("settled");
    assert_eq!((offered(), bench.files()), (vec![kept.clone()], 1));
    assert!(bench.store.moving_checkpoints().expect("read").is_empty());
    assert_eq!(bench.open_again().0.infos().len(), 1);
}

#[test]
fn a_deletion_whose_files_stay_can_be_asked_for_again() {
    let bench = bench();
    let id = bench.add(1);
    // a folder in the way fails the removal, as a storage that is away does
    let path = bench.dir.path().join("checkpoints").join(format!("{id}.beckon"));
    std::fs::remove_file(&path).expect("removed");
    std::fs::create_dir_all(path.join("x")).expect("made");
    assert!(matches!(bench.delete(&id), Err(RegistryError::Catalog(_))));
    assert!(bench.catalog.infos().is_empty(), "it is still offered");
    assert_eq!(bench.store.moving_checkpoints().expect("read"), std::slice::from_ref(&id));
    std::fs::remove_dir_all(&path).expect("removed");
    bench.delete(&id).expect("deleted");
    assert!(matches!(bench.delete(&id), Err(RegistryError::Unknown { .. })));
}
