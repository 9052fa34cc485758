//! Click rates of suggestions within a context, freed of position, and pairs of them with soft labels
//! (method B.1.3, B.1.4 (2)).

use super::config::PreferenceConfig;
use super::impressions::Evidence;
use super::{Making, Pair, PairKind, at_most, key};
use crate::click::Impression;
use crate::click_model::log::in_view;
use crate::prompt::Prompt;
use crate::reward::similarity::words;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Clicks and expected examinations of one suggestion in one context.
pub(super) struct Item<'a> {
    /// A conversation of the context: the first in order of text.
    pub(super) prompt: &'a Prompt,
    /// The suggestion as it was shown: the first spelling in order of text.
    pub(super) text: &'a str,
    words: Vec<String>,
    /// Corrected for trust in the place, so not a whole number there.
    pub(super) clicks: f64,
    pub(super) examinations: f64,
}

impl Item<'_> {
    /// Whether a suggestion of these words is this one.
    pub(super) fn says(&self, words: &[String]) -> bool {
        words == self.words
    }
}

/// Suggestions by context.
pub(super) type Items<'a> = BTreeMap<String, Vec<Item<'a>>>;

/// Adds up impressions: a showing in slot k is θ_k examinations (α_k, where clicks are corrected for trust), and no suggestion
/// has more clicks than examinations, or fewer than none.
pub(super) fn items<'a>(impressions: &[&'a Impression], evidence: &Evidence, config: &PreferenceConfig) -> Items<'a> {
    let mut counts: BTreeMap<(String, Vec<String>), Item> = BTreeMap::new();
    for impression in impressions {
        let context = config.click_model.context.of(&impression.prompt);
        for (slot, shown) in impression.slate.iter().enumerate().filter(|(_, s)| in_view(s)) {
            let words = words(&shown.text);
            let item = counts.entry((context.clone(), words.clone())).or_insert_with(|| Item {
                prompt: &impression.prompt,
                text: &shown.text,
                words,
                clicks: 0.0,
                examinations: 0.0,
            });
            if key(&impression.prompt) < key(item.prompt) {
                item.prompt = &impression.prompt;
            }
            item.text = item.text.min(&shown.text);
            item.clicks += evidence.clicks(slot, shown.clicked);
            item.examinations += evidence.theta(slot).clamp(0.0, 1.0);
        }
    }
    let mut by_context: Items = BTreeMap::new();
    for ((context, _), mut item) in counts {
        item.clicks = item.clicks.max(0.0);
        item.examinations = item.examinations.max(item.clicks);
        by_context.entry(context).or_default().push(item);
    }
    by_context
}

/// Pairs of suggestions of one context that were looked at often enough to have a rate each.
pub(super) fn add_pairs(items: &Items, evidence: &Evidence, making: &mut Making) {
    let config = &making.config.pairs;
    let mut rng = ChaCha8Rng::seed_from_u64(making.seed);
    for items in items.values() {
        let shown: Vec<&Item> = items.iter().filter(|i| i.examinations >= config.min_examinations).collect();
        let mut pairs = Vec::new();
        for (i, a) in shown.iter().enumerate() {
            pairs.extend(shown[i + 1..].iter().filter_map(|b| pair(a, b, evidence, making)));
        }
        let n = pairs.len();
        let kept = at_most(pairs, config.max_per_context, &mut rng);
        making.report.n_pairs_capped += n - kept.len();
        making.split.pairs.extend(kept);
    }
}

fn pair(a: &Item, b: &Item, evidence: &Evidence, making: &Making) -> Option<Pair> {
    let posterior = |item: &Item| evidence.prior.observe(item.clicks, item.examinations);
    let (chosen, rejected) = if posterior(a).mean() >= posterior(b).mean() { (a, b) } else { (b, a) };
    let label = posterior(chosen).probability_above(posterior(rejected));
    let contrast = 2.0 * label - 1.0;
    let n_effective = 2.0 / (1.0 / a.examinations + 1.0 / b.examinations);
    (contrast >= making.config.pairs.min_contrast).then(|| Pair {
        source: making.source.to_owned(),
        group: format!("prompt:{}", key(a.prompt)),
        prompt: a.prompt.clone(),
        chosen: chosen.text.to_owned(),
        rejected: rejected.text.to_owned(),
        label: label as f32,
        weight: (contrast * n_effective.sqrt() / 10.0).min(1.0) as f32,
        kind: PairKind::Rate,
        logit_variance: (posterior(a).logit_moments().1 + posterior(b).logit_moments().1) as f32,
    })
}
