//! Files of checkpoints that go.

use super::file::sync_folder;
use super::{ADAPTER_EXTENSION, Catalog, CatalogError, Content, EXTENSION, name};
use std::path::Path;
use std::sync::PoisonError;

impl Catalog {
    /// Offers a checkpoint no more and removes its files, in the bucket first, also of one that was not offered yet. The built-in
    /// one stays. Downloads on their way from the folder end whole: they hold the file open. The caller has the
    /// [`Catalog::claim`].
    ///
    /// # Errors
    /// [`CatalogError::Io`], `Bucket`; then files are left, and it is not offered either.
    pub fn remove(&self, id: &str) -> Result<(), CatalogError> {
        if self.is_built_in(id) {
            return Ok(());
        }
        self.entries.write().unwrap_or_else(PoisonError::into_inner).retain(|entry| entry.info.id != id);
        self.installed.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.adapters.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        let names = [EXTENSION, ADAPTER_EXTENSION].map(|extension| name(id, extension));
        if let Some(bucket) = &self.bucket {
            names.iter().try_for_each(|name| bucket.remove(name))?;
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            let path = self.dir.join(&name);
            remove_file(&path)?;
            // of a process that died while it wrote
            remove_file(&path.with_added_extension("partial"))?;
            self.cached.write().unwrap_or_else(PoisonError::into_inner).remove(&name);
        }
        sync_folder(&self.dir);
        Ok(())
    }

    /// Whether a checkpoint is part of the program.
    pub fn is_built_in(&self, id: &str) -> bool {
        matches!(self.content(id), Some((Content::BuiltIn(_), _)))
    }

    /// Removes what the folder has of a checkpoint that another server deleted.
    pub(super) fn forget_files(&self, id: &str) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).retain(|entry| entry.info.id != id);
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.adapters.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        for extension in [EXTENSION, ADAPTER_EXTENSION] {
            // one that stays is offered no more
            let _ = std::fs::remove_file(self.path(id, extension));
            self.cached.write().unwrap_or_else(PoisonError::into_inner).remove(&name(id, extension));
        }
    }
}

/// Removes a file where there is one.
fn remove_file(path: &Path) -> Result<(), CatalogError> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(CatalogError::Io { action: "delete", source, path: path.to_owned() })
        }
        _ => Ok(()),
    }
}
