//! Where a stage keeps its training state and its result, and whose they are.
//!
//! A state is replaced every few steps and removed once the result is written; a result is written once.
//! Both carry a fingerprint of everything that they follow from, so a folder of another run is refused
//! rather than continued.

use super::{Control, StageContext, StageError};
use crate::model::state::{StateError, TrainState, write_atomic};
use beckon_shared::tensor::TensorMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// Paths of one stage's files.
#[derive(Debug)]
pub struct Folder {
    state: PathBuf,
    result: PathBuf,
    fingerprint: String,
}

impl Folder {
    /// Files in `dir`: `state.safetensors` and `RESULT.safetensors`.
    pub fn new(dir: &Path, result: &str, fingerprint: String) -> Self {
        let file = |name: &str| dir.join(format!("{name}.safetensors"));
        Self { state: file("state"), result: file(result), fingerprint }
    }

    /// The finished result, where it is there.
    ///
    /// # Errors
    /// A file that cannot be read, is damaged, or belongs to other inputs.
    pub fn load_result<P: DeserializeOwned>(&self) -> Result<Option<(TensorMap, P)>, StateError> {
        self.load(&self.result)
    }

    /// The training state of an earlier call, where it is there.
    ///
    /// # Errors
    /// As [`Self::load_result`].
    pub fn load_state<P: DeserializeOwned>(&self) -> Result<Option<(TensorMap, P)>, StateError> {
        self.load(&self.state)
    }

    /// Replaces the training state.
    ///
    /// # Errors
    /// A disk that refuses; the old state is then whole.
    pub fn save_state(&self, tensors: TensorMap, progress: &impl Serialize) -> Result<(), StateError> {
        self.save(&self.state, tensors, progress)
    }

    /// Writes the result and removes the training state, which has served.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn save_result(&self, tensors: TensorMap, progress: &impl Serialize) -> Result<(), StateError> {
        self.save(&self.result, tensors, progress)?;
        match std::fs::remove_file(&self.state) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(StateError::Io { action: "remove", source, path: self.state.clone() })
            }
            _ => Ok(()),
        }
    }

    /// The rollbacks so far.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged.
    pub fn rollbacks(&self) -> Result<Rollbacks, StateError> {
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
        Ok(Rollbacks { path, steps })
    }

    fn load<P: DeserializeOwned>(&self, path: &Path) -> Result<Option<(TensorMap, P)>, StateError> {
        let Some(TrainState { tensors, meta }) = TrainState::load(path)? else {
            return Ok(None);
        };
        if meta["fingerprint"] != self.fingerprint.as_str() {
            return Err(StateError::OtherRun { path: path.to_owned() });
        }
        let malformed = |e: serde_json::Error| StateError::Malformed { reason: e.to_string(), path: path.to_owned() };
        Ok(Some((tensors, serde_json::from_value(meta["progress"].clone()).map_err(malformed)?)))
    }

    fn save(&self, path: &Path, tensors: TensorMap, progress: &impl Serialize) -> Result<(), StateError> {
        if let Some(dir) = path.parent() {
            let created = std::fs::create_dir_all(dir);
            created.map_err(|source| StateError::Io { action: "create", source, path: dir.to_owned() })?;
        }
        let meta = serde_json::json!({ "fingerprint": self.fingerprint, "progress": progress });
        TrainState { tensors, meta }.save_atomic(path)
    }
}

/// Times that a stage may go back before it gives up.
const MAX_ROLLBACKS: usize = 3;
/// What each of them does to the learning rate.
const ROLLBACK_RATE: f64 = 0.5;

/// Steps whose loss or gradient was not finite. Each sends the stage back to its last saved state, from where it goes on
/// at half the learning rate; they are kept in a file, so that a run that is resumed does the same.
#[derive(Debug)]
pub struct Rollbacks {
    path: PathBuf,
    /// Step and what was not finite there.
    steps: Vec<(usize, String)>,
}

impl Rollbacks {
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
}
