//! Entries from all three sources, and retention over real files.

use super::*;
use crate::catalog::tests::{checkpoint_file, info};
use beckon_shared::control::registry::{PRODUCTION, Promotion};
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
    assert!(matches!(delete(&bench.catalog, &bench.store, &bench.events, &ids[1]), Err(RegistryError::Kept(_))));
    assert!(matches!(delete(&bench.catalog, &bench.store, &bench.events, "x"), Err(RegistryError::Unknown { .. })));
}

#[test]
fn a_deleted_checkpoint_does_not_come_back_at_the_next_start() {
    let bench = bench();
    let id = bench.add(1);
    delete(&bench.catalog, &bench.store, &bench.events, &id).expect("deleted");
    let (catalog, refused) =
        Catalog::open(&bench.dir.path().join("checkpoints"), None, &bench.store, None).expect("opens");
    assert!(refused.is_empty() && catalog.infos().is_empty());
    assert_eq!(bench.store.checkpoints().expect("read"), []);
}
