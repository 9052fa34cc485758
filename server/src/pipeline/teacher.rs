//! SFT's teacher: a checkpoint that writes suggestions for the log's conversations, or a file of such suggestions (method
//! B.1.5 (2)). They are candidates for imitation beside what was clicked, behind the same gates and the same draw.
//!
//! A checkpoint writes once; what it wrote is kept in `data/` and read by every later call. Its score of a suggestion is that of
//! its reward model, or the mean log-probability of a token where it has none. Where it shares the run's tokenizer its
//! distribution over tokens can be learnt from too ([`Soft`], B.1.5 (5)).

use super::PipelineError;
use crate::model::device::block_on;
use crate::model::state::write_atomic;
use crate::stage::aside::evenly;
use crate::stage::sft::SoftTargets;
use crate::stage::{Control, Observer};
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::click_model::ContextKey;
use beckon_shared::config::ModelConfig;
use beckon_shared::control::{RunConfig, TeacherConfig};
use beckon_shared::digest::sha256_hex;
use beckon_shared::distill::TeacherSample;
use beckon_shared::distill::samples::{samples_from_jsonl, samples_to_jsonl};
use beckon_shared::engine::{Engine, EngineError, Limits, SuggestRequest, Suggestion};
use beckon_shared::prompt::Prompt;
use beckon_shared::sampling::Sampling;
use beckon_shared::tensor::TensorMap;
use beckon_shared::tokenizer::Tokenizer;
use std::collections::HashSet;
use std::io;
use std::num::NonZero;
use std::path::Path;
use std::thread;

/// Names of the file in the run's folder, by what it is.
const CHECKPOINT: &str = "teacher.beckon";
const SAMPLES: &str = "teacher.jsonl";
/// Conversations that are written for between two looks at whoever runs the stage.
const ROUND: usize = 64;

/// Where a teacher's suggestions come from.
pub enum Teacher {
    /// Its policy writes them.
    Checkpoint(Box<Checkpoint>),
    /// They are written.
    Samples(Vec<TeacherSample>),
}

/// A network whose distribution is learnt from.
pub struct Soft {
    /// Text to its tokens.
    pub tokenizer: Tokenizer,
    /// Its shape.
    pub model: ModelConfig,
    /// Its weights.
    policy: TensorMap,
    weight: f64,
    temperature: f64,
}

/// Puts the bytes of a teacher's file into a run's folder (which exists), unless they are there; its id. `is_samples` tells a
/// file of samples from a checkpoint.
///
/// # Errors
/// No such file; [`PipelineError::Io`].
pub fn place(dir: &Path, bytes: &[u8], is_samples: bool) -> Result<String, PipelineError> {
    let (name, id) = if is_samples {
        samples_from_jsonl(bytes)?;
        (SAMPLES, sha256_hex(bytes))
    } else {
        (CHECKPOINT, Checkpoint::decode(bytes)?.id)
    };
    let path = dir.join(name);
    if std::fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok(id);
    }
    write_atomic(&path, bytes)?;
    Ok(id)
}

/// The teacher that `config` names, from the run's folder; `None` where it names none.
///
/// # Errors
/// The file is missing, damaged, or another teacher's.
pub fn load(dir: &Path, config: &RunConfig) -> Result<Option<Teacher>, PipelineError> {
    let Some(TeacherConfig { id, .. }) = &config.sft.teacher else { return Ok(None) };
    if let Some(bytes) = read(&dir.join(CHECKPOINT))? {
        let checkpoint = Checkpoint::decode(&bytes)?;
        if checkpoint.id == *id {
            return Ok(Some(Teacher::Checkpoint(Box::new(checkpoint))));
        }
    }
    match read(&dir.join(SAMPLES))? {
        Some(bytes) if sha256_hex(&bytes) == *id => Ok(Some(Teacher::Samples(samples_from_jsonl(&bytes)?))),
        _ => Err(PipelineError::NoTeacher { id: id.clone() }),
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, PipelineError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PipelineError::io("read", path, source)),
    }
}

impl Teacher {
    /// Its network, where `config` asks for soft targets.
    ///
    /// # Errors
    /// [`PipelineError::SoftTargets`] of a file of samples.
    pub fn soft(&self, config: &TeacherConfig) -> Result<Option<Soft>, PipelineError> {
        if config.soft_weight == 0.0 {
            return Ok(None);
        }
        let Self::Checkpoint(checkpoint) = self else {
            return Err(PipelineError::SoftTargets { reason: "a file of samples has no distribution".into() });
        };
        Ok(Some(Soft {
            tokenizer: checkpoint.tokenizer()?,
            model: checkpoint.manifest.model.clone(),
            policy: checkpoint.dense("policy"),
            weight: config.soft_weight,
            temperature: config.soft_temperature,
        }))
    }
}

impl Soft {
    /// Whether a student with `tokenizer` and shape `model` can learn from it.
    ///
    /// # Errors
    /// [`PipelineError::SoftTargets`].
    pub fn check(&self, tokenizer: &Tokenizer, model: &ModelConfig) -> Result<(), PipelineError> {
        let refuse = |reason: String| Err(PipelineError::SoftTargets { reason });
        if self.tokenizer.hash() != tokenizer.hash() || self.model.vocab_size != model.vocab_size {
            return refuse("the teacher has another tokenizer than the run's parent".into());
        }
        if self.model.max_seq_len < model.max_seq_len {
            let (reads, needs) = (self.model.max_seq_len, model.max_seq_len);
            return refuse(format!("the teacher reads {reads} tokens, the run's network {needs}"));
        }
        Ok(())
    }

    /// As SFT takes it.
    pub fn targets(&self) -> SoftTargets<'_> {
        let Self { model, policy, weight, temperature, .. } = self;
        SoftTargets { model, policy, weight: *weight, temperature: *temperature }
    }
}

/// What a checkpoint writes, and where that is kept.
pub struct Writing<'a> {
    /// Settings.
    pub config: &'a TeacherConfig,
    /// Which conversations are the same: it writes for one of each.
    pub contexts: ContextKey,
    /// Its draws follow from it.
    pub seed: u64,
    /// File of what it wrote.
    pub path: &'a Path,
}

/// The suggestions of a teacher: those of its file, or what it writes for some of the conversations that `prompts` gives, or
/// wrote for them in an earlier call.
///
/// # Errors
/// [`PipelineError::Cancelled`], with nothing kept; a checkpoint that cannot be run; files.
pub fn samples(
    teacher: &Teacher,
    writing: &Writing,
    prompts: impl FnOnce() -> Result<Vec<Prompt>, PipelineError>,
    observer: &mut dyn Observer,
) -> Result<Vec<TeacherSample>, PipelineError> {
    let checkpoint = match teacher {
        Teacher::Samples(samples) => return Ok(samples.clone()),
        Teacher::Checkpoint(_) if writing.config.n_samples == 0 => return Ok(Vec::new()),
        Teacher::Checkpoint(checkpoint) => checkpoint,
    };
    if read(writing.path)?.is_none() {
        let mut contexts = HashSet::new();
        let distinct: Vec<Prompt> =
            prompts()?.into_iter().filter(|prompt| contexts.insert(writing.contexts.of(prompt))).collect();
        let prompts = evenly(&distinct, writing.config.max_prompts);
        let n = prompts.len();
        observer.log(&format!("data: the teacher {} writes for {n} conversations", checkpoint.manifest.name));
        let written = write(checkpoint, writing, &prompts, observer)?;
        observer.log(&format!("data: {} suggestions of the teacher ended in time", written.len()));
        write_atomic(writing.path, &samples_to_jsonl(&written)?)?;
    }
    // also what was written just now: a number may come back from a file one unit in the last place off
    let bytes = read(writing.path)?.unwrap_or_default();
    samples_from_jsonl(&bytes)
        .map_err(|error| PipelineError::Damaged { reason: error.to_string(), path: writing.path.to_owned() })
}

/// Writes for every prompt, round by round.
fn write(
    checkpoint: &Checkpoint,
    writing: &Writing,
    prompts: &[Prompt],
    observer: &mut dyn Observer,
) -> Result<Vec<TeacherSample>, PipelineError> {
    let limits = Limits::of(&checkpoint.manifest.model).fastest();
    let engine = Engine::cpu_within(checkpoint, limits).map_err(|error| PipelineError::Eval(error.into()))?;
    let mut written = Vec::new();
    for (round, prompts) in prompts.chunks(ROUND).enumerate() {
        let control = match observer.control() {
            Control::Pause => observer.wait_while_paused(),
            other => other,
        };
        if control == Control::Cancel {
            return Err(PipelineError::Cancelled);
        }
        let first = writing.seed.wrapping_add((round * ROUND) as u64);
        let of_round = write_round(&engine, writing.config, prompts, first);
        written.extend(of_round.map_err(|error| PipelineError::Eval(error.into()))?);
    }
    Ok(written)
}

/// Prompt `i` draws from seed `first_seed + i`, whatever thread it is on.
fn write_round(
    engine: &Engine,
    config: &TeacherConfig,
    prompts: &[Prompt],
    first_seed: u64,
) -> Result<Vec<TeacherSample>, EngineError> {
    let n_threads = thread::available_parallelism().map_or(1, NonZero::get).min(prompts.len()).max(1);
    let n_each = prompts.len().div_ceil(n_threads).max(1);
    let write = |(part, prompts): (usize, &[Prompt])| -> Result<Vec<TeacherSample>, EngineError> {
        let mut engine = engine.fork().ok_or(EngineError::MustBeAwaited)?;
        let mut written = Vec::new();
        for (i, prompt) in prompts.iter().enumerate() {
            let seed = first_seed.wrapping_add((part * n_each + i) as u64);
            let request = SuggestRequest {
                prompt: prompt.clone(),
                n_candidates: config.n_samples,
                max_new_tokens: config.max_new_tokens.min(engine.config().max_suggestion_tokens()),
                sampling: Sampling { temperature: config.temperature as f32, ..Sampling::plain(seed) },
            };
            let suggestions = block_on(engine.suggest(&request, &|| 0.0))?.suggestions;
            written.extend(of_prompt(prompt, suggestions));
        }
        Ok(written)
    };
    let parts: Vec<Result<Vec<TeacherSample>, EngineError>> = thread::scope(|scope| {
        let workers: Vec<_> = prompts.chunks(n_each).enumerate().map(|part| scope.spawn(move || write(part))).collect();
        workers.into_iter().map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let parts: Vec<Vec<TeacherSample>> = parts.into_iter().collect::<Result<_, _>>()?;
    Ok(parts.concat())
}

/// The suggestions that ended by themselves and say something, each once.
fn of_prompt(prompt: &Prompt, suggestions: Vec<Suggestion>) -> Vec<TeacherSample> {
    let mut texts = HashSet::new();
    let fit = |s: &Suggestion| s.finished && !s.text.trim().is_empty();
    let new = suggestions.into_iter().filter(fit).filter(|s| texts.insert(s.text.trim().to_lowercase()));
    new.map(|s| TeacherSample { prompt: prompt.clone(), score: score(&s), text: s.text }).collect()
}

fn score(suggestion: &Suggestion) -> f64 {
    let logps = &suggestion.logps;
    let mean_logp = || logps.iter().map(|logp| f64::from(*logp)).sum::<f64>() / logps.len().max(1) as f64;
    suggestion.score.map_or_else(mean_logp, |score| f64::from(score.reward_mean))
}

#[cfg(test)]
mod tests;
