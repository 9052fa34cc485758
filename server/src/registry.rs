//! The registry of checkpoints: what catalog (files), store (notes, tags) and runs say of each, put together; and what may
//! be deleted.
//!
//! In the loop: beside the last arrow. The rules (graph, retention) are [`beckon_shared::control::registry`].

pub mod moves;

use crate::catalog::{Catalog, CatalogError};
use crate::crash::{Point, reach};
use crate::events::Events;
use crate::store::{Store, StoreError};
use beckon_shared::control::Event;
use beckon_shared::control::registry::{Kept, RegistryEntry, check_deletable, expired};

/// Why a checkpoint was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is none with this id.
    #[error("there is no checkpoint {id}; GET /api/checkpoints lists those that can be fetched")]
    Unknown {
        /// The id asked for.
        id: String,
    },
    /// Something needs it.
    #[error(transparent)]
    Kept(#[from] Kept),
    /// The file could not be removed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Every checkpoint that can be fetched, newest first, the built-in one last.
///
/// # Errors
/// [`StoreError`].
pub fn entries(catalog: &Catalog, store: &Store) -> Result<Vec<RegistryEntry>, StoreError> {
    let (mut notes, tags) = (store.checkpoint_notes()?, store.tags()?);
    let entry = |(info, manifest): (beckon_shared::control::CheckpointInfo, std::sync::Arc<_>)| {
        let manifest: &beckon_shared::checkpoint::Manifest = &manifest;
        let known = notes.remove(&info.id).unwrap_or_default();
        let own_tags = tags.values().filter(|promotion| promotion.checkpoint == info.id);
        RegistryEntry {
            adapter: catalog.adapter(&info.id).map(|(info, _)| info),
            parent: manifest.lineage.parent.clone(),
            data_hash: manifest.lineage.data_hash.clone(),
            evaluation: known.evaluation,
            tags: own_tags.map(|promotion| promotion.tag.clone()).collect(),
            note: known.note,
            info,
        }
    };
    Ok(catalog.listed().into_iter().map(entry).collect())
}

/// One entry.
///
/// # Errors
/// [`RegistryError::Unknown`], `Store`.
pub fn entry(catalog: &Catalog, store: &Store, id: &str) -> Result<RegistryEntry, RegistryError> {
    let found = entries(catalog, store)?.into_iter().find(|entry| entry.info.id == id);
    found.ok_or_else(|| RegistryError::Unknown { id: id.to_owned() })
}

/// Tells listeners what the registry knows of a checkpoint now.
///
/// # Errors
/// As [`entry`].
pub fn announce(catalog: &Catalog, store: &Store, events: &Events, id: &str) -> Result<RegistryEntry, RegistryError> {
    let entry = entry(catalog, store, id)?;
    events.announce(&Event::Registry { id: id.to_owned(), entry: Some(entry.clone()) });
    Ok(entry)
}

/// Deletes a checkpoint that nothing needs, or what is left of one whose deletion broke off.
///
/// # Errors
/// [`RegistryError`]. Where it is `Catalog`, the checkpoint is deleted and files of it are left, which go when the same is asked
/// again, and at the next start.
pub fn delete(catalog: &Catalog, store: &Store, events: &Events, id: &str) -> Result<(), RegistryError> {
    let _claim = catalog.claim(id);
    let mut entries = entries(catalog, store)?;
    let is_offered = entries.iter().any(|entry| entry.info.id == id);
    store.forget_checkpoint(id, |needs, is_known| {
        if !is_offered && !is_known {
            return Err(RegistryError::Unknown { id: id.to_owned() });
        }
        // a tag may have been moved since the entries were read
        for entry in &mut entries {
            let own = needs.tags.values().filter(|promotion| promotion.checkpoint == entry.info.id);
            entry.tags = own.map(|promotion| promotion.tag.clone()).collect();
        }
        Ok(check_deletable(id, &entries, &needs.users)?)
    })??;
    reach(Point::Deleting);
    // the files last: a tag, a run or an experiment can no more come to need them
    let removed = catalog.remove(id).map_err(RegistryError::from).and_then(|()| Ok(store.checkpoint_is_gone(id)?));
    // it is not offered either way
    events.announce(&Event::Registry { id: id.to_owned(), entry: None });
    removed
}

/// Deletes what a retention of the newest `n_kept` lets go; the ids of what went.
///
/// # Errors
/// [`RegistryError`]; what went before stays gone.
pub fn retain(catalog: &Catalog, store: &Store, events: &Events, n_kept: usize) -> Result<Vec<String>, RegistryError> {
    let mut gone = Vec::new();
    for id in expired(&entries(catalog, store)?, &store.needs()?.users, n_kept) {
        match delete(catalog, store, events, &id) {
            Ok(()) => gone.push(id),
            // something has come to need it meanwhile, or somebody else was quicker
            Err(RegistryError::Kept(_) | RegistryError::Unknown { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(gone)
}

#[cfg(test)]
mod tests;
