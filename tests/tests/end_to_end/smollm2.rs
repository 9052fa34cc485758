//! A real pretrained model, SmolLM2-135M-Instruct from its GGUF file, against implementations that share no code with
//! ours: token ids of llama.cpp, logits and log-probabilities of PyTorch transformers, as committed in
//! `tests/fixture/smollm2.json` by the script beside it. And the executors against each other: the CPU's in f32, which is the
//! reference, its integer path, which users get, and WGSL, natively and in the page.

use crate::parity::parity_of_report;
use beckon_server::model::device::block_on;
use beckon_server::model::llama::Llama;
use beckon_server::model::pretrained::{Options, import, write_folder, write_gguf};
use beckon_shaders::{GpuContext, Variant};
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::engine::{Engine, GreedyStep, KernelPath, Limits, Network, Output, Row, SuggestRequest, parity};
use beckon_shared::prompt::{Prompt, Role, Turn};
use beckon_shared::quant::BlockFormat;
use beckon_shared::sampling::Sampling;
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::process::{Server, root};
use burn::tensor::{Device, Int, Tensor, TensorData};
use serde::Deserialize;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::OnceLock;

/// Largest absolute difference of a logit or log-probability from transformers'. Both compute in f32 from the same
/// dequantized weights; logits are of order 30, through 30 layers of sums in another order.
const TOLERANCE: f32 = 2e-4;
/// The same between the two executors.
const EXECUTOR_TOLERANCE: f32 = 5e-4;
/// The same with the page's WGSL on SwiftShader, whose square roots and exponentials are less exact; as for the other
/// checkpoints, whose logits are smaller (`parity::`).
const PAGE_TOLERANCE: f32 = 5e-3;
/// The same between f32 and 8-bit activations: 5% of the largest logit, as the 0.5 at logits of order 10 in `parity::`.
const INT8_TOLERANCE: f32 = 1.5;
/// Share of steps in which 8-bit activations find the same best token.
const INT8_AGREEMENT: f64 = 0.9;
/// Greedy tokens compared.
const N_TOKENS: usize = 24;

#[derive(Deserialize)]
struct Fixture {
    sha256: String,
    tokens: Vec<Tokens>,
    prompts: Vec<Reference>,
}

#[derive(Deserialize)]
struct Tokens {
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Reference {
    turns: Vec<Turn>,
    text: String,
    ids: Vec<u32>,
    /// Ten largest logits behind the prompt.
    top: Vec<(u32, f32)>,
    continuation: String,
    continuation_ids: Vec<u32>,
    /// Of each token of the continuation, nats.
    logps: Vec<f32>,
}

impl Reference {
    fn prompt(&self) -> Prompt {
        Prompt { turns: self.turns.clone() }
    }

    /// Prompt and continuation.
    fn sequence(&self) -> Vec<u32> {
        [&self.ids[..], &self.continuation_ids].concat()
    }
}

fn fixture() -> Fixture {
    let path = root().join("tests/fixture/smollm2.json");
    serde_json::from_slice(&std::fs::read(path).expect("the fixture")).expect("a fixture")
}

fn model_file() -> PathBuf {
    let path =
        std::env::var_os("BECKON_SMOLLM2").expect("BECKON_SMOLLM2 names the file that `cargo xtask model` fetched");
    PathBuf::from(path)
}

fn checkpoint() -> &'static Checkpoint {
    static CHECKPOINT: OnceLock<Checkpoint> = OnceLock::new();
    CHECKPOINT.get_or_init(|| import(&model_file(), &Options::default()).expect("SmolLM2 is imported"))
}

/// An engine in f32 with a small cache: the tests' texts are short.
fn engine() -> Engine {
    engine_on(KernelPath::F32)
}

fn engine_on(kernel_path: KernelPath) -> Engine {
    let limits = Limits { prompt_tokens: 128, n_seqs: 2, kernel_path, ..Limits::of(&checkpoint().manifest.model) };
    Engine::cpu_within(checkpoint(), limits).expect("an engine")
}

/// Largest difference from the reference, of logits and of log-probabilities; `logits` are those behind the last token
/// of the prompt and behind each token of the continuation.
fn differences(reference: &Reference, logits: &[f32]) -> (f32, f32) {
    let v = checkpoint().manifest.model.vocab_size;
    let of_top = reference.top.iter().map(|(token, logit)| (logits[*token as usize] - logit).abs());
    let rows = logits.chunks_exact(v).zip(&reference.continuation_ids).zip(&reference.logps);
    let of_logps = rows.map(|((row, token), logp)| {
        let mass: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
        (f64::from(row[*token as usize]) - mass.ln() - f64::from(*logp)).abs() as f32
    });
    // a NaN must not be lost in a maximum
    let largest = |max: f32, x: f32| if x.is_nan() { f32::INFINITY } else { max.max(x) };
    (of_top.fold(0.0, largest), of_logps.fold(0.0, largest))
}

/// Logits of our CPU executor behind the prompt and behind each token of the continuation but the last.
fn executor_logits(engine: &mut Engine, reference: &Reference) -> Vec<f32> {
    let sequence = reference.sequence();
    let rows: Vec<Row> =
        sequence.iter().enumerate().map(|(i, token)| Row { token: *token, seq: None, pos: i as u32 }).collect();
    let wanted: Vec<usize> = (reference.ids.len() - 1..sequence.len() - 1).collect();
    block_on(engine.executor_mut().forward(Network::Policy, &rows, Output::Logits(&wanted))).expect("logits")
}

#[test]
#[ignore = "needs SmolLM2 (cargo xtask model)"]
fn tokens_are_those_of_llama_cpp_and_prompts_those_of_the_chat_template() {
    let tokenizer = checkpoint().tokenizer().unwrap();
    let fixture = fixture();
    assert!(fixture.tokens.len() >= 10 && fixture.prompts.len() == 5);
    let sha256 = &checkpoint().manifest.lineage.config["imported"]["sha256"];
    assert_eq!(sha256.as_str(), Some(fixture.sha256.as_str()), "another model file than the fixture's");
    for Tokens { text, ids } in &fixture.tokens {
        assert_eq!(tokenizer.encode_text(text), *ids, "{text:?}");
        assert_eq!(tokenizer.decode(ids), *text);
    }
    for reference in &fixture.prompts {
        assert_eq!(tokenizer.format().render(&reference.prompt()), reference.text);
        assert_eq!(tokenizer.encode_prompt(&reference.prompt(), 400), reference.ids, "{:?}", reference.text);
        assert_eq!(tokenizer.encode_suggestion(&reference.continuation), reference.continuation_ids);
    }
}

#[test]
#[ignore = "needs SmolLM2 (cargo xtask model)"]
fn the_executor_gives_the_logits_of_transformers() {
    let mut engine = engine();
    for reference in &fixture().prompts {
        let (of_logits, of_logps) = differences(reference, &executor_logits(&mut engine, reference));
        eprintln!("CPU executor and transformers: logits {of_logits:.1e}, log-probabilities {of_logps:.1e}");
        assert!(of_logits <= TOLERANCE && of_logps <= TOLERANCE, "{of_logits} {of_logps} {:?}", reference.text);
    }
}

#[test]
#[ignore = "needs SmolLM2 (cargo xtask model)"]
fn burn_gives_the_logits_of_transformers() {
    let llama =
        Llama::from_tensors(&checkpoint().manifest.model, &checkpoint().dense("policy"), &Device::flex()).unwrap();
    for reference in &fixture().prompts {
        let sequence: Vec<i32> = reference.sequence().iter().map(|token| *token as i32).collect();
        let n = sequence.len();
        let tokens = Tensor::<2, Int>::from_data(TensorData::new(sequence, [1, n]), &llama.device()); // [1, T]
        let logits = llama.logits(llama.hidden(tokens)); // [1, T, V]
        let logits = logits.into_data().convert::<f32>().try_into_vec::<f32>().expect("logits as f32");
        let v = checkpoint().manifest.model.vocab_size;
        let (of_logits, of_logps) = differences(reference, &logits[(reference.ids.len() - 1) * v..]);
        eprintln!("Burn flex and transformers: logits {of_logits:.1e}, log-probabilities {of_logps:.1e}");
        assert!(of_logits <= TOLERANCE && of_logps <= TOLERANCE, "{of_logits} {of_logps} {:?}", reference.text);
    }
}

/// With the rows of q and k as they stand in the file, or with another base of the rotary angles, the comparison fails.
#[test]
#[ignore = "needs SmolLM2 (cargo xtask model)"]
fn a_wrong_rotary_layout_or_base_is_noticed() {
    let reference = &fixture().prompts[1];
    let spoil: [fn(&mut Checkpoint); 2] = [
        |checkpoint| {
            let name = "policy.model.layers.0.self_attn.k_proj.weight";
            let matrix = checkpoint.tensors.get_mut(name).expect("the keys' matrix");
            assert_eq!(matrix.format, BlockFormat::Q4);
            let (words, scales) = (matrix.cols / 8, matrix.cols / 32); // of a row
            let (quants, of_rows) = (matrix.quants.clone(), matrix.scales.clone());
            for row in 0..matrix.rows {
                let from = beckon_shared::gguf::llama::file_row(row, 64);
                matrix.quants[row * words..][..words].copy_from_slice(&quants[from * words..][..words]);
                matrix.scales[row * scales..][..scales].copy_from_slice(&of_rows[from * scales..][..scales]);
            }
        },
        |checkpoint| checkpoint.manifest.model.rope_base = 10_000.0,
    ];
    for spoil in spoil {
        let mut wrong = checkpoint().clone();
        spoil(&mut wrong);
        let limits = Limits { prompt_tokens: 128, n_seqs: 1, ..Limits::of(&wrong.manifest.model) };
        let logits = executor_logits(&mut Engine::cpu_within(&wrong, limits).unwrap(), reference);
        let (of_logits, of_logps) = differences(reference, &logits);
        assert!(of_logits > 20.0 * TOLERANCE && of_logps > 20.0 * TOLERANCE, "unnoticed: {of_logits} {of_logps}");
    }
}

#[test]
#[ignore = "needs SmolLM2 (cargo xtask model)"]
fn it_writes_suggestions_without_scores() {
    let mut engine = engine();
    assert!(!engine.has_reward());
    let request = SuggestRequest {
        prompt: Prompt::from_query("plan a weekend in lisbon"),
        n_candidates: 2,
        max_new_tokens: 12,
        sampling: Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, seed: 3 },
    };
    let outcome = block_on(engine.suggest(&request, &|| 0.0)).unwrap();
    assert!(outcome.suggestions.iter().all(|s| s.score.is_none() && !s.text.trim().is_empty()), "{outcome:?}");
    // as the page gets it: a checkpoint file without a reward model
    let file = checkpoint().encode().unwrap();
    let again = Checkpoint::decode(&file).unwrap();
    assert_eq!((again.manifest.reward.is_none(), &again.id), (true, &checkpoint().id));
    let limits = Limits { prompt_tokens: 64, n_seqs: 2, ..Limits::of(&again.manifest.model) };
    let mut engine = Engine::cpu_within(&again, limits).unwrap();
    assert_eq!(block_on(engine.suggest(&request, &|| 0.0)).unwrap().suggestions, outcome.suggestions);
}

#[test]
#[ignore = "needs SmolLM2 (cargo xtask model)"]
fn exports_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let gguf = dir.path().join("again.gguf");
    write_gguf(checkpoint(), &gguf).unwrap();
    let again = import(&gguf, &Options::default()).unwrap();
    assert_eq!(again.tensors, checkpoint().tensors);
    let folder = dir.path().join("folder");
    write_folder(checkpoint(), &folder).unwrap();
    let plain = import(&folder, &Options { plain_format: BlockFormat::F32, ..Options::default() }).unwrap();
    assert_eq!(plain.dense("policy"), checkpoint().dense("policy"));
    let conversation = fixture().prompts[1].prompt();
    for other in [again, plain] {
        let (ours, theirs) = (checkpoint().tokenizer().unwrap(), other.tokenizer().unwrap());
        assert_eq!(theirs.encode_prompt(&conversation, 400), ours.encode_prompt(&conversation, 400));
        assert_eq!((theirs.format(), theirs.end()), (ours.format(), ours.end()));
    }
}

/// Twenty prompts: queries, other scripts, conversations, one longer than the prompt's part of the cache.
fn prompts() -> Vec<Prompt> {
    let queries = [
        "how to cook rice",
        "can my family do baking too",
        "plan a weekend in lisbon",
        "laptop",
        "best running shoes for flat feet",
        "python list comprehension",
        "cheap flights to tokyo in april",
        "symptoms of low iron",
        "guitar chords for beginners",
        "crème brûlée ohne ofen",
        "東京の天気",
        "what is 2+2?!",
        "a",
        "",
    ];
    let mut prompts: Vec<Prompt> = queries.map(Prompt::from_query).to_vec();
    prompts.extend(fixture().prompts.iter().map(Reference::prompt));
    let long = Turn { role: Role::Assistant, text: "and then ".repeat(45) };
    prompts.push(Prompt { turns: vec![long] });
    prompts
}

/// Logits of an engine behind the prompt and behind each token of `written` but the last: what it says of a text that another
/// one wrote `[T, V]`.
fn forced_logits(engine: &mut Engine, prompt: &Prompt, written: &[GreedyStep]) -> Vec<f32> {
    let ids = engine.tokenizer().encode_prompt(prompt, engine.config().max_seq_len - N_TOKENS);
    let n_prompt = ids.len();
    let row = |(i, token): (usize, u32), seq| Row { token, seq, pos: i as u32 };
    let of_prompt: Vec<Row> = ids.into_iter().enumerate().map(|at| row(at, None)).collect();
    let tokens = written[..written.len() - 1].iter().map(|step| step.token);
    let of_text: Vec<Row> = (n_prompt..).zip(tokens).map(|at| row(at, Some(0))).collect();
    let mut logits =
        block_on(engine.executor_mut().forward(Network::Policy, &of_prompt, Output::Logits(&[n_prompt - 1]))).unwrap();
    let all: Vec<usize> = (0..of_text.len()).collect();
    logits.extend(block_on(engine.executor_mut().forward(Network::Policy, &of_text, Output::Logits(&all))).unwrap());
    logits
}

fn best(logits: &[f32]) -> usize {
    let best = logits.iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(token, _)| token).expect("logits")
}

/// What f32 writes greedily, word for word before both: the fastest path of this machine has the same logits but for the
/// rounding of activations to 8 bits.
#[test]
#[ignore = "needs SmolLM2 (cargo xtask model)"]
fn eight_bit_activations_stay_near_f32() {
    let (mut exact, mut fast) = (engine(), engine_on(KernelPath::fastest()));
    let (prompts, v) = (prompts(), checkpoint().manifest.model.vocab_size);
    assert_eq!(prompts.len(), 20);
    let (mut largest, mut max_logit, mut n_steps, mut n_agreeing) = (0.0f32, 0.0f32, 0, 0);
    for prompt in &prompts {
        let written = block_on(exact.greedy(prompt, N_TOKENS)).unwrap();
        let forced = forced_logits(&mut fast, prompt, &written);
        assert_eq!(forced.len(), written.len() * v);
        for (step, logits) in written.iter().zip(forced.chunks_exact(v)) {
            for (a, b) in step.logits.iter().zip(logits) {
                let difference = (a - b).abs();
                largest = if difference.is_nan() { f32::INFINITY } else { largest.max(difference) };
                max_logit = max_logit.max(a.abs());
            }
            n_agreeing += usize::from(best(logits) == step.token as usize);
            n_steps += 1;
        }
    }
    let device = fast.executor().device_name();
    eprintln!(
        "SmolLM2: f32 and {device}: the same best token in {n_agreeing} of {n_steps} steps, logits within {largest:.3}, the \
         largest is {max_logit:.1}"
    );
    assert!(largest <= INT8_TOLERANCE, "{largest}");
    assert!(largest > EXECUTOR_TOLERANCE, "8 bits were used: {largest}");
    assert!(n_agreeing as f64 >= INT8_AGREEMENT * n_steps as f64, "{n_agreeing} of {n_steps}");
}

#[test]
#[ignore = "needs SmolLM2 (cargo xtask model) and Chromium"]
fn wgsl_in_the_browser_writes_what_the_cpu_executor_writes() {
    const N_TOKENS: usize = 8;
    let prompts = &prompts()[..3];
    let mut engine = engine();
    let written: Vec<_> = prompts.iter().map(|prompt| block_on(engine.greedy(prompt, N_TOKENS)).unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    let id = &checkpoint().id;
    std::fs::write(folder.join(format!("{id}.beckon")), checkpoint().encode().unwrap()).unwrap();
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&server.client.url, WebGpu::On);
    page.wait("window.beckon", 60, || (page.eval("typeof window.beckon?.greedy") == "function").then_some(()));
    let texts = Value::from(serde_json::to_string(prompts).unwrap());
    let report = page.eval(&format!("window.beckon.greedy({id:?}, {texts}, {N_TOKENS}, \"gpu\")"));
    let report: Value = serde_json::from_str(report.as_str().expect("JSON text")).unwrap();
    let adapter = report["adapter"].as_str().expect("an adapter");
    assert!(adapter.contains("BrowserWebGpu"), "{adapter}");
    let found = parity_of_report(&report, &written, PAGE_TOLERANCE);
    eprintln!("SmolLM2: browser ({adapter}) and native CPU executor: {found:?}, {} s", report["secs"]);
    assert!(found.holds(PAGE_TOLERANCE), "{found:?}");
    assert_eq!(page.errors(), Vec::<String>::new());
}

#[test]
#[ignore = "needs SmolLM2 (cargo xtask model) and a Vulkan adapter (lavapipe will do)"]
fn wgsl_under_vulkan_writes_what_the_cpu_executor_writes() {
    let gpu = block_on(GpuContext::request()).expect("an adapter");
    let mut on_cpu = engine();
    let mut on_gpu = block_on(Engine::gpu(checkpoint(), &gpu)).unwrap();
    let prompts = prompts();
    assert_eq!(prompts.len(), 20);
    let found = block_on(parity::compare(&mut on_cpu, &mut on_gpu, &prompts, N_TOKENS, EXECUTOR_TOLERANCE)).unwrap();
    eprintln!("SmolLM2: {} and CPU executor: {found:?}", gpu.adapter_name());
    assert!(found.holds(EXECUTOR_TOLERANCE), "{found:?}");

    // variants on fewer prompts, those with f16 within what the page's self-test allows
    let steps = block_on(on_cpu.greedy(&prompts[0], 3)).unwrap();
    let largest = steps.iter().flat_map(|step| &step.logits).fold(0.0f32, |max, logit| max.max(logit.abs()));
    for variant in [Variant { f16: false, subgroups: true }, Variant { f16: true, subgroups: false }] {
        if !block_on(on_gpu.set_variant(variant)).unwrap() {
            eprintln!("SmolLM2 with {variant}: NOT RUN, {} has not what it needs", gpu.adapter_name());
            continue;
        }
        let tolerance = if variant.f16 { 2e-3 * largest } else { EXECUTOR_TOLERANCE };
        let found = block_on(parity::compare(&mut on_cpu, &mut on_gpu, &prompts[..4], 8, tolerance)).unwrap();
        eprintln!("SmolLM2: {} and CPU executor: {found:?}", on_gpu.executor().device_name());
        assert!(found.holds(tolerance), "{variant}: {found:?}, tolerance {tolerance}");
    }
}
