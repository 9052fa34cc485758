//! The same checkpoint gives the same greedy tokens on Burn flex with the dequantized weights, on the CPU
//! executor, on WGSL under Vulkan, and on WGSL in a browser.
//!
//! The CPU executor in f32 is the reference that each of the others is compared with, logits included. Its integer
//! paths round activations to 8 bits, so they have a tolerance of their own, but agree among each other, natively and
//! in a browser, to the bit. A step whose two best logits lie within the tolerance may go either way; it is counted,
//! and ends the comparison of its prompt.

use crate::trained::trained;
use beckon_server::model::device::block_on;
use beckon_server::model::llama::Llama;
use beckon_shaders::{GpuContext, KernelSpec, Variant};
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::engine::{Engine, GreedyStep, Limits, Parity, parity};
use beckon_shared::prompt::{Prompt, Role, Turn};
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::process::{Server, root};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde_json::{Value, json};

/// Largest absolute difference of a logit between two executors. Logits are of order 10 and sums of up to 768
/// products in f32, in another order on each executor.
const LOGIT_TOLERANCE: f32 = 5e-3;
/// Share of the largest logit by which kernels with f16 may differ: what the page's self-test allows.
const F16_SHARE: f32 = 2e-3;
/// The same between f32 and 8-bit activations, whose roundings are of 1 part in 254 of a block's largest value.
const INT8_TOLERANCE: f32 = 0.5;
/// The same between two integer paths.
const INT8_PATHS_TOLERANCE: f32 = 0.0;
/// Longest suggestion that is compared.
const N_TOKENS: usize = 10;

/// The checkpoint trained a moment ago, and the one that ships.
fn checkpoints() -> Vec<(&'static str, Checkpoint)> {
    let built_in = std::fs::read(root().join("server/assets/nano.beckon")).expect("the built-in checkpoint");
    let decode = |bytes: &[u8]| Checkpoint::decode(bytes).expect("a whole checkpoint");
    vec![("tiny", decode(&trained().checkpoint_bytes)), ("built-in", decode(&built_in))]
}

/// Twenty prompts: queries, unusual characters, conversations, one longer than the context.
fn prompts() -> Vec<Prompt> {
    let queries = [
        "how to cook rice",
        "can my family do baking too",
        "plan a weekend in lisbon",
        "laptop",
        "best running shoes for flat feet",
        "why is the sky blue",
        "python list comprehension",
        "cheap flights to tokyo in april",
        "symptoms of low iron",
        "guitar chords for beginners",
        "crème brûlée ohne ofen",
        "東京の天気",
        "what is 2+2?!",
        "a",
        "mortgage calculator with taxes and insurance",
    ];
    let mut prompts: Vec<Prompt> = queries.map(Prompt::from_query).to_vec();
    let turn = |role, text: &str| Turn { role, text: text.to_owned() };
    for (first, answer, last) in [
        ("i want to learn pottery", "Classes or books?", "classes near me"),
        ("is oat milk healthy", "It has fibre and added sugar.", "which brand has the least sugar"),
        ("my bike chain skips", "It may be worn.", "how do i measure it"),
        ("tell me about mars", "It is the fourth planet.", "how long does a flight take"),
    ] {
        let turns = vec![turn(Role::User, first), turn(Role::Assistant, answer), turn(Role::User, last)];
        prompts.push(Prompt { turns });
    }
    prompts.push(Prompt::from_query("and then ".repeat(400)));
    prompts
}

fn greedy(engine: &mut Engine, prompts: &[Prompt]) -> Vec<Vec<GreedyStep>> {
    prompts.iter().map(|prompt| block_on(engine.greedy(prompt, N_TOKENS)).expect("greedy steps")).collect()
}

fn largest(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(token, _)| u32::try_from(token).expect("a token")).expect("logits")
}

/// What Burn says at each step of a text that another executor wrote.
fn burn_steps(llama: &Llama, engine: &Engine, prompt: &Prompt, written: &[GreedyStep]) -> Vec<GreedyStep> {
    let config = engine.config();
    let mut tokens = engine.tokenizer().encode_prompt(prompt, config.max_seq_len - N_TOKENS);
    let n_prompt = tokens.len();
    tokens.extend(written[..written.len() - 1].iter().map(|step| step.token));
    let ids: Vec<i32> = tokens.iter().map(|token| i32::try_from(*token).expect("a small token")).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [1, tokens.len()]), &llama.device()); // [1, T]
    let logits = llama.logits(llama.hidden(ids)); // [1, T, V]
    let logits = logits.into_data().convert::<f32>().try_into_vec::<f32>().expect("logits as f32");
    let rows = logits.chunks_exact(config.vocab_size).skip(n_prompt - 1);
    rows.map(|row| GreedyStep { token: largest(row), logits: row.to_vec() }).collect()
}

#[track_caller]
fn assert_parity(what: &str, parity: &Parity) {
    assert_parity_within(what, parity, LOGIT_TOLERANCE);
}

/// Largest logit of a few steps.
fn largest_logit(engine: &mut Engine) -> f32 {
    let steps = block_on(engine.greedy(&prompts()[0], 3)).unwrap();
    steps.iter().flat_map(|step| &step.logits).fold(0.0f32, |max, logit| max.max(logit.abs()))
}

#[track_caller]
fn assert_parity_within(what: &str, parity: &Parity, tolerance: f32) {
    eprintln!("{what}: {parity:?}");
    assert!(parity.holds(tolerance), "{what}: {parity:?}, tolerance {tolerance}");
}

/// The engine that a page has on its CPU, on this machine's instructions.
fn integer_engine(checkpoint: &Checkpoint) -> Engine {
    Engine::cpu_within(checkpoint, Limits::of(&checkpoint.manifest.model).fastest()).unwrap()
}

#[test]
fn eight_bit_activations_stay_near_f32() {
    for (name, checkpoint) in checkpoints() {
        let (mut exact, mut fast) = (Engine::cpu(&checkpoint).unwrap(), integer_engine(&checkpoint));
        let found = block_on(parity::compare(&mut exact, &mut fast, &prompts(), N_TOKENS, INT8_TOLERANCE)).unwrap();
        assert_parity_within(&format!("{name}: f32 and {}", fast.executor().device_name()), &found, INT8_TOLERANCE);
        assert!(found.max_logit_diff > LOGIT_TOLERANCE, "{name}: 8 bits were used: {found:?}");
    }
}

#[test]
fn burn_agrees_with_the_cpu_executor() {
    let prompts = prompts();
    assert_eq!(prompts.len(), 20);
    for (name, checkpoint) in checkpoints() {
        let mut engine = Engine::cpu(&checkpoint).unwrap();
        let llama =
            Llama::from_tensors(&checkpoint.manifest.model, &checkpoint.dense("policy"), &Device::flex()).unwrap();
        let mut sum = Parity::default();
        for (prompt, steps) in prompts.iter().zip(greedy(&mut engine, &prompts)) {
            let of_burn = burn_steps(&llama, &engine, prompt, &steps);
            sum.merge(&Parity::of_steps(&steps, &of_burn, LOGIT_TOLERANCE));
        }
        assert_parity(&format!("{name}: Burn flex and CPU executor"), &sum);
    }
}

#[test]
fn other_weights_do_not_agree() {
    let checkpoint = Checkpoint::decode(&trained().checkpoint_bytes).unwrap();
    let mut engine = Engine::cpu(&checkpoint).unwrap();
    let mut tensors = checkpoint.dense("policy");
    tensors.get_mut("model.norm.weight").unwrap().data[0] += 0.1;
    let llama = Llama::from_tensors(&checkpoint.manifest.model, &tensors, &Device::flex()).unwrap();
    let prompt = &prompts()[0];
    let steps = block_on(engine.greedy(prompt, N_TOKENS)).unwrap();
    let parity = Parity::of_steps(&steps, &burn_steps(&llama, &engine, prompt, &steps), LOGIT_TOLERANCE);
    assert!(!parity.holds(LOGIT_TOLERANCE), "a changed weight went unnoticed: {parity:?}");
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn wgsl_under_vulkan_agrees_with_the_cpu_executor() {
    let gpu = block_on(GpuContext::request()).expect("an adapter");
    for (name, checkpoint) in checkpoints() {
        let mut on_cpu = Engine::cpu(&checkpoint).unwrap();
        let mut on_gpu = block_on(Engine::gpu(&checkpoint, &gpu)).unwrap();
        for variant in Variant::ALL {
            if !block_on(on_gpu.set_variant(variant)).unwrap() {
                eprintln!("{name} with {variant}: NOT RUN, {} has not what it needs", gpu.adapter_name());
                continue;
            }
            let tolerance = if variant.f16 { F16_SHARE * largest_logit(&mut on_cpu) } else { LOGIT_TOLERANCE };
            let found = block_on(parity::compare(&mut on_cpu, &mut on_gpu, &prompts(), N_TOKENS, tolerance)).unwrap();
            let what = format!("{name}: {} and CPU executor", on_gpu.executor().device_name());
            assert_parity_within(&what, &found, tolerance);
        }
    }
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn a_kernel_broken_by_hand_does_not_agree() {
    let gpu = block_on(GpuContext::request()).expect("an adapter");
    let checkpoint = Checkpoint::decode(&trained().checkpoint_bytes).unwrap();
    let mut on_cpu = Engine::cpu(&checkpoint).unwrap();
    let cases = [
        ("no kernel", "", ""),
        ("norm_rows", "* scale * gain[i]", "* scale"),
        ("norm_matmul", "hi *= gain.hi", "hi *= gain.lo"),
        ("norm_gate_up", "1.0 + exp", "1.1 + exp"),
        ("attention", "mass * shrink + weight", "mass + weight"),
        ("rope_append", "- pair.y * turn.y", "+ pair.y * turn.y"),
        ("matmul", "dot(w.o3.hi, hi)", "dot(w.o2.hi, hi)"),
        ("embed", "out[at + 1u] = vec4<f32>(values.hi)", "out[at] = vec4<f32>(values.hi)"),
    ];
    for (name, from, to) in cases {
        let edit = |spec: &KernelSpec| {
            if spec.name != name {
                return spec.clone();
            }
            assert!(spec.source.contains(from), "{name}: no `{from}`");
            KernelSpec { source: spec.source.replace(from, to).into(), ..spec.clone() }
        };
        let mut on_gpu = block_on(Engine::gpu_edited(&checkpoint, &gpu, &edit)).unwrap();
        let found = block_on(parity::compare(&mut on_cpu, &mut on_gpu, &prompts(), N_TOKENS, LOGIT_TOLERANCE)).unwrap();
        assert_eq!(found.holds(LOGIT_TOLERANCE), name == "no kernel", "broken: {name}: {found:?}");
    }
}

/// A step of the page as a whole one: its best logits and its sample over the reference's other logits.
fn step_of_page(page: &Value, stride: usize, reference: Option<&GreedyStep>) -> GreedyStep {
    let number = |value: &Value| value.as_f64().expect("a number") as f32;
    let index = |value: &Value| usize::try_from(value.as_u64().expect("a token")).expect("a token");
    let mut logits = reference.map_or_else(Vec::new, |step| step.logits.clone());
    let sample = page["sample"].as_array().expect("a sample");
    let top = page["top"].as_array().expect("best logits");
    assert!(top.len() >= 2, "a margin needs two logits: {page}");
    if !logits.is_empty() {
        assert_eq!(sample.len(), logits.len().div_ceil(stride), "the sample has gaps");
        sample.iter().enumerate().for_each(|(i, logit)| logits[i * stride] = number(logit));
        top.iter().for_each(|best| logits[index(&best[0])] = number(&best[1]));
    }
    GreedyStep { token: u32::try_from(index(&page["token"])).expect("a token"), logits }
}

/// Compares the page's report with the reference's steps.
pub fn parity_of_report(report: &Value, reference: &[Vec<GreedyStep>], tolerance: f32) -> Parity {
    let stride = usize::try_from(report["sample_stride"].as_u64().expect("a stride")).expect("a stride");
    let of_page = report["prompts"].as_array().expect("prompts");
    assert_eq!(of_page.len(), reference.len());
    let mut sum = Parity::default();
    for (page, steps) in of_page.iter().zip(reference) {
        let page = page.as_array().expect("steps").iter().enumerate();
        let page: Vec<_> = page.map(|(i, step)| step_of_page(step, stride, steps.get(i))).collect();
        sum.merge(&Parity::of_steps(steps, &page, tolerance));
    }
    sum
}

#[test]
fn a_report_of_the_page_is_compared_to_the_last_logit() {
    let steps = vec![vec![GreedyStep { token: 1, logits: vec![0.0, 3.0, 1.0, 2.0, -1.0] }]];
    let report = |token: u32, best: f32, sampled: f32| {
        let step = json!({"token": token, "top": [[1, best], [3, 2.0]], "sample": [0.0, 1.0, sampled], "max_abs": 3.0});
        json!({"sample_stride": 2, "prompts": [[step]]})
    };
    let holds = |report: &Value| parity_of_report(report, &steps, LOGIT_TOLERANCE).holds(LOGIT_TOLERANCE);
    assert!(holds(&report(1, 3.0, -1.0)));
    assert!(!holds(&report(1, 3.1, -1.0)), "best logit");
    assert!(!holds(&report(1, 3.0, -1.1)), "sampled logit");
    assert!(!holds(&report(3, 3.0, -1.0)), "token");
    assert!(!holds(&json!({"sample_stride": 2, "prompts": [[]]})), "no steps");
}

/// The page's own path: this Chromium has relaxed vectors, and multiplies in fours where the processor can.
fn relaxed_path() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if !is_x86_feature_detected!("avxvnni") {
        return "int8-relaxed-simd";
    }
    "int8-relaxed-dot"
}

#[test]
#[ignore = "needs Chromium"]
fn wgsl_in_the_browser_agrees_with_the_cpu_executor() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    let tiny = Checkpoint::decode(&trained().checkpoint_bytes).unwrap();
    std::fs::write(folder.join(format!("{}.beckon", tiny.id)), &trained().checkpoint_bytes).unwrap();
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&server.client.url, WebGpu::On);
    page.wait("window.beckon", 60, || (page.eval("typeof window.beckon?.greedy") == "function").then_some(()));
    let texts = Value::from(serde_json::to_string(&prompts()).unwrap());
    for (name, checkpoint) in checkpoints() {
        let exact = greedy(&mut Engine::cpu(&checkpoint).unwrap(), &prompts());
        let fast = greedy(&mut integer_engine(&checkpoint), &prompts());
        for (executor, reference, tolerance) in [
            ("gpu", &exact, LOGIT_TOLERANCE),
            ("cpu-f32", &exact, LOGIT_TOLERANCE),
            ("cpu", &fast, INT8_PATHS_TOLERANCE),
            ("cpu-simd128", &fast, INT8_PATHS_TOLERANCE),
        ] {
            let call = format!("window.beckon.greedy({:?}, {texts}, {N_TOKENS}, {executor:?})", checkpoint.id);
            let report: Value = serde_json::from_str(page.eval(&call).as_str().expect("JSON text")).unwrap();
            assert_eq!(report["executor"], executor[..3]);
            let adapter = report["adapter"].as_str().expect("an adapter");
            // browsers hide the adapter's name; the flag of this Chromium makes it SwiftShader
            assert_eq!(adapter.contains("BrowserWebGpu"), executor == "gpu", "{adapter}");
            assert_eq!(adapter.contains(relaxed_path()), executor == "cpu", "{adapter}");
            assert_eq!(adapter.contains("int8-simd128"), executor == "cpu-simd128", "{adapter}");
            let what = format!("{name}: browser, {executor} ({adapter}), and native CPU executor");
            assert_parity_within(&what, &parity_of_report(&report, reference, tolerance), tolerance);
        }
    }
    assert_eq!(page.errors(), Vec::<String>::new());
}
