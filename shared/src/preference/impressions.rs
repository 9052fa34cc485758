//! Showings with clicks: the click model of the train side, slate pairs with examination weights,
//! satisfied-click pairs, and anchors from the first slot (method B.1.3, B.1.4).

use super::config::{FilterConfig, PreferenceConfig};
use super::report::{SlotReport, SourceReport};
use super::{Anchor, Making, Pair, PairKind, at_most, imitation, impression, key, rates};
use crate::click::{Impression, Record, Slot};
use crate::click_model::log::{ClickLog, ItemIndex, in_view};
use crate::click_model::position::{examined_unclicked, inverse_propensity};
use crate::click_model::trust::{click_weight, corrected_label};
use crate::click_model::{self, ClickModelKind, Fitted};
use crate::ctr::Beta;
use crate::distill::TeacherSample;
use crate::reward::components::{novelty, relevance};
use crate::reward::similarity::words;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

const DAY_MILLIS: i64 = 86_400_000;

pub(super) fn satisfied(slot: &Slot, config: &FilterConfig) -> bool {
    slot.dwell_secs.is_some_and(|secs| secs >= config.satisfied_secs) || slot.followed_up == Some(true)
}

/// What the train side says of slots and click rates; both sides use it.
pub(super) struct Evidence {
    /// The click model, where it is identified.
    pub(super) fitted: Option<Fitted>,
    index: ItemIndex,
    /// Of click rates given examination.
    pub(super) prior: Beta,
}

impl Evidence {
    pub(super) fn of(train: &[&Record], config: &PreferenceConfig, seed: u64, report: &mut SourceReport) -> Self {
        let impressions: Vec<&Impression> = train.iter().filter_map(|r| impression(r)).collect();
        if impressions.is_empty() {
            return Self { fitted: None, index: ItemIndex::default(), prior: Beta { a: 1.0, b: 1.0 } };
        }
        let model = &config.click_model;
        let (log, index) = ClickLog::new(&impressions, model.item, model.context);
        let features = match model.kind {
            ClickModelKind::Regression => features(&impressions, &index, config, log.n_items),
            _ => Vec::new(),
        };
        let fitted = click_model::fit(&log, &features, model, seed);
        report.slots = Some(match &fitted {
            Ok(fitted) => SlotReport::Estimated { model: fitted.kind, slots: fitted.slots.clone() },
            Err(refusal) => SlotReport::Refused { reason: refusal.to_string() },
        });
        let mut evidence = Self { fitted: fitted.ok(), index, prior: Beta { a: 1.0, b: 1.0 } };
        let items = rates::items(&impressions, &evidence, config);
        let counts: Vec<(f64, f64)> = items.values().flatten().map(|i| (i.clicks, i.examinations)).collect();
        evidence.prior = Beta::fit_by(config.prior, &counts);
        report.prior = Some((evidence.prior.a, evidence.prior.b));
        evidence
    }

    /// θ of a slot; 1 where position is not identified or the slot was never seen in training.
    pub(super) fn theta(&self, slot: usize) -> f64 {
        self.fitted.as_ref().and_then(|f| f.slots.get(slot)).map_or(1.0, |s| s.theta)
    }

    /// β of a slot: 0 but under trust bias.
    fn beta(&self, slot: usize) -> f64 {
        self.fitted.as_ref().and_then(|f| f.beta.get(slot)).copied().unwrap_or(0.0)
    }

    /// Clicks that a showing counts as, of θ examinations: 1 or 0; under trust bias α times its corrected label (c - β)/α, which
    /// may be below 0. Nothing where α is not above 0.
    pub(super) fn clicks(&self, slot: usize, clicked: bool) -> f64 {
        let (alpha, beta) = (self.theta(slot), self.beta(slot));
        match () {
            () if beta <= 0.0 => f64::from(u8::from(clicked)),
            () if alpha > 0.0 => alpha * corrected_label(clicked, alpha, beta),
            () => 0.0,
        }
    }

    /// What a click in a slot weighs, at most `largest`: 1/θ; under trust bias less, the less attractive the suggestion is by its
    /// smoothed `rate`.
    fn click_weight(&self, slot: usize, rate: f64, largest: f64) -> f64 {
        let (theta, beta) = (self.theta(slot), self.beta(slot));
        if beta > 0.0 { click_weight(rate, theta, beta).min(largest) } else { inverse_propensity(theta, largest) }
    }

    /// P(click | looked at) of a suggestion by the click model, where it knows it.
    pub(super) fn attraction(&self, config: &PreferenceConfig, context: &str, text: &str) -> Option<f64> {
        let fitted = self.fitted.as_ref()?;
        self.index.get(config.click_model.item, context, text).map(|item| fitted.attraction[item])
    }

    /// P(examined | not clicked) of slot `j` in a slate: what the viewport or the cascade says, else from θ and
    /// the suggestion's smoothed rate.
    fn examined(&self, slate: &[Slot], j: usize, rate: f64) -> f64 {
        if slate[j].visible == Some(true) {
            return 1.0;
        }
        match &self.fitted {
            Some(f) if f.kind == ClickModelKind::Cascade => {
                let first = slate.iter().position(|s| s.clicked).unwrap_or(slate.len());
                f64::from(u8::from(j < first))
            }
            _ => examined_unclicked(self.theta(j).clamp(0.0, 1.0), rate),
        }
    }
}

/// Features of the regression by item: relevance, novelty, and length in words (in tens).
fn features(
    impressions: &[&Impression],
    index: &ItemIndex,
    config: &PreferenceConfig,
    n_items: usize,
) -> Vec<Vec<f64>> {
    let model = &config.click_model;
    let mut features = vec![Vec::new(); n_items];
    for impression in impressions {
        let context = model.context.of(&impression.prompt);
        for slot in impression.slate.iter().filter(|s| in_view(s)) {
            let Some(item) = index.get(model.item, &context, &slot.text) else { continue };
            if features[item].is_empty() {
                let (text, prompt) = (&slot.text, &impression.prompt);
                features[item] = vec![relevance(text, prompt), novelty(text, prompt), words(text).len() as f64 / 10.0];
            }
        }
    }
    features
}

pub(super) fn add(records: &[&Record], evidence: &Evidence, samples: &[TeacherSample], making: &mut Making) {
    let impressions: Vec<&Impression> = records.iter().filter_map(|r| impression(r)).collect();
    if impressions.is_empty() {
        return;
    }
    let items = rates::items(&impressions, evidence, making.config);
    add_slate_pairs(&impressions, evidence, &items, making);
    for impression in &impressions {
        making.split.prompts.push(impression.prompt.clone());
        add_anchor(impression, making);
    }
    imitation::add(&items, evidence, samples, making);
    rates::add_pairs(&items, evidence, making);
}

/// Pairs of every slate, capped by impression and by user and day.
fn add_slate_pairs(impressions: &[&Impression], evidence: &Evidence, items: &rates::Items, making: &mut Making) {
    let mut days: BTreeMap<(&str, i64), Vec<Pair>> = BTreeMap::new();
    for impression in impressions {
        let mut pairs = slate_pairs(impression, evidence, items, making);
        let most = impression.slate.len().saturating_sub(1);
        if pairs.len() > most {
            pairs.sort_by(|a, b| b.weight.total_cmp(&a.weight));
            making.report.n_pairs_capped += pairs.len() - most;
            pairs.truncate(most);
        }
        let day = impression.time_millis.div_euclid(DAY_MILLIS);
        days.entry((&impression.user_hash, day)).or_default().extend(pairs);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(making.seed);
    for (_, mut pairs) in days {
        let n = pairs.len();
        pairs.sort_by_cached_key(|p| (key(&p.prompt), p.chosen.clone(), p.rejected.clone()));
        let kept = at_most(pairs, making.config.pairs.max_per_user_day, &mut rng);
        making.report.n_pairs_capped += n - kept.len();
        making.split.pairs.extend(kept);
    }
}

/// Clicked over unclicked, satisfied over bounced; w = e_b · min(1/θ_a, M), under trust bias e_b · min(γ_a/(α_a γ_a + β_a), M).
fn slate_pairs(impression: &Impression, evidence: &Evidence, items: &rates::Items, making: &Making) -> Vec<Pair> {
    let (pairs, filter) = (&making.config.pairs, &making.config.filter);
    let slate = &impression.slate;
    let slots = || slate.iter().enumerate().filter(|(_, slot)| in_view(slot));
    let context = making.config.click_model.context.of(&impression.prompt);
    let rate_of = |text: &str| {
        let words = words(text);
        let item = items.get(&context).and_then(|of_context| of_context.iter().find(|i| i.says(&words)));
        item.map_or(evidence.prior, |i| evidence.prior.observe(i.clicks, i.examinations)).mean()
    };
    let mut made = Vec::new();
    for (i, chosen) in slots().filter(|(_, slot)| slot.clicked) {
        for (j, rejected) in slots().filter(|(_, slot)| slot.text != chosen.text) {
            let bounced = rejected.clicked && rejected.dwell_secs.is_some_and(|secs| secs < filter.bounced_secs);
            let (kind, label) = match rejected.clicked {
                false => (PairKind::Slate, pairs.hard_label),
                true if bounced && satisfied(chosen, filter) => (PairKind::Satisfied, pairs.satisfied_label),
                true => continue,
            };
            // a clicked one was looked at
            let seen = if rejected.clicked { 1.0 } else { evidence.examined(slate, j, rate_of(&rejected.text)) };
            let weight = seen * evidence.click_weight(i, rate_of(&chosen.text), pairs.max_position_weight);
            if weight > 0.0 {
                made.push(Pair {
                    source: making.source.to_owned(),
                    group: format!("user:{}", impression.user_hash),
                    prompt: impression.prompt.clone(),
                    chosen: chosen.text.clone(),
                    rejected: rejected.text.clone(),
                    label: label as f32,
                    weight: weight as f32,
                    kind,
                    logit_variance: 0.0,
                });
            }
        }
    }
    made
}

/// The first slot is looked at by everyone, so that its outcome is the suggestion's.
fn add_anchor(impression: &Impression, making: &mut Making) {
    if let Some(slot) = impression.slate.first().filter(|slot| in_view(slot)) {
        let level = if slot.clicked { 1 + u8::from(satisfied(slot, &making.config.filter)) } else { 0 };
        making.split.anchors.push(Anchor {
            source: making.source.to_owned(),
            group: format!("user:{}", impression.user_hash),
            prompt: impression.prompt.clone(),
            suggestion: slot.text.clone(),
            level,
            weight: 1.0,
        });
    }
}

#[cfg(test)]
mod tests;
