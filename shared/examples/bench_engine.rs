//! The engine on random weights: prefill, decode of one candidate and of eight as one batch, scoring, the whole
//! job of the page; shaped like the nano preset and like SmolLM2-135M; on the CPU and, where there is an adapter,
//! on the GPU.
//!
//! One JSON line a figure, `name, device, unit, ours, rival, rival_name, ratio`; medians of five rounds. The rival is
//! measured in the same rounds, turn and turn about: the same work one row or one candidate after the other, the same
//! network in f32 or decoding its blocks in every pass, or for a GPU the CPU executor. `cargo xtask bench engine`
//! runs it; a part of a name picks figures.

use beckon_shaders::ready;
use beckon_shared::checkpoint::{Checkpoint, Lineage, Manifest, RewardConfig};
use beckon_shared::config::{ModelConfig, Preset, reward_head_names, tensor_names};
use beckon_shared::engine::{Engine, GpuContext, KernelPath, Limits, Network, Output, Row};
use beckon_shared::quant::{BlockFormat, Matrix, f16_from_f32};
use beckon_shared::sampling::{Sampler, Sampling};
use beckon_shared::tokenizer::Tokenizer;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Rounds of a comparison; a figure is their median.
const N_ROUNDS: usize = 5;
/// Each side works about this long in a round, and once at least.
const ROUND: Duration = Duration::from_millis(200);

/// What is measured.
#[derive(Clone, Copy)]
struct Job {
    prompt_tokens: u32,
    new_tokens: u32,
    candidates: u32,
}

/// A network of random weights.
struct Subject {
    /// In figures' names, empty or with a dot at its end.
    prefix: &'static str,
    /// For people.
    label: &'static str,
    job: Job,
    checkpoint: Checkpoint,
}

/// The preset that ships, 8-bit blocks.
fn nano() -> Subject {
    let job = Job { prompt_tokens: 96, new_tokens: 16, candidates: 8 };
    let checkpoint = checkpoint(Preset::Nano.model(), |_| BlockFormat::Q8);
    Subject { prefix: "", label: "nano, Q8", job, checkpoint }
}

/// SmolLM2-135M: matrices Q4, embedding Q8, as in the GGUF file of that name.
fn smollm2() -> Subject {
    let format = |name: &str| if name.contains("embed") { BlockFormat::Q8 } else { BlockFormat::Q4 };
    let job = Job { prompt_tokens: 64, new_tokens: 12, candidates: 8 };
    Subject {
        prefix: "smollm2.",
        label: "SmolLM2-135M's shape, Q4",
        job,
        checkpoint: checkpoint(ModelConfig::smollm2(), format),
    }
}

struct Noise(u64);

impl Noise {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }
}

/// Codes at random; scales that keep activations of order 1; vectors of ones.
fn matrix(shape: &[usize], format: BlockFormat, noise: &mut Noise) -> Matrix {
    let [rows, cols] = shape else {
        let cols = shape[0];
        return Matrix { rows: 1, cols, format: BlockFormat::F32, quants: vec![1f32.to_bits(); cols], scales: vec![] };
    };
    let (rows, cols) = (*rows, *cols);
    let (n_quants, n_scales) = format.n_words(rows, cols).expect("whole blocks");
    let width = 1.0 / (cols as f32).sqrt();
    let half = |value: f32| u32::from(f16_from_f32(value));
    let scale = match format {
        BlockFormat::Q4 => half(width / 8.0) | half(-width) << 16,
        _ => half(width / 128.0) * 0x0001_0001,
    };
    let quants = match format {
        BlockFormat::F32 => (0..n_quants).map(|_| (width * (noise.word() as f32 / 2e9 - 1.0)).to_bits()).collect(),
        _ => (0..n_quants).map(|_| noise.word()).collect(),
    };
    Matrix { rows, cols, format, quants, scales: vec![scale; n_scales] }
}

fn checkpoint(model: ModelConfig, format: impl Fn(&str) -> BlockFormat) -> Checkpoint {
    let feature_dims = 32;
    let mut noise = Noise(1);
    let mut tensors = BTreeMap::new();
    for prefix in ["policy", "reward"] {
        for (name, shape) in tensor_names(&model) {
            tensors.insert(format!("{prefix}.{name}"), matrix(&shape, format(&name), &mut noise));
        }
    }
    for (name, shape) in reward_head_names(&model, feature_dims) {
        tensors.insert(format!("reward.{name}"), matrix(&shape, BlockFormat::F32, &mut noise));
    }
    let lineage =
        Lineage { command: "bench_engine".into(), device: "cpu".into(), simulated: true, ..Lineage::default() };
    let manifest = Manifest {
        format_version: beckon_shared::checkpoint::FORMAT_VERSION,
        name: "bench".into(),
        model,
        prompt_format: None,
        reward: Some(RewardConfig { variance_floor: 0.01, feature_dims, kappa: 0.1, n_layers: None }),
        lineage,
        tokenizer: (0, 0),
        tensors: vec![],
        chunks: vec![],
        payload_bytes: 0,
    };
    let tokenizer = Tokenizer::train(["how to cook rice"], 280).expect("trains");
    Checkpoint { id: String::new(), manifest, tokenizer_json: tokenizer.to_json().to_owned(), tensors }
}

/// An engine and what it is asked to do.
struct Bench {
    engine: RefCell<Engine>,
    job: Job,
}

impl Bench {
    fn cpu(subject: &Subject, path: KernelPath, plain_bytes: usize) -> Self {
        let limits = Limits { kernel_path: path, plain_bytes, ..Limits::of(&subject.checkpoint.manifest.model) };
        let engine = Engine::cpu_within(&subject.checkpoint, limits).expect("cpu engine");
        Self { engine: RefCell::new(engine), job: subject.job }
    }

    fn run(&self, network: Network, rows: &[Row], output: Output<'_>) -> Vec<f32> {
        let mut engine = self.engine.borrow_mut();
        ready(engine.executor_mut().forward(network, rows, output)).expect("native").expect("runs")
    }

    fn prompt_rows(&self) -> Vec<Row> {
        (0..self.job.prompt_tokens).map(|pos| Row { token: pos * 37 % 4000, seq: None, pos }).collect()
    }

    /// The prompt in passes of `rows_per_call`.
    fn prefill(&self, rows_per_call: usize) {
        for rows in self.prompt_rows().chunks(rows_per_call) {
            self.run(Network::Policy, rows, Output::Logits(&[rows.len() - 1]));
        }
    }

    fn prefill_whole(&self) {
        self.prefill(self.job.prompt_tokens as usize);
    }

    /// Steps of the given candidates as one batch, behind a prompt that is there; tokens are drawn where
    /// `samplers` has someone for it.
    fn decode(&self, seqs: std::ops::Range<u32>, samplers: &mut [Sampler]) {
        let wanted: Vec<usize> = (0..seqs.len()).collect();
        let v = self.engine.borrow().config().vocab_size;
        let mut tokens: Vec<u32> = seqs.clone().map(|seq| 300 + seq).collect();
        for pos in self.job.prompt_tokens..self.job.prompt_tokens + self.job.new_tokens {
            let row = |(seq, token): (u32, &u32)| Row { token: *token, seq: Some(seq), pos };
            let rows: Vec<Row> = seqs.clone().zip(&tokens).map(row).collect();
            let logits = self.run(Network::Policy, &rows, Output::Logits(&wanted));
            tokens.iter_mut().for_each(|token| *token = (*token + 97) % v as u32);
            for ((token, logits), sampler) in tokens.iter_mut().zip(logits.chunks_exact(v)).zip(samplers.iter_mut()) {
                *token = sampler.draw(logits).expect("logits").token;
            }
        }
    }

    fn decode_batch(&self) {
        self.decode(0..self.job.candidates, &mut []);
    }

    fn decode_one(&self) {
        self.decode(0..1, &mut []);
    }

    fn decode_one_by_one(&self) {
        (0..self.job.candidates).for_each(|seq| self.decode(seq..seq + 1, &mut []));
    }

    fn suffix_rows(&self, seq: u32) -> impl Iterator<Item = Row> {
        let first = self.job.prompt_tokens;
        (0..self.job.new_tokens).map(move |i| Row { token: 9 + i, seq: Some(seq), pos: first + i })
    }

    /// Hidden states of all candidates behind one prompt.
    fn score(&self) {
        self.run(Network::Reward, &self.prompt_rows(), Output::Logits(&[]));
        let rows: Vec<Row> = (0..self.job.candidates).flat_map(|seq| self.suffix_rows(seq)).collect();
        self.run(Network::Reward, &rows, Output::Hidden);
    }

    /// The same with the prompt again for each.
    fn score_apart(&self) {
        for seq in 0..self.job.candidates {
            self.run(Network::Reward, &self.prompt_rows(), Output::Logits(&[]));
            self.run(Network::Reward, &self.suffix_rows(seq).collect::<Vec<_>>(), Output::Hidden);
        }
    }

    /// The page's job: prompt, candidates drawn as the page draws them, all scored.
    fn suggest(&self) {
        let sampling = Sampling { temperature: 0.8, top_k: 0, top_p: 0.95, seed: 0 };
        let samplers = (0..u64::from(self.job.candidates)).map(|stream| Sampler::new(&sampling, stream));
        self.prefill_whole();
        self.decode(0..self.job.candidates, &mut samplers.collect::<Result<Vec<_>, _>>().expect("settings"));
        self.score();
    }

    fn device(&self, subject: &Subject) -> String {
        let name = self.engine.borrow().executor().device_name();
        let processor = if self.kind() == "cpu" { format!(" of {}", processor()) } else { String::new() };
        format!("{name}{processor}, {}", subject.label)
    }

    fn kind(&self) -> &'static str {
        self.engine.borrow().executor().kind()
    }
}

/// The processor in words.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name"));
    model.unwrap_or("unknown processor").trim_start_matches([':', ' ', '\t']).to_owned()
}

/// Seconds of a run of each side, round by round; the sides take turns, so both see the same machine.
fn rounds(mut ours: impl FnMut(), mut rival: impl FnMut()) -> Vec<(f64, f64)> {
    let n_times = [n_times(&mut ours), n_times(&mut rival)];
    (0..N_ROUNDS).map(|_| (secs(&mut ours, n_times[0]), secs(&mut rival, n_times[1]))).collect()
}

/// How often a round runs this; one run warms up, another is measured.
fn n_times(work: &mut dyn FnMut()) -> u32 {
    work();
    (ROUND.as_secs_f64() / secs(work, 1)).clamp(1.0, 10_000.0) as u32
}

/// Seconds of one of `n_times` runs.
fn secs(work: &mut dyn FnMut(), n_times: u32) -> f64 {
    let start = Instant::now();
    (0..n_times).for_each(|_| work());
    start.elapsed().as_secs_f64() / f64::from(n_times)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median of each side.
fn medians(rounds: &[(f64, f64)]) -> (f64, f64) {
    (median(rounds.iter().map(|round| round.0)), median(rounds.iter().map(|round| round.1)))
}

/// Prints one figure; both sides did `n_tokens` a run.
fn figure(name: &str, device: &str, n_tokens: u32, rival_name: &str, rounds: &[(f64, f64)]) {
    let (ours, rival) = medians(rounds);
    let per_sec = |secs: f64| f64::from(n_tokens) / secs;
    let line = serde_json::json!({
        "name": name, "device": device, "unit": "tokens/s", "ours": per_sec(ours), "rival": per_sec(rival),
        "rival_name": rival_name, "ratio": rival / ours,
    });
    println!("{line}");
}

/// The figures of one engine against the same engine doing less at once.
fn batching(subject: &Subject, bench: &Bench, wanted: &dyn Fn(&str) -> bool) {
    let (prefix, kind, device) = (subject.prefix, bench.kind(), bench.device(subject));
    let Job { prompt_tokens, new_tokens, candidates } = subject.job;
    let name = format!("engine.{kind}.{prefix}prefill");
    if wanted(&name) {
        let rounds = rounds(|| bench.prefill_whole(), || bench.prefill(1));
        figure(&name, &device, prompt_tokens, "token by token", &rounds);
    }
    let name = format!("engine.{kind}.{prefix}decode_8");
    if wanted(&name) {
        bench.prefill_whole();
        let rounds = rounds(|| bench.decode_batch(), || bench.decode_one_by_one());
        figure(&name, &device, candidates * new_tokens, "sequential", &rounds);
    }
    let name = format!("engine.{kind}.{prefix}batch_cost");
    if wanted(&name) {
        bench.prefill_whole();
        let rounds = rounds(|| bench.decode_one(), || bench.decode_batch());
        let cost = median(rounds.iter().map(|(one, eight)| eight / one));
        let unit = "times one candidate's step, for eight";
        println!("{}", serde_json::json!({"name": name, "device": device, "unit": unit, "ours": cost}));
    }
    let name = format!("engine.{kind}.{prefix}score_8");
    if wanted(&name) {
        let rounds = rounds(|| bench.score(), || bench.score_apart());
        figure(&name, &device, candidates * new_tokens, "prompt again for each", &rounds);
    }
}

/// The figures of one engine against another.
fn against(subject: &Subject, ours: &Bench, (rival, rival_name): (&Bench, &str), wanted: &dyn Fn(&str) -> bool) {
    let (prefix, kind, device) = (subject.prefix, ours.kind(), ours.device(subject));
    let Job { prompt_tokens, new_tokens, candidates } = subject.job;
    let works: [(&str, u32, fn(&Bench)); 4] = [
        ("prefill_vs", prompt_tokens, Bench::prefill_whole),
        ("decode_1_vs", new_tokens, Bench::decode_one),
        ("decode_8_vs", candidates * new_tokens, Bench::decode_batch),
        ("suggest_vs", candidates * new_tokens, Bench::suggest),
    ];
    for (name, n_tokens, work) in works {
        let name = format!("engine.{kind}.{prefix}{name}");
        if wanted(&name) {
            [ours, rival].iter().for_each(|bench| bench.prefill_whole());
            figure(&name, &device, n_tokens, rival_name, &rounds(|| work(ours), || work(rival)));
        }
    }
}

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    let wanted = |name: &str| name.contains(&only);
    let subject = nano();
    let fast = Bench::cpu(&subject, KernelPath::fastest(), 0);
    let plain = Bench::cpu(&subject, KernelPath::F32, usize::MAX);
    batching(&subject, &fast, &wanted);
    against(&subject, &fast, (&plain, "f32 throughout"), &wanted);
    match ready(GpuContext::request()).expect("native") {
        Ok(context) => {
            let engine = ready(Engine::gpu(&subject.checkpoint, &context)).expect("native").expect("gpu engine");
            let gpu = Bench { engine: RefCell::new(engine), job: subject.job };
            batching(&subject, &gpu, &wanted);
            against(&subject, &gpu, (&fast, "cpu executor"), &wanted);
        }
        Err(why) => eprintln!("not run on a gpu: {why}"),
    }
    if ["prefill", "decode_8", "batch_cost", "score_8", "prefill_vs", "decode_1_vs", "decode_8_vs", "suggest_vs"]
        .iter()
        .any(|name| wanted(&format!("engine.cpu.smollm2.{name}")))
    {
        let subject = smollm2();
        let fast = Bench::cpu(&subject, KernelPath::fastest(), 0);
        batching(&subject, &fast, &wanted);
        let decoding = Bench::cpu(&subject, KernelPath::F32, 0);
        against(&subject, &fast, (&decoding, "f32, blocks decoded in every pass"), &wanted);
    }
}
