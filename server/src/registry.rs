//! The registry of checkpoints: what catalog (files), store (notes, tags) and runs say of each, put together; and what may
//! be deleted.
//!
//! In the loop: beside the last arrow. The rules (graph, retention) are [`beckon_shared::control::registry`].

use crate::catalog::{Catalog, CatalogError};
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

/// Checkpoints that something needs, with the user in words: runs that will start from them, experiments, and where a tag
/// would go by a roll back.
fn users(store: &Store) -> Result<Vec<(String, String)>, StoreError> {
    let mut users = Vec::new();
    for run in store.runs()?.into_iter().filter(|run| !run.status.state.is_final()) {
        users.extend(run.status.config.parent.map(|parent| (parent, format!("run {}", run.status.id))));
    }
    let back = store.roll_back_targets()?;
    users.extend(back.into_iter().map(|(checkpoint, tag)| (checkpoint, format!("the next roll back of {tag}"))));
    users.extend(store.checkpoints_of_experiments()?);
    Ok(users)
}

/// Deletes a checkpoint that nothing needs.
///
/// # Errors
/// [`RegistryError`].
pub fn delete(catalog: &Catalog, store: &Store, events: &Events, id: &str) -> Result<(), RegistryError> {
    let entries = entries(catalog, store)?;
    if !entries.iter().any(|entry| entry.info.id == id) {
        return Err(RegistryError::Unknown { id: id.to_owned() });
    }
    check_deletable(id, &entries, &users(store)?)?;
    remove(catalog, store, events, id)
}

fn remove(catalog: &Catalog, store: &Store, events: &Events, id: &str) -> Result<(), RegistryError> {
    // the file first: a file without a registration would be registered again at the next start
    catalog.remove(id)?;
    store.remove_checkpoint(id)?;
    events.announce(&Event::Registry { id: id.to_owned(), entry: None });
    Ok(())
}

/// Deletes what a retention of the newest `n_kept` lets go; the ids of what went.
///
/// # Errors
/// [`RegistryError`]; what went before stays gone.
pub fn retain(catalog: &Catalog, store: &Store, events: &Events, n_kept: usize) -> Result<Vec<String>, RegistryError> {
    let gone = expired(&entries(catalog, store)?, &users(store)?, n_kept);
    gone.iter().try_for_each(|id| remove(catalog, store, events, id))?;
    Ok(gone)
}

#[cfg(test)]
mod tests;
