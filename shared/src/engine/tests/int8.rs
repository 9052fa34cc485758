//! The CPU's integer paths: how near they are to f32, that they agree among each other to the bit, on any number
//! of threads, and what happens where they cannot run.

use super::*;
use crate::replay::{Arithmetic, Recording};
use std::collections::BTreeSet;
use std::sync::Mutex;

/// Largest difference of a logit between f32 and 8-bit activations on the random network. Its logits reach 8; the
/// differences reached 0.59 (Q8) and 0.52 (Q4).
const INT8_TOLERANCE: f32 = 0.75;

/// Threads that are started for each loop, however short, and take its pieces from the end.
#[derive(Debug)]
struct Backwards {
    n_threads: usize,
    /// Loops that were cut, by the number of their values.
    cut: Mutex<BTreeSet<usize>>,
}

impl Parallel for Backwards {
    fn n_threads(&self) -> usize {
        self.n_threads
    }

    fn least_products(&self) -> usize {
        1
    }

    fn for_chunks(&self, values: &mut [f32], chunk_len: usize, work: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        if values.len() > chunk_len {
            self.cut.lock().unwrap().insert(values.len());
        }
        std::thread::scope(|scope| {
            for (idx, chunk) in values.chunks_mut(chunk_len).enumerate().rev() {
                scope.spawn(move || work(idx, chunk));
            }
        });
    }
}

fn limits(path: KernelPath) -> Limits {
    Limits { kernel_path: path, ..Limits::of(&model(283)) }
}

fn on_path(format: BlockFormat, path: KernelPath) -> Engine {
    Engine::cpu_within(&checkpoint(format), limits(path)).unwrap()
}

fn int8_paths() -> impl Iterator<Item = KernelPath> {
    KernelPath::ALL.into_iter().filter(|path| *path != KernelPath::F32 && path.is_available())
}

#[test]
fn steps_are_near_those_in_f32() {
    for format in [BlockFormat::Q8, BlockFormat::Q4] {
        let (mut exact, mut fast) = (on_path(format, KernelPath::F32), on_path(format, KernelPath::fastest()));
        let parity = now(parity::compare(&mut exact, &mut fast, &prompts(), 20, INT8_TOLERANCE));
        eprintln!("{format:?}: {parity:?}");
        assert!(parity.holds(INT8_TOLERANCE) && parity.n_agreeing > 20, "{format:?}: {parity:?}");
        assert!(parity.max_logit_diff > TOLERANCE, "{format:?}: 8 bits were used: {parity:?}");
        let texts = TEXTS.map(String::from);
        let of = |engine: &mut Engine| now(engine.score(&prompts()[2], &texts));
        for (exact, fast) in of(&mut exact).iter().zip(of(&mut fast)) {
            let values = |s: &Score| [s.reward_mean, s.aleatoric_std, s.epistemic_std];
            assert_all_close("score", &values(&fast), &values(exact), f64::from(INT8_TOLERANCE));
        }
    }
}

#[test]
fn every_path_writes_and_scores_the_same_bits() {
    for format in [BlockFormat::Q8, BlockFormat::Q4] {
        let want = suggest(&mut on_path(format, KernelPath::Int8Scalar), &request(11, 3));
        for path in int8_paths() {
            assert_eq!(suggest(&mut on_path(format, path), &request(11, 3)), want, "{format:?} {path}");
        }
    }
}

#[test]
fn a_recording_names_the_arithmetic_of_its_engine() {
    for path in KernelPath::ALL.into_iter().filter(|path| path.is_available()) {
        let mut engine = on_path(BlockFormat::Q4, path);
        let outcome = suggest(&mut engine, &request(1, 3));
        let recording = Recording::of("", engine.executor().device_name(), &request(1, 3), &outcome);
        let of_path = if path == KernelPath::F32 { Arithmetic::F32 } else { Arithmetic::Int8 };
        assert_eq!(recording.arithmetic(), of_path, "{}", recording.device);
        let mut again = on_path(BlockFormat::Q4, recording.arithmetic().kernel_path());
        assert_eq!(suggest(&mut again, &request(1, 3)), outcome, "{}", recording.device);
    }
}

#[test]
fn exact_is_f32_to_the_bit_and_ends() {
    for format in [BlockFormat::Q8, BlockFormat::Q4] {
        let (mut exact, path) = (on_path(format, KernelPath::F32), KernelPath::fastest());
        let mut engine = Engine::cpu_of(checkpoint(format), limits(path)).unwrap();
        let fast = suggest(&mut engine, &request(9, 3));
        assert_eq!(fast, suggest(&mut on_path(format, path), &request(9, 3)), "taken apart or not");
        engine.set_exact(true);
        let got = suggest(&mut engine, &request(9, 3));
        assert_eq!(got, suggest(&mut exact, &request(9, 3)), "{format:?}");
        assert_ne!(got, fast, "{format:?}: 8 bits were used before");
        engine.set_exact(false);
        assert_eq!(suggest(&mut engine, &request(9, 3)), fast, "{format:?}");
    }
}

#[test]
fn threads_change_nothing() {
    let request = SuggestRequest { n_candidates: 3, max_new_tokens: 4, ..request(3, 3) };
    // products of all candidates' logits, in rows of 283 or in panels of 16, and the attention of all of them
    let (in_f32, in_panels, attended) = (3 * 283, 3 * 18 * 16, 3 * 6 * 16);
    for (format, path, products) in [
        (BlockFormat::F32, KernelPath::F32, in_f32),
        (BlockFormat::Q8, KernelPath::F32, in_f32),
        (BlockFormat::Q4, KernelPath::F32, in_f32),
        (BlockFormat::Q8, KernelPath::fastest(), in_panels),
        (BlockFormat::Q4, KernelPath::fastest(), in_panels),
    ] {
        let want = suggest(&mut on_path(format, path), &request);
        for n_threads in [1, 2, 5] {
            let threads = Arc::new(Backwards { n_threads, cut: Mutex::default() });
            // weights in blocks too
            let limits = Limits { plain_bytes: 0, ..limits(path) };
            let mut engine = Engine::cpu_on(&checkpoint(format), limits, threads.clone()).unwrap();
            assert_eq!(suggest(&mut engine, &request), want, "{format:?} on {path}, {n_threads} threads");
            let cut = threads.cut.lock().unwrap();
            let all_cut = [products, attended].iter().all(|n_values| cut.contains(n_values));
            assert_eq!(all_cut, n_threads > 1, "{format:?} on {path}, {n_threads} threads: {cut:?}");
        }
    }
}

#[test]
fn a_shared_prompt_and_a_clone_change_nothing() {
    let mut engine = on_path(BlockFormat::Q4, KernelPath::fastest());
    assert_shared_prompt_is_exact(&mut engine);
    let mut fork = engine.fork().unwrap();
    assert_eq!(suggest(&mut fork, &request(3, 1)), suggest(&mut engine, &request(3, 1)));
}

#[test]
fn plain_weights_are_multiplied_in_f32_on_every_path() {
    let mut exact = on_path(BlockFormat::F32, KernelPath::F32);
    let mut fast = on_path(BlockFormat::F32, KernelPath::fastest());
    assert_eq!(suggest(&mut fast, &request(3, 1)), suggest(&mut exact, &request(3, 1)));
}

#[test]
fn one_changed_scale_is_noticed() {
    let right = checkpoint(BlockFormat::Q4);
    let mut wrong = right.clone();
    wrong.tensors.get_mut("policy.model.layers.1.mlp.down_proj.weight").unwrap().scales[7] ^= 0x0800;
    let mut engines = [&right, &wrong].map(|c| Engine::cpu_within(c, limits(KernelPath::fastest())).unwrap());
    let [right, wrong] = engines.each_mut().map(|engine| now(engine.greedy(&prompts()[0], 1)));
    assert_ne!(right[0].logits, wrong[0].logits);
}

#[test]
fn a_path_that_is_not_there_is_an_error() {
    let missing = KernelPath::ALL.into_iter().find(|path| !path.is_available()).expect("no machine has them all");
    let error = Engine::cpu_within(&checkpoint(BlockFormat::Q4), limits(missing)).unwrap_err();
    assert!(error.to_string().contains(missing.name()), "{error}");
}

#[test]
fn not_a_number_stays_one_in_eight_bits() {
    let mut broken = checkpoint(BlockFormat::Q8);
    broken.tensors.get_mut("policy.model.layers.0.input_layernorm.weight").unwrap().quants[3] = f32::NAN.to_bits();
    let mut engine = Engine::cpu_within(&broken, limits(KernelPath::fastest())).unwrap();
    let error = now_err(engine.suggest(&request(1, 0), &|| 0.0));
    assert!(matches!(error, EngineError::Sampling(SamplingError::Logit { .. })), "{error}");
}
