//! The threads of the engine's CPU executor: those of rayon's pool, which training has too.
//!
//! In the loop: wherever one engine runs at a time, which is then as fast as the processor: replay, the judgement of a policy,
//! simulated visitors. Not where several run side by side already, as in the rollouts of RL.

use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::engine::{Engine, EngineError, Limits, Parallel};
use rayon::prelude::*;
use std::sync::Arc;

/// Rayon's pool: the one that the caller runs in, else that of the process.
#[derive(Debug, Clone, Copy)]
pub struct RayonThreads;

impl Parallel for RayonThreads {
    fn n_threads(&self) -> usize {
        rayon::current_num_threads()
    }

    fn for_chunks(&self, values: &mut [f32], chunk_len: usize, work: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        if (1..=chunk_len).contains(&values.len()) {
            return work(0, values); // a single piece is no reason to wake anybody
        }
        values.par_chunks_mut(chunk_len).enumerate().for_each(|(idx, chunk)| work(idx, chunk));
    }
}

/// The networks of a checkpoint on all threads of this processor; their number does not change a result.
///
/// # Errors
/// As [`Engine::cpu_on`].
pub fn cpu_engine(checkpoint: &Checkpoint, limits: Limits) -> Result<Engine, EngineError> {
    Engine::cpu_on(checkpoint, limits, Arc::new(RayonThreads))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::device::block_on;
    use beckon_shared::engine::SuggestRequest;
    use beckon_shared::prompt::Prompt;
    use beckon_shared::sampling::Sampling;
    use std::sync::Mutex;

    fn in_pool<T: Send>(n_threads: usize, work: impl FnOnce() -> T + Send) -> T {
        rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("a pool").install(work)
    }

    #[test]
    fn every_piece_runs_once_on_the_callers_pool() {
        for (n_values, chunk_len) in [(0, 3), (2, 3), (3, 3), (10, 3)] {
            let mut values = vec![0.0; n_values];
            let pieces = Mutex::new(Vec::new());
            in_pool(3, || {
                assert_eq!(RayonThreads.n_threads(), 3);
                RayonThreads.for_chunks(&mut values, chunk_len, &|idx, chunk| {
                    chunk.iter_mut().for_each(|value| *value += 1.0);
                    pieces.lock().expect("no piece panics").push((idx, chunk.len()));
                });
            });
            let mut pieces = pieces.into_inner().expect("no piece panics");
            pieces.sort_unstable();
            let want: Vec<_> = values.chunks(chunk_len).map(<[f32]>::len).enumerate().collect();
            assert_eq!(pieces, want, "{n_values} by {chunk_len}");
            assert_eq!(values, vec![1.0; n_values]);
        }
    }

    /// The checkpoint that ships, whose products are long enough to be cut.
    #[test]
    fn the_number_of_threads_does_not_change_a_suggestion() {
        let checkpoint = crate::assets::built_in_checkpoint().expect("it ships");
        let checkpoint = Checkpoint::decode(checkpoint).expect("whole");
        let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 3 };
        let prompt = Prompt::from_query("how to cook rice");
        let request = SuggestRequest { prompt, n_candidates: 4, max_new_tokens: 6, sampling };
        let limits = Limits::of(&checkpoint.manifest.model);
        for limits in [limits, limits.fastest()] {
            let mut alone = Engine::cpu_within(&checkpoint, limits).expect("an engine");
            let want = block_on(alone.suggest(&request, &|| 0.0)).expect("suggestions");
            for n_threads in [1, 2, 5] {
                let got = in_pool(n_threads, || {
                    let mut engine = cpu_engine(&checkpoint, limits).expect("an engine");
                    block_on(engine.suggest(&request, &|| 0.0)).expect("suggestions")
                });
                assert_eq!(got, want, "{n_threads} threads on {}", limits.kernel_path);
            }
        }
    }
}
