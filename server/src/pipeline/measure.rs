//! Eval stage of a run: held-out figures of every stage, put together as the report.

use super::lineage::{Origin, attribution, data_hash, is_simulated, sources};
use super::recorder::{Recorder, curves, secs_of};
use super::{PipelineError, Trained, create_dir, export};
use crate::eval::mean_and_t_interval;
use crate::eval::ngram::CachedNGram;
use crate::eval::odd_text::odd_text;
use crate::eval::policy::{SampleSize, Written, policy_figures, write_suggestions};
use crate::eval::reward::{Scorers, figures_by_source};
use crate::model::batch::{Sequence, derived_seed};
use crate::model::reward::Scorer;
use crate::model::state::write_atomic;
use crate::report::{
    GarmReport, Judged, REPORT_VERSION, Report, RlReport, RunLineage, SamplePrompt, SftReport, SourceCounts, findings,
    html,
};
use crate::stage::Observer;
use crate::stage::aside::evenly;
use crate::stage::garm::start::case_v;
use beckon_shared::checkpoint::{Checkpoint, RewardConfig};
use beckon_shared::click::Sourced;
use beckon_shared::config::Preset;
use beckon_shared::control::tuning::Change;
use beckon_shared::control::{RunConfig, Stage};
use beckon_shared::engine::Score;
use beckon_shared::lexical::LexicalModel;
use beckon_shared::metrics::mean;
use beckon_shared::preference::{SftExample, Split};
use beckon_shared::prompt::Prompt;
use beckon_shared::tensor::TensorMap;
use std::path::Path;

/// Prompts shown with suggestions.
const N_SAMPLES: usize = 10;
/// Suggestions shown of each.
const N_SHOWN: usize = 4;
/// Purpose of the seed of this stage, see [`derived_seed`].
const PURPOSE: u64 = 4;

/// What a run is a function of, and where it is.
pub struct RunFacts<'a> {
    /// Folder of the run.
    pub dir: &'a Path,
    /// Configuration.
    pub config: &'a RunConfig,
    /// The log.
    pub records: &'a [Sourced],
    /// Command and commit.
    pub origin: &'a Origin,
    /// Values changed by hand while it trained.
    pub changes: Vec<Change>,
}

/// The run's report: from `report.json` where it is there, else measured and written, page included.
///
/// # Errors
/// Files, or a checkpoint that cannot be run.
pub fn report(
    run: &RunFacts,
    trained: &Trained,
    checkpoint: &Checkpoint,
    observer: &mut dyn Observer,
) -> Result<Report, PipelineError> {
    let path = run.dir.join("report.json");
    if let Some(report) = read(&path, &checkpoint.id)? {
        return Ok(report);
    }
    let dir = run.dir.join("eval");
    create_dir(&dir)?;
    let mut recorder = Recorder::open(&dir, observer)?;
    let mut report = measure(run, trained, checkpoint, &mut recorder)?;
    report.lineage.wall_secs.push((Stage::Eval.name().to_owned(), recorder.secs()));
    report.findings = findings::findings(&report);
    recorder.finish()?;
    let json = serde_json::to_string_pretty(&report)
        .map_err(|e| PipelineError::Damaged { reason: e.to_string(), path: path.clone() })?;
    write_atomic(&run.dir.join("report.html"), html::page(&report).as_bytes())?;
    // last, because its presence means that the stage is done
    write_atomic(&path, json.as_bytes())?;
    Ok(report)
}

/// A report of this very checkpoint, if one is there.
fn read(path: &Path, checkpoint: &str) -> Result<Option<Report>, PipelineError> {
    match std::fs::read(path) {
        // one that cannot be read is measured anew
        Ok(bytes) => Ok(serde_json::from_slice::<Report>(&bytes).ok().filter(|r| r.checkpoint == checkpoint)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PipelineError::io("read", path, source)),
    }
}

fn measure(
    run: &RunFacts,
    trained: &Trained,
    checkpoint: &Checkpoint,
    observer: &mut dyn Observer,
) -> Result<Report, PipelineError> {
    let seed = derived_seed(run.config.seed, PURPOSE);
    observer.log("eval: n-gram baseline");
    let sft = sft_report(run, trained)?;
    observer.log("eval: reward model on held-out pairs");
    let garm = garm_report(run, trained, seed)?;
    observer.log("eval: suggestions before and after RL");
    let prompts = held_out_prompts(trained);
    let size = sample_size(run.config);
    let before = write_suggestions(&export::pack(run, trained, &trained.sft.policy)?, prompts, size, seed)?;
    let after = write_suggestions(checkpoint, prompts, size, seed)?;
    let policies = vec![policy_figures("SFT", &before), policy_figures("RL", &after)];
    let judged = trained.judges.scoring.as_ref().map(|judge| judged(judge, &before, &after));
    for (figures, name) in policies.iter().zip(["reward_mean_sft", "reward_mean_rl"]) {
        observer.metric(Stage::Eval, 1, 1, name, figures.reward_mean);
    }
    Ok(Report {
        version: REPORT_VERSION,
        name: run.config.name.clone(),
        checkpoint: checkpoint.id.clone(),
        lineage: lineage(run, trained)?,
        data: counts(run, trained),
        preferences: trained.dataset.report.clone(),
        sft,
        garm,
        rl: RlReport { curves: curves(&run.dir.join("rl"))? },
        samples: samples(&before, &after),
        policies,
        judged,
        findings: Vec::new(),
    })
}

fn sample_size(config: &RunConfig) -> SampleSize {
    let n_prompts = if config.preset == Preset::Tiny { 24 } else { 48 };
    SampleSize { n_prompts, n_per_prompt: 8, max_new_tokens: config.rl.max_new_tokens }
}

/// Held-out prompts; those of training where a small log leaves none.
fn held_out_prompts(trained: &Trained) -> &[Prompt] {
    let held_out = &trained.dataset.held_out.prompts;
    if held_out.is_empty() { &trained.dataset.train.prompts } else { held_out }
}

fn lineage(run: &RunFacts, trained: &Trained) -> Result<RunLineage, PipelineError> {
    let wall_secs = ["data", "sft", "garm", "garm-bt", "rl"]
        .iter()
        .map(|name| Ok(((*name).to_owned(), secs_of(&run.dir.join(name))?)))
        .collect::<Result<_, PipelineError>>()?;
    Ok(RunLineage {
        data_hash: data_hash(run.records),
        config: run.config.clone(),
        device: trained.devices.name.clone(),
        commit: run.origin.commit.clone(),
        command: run.origin.command.clone(),
        simulated: is_simulated(run.records),
        attribution: attribution(&sources(run.records)),
        wall_secs,
        n_params: trained.model.n_params(),
        tokenizer_hash: trained.tokenizer.hash(),
    })
}

fn counts(run: &RunFacts, trained: &Trained) -> Vec<SourceCounts> {
    let dataset = &trained.dataset;
    sources(run.records)
        .into_iter()
        .map(|(source, n_records)| {
            let both = |n: &dyn Fn(&Split) -> usize| (n(&dataset.train), n(&dataset.held_out));
            SourceCounts {
                n_sft: both(&|s| s.sft.iter().filter(|e| e.source == source).count()),
                n_pairs: both(&|s| s.pairs.iter().filter(|p| p.source == source).count()),
                n_anchors: both(&|s| s.anchors.iter().filter(|a| a.source == source).count()),
                source,
                n_records,
            }
        })
        .collect()
}

fn sft_report(run: &RunFacts, trained: &Trained) -> Result<SftReport, PipelineError> {
    let encode = |examples: &[SftExample]| -> Vec<Sequence> {
        let one =
            |e: &SftExample| Sequence::encode(&trained.tokenizer, &e.prompt, &e.suggestion, trained.model.max_seq_len);
        examples.iter().map(one).collect()
    };
    let held_out = encode(&trained.dataset.held_out.sft);
    let ngram = CachedNGram::train(trained.tokenizer.vocab_size(), &encode(&trained.dataset.train.sft));
    Ok(SftReport {
        curves: curves(&run.dir.join("sft"))?,
        held_out_nll_before: trained.sft.held_out_nll_before,
        held_out_nll: trained.sft.held_out_nll,
        ngram_nll: ngram.plain().nll(&held_out).0,
        cached_ngram_nll: ngram.nll(&held_out).0,
        n_held_out_tokens: trained.sft.n_held_out_tokens,
        n_tokens_seen: trained.sft.n_tokens_seen,
    })
}

fn garm_report(run: &RunFacts, trained: &Trained, seed: u64) -> Result<GarmReport, PipelineError> {
    let scorer = |tensors: &TensorMap, config: &RewardConfig| {
        Scorer::new(&trained.model, tensors, config, &trained.tokenizer, &trained.devices.first)
    };
    let garm = scorer(&trained.garm.reward, &trained.garm.config)?;
    let rival = trained.baseline.as_ref().map(|rival| scorer(&rival.reward, &rival.config)).transpose()?;
    let theta = trained.garm.case_v.as_deref();
    let frozen = theta.and_then(|theta| case_v(theta, &trained.sft.policy, &trained.model, &trained.garm.config));
    let frozen = frozen.map(|(tensors, config)| scorer(&tensors, &config)).transpose()?;
    let held_out = &trained.dataset.held_out.pairs;
    let scorers = Scorers { garm: &garm, bradley_terry: rival.as_ref(), case_v: frozen.as_ref() };
    let sources = figures_by_source(run.records, &trained.dataset.train, held_out, scorers, seed);
    let mut score = |items: &[(Prompt, String)]| -> Result<Vec<Score>, PipelineError> { Ok(garm.score(items)) };
    Ok(GarmReport {
        curves: curves(&run.dir.join("garm"))?,
        temperature: trained.garm.temperature,
        sources,
        odd_text: odd_text(held_out, seed, &mut score)?,
    })
}

/// How often the judge prefers what RL writes: P(one of RL's over one of SFT's), a mean over all pairs of suggestions
/// of a prompt, then over prompts.
fn judged(judge: &LexicalModel, before: &[Written], after: &[Written]) -> Judged {
    let of_prompt = |(before, after): (&Written, &Written)| {
        let pairs = after.suggestions.iter().flat_map(|a| before.suggestions.iter().map(move |b| (a, b)));
        mean(&pairs.map(|(a, b)| judge.preference(&a.text, &b.text)).collect::<Vec<_>>())
    };
    let of_prompts: Vec<f64> = before.iter().zip(after).map(of_prompt).collect();
    let (rl_over_sft, interval) = mean_and_t_interval(&of_prompts);
    Judged { rl_over_sft, interval, n_prompts: of_prompts.len() }
}

fn samples(before: &[Written], after: &[Written]) -> Vec<SamplePrompt> {
    let shown = |w: &Written| w.scored_texts().into_iter().take(N_SHOWN).collect();
    let both: Vec<(&Written, &Written)> = before.iter().zip(after).collect();
    evenly(&both, N_SAMPLES)
        .into_iter()
        .map(|(b, a)| SamplePrompt { prompt: b.prompt.clone(), before: shown(b), after: shown(a) })
        .collect()
}
