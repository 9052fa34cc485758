//! Files of checkpoints that come and go. The store says beforehand what is about to happen ([`crate::store`]), so what a process
//! that died left halfway, or a storage that failed, is brought to its end here.

use super::RegistryError;
use crate::catalog::Catalog;
use crate::store::Store;
use std::time::Duration;

/// How often, and after which pause, it is looked whether another server has removed the same content.
const N_LOOKS: usize = 50;
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Writes down that a run's checkpoint is about to be brought in. The caller has the claim on it.
///
/// # Errors
/// [`RegistryError`]; then it must not be brought in.
pub fn announce_arrival(catalog: &Catalog, store: &Store, id: &str) -> Result<(), RegistryError> {
    for _ in 0..N_LOOKS {
        if store.checkpoint_arrives(id)? {
            return Ok(());
        }
        // a run made again what somebody deleted
        std::thread::sleep(LOOK_EVERY);
    }
    // nobody is at it any more
    settle(catalog, store, id)?;
    store.checkpoint_arrives(id)?;
    Ok(())
}

/// Ends what was begun with the files of a checkpoint: one that is registered keeps them, of another nothing is left. The caller
/// has the claim on it.
///
/// # Errors
/// [`RegistryError`]; it is tried again at the next start.
pub fn settle(catalog: &Catalog, store: &Store, id: &str) -> Result<(), RegistryError> {
    if catalog.is_built_in(id) || store.has_checkpoint(id)? {
        return Ok(store.checkpoint_stays(id)?);
    }
    catalog.remove(id)?;
    Ok(store.checkpoint_is_gone(id)?)
}

/// The same for every checkpoint whose files are on their way: for the one server of a store that trains, while no run of it
/// ends.
///
/// # Errors
/// [`RegistryError`] of the first that failed, once all were tried.
pub fn settle_all(catalog: &Catalog, store: &Store) -> Result<(), RegistryError> {
    let tried = store.moving_checkpoints()?.into_iter().map(|id| {
        let _claim = catalog.claim(&id);
        settle(catalog, store, &id)
    });
    // all of them, before the first failure is told
    tried.collect::<Vec<_>>().into_iter().collect()
}
