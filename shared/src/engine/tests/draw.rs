//! Tokens drawn on the device against those of the host's sampler, with the same seeds.

use super::*;
use beckon_shaders::kernels::sample::{SampleParams, interval};

/// How near a uniform number may lie to the edge of its token where host and device differ: what a logit's difference
/// of [`TOLERANCE`] moves.
const EDGE: f64 = 1e-3;

fn settings() -> [Sampling; 5] {
    let of = |temperature, top_k, top_p| Sampling { temperature, top_k, top_p, seed: 17 };
    [of(1.0, 0, 1.0), of(0.8, 40, 0.95), of(1.3, 0, 0.9), of(0.7, 5, 1.0), of(0.0, 0, 1.0)]
}

/// How far the uniform number of a token lies from that token's edges, by the logits after `before`.
fn distance(engine: &mut Engine, sampling: &Sampling, stream: u64, before: &[u32], token: u32) -> f64 {
    let prompt = engine.policy_prompt(&prompts()[2], 24).unwrap();
    let logits = now(engine.prefill(Network::Policy, &[&prompt[..], before].concat()));
    let mut sampler = Sampler::new(sampling, stream).unwrap();
    let uniform = (0..=before.len()).map(|_| sampler.uniform()).last().unwrap();
    let params = SampleParams {
        n_rows: 1,
        vocab_size: logits.len() as u32,
        top_k: sampling.top_k as u32,
        first_draw: 0,
        top_p: sampling.top_p,
        steepness: 1.0 / sampling.temperature,
    };
    let part = interval(&params, &logits, token as usize);
    assert!(!part.is_empty(), "token {token} is not kept");
    (part.start - uniform).abs().min((part.end - uniform).abs())
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn the_device_draws_what_the_host_draws() {
    let context = ready(GpuContext::request()).expect("native").expect("a Vulkan adapter");
    let checkpoint = checkpoint(BlockFormat::Q4);
    let mut host = Engine::cpu(&checkpoint).unwrap();
    let mut device = now(Engine::gpu(&checkpoint, &context));
    for sampling in settings() {
        // more than a batch, and steps that are no multiple of those between two readings
        let prompts = &prompts()[2..3];
        let of = |engine: &mut Engine| engine.rollouts(prompts, 11, 21, &sampling, 5).unwrap().remove(0);
        let (of_host, of_device) = (of(&mut host), of(&mut device));
        let mut n_same = 0;
        for (stream, (a, b)) in (5..).zip(of_host.iter().zip(&of_device)) {
            let n = a.tokens.iter().zip(&b.tokens).take_while(|(a, b)| a == b).count();
            assert_all_close("logps", &b.logps[..n], &a.logps[..n], 1e-3);
            if a.tokens == b.tokens {
                assert_eq!(a.finished, b.finished);
                n_same += 1;
            } else {
                let edge = distance(&mut host, &sampling, stream, &a.tokens[..n], b.tokens[n]);
                eprintln!("{sampling:?}: candidate {stream} differs at {n}, {edge:.1e} from the edge");
                assert!(edge <= EDGE, "{sampling:?}: candidate {stream} differs at {n}, {edge} from the edge");
            }
        }
        assert!(n_same >= 9, "{sampling:?}: {n_same} of 11 are the same");
    }
}

/// As many candidates as do not fit into a page's batch and pass, in one batch.
#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn a_wide_batch_writes_what_batches_of_eight_write() {
    let context = ready(GpuContext::request()).expect("native").expect("a Vulkan adapter");
    let checkpoint = checkpoint(BlockFormat::Q4);
    let usual = Limits::of(&checkpoint.manifest.model);
    let n_wide = usual.rows_per_pass + 6;
    let mut narrow = now(Engine::gpu(&checkpoint, &context));
    let mut wide = now(Engine::gpu_within(&checkpoint, &context, Limits { n_seqs: n_wide, ..usual }));
    assert_eq!(wide.limits().rows_per_pass, n_wide);
    let of = |engine: &mut Engine| {
        engine.rollouts(&prompts()[..1], n_wide, 10, &Sampling::plain(3), 0).expect("rollouts").remove(0)
    };
    let (want, got) = (of(&mut narrow), of(&mut wide));
    // a number at the edge of a token may fall either way: products of more rows are tiled in another way
    let n_same = want.iter().zip(&got).filter(|(a, b)| a.tokens == b.tokens).count();
    assert!(n_same + 3 >= n_wide, "{n_same} of {n_wide} are the same");
}
