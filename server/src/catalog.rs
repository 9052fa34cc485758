//! The checkpoints that can be fetched: the built-in one and the files of `DATA_DIR/checkpoints`.
//!
//! In the loop: where the training side hands over to the page. Every file is decoded, which checks its SHA-256 hashes,
//! before it is listed; one that fails is refused with the reason and left where it is. Files appear by rename after
//! a sync and are never overwritten: the name is the hash of the header, which fixes the content.
//!
//! With a [`Bucket`] the folder is a cache of bounded size, and the bucket has everything: a new checkpoint is listed once all of
//! it is there. Of an object that the folder has not, the header is read and checked (it fixes every other hash) and the length
//! compared; the page and the trainer check the rest, chunk by chunk, before they use it.

pub mod bucket;
mod claim;
mod file;
mod removal;

use crate::pipeline::export::ADAPTER_EXTENSION;
use crate::store::{Store, StoreError};
use beckon_shared::adapter::AdapterError;
use beckon_shared::checkpoint::{Checkpoint, CheckpointError, Manifest};
use beckon_shared::control::CheckpointInfo;
use beckon_shared::control::registry::AdapterInfo;
use bucket::{Bucket, BucketError, Object};
use claim::Claims;
use file::{bring, copy_synced, describe, modified_millis, read_adapter, read_verified, stem};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

pub use claim::Claim;

/// Extension of a checkpoint file.
const EXTENSION: &str = "beckon";
/// Largest total of the files in the folder where a bucket has them all; the oldest go first.
const MAX_CACHE_BYTES: u64 = 8 << 30;
/// First bytes of an object that are read for its header; one that is longer takes a second request.
const HEADER_GUESS_BYTES: u64 = 64 << 10;

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
    /// It is registered, and its file is nowhere.
    #[error("checkpoint {id} is not offered: its file is missing; copy it back, or delete the checkpoint: {path}")]
    Missing {
        /// Id of the checkpoint.
        id: String,
        /// Where the file should be.
        path: PathBuf,
    },
    /// It is not offered.
    #[error("there is no checkpoint {id}")]
    Unknown {
        /// Id of the checkpoint.
        id: String,
    },
    /// The bucket failed.
    #[error(transparent)]
    Bucket(#[from] BucketError),
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
    /// An object of the bucket, of which the folder may have a whole copy.
    Object {
        /// Where it is.
        bucket: Arc<Bucket>,
        /// Its name there.
        name: String,
        /// The copy, unless it went meanwhile.
        copy: Option<PathBuf>,
    },
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
    /// What the folder is a cache of, where it is one.
    bucket: Option<Arc<Bucket>>,
    /// Newest first, the built-in one last. A `File` says where one is or would be in the folder.
    entries: RwLock<Vec<Entry>>,
    /// Whole adapters by the id of the checkpoint that they lie beside.
    adapters: RwLock<HashMap<String, AdapterInfo>>,
    /// Installed and not yet listed, by id.
    installed: RwLock<HashMap<String, Arc<Manifest>>>,
    /// Names of the whole files in the folder, where it is a cache.
    cached: RwLock<HashSet<String>>,
    /// Held while a file enters or leaves the cache, or is read whole.
    changing: Mutex<()>,
    claims: Claims,
}

impl Catalog {
    /// Reads and verifies `dir`, takes in what `bucket` has, writes there what only `dir` has, and returns beside the list what
    /// was refused. A whole checkpoint that the store does not know (copied in by hand) is registered; not one whose files are on
    /// their way, which a run or a deletion left there.
    ///
    /// # Errors
    /// [`CatalogError::Io`] where the folder cannot be made or read, `Bucket`, `Store`, and `Refused` for `built_in`.
    pub fn open(
        dir: &Path,
        bucket: Option<Bucket>,
        store: &Store,
        built_in: Option<&'static [u8]>,
    ) -> Result<(Self, Vec<CatalogError>), CatalogError> {
        let mut found = Found::in_folder(dir)?;
        if let Some(bucket) = &bucket {
            found.reconcile(dir, bucket)?;
        }
        // first: what stops moving meanwhile is then known
        let moving: HashSet<String> = store.moving_checkpoints()?.into_iter().collect();
        let known: HashSet<String> = store.checkpoints()?.into_iter().map(|info| info.id).collect();
        for (id, (info, _)) in &found.checkpoints {
            if !known.contains(id) && !moving.contains(id) {
                store.add_checkpoint(info)?;
            }
        }
        let mut entries = Vec::new();
        for info in store.checkpoints()? {
            // one whose file is refused or gone is not offered
            let path = dir.join(name(&info.id, EXTENSION));
            if let Some((_, manifest)) = found.checkpoints.remove(&info.id) {
                entries.push(Entry { info, manifest, content: Content::File(path) });
            } else if !found.seen.contains(&info.id) {
                found.refused.push(CatalogError::Missing { id: info.id, path });
            }
        }
        if let Some(bytes) = built_in {
            let checkpoint = Checkpoint::decode(bytes)
                .map_err(|source| CatalogError::Refused { source, path: "the built-in checkpoint".into() })?;
            let (id, manifest) = (&checkpoint.id, &checkpoint.manifest);
            let info = CheckpointInfo { built_in: true, ..describe(id, manifest, bytes.len() as u64, 0) };
            entries.push(Entry { info, manifest: Arc::new(checkpoint.manifest), content: Content::BuiltIn(bytes) });
        }
        let catalog = Self {
            dir: dir.to_owned(),
            bucket: bucket.map(Arc::new),
            entries: RwLock::new(entries),
            adapters: RwLock::new(found.adapters),
            installed: RwLock::default(),
            cached: RwLock::new(found.files),
            changing: Mutex::new(()),
            claims: Claims::default(),
        };
        Ok((catalog, found.refused))
    }

    /// Offers what other servers of the same store have made since, and no more what they deleted; what could not be had is
    /// returned, and tried again the next time.
    ///
    /// # Errors
    /// [`CatalogError::Store`], `Bucket`.
    pub fn refresh(&self, store: &Store) -> Result<Vec<CatalogError>, CatalogError> {
        // first: what this server lists meanwhile is in the store, and not yet among what was known
        let before: HashSet<String> =
            self.infos().into_iter().filter(|info| !info.built_in).map(|info| info.id).collect();
        let known = store.checkpoints()?;
        let is_new = |info: &&CheckpointInfo| !before.contains(&info.id);
        let mut found = Found::default();
        if known.iter().any(|info| is_new(&info)) {
            let objects = self.bucket.as_ref().map(|bucket| bucket.list()).transpose()?.unwrap_or_default();
            for info in known.iter().filter(is_new) {
                for extension in [ADAPTER_EXTENSION, EXTENSION] {
                    let name = name(&info.id, extension);
                    match (&self.bucket, objects.iter().find(|object| object.name == name)) {
                        (Some(bucket), Some(object)) => found.take_object(&self.dir, bucket, object)?,
                        (Some(_), None) => {}
                        // what another server keeps in a folder of its own cannot be had
                        (None, _) => found.take_if_there(&self.dir.join(name)),
                    }
                }
            }
        }
        self.cached.write().unwrap_or_else(PoisonError::into_inner).extend(found.files);
        self.adapters.write().unwrap_or_else(PoisonError::into_inner).extend(found.adapters);
        let place: HashMap<&str, usize> = known.iter().enumerate().map(|(idx, info)| (info.id.as_str(), idx)).collect();
        {
            let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            for info in
                known.iter().filter(|info| !entries.iter().any(|entry| entry.info.id == info.id)).collect::<Vec<_>>()
            {
                if let Some((_, manifest)) = found.checkpoints.remove(&info.id) {
                    let content = Content::File(self.path(&info.id, EXTENSION));
                    entries.push(Entry { info: info.clone(), manifest, content });
                }
            }
            // newest first; what this server lists at this moment is the newest, the built-in one comes last
            entries.sort_by_key(|entry| match entry.info.built_in {
                true => usize::MAX,
                false => place.get(entry.info.id.as_str()).map_or(0, |idx| idx + 1),
            });
        }
        for id in before.iter().filter(|id| !place.contains_key(id.as_str())) {
            let _claim = self.claim(id);
            // a run may have made it again meanwhile
            if !store.has_checkpoint(id)? {
                self.forget_files(id);
            }
        }
        Ok(found.refused)
    }

    /// Takes in a checkpoint file, and the adapter where one lies beside it: into the bucket where there is one, and into the
    /// folder, each verified before and after its name appears. It is offered once [`Catalog::list`] is called.
    ///
    /// # Errors
    /// [`CatalogError`]; on any, no checkpoint was added.
    pub fn install(&self, from: &Path, info: &CheckpointInfo) -> Result<(), CatalogError> {
        let (checkpoint, _) = read_verified(from, &info.id)?;
        let from_adapter = from.with_extension(ADAPTER_EXTENSION);
        let adapter = from_adapter.exists().then(|| read_adapter(&from_adapter, &info.id)).transpose()?;
        let (target, target_adapter) = (self.path(&info.id, EXTENSION), self.path(&info.id, ADAPTER_EXTENSION));
        if let Some(bucket) = &self.bucket {
            // the adapter first: a checkpoint that can be seen has all that belongs to it
            if adapter.is_some() {
                bucket.write(&name(&info.id, ADAPTER_EXTENSION), &from_adapter)?;
            }
            bucket.write(&name(&info.id, EXTENSION), from)?;
        }
        let copied = || {
            if adapter.is_some() {
                bring(&target_adapter, |to| copy_synced(&from_adapter, to), |at| read_adapter(at, &info.id))?;
            }
            // never overwritten where it is whole
            if !(target.exists() && read_verified(&target, &info.id).is_ok()) {
                bring(&target, |to| copy_synced(from, to), |at| read_verified(at, &info.id))?;
            }
            Ok(())
        };
        match copied() {
            Err(error) if self.bucket.is_none() => return Err(error),
            // the bucket has it
            Err(error) => tracing::warn!(%error, "a checkpoint is not in the cache"),
            Ok(()) if self.bucket.is_some() => self.note_cached(&info.id, adapter.is_some()),
            Ok(()) => {}
        }
        if let Some(adapter) = adapter {
            self.adapters.write().unwrap_or_else(PoisonError::into_inner).insert(info.id.clone(), adapter);
        }
        let mut installed = self.installed.write().unwrap_or_else(PoisonError::into_inner);
        installed.insert(info.id.clone(), Arc::new(checkpoint.manifest));
        Ok(())
    }

    fn note_cached(&self, id: &str, with_adapter: bool) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
            cached.insert(name(id, EXTENSION));
            if with_adapter {
                cached.insert(name(id, ADAPTER_EXTENSION));
            }
        }
        self.make_room(&name(id, EXTENSION), MAX_CACHE_BYTES);
    }

    /// Removes the oldest files of the cache until at most `max_bytes` are left; not `but`.
    fn make_room(&self, but: &str, max_bytes: u64) {
        let mut cached = self.cached.write().unwrap_or_else(PoisonError::into_inner);
        let length = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
        let of_file = |name: &String| {
            let path = self.dir.join(name);
            (modified_millis(&path), length(&path), name.clone())
        };
        let mut files: Vec<_> = cached.iter().map(of_file).collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, n_bytes, _)| n_bytes).sum();
        for (_, n_bytes, name) in files.into_iter().filter(|(.., name)| name != but) {
            if total <= max_bytes {
                return;
            }
            // a download on its way holds the file open
            if std::fs::remove_file(self.dir.join(&name)).is_ok() {
                cached.remove(&name);
                total -= n_bytes;
            }
        }
    }

    /// The adapter beside a checkpoint, where there is one, and its bytes.
    pub fn adapter(&self, checkpoint: &str) -> Option<(AdapterInfo, Content)> {
        let adapters = self.adapters.read().unwrap_or_else(PoisonError::into_inner);
        let info = adapters.get(checkpoint)?.clone();
        Some((info, self.located(&name(checkpoint, ADAPTER_EXTENSION))))
    }

    /// Offers an installed checkpoint as the newest; one that is offered already is described anew.
    pub fn list(&self, info: CheckpointInfo) {
        let manifest = self.installed.write().unwrap_or_else(PoisonError::into_inner).remove(&info.id);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        match entries.iter_mut().find(|entry| entry.info.id == info.id) {
            Some(entry) if entry.info.built_in => {}
            Some(entry) => entry.info = info,
            None => {
                if let Some(manifest) = manifest {
                    let content = Content::File(self.path(&info.id, EXTENSION));
                    entries.insert(0, Entry { info, manifest, content });
                }
            }
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

    /// The bytes of a checkpoint, in memory: for a run that starts from it. One that only the bucket has is fetched into the
    /// folder and verified.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn read(&self, id: &str) -> Result<Vec<u8>, CatalogError> {
        let path = match self.entry(id).map(|entry| entry.content) {
            Some(Content::BuiltIn(bytes)) => return Ok(bytes.to_vec()),
            Some(_) => self.path(id, EXTENSION),
            None => return Err(CatalogError::Unknown { id: id.to_owned() }),
        };
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = &self.bucket {
            let name = name(id, EXTENSION);
            if !self.is_cached(&name) {
                bring(&path, |to| Ok(bucket.fetch(&name, to)?), |at| read_verified(at, id))?;
                self.cached.write().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
                self.make_room(&name, MAX_CACHE_BYTES);
            }
        }
        std::fs::read(&path).map_err(|source| CatalogError::Io { action: "read", source, path })
    }

    fn is_cached(&self, name: &str) -> bool {
        self.cached.read().unwrap_or_else(PoisonError::into_inner).contains(name)
    }

    /// Where a file of ours can be read.
    fn located(&self, name: &str) -> Content {
        let path = self.dir.join(name);
        match &self.bucket {
            None => Content::File(path),
            Some(bucket) => {
                let copy = self.is_cached(name).then_some(path);
                Content::Object { bucket: Arc::clone(bucket), name: name.to_owned(), copy }
            }
        }
    }

    /// Header of a checkpoint; `None` where it is not offered.
    pub fn manifest(&self, id: &str) -> Option<Arc<Manifest>> {
        self.entry(id).map(|entry| entry.manifest)
    }

    /// Where the bytes of a checkpoint are, and how many; `None` where it is not offered.
    pub fn content(&self, id: &str) -> Option<(Content, u64)> {
        let Entry { info, content, .. } = self.entry(id)?;
        let content = match content {
            Content::File(_) => self.located(&name(id, EXTENSION)),
            built_in => built_in,
        };
        Some((content, info.n_bytes))
    }

    fn entry(&self, id: &str) -> Option<Entry> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        entries.iter().find(|entry| entry.info.id == id).cloned()
    }

    fn path(&self, id: &str, extension: &str) -> PathBuf {
        self.dir.join(name(id, extension))
    }
}

/// Name of a file in the folder and in the bucket.
fn name(id: &str, extension: &str) -> String {
    format!("{id}.{extension}")
}

/// What folder and bucket have.
#[derive(Default)]
struct Found {
    /// Whole checkpoints by id.
    checkpoints: HashMap<String, (CheckpointInfo, Arc<Manifest>)>,
    /// Whole adapters by the id of the checkpoint beside them.
    adapters: HashMap<String, AdapterInfo>,
    /// Names of the whole files in the folder.
    files: HashSet<String>,
    /// Ids of the checkpoints that were looked at, whole or not.
    seen: HashSet<String>,
    refused: Vec<CatalogError>,
}

impl Found {
    /// Every file of the folder, verified.
    fn in_folder(dir: &Path) -> Result<Self, CatalogError> {
        let io = |action| {
            let path = dir.to_owned();
            move |source| CatalogError::Io { action, source, path }
        };
        std::fs::create_dir_all(dir).map_err(io("make the folder of"))?;
        let mut found = Self::default();
        for item in std::fs::read_dir(dir).map_err(io("list the folder of"))? {
            let path = item.map_err(io("list the folder of"))?.path();
            found.take(&path);
        }
        Ok(found)
    }

    fn take_if_there(&mut self, path: &Path) {
        if path.exists() {
            self.take(path);
        }
    }

    /// Reads a file of the folder and verifies it; what is no file of ours is left alone.
    fn take(&mut self, path: &Path) {
        let (id, extension) = (stem(path).to_owned(), path.extension().unwrap_or_default());
        let taken = if extension == ADAPTER_EXTENSION {
            read_adapter(path, &id).map(|info| _ = self.adapters.insert(id.clone(), info))
        } else if extension == EXTENSION {
            self.seen.insert(id.clone());
            read_verified(path, &id).map(|(Checkpoint { id, manifest, .. }, n_bytes)| {
                let info = describe(&id, &manifest, n_bytes, modified_millis(path));
                self.checkpoints.insert(id, (info, Arc::new(manifest)));
            })
        } else {
            return;
        };
        match taken {
            Ok(()) => _ = self.files.insert(name(&id, &extension.to_string_lossy())),
            Err(error) => self.refused.push(error),
        }
    }

    /// Writes into the bucket what it lacks, and takes in what it has: adapters, which are small, into the folder, and of
    /// checkpoints the header.
    fn reconcile(&mut self, dir: &Path, bucket: &Bucket) -> Result<(), CatalogError> {
        let objects = bucket.list()?;
        let mut own: Vec<&String> = self.files.iter().collect();
        // adapters come before their checkpoints
        own.sort();
        for name in own {
            let path = dir.join(name);
            let n_bytes = path.metadata().map_or(0, |metadata| metadata.len());
            // one of another length broke off under another program, and ours is whole
            if !objects.iter().any(|object| object.name == *name && object.n_bytes == n_bytes) {
                bucket.write(name, &path)?;
            }
        }
        for object in &objects {
            if !self.files.contains(&object.name) {
                self.take_object(dir, bucket, object)?;
            }
        }
        Ok(())
    }

    /// Takes in an object: an adapter, which is small, into the folder, and of a checkpoint the header.
    fn take_object(&mut self, dir: &Path, bucket: &Bucket, object: &Object) -> Result<(), CatalogError> {
        let path = dir.join(&object.name);
        let id = stem(&path).to_owned();
        let taken = if object.name.ends_with(ADAPTER_EXTENSION) {
            let fetched = bring(&path, |to| Ok(bucket.fetch(&object.name, to)?), |at| read_adapter(at, &id));
            fetched.map(|info| {
                self.files.insert(object.name.clone());
                self.adapters.insert(id, info);
            })
        } else {
            self.seen.insert(id.clone());
            file::read_header(bucket, object, &id).map(|found| _ = self.checkpoints.insert(id, found))
        };
        match taken {
            Ok(()) => Ok(()),
            // it cannot be known what else could not be had
            Err(CatalogError::Bucket(error)) => Err(error.into()),
            Err(error) => {
                self.refused.push(error);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
