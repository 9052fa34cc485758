//! Our CPU executor against wllama (llama.cpp in wasm) in one page of Chromium, on as many threads each, with the same
//! model and the same prompts: what the benches `decode` and `suggest` stand on.
//!
//! Our side is the worker that the page ships, file by file as `cargo xtask build-page` left it, and it is driven by
//! the page's own messages. The model is SmolLM2-135M-Instruct from its GGUF file; wllama reads that file, ours the
//! checkpoint that the importer makes of it (the same blocks, bit by bit). The file has no reward model, so the
//! checkpoint gets one whose trunk is the policy's and whose heads are constants: scoring then costs what it costs.
//! Its end token is one that is hardly ever drawn, so that every suggestion has as many tokens as the rival's, which
//! ignores its own.

use crate::browser::{Page, WebGpu};
use crate::npm;
use crate::process::root;
use crate::site::Site;
use anyhow::{Context, Result, bail, ensure};
use beckon_shaders::ready;
use beckon_shared::checkpoint::{Checkpoint, Lineage, PolicyParts, RewardConfig};
use beckon_shared::config::reward_head_names;
use beckon_shared::control::CheckpointInfo;
use beckon_shared::gguf::Gguf;
use beckon_shared::gguf::llama::{ImportOptions, read_policy};
use beckon_shared::prompt::Prompt;
use beckon_shared::quant::{BlockFormat, Matrix};
use beckon_shared::sampling::Sampling;
use beckon_shared::tensor::DenseTensor;
use beckon_shared::tokenizer::Tokenizer;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The rival, exactly.
pub const RIVAL: &str = "@wllama/wllama@3.8.1";
/// Tokens of a prompt, special ones included.
pub const PROMPT_TOKENS: usize = 64;
/// Measured rounds; a figure is their median.
pub const N_ROUNDS: usize = 5;

/// Where `cargo xtask bench` says the model lies.
const MODEL: &str = "BECKON_SMOLLM2";
/// Ends suggestions of the bench's checkpoint: a special token of SmolLM2's that stands for no text.
const END: &str = "<empty_output>";
/// A prompt of each round begins with one of these, so that nobody finds the last round's prompt in a cache; the first
/// one warms both sides up.
const BEGINNINGS: [&str; N_ROUNDS + 1] = ["Please", "Can", "How", "Where", "When", "Why"];
const TOPIC: &str = "should a family with two small children plan a quiet weekend in Lisbon in the spring";

/// Both sides, loaded and warm.
pub struct Duel {
    page: Page,
    /// One a round, the warming one last.
    prompts: Vec<Value>,
    /// Kernels, browser and processor, for the figures.
    pub device: String,
    /// What figures call the rival.
    pub rival_name: String,
    /// Keeps the rival's files.
    _dir: TempDir,
}

/// What one side did.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Work {
    /// The whole job, as the page sees it.
    pub secs: f64,
    /// The prompts' passes.
    pub prefill_secs: f64,
    /// From the first token of a completion to its last.
    pub decode_secs: f64,
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// Tokens written, of all candidates.
    pub tokens: usize,
    /// Ours: suggestions with a score.
    #[serde(default)]
    pub scored: usize,
    /// Rival: tokens of each completion's prompt that its cache had.
    #[serde(default)]
    pub cached: Vec<usize>,
}

impl Duel {
    /// Starts both sides on so many threads; `None`, with a line to standard error, where the model, the page or npm is missing.
    ///
    /// # Errors
    /// The rival cannot be installed, or a side cannot load the model.
    pub fn start(bench: &str, n_threads: usize) -> Result<Option<Self>> {
        let Some(model) = std::env::var_os(MODEL).map(PathBuf::from) else {
            eprintln!("{bench} not run: {MODEL} names no model file (cargo xtask model)");
            return Ok(None);
        };
        let shipped = root().join("server/page");
        let Some(script) = worker_script(&shipped) else {
            eprintln!("{bench} not run: no page in {} (cargo xtask build-page)", shipped.display());
            return Ok(None);
        };
        let dir = tempfile::tempdir()?;
        let Some(modules) = npm::installed(dir.path(), RIVAL)? else {
            eprintln!("{bench} not run: it needs npm to install {RIVAL}");
            return Ok(None);
        };
        let (site, url) =
            Site::start(vec![("/page/", shipped), ("/wllama/", modules.join("@wllama/wllama/esm"))], n_threads > 1)?;
        let file = std::fs::read(&model).with_context(|| model.display().to_string())?;
        let checkpoint = checkpoint(&file)?;
        let tokenizer = checkpoint.tokenizer()?;
        let info = put_checkpoint(&site, &checkpoint)?;
        site.put("/model.gguf", file);
        site.put(
            "/",
            "<!doctype html><title>bench</title><link rel=icon href=data:,><script type=module src=bench.js></script>",
        );
        site.put("/bench.js", include_str!("wllama/page.js"));
        let page = Page::open(&url, WebGpu::Off);
        page.wait("the bench page", 60, || (page.eval("window.ready === true") == true).then_some(()));
        let script = format!("/page/{script}?threads={n_threads}");
        let job = json!({ "script": script, "checkpoint": info, "model": "/model.gguf", "nThreads": n_threads });
        let loaded = page.eval(&format!("load({job})"));
        let kernels = loaded["adapter"].as_str().unwrap_or("?");
        ensure!(
            n_threads == 1 || kernels.ends_with(&format!(", {n_threads} threads")),
            "ours runs {kernels}, {n_threads} threads were asked for"
        );
        let device = format!("{kernels}, {} on {}", chromium(&loaded["agent"]), crate::machine());
        let rival_name = format!("wllama 3.8.1, {n_threads} thread{}", if n_threads == 1 { "" } else { "s" });
        let prompts = BEGINNINGS.iter().rev().map(|first| prompt(&tokenizer, first)).collect::<Result<_>>()?;
        Ok(Some(Self { page, prompts, device, rival_name, _dir: dir }))
    }

    /// Candidates by our engine, as one batch, for the prompt of a round.
    ///
    /// # Errors
    /// It did not do what was asked.
    pub fn ours(&self, round: usize, n_candidates: usize, n_tokens: usize) -> Result<Work> {
        let work = self.work("ours", round, n_candidates, n_tokens)?;
        ensure!(work.scored == n_candidates, "{} of {n_candidates} suggestions were scored", work.scored);
        Ok(work)
    }

    /// The same by the rival, one after the other.
    ///
    /// # Errors
    /// It did not do what was asked, or its prompt cache did not work.
    pub fn rival(&self, round: usize, n_candidates: usize, n_tokens: usize) -> Result<Work> {
        let work = self.work("theirs", round, n_candidates, n_tokens)?;
        let (first, rest) = work.cached.split_first().context("no completions")?;
        ensure!(*first < PROMPT_TOKENS / 4, "the rival had {first} tokens of a new prompt in its cache");
        ensure!(rest.iter().all(|n| *n + 2 > PROMPT_TOKENS), "the rival read its prompt again: {:?}", work.cached);
        Ok(work)
    }

    /// The round that warms both sides up.
    pub const WARM_UP: usize = N_ROUNDS;

    fn work(&self, side: &str, round: usize, n_candidates: usize, n_tokens: usize) -> Result<Work> {
        let prompt = &self.prompts[round];
        let got = self.page.eval(&format!("{side}({prompt}, {n_candidates}, {n_tokens})"));
        let work: Work = serde_json::from_value(got).context("what a side did")?;
        let n_wanted = n_candidates * n_tokens;
        ensure!(work.tokens == n_wanted, "{side} wrote {} tokens, {n_wanted} were asked for", work.tokens);
        let n_prompt = work.prompt_tokens;
        ensure!(n_prompt == PROMPT_TOKENS, "{side} read {n_prompt} tokens of a prompt of {PROMPT_TOKENS}");
        Ok(work)
    }

    /// Fails where the page had errors.
    ///
    /// # Errors
    /// The errors.
    pub fn finish(self) -> Result<()> {
        ensure!(self.page.errors().is_empty(), "console: {:?}", self.page.errors());
        Ok(())
    }
}

/// Middle value of an odd number of them.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Name of the worker's script in a built page.
fn worker_script(page: &Path) -> Option<String> {
    let names = std::fs::read_dir(page).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.into_iter().find(|name| name.starts_with("worker-") && name.ends_with(".js"))
}

/// `Chromium 150` of a user agent.
fn chromium(agent: &Value) -> String {
    let version = agent.as_str().and_then(|agent| agent.split_once("Chrome/")).map(|(_, rest)| rest);
    let major = version.and_then(|rest| rest.split('.').next()).unwrap_or("?");
    format!("Chromium {major}")
}

/// The file's policy with another end token, and a reward model beside it; see the head of this module.
fn checkpoint(mut gguf: &[u8]) -> Result<Checkpoint> {
    let head = Gguf::parse(gguf, gguf.len() as u64)?;
    let options = ImportOptions::default();
    let policy = ready(read_policy(&head, options, &mut gguf, &|_| {})).context("a file in memory waits")??;
    let mut format = policy.tokenizer.format().clone();
    format.end = END.to_owned();
    let tokenizer = Tokenizer::pretrained(policy.tokenizer.to_json(), format)?;
    let lineage = Lineage { command: "cargo xtask bench".to_owned(), device: "none".to_owned(), ..Lineage::default() };
    let reward = RewardConfig { variance_floor: 0.01, feature_dims: 32, kappa: 0.1, n_layers: None };
    let mut tensors = policy.matrices.clone();
    for (name, shape) in reward_head_names(&policy.config, reward.feature_dims) {
        let n_values = shape.iter().product::<usize>();
        let constant = DenseTensor::new(shape, vec![0.01; n_values]);
        tensors.insert(name, Matrix::from_dense(&constant, BlockFormat::F32)?);
    }
    let parts = PolicyParts { name: "bench".to_owned(), model: &policy.config, lineage, tokenizer: &tokenizer };
    Ok(Checkpoint::from_policy(parts, policy.matrices)?.with_reward(reward, tensors)?)
}

/// Puts a checkpoint where the worker looks for it.
fn put_checkpoint(site: &Site, checkpoint: &Checkpoint) -> Result<Value> {
    let bytes = checkpoint.encode()?;
    let info = CheckpointInfo {
        id: checkpoint.id.clone(),
        name: checkpoint.manifest.name.clone(),
        run_id: None,
        n_bytes: bytes.len() as u64,
        created_millis: 0,
        simulated: false,
        built_in: false,
    };
    site.put(format!("/api/checkpoints/{}/file", info.id), bytes);
    Ok(serde_json::to_value(info)?)
}

/// A prompt of exactly [`PROMPT_TOKENS`] tokens that begins with `first`: as turns for us, as text for the rival.
fn prompt(tokenizer: &Tokenizer, first: &str) -> Result<Value> {
    let mut words: Vec<&str> = vec![first];
    let mut more = TOPIC.split(' ').cycle();
    while words.len() < PROMPT_TOKENS {
        let prompt = Prompt::from_query(words.join(" "));
        if tokenizer.encode_prompt(&prompt, usize::MAX).len() == PROMPT_TOKENS {
            let sampling = Sampling { temperature: 0.8, top_k: 40, top_p: 0.95, seed: 1 };
            let text = tokenizer.format().render(&prompt);
            return Ok(json!({ "turns": prompt, "text": text, "sampling": sampling }));
        }
        words.extend(more.next());
    }
    bail!("no prompt that begins with {first:?} has {PROMPT_TOKENS} tokens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_their_length_and_do_not_begin_alike() {
        // every word of these is a token or more, and none begins another prompt
        let texts: Vec<String> = BEGINNINGS.iter().map(|first| format!("{first} {TOPIC}")).collect();
        let tokenizer = Tokenizer::train(&texts, 400).expect("trains");
        let prompts: Vec<Value> = BEGINNINGS.iter().map(|f| prompt(&tokenizer, f).expect("a prompt")).collect();
        for (made, first) in prompts.iter().zip(BEGINNINGS) {
            let of_us: Prompt = serde_json::from_value(made["turns"].clone()).expect("turns");
            assert!(of_us.query().starts_with(first));
            assert_eq!(tokenizer.encode_prompt(&of_us, usize::MAX).len(), PROMPT_TOKENS);
            assert_eq!(made["text"], tokenizer.format().render(&of_us));
        }
    }

    #[test]
    fn agents_and_medians_by_hand() {
        assert!(chromium(&json!("Mozilla/5.0 HeadlessChrome/150.0.1.2 Safari")).ends_with("Chromium 150"));
        assert!(chromium(&json!("lynx")).ends_with('?'));
        assert_eq!(median(vec![3.0, 900.0, 1.0, 2.0, 4.0]), 3.0);
        assert!(median(vec![]).is_nan());
    }
}
