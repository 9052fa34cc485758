//! Kernels that use more than WebGPU guarantees, and the reward model's heads on the device, against the CPU.

use super::*;

/// Share of the largest logit by which products in f16 move logits of these random weights at most. Trained networks, whose
/// weights are smaller, keep within the 2e-3 that the page's self-test allows (`end_to_end parity::`, `smollm2::`).
const F16_SHARE: f32 = 3e-2;

fn f16_tolerance(host: &mut Engine) -> f32 {
    let steps = now(host.greedy(&prompts()[0], 8));
    F16_SHARE * steps.iter().flat_map(|step| &step.logits).fold(0.0f32, |max, logit| max.max(logit.abs()))
}

fn gpu() -> GpuContext {
    ready(GpuContext::request()).expect("native").expect("a Vulkan adapter")
}

fn values(score: &Score) -> [f32; 3] {
    [score.reward_mean, score.aleatoric_std, score.epistemic_std]
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn every_variant_writes_and_scores_as_the_cpu() {
    let context = gpu();
    for format in [BlockFormat::F32, BlockFormat::Q8, BlockFormat::Q4] {
        let checkpoint = checkpoint(format);
        let mut host = Engine::cpu(&checkpoint).unwrap();
        let mut device = now(Engine::gpu(&checkpoint, &context));
        let texts = TEXTS.map(String::from);
        let mut exact = None;
        for variant in Variant::ALL {
            if !now(device.set_variant(variant)) {
                eprintln!("{format:?} with {variant}: NOT RUN, {} has not what it needs", context.adapter_name());
                continue;
            }
            let tolerance = if variant.f16 { f16_tolerance(&mut host) } else { TOLERANCE };
            let parity = now(parity::compare(&mut host, &mut device, &prompts(), 20, tolerance));
            eprintln!("{format:?} with {variant}: {parity:?}");
            assert!(parity.holds(tolerance) && parity.n_agreeing > 20, "{format:?} with {variant}: {parity:?}");
            let (of_host, of_device) =
                (now(host.score(&prompts()[2], &texts)), now(device.score(&prompts()[2], &texts)));
            for (a, b) in of_host.iter().zip(&of_device) {
                assert_all_close("score", &values(b), &values(a), if variant.f16 { 3e-2 } else { 1e-4 });
            }
            // a variant is another kernel, and the name says which
            let name = device.executor().device_name();
            assert_eq!(name.contains("plain kernels"), variant == Variant::PLAIN, "{name}");
            assert_eq!(name.contains("f16"), variant.f16, "{name}");
            assert_eq!(name.contains("attention with subgroups"), variant.subgroups, "{name}");
            if format == BlockFormat::Q4 {
                let mut again = now(Engine::gpu(&checkpoint, &context));
                assert!(now(again.set_variants_of(&name)), "{name}");
                assert_eq!(again.executor().device_name(), name);
            }
            let written = now(device.greedy(&prompts()[0], 3)).remove(2).logits;
            let differs = *exact.get_or_insert_with(|| written.clone()) != written;
            assert!(differs || !variant.f16, "{variant} computes as the plain kernels do");
        }
    }
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn what_is_chosen_is_what_was_fastest() {
    let context = gpu();
    let checkpoint = checkpoint(BlockFormat::Q4);
    let mut engine = now(Engine::gpu(&checkpoint, &context));
    // by a clock that counts its readings all are alike; by one that runs ever slower, what comes last is the fastest
    let (reading, step) = (std::cell::Cell::new(0.0), std::cell::Cell::new(1.0));
    let clock = |slower: f64| {
        reading.set(reading.get() + step.get());
        step.set(step.get() * slower);
        reading.get()
    };
    assert!(!now(engine.choose_variants(&|| clock(1.0))));
    assert!(engine.executor().device_name().ends_with("plain kernels"), "{}", engine.executor().device_name());
    assert_eq!(
        now(engine.choose_variants(&|| clock(0.9))),
        context.has(Variant { f16: true, subgroups: false }, 1)
            || context.has(Variant { f16: false, subgroups: true }, 1)
    );
    let name = engine.executor().device_name();
    let [f16, subgroups] = [true, false].map(|f16| context.has(Variant { f16, subgroups: !f16 }, 1)); // whether the adapter has them
    eprintln!(
        "{name}; {}",
        if f16 && subgroups { "every variant is there" } else { "NOT RUN for want of f16 or subgroups" }
    );
    assert_eq!(
        (name.contains("matmul with f16"), name.contains("attention with subgroups")),
        (f16, subgroups),
        "{name}"
    );
    let start = std::time::Instant::now();
    now(engine.choose_variants(&|| start.elapsed().as_secs_f64()));
    eprintln!("measured in {:?}, compiling included: {}", start.elapsed(), engine.executor().device_name());
    let mut host = Engine::cpu(&checkpoint).unwrap();
    let tolerance = f16_tolerance(&mut host);
    let parity = now(parity::compare(&mut host, &mut engine, &prompts(), 8, tolerance));
    assert!(parity.holds(tolerance), "{parity:?}");
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn candidates_that_span_passes_and_batches_are_judged_whole() {
    let checkpoint = checkpoint(BlockFormat::Q8);
    let (mut host, mut device) = (Engine::cpu(&checkpoint).unwrap(), now(Engine::gpu(&checkpoint, &gpu())));
    // eleven texts of up to 24 tokens: several passes of 64 rows, and two batches
    let texts: Vec<String> = (0..11).map(|i| "xyz rice ".repeat(1 + i % 4)).collect();
    let n_tokens: usize = texts.iter().map(|text| host.suggestion_tokens(text).len()).take(8).sum();
    assert!(n_tokens > host.limits().rows_per_pass, "{n_tokens}");
    for prompt in [&prompts()[0], &prompts()[3]] {
        let (a, b) = (now(host.score(prompt, &texts)), now(device.score(prompt, &texts)));
        assert_eq!((a.len(), b.len()), (11, 11));
        for (a, b) in a.iter().zip(&b) {
            assert_all_close("score", &values(b), &values(a), 1e-4);
        }
        assert!((1..4).all(|i| values(&b[i]) != values(&b[0])), "{b:?}");
    }
}
