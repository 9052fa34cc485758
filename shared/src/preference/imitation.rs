//! SFT examples from a click log: each context's clicked suggestions and a teacher's samples, distilled
//! (method B.1.5). The click model's attraction, freed of position, is the teacher where none is given.
//!
//! A teacher's samples for a conversation without showings (a pane, an editor's list, a real next query) are a pool of
//! their own. Nothing that a teacher wrote is on the held-out side, which says what people chose.

use super::impressions::Evidence;
use super::partition::beginning;
use super::rates::Items;
use super::{Making, SftExample, Side, key};
use crate::digest::sha256;
use crate::distill::{Candidate, DistillConfig, Origin, Pool, TeacherSample, select};
use crate::prompt::Prompt;
use crate::special::logit;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashSet};

/// A draw of its own for each context, so that other contexts do not change it.
pub(super) fn rng_of(context: &str, seed: u64) -> ChaCha8Rng {
    let hash = sha256(context.as_bytes());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from_le_bytes(std::array::from_fn(|i| hash[i])));
    rng
}

/// Samples by context.
type Written<'a> = BTreeMap<String, Vec<&'a TeacherSample>>;

/// What the teacher wrote for each context; nothing on the held-out side.
fn written<'a>(samples: &'a [TeacherSample], making: &Making) -> Written<'a> {
    let contexts = making.config.click_model.context;
    let mut written = Written::new();
    for sample in samples.iter().filter(|_| making.side == Side::Train) {
        written.entry(contexts.of(&sample.prompt)).or_default().push(sample);
    }
    written
}

fn of_teacher(sample: &TeacherSample) -> Candidate {
    Candidate {
        text: sample.text.clone(),
        origin: Origin::Teacher,
        clicks: 0.0,
        examinations: 0.0,
        teacher: Some(sample.score),
    }
}

pub(super) fn add(items: &Items, evidence: &Evidence, samples: &[TeacherSample], making: &mut Making) {
    let written = written(samples, making);
    for (context, of_context) in items {
        let Some(first) = of_context.first() else { continue };
        let sampled = written.get(context).map_or(&[][..], Vec::as_slice);
        // a teacher's scale is its own: where it has spoken, the click model does not
        let attraction = |text: &str| match sampled {
            [] => evidence.attraction(making.config, context, text).map(log_odds),
            _ => None,
        };
        let clicked = of_context.iter().filter(|i| i.clicks > 0.0).map(|item| Candidate {
            text: item.text.to_owned(),
            origin: Origin::Clicked,
            clicks: item.clicks,
            examinations: item.examinations,
            teacher: attraction(item.text),
        });
        let candidates = clicked.chain(sampled.iter().map(|sample| of_teacher(sample))).collect();
        let group = group(first.prompt);
        add_pool(Pool { prompt: first.prompt.clone(), candidates }, context, group, evidence, making);
    }
}

/// Pools of the conversations without showings: of them only what a teacher wrote is chosen from, as the rest is imitated
/// as it is. `pooled` are the contexts that have a pool already, in this data set or another; those of here are added.
pub(super) fn add_unshown(
    pooled: &mut HashSet<String>,
    evidence: &Evidence,
    samples: &[TeacherSample],
    making: &mut Making,
) {
    let written = written(samples, making);
    if written.is_empty() {
        return;
    }
    let contexts = making.config.click_model.context;
    let mut prompts: BTreeMap<String, Prompt> = BTreeMap::new();
    for prompt in &making.split.prompts {
        let context = contexts.of(prompt);
        if !pooled.contains(&context) && written.contains_key(&context) {
            let first = prompts.entry(context).or_insert_with(|| prompt.clone());
            if key(prompt) < key(first) {
                *first = prompt.clone();
            }
        }
    }
    let spelling = |text: &str| text.trim().to_lowercase();
    let known: HashSet<(String, String)> =
        making.split.sft.iter().map(|e| (contexts.of(&e.prompt), spelling(&e.suggestion))).collect();
    for (context, prompt) in prompts {
        let sampled = written.get(&context).into_iter().flatten();
        let new = sampled.filter(|sample| !known.contains(&(context.clone(), spelling(&sample.text))));
        let candidates: Vec<Candidate> = new.map(|sample| of_teacher(sample)).collect();
        // as lists and next queries are grouped, so that a conversation stays on one side
        let group = format!("query:{}", beginning(&prompt));
        add_pool(Pool { prompt, candidates }, &context, group, evidence, making);
        pooled.insert(context);
    }
}

fn log_odds(p: f64) -> f64 {
    logit(p.clamp(1e-9, 1.0 - 1e-9))
}

/// Chooses from a pool; on the held-out side everything that was clicked and breaks no rule stays.
fn add_pool(pool: Pool, context: &str, group: String, evidence: &Evidence, making: &mut Making) {
    let everything = DistillConfig { n_select: usize::MAX, max_similarity: 2.0, ..making.config.distill.clone() };
    let config = if making.side == Side::Train { &making.config.distill } else { &everything };
    let (chosen, told) = select(&pool, evidence.prior, config, &mut rng_of(context, making.seed));
    if making.side == Side::Train {
        making.report.distilled.add(told);
    }
    making.split.sft.extend(chosen.into_iter().map(|c| SftExample {
        source: making.source.to_owned(),
        group: group.clone(),
        prompt: pool.prompt.clone(),
        suggestion: c.candidate.text,
        weight: c.weight as f32,
    }));
}

fn group(prompt: &Prompt) -> String {
    format!("prompt:{}", key(prompt))
}
