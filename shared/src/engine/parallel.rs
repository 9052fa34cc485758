//! The threads of the CPU executor, which its caller owns.
//!
//! This crate starts no thread: whoever makes an engine may pass something that runs pieces of a loop side by
//! side. What a piece computes does not depend on how a loop is cut, so neither do the results.

use std::fmt::Debug;

/// Runs the pieces of a loop.
pub trait Parallel: Debug + Send + Sync {
    /// Pieces that run at the same time, at least 1.
    fn n_threads(&self) -> usize;

    /// Calls `work` once for every run of `chunk_len` values (the last may be shorter) with the run's index.
    /// Returns when all are done. `chunk_len` is at least 1.
    fn for_chunks(&self, values: &mut [f32], chunk_len: usize, work: &(dyn Fn(usize, &mut [f32]) + Sync));
}

/// The caller's thread alone.
#[derive(Debug, Clone, Copy)]
pub struct OneThread;

impl Parallel for OneThread {
    fn n_threads(&self) -> usize {
        1
    }

    fn for_chunks(&self, values: &mut [f32], chunk_len: usize, work: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        values.chunks_mut(chunk_len).enumerate().for_each(|(idx, chunk)| work(idx, chunk));
    }
}
