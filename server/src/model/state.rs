//! What a stage leaves on disk: tensors and a JSON object in one safetensors file.
//!
//! A file is written beside its place, flushed, and moved over the old one, so that a full disk or
//! a crash leaves the old file whole. A stage saves two kinds: its training state, replaced every
//! few steps, and its result, written once.

use beckon_shared::tensor::{DenseTensor, TensorMap};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Tensors and what has to be known to go on from them.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainState {
    /// Weights, moments, anything dense.
    pub tensors: TensorMap,
    /// Counters, fingerprints, results.
    pub meta: serde_json::Value,
}

/// A state that could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk refused.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// `create`, `write`, `flush`, `move` or `read`.
        action: &'static str,
        /// What the disk said.
        #[source]
        source: io::Error,
        /// Which file.
        path: PathBuf,
    },
    /// The file is not a state that this program wrote.
    #[error("not a training state: {reason}; delete the file to start this stage anew: {}", path.display())]
    Malformed {
        /// What is wrong with it.
        reason: String,
        /// Which file.
        path: PathBuf,
    },
    /// Written by a version whose states are not those of this one.
    #[error(
        "written by Beckon {wrote}, and this is {}: {reason}; finish the run with that version, or delete the file to \
         start this stage anew: {}",
        program(),
        path.display()
    )]
    OtherVersion {
        /// Which version.
        wrote: String,
        /// What this one cannot read.
        reason: String,
        /// Which file.
        path: PathBuf,
    },
    /// The state belongs to other inputs.
    #[error("saved by a run with another configuration, seed or data; use a new folder or delete the file: {}", path.display())]
    OtherRun {
        /// Which file.
        path: PathBuf,
    },
}

/// This program's version and, where the build was told, its commit: what its files say of who wrote them.
pub fn program() -> String {
    let version = env!("CARGO_PKG_VERSION");
    match option_env!("BECKON_COMMIT").filter(|commit| !commit.is_empty()) {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    }
}

/// A hash over everything that a stage's result follows from; saved with its state, so that a
/// folder of another run is refused rather than continued.
#[derive(Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds a value as JSON.
    ///
    /// # Panics
    /// If the value has no JSON form (a map with keys that are not text).
    pub fn with(mut self, value: &impl Serialize) -> Self {
        let json = serde_json::to_vec(value).expect("configurations and examples have a JSON form");
        self.0.update((json.len() as u64).to_le_bytes());
        self.0.update(&json);
        self
    }

    /// Adds names, shapes and values of tensors.
    pub fn with_tensors(mut self, tensors: &TensorMap) -> Self {
        for (name, tensor) in tensors {
            self = self.with(&(name, &tensor.shape));
            self.0.update(bytemuck::cast_slice(&tensor.data));
        }
        self
    }

    /// The hash in hex.
    pub fn hex(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Key of the JSON object in the safetensors header.
const META_KEY: &str = "beckon";

impl TrainState {
    /// Writes the state to `path`, replacing what was there only once all bytes are on disk.
    ///
    /// # Errors
    /// [`StateError::Io`]; whatever stood at `path` is then unchanged.
    pub fn save_atomic(&self, path: &Path) -> Result<(), StateError> {
        write_atomic(path, &self.to_bytes(path)?)
    }

    /// Reads the state at `path`; `None` where there is no file.
    ///
    /// # Errors
    /// The file cannot be read, is cut short, or is not a state.
    pub fn load(path: &Path) -> Result<Option<Self>, StateError> {
        match std::fs::read(path) {
            Ok(bytes) => Self::from_bytes(&bytes, path).map(Some),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("read", path, source)),
        }
    }

    fn to_bytes(&self, path: &Path) -> Result<Vec<u8>, StateError> {
        let malformed = |e: safetensors::SafeTensorError| malformed(path, e.to_string());
        let mut views = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            let bytes = bytemuck::cast_slice(&tensor.data);
            views.push((name, TensorView::new(Dtype::F32, tensor.shape.clone(), bytes).map_err(malformed)?));
        }
        let meta = HashMap::from([(META_KEY.to_owned(), self.meta.to_string())]);
        safetensors::serialize(views, Some(meta)).map_err(malformed)
    }

    fn from_bytes(bytes: &[u8], path: &Path) -> Result<Self, StateError> {
        let file = SafeTensors::deserialize(bytes).map_err(|e| malformed(path, e.to_string()))?;
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| malformed(path, e.to_string()))?;
        let meta = header.metadata().as_ref().and_then(|m| m.get(META_KEY));
        let meta = meta.ok_or_else(|| malformed(path, format!("its header has no entry {META_KEY}")))?;
        let meta = serde_json::from_str(meta).map_err(|e| malformed(path, format!("entry {META_KEY}: {e}")))?;
        let mut tensors = TensorMap::new();
        for (name, view) in file.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(malformed(path, format!("tensor {name} is {:?}, expected F32", view.dtype())));
            }
            let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            tensors.insert(name.to_owned(), DenseTensor::new(view.shape().to_vec(), values.collect()));
        }
        Ok(Self { tensors, meta })
    }
}

/// Writes `bytes` to `path`, replacing what was there only once all of them are on disk.
///
/// # Errors
/// [`StateError::Io`]; whatever stood at `path` is then unchanged.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    let written = write_and_flush(&temporary, bytes)
        .and_then(|()| std::fs::rename(&temporary, path).map_err(|source| io_error("move", &temporary, source)));
    if written.is_err() {
        // Free what the failed attempt took; it may be why the disk is full.
        let _ = std::fs::remove_file(&temporary);
        return written;
    }
    flush_folder(path)
}

fn write_and_flush(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let mut file = File::create(path).map_err(|source| io_error("create", path, source))?;
    file.write_all(bytes).map_err(|source| io_error("write", path, source))?;
    file.sync_all().map_err(|source| io_error("flush", path, source))
}

/// Makes the move itself durable; only where folders can be opened as files.
fn flush_folder(path: &Path) -> Result<(), StateError> {
    if cfg!(unix) {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flushed = File::open(folder).and_then(|folder| folder.sync_all());
        flushed.map_err(|source| io_error("flush", folder, source))?;
    }
    Ok(())
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::Io { action, source, path: path.to_owned() }
}

fn malformed(path: &Path, reason: String) -> StateError {
    StateError::Malformed { reason, path: path.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(values: &[f32]) -> TrainState {
        let tensor = DenseTensor::new(vec![values.len(), 1], values.to_vec());
        TrainState { tensors: TensorMap::from([("a.weight".into(), tensor)]), meta: serde_json::json!({"step": 7}) }
    }

    #[test]
    fn a_state_comes_back_bit_for_bit() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("state.safetensors");
        assert_eq!(TrainState::load(&path).expect("no file is no error"), None);
        let odd = state(&[1.0, -0.0, f32::MIN_POSITIVE / 2.0, 0.1]);
        odd.save_atomic(&path).expect("save");
        let back = TrainState::load(&path).expect("load").expect("there");
        assert_eq!(back, odd);
        let bits = |s: &TrainState| s.tensors["a.weight"].data.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&back), bits(&odd));
    }

    #[test]
    fn a_cut_or_foreign_file_is_refused_with_its_path() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("state.safetensors");
        state(&[1.0, 2.0]).save_atomic(&path).expect("save");
        let whole = std::fs::read(&path).expect("read");
        for bytes in [&whole[..whole.len() - 3], &whole[..6], &[], b"not a state at all, just text"] {
            std::fs::write(&path, bytes).expect("write");
            let error = TrainState::load(&path).expect_err("must be refused").to_string();
            assert!(error.contains("state.safetensors"), "{error}");
            assert!(error.contains("not a training state"), "{error}");
        }
        let tensor = TensorView::new(Dtype::F32, vec![1], &[0; 4]).expect("view");
        let other = safetensors::serialize([("x", tensor)], None).expect("serialize");
        std::fs::write(&path, other).expect("write");
        let error = TrainState::load(&path).expect_err("no metadata").to_string();
        assert!(error.contains("no entry beckon"), "{error}");
    }

    /// `/dev/full` answers every write with "no space left on device".
    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_the_old_state_whole() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("state.safetensors");
        state(&[1.0]).save_atomic(&path).expect("save");
        let temporary = folder.path().join("state.safetensors.tmp");
        std::os::unix::fs::symlink("/dev/full", &temporary).expect("link");
        let error = state(&[2.0]).save_atomic(&path).expect_err("the disk is full");
        assert!(matches!(&error, StateError::Io { action: "write" | "flush", .. }), "{error}");
        assert!(error.to_string().contains("No space left"), "{error}");
        assert_eq!(TrainState::load(&path).expect("load"), Some(state(&[1.0])));
        assert!(!temporary.exists(), "the failed attempt is cleaned up");
        state(&[2.0]).save_atomic(&path).expect("room again");
        assert_eq!(TrainState::load(&path).expect("load"), Some(state(&[2.0])));
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().expect("folder");
        let error = state(&[1.0]).save_atomic(&folder.path().join("gone/state")).expect_err("no folder").to_string();
        assert!(error.starts_with("could not create") && error.contains("gone/state.tmp"), "{error}");
    }

    #[test]
    fn fingerprints_tell_inputs_apart() {
        let hex = |x: &str, t: f32| Fingerprint::default().with(&x).with_tensors(&state(&[t]).tensors).hex();
        assert_eq!(hex("a", 1.0), hex("a", 1.0));
        assert_ne!(hex("a", 1.0), hex("b", 1.0));
        assert_ne!(hex("a", 1.0), hex("a", 2.0));
    }
}
