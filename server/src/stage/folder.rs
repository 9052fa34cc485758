//! Where a stage keeps its training state and its result, and whose they are.
//!
//! A state is replaced every few steps and removed once the result is written; a result is written once.
//! Both carry a fingerprint of everything that they follow from, so a folder of another run is refused
//! rather than continued, and the version that wrote them.
//!
//! A state is saved before the network that it holds has read anything, so an update that went wild is not seen
//! yet. The state before it is therefore kept, from which a finite step followed: where the newest one's next step
//! is not finite, [`Rollbacks::settle`] goes back to that.

use super::{Control, StageContext, StageError};
use crate::model::state::{StateError, TrainState, program, write_atomic};
use beckon_shared::tensor::TensorMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};

/// Version of states and results; raised where an older program would misread them. Those that name none are of the
/// first.
const STATE_VERSION: u64 = 1;

/// Paths of one stage's files.
#[derive(Debug)]
pub struct Folder {
    state: PathBuf,
    /// The state before it.
    before: PathBuf,
    result: PathBuf,
    fingerprint: String,
    /// Steps done in the newest state, as far as it was read or written here.
    newest: Cell<Option<u64>>,
}

impl Folder {
    /// Files in `dir`: `state.safetensors`, `state-before.safetensors` and `RESULT.safetensors`.
    pub fn new(dir: &Path, result: &str, fingerprint: String) -> Self {
        let file = |name: &str| dir.join(format!("{name}.safetensors"));
        let (state, before, result) = (file("state"), file("state-before"), file(result));
        Self { state, before, result, fingerprint, newest: Cell::new(None) }
    }

    /// The finished result, where it is there.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or belongs to other inputs.
    pub fn load_result<P: DeserializeOwned>(&self) -> Result<Option<(TensorMap, P)>, StateError> {
        Ok(self.load(&self.result)?.map(|(tensors, progress, _)| (tensors, progress)))
    }

    /// The training state of an earlier call, where it is there: the newest, or where a crash fell between the two
    /// files the one before.
    ///
    /// # Errors
    /// As [`Self::load_result`].
    pub fn load_state<P: DeserializeOwned>(&self) -> Result<Option<(TensorMap, P)>, StateError> {
        let found = match self.load(&self.state)? {
            None => self.load(&self.before)?,
            found => found,
        };
        self.newest.set(found.as_ref().and_then(|(.., step)| *step));
        Ok(found.map(|(tensors, progress, _)| (tensors, progress)))
    }

    /// Replaces the training state; the old one becomes the one before, if a step lies between them. `progress` counts
    /// the steps done in a field `step`.
    ///
    /// # Errors
    /// A disk that refuses; the old state is then whole.
    pub fn save_state(&self, tensors: TensorMap, progress: &impl Serialize) -> Result<(), StateError> {
        let progress = json(progress, &self.state)?;
        let step = step_of(&progress);
        if self.newest.get().zip(step).is_some_and(|(saved, now)| saved < now) {
            self.keep_before()?;
        }
        self.save(&self.state, tensors, progress)?;
        self.newest.set(step);
        Ok(())
    }

    /// Writes the result and removes the training states, which have served.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn save_result(&self, tensors: TensorMap, progress: &impl Serialize) -> Result<(), StateError> {
        self.save(&self.result, tensors, json(progress, &self.result)?)?;
        remove(&self.before)?;
        remove(&self.state)
    }

    /// Gives the newest state the name of the one before; it keeps its own where the file system can, so that at no
    /// moment there is none.
    fn keep_before(&self) -> Result<(), StateError> {
        if !self.state.exists() {
            return Ok(());
        }
        remove(&self.before)?;
        let kept =
            std::fs::hard_link(&self.state, &self.before).or_else(|_| std::fs::rename(&self.state, &self.before));
        kept.map_err(|source| StateError::Io { action: "move", source, path: self.state.clone() })
    }

    /// Drops the newest state if it is that of `step`, the one which is not finite: the one before takes its place.
    /// Without one before there is none, and the stage starts anew.
    fn drop_state_of(&self, step: usize) -> Result<(), StateError> {
        if self.newest.get() != Some(step as u64) {
            return Ok(());
        }
        match std::fs::rename(&self.before, &self.state) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => remove(&self.state),
            moved => moved.map_err(|source| StateError::Io { action: "move", source, path: self.before.clone() }),
        }
    }

    /// The rollbacks so far.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn rollbacks(&self) -> Result<Rollbacks<'_>, StateError> {
        let path = self.state.with_file_name("rollbacks.json");
        let steps = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| StateError::Malformed { reason: e.to_string(), path: path.clone() })?,
            Err(source) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(StateError::Io { action: "read", source, path }),
        };
        if let Some(dir) = path.parent() {
            let created = std::fs::create_dir_all(dir);
            created.map_err(|source| StateError::Io { action: "create", source, path: dir.to_owned() })?;
        }
        Ok(Rollbacks { folder: self, path, steps })
    }

    /// Tensors, progress and the steps done in it.
    fn load<P: DeserializeOwned>(&self, path: &Path) -> Result<Option<(TensorMap, P, Option<u64>)>, StateError> {
        let Some(TrainState { tensors, meta }) = TrainState::load(path)? else {
            return Ok(None);
        };
        let wrote = meta["written_by"].as_str().unwrap_or("of an earlier version").to_owned();
        let version = meta["version"].as_u64().unwrap_or(STATE_VERSION);
        if version != STATE_VERSION {
            let reason = format!("the format of its states is {version}, and that of this version {STATE_VERSION}");
            return Err(StateError::OtherVersion { wrote, reason, path: path.to_owned() });
        }
        if meta["fingerprint"] != self.fingerprint.as_str() {
            return Err(StateError::OtherRun { path: path.to_owned() });
        }
        let (path, progress) = (path.to_owned(), meta["progress"].clone());
        let step = step_of(&progress);
        match serde_json::from_value(progress) {
            Ok(progress) => Ok(Some((tensors, progress, step))),
            Err(e) if wrote != program() => Err(StateError::OtherVersion { wrote, reason: e.to_string(), path }),
            Err(e) => Err(StateError::Malformed { reason: e.to_string(), path }),
        }
    }

    fn save(&self, path: &Path, tensors: TensorMap, progress: Value) -> Result<(), StateError> {
        if let Some(dir) = path.parent() {
            let created = std::fs::create_dir_all(dir);
            created.map_err(|source| StateError::Io { action: "create", source, path: dir.to_owned() })?;
        }
        let meta = serde_json::json!({
            "version": STATE_VERSION,
            "written_by": program(),
            "fingerprint": self.fingerprint,
            "progress": progress,
        });
        TrainState { tensors, meta }.save_atomic(path)
    }
}

fn json(progress: &impl Serialize, path: &Path) -> Result<Value, StateError> {
    serde_json::to_value(progress).map_err(|e| StateError::Malformed { reason: e.to_string(), path: path.to_owned() })
}

/// Steps done.
fn step_of(progress: &Value) -> Option<u64> {
    progress["step"].as_u64()
}

/// Removes a file, which may be gone already.
fn remove(path: &Path) -> Result<(), StateError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StateError::Io { action: "remove", source, path: path.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Times that a stage may go back before it gives up.
const MAX_ROLLBACKS: usize = 3;
/// What each of them does to the learning rate.
const ROLLBACK_RATE: f64 = 0.5;

/// Steps whose loss or gradient was not finite. Each sends the stage back to the last saved state from which a finite
/// step followed, and from there it goes on at half the learning rate; they are kept in a file, so that a run that is
/// resumed does the same.
#[derive(Debug)]
pub struct Rollbacks<'a> {
    folder: &'a Folder,
    path: PathBuf,
    /// Step and what was not finite there.
    steps: Vec<(usize, String)>,
}

impl Rollbacks<'_> {
    /// Factor on the learning rate.
    pub fn rate(&self) -> f64 {
        ROLLBACK_RATE.powi(self.steps.len() as i32)
    }

    /// What a step gave; where it diverged, and the stage not too often yet, what `begin` gives at the new rate.
    ///
    /// # Errors
    /// Any other error of the step, or one time too many; a disk that refuses; what `begin` says.
    pub fn settle<S>(
        &mut self,
        stepped: Result<S, StageError>,
        ctx: &mut StageContext,
        begin: impl FnOnce(f64, &mut StageContext) -> Result<S, StageError>,
    ) -> Result<S, StageError> {
        let Err(error) = stepped else { return stepped };
        let StageError::Diverged { stage, step, what } = &error else { return Err(error) };
        self.folder.drop_state_of(*step)?;
        if self.steps.len() == MAX_ROLLBACKS {
            return Err(error);
        }
        self.steps.push((*step, (*what).to_owned()));
        let json = serde_json::json!(self.steps).to_string();
        write_atomic(&self.path, json.as_bytes())?;
        ctx.observer.alarm(&format!(
            "{stage}: {what} of step {step} is not finite: back to the last saved state, from there at {} of the \
             learning rate",
            self.rate()
        ));
        begin(self.rate(), ctx)
    }
}

/// Before the names of the tensors of the best weights so far in a training state.
const BEST: &str = "best.";

/// A training state with the best weights so far in it (none: an empty map).
pub fn with_best(mut state: TensorMap, best: &TensorMap) -> TensorMap {
    state.extend(best.iter().map(|(name, tensor)| (format!("{BEST}{name}"), tensor.clone())));
    state
}

/// What [`with_best`] put together: the state, and the best weights.
pub fn split_best(tensors: TensorMap) -> (TensorMap, TensorMap) {
    let (best, state): (TensorMap, TensorMap) = tensors.into_iter().partition(|(name, _)| name.starts_with(BEST));
    (state, best.into_iter().map(|(name, tensor)| (name[BEST.len()..].to_owned(), tensor)).collect())
}

/// Does what the runner wants before the next step; `save` keeps the training state.
///
/// # Errors
/// [`StageError::Cancelled`] once the state is saved; a disk that refuses.
pub fn obey(ctx: &mut StageContext, save: impl FnOnce() -> Result<(), StateError>) -> Result<(), StageError> {
    let mut control = ctx.observer.control();
    if control != Control::Continue {
        save()?;
    }
    if control == Control::Pause {
        control = ctx.observer.wait_while_paused();
    }
    if control == Control::Cancel { Err(StageError::Cancelled) } else { Ok(()) }
}

/// A number that a state file gives back bit for bit: written as text and read by the standard library,
/// where a JSON number may come back one unit in the last place off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exact(pub f64);

impl Serialize for Exact {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|_| serde::de::Error::custom(format!("not a number: {text}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::tensor::DenseTensor;

    #[test]
    fn exact_numbers_come_back_bit_for_bit() {
        for x in [0.1 + 0.2, -1.0 / 3.0, 1e-310, 1.7976931348623157e308, -0.0, f64::INFINITY] {
            let json = serde_json::to_string(&Exact(x)).expect("json");
            let back: Exact = serde_json::from_str(&json).expect("back");
            assert_eq!(back.0.to_bits(), x.to_bits(), "{json}");
        }
        assert!(serde_json::from_str::<Exact>("\"abc\"").is_err());
    }

    #[test]
    fn the_best_weights_travel_with_a_state_and_come_back() {
        let map = |value: f32| TensorMap::from([("w".to_owned(), DenseTensor::new(vec![1], vec![value]))]);
        let together = with_best(map(1.0), &map(2.0));
        assert_eq!(together.keys().collect::<Vec<_>>(), ["best.w", "w"]);
        assert_eq!(split_best(together), (map(1.0), map(2.0)));
        assert_eq!(split_best(with_best(map(1.0), &TensorMap::new())), (map(1.0), TensorMap::new()));
    }

    #[test]
    fn a_folder_of_another_run_is_refused() {
        let dir = tempfile::tempdir().expect("folder");
        let folder = |print: &str| Folder::new(&dir.path().join("stage"), "result", print.to_owned());
        assert_eq!(folder("a").load_state::<u32>().expect("nothing yet"), None);
        folder("a").save_state(TensorMap::new(), &7u32).expect("save");
        assert_eq!(folder("a").load_state::<u32>().expect("own"), Some((TensorMap::new(), 7)));
        assert!(matches!(folder("b").load_state::<u32>(), Err(StateError::OtherRun { .. })));
        assert!(matches!(folder("a").load_state::<String>(), Err(StateError::Malformed { .. })));
        folder("a").save_result(TensorMap::new(), &8u32).expect("result");
        assert_eq!(folder("a").load_state::<u32>().expect("removed"), None);
        assert_eq!(folder("a").load_result::<u32>().expect("there").map(|r| r.1), Some(8));
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Steps {
        step: usize,
    }

    fn save(folder: &Folder, step: usize) {
        folder.save_state(TensorMap::new(), &Steps { step }).expect("saved");
    }

    fn newest(folder: &Folder) -> Option<usize> {
        folder.load_state::<Steps>().expect("readable").map(|(_, progress)| progress.step)
    }

    #[test]
    fn a_state_whose_next_step_is_not_finite_gives_way_to_the_one_before() {
        let dir = tempfile::tempdir().expect("folder");
        let folder = |dir: &Path| Folder::new(dir, "result", "a".to_owned());
        let first = folder(dir.path());
        [4, 8].into_iter().for_each(|step| save(&first, step));
        first.drop_state_of(9).expect("another step's");
        assert_eq!(newest(&first), Some(8), "a step followed from it");
        // a pause saves the same state again, also in a process that only goes on from it
        save(&first, 8);
        let second = folder(dir.path());
        assert_eq!(newest(&second), Some(8));
        save(&second, 8);
        second.drop_state_of(8).expect("dropped");
        assert_eq!(newest(&second), Some(4));
        save(&second, 7);
        second.drop_state_of(7).expect("dropped");
        assert_eq!(newest(&second), Some(4), "still there");
        second.drop_state_of(4).expect("dropped");
        assert_eq!(newest(&second), None, "the stage starts anew");
        [1, 2].into_iter().for_each(|step| save(&second, step));
        second.save_result(TensorMap::new(), &Steps { step: 3 }).expect("result");
        assert_eq!(std::fs::read_dir(dir.path()).expect("folder").count(), 1, "the result alone");
    }

    #[test]
    fn where_a_crash_left_only_the_state_before_it_is_the_newest() {
        let dir = tempfile::tempdir().expect("folder");
        let folder = Folder::new(dir.path(), "result", "a".to_owned());
        [1, 2].into_iter().for_each(|step| save(&folder, step));
        std::fs::remove_file(dir.path().join("state.safetensors")).expect("removed");
        assert_eq!(newest(&folder), Some(1));
        save(&folder, 3);
        folder.drop_state_of(3).expect("dropped");
        assert_eq!(newest(&folder), Some(1));
    }

    #[test]
    fn a_state_of_another_version_says_so_in_words() {
        let dir = tempfile::tempdir().expect("folder");
        let folder = Folder::new(dir.path(), "result", "a".to_owned());
        let refused = |edit: fn(&mut Value)| {
            save(&folder, 4);
            let path = dir.path().join("state.safetensors");
            let mut state = TrainState::load(&path).expect("readable").expect("there");
            edit(&mut state.meta);
            state.save_atomic(&path).expect("saved");
            folder.load_state::<Steps>().expect_err("refused").to_string()
        };
        let newer = refused(|meta| {
            meta["version"] = 2.into();
            meta["written_by"] = "0.9.0".into();
        });
        assert!(newer.contains("written by Beckon 0.9.0") && newer.contains("finish the run with that"), "{newer}");
        let unknown = refused(|meta| {
            meta["written_by"] = "0.9.0".into();
            meta["progress"] = serde_json::json!({ "steps": 4 });
        });
        assert!(unknown.contains("written by Beckon 0.9.0") && unknown.contains("missing field `step`"), "{unknown}");
        let damaged = refused(|meta| meta["progress"] = Value::Null);
        assert!(damaged.contains("not a training state"), "{damaged}");
        // a state from before versions were written down
        save(&folder, 4);
        let path = dir.path().join("state.safetensors");
        let mut state = TrainState::load(&path).expect("readable").expect("there");
        state.meta = serde_json::json!({ "fingerprint": "a", "progress": { "step": 5 } });
        state.save_atomic(&path).expect("saved");
        assert_eq!(newest(&folder), Some(5));
    }
}
