//! The engine on a small random checkpoint: equivalences, determinism, errors, and CPU against GPU.

mod adapter;
mod draw;
mod int8;
mod untied;
mod variants;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::checkpoint::{Formats, Lineage, Parts, PolicyParts, RewardConfig};
use crate::config::{OUTPUT, reward_head_names, tensor_names};
use crate::metrics::assert_close;
use crate::prompt::{Role, Turn};
use crate::quant::{BlockFormat, Matrix};
use crate::tensor::DenseTensor;
use crate::tensor::TensorMap;
use crate::tokenizer::END;
use beckon_shaders::{KernelSpec, assert_all_close};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Logits of the same rows computed in another order of passes, or on another executor.
const TOLERANCE: f32 = 2e-4;

/// Buffers that a device may keep for staging.
const STAGING: usize = 8;

const TEXTS: [&str; 4] = ["how to cook rice", "how to cook brown rice", "rice cooker", "cooking rice in a pot"];

/// Grouped heads, an odd vocabulary, and no two widths the same.
fn model(vocab_size: usize) -> ModelConfig {
    ModelConfig {
        vocab_size,
        d_model: 64,
        n_layers: 2,
        n_heads: 6,
        n_kv_heads: 3,
        head_dim: 16,
        d_ff: 160,
        rope_base: 10_000.0,
        rope_scaling: None,
        norm_eps: 1e-5,
        max_seq_len: 96,
        tied_embedding: true,
    }
}

fn tokenizer() -> Tokenizer {
    Tokenizer::train(TEXTS, 277).unwrap()
}

/// Weights that make logits of order 1 and differ from token to token; norms near 1.
fn random(names: Vec<(String, Vec<usize>)>, seed: u64) -> TensorMap {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut tensor = |shape: Vec<usize>| {
        let (offset, width) = if shape.len() == 1 { (1.0, 0.2) } else { (0.0, 0.5) };
        let mut value = || offset + width * (rng.next_u32() as f32 / 2_147_483_648.0 - 1.0);
        let data = (0..shape.iter().product()).map(|_| value()).collect();
        DenseTensor::new(shape, data)
    };
    names.into_iter().map(|(name, shape)| (name, tensor(shape))).collect()
}

fn policy_tensors() -> TensorMap {
    random(tensor_names(&model(283)), 1)
}

fn checkpoint(format: BlockFormat) -> Checkpoint {
    built(&model(283), &policy_tensors(), format)
}

/// This policy with a random reward model.
fn built(model: &ModelConfig, policy: &TensorMap, format: BlockFormat) -> Checkpoint {
    let dims = 5;
    let trunk = tensor_names(&model.trunk(model.n_layers));
    let reward = random([trunk, reward_head_names(model, dims)].concat(), 2);
    let parts = Parts {
        name: "test".into(),
        model,
        reward: RewardConfig { variance_floor: 0.01, feature_dims: dims, kappa: 0.25, n_layers: None },
        lineage: Lineage { device: "cpu".into(), simulated: true, ..Lineage::default() },
        tokenizer: &tokenizer(),
    };
    Checkpoint::build(parts, policy, &reward, Formats { policy: format, reward: format }).unwrap()
}

fn cpu() -> Engine {
    Engine::cpu(&checkpoint(BlockFormat::Q8)).unwrap()
}

/// The output of CPU work, or native GPU work.
fn now<T>(work: impl Future<Output = Result<T, EngineError>>) -> T {
    ready(work).expect("nothing to wait for").unwrap()
}

fn prompts() -> Vec<Prompt> {
    let turn = |role, text: &str| Turn { role, text: text.into() };
    vec![
        Prompt::from_query("how to cook rice"),
        Prompt::default(),
        Prompt {
            turns: vec![
                turn(Role::User, "rice cooker"),
                turn(Role::Assistant, "Here are some rice cookers, from small to large, with a pot."),
                turn(Role::User, "brown rice?"),
            ],
        },
        Prompt::from_query("cook ".repeat(400)),
    ]
}

fn request(n_candidates: usize, seed: u64) -> SuggestRequest {
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed };
    SuggestRequest { prompt: Prompt::from_query("how to cook rice"), n_candidates, max_new_tokens: 12, sampling }
}

fn suggest(engine: &mut Engine, request: &SuggestRequest) -> SuggestOutcome {
    now(engine.suggest(request, &|| 0.0))
}

fn rows(tokens: &[u32], seq: Option<u32>, first: usize) -> Vec<Row> {
    tokens.iter().enumerate().map(|(i, t)| Row { token: *t, seq, pos: (first + i) as u32 }).collect()
}

/// Logits after every token of one sequence, by one prefill.
fn whole(engine: &mut Engine, tokens: &[u32]) -> Vec<f32> {
    let all: Vec<usize> = (0..tokens.len()).collect();
    now(engine.executor_mut().forward(Network::Policy, &rows(tokens, None, 0), Output::Logits(&all)))
}

/// Candidates behind a shared prompt give the logits that each whole sequence gives by one prefill.
fn assert_shared_prompt_is_exact(engine: &mut Engine) {
    let v = engine.config().vocab_size;
    let prompt: Vec<u32> = (0..70).map(|i| (i * 31 + 7) % 283).collect();
    let suffixes: Vec<Vec<u32>> = (0..5).map(|c| (0..4 + c).map(|i| (i * 53 + c * 17 + 5) % 283).collect()).collect();
    let mut want = Vec::new();
    for suffix in &suffixes {
        let logits = whole(engine, &[&prompt[..], suffix].concat());
        want.push(logits[prompt.len() * v..].to_vec());
    }
    // all at once, as scoring does
    now(engine.prefill(Network::Policy, &prompt));
    let together: Vec<Row> =
        suffixes.iter().enumerate().flat_map(|(c, s)| rows(s, Some(c as u32), prompt.len())).collect();
    let all: Vec<usize> = (0..together.len()).collect();
    let got = now(engine.executor_mut().forward(Network::Policy, &together, Output::Logits(&all)));
    assert_all_close("together", &got, &want.concat(), f64::from(TOLERANCE));
    // token by token, as decoding does
    now(engine.prefill(Network::Policy, &prompt));
    for step in 0..4 {
        let step_rows: Vec<Row> = suffixes
            .iter()
            .enumerate()
            .map(|(c, s)| Row { token: s[step], seq: Some(c as u32), pos: (prompt.len() + step) as u32 })
            .collect();
        let all: Vec<usize> = (0..step_rows.len()).collect();
        let got = now(engine.executor_mut().forward(Network::Policy, &step_rows, Output::Logits(&all)));
        for (c, got) in got.chunks_exact(v).enumerate() {
            assert_all_close("step", got, &want[c][step * v..(step + 1) * v], f64::from(TOLERANCE));
        }
    }
}

/// Logits after every token, written down plainly in f64 from the definition of the network: no cache, no
/// kernels, one token and head at a time.
fn by_definition(c: &ModelConfig, tensors: &TensorMap, tokens: &[u32]) -> Vec<f64> {
    type Vector = Vec<f64>;
    let get = |name: String| tensors[&name].data.iter().map(|v| f64::from(*v)).collect::<Vector>();
    let times = |w: &Vector, x: &Vector| -> Vector {
        w.chunks_exact(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    };
    let norm = |x: &Vector, w: &Vector| -> Vector {
        let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        x.iter().zip(w).map(|(x, w)| x / (mean + f64::from(c.norm_eps)).sqrt() * w).collect()
    };
    let rotated = |x: &[f64], pos: usize| -> Vector {
        let half = x.len() / 2;
        let angle = |i: usize| pos as f64 / f64::from(c.rope_base).powf(i as f64 / half as f64);
        let at = |i: usize| match i.checked_sub(half) {
            None => x[i] * angle(i).cos() - x[i + half] * angle(i).sin(),
            Some(j) => x[i] * angle(j).cos() + x[j] * angle(j).sin(),
        };
        (0..x.len()).map(at).collect()
    };
    let add = |x: &mut Vector, y: Vector| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    let embedding = get("model.embed_tokens.weight".into());
    let mut xs: Vec<Vector> =
        tokens.iter().map(|t| embedding[*t as usize * c.d_model..][..c.d_model].to_vec()).collect();
    for layer in 0..c.n_layers {
        let own = |name: &str| get(format!("model.layers.{layer}.{name}.weight"));
        let k = c.head_dim;
        let normed: Vec<Vector> = xs.iter().map(|x| norm(x, &own("input_layernorm"))).collect();
        let project = |name: &str| normed.iter().map(|x| times(&own(name), x)).collect::<Vec<_>>();
        let (queries, keys, values) =
            (project("self_attn.q_proj"), project("self_attn.k_proj"), project("self_attn.v_proj"));
        for (t, x) in xs.iter_mut().enumerate() {
            let mut heads = Vector::new();
            for h in 0..c.n_heads {
                let g = h / (c.n_heads / c.n_kv_heads) * k;
                let query = rotated(&queries[t][h * k..][..k], t);
                let score = |s: usize| -> f64 {
                    let key = rotated(&keys[s][g..g + k], s);
                    (query.iter().zip(key).map(|(q, k)| q * k).sum::<f64>() / (k as f64).sqrt()).exp()
                };
                let shares: Vector = (0..=t).map(score).collect();
                let mass: f64 = shares.iter().sum();
                heads.extend((0..k).map(|i| (0..=t).map(|s| shares[s] / mass * values[s][g + i]).sum::<f64>()));
            }
            add(x, times(&own("self_attn.o_proj"), &heads));
            let normed = norm(x, &own("post_attention_layernorm"));
            let (gate, up) = (times(&own("mlp.gate_proj"), &normed), times(&own("mlp.up_proj"), &normed));
            let gated: Vector = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(x, times(&own("mlp.down_proj"), &gated));
        }
    }
    let last = get("model.norm.weight".into());
    let output = if c.tied_embedding { embedding } else { get(OUTPUT.into()) };
    xs.iter().flat_map(|x| times(&output, &norm(x, &last))).collect()
}

#[test]
fn logits_are_those_of_the_definition() {
    let tokens: Vec<u32> = (0..9).map(|i| (i * 31 + 7) % 283).collect();
    let mut engine = Engine::from_tensors(&model(283), &policy_tensors(), &tokenizer()).unwrap();
    let got: Vec<f64> = whole(&mut engine, &tokens).into_iter().map(f64::from).collect();
    assert_all_close("plain", &got, &by_definition(&model(283), &policy_tensors(), &tokens), f64::from(TOLERANCE));
    for format in [BlockFormat::Q8, BlockFormat::Q4] {
        let checkpoint = checkpoint(format);
        let want = by_definition(&model(283), &checkpoint.dense("policy"), &tokens);
        let got: Vec<f64> = whole(&mut Engine::cpu(&checkpoint).unwrap(), &tokens).into_iter().map(f64::from).collect();
        assert_all_close("quantized", &got, &want, f64::from(TOLERANCE));
    }
}

#[test]
fn a_shared_prompt_changes_nothing() {
    assert_shared_prompt_is_exact(&mut cpu());
}

#[test]
fn weights_in_blocks_or_plain_give_the_same_bits() {
    for format in [BlockFormat::Q8, BlockFormat::Q4] {
        let checkpoint = checkpoint(format);
        let limits = Limits { plain_bytes: 0, ..Limits::of(&checkpoint.manifest.model) };
        let mut blocks = Engine::cpu_within(&checkpoint, limits).unwrap();
        let mut plain = Engine::cpu(&checkpoint).unwrap();
        assert_eq!(suggest(&mut blocks, &request(5, 1)), suggest(&mut plain, &request(5, 1)), "{format:?}");
    }
}

#[test]
fn a_prompt_may_grow_without_starting_again() {
    let mut engine = cpu();
    let tokens: Vec<u32> = (0..80).map(|i| (i * 31 + 7) % 283).collect();
    let v = engine.config().vocab_size;
    let want = whole(&mut engine, &tokens);
    now(engine.prefill(Network::Policy, &tokens[..30]));
    let got =
        now(engine.executor_mut().forward(Network::Policy, &rows(&tokens[30..], None, 30), Output::Logits(&[49])));
    assert_eq!(got, want[79 * v..], "bit-equal: the CPU executor sums in one order");
}

#[test]
fn the_prompt_matters_up_to_its_first_token() {
    let mut engine = cpu();
    let logits = |engine: &mut Engine, first| {
        now(engine.prefill(Network::Policy, &[first, 20, 30]));
        let row = Row { token: 9, seq: Some(3), pos: 3 };
        now(engine.executor_mut().forward(Network::Policy, &[row], Output::Logits(&[0])))
    };
    assert_ne!(logits(&mut engine, 10), logits(&mut engine, 11));
}

#[test]
fn a_seed_gives_one_outcome() {
    let mut engine = cpu();
    let first = suggest(&mut engine, &request(3, 5));
    suggest(&mut engine, &request(3, 6));
    assert_eq!(suggest(&mut engine, &request(3, 5)), first);
    assert_eq!(suggest(&mut cpu(), &request(3, 5)), first);
    assert_ne!(suggest(&mut engine, &request(3, 6)).suggestions, first.suggestions);
}

#[test]
fn a_candidate_does_not_depend_on_the_others() {
    let mut engine = cpu();
    // 19 is more than one batch
    let many = suggest(&mut engine, &request(19, 5)).suggestions;
    assert_eq!(many.len(), 19);
    for n in [1, 4, 9] {
        assert_eq!(suggest(&mut engine, &request(n, 5)).suggestions, many[..n], "of {n}");
    }
    assert!(many.iter().any(|s| s.tokens != many[0].tokens), "streams differ");
}

#[test]
fn tokens_and_logps_are_those_of_the_sequence() {
    let mut engine = cpu();
    let outcome = suggest(&mut engine, &request(6, 9));
    assert_eq!(outcome.n_decoded_tokens, outcome.suggestions.iter().map(|s| s.tokens.len()).sum::<usize>());
    let prompt = engine.tokenizer().encode_prompt(&request(6, 9).prompt, 84);
    assert_eq!(outcome.n_prompt_tokens, prompt.len());
    for suggestion in outcome.suggestions {
        let Suggestion { text, tokens, logps, finished, .. } = suggestion;
        assert_eq!(engine.tokenizer().decode(&tokens), text);
        assert_eq!(finished, tokens.last() == Some(&END));
        assert!(finished || tokens.len() == 12);
        assert!(!tokens[..tokens.len() - 1].contains(&END));
        let logits = whole(&mut engine, &[&prompt[..], &tokens].concat());
        let v = engine.config().vocab_size;
        for (i, (token, logp)) in tokens.iter().zip(logps).enumerate() {
            let logits = &logits[(prompt.len() + i - 1) * v..][..v];
            let mass: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
            assert_close("logp", logp, f64::from(logits[*token as usize]) - mass.ln(), 1e-4);
        }
    }
}

#[test]
fn a_score_is_of_prompt_and_text_alone() {
    let mut engine = cpu();
    let prompt = Prompt::from_query("how to cook rice");
    let texts: Vec<String> = (0..11).map(|i| format!("{} {}", TEXTS[i % 4], "rice ".repeat(i))).collect();
    let together = now(engine.score(&prompt, &texts));
    for (text, score) in texts.iter().zip(&together) {
        assert_eq!(now(engine.score(&prompt, std::slice::from_ref(text))), [*score]);
    }
    assert_ne!(together[0], together[1]);
    assert_ne!(now(engine.score(&Prompt::from_query("rice"), &texts)), together);
    for suggestion in suggest(&mut engine, &request(5, 2)).suggestions {
        assert_eq!(now(engine.score(&prompt, &[suggestion.text])).first(), suggestion.score.as_ref());
    }
    // a conversation that fills the sequence: longer texts see less of it
    let full = Prompt::from_query("cook ".repeat(400));
    let together = now(engine.score(&full, &texts));
    for (text, score) in texts.iter().zip(&together) {
        assert_eq!(now(engine.score(&full, std::slice::from_ref(text))), [*score]);
    }
    assert_eq!(now(engine.score(&prompt, &[])), []);
    // an empty text is its end; one far too long is cut
    assert_eq!(now(engine.score(&prompt, &[String::new(), "rice ".repeat(500)])).len(), 2);
}

#[test]
fn greedy_is_suggesting_at_temperature_zero() {
    let mut engine = cpu();
    for prompt in prompts() {
        let steps = now(engine.greedy(&prompt, 10));
        let tokens: Vec<u32> = steps.iter().map(|s| s.token).collect();
        let greedy = SuggestRequest { prompt, n_candidates: 2, max_new_tokens: 10, sampling: Sampling::GREEDY };
        for suggestion in suggest(&mut engine, &greedy).suggestions {
            assert_eq!(suggestion.tokens, tokens);
        }
    }
}

#[test]
fn rollouts_from_plain_tensors_split_over_forks() {
    let mut engine = Engine::from_tensors(&model(283), &policy_tensors(), &tokenizer()).unwrap();
    let all = engine.rollouts(&prompts(), 10, 8, &Sampling::plain(4), 100).unwrap();
    let mut fork = engine.fork().unwrap();
    let later = fork.rollouts(&prompts()[1..], 10, 8, &Sampling::plain(4), 110).unwrap();
    assert_eq!(all[1..], later);
    assert!(all.iter().flatten().all(|r| r.tokens.len() == r.logps.len() && r.tokens.len() <= 8));
    assert!(matches!(now_err(engine.score(&prompts()[0], &[String::new()])), EngineError::NoReward));
}

/// Allocations that the driver's allocator still holds when the device has nothing left to do.
fn n_allocations(context: &GpuContext) -> usize {
    context.queue.submit([]); // what is written to buffers waits in staging for it
    context.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is there");
    context.device.generate_allocator_report().expect("Vulkan counts allocations").allocations.len()
}

fn now_err<T: std::fmt::Debug>(work: impl Future<Output = Result<T, EngineError>>) -> EngineError {
    ready(work).expect("nothing to wait for").unwrap_err()
}

#[test]
fn what_cannot_be_done_is_an_error() {
    let mut engine = cpu();
    let max = engine.limits().suffix_tokens;
    let long = SuggestRequest { max_new_tokens: max + 1, ..request(1, 0) };
    assert!(matches!(now_err(engine.suggest(&long, &|| 0.0)), EngineError::TooManyTokens { .. }));
    assert_eq!(suggest(&mut engine, &SuggestRequest { max_new_tokens: max, ..request(1, 0) }).suggestions.len(), 1);
    let nothing = suggest(&mut engine, &SuggestRequest { max_new_tokens: 0, ..request(2, 0) });
    assert!(nothing.suggestions.iter().all(|s| s.tokens.is_empty() && !s.finished));
    assert!(suggest(&mut engine, &request(0, 0)).suggestions.is_empty());
    let hot = SuggestRequest { sampling: Sampling { temperature: f32::NAN, ..Sampling::GREEDY }, ..request(1, 0) };
    assert!(matches!(now_err(engine.suggest(&hot, &|| 0.0)), EngineError::Sampling(_)));

    let mut broken = policy_tensors();
    broken.remove("model.layers.1.mlp.up_proj.weight");
    let missing = Engine::from_tensors(&model(283), &broken, &tokenizer()).unwrap_err();
    assert!(missing.to_string().contains("model.layers.1.mlp.up_proj.weight"), "{missing}");
    let wrong = Engine::from_tensors(&model(284), &policy_tensors(), &tokenizer()).unwrap_err();
    assert!(wrong.to_string().contains("model.embed_tokens.weight"), "{wrong}");
}

#[test]
fn not_a_number_in_the_weights_is_an_error_not_a_panic() {
    // a norm that overflows makes the logits NaN
    let mut huge = policy_tensors();
    huge.get_mut("model.norm.weight").unwrap().data.fill(f32::MAX);
    let mut engine = Engine::from_tensors(&model(283), &huge, &tokenizer()).unwrap();
    let error = engine.rollouts(&prompts()[..1], 1, 4, &Sampling::plain(0), 0).unwrap_err();
    assert!(matches!(error, EngineError::Sampling(SamplingError::Logit { .. })), "{error}");
}

/// A checkpoint whose policy is that of [`checkpoint`], without the reward model.
fn unscored(format: BlockFormat) -> Checkpoint {
    let whole = checkpoint(format);
    let of_policy = |(name, matrix): (String, Matrix)| Some((name.strip_prefix("policy.")?.to_owned(), matrix));
    let policy = whole.tensors.into_iter().filter_map(of_policy).collect();
    let (model, lineage) = (&whole.manifest.model, whole.manifest.lineage);
    let parts = PolicyParts { name: "unscored".into(), model, lineage, tokenizer: &tokenizer() };
    Checkpoint::from_policy(parts, policy).unwrap()
}

#[test]
fn without_a_reward_model_the_same_is_written_and_nothing_scored() {
    let mut engine = Engine::cpu(&unscored(BlockFormat::Q8)).unwrap();
    assert!(!engine.has_reward() && cpu().has_reward());
    let scored = suggest(&mut cpu(), &request(5, 2)).suggestions;
    let unscored = suggest(&mut engine, &request(5, 2)).suggestions;
    assert!(scored.iter().all(|s| s.score.is_some()) && unscored.iter().all(|s| s.score.is_none()));
    let written = |all: Vec<Suggestion>| all.into_iter().map(|s| (s.text, s.tokens, s.logps)).collect::<Vec<_>>();
    assert_eq!(written(unscored), written(scored));
    assert!(matches!(now_err(engine.score(&prompts()[0], &[String::new()])), EngineError::NoReward));
}

mod on_a_gpu {
    use super::*;

    fn gpu() -> GpuContext {
        ready(GpuContext::request()).expect("native").expect("a Vulkan adapter")
    }

    #[test]
    #[ignore = "needs a Vulkan adapter (lavapipe will do)"]
    fn greedy_steps_are_those_of_the_cpu_in_every_format() {
        let context = gpu();
        for format in [BlockFormat::F32, BlockFormat::Q8, BlockFormat::Q4] {
            let checkpoint = checkpoint(format);
            let mut a = Engine::cpu(&checkpoint).unwrap();
            let mut b = now(Engine::gpu(&checkpoint, &context));
            assert_eq!((b.executor().kind(), a.executor().kind()), ("gpu", "cpu"));
            let parity = now(parity::compare(&mut a, &mut b, &prompts(), 20, TOLERANCE));
            assert!(parity.holds(TOLERANCE) && parity.n_agreeing > 20, "{format:?}: {parity:?}");
            let texts = TEXTS.map(String::from);
            let (of_a, of_b) = (now(a.score(&prompts()[2], &texts)), now(b.score(&prompts()[2], &texts)));
            for (a, b) in of_a.iter().zip(&of_b) {
                let values = |s: &Score| [s.reward_mean, s.aleatoric_std, s.epistemic_std];
                assert_all_close("score", &values(b), &values(a), 1e-4);
            }
        }
    }

    #[test]
    #[ignore = "needs a Vulkan adapter (lavapipe will do)"]
    fn weights_come_from_a_checkpoint_or_from_the_cpu() {
        let context = gpu();
        for format in [BlockFormat::F32, BlockFormat::Q8, BlockFormat::Q4] {
            let checkpoint = checkpoint(format);
            let limits = Limits { kernel_path: KernelPath::fastest(), ..Limits::of(&checkpoint.manifest.model) };
            let cpu = Engine::cpu_of(checkpoint.clone(), limits).unwrap();
            let (mut a, mut b) = (now(Engine::gpu(&checkpoint, &context)), now(cpu.gpu_beside(&context)));
            assert_eq!(suggest(&mut a, &request(9, 3)), suggest(&mut b, &request(9, 3)), "{format:?}");
            assert!(matches!(now_err(b.gpu_beside(&context)), EngineError::NoWeights));
        }
    }

    #[test]
    #[ignore = "needs a Vulkan adapter (lavapipe will do)"]
    fn a_wrong_kernel_is_noticed() {
        let (context, checkpoint) = (gpu(), checkpoint(BlockFormat::Q8));
        let mut right = Engine::cpu(&checkpoint).unwrap();
        for (kernel, from, to) in [
            ("attention", "params.scale", "1.0"),
            ("embed", "vec4<f32>(values.hi)", "vec4<f32>(values.lo)"),
            ("matmul", "sums.a += products", "sums.a -= products"),
            ("norm_gate_up", "80.0))) * up", "80.0)))"),
            ("norm_matmul", "hi *= gain.hi", ""),
            ("norm_rows", "* gain[i]", ""),
            ("rope_append", "pair.y * turn.x + pair.x * turn.y", "pair.y * turn.x - pair.x * turn.y"),
        ] {
            let edit = |spec: &KernelSpec| {
                assert!(spec.name != kernel || spec.source.contains(from), "{kernel}: no `{from}`");
                if spec.name == kernel {
                    return KernelSpec { source: spec.source.replace(from, to).into(), ..spec.clone() };
                }
                spec.clone()
            };
            let mut wrong = now(Engine::gpu_edited(&checkpoint, &context, &edit));
            let parity = now(parity::compare(&mut right, &mut wrong, &prompts()[..1], 4, TOLERANCE));
            assert!(!parity.holds(TOLERANCE), "{kernel}: {parity:?}");
        }
    }

    #[test]
    #[ignore = "needs a Vulkan adapter (lavapipe will do)"]
    fn without_a_reward_model_too() {
        let checkpoint = unscored(BlockFormat::Q4);
        let (mut a, mut b) = (Engine::cpu(&checkpoint).unwrap(), now(Engine::gpu(&checkpoint, &gpu())));
        assert!(now(parity::compare(&mut a, &mut b, &prompts(), 6, TOLERANCE)).holds(TOLERANCE));
        assert!(suggest(&mut b, &request(3, 1)).suggestions.iter().all(|s| s.score.is_none()));
        assert!(matches!(now_err(b.score(&prompts()[0], &[String::new()])), EngineError::NoReward));
    }

    #[test]
    #[ignore = "needs a Vulkan adapter (lavapipe will do)"]
    fn a_shared_prompt_changes_nothing_there() {
        assert_shared_prompt_is_exact(&mut now(Engine::gpu(&checkpoint(BlockFormat::Q8), &gpu())));
    }

    #[test]
    #[ignore = "needs a Vulkan adapter (lavapipe will do)"]
    fn candidates_repeat_and_do_not_depend_on_the_others() {
        let mut engine = now(Engine::gpu(&checkpoint(BlockFormat::Q4), &gpu()));
        let many = suggest(&mut engine, &request(9, 5)).suggestions;
        assert_eq!(suggest(&mut engine, &request(9, 5)).suggestions, many);
        let one = suggest(&mut engine, &request(1, 5)).suggestions;
        assert_eq!((&one[0].tokens, &one[0].text), (&many[0].tokens, &many[0].text));
    }

    #[test]
    #[ignore = "needs a Vulkan adapter (lavapipe will do)"]
    fn memory_is_fixed_and_a_destroyed_device_is_an_error() {
        let context = gpu();
        let mut engine = now(Engine::gpu(&checkpoint(BlockFormat::Q8), &context));
        let n_bytes = |engine: &Engine| match engine.executor() {
            Executor::Gpu(executor) => executor.n_bytes(),
            Executor::Cpu(_) => 0,
        };
        let before = (n_bytes(&engine), n_allocations(&context));
        for seed in 0..3 {
            suggest(&mut engine, &request(8, seed));
        }
        let after = (n_bytes(&engine), n_allocations(&context));
        assert_eq!(after.0, before.0);
        assert!(after.1 <= before.1 + STAGING, "{before:?} became {after:?}");
        context.device.destroy();
        let error = now_err(engine.greedy(&prompts()[0], 2));
        assert!(matches!(error, EngineError::Gpu(_)), "{error}");
    }
}
