//! One at a time at the files of a checkpoint: the run that brings them in, or who removes them.

use super::Catalog;
use std::collections::HashSet;
use std::sync::{Condvar, Mutex, PoisonError};

/// Checkpoints at whose files somebody is.
#[derive(Default)]
pub(super) struct Claims {
    ids: Mutex<HashSet<String>>,
    /// Signalled when one is given back.
    released: Condvar,
}

/// The right to bring in or remove the files of one checkpoint; given back when dropped. A thread that has it must not ask for the
/// same again.
pub struct Claim<'a> {
    claims: &'a Claims,
    id: String,
}

impl Catalog {
    /// Waits until nobody else of this process is at the files of a checkpoint.
    pub fn claim(&self, id: &str) -> Claim<'_> {
        let ids = self.claims.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ids =
            self.claims.released.wait_while(ids, |ids| ids.contains(id)).unwrap_or_else(PoisonError::into_inner);
        ids.insert(id.to_owned());
        Claim { claims: &self.claims, id: id.to_owned() }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.claims.ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        self.claims.released.notify_all();
    }
}
