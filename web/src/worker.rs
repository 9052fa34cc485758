//! The engine host inside the worker: takes requests one after the other, fetches and verifies checkpoints,
//! tests the GPU against the CPU, measures both, and answers with suggestions.
//!
//! A side's old engine stays until the new one has passed, and writes suggestions while that one is downloaded. A GPU that
//! fails while suggesting is dropped, the CPU goes on, and the answer says so.

mod load;

use crate::fetch::{self, Fetched};
use crate::platform::{clock, kernels, spawn, worker_scope};
use crate::wire::{
    CpuPath, ExecutorChoice, ExecutorKind, FromWorker, Gguf, GreedyReport, GreedyStep, LoadProgress, LoadStep, Loaded,
    Measured, Memory, Over, Reply, Request, SelfTest, Side, Suggested, Suggestion, ToWorker,
};
use beckon_shaders::GpuContext;
use beckon_shared::adapter::AdapterFile;
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::control::CheckpointInfo;
use beckon_shared::engine::{
    Engine, EngineError, Executor, KernelPath, Limits, SuggestOutcome, SuggestRequest, Variant, parity,
};
use beckon_shared::json;
use beckon_shared::prompt::Prompt;
use beckon_shared::replay::Recording;
use beckon_shared::sampling::Sampling;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::task::{Poll, Waker};

/// Requests that may wait; the page allows fewer.
const MAX_QUEUE: usize = 64;
/// Prompt of the self-test and the measurement.
const KNOWN_PROMPT: &str = "how to cook rice";
/// Greedy tokens compared in the self-test.
const SELF_TEST_TOKENS: usize = 3;
/// Logits may differ by this share of the largest one: rounding of sums in another order, no more.
const RELATIVE_TOLERANCE: f32 = 2e-3;
/// Candidates and tokens of the measurement.
const MEASURED: (usize, usize) = (4, 4);
/// Every so many logits one is reported by `Greedy`.
const SAMPLE_STRIDE: usize = 16;

/// Engines of one checkpoint.
struct Hosted {
    loaded: Loaded,
    choice: ExecutorChoice,
    cpu: Engine,
    gpu: Option<Engine>,
    /// What lies over the weights, which are then the base's.
    adapter: Option<AdapterFile>,
    /// Whether it had a GPU and lost it.
    was_lost: bool,
}

/// What is to be loaded.
struct Order {
    side: Side,
    info: CheckpointInfo,
    choice: ExecutorChoice,
    over: Option<Over>,
    gguf: Option<Gguf>,
    /// What the user picked.
    file: Option<web_sys::File>,
}

/// What the worker holds.
#[derive(Default)]
struct Host {
    sides: [Option<Hosted>; 2],
    /// The device, asked for once and again after a failure.
    gpu: Option<GpuContext>,
    /// Why the one before was given up; until it is told that there is another.
    lost: Option<String>,
}

thread_local! {
    static QUEUE: RefCell<(VecDeque<(ToWorker, Option<web_sys::File>)>, bool)> = RefCell::default();
    /// A download during which suggestions can be asked for.
    static DOWNLOAD: RefCell<Option<Waker>> = const { RefCell::new(None) };
    /// The device in use, for [`Request::LoseDevice`].
    static DEVICE: RefCell<Option<GpuContext>> = const { RefCell::new(None) };
}

/// Listens for requests for as long as the worker lives.
pub fn run() {
    let host = std::rc::Rc::new(RefCell::new(Some(Host::default())));
    worker_scope::on_message(move |text, file| {
        let message: ToWorker = match json::parse(&text) {
            Ok(message) => message,
            Err(error) => return reply(0, Reply::Failed(format!("a request was not understood: {error}"))),
        };
        let id = message.id;
        if message.request == Request::LoseDevice {
            // not behind the request at work: a driver does not wait either
            DEVICE.with_borrow(|gpu| gpu.iter().for_each(|gpu| gpu.device.destroy()));
        }
        let start = QUEUE.with_borrow_mut(|(queue, busy)| {
            if queue.len() >= MAX_QUEUE {
                return Err(());
            }
            queue.push_back((message, file));
            Ok(!std::mem::replace(busy, true))
        });
        DOWNLOAD.with_borrow(|waiting| waiting.iter().for_each(Waker::wake_by_ref));
        match start {
            Err(()) => reply(id, Reply::Failed("the engine is busy; try again in a moment".into())),
            Ok(false) => {}
            Ok(true) => {
                let host = host.clone();
                spawn(async move {
                    // one request at a time owns the host
                    let Some(mut owned) = host.take() else { return };
                    while let Some((ToWorker { id, request }, file)) = next() {
                        let answer = owned.serve(id, request, file).await.unwrap_or_else(Reply::Failed);
                        reply(id, answer);
                    }
                    host.replace(Some(owned));
                });
            }
        }
    });
    reply(0, Reply::Listening);
}

/// The next request; the queue is idle when there is none.
fn next() -> Option<(ToWorker, Option<web_sys::File>)> {
    QUEUE.with_borrow_mut(|(queue, busy)| {
        let next = queue.pop_front();
        *busy = next.is_some();
        next
    })
}

/// The next request, where it asks a side that has an engine for suggestions.
fn next_suggest(sides: &[Option<Hosted>; 2]) -> Option<(u32, Side, SuggestRequest)> {
    QUEUE.with_borrow_mut(|(queue, _)| {
        let Request::Suggest { side, .. } = queue.front()?.0.request else { return None };
        sides[side.index()].as_ref()?;
        let ToWorker { id, request } = queue.pop_front()?.0;
        let Request::Suggest { prompt, n_candidates, max_new_tokens, sampling, .. } = request else { return None };
        Some((id, side, SuggestRequest { prompt, n_candidates, max_new_tokens, sampling }))
    })
}

/// Whether a request waits that puts something else in the place of what is on its way to this side.
fn is_superseded(on_its_way: Side) -> bool {
    QUEUE.with_borrow(|(queue, _)| {
        queue.iter().any(|(message, _)| {
            matches!(message.request, Request::Load { side, .. } | Request::Unload { side } if side == on_its_way)
        })
    })
}

fn reply(id: u32, reply: Reply) {
    if let Ok(text) = serde_json::to_string(&FromWorker { id, reply }) {
        worker_scope::post(&text);
    }
}

/// Tells the page where a load stands.
struct Progress<'a> {
    id: u32,
    name: &'a str,
}

impl Progress<'_> {
    /// Also lets the browser breathe, so that the message leaves before the work begins.
    async fn at(&self, step: LoadStep) {
        self.share(step, None);
        clock::sleep(0).await;
    }

    fn share(&self, step: LoadStep, share: Option<f64>) {
        reply(self.id, Reply::Progress(LoadProgress { step, share, name: self.name.to_owned() }));
    }
}

impl Host {
    async fn serve(&mut self, id: u32, request: Request, file: Option<web_sys::File>) -> Result<Reply, String> {
        match request {
            Request::Load { side, checkpoint, executor, over, gguf } => {
                let order = Order { side, info: checkpoint, choice: executor, over, gguf, file };
                let loaded = self.load(id, order).await?;
                Ok(Reply::Loaded(Box::new(loaded)))
            }
            Request::Unload { side } => {
                self.sides[side.index()] = None;
                Ok(Reply::Done)
            }
            Request::LoseDevice => Ok(Reply::Done),
            Request::Suggest { side, prompt, n_candidates, max_new_tokens, sampling } => {
                self.suggest(side, &SuggestRequest { prompt, n_candidates, max_new_tokens, sampling }).await
            }
            Request::Greedy { checkpoint, prompts, n_tokens, executor, path } => {
                self.greedy(&checkpoint, &prompts, n_tokens, (executor, path)).await
            }
        }
    }

    /// What a download for a side brings; the engines at hand write suggestions meanwhile. It ends where something else is wanted of
    /// the side; what came is kept.
    async fn meanwhile<T>(
        &mut self,
        side: Side,
        download: impl Future<Output = Result<T, String>>,
    ) -> Result<T, String> {
        let mut download = std::pin::pin!(download);
        loop {
            let next = std::future::poll_fn(|context| {
                if let Poll::Ready(got) = download.as_mut().poll(context) {
                    return Poll::Ready(Ok(got));
                }
                if is_superseded(side) {
                    return Poll::Ready(Ok(Err("another choice was made".to_owned())));
                }
                DOWNLOAD.set(Some(context.waker().clone()));
                next_suggest(&self.sides).map_or(Poll::Pending, |request| Poll::Ready(Err(request)))
            });
            match next.await {
                Ok(got) => {
                    DOWNLOAD.set(None);
                    return got;
                }
                Err((id, side, request)) => {
                    let answer = self.suggest(side, &request).await;
                    reply(id, answer.unwrap_or_else(Reply::Failed));
                }
            }
        }
    }

    /// The GPU's engine if it gives the CPU's logits in f32; else why not. Neither has an adapter yet.
    async fn tested_gpu(
        &mut self,
        cpu: &mut Engine,
        progress: &Progress<'_>,
        self_test: &mut Option<SelfTest>,
    ) -> Result<Engine, String> {
        let mut gpu = self.gpu_engine(cpu).await.map_err(|e| format!("no usable WebGPU: {e}"))?;
        progress.at(LoadStep::SelfTest).await;
        let prompt = Prompt::from_query(KNOWN_PROMPT);
        let failed = |e: EngineError| format!("the GPU failed its self-test: {e}");
        cpu.set_exact(true);
        let of_cpu = cpu.greedy(&prompt, SELF_TEST_TOKENS).await;
        cpu.set_exact(false);
        let of_cpu = of_cpu.map_err(|e| e.to_string())?;
        let mut of_gpu = gpu.greedy(&prompt, SELF_TEST_TOKENS).await.map_err(failed)?;
        let largest = of_cpu.iter().flat_map(|step| &step.logits).fold(1.0_f32, |max, l| max.max(l.abs()));
        let tolerance = RELATIVE_TOLERANCE * largest;
        let mut parity = parity::Parity::of_steps(&of_cpu, &of_gpu, tolerance);
        if parity.holds(tolerance) && gpu.choose_variants(&clock::now_secs).await.map_err(failed)? {
            // what is faster has to pass too
            of_gpu = gpu.greedy(&prompt, SELF_TEST_TOKENS).await.map_err(failed)?;
            let chosen = parity::Parity::of_steps(&of_cpu, &of_gpu, tolerance);
            if chosen.holds(tolerance) {
                parity = chosen;
            } else {
                gpu.set_variant(Variant::PLAIN).await.map_err(failed)?;
            }
        }
        let n_compared = of_cpu.iter().map(|step| step.logits.len()).sum();
        *self_test = Some(SelfTest { max_abs_diff: parity.max_logit_diff, tolerance, n_compared });
        if parity.holds(tolerance) {
            return Ok(gpu);
        }
        self.gpu = None;
        Err(format!(
            "the GPU gives other logits than the CPU (by {:.3}, allowed {tolerance:.3}), so it is not used",
            parity.max_logit_diff
        ))
    }

    /// The networks of the CPU's engine on the GPU.
    async fn gpu_engine(&mut self, cpu: &Engine) -> Result<Engine, String> {
        if self.gpu.as_ref().is_none_or(|gpu| gpu.check().is_err()) {
            let gpu = GpuContext::request().await.map_err(|e| e.to_string())?;
            DEVICE.set(Some(gpu.clone()));
            self.gpu = Some(gpu);
        }
        let Some(gpu) = &self.gpu else { return Err("no device".into()) };
        let engine = cpu.gpu_beside(gpu).await.map_err(|e| e.to_string());
        if engine.is_err() {
            self.gpu = None;
        }
        engine
    }

    async fn suggest(&mut self, side: Side, request: &SuggestRequest) -> Result<Reply, String> {
        let mut suggested = self.suggested(side, request).await?;
        suggested.memory = self.memory();
        Ok(Reply::Suggested(Box::new(suggested)))
    }

    async fn suggested(&mut self, side: Side, request: &SuggestRequest) -> Result<Suggested, String> {
        let hosted = self.sides[side.index()].as_mut().ok_or("no checkpoint is loaded on this side")?;
        if let Some(gpu) = &mut hosted.gpu {
            match gpu.suggest(request, &clock::now_secs).await {
                Ok(outcome) => return Ok(suggested(request, outcome, hosted)),
                Err(error @ EngineError::Gpu(_)) => {
                    let why = fault(&mut self.gpu, &error).await;
                    hosted.drop_gpu(&why);
                    self.lost = Some(why);
                }
                // the CPU would refuse it too
                Err(error) => return Err(error.to_string()),
            }
        }
        let outcome = hosted.cpu.suggest(request, &clock::now_secs).await.map_err(|e| e.to_string())?;
        Ok(suggested(request, outcome, hosted))
    }

    fn memory(&self) -> Memory {
        let engines = self.sides.iter().flatten().filter_map(|hosted| hosted.gpu.as_ref());
        let of = |engine: &Engine| match engine.executor() {
            Executor::Gpu(executor) => executor.n_bytes(),
            Executor::Cpu(_) => 0,
        };
        Memory { wasm_bytes: kernels::memory_bytes(), device_bytes: engines.map(of).sum() }
    }

    async fn greedy(
        &mut self,
        info: &CheckpointInfo,
        prompts: &[Prompt],
        n_tokens: usize,
        (executor, path): (ExecutorKind, CpuPath),
    ) -> Result<Reply, String> {
        let Fetched { file: checkpoint, .. } = fetch::checkpoint(info, &|_| {}).await?;
        let mut engine = cpu_engine_on(checkpoint, path)?;
        if executor == ExecutorKind::Gpu {
            engine = self.gpu_engine(&engine).await?;
        }
        let begun = clock::now_secs();
        let mut all = Vec::new();
        for prompt in prompts {
            let steps = engine.greedy(prompt, n_tokens).await.map_err(|e| e.to_string())?;
            all.push(steps.into_iter().map(|step| greedy_step(step.token, &step.logits)).collect());
        }
        Ok(Reply::Greedy(GreedyReport {
            checkpoint: info.id.clone(),
            executor,
            adapter: device_name(&engine),
            sample_stride: SAMPLE_STRIDE,
            prompts: all,
            secs: clock::now_secs() - begun,
        }))
    }
}

impl Hosted {
    fn drop_gpu(&mut self, why: &str) {
        self.gpu = None;
        self.was_lost = true;
        self.loaded.executor = ExecutorKind::Cpu;
        self.loaded.adapter = device_name(&self.cpu);
        self.loaded.why = format!("the GPU failed ({why}), so the CPU goes on");
    }
}

/// What runs, on how many threads.
fn device_name(engine: &Engine) -> String {
    let name = engine.executor().device_name();
    match engine.executor() {
        Executor::Cpu(cpu) if kernels::n_threads(cpu.kernel_path()) > 1 => {
            format!("{name}, {} threads", kernels::n_threads(cpu.kernel_path()))
        }
        _ => name,
    }
}

/// Gives a device up, and says what became of it, or else what its work failed with.
async fn fault(gpu: &mut Option<GpuContext>, error: &EngineError) -> String {
    // what is said of a lost device comes a moment after its work has failed
    clock::sleep(0).await;
    let fault = gpu.take().and_then(|gpu| gpu.check().err());
    fault.map_or_else(|| error.to_string(), |fault| fault.to_string())
}

/// The CPU's engine on the fastest kernel path of this module.
fn cpu_engine(checkpoint: Checkpoint) -> Result<Engine, String> {
    cpu_engine_on(checkpoint, CpuPath::Fastest)
}

fn cpu_engine_on(checkpoint: Checkpoint, path: CpuPath) -> Result<Engine, String> {
    let kernel_path = match path {
        CpuPath::Fastest => KernelPath::fastest(),
        CpuPath::F32 => KernelPath::F32,
        CpuPath::Simd128 => KernelPath::Int8Simd128,
    };
    let limits = Limits { kernel_path, ..Limits::of(&checkpoint.manifest.model) };
    Engine::cpu_of(checkpoint, limits).map_err(|e| e.to_string())
}

/// Decoded tokens per second of an executor on a short job; the first round warms up.
async fn measure(executor: ExecutorKind, engine: &mut Engine) -> Result<Measured, EngineError> {
    let (n_candidates, max_new_tokens) = MEASURED;
    let sampling = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 0 };
    let prompt = Prompt::from_query(KNOWN_PROMPT);
    let request = SuggestRequest { prompt, n_candidates, max_new_tokens, sampling };
    let mut tokens_per_sec = 0.0;
    for _ in 0..2 {
        let outcome = engine.suggest(&request, &clock::now_secs).await?;
        let secs = outcome.prefill_secs + outcome.decode_secs + outcome.score_secs;
        tokens_per_sec = outcome.n_decoded_tokens as f64 / secs.max(1e-6);
    }
    Ok(Measured { executor, tokens_per_sec })
}

fn faster(measured: &[Measured]) -> (ExecutorKind, String) {
    let speed = |kind| measured.iter().find(|m| m.executor == kind).map_or(0.0, |m| m.tokens_per_sec);
    let (cpu, gpu) = (speed(ExecutorKind::Cpu), speed(ExecutorKind::Gpu));
    let kind = if gpu >= cpu { ExecutorKind::Gpu } else { ExecutorKind::Cpu };
    (kind, format!("measured just now: GPU {gpu:.0} tokens/s, CPU {cpu:.0} tokens/s; both passed the self-test"))
}

fn suggested(request: &SuggestRequest, outcome: SuggestOutcome, hosted: &Hosted) -> Suggested {
    let loaded = &hosted.loaded;
    let mut recording = Recording::of(&loaded.checkpoint.id, loaded.adapter.clone(), request, &outcome);
    recording.adapter = hosted.adapter.as_ref().map(|adapter| adapter.id.clone());
    let candidates = outcome.suggestions.into_iter().map(|s| Suggestion {
        n_tokens: s.tokens.len(),
        logp_nats: s.logps.iter().sum(),
        text: s.text,
        score: s.score,
        finished: s.finished,
    });
    Suggested {
        candidates: candidates.collect(),
        n_prompt_tokens: outcome.n_prompt_tokens,
        n_decoded_tokens: outcome.n_decoded_tokens,
        prefill_secs: outcome.prefill_secs,
        decode_secs: outcome.decode_secs,
        score_secs: outcome.score_secs,
        memory: Memory::default(),
        fills_context: outcome.n_prompt_tokens + request.max_new_tokens >= loaded.max_seq_len,
        engine: loaded.clone(),
        recording: serde_json::to_string(&recording).unwrap_or_default(), // texts and numbers always have a JSON form
    }
}

fn greedy_step(token: u32, logits: &[f32]) -> GreedyStep {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
    GreedyStep {
        token,
        top: order.iter().take(5).map(|i| (*i, logits[*i as usize])).collect(),
        sample: logits.iter().copied().step_by(SAMPLE_STRIDE).collect(),
        max_abs: logits.iter().fold(0.0, |max, l| max.max(l.abs())),
    }
}
