//! SFT examples from a click log: each context's clicked suggestions and a teacher's samples, distilled
//! (method B.1.5). The click model's attraction, freed of position, is the teacher where none is given.

use super::impressions::Evidence;
use super::rates::Items;
use super::{Making, SftExample, Side, key};
use crate::digest::sha256;
use crate::distill::{Candidate, DistillConfig, Origin, Pool, TeacherSample, select};
use crate::prompt::Prompt;
use crate::special::logit;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// A draw of its own for each context, so that other contexts do not change it.
pub(super) fn rng_of(context: &str, seed: u64) -> ChaCha8Rng {
    let hash = sha256(context.as_bytes());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(u64::from_le_bytes(std::array::from_fn(|i| hash[i])));
    rng
}

pub(super) fn add(items: &Items, evidence: &Evidence, samples: &[TeacherSample], making: &mut Making) {
    let contexts = making.config.click_model.context;
    let mut written: BTreeMap<String, Vec<&TeacherSample>> = BTreeMap::new();
    for sample in samples {
        written.entry(contexts.of(&sample.prompt)).or_default().push(sample);
    }
    for (context, of_context) in items {
        let Some(first) = of_context.first() else { continue };
        let of_teacher = written.get(context).map_or(&[][..], Vec::as_slice);
        // a teacher's scale is its own: where it has spoken, the click model does not
        let attraction = |text: &str| match of_teacher {
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
        let sampled = of_teacher.iter().map(|sample| Candidate {
            text: sample.text.clone(),
            origin: Origin::Teacher,
            clicks: 0.0,
            examinations: 0.0,
            teacher: Some(sample.score),
        });
        let candidates = clicked.chain(sampled).collect();
        add_pool(Pool { prompt: first.prompt.clone(), candidates }, context, evidence, making);
    }
}

fn log_odds(p: f64) -> f64 {
    logit(p.clamp(1e-9, 1.0 - 1e-9))
}

/// Chooses from a pool; on the held-out side everything that was clicked and breaks no rule stays.
fn add_pool(pool: Pool, context: &str, evidence: &Evidence, making: &mut Making) {
    let everything = DistillConfig { n_select: usize::MAX, max_similarity: 2.0, ..making.config.distill.clone() };
    let config = if making.side == Side::Train { &making.config.distill } else { &everything };
    let (chosen, told) = select(&pool, evidence.prior, config, &mut rng_of(context, making.seed));
    if making.side == Side::Train {
        making.report.distilled.add(told);
    }
    let group = group(&pool.prompt);
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
