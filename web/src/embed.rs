//! `window.beckon`: the page's engine for tests and embedding. Every function returns a promise of JSON
//! text (text, because every automation protocol carries it) or rejects with an `Error` for people.
//!
//! - `beckon.ready()`: loads the newest checkpoint unless one is there; then as `status()`.
//! - `beckon.status()`: `{"state": "idle" | "loading" | "ready" | "failed", "error": …, "engine": Loaded | null}`;
//!   `engine` holds `executor` (`"cpu"`, `"gpu"`), `why`, `adapter`, `checkpoint` (`id`, `name`, `simulated`, …),
//!   `self_test`, `measured`.
//! - `beckon.greedy(checkpoint_id | null, prompts_json, n_tokens, "cpu" | "cpu-f32" | "cpu-simd128" | "gpu")`: greedy decoding on
//!   exactly that executor, with no fallback (`cpu` is the path that suggests, `cpu-f32` the one that the GPU is tested
//!   against, `cpu-simd128` the one of browsers without relaxed vectors); `prompts_json` is a list of queries (text) or conversations
//!   (`[{"role": "user", "text": …}, …]`). Gives a [`crate::wire::GreedyReport`]: per prompt and step the token, the five
//!   best `[token, logit]`, every `sample_stride`-th logit and the largest absolute one.
//! - `beckon.suggest(prompt_json, options_json | null)`: suggestions of side A; options `n_candidates` (8),
//!   `max_new_tokens` (16), `temperature` (0.8), `top_k` (0), `top_p` (0.95), `seed` (0). Gives a
//!   [`crate::wire::Suggested`].
//! - `beckon.open_gguf(address)`: loads a GGUF file of this origin in place of the checkpoint; then as `status()`. It has no
//!   reward model, so nothing is scored.
//! - `beckon.lose_device()`: gives the GPU's device up, as a driver may at any time; for the test that the page recovers.

use crate::engine_link::{EngineLink, Opened, UNEXPECTED};
use crate::live::Live;
use crate::platform::clock;
use crate::platform::promise::{PublicFunction, from_future, publish};
use crate::wire::{CpuPath, ExecutorKind, Gguf, Reply, Request, Side};
use beckon_shared::control::CheckpointInfo;
use beckon_shared::prompt::{Prompt, Turn};
use beckon_shared::sampling::Sampling;
use leptos::prelude::*;
use serde::Deserialize;
use serde_json::json;

/// A query or a whole conversation.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyPrompt {
    Query(String),
    Turns(Vec<Turn>),
}

impl From<AnyPrompt> for Prompt {
    fn from(any: AnyPrompt) -> Self {
        match any {
            AnyPrompt::Query(query) => Self::from_query(query),
            AnyPrompt::Turns(turns) => Self { turns },
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SuggestOptions {
    n_candidates: usize,
    max_new_tokens: usize,
    temperature: f32,
    top_k: usize,
    top_p: f32,
    seed: u64,
}

impl Default for SuggestOptions {
    fn default() -> Self {
        Self { n_candidates: 8, max_new_tokens: 16, temperature: 0.8, top_k: 0, top_p: 0.95, seed: 0 }
    }
}

/// Puts the interface on `window`.
pub fn install(live: Live, engine: EngineLink) {
    let ready: PublicFunction = Box::new(move |_| {
        from_future(async move {
            engine.ready(Side::A).await?;
            Ok(status(engine))
        })
    });
    let status_of: PublicFunction = Box::new(move |_| from_future(async move { Ok(status(engine)) }));
    let greedy: PublicFunction = Box::new(move |args| {
        let [id, prompts, n_tokens, executor] = args;
        from_future(run_greedy(live, engine, id.text(), prompts.text(), n_tokens.number(), executor.text()))
    });
    let suggest: PublicFunction = Box::new(move |args| {
        let [prompt, options, ..] = args;
        from_future(run_suggest(engine, prompt.text(), options.text()))
    });
    let open: PublicFunction = Box::new(move |args| {
        let [address, ..] = args;
        from_future(open_gguf(engine, address.text()))
    });
    let lose: PublicFunction = Box::new(move |_| {
        from_future(async move {
            engine.call(Request::LoseDevice, None).await?;
            Ok(status(engine))
        })
    });
    let functions = [
        ("ready", ready),
        ("status", status_of),
        ("greedy", greedy),
        ("suggest", suggest),
        ("open_gguf", open),
        ("lose_device", lose),
    ];
    publish("beckon", functions.into());
}

fn status(engine: EngineLink) -> String {
    let side = engine.side(Side::A);
    let (loaded, failure) = (side.loaded.get_untracked(), side.failure.get_untracked());
    let state = match (&loaded, &failure) {
        (Some(_), _) => "ready",
        (None, Some(_)) => "failed",
        (None, None) if engine.wanted.get_untracked() => "loading",
        (None, None) => "idle",
    };
    json!({ "state": state, "error": failure, "engine": loaded }).to_string()
}

async fn open_gguf(engine: EngineLink, address: Option<String>) -> Result<String, String> {
    let address = address.ok_or("address: expected text")?;
    engine.open(Side::A, Opened::Address(address.clone()));
    let (side, wanted) = (engine.side(Side::A), Some(Gguf::Address(address)));
    while side.loaded.with_untracked(|loaded| loaded.as_ref().is_none_or(|loaded| loaded.gguf != wanted)) {
        if let Some(failure) = side.failure.get_untracked() {
            return Err(failure);
        }
        clock::sleep(50).await;
    }
    Ok(status(engine))
}

async fn run_greedy(
    live: Live,
    engine: EngineLink,
    id: Option<String>,
    prompts: Option<String>,
    n_tokens: Option<f64>,
    executor: Option<String>,
) -> Result<String, String> {
    let (executor, path) = match executor.as_deref() {
        Some("cpu") => (ExecutorKind::Cpu, CpuPath::Fastest),
        Some("cpu-f32") => (ExecutorKind::Cpu, CpuPath::F32),
        Some("cpu-simd128") => (ExecutorKind::Cpu, CpuPath::Simd128),
        Some("gpu") => (ExecutorKind::Gpu, CpuPath::Fastest),
        _ => return Err("executor: expected \"cpu\", \"cpu-f32\", \"cpu-simd128\" or \"gpu\"".into()),
    };
    let prompts: Vec<AnyPrompt> = parse("prompts", &prompts.ok_or("prompts: expected JSON text")?)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked")]
    let n_tokens = match n_tokens {
        Some(n) if (1.0..=1024.0).contains(&n) => n as usize,
        _ => return Err("n_tokens: expected 1 to 1024".into()),
    };
    let checkpoint = find_checkpoint(live, engine, id).await?;
    let prompts = prompts.into_iter().map(Prompt::from).collect();
    match engine.call(Request::Greedy { checkpoint, prompts, n_tokens, executor, path }, None).await? {
        Reply::Greedy(report) => serde_json::to_string(&report).map_err(|e| e.to_string()),
        _ => Err(UNEXPECTED.into()),
    }
}

async fn run_suggest(engine: EngineLink, prompt: Option<String>, options: Option<String>) -> Result<String, String> {
    let prompt: AnyPrompt = parse("prompt", &prompt.ok_or("prompt: expected JSON text")?)?;
    let o: SuggestOptions = options.map_or_else(|| Ok(SuggestOptions::default()), |text| parse("options", &text))?;
    engine.ready(Side::A).await?;
    let request = Request::Suggest {
        side: Side::A,
        prompt: prompt.into(),
        n_candidates: o.n_candidates,
        max_new_tokens: o.max_new_tokens,
        sampling: Sampling { temperature: o.temperature, top_k: o.top_k, top_p: o.top_p, seed: o.seed },
    };
    let suggested = engine.suggest(Side::A, request).await?;
    serde_json::to_string(&suggested).map_err(|e| e.to_string())
}

async fn find_checkpoint(live: Live, engine: EngineLink, id: Option<String>) -> Result<CheckpointInfo, String> {
    let Some(id) = id else { return Ok(engine.ready(Side::A).await?.checkpoint) };
    let known = live.checkpoints.with_untracked(|list| list.value()?.iter().find(|c| c.id == id).cloned());
    if let Some(known) = known {
        return Ok(known);
    }
    // the page may not have read its list yet
    let list = crate::api::checkpoints().await.map_err(|e| e.to_string())?;
    list.into_iter().find(|c| c.id == id).ok_or_else(|| format!("there is no checkpoint {id}"))
}

fn parse<T: for<'a> Deserialize<'a>>(what: &str, text: &str) -> Result<T, String> {
    beckon_shared::json::parse(text).map_err(|e| format!("{what}: {e}"))
}
