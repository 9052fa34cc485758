//! Whole, damaged and foreign checkpoint files.

use super::bucket::tests::Fake;
use super::*;
use beckon_shared::adapter::AdapterFile;
use beckon_shared::checkpoint::{CheckpointError, Formats, Lineage, Parts, RewardConfig, expected_tensors};
use beckon_shared::config::Preset;
use beckon_shared::tensor::{DenseTensor, TensorMap};
use beckon_shared::tokenizer::Tokenizer;
use std::io::Read;

/// A whole checkpoint file of the tiny network with constant weights; another seed is another checkpoint.
pub(crate) fn checkpoint_file(seed: u64) -> (String, Vec<u8>) {
    let mut model = Preset::Tiny.model();
    model.n_layers = 1;
    let tokenizer = Tokenizer::train(["how to cook rice"], 270).expect("a tokenizer");
    let mut networks: [TensorMap; 2] = Default::default();
    let reward = RewardConfig { variance_floor: 0.01, feature_dims: 4, kappa: 1.0, n_layers: None };
    for (name, shape) in expected_tensors(&model, &reward) {
        let (network, own) = name.split_once('.').expect("a network's name and the tensor's");
        let tensor = DenseTensor::new(shape.clone(), vec![0.1; shape.iter().product()]);
        networks[usize::from(network == "reward")].insert(own.to_owned(), tensor);
    }
    let lineage = Lineage {
        data_hash: "00".into(),
        seed,
        command: "beckon loop".into(),
        device: "cpu".into(),
        simulated: true,
        ..Lineage::default()
    };
    let parts = Parts { name: format!("test {seed}"), model: &model, reward, lineage, tokenizer: &tokenizer };
    let checkpoint = Checkpoint::build(parts, &networks[0], &networks[1], Formats::default()).expect("builds");
    (checkpoint.id.clone(), checkpoint.encode().expect("encodes"))
}

/// An adapter file of `checkpoint` over `base`, which are of [`checkpoint_file`]: fresh factors, heads as in the base.
pub(crate) fn adapter_file(base: &[u8], checkpoint: &str) -> Vec<u8> {
    let base = Checkpoint::decode(base).expect("whole");
    let (policy, reward) = (base.dense("policy"), base.dense("reward"));
    // the trunk of GaRM begins as the policy's
    let heads = reward.into_iter().filter(|(name, _)| !name.starts_with("model."));
    let reward = policy.clone().into_iter().chain(heads).collect();
    let parts = beckon_shared::adapter::AdapterParts {
        name: "test",
        base: &base,
        checkpoint,
        policy: &policy,
        reward: &reward,
        reward_config: base.manifest.reward.as_ref().expect("a reward model"),
        max_rank: 1,
    };
    let file = beckon_shaders::ready(AdapterFile::build(parts)).expect("no waiting").expect("builds");
    file.encode().expect("encodes")
}

pub(crate) fn info(id: &str, n_bytes: usize) -> CheckpointInfo {
    CheckpointInfo {
        id: id.into(),
        name: "test".into(),
        run_id: Some("r1".into()),
        n_bytes: n_bytes as u64,
        created_millis: 5,
        simulated: true,
        built_in: false,
    }
}

struct Bench {
    dir: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let store = Store::open(&dir.path().join("beckon.sqlite")).expect("a fresh store");
        Self { dir, store }
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("checkpoints")
    }

    fn open(&self) -> (Catalog, Vec<CatalogError>) {
        Catalog::open(&self.folder(), None, &self.store, None).expect("opens")
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("inside the folder")).expect("made");
        std::fs::write(&path, bytes).expect("written");
        path
    }
}

fn ids(catalog: &Catalog) -> Vec<String> {
    catalog.infos().into_iter().map(|info| info.id).collect()
}

#[test]
fn an_installed_checkpoint_is_offered_once_listed_and_after_a_restart() {
    let bench = Bench::new();
    let (catalog, _) = bench.open();
    let (id, file) = checkpoint_file(1);
    let from = bench.write("run/out.beckon", &file);
    catalog.install(&from, &info(&id, file.len())).expect("whole");
    assert_eq!(ids(&catalog), [""; 0], "not offered before the run is recorded");
    bench.store.add_checkpoint(&info(&id, file.len())).expect("stored");
    catalog.list(info(&id, file.len()));
    assert_eq!(catalog.infos(), [info(&id, file.len())]);
    assert_eq!(catalog.manifest(&id).map(|m| m.name.clone()).as_deref(), Some("test 1"));
    // a second run with the same outcome changes nothing
    catalog.install(&from, &info(&id, file.len())).expect("whole");
    catalog.list(info(&id, file.len()));
    let (again, refused) = bench.open();
    assert_eq!((again.infos(), refused.len()), (vec![info(&id, file.len())], 0));
    match again.content(&id) {
        Some((Content::File(path), n_bytes)) => {
            assert_eq!(std::fs::read(path).expect("read"), file);
            assert_eq!(n_bytes, file.len() as u64);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_files_are_refused_at_start_and_the_whole_ones_stay() {
    let bench = Bench::new();
    let (good, whole) = checkpoint_file(1);
    let (bad, mut flipped) = checkpoint_file(2);
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    bench.write(&format!("checkpoints/{good}.beckon"), &whole);
    bench.write(&format!("checkpoints/{bad}.beckon"), &flipped);
    bench.write(&format!("checkpoints/{}.beckon", "0".repeat(64)), &whole[..whole.len() / 2]);
    bench.write("checkpoints/renamed.beckon", &whole);
    bench.write("checkpoints/notes.txt", b"not a checkpoint");
    bench.store.add_checkpoint(&info(&bad, flipped.len())).expect("stored");
    let (catalog, refused) = bench.open();
    assert_eq!(ids(&catalog), [good]);
    let texts: Vec<String> = refused.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 3, "{texts:?}");
    for needle in ["SHA-256", "truncated", "renamed.beckon"] {
        assert!(texts.iter().any(|text| text.contains(needle)), "{needle}: {texts:?}");
    }
    assert_eq!(catalog.manifest(&bad), None);
}

#[test]
fn a_registered_checkpoint_whose_file_is_missing_is_named() {
    let bench = Bench::new();
    bench.store.add_checkpoint(&info("ab", 3)).expect("stored");
    let (catalog, refused) = bench.open();
    assert_eq!(ids(&catalog), [""; 0]);
    let texts: Vec<String> = refused.iter().map(ToString::to_string).collect();
    assert!(texts.len() == 1 && texts[0].contains("ab.beckon") && texts[0].contains("missing"), "{texts:?}");
}

#[test]
fn what_was_copied_in_is_described_anew_once_a_run_has_made_it() {
    let bench = Bench::new();
    let (id, file) = checkpoint_file(1);
    bench.write(&format!("checkpoints/{id}.beckon"), &file);
    let (catalog, _) = bench.open();
    assert_eq!(catalog.infos()[0].run_id, None);
    let from = bench.write("run/out.beckon", &file);
    catalog.install(&from, &info(&id, file.len())).expect("whole");
    catalog.list(info(&id, file.len()));
    assert_eq!(catalog.infos(), [info(&id, file.len())]);
}

#[test]
fn one_at_a_time_is_at_the_files_of_a_checkpoint() {
    let bench = Bench::new();
    let (catalog, _) = bench.open();
    let (first, _other) = (catalog.claim("a"), catalog.claim("b"));
    std::thread::scope(|scope| {
        let second = scope.spawn(|| drop(catalog.claim("a")));
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(!second.is_finished(), "two are at it");
        drop(first);
        second.join().expect("its turn came");
    });
}

#[test]
fn a_damaged_checkpoint_of_a_run_is_not_installed() {
    let bench = Bench::new();
    let (catalog, _) = bench.open();
    let (id, mut file) = checkpoint_file(1);
    let (other, _) = checkpoint_file(2);
    let whole = bench.write("run/whole.beckon", &file);
    assert!(matches!(catalog.install(&whole, &info(&other, file.len())), Err(CatalogError::Other { .. })));
    file.truncate(file.len() - 1);
    let cut = bench.write("run/cut.beckon", &file);
    let error = catalog.install(&cut, &info(&id, file.len())).expect_err("truncated");
    assert!(matches!(error, CatalogError::Refused { source: CheckpointError::Truncated { .. }, .. }), "{error}");
    assert_eq!(std::fs::read_dir(bench.folder()).expect("listed").count(), 0);
}

#[test]
fn a_file_that_cannot_be_written_leaves_nothing_behind() {
    let bench = Bench::new();
    let (catalog, _) = bench.open();
    let (id, file) = checkpoint_file(1);
    let from = bench.write("run/out.beckon", &file);
    // a folder in the way fails the rename, as a full disk fails the copy
    let blocked = bench.folder().join(&id).with_extension("beckon");
    std::fs::create_dir_all(blocked.join("x")).expect("made");
    assert!(matches!(catalog.install(&from, &info(&id, file.len())), Err(CatalogError::Io { .. })));
    let left: Vec<_> = std::fs::read_dir(bench.folder()).expect("listed").flatten().map(|e| e.path()).collect();
    assert_eq!(left, [blocked]);
    assert!(from.exists());
}

#[test]
fn the_built_in_checkpoint_comes_last() {
    let bench = Bench::new();
    let (built_in, bytes) = checkpoint_file(1);
    let (id, file) = checkpoint_file(2);
    bench.write(&format!("checkpoints/{id}.beckon"), &file);
    let (catalog, _) = Catalog::open(&bench.folder(), None, &bench.store, Some(bytes.leak())).expect("opens");
    assert_eq!(ids(&catalog), [id, built_in]);
    assert_eq!(catalog.infos().iter().map(|info| info.built_in).collect::<Vec<_>>(), [false, true]);
    let broken: &'static [u8] = b"BECKON01 and no more";
    assert!(Catalog::open(&bench.folder(), None, &bench.store, Some(broken)).is_err());
}

#[test]
fn an_adapter_comes_and_goes_with_its_checkpoint() {
    let bench = Bench::new();
    let ((base, base_file), (id, file)) = (checkpoint_file(1), checkpoint_file(2));
    let from = bench.dir.path().join("out.beckon");
    std::fs::write(&from, &file).expect("written");
    let beside = from.with_extension(ADAPTER_EXTENSION);
    let (catalog, _) = Catalog::open(&bench.dir.path().join("adapted"), None, &bench.store, None).expect("opens");
    std::fs::write(&beside, adapter_file(&base_file, "another")).expect("written");
    assert!(matches!(catalog.install(&from, &info(&id, file.len())), Err(CatalogError::Other { .. })));
    std::fs::write(&beside, adapter_file(&base_file, &id)).expect("written");
    catalog.install(&from, &info(&id, file.len())).expect("whole");
    catalog.list(info(&id, file.len()));
    let (found, _) = catalog.adapter(&id).expect("an adapter");
    assert_eq!(found.base, base);
    bench.store.add_checkpoint(&info(&id, file.len())).expect("registered");
    let (again, refused) = Catalog::open(&bench.dir.path().join("adapted"), None, &bench.store, None).expect("opens");
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(again.adapter(&id).expect("still there").0, found);
    again.remove(&id).expect("removed");
    assert!(again.adapter(&id).is_none());
    assert_eq!(std::fs::read_dir(bench.dir.path().join("adapted")).expect("a folder").count(), 0);
}

fn names(bucket: &Bucket) -> Vec<String> {
    let mut names: Vec<String> = bucket.list().expect("listed").into_iter().map(|object| object.name).collect();
    names.sort();
    names
}

#[test]
fn a_bucket_gets_what_the_folder_has_and_another_folder_takes_it_in() {
    let storage = Fake::start();
    let bucket = || storage.bucket();
    let (first, second) = (Bench::new(), Bench::new());
    let ((base, base_file), (id, file)) = (checkpoint_file(1), checkpoint_file(2));
    first.write(&format!("checkpoints/{base}.beckon"), &base_file);
    let open = |bench: &Bench| Catalog::open(&bench.folder(), Some(bucket()), &bench.store, None).expect("opens");
    let (here, refused) = open(&first);
    assert!(refused.is_empty(), "{refused:?}");
    // a run's checkpoint with its adapter goes into bucket and folder
    let from = first.write("out.beckon", &file);
    first.write("out.adapter", &adapter_file(&base_file, &id));
    here.install(&from, &info(&id, file.len())).expect("whole");
    assert_eq!(names(&bucket()), {
        let mut names = [name(&base, EXTENSION), name(&id, ADAPTER_EXTENSION), name(&id, EXTENSION)];
        names.sort();
        names
    });
    assert!(matches!(here.located(&name(&id, EXTENSION)), Content::Object { copy: Some(_), .. }));

    let (there, refused) = open(&second);
    assert!(refused.is_empty(), "{refused:?}");
    let mut both = vec![base.clone(), id.clone()];
    both.sort();
    let mut offered = ids(&there);
    offered.sort();
    assert_eq!(offered, both);
    assert_eq!(there.adapter(&id).expect("an adapter").0.base, base);
    // its bytes come from the bucket until a run needs the file
    assert!(
        matches!(there.content(&id).expect("offered"), (Content::Object { copy: None, .. }, n) if n == file.len() as u64)
    );
    assert_eq!(there.read(&id).expect("fetched"), file);
    assert!(matches!(there.content(&id).expect("offered").0, Content::Object { copy: Some(_), .. }));
    assert!(second.folder().join(name(&id, EXTENSION)).exists());

    there.remove(&id).expect("removed");
    assert_eq!(names(&bucket()), [name(&base, EXTENSION)]);
    assert_eq!(std::fs::read_dir(second.folder()).expect("a folder").count(), 0);
}

#[test]
fn of_a_bucket_what_is_damaged_or_another_is_refused_and_what_a_whole_file_can_mend_is_mended() {
    let storage = Fake::start();
    let bucket = || storage.bucket();
    let bench = Bench::new();
    let ((half, half_file), (other, other_file), (own, own_file)) =
        (checkpoint_file(1), checkpoint_file(2), checkpoint_file(3));
    let put = |id: &str, bytes: &[u8]| {
        let from = bench.write("object", bytes);
        bucket().write(&name(id, EXTENSION), &from).expect("written");
    };
    put(&half, &half_file[..half_file.len() - 1]);
    put(&other, &own_file);
    put(&"0a".repeat(32), b"");
    put(&own, &own_file[..100]);
    bench.write(&format!("checkpoints/{own}.beckon"), &own_file);
    let (catalog, refused) = Catalog::open(&bench.folder(), Some(bucket()), &bench.store, None).expect("opens");
    assert_eq!(ids(&catalog), std::slice::from_ref(&own));
    let mut texts: Vec<String> = refused.iter().map(ToString::to_string).collect();
    texts.sort();
    assert_eq!(texts.len(), 3, "{texts:?}");
    for id in [half.as_str(), other.as_str(), &"0a".repeat(32)] {
        assert!(texts.iter().any(|text| text.contains(&format!("s3://lab/{id}.beckon"))), "{id}: {texts:?}");
    }
    let mut whole = Vec::new();
    bucket().read(&name(&own, EXTENSION), None).expect("there").read_to_end(&mut whole).expect("read");
    assert_eq!(whole, own_file);
    // a payload that changed later has the right header and length: a run that needs it refuses it
    let (late, mut late_file) = checkpoint_file(4);
    *late_file.last_mut().expect("bytes") ^= 1;
    put(&late, &late_file);
    let (catalog, _) = Catalog::open(&bench.folder(), Some(bucket()), &bench.store, None).expect("opens");
    assert!(ids(&catalog).contains(&late));
    assert!(matches!(catalog.read(&late), Err(CatalogError::Refused { .. })));
    assert!(!bench.folder().join(name(&late, EXTENSION)).exists());
    assert_eq!(other_file.len(), own_file.len());
}

#[test]
fn the_cache_keeps_the_newest_files_within_its_size() {
    let storage = Fake::start();
    let bucket = || storage.bucket();
    let bench = Bench::new();
    let files: Vec<(String, Vec<u8>)> = (1..4).map(checkpoint_file).collect();
    for (age, (id, file)) in files.iter().enumerate() {
        let path = bench.write(&format!("checkpoints/{id}.beckon"), file);
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
        std::fs::File::open(&path).and_then(|file| file.set_modified(time)).expect("a time");
    }
    let (catalog, _) = Catalog::open(&bench.folder(), Some(bucket()), &bench.store, None).expect("opens");
    let one = files[0].1.len() as u64;
    catalog.make_room(&name(&files[0].0, EXTENSION), 2 * one + one / 2);
    let is_there = |n: usize| bench.folder().join(name(&files[n].0, EXTENSION)).exists();
    // the oldest is the one that was just read, so the next goes
    assert_eq!([0, 1, 2].map(is_there), [true, false, true]);
    assert!(matches!(catalog.content(&files[1].0).expect("offered").0, Content::Object { copy: None, .. }));
    assert_eq!(catalog.read(&files[1].0).expect("fetched again"), files[1].1);
}
