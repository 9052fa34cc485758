//! The checkpoints that can be fetched: the built-in one and the files of `DATA_DIR/checkpoints`.
//!
//! In the loop: where the training side hands over to the page. Every file is decoded, which checks its SHA-256 hashes,
//! before it is listed; one that fails is refused with the reason and left where it is. Files appear by rename after
//! a sync and are never overwritten: the name is the hash of the header, which fixes the content.
//!
//! With a [`Bucket`] the folder is its verified copy: what the bucket has is fetched, a new checkpoint is written to the
//! bucket and read back from there. Other servers may share the bucket; [`Catalog::refresh`] takes in what they did.

pub mod bucket;
mod file;

use crate::store::{Store, StoreError};
use beckon_shared::checkpoint::{Checkpoint, CheckpointError, Manifest};
use beckon_shared::control::CheckpointInfo;
use bucket::{Bucket, BucketError};
use file::{copy_synced, describe, modified_millis, read_verified, stem, sync_folder};
use std::collections::HashMap;
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
    /// Where checkpoints are kept beside the folder.
    bucket: Option<Bucket>,
    /// Newest first, the built-in one last.
    entries: RwLock<Vec<Entry>>,
    /// Installed and not yet listed, by id.
    installed: RwLock<HashMap<String, Arc<Manifest>>>,
}

impl Catalog {
    /// Reads and verifies `dir`, fetches what only `bucket` has, writes there what only `dir` has, and returns beside the
    /// list what was refused. A whole checkpoint that the store does not know (copied in by hand) is registered.
    ///
    /// # Errors
    /// [`CatalogError::Io`] where the folder cannot be made or read, `Bucket`, `Store`, and `Refused` for `built_in`.
    pub fn open(
        dir: &Path,
        bucket: Option<Bucket>,
        store: &Store,
        built_in: Option<&'static [u8]>,
    ) -> Result<(Self, Vec<CatalogError>), CatalogError> {
        let (mut found, mut refused) = scan(dir)?;
        let known: Vec<String> = store.checkpoints()?.into_iter().map(|info| info.id).collect();
        if let Some(bucket) = &bucket {
            refused.extend(reconcile(bucket, dir, &mut found)?);
        }
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
        Ok((Self { dir: dir.to_owned(), bucket, entries, installed }, refused))
    }

    /// Copies a checkpoint file into the folder, by way of the bucket where there is one, verified before and after. It is
    /// offered once [`Catalog::list`] is called.
    ///
    /// # Errors
    /// [`CatalogError`]; on any, no file was added to the folder.
    pub fn install(&self, from: &Path, info: &CheckpointInfo) -> Result<(), CatalogError> {
        let (checkpoint, _) = read_verified(from, &info.id)?;
        let target = self.path(&info.id);
        if let Some(bucket) = &self.bucket {
            bucket.put(&info.id, from)?;
        }
        if !(target.exists() && read_verified(&target, &info.id).is_ok()) {
            match &self.bucket {
                Some(bucket) => bring(&target, &info.id, |partial| Ok(bucket.fetch(&info.id, partial)?))?,
                None => bring(&target, &info.id, |partial| {
                    let io = |source| CatalogError::Io { action: "write", source, path: target.clone() };
                    copy_synced(from, partial).map_err(io)
                })?,
            };
        }
        let mut installed = self.installed.write().unwrap_or_else(PoisonError::into_inner);
        installed.insert(info.id.clone(), Arc::new(checkpoint.manifest));
        Ok(())
    }

    /// Offers what other servers of the same store and bucket have made, and no more what they deleted; what could not be
    /// had is returned.
    ///
    /// # Errors
    /// [`CatalogError::Store`].
    pub fn refresh(&self, store: &Store) -> Result<Vec<CatalogError>, CatalogError> {
        let (known, mut failed) = (store.checkpoints()?, Vec::new());
        for info in known.iter().filter(|info| self.entry(&info.id).is_none()) {
            match self.obtain(&info.id) {
                Ok(manifest) => {
                    let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
                    if !entries.iter().any(|entry| entry.info.id == info.id) {
                        let content = Content::File(self.path(&info.id));
                        entries.insert(0, Entry { info: info.clone(), manifest, content });
                    }
                }
                Err(error) => failed.push(error),
            }
        }
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        let place = |id: &str| known.iter().position(|info| info.id == id);
        for gone in entries.extract_if(.., |entry| !entry.info.built_in && place(&entry.info.id).is_none()) {
            if let Content::File(path) = gone.content {
                // it is offered no more, whether the space is free or not
                let _ = std::fs::remove_file(path);
            }
        }
        entries.sort_by_key(|entry| place(&entry.info.id).unwrap_or(usize::MAX));
        Ok(failed)
    }

    /// Header of a checkpoint of the folder, or of the bucket, from where its file is fetched.
    fn obtain(&self, id: &str) -> Result<Arc<Manifest>, CatalogError> {
        let path = self.path(id);
        let (checkpoint, _) = match &self.bucket {
            Some(bucket) if !path.exists() => bring(&path, id, |partial| Ok(bucket.fetch(id, partial)?))?,
            _ => read_verified(&path, id)?,
        };
        Ok(Arc::new(checkpoint.manifest))
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

    /// Removes a checkpoint's file, in the bucket first, and offers it no more. Downloads on their way end whole: they hold
    /// the file open.
    ///
    /// # Errors
    /// [`CatalogError::Io`], `Bucket`; then it is offered as before.
    pub fn remove(&self, id: &str) -> Result<(), CatalogError> {
        let Some(entry) = self.entry(id) else { return Ok(()) };
        if let Content::File(path) = &entry.content {
            if let Some(bucket) = &self.bucket {
                bucket.remove(id)?;
            }
            match std::fs::remove_file(path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(CatalogError::Io { action: "delete", source, path: path.clone() });
                }
                _ => sync_folder(&self.dir),
            }
        }
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| entry.info.id != id);
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

/// A checkpoint of the folder: description, header, file.
type Found = HashMap<String, (CheckpointInfo, Arc<Manifest>, PathBuf)>;

/// Every whole checkpoint of the folder by id, and what was refused.
fn scan(dir: &Path) -> Result<(Found, Vec<CatalogError>), CatalogError> {
    let io = |action| {
        let path = dir.to_owned();
        move |source| CatalogError::Io { action, source, path }
    };
    std::fs::create_dir_all(dir).map_err(io("make the folder of"))?;
    let (mut found, mut refused) = (Found::new(), Vec::new());
    for item in std::fs::read_dir(dir).map_err(io("list the folder of"))? {
        let path = item.map_err(io("list the folder of"))?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            match read_verified(&path, stem(&path)) {
                Ok(read) => add(&mut found, read, path),
                Err(error) => refused.push(error),
            }
        }
    }
    Ok((found, refused))
}

fn add(found: &mut Found, (checkpoint, n_bytes): (Checkpoint, u64), path: PathBuf) {
    let info = describe(&checkpoint, n_bytes, modified_millis(&path));
    found.insert(info.id.clone(), (info, Arc::new(checkpoint.manifest), path));
}

/// Makes folder and bucket agree; what could not be had.
fn reconcile(bucket: &Bucket, dir: &Path, found: &mut Found) -> Result<Vec<CatalogError>, BucketError> {
    let (there, mut refused) = (bucket.list()?, Vec::new());
    for (id, (.., path)) in found.iter().filter(|(id, _)| !there.contains(id)) {
        bucket.put(id, path)?;
    }
    for id in there {
        let path = dir.join(&id).with_extension(EXTENSION);
        if !found.contains_key(&id) {
            match bring(&path, &id, |partial| Ok(bucket.fetch(&id, partial)?)) {
                Ok(read) => add(found, read, path),
                Err(error) => refused.push(error),
            }
        }
    }
    Ok(refused)
}

/// Lets `write` make a file beside `target`, verifies it, and gives it its name; on an error nothing is left behind.
fn bring(
    target: &Path,
    id: &str,
    write: impl FnOnce(&Path) -> Result<(), CatalogError>,
) -> Result<(Checkpoint, u64), CatalogError> {
    let partial = target.with_extension("partial");
    let renamed = |read| {
        let io = |source| CatalogError::Io { action: "write", source, path: target.to_owned() };
        std::fs::rename(&partial, target).map_err(io).map(|()| read)
    };
    let read = write(&partial).and_then(|()| read_verified(&partial, id)).and_then(renamed).inspect_err(|_| {
        // a full disk leaves no half file behind
        let _ = std::fs::remove_file(&partial);
    })?;
    if let Some(dir) = target.parent() {
        sync_folder(dir);
    }
    Ok(read)
}

#[cfg(test)]
pub(crate) mod tests;
