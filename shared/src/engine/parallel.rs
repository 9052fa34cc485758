//! The threads of the CPU executor, which its caller owns.
//!
//! This crate starts no thread: whoever makes an engine may pass something that runs pieces of a loop side by
//! side. What a piece computes does not depend on how a loop is cut, so neither do the results.

use std::fmt::Debug;

/// Pieces that a loop is cut into for each thread at most, so that a slow thread holds nobody up for long.
const PIECES_PER_THREAD: usize = 4;

/// Runs the pieces of a loop.
pub trait Parallel: Debug + Send + Sync {
    /// Pieces that run at the same time, at least 1.
    fn n_threads(&self) -> usize;

    /// Multiplications that a piece should have at least: some 10 µs, which is what waking a thread takes.
    fn least_products(&self) -> usize {
        1 << 18
    }

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

/// Into how many pieces a loop of `n_products` multiplications is cut, at least 1.
pub(super) fn n_pieces(threads: &dyn Parallel, n_products: usize) -> usize {
    match threads.n_threads() {
        0 | 1 => 1,
        n => (n_products / threads.least_products().max(1)).clamp(1, n * PIECES_PER_THREAD),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Threads(usize);

    impl Parallel for Threads {
        fn n_threads(&self) -> usize {
            self.0
        }

        fn for_chunks(&self, values: &mut [f32], chunk_len: usize, work: &(dyn Fn(usize, &mut [f32]) + Sync)) {
            OneThread.for_chunks(values, chunk_len, work);
        }
    }

    #[test]
    fn a_loop_is_cut_where_it_is_worth_a_thread() {
        let least = OneThread.least_products();
        assert_eq!([0, least, 100 * least].map(|n| n_pieces(&OneThread, n)), [1, 1, 1]);
        assert_eq!([0, least, 3 * least, 100 * least].map(|n| n_pieces(&Threads(2), n)), [1, 1, 3, 8]);
    }
}
