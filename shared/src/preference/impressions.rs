//! Showings with clicks: slate pairs, satisfied-click pairs, pairs of smoothed rates, anchors from
//! the first slot, and SFT examples (method B.1.3 to B.1.5).

use super::{Anchor, HARD_LABEL, MAX_POSITION_WEIGHT, MIN_CONTRAST, Pair, SftExample, Split, at_most, key};
use crate::click::{Impression, Record, Slot};
use crate::ctr::Beta;
use crate::prompt::Prompt;
use crate::special::logit;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// A click counts as satisfied from this dwell time on, as bounced below the second.
const SATISFIED_SECS: f64 = 10.0;
const BOUNCED_SECS: f64 = 2.0;
/// Label of satisfied over bounced.
const SATISFIED_LABEL: f32 = 0.9;
/// Expected examinations from which a rate of its own is trusted in a pair.
const MIN_EXAMINATIONS: f64 = 5.0;
/// Pairs of smoothed rates kept of one prompt.
const MAX_PAIRS_PER_PROMPT: usize = 30;
/// Bounds of the click weights (method B.1.5).
const WEIGHT_RANGE: (f64, f64) = (0.1, 5.0);

/// Clicks and expected examinations of one suggestion for one prompt.
struct Item<'a> {
    prompt: &'a Prompt,
    text: &'a str,
    clicks: f64,
    examinations: f64,
}

pub(super) fn add(source: &str, records: &[&Record], seed: u64, split: &mut Split) {
    let impressions: Vec<&Impression> = records
        .iter()
        .filter_map(|record| if let Record::Impression(impression) = record { Some(impression) } else { None })
        .collect();
    if impressions.is_empty() {
        return;
    }
    let position = Position::estimate(&impressions);
    for impression in &impressions {
        split.prompts.push(impression.prompt.clone());
        add_slate_pairs(source, impression, &position, split);
        add_anchor(source, impression, split);
    }
    let items = items(&impressions, &position);
    let prior = Beta::fit(&items.values().flatten().map(|item| (item.clicks, item.examinations)).collect::<Vec<_>>());
    add_sft(source, &items, prior, split);
    add_rate_pairs(source, &items, prior, &mut ChaCha8Rng::seed_from_u64(seed), split);
}

fn in_view(slot: &Slot) -> bool {
    slot.visible != Some(false)
}

fn satisfied(slot: &Slot) -> bool {
    slot.dwell_secs.is_some_and(|secs| secs >= SATISFIED_SECS) || slot.followed_up == Some(true)
}

/// How likely each slot is looked at, relative to the first.
struct Position {
    examined: Vec<f64>,
    base_ctr: f64,
}

impl Position {
    /// Where every propensity is known, texts were put into slots at random, and the ratio of click
    /// rates is the ratio of examination. Otherwise position and quality cannot be told apart here,
    /// and every slot counts as looked at.
    fn estimate(impressions: &[&Impression]) -> Self {
        let randomised = impressions.iter().all(|i| i.slate.iter().all(|slot| slot.propensity.is_some()));
        let mut counts: Vec<(f64, f64)> = Vec::new();
        for impression in impressions {
            counts.resize(counts.len().max(impression.slate.len()), (0.0, 0.0));
            for (count, slot) in counts.iter_mut().zip(&impression.slate).filter(|(_, slot)| in_view(slot)) {
                *count = (count.0 + f64::from(u8::from(slot.clicked)), count.1 + 1.0);
            }
        }
        let rate = |(clicks, shown): &(f64, f64)| if *shown > 0.0 { clicks / shown } else { 0.0 };
        let base_ctr = counts.first().map_or(0.0, rate);
        let relative = |count: &(f64, f64)| {
            let known = randomised && base_ctr > 0.0;
            if known { (rate(count) / base_ctr).clamp(1.0 / MAX_POSITION_WEIGHT, 1.0) } else { 1.0 }
        };
        Self { examined: counts.iter().map(relative).collect(), base_ctr }
    }

    /// P(examined | not clicked) at a slot, from the position-based model.
    fn examined_unclicked(&self, slot: usize) -> f64 {
        let theta = self.examined[slot];
        theta * (1.0 - self.base_ctr) / (1.0 - theta * self.base_ctr).max(1e-9)
    }
}

/// Clicked over unclicked in one slate, satisfied over bounced; at most one pair fewer than slots.
fn add_slate_pairs(source: &str, impression: &Impression, position: &Position, split: &mut Split) {
    let slots = || impression.slate.iter().enumerate().filter(|(_, slot)| in_view(slot));
    let mut pairs = Vec::new();
    for (i, chosen) in slots().filter(|(_, slot)| slot.clicked) {
        for (j, rejected) in slots().filter(|(_, slot)| slot.text != chosen.text) {
            let bounced = rejected.clicked && rejected.dwell_secs.is_some_and(|secs| secs < BOUNCED_SECS);
            let label = match rejected.clicked {
                false => HARD_LABEL,
                true if bounced && satisfied(chosen) => SATISFIED_LABEL,
                true => continue,
            };
            let seen = if rejected.clicked || rejected.visible == Some(true) && position.examined[j] >= 1.0 {
                1.0
            } else {
                position.examined_unclicked(j)
            };
            pairs.push(Pair {
                source: source.to_owned(),
                group: format!("user:{}", impression.user_hash),
                prompt: impression.prompt.clone(),
                chosen: chosen.text.clone(),
                rejected: rejected.text.clone(),
                label,
                weight: (seen / position.examined[i]) as f32,
            });
        }
    }
    pairs.truncate(impression.slate.len().saturating_sub(1));
    split.pairs.extend(pairs);
}

/// The first slot is looked at by everyone, so that its outcome is the suggestion's.
fn add_anchor(source: &str, impression: &Impression, split: &mut Split) {
    if let Some(slot) = impression.slate.first().filter(|slot| in_view(slot)) {
        split.anchors.push(Anchor {
            source: source.to_owned(),
            group: format!("user:{}", impression.user_hash),
            prompt: impression.prompt.clone(),
            suggestion: slot.text.clone(),
            level: if slot.clicked { 1 + u8::from(satisfied(slot)) } else { 0 },
            weight: 1.0,
        });
    }
}

/// Suggestions by prompt, with what their slots' examination makes of the showings.
fn items<'a>(impressions: &[&'a Impression], position: &Position) -> BTreeMap<String, Vec<Item<'a>>> {
    let mut counts: BTreeMap<(String, &str), Item> = BTreeMap::new();
    for impression in impressions {
        let prompt_key = key(&impression.prompt);
        for (i, slot) in impression.slate.iter().enumerate().filter(|(_, slot)| in_view(slot)) {
            let new = || Item { prompt: &impression.prompt, text: &slot.text, clicks: 0.0, examinations: 0.0 };
            let item = counts.entry((prompt_key.clone(), &slot.text)).or_insert_with(new);
            item.clicks += f64::from(u8::from(slot.clicked));
            // a click proves examination
            item.examinations += if slot.clicked { 1.0 } else { position.examined[i] };
        }
    }
    let mut by_prompt: BTreeMap<String, Vec<Item>> = BTreeMap::new();
    for ((prompt_key, _), item) in counts {
        by_prompt.entry(prompt_key).or_default().push(item);
    }
    by_prompt
}

/// Clicked suggestions, weighted by the lower bound of their rate against the mean rate.
fn add_sft(source: &str, items: &BTreeMap<String, Vec<Item>>, prior: Beta, split: &mut Split) {
    for item in items.values().flatten().filter(|item| item.clicks > 0.0) {
        let lower = prior.observe(item.clicks, item.examinations).lower().max(1e-9);
        split.sft.push(SftExample {
            source: source.to_owned(),
            group: format!("prompt:{}", key(item.prompt)),
            prompt: item.prompt.clone(),
            suggestion: item.text.to_owned(),
            weight: (logit(lower) - logit(prior.mean())).exp().clamp(WEIGHT_RANGE.0, WEIGHT_RANGE.1) as f32,
        });
    }
}

/// Suggestions of one prompt that were shown often enough to have a rate each.
fn add_rate_pairs(
    source: &str,
    items: &BTreeMap<String, Vec<Item>>,
    prior: Beta,
    rng: &mut ChaCha8Rng,
    split: &mut Split,
) {
    for items in items.values() {
        let shown: Vec<&Item> = items.iter().filter(|item| item.examinations >= MIN_EXAMINATIONS).collect();
        let mut pairs = Vec::new();
        for (i, a) in shown.iter().enumerate() {
            pairs.extend(shown[i + 1..].iter().filter_map(|b| rate_pair(source, a, b, prior)));
        }
        split.pairs.extend(at_most(pairs, MAX_PAIRS_PER_PROMPT, rng));
    }
}

fn rate_pair(source: &str, a: &Item, b: &Item, prior: Beta) -> Option<Pair> {
    let posterior = |item: &Item| prior.observe(item.clicks, item.examinations);
    let (chosen, rejected) = if posterior(a).mean() >= posterior(b).mean() { (a, b) } else { (b, a) };
    let label = posterior(chosen).probability_above(posterior(rejected));
    let contrast = 2.0 * label - 1.0;
    let n_effective = 2.0 / (1.0 / a.examinations + 1.0 / b.examinations);
    (contrast >= MIN_CONTRAST).then(|| Pair {
        source: source.to_owned(),
        group: format!("prompt:{}", key(a.prompt)),
        prompt: a.prompt.clone(),
        chosen: chosen.text.to_owned(),
        rejected: rejected.text.to_owned(),
        label: label as f32,
        weight: (contrast * n_effective.sqrt() / 10.0).min(1.0) as f32,
    })
}
