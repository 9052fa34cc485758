//! The checkpoints that can be fetched: the built-in one and the files of `DATA_DIR/checkpoints`.
//!
//! In the loop: where the training side hands over to the page. Every file is decoded, which checks its SHA-256 hashes,
//! before it is listed; one that fails is refused with the reason and left where it is. Files appear by rename after
//! a sync and are never overwritten: the name is the hash of the header, which fixes the content.

use crate::pipeline::export::ADAPTER_EXTENSION;
use crate::store::{Store, StoreError};
use beckon_shared::adapter::{AdapterError, AdapterFile};
use beckon_shared::checkpoint::{Checkpoint, CheckpointError, Manifest};
use beckon_shared::control::CheckpointInfo;
use beckon_shared::control::registry::AdapterInfo;
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Extension of a checkpoint file.
const EXTENSION: &str = "beckon";

/// Why a checkpoint was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// A file or folder could not be read or written.
    #[error("cannot {action} the checkpoint: {source}: {path}")]
    Io {
        /// What was tried, as `read` or `write`.
        action: &'static str,
        /// What the system said.
        source: std::io::Error,
        /// Which file.
        path: PathBuf,
    },
    /// The content is damaged or of an unknown version.
    #[error("refused a checkpoint: {source}: {path}")]
    Refused {
        /// What is wrong.
        source: CheckpointError,
        /// Which file.
        path: PathBuf,
    },
    /// The file is whole, but another checkpoint than its name or its maker says.
    #[error("refused a checkpoint: it is {found}, not {expected}: {path}")]
    Other {
        /// Id of the content.
        found: String,
        /// Id that was announced.
        expected: String,
        /// Which file.
        path: PathBuf,
    },
    /// An adapter is damaged, or was made beside another checkpoint.
    #[error("refused an adapter: {source}: {path}")]
    Adapter {
        /// What is wrong.
        source: AdapterError,
        /// Which file.
        path: PathBuf,
    },
    /// It is not offered.
    #[error("there is no checkpoint {id}")]
    Unknown {
        /// Id of the checkpoint.
        id: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Bytes of a checkpoint.
#[derive(Debug, Clone)]
pub enum Content {
    /// Embedded in the program.
    BuiltIn(&'static [u8]),
    /// A file that was whole when it was listed.
    File(PathBuf),
}

#[derive(Clone)]
struct Entry {
    info: CheckpointInfo,
    manifest: Arc<Manifest>,
    content: Content,
}

/// The list; share it behind an `Arc`.
pub struct Catalog {
    dir: PathBuf,
    /// Newest first, the built-in one last.
    entries: RwLock<Vec<Entry>>,
    /// Whole adapters by the id of the checkpoint that they lie beside.
    adapters: RwLock<HashMap<String, AdapterInfo>>,
    /// Installed and not yet listed, by id.
    installed: RwLock<HashMap<String, Arc<Manifest>>>,
}

impl Catalog {
    /// Reads and verifies `dir`, and returns beside the list what was refused. A whole file that the store does not
    /// know (copied in by hand) is registered.
    ///
    /// # Errors
    /// [`CatalogError::Io`] where the folder cannot be made or read, `Store`, and `Refused` for `built_in`.
    pub fn open(
        dir: &Path,
        store: &Store,
        built_in: Option<&'static [u8]>,
    ) -> Result<(Self, Vec<CatalogError>), CatalogError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| CatalogError::Io { action, source, path }
        };
        std::fs::create_dir_all(dir).map_err(io("make the folder of", dir))?;
        let mut found = HashMap::new();
        let (mut refused, mut adapters) = (Vec::new(), HashMap::new());
        for item in std::fs::read_dir(dir).map_err(io("list the folder of", dir))? {
            let path = item.map_err(io("list the folder of", dir))?.path();
            if path.extension().is_some_and(|extension| extension == ADAPTER_EXTENSION) {
                match read_adapter(&path, stem(&path)) {
                    Ok(info) => _ = adapters.insert(stem(&path).to_owned(), info),
                    Err(error) => refused.push(error),
                }
            } else if path.extension().is_some_and(|extension| extension == EXTENSION) {
                match read_verified(&path, stem(&path)) {
                    Ok((checkpoint, n_bytes)) => {
                        let info = describe(&checkpoint, n_bytes, modified_millis(&path));
                        found.insert(info.id.clone(), (info, Arc::new(checkpoint.manifest), path));
                    }
                    Err(error) => refused.push(error),
                }
            }
        }
        let known: Vec<String> = store.checkpoints()?.into_iter().map(|info| info.id).collect();
        for (id, (info, ..)) in &found {
            if !known.contains(id) {
                store.add_checkpoint(info)?;
            }
        }
        let mut entries = Vec::new();
        for info in store.checkpoints()? {
            // one whose file is refused or gone is not offered
            if let Some((_, manifest, path)) = found.remove(&info.id) {
                entries.push(Entry { info, manifest, content: Content::File(path) });
            }
        }
        if let Some(bytes) = built_in {
            let checkpoint = Checkpoint::decode(bytes)
                .map_err(|source| CatalogError::Refused { source, path: "the built-in checkpoint".into() })?;
            let info = CheckpointInfo { built_in: true, ..describe(&checkpoint, bytes.len() as u64, 0) };
            let manifest = Arc::new(checkpoint.manifest);
            entries.push(Entry { info, manifest, content: Content::BuiltIn(bytes) });
        }
        let (entries, installed) = (RwLock::new(entries), RwLock::default());
        Ok((Self { dir: dir.to_owned(), entries, adapters: RwLock::new(adapters), installed }, refused))
    }

    /// Copies a checkpoint file, and the adapter where one lies beside it, into the folder, each verified before and after
    /// its name appears. It is offered once [`Catalog::list`] is called.
    ///
    /// # Errors
    /// [`CatalogError`]; on any, no checkpoint was added.
    pub fn install(&self, from: &Path, info: &CheckpointInfo) -> Result<(), CatalogError> {
        let (checkpoint, _) = read_verified(from, &info.id)?;
        let adapter = from.with_extension(ADAPTER_EXTENSION);
        if adapter.exists() {
            read_adapter(&adapter, &info.id)?;
            let target = self.path(&info.id).with_extension(ADAPTER_EXTENSION);
            self.copy(&adapter, &target)?;
            let found = read_adapter(&target, &info.id)?;
            self.adapters.write().unwrap_or_else(PoisonError::into_inner).insert(info.id.clone(), found);
        }
        let target = self.path(&info.id);
        let whole = target.exists() && read_verified(&target, &info.id).is_ok();
        if !whole {
            self.copy(from, &target)?;
            read_verified(&target, &info.id)?;
        }
        let mut installed = self.installed.write().unwrap_or_else(PoisonError::into_inner);
        installed.insert(info.id.clone(), Arc::new(checkpoint.manifest));
        Ok(())
    }

    /// Copies a file into the folder; its name appears when all of it is there.
    fn copy(&self, from: &Path, target: &Path) -> Result<(), CatalogError> {
        let partial = target.with_extension("partial");
        copy_synced(from, &partial).and_then(|()| std::fs::rename(&partial, target)).map_err(|source| {
            // a full disk leaves no half file behind
            let _ = std::fs::remove_file(&partial);
            CatalogError::Io { action: "write", source, path: target.to_owned() }
        })?;
        sync_folder(&self.dir);
        Ok(())
    }

    /// The adapter beside a checkpoint, where there is one, and its bytes.
    pub fn adapter(&self, checkpoint: &str) -> Option<(AdapterInfo, Content)> {
        let adapters = self.adapters.read().unwrap_or_else(PoisonError::into_inner);
        let info = adapters.get(checkpoint)?.clone();
        Some((info, Content::File(self.path(checkpoint).with_extension(ADAPTER_EXTENSION))))
    }

    /// Offers an installed checkpoint as the newest.
    pub fn list(&self, info: CheckpointInfo) {
        let manifest = self.installed.write().unwrap_or_else(PoisonError::into_inner).remove(&info.id);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(manifest) = manifest
            && !entries.iter().any(|entry| entry.info.id == info.id)
        {
            let content = Content::File(self.path(&info.id));
            entries.insert(0, Entry { info, manifest, content });
        }
    }

    /// All checkpoints, newest first.
    pub fn infos(&self) -> Vec<CheckpointInfo> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|entry| entry.info.clone()).collect()
    }

    /// All checkpoints with their headers, newest first.
    pub fn listed(&self) -> Vec<(CheckpointInfo, Arc<Manifest>)> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().map(|entry| (entry.info.clone(), Arc::clone(&entry.manifest))).collect()
    }

    /// The bytes of a checkpoint, in memory: for a run that starts from it.
    ///
    /// # Errors
    /// [`CatalogError::Unknown`], `Io`.
    pub fn read(&self, id: &str) -> Result<Vec<u8>, CatalogError> {
        match self.content(id) {
            Some((Content::BuiltIn(bytes), _)) => Ok(bytes.to_vec()),
            Some((Content::File(path), _)) => {
                std::fs::read(&path).map_err(|source| CatalogError::Io { action: "read", source, path })
            }
            None => Err(CatalogError::Unknown { id: id.to_owned() }),
        }
    }

    /// Removes a checkpoint's file and offers it no more. Downloads on their way end whole: they hold the file open.
    ///
    /// # Errors
    /// [`CatalogError::Io`]; then it is offered as before.
    pub fn remove(&self, id: &str) -> Result<(), CatalogError> {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let Some(idx) = entries.iter().position(|entry| entry.info.id == id) else { return Ok(()) };
        if let Content::File(path) = &entries[idx].content {
            match std::fs::remove_file(path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(CatalogError::Io { action: "delete", source, path: path.clone() });
                }
                _ => sync_folder(&self.dir),
            }
            if self.adapters.write().unwrap_or_else(PoisonError::into_inner).remove(id).is_some() {
                // one that stays lies beside nothing and is not offered
                let _ = std::fs::remove_file(path.with_extension(ADAPTER_EXTENSION));
            }
        }
        entries.remove(idx);
        Ok(())
    }

    /// Header of a checkpoint; `None` where it is not offered.
    pub fn manifest(&self, id: &str) -> Option<Arc<Manifest>> {
        self.entry(id).map(|entry| entry.manifest)
    }

    /// Where the bytes of a checkpoint are, and how many; `None` where it is not offered.
    pub fn content(&self, id: &str) -> Option<(Content, u64)> {
        self.entry(id).map(|entry| (entry.content, entry.info.n_bytes))
    }

    fn entry(&self, id: &str) -> Option<Entry> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().find(|entry| entry.info.id == id).cloned()
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(id).with_extension(EXTENSION)
    }
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default()
}

/// Reads a file and checks all of its hashes, and that it is the checkpoint `id`.
fn read_verified(path: &Path, id: &str) -> Result<(Checkpoint, u64), CatalogError> {
    let bytes =
        std::fs::read(path).map_err(|source| CatalogError::Io { action: "read", source, path: path.to_owned() })?;
    let checkpoint =
        Checkpoint::decode(&bytes).map_err(|source| CatalogError::Refused { source, path: path.to_owned() })?;
    if checkpoint.id != id {
        let (found, expected) = (checkpoint.id, id.to_owned());
        return Err(CatalogError::Other { found, expected, path: path.to_owned() });
    }
    Ok((checkpoint, bytes.len() as u64))
}

/// Reads an adapter and checks all of its hashes, and that it was made beside `checkpoint`.
fn read_adapter(path: &Path, checkpoint: &str) -> Result<AdapterInfo, CatalogError> {
    let bytes =
        std::fs::read(path).map_err(|source| CatalogError::Io { action: "read", source, path: path.to_owned() })?;
    let file = AdapterFile::decode(&bytes).map_err(|source| CatalogError::Adapter { source, path: path.to_owned() })?;
    if file.manifest.checkpoint != checkpoint {
        let (found, expected) = (file.manifest.checkpoint, checkpoint.to_owned());
        return Err(CatalogError::Other { found, expected, path: path.to_owned() });
    }
    Ok(AdapterInfo { id: file.id, base: file.manifest.base, n_bytes: bytes.len() as u64 })
}

fn describe(checkpoint: &Checkpoint, n_bytes: u64, created_millis: i64) -> CheckpointInfo {
    CheckpointInfo {
        id: checkpoint.id.clone(),
        name: checkpoint.manifest.name.clone(),
        run_id: None,
        n_bytes,
        created_millis,
        simulated: checkpoint.manifest.lineage.simulated,
        built_in: false,
    }
}

fn modified_millis(path: &Path) -> i64 {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    let since = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn copy_synced(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut target = File::create(to)?;
    std::io::copy(&mut File::open(from)?, &mut target)?;
    target.flush()?;
    target.sync_all()
}

/// Makes a rename survive a power cut. Only Unix can sync a folder; elsewhere the file system has to do.
fn sync_folder(dir: &Path) {
    if cfg!(unix)
        && let Ok(folder) = File::open(dir)
    {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
pub(crate) mod tests;
