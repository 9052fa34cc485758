//! What the allocator does with memory that was freed.
//!
//! In the loop: under every training step. A step frees nearly all that it allocated, some gigabytes of a pretrained model, and
//! the next one wants the same again. Given back to the system in between, each page comes as a fault and is zeroed.

use libmimalloc_sys::{mi_option_set_default, mi_option_t};
use std::ffi::c_long;

/// `mi_option_purge_delay` of mimalloc 3 (`mi_option_e`), which the crate does not name.
const PURGE_DELAY: mi_option_t = 15;

/// Milliseconds that freed memory stays with the process: longer than a step of any model that a CPU trains.
const KEPT_MILLIS: c_long = 60_000;

/// Keeps freed memory for [`KEPT_MILLIS`] before the system gets it back. `MIMALLOC_PURGE_DELAY` in the environment says otherwise.
pub fn keep_freed_memory() {
    #[expect(unsafe_code, reason = "an option of the allocator, by its number")]
    // SAFETY: takes two numbers; an option that does not exist is ignored
    unsafe {
        mi_option_set_default(PURGE_DELAY, KEPT_MILLIS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libmimalloc_sys::mi_option_get;

    fn delay() -> c_long {
        #[expect(unsafe_code, reason = "as above")]
        // SAFETY: takes and gives a number
        unsafe {
            mi_option_get(PURGE_DELAY)
        }
    }

    /// 1,000 is the delay's default and no other option's: another version of mimalloc that numbers its options anew fails here.
    #[test]
    fn the_number_is_the_purge_delays() {
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            assert_eq!(delay(), 1000);
            keep_freed_memory();
            assert_eq!(delay(), KEPT_MILLIS);
        }
    }
}
