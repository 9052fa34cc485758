//! Suggestions that the native engine writes on a GPU: tokens per second with 1, 8, 64 and 256 rows, which are candidates
//! of one prompt in one batch. SmolLM2-135M's shape, random weights in 4-bit blocks (embedding 8-bit).
//!
//! `cargo xtask bench generate` runs this in turn with PyTorch transformers' `generate` on the same GPU. One JSON line a
//! figure, `name, device, unit, ours, setting, memory_bytes`: the median of a few calls, each with its prompt; what the
//! rival needs to do the same work; and the bytes of all buffers on the device, which are as many from the first call to
//! the last. A part of a name picks figures. Without a real GPU nothing is measured; with `--any-adapter` two small
//! batches are, on the adapter that there is, which shows that the bench works and not how fast anything is.

use anyhow::{Context, Result, bail};
use beckon_shaders::{GpuContext, ready};
use beckon_shared::checkpoint::{Checkpoint, Lineage, PolicyParts};
use beckon_shared::config::{ModelConfig, tensor_names};
use beckon_shared::engine::{Engine, Executor, Limits, SuggestRequest};
use beckon_shared::prompt::Prompt;
use beckon_shared::quant::{BlockFormat, Matrix, f16_from_f32};
use beckon_shared::sampling::Sampling;
use beckon_shared::tokenizer::Tokenizer;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Instant;

/// What all rows go on from.
const PROMPT: &str = "how to cook rice";

/// How much is measured.
struct Work {
    rows: &'static [usize],
    n_new_tokens: usize,
    n_repeats: usize,
}

const ON_GPU: Work = Work { rows: &[1, 8, 64, 256], n_new_tokens: 64, n_repeats: 3 };
const TRIED: Work = Work { rows: &[1, 8], n_new_tokens: 4, n_repeats: 1 };

fn main() -> Result<()> {
    let (flags, names): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|arg| arg.starts_with("--"));
    let any_adapter = match &flags[..] {
        [] => false,
        [flag] if flag == "--any-adapter" => true,
        others => bail!("bench_generate takes a part of a name and --any-adapter, not {others:?}"),
    };
    let only = names.first().map_or("", String::as_str);
    let work = if any_adapter { TRIED } else { ON_GPU };
    let name = |n_rows: usize| format!("generate.rows_{n_rows}");
    let rows: Vec<usize> = work.rows.iter().copied().filter(|n_rows| name(*n_rows).contains(only)).collect();
    if rows.is_empty() {
        return Ok(());
    }
    let gpu = match ready(GpuContext::request()).context("a native adapter is there at once")? {
        Ok(gpu) if any_adapter || !gpu.is_software() => gpu,
        Ok(gpu) => return not_run(gpu.adapter_name()),
        Err(error) => return not_run(&format!("none, {error}")),
    };
    let checkpoint = checkpoint(&ModelConfig::smollm2())?;
    for n_rows in rows {
        measure(&name(n_rows), &checkpoint, &gpu, n_rows, &work)?;
    }
    Ok(())
}

/// Says so; no figure is an answer too.
fn not_run(found: &str) -> Result<()> {
    eprintln!("generate not run: no GPU adapter (found: {found}); --any-adapter tries a small batch on what is there");
    Ok(())
}

/// Prints the figure of one number of rows.
fn measure(name: &str, checkpoint: &Checkpoint, gpu: &GpuContext, n_rows: usize, work: &Work) -> Result<()> {
    let model = &checkpoint.manifest.model;
    let limits = Limits { prompt_tokens: 64, suffix_tokens: work.n_new_tokens, n_seqs: n_rows, ..Limits::of(model) };
    let mut engine = ready(Engine::gpu_within(checkpoint, gpu, limits)).context("native")??;
    let started = Instant::now();
    let clock = || started.elapsed().as_secs_f64();
    // on a software adapter the variants' kernels take longer to compile than this to run
    if !gpu.is_software() {
        ready(engine.choose_variants(&clock)).context("native")??;
    }
    let (mut speeds, mut n_prompt_tokens) = (Vec::new(), 0);
    for round in 0..=work.n_repeats {
        let sampling = Sampling::plain(round as u64);
        let prompt = Prompt::from_query(PROMPT);
        let request = SuggestRequest { prompt, n_candidates: n_rows, max_new_tokens: work.n_new_tokens, sampling };
        let begun = clock();
        let written = ready(engine.suggest(&request, &clock)).context("native")??;
        let secs = clock() - begun;
        n_prompt_tokens = written.n_prompt_tokens;
        // the first one warms up
        if round > 0 {
            speeds.push(written.n_decoded_tokens as f64 / secs);
        }
    }
    speeds.sort_by(f64::total_cmp);
    let Executor::Gpu(executor) = engine.executor() else { bail!("an engine on a GPU that is none") };
    let device = format!("{}, SmolLM2-135M's shape, Q4", engine.executor().device_name());
    let setting = json!({
        "model": model, "n_rows": n_rows, "n_prompt_tokens": n_prompt_tokens,
        "n_new_tokens": work.n_new_tokens, "n_repeats": work.n_repeats,
    });
    let figure = json!({
        "name": name, "device": device, "unit": "tokens/s", "ours": speeds[speeds.len() / 2],
        "setting": setting, "memory_bytes": executor.n_bytes(),
    });
    println!("{figure}");
    Ok(())
}

/// Matrices in 4-bit blocks, the embedding in 8-bit ones, as in the GGUF file that the product is used with. Its tokenizer
/// has words for the prompt alone, so one token in 49,152 ends a suggestion: nearly all are as long as they may be.
fn checkpoint(model: &ModelConfig) -> Result<Checkpoint> {
    let tokenizer = Tokenizer::train([PROMPT], 280)?;
    let mut state = 1;
    let mut matrices = BTreeMap::new();
    for (name, shape) in tensor_names(model) {
        let format = match &shape[..] {
            [_] => BlockFormat::F32,
            _ if name.contains("embed") => BlockFormat::Q8,
            _ => BlockFormat::Q4,
        };
        matrices.insert(name, random_matrix(&shape, format, &mut state)?);
    }
    let lineage = Lineage { command: "cargo xtask bench".to_owned(), device: "none".to_owned(), ..Lineage::default() };
    let parts = PolicyParts { name: "bench".to_owned(), model, lineage, tokenizer: &tokenizer };
    Ok(Checkpoint::from_policy(parts, matrices)?)
}

/// Codes at random under scales that keep activations of order 1; a vector of ones.
fn random_matrix(shape: &[usize], format: BlockFormat, state: &mut u64) -> Result<Matrix> {
    let (rows, cols) = match shape {
        [cols] => (1, *cols),
        [rows, cols] => (*rows, *cols),
        _ => bail!("a tensor of shape {shape:?}"),
    };
    let (n_quants, n_scales) = format.n_words(rows, cols).context("rows of whole blocks")?;
    let width = 1.0 / (cols as f32).sqrt();
    let half = |value: f32| u32::from(f16_from_f32(value));
    let scale = match format {
        // a scale and the smallest value
        BlockFormat::Q4 => half(width / 8.0) | half(-width) << 16,
        // two scales
        BlockFormat::Q8 => half(width / 128.0) * 0x0001_0001,
        BlockFormat::F32 => 0,
    };
    let mut word = || {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 32) as u32
    };
    let quants = match format {
        BlockFormat::F32 => vec![1f32.to_bits(); n_quants],
        _ => (0..n_quants).map(|_| word()).collect(),
    };
    Ok(Matrix { rows, cols, format, quants, scales: vec![scale; n_scales] })
}
