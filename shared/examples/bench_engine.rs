//! Tokens a second of the engine on random weights of the nano preset: prefill, decode of one candidate,
//! decode of eight as one batch, scoring; on the CPU and, where there is an adapter, on the GPU.
//!
//! One JSON line a figure, `name, device, unit, ours, rival, rival_name, ratio`. The rival is measured in
//! the same run, turn and turn about: the same work one row or one candidate after the other, the same
//! network decoding its blocks in every pass, or for a GPU the CPU executor. `cargo xtask bench engine` runs it.

use beckon_shaders::ready;
use beckon_shared::checkpoint::{Checkpoint, Formats, Lineage, Parts, RewardConfig};
use beckon_shared::config::{ModelConfig, Preset, reward_head_names, tensor_names};
use beckon_shared::engine::{Engine, GpuContext, Limits, Network, Output, Row};
use beckon_shared::quant::BlockFormat;
use beckon_shared::tensor::{DenseTensor, TensorMap};
use beckon_shared::tokenizer::Tokenizer;
use std::cell::RefCell;
use std::time::{Duration, Instant};

const PROMPT_TOKENS: usize = 96;
const NEW_TOKENS: usize = 16;
const CANDIDATES: usize = 8;
/// Each side of a comparison runs for about this long.
const BUDGET: Duration = Duration::from_millis(1000);

fn random(names: Vec<(String, Vec<usize>)>) -> TensorMap {
    let mut state = 1u64;
    let mut value = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / 8_388_608.0 - 1.0) * 0.1
    };
    let mut tensor = |shape: Vec<usize>| {
        let data = (0..shape.iter().product()).map(|_| value()).collect();
        DenseTensor::new(shape, data)
    };
    names.into_iter().map(|(name, shape)| (name, tensor(shape))).collect()
}

fn checkpoint(model: &ModelConfig) -> Checkpoint {
    let format = BlockFormat::Q8;
    let (policy, dims) = (random(tensor_names(model)), 32);
    let reward = random([tensor_names(model), reward_head_names(model, dims)].concat());
    let lineage = Lineage {
        data_hash: String::new(),
        sources: vec![],
        parent: None,
        config: serde_json::Value::Null,
        seed: 0,
        commit: None,
        command: "bench_engine".into(),
        device: "cpu".into(),
        simulated: true,
        attribution: vec![],
    };
    let reward_config = RewardConfig { variance_floor: 0.01, feature_dims: dims, kappa: 0.1 };
    let tokenizer = Tokenizer::train(["how to cook rice"], 280).expect("trains");
    let parts = Parts { name: "bench".into(), model, reward: reward_config, lineage, tokenizer: &tokenizer };
    Checkpoint::build(parts, &policy, &reward, Formats { policy: format, reward: format }).expect("builds")
}

fn run(engine: &mut Engine, network: Network, rows: &[Row], output: Output<'_>) {
    ready(engine.executor_mut().forward(network, rows, output)).expect("native").expect("runs");
}

fn prompt_rows(n: usize) -> Vec<Row> {
    (0..n).map(|i| Row { token: (i * 37 % 4000) as u32, seq: None, pos: i as u32 }).collect()
}

/// The prompt in passes of `rows_per_call`.
fn prefill(engine: &mut Engine, rows_per_call: usize) {
    for rows in prompt_rows(PROMPT_TOKENS).chunks(rows_per_call) {
        run(engine, Network::Policy, rows, Output::Logits(&[rows.len() - 1]));
    }
}

/// `NEW_TOKENS` steps of the given candidates as one batch, behind a prompt that is there.
fn decode(engine: &mut Engine, seqs: std::ops::Range<u32>) {
    let wanted: Vec<usize> = (0..seqs.len()).collect();
    for step in 0..NEW_TOKENS {
        let pos = (PROMPT_TOKENS + step) as u32;
        let rows: Vec<Row> = seqs.clone().map(|s| Row { token: 300 + s + pos, seq: Some(s), pos }).collect();
        run(engine, Network::Policy, &rows, Output::Logits(&wanted));
    }
}

fn decode_one_by_one(engine: &mut Engine) {
    (0..CANDIDATES as u32).for_each(|seq| decode(engine, seq..seq + 1));
}

fn suffix_rows(seq: u32) -> impl Iterator<Item = Row> {
    (0..NEW_TOKENS).map(move |i| Row { token: 9 + i as u32, seq: Some(seq), pos: (PROMPT_TOKENS + i) as u32 })
}

/// Hidden states of eight candidates of `NEW_TOKENS` tokens behind one prompt.
fn score(engine: &mut Engine) {
    run(engine, Network::Reward, &prompt_rows(PROMPT_TOKENS), Output::Logits(&[]));
    let rows: Vec<Row> = (0..CANDIDATES as u32).flat_map(suffix_rows).collect();
    run(engine, Network::Reward, &rows, Output::Hidden);
}

/// The same with the prompt again for each.
fn score_apart(engine: &mut Engine) {
    for seq in 0..CANDIDATES as u32 {
        run(engine, Network::Reward, &prompt_rows(PROMPT_TOKENS), Output::Logits(&[]));
        run(engine, Network::Reward, &suffix_rows(seq).collect::<Vec<_>>(), Output::Hidden);
    }
}

/// Seconds of the fastest run of each side; the sides take turns, so both see the same machine.
fn fastest(mut ours: impl FnMut(), mut rival: impl FnMut()) -> (f64, f64) {
    let timed = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    let mut best = (f64::INFINITY, f64::INFINITY);
    let start = Instant::now();
    while start.elapsed() < 2 * BUDGET || best.0.is_infinite() {
        best = (best.0.min(timed(&mut ours)), best.1.min(timed(&mut rival)));
    }
    best
}

/// Prints one figure; both sides did `n_tokens`.
fn figure(name: &str, device: &str, n_tokens: usize, rival_name: &str, (ours, rival): (f64, f64)) {
    let per_sec = |secs: f64| n_tokens as f64 / secs;
    let line = serde_json::json!({
        "name": name, "device": device, "unit": "tokens/s", "ours": per_sec(ours), "rival": per_sec(rival),
        "rival_name": rival_name, "ratio": rival / ours,
    });
    println!("{line}");
}

/// The figures of one engine against the same engine doing less at once.
fn batching(engine: &RefCell<Engine>, wanted: &dyn Fn(&str) -> bool) {
    let (kind, device) = (engine.borrow().executor().kind(), device(&engine.borrow()));
    let with = |work: &dyn Fn(&mut Engine)| work(&mut engine.borrow_mut());
    let name = format!("engine.{kind}.prefill");
    if wanted(&name) {
        let secs = fastest(|| with(&|e| prefill(e, PROMPT_TOKENS)), || with(&|e| prefill(e, 1)));
        figure(&name, &device, PROMPT_TOKENS, "token by token", secs);
    }
    let name = format!("engine.{kind}.decode_8");
    if wanted(&name) {
        with(&|e| prefill(e, PROMPT_TOKENS));
        let secs = fastest(|| with(&|e| decode(e, 0..CANDIDATES as u32)), || with(&decode_one_by_one));
        figure(&name, &device, CANDIDATES * NEW_TOKENS, "sequential", secs);
    }
    let name = format!("engine.{kind}.score_8");
    if wanted(&name) {
        let secs = fastest(|| with(&score), || with(&score_apart));
        figure(&name, &device, CANDIDATES * NEW_TOKENS, "prompt again for each", secs);
    }
}

/// The figures of one engine against another.
fn against(ours: &RefCell<Engine>, rival: &RefCell<Engine>, rival_name: &str, wanted: &dyn Fn(&str) -> bool) {
    let (kind, device) = (ours.borrow().executor().kind(), device(&ours.borrow()));
    let name = format!("engine.{kind}.prefill_vs");
    if wanted(&name) {
        let work = |e: &RefCell<Engine>| prefill(&mut e.borrow_mut(), PROMPT_TOKENS);
        figure(&name, &device, PROMPT_TOKENS, rival_name, fastest(|| work(ours), || work(rival)));
    }
    for n in [1, CANDIDATES as u32] {
        let name = format!("engine.{kind}.decode_{n}_vs");
        if wanted(&name) {
            [ours, rival].iter().for_each(|e| prefill(&mut e.borrow_mut(), PROMPT_TOKENS));
            let work = |e: &RefCell<Engine>| decode(&mut e.borrow_mut(), 0..n);
            figure(&name, &device, n as usize * NEW_TOKENS, rival_name, fastest(|| work(ours), || work(rival)));
        }
    }
}

fn device(engine: &Engine) -> String {
    format!("{}, nano, Q8", engine.executor().device_name())
}

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    let wanted = |name: &str| name.contains(&only);
    let model = Preset::Nano.model();
    let quantized = checkpoint(&model);
    let cpu = RefCell::new(Engine::cpu(&quantized).expect("cpu engine"));
    let in_blocks = Limits { plain_bytes: 0, ..Limits::of(&model) };
    let decoding = RefCell::new(Engine::cpu_within(&quantized, in_blocks).expect("cpu engine"));
    batching(&cpu, &wanted);
    against(&cpu, &decoding, "decoding Q8 in every pass", &wanted);
    match ready(GpuContext::request()).expect("native") {
        Ok(context) => {
            let gpu = RefCell::new(ready(Engine::gpu(&quantized, &context)).expect("native").expect("gpu engine"));
            batching(&gpu, &wanted);
            against(&gpu, &cpu, "cpu executor", &wanted);
        }
        Err(why) => eprintln!("not run on a gpu: {why}"),
    }
}
