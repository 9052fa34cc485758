//! The log that simulated users leave: a so-so logging policy shows slates in random order with known
//! propensities, users click by their taste and mood. Method B.1.1, B.6.3.

use super::{
    EXAMINATION, Situation, TAU_CLICK, TAU_SATISFIED, World, grammar::N_INTENTS, grammar::Phrase, satisfaction_effect,
    standard_normal,
};
use crate::model::state::{StateError, write_atomic};
use beckon_shared::click::{Impression, Slot};
use beckon_shared::prompt::Prompt;
use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::path::Path;

/// Name of the logging policy in the records.
pub const LOGGING_POLICY: &str = "simulated-logging";
/// Time of the first impression, 2025-01-01 UTC.
const START_MILLIS: i64 = 1_735_689_600_000;
/// How strongly the logging policy follows the true utility; 0 would be blind.
const LOGGING_SKILL: f64 = 0.35;
/// Its dislike of related topics.
const LOGGING_RELATED: f64 = -1.6;

/// Impressions of the sample log that ships with the product.
pub const SAMPLE_IMPRESSIONS: usize = 2_000;
/// Users of the sample log.
pub const SAMPLE_USERS: usize = 400;
/// Seed of the sample log and of its world.
pub const SAMPLE_SEED: u64 = 7;

/// How slates of one situation are drawn, one entry a candidate.
pub(super) struct DrawTable {
    /// First-draw probabilities, sum 1.
    pub(super) weights: Vec<f64>,
    /// P(in the slate).
    pub(super) inclusion: Vec<f64>,
}

impl World {
    /// Probability with which the logging policy puts each suggestion into any one slot of its slate:
    /// a slate is drawn without replacement (Plackett-Luce) and then put in random order, so it is the
    /// probability to be drawn at all over the number of slots. Exact; empty outside the grammar.
    pub fn logging_propensities(&self, prompt: &Prompt) -> HashMap<&str, f64> {
        let Some(situation) = self.situation(prompt) else { return HashMap::new() };
        let candidates = self.candidates(situation);
        let inclusion = self.draw_table(situation).inclusion;
        candidates.iter().zip(inclusion).map(|(c, p)| (c.text.as_str(), p / EXAMINATION.len() as f64)).collect()
    }

    pub(super) fn draw_table(&self, situation: Situation) -> DrawTable {
        let weights = self.logging_weights(situation, &self.candidates(situation));
        DrawTable { inclusion: inclusion_of_three(&weights), weights }
    }

    /// First-draw probabilities of the logging policy: it follows a blurred idea of the utility, and has
    /// whims of its own for each wish and intent.
    fn logging_weights(&self, situation: Situation, candidates: &[&Phrase]) -> Vec<f64> {
        let whims = self.whims(situation.kind);
        let weights: Vec<f64> = candidates
            .iter()
            .map(|c| {
                let skill = LOGGING_SKILL * self.affinity[situation.kind][c.intent];
                let related = if c.topic == situation.topic { 0.0 } else { LOGGING_RELATED };
                (skill + whims[c.intent] + related).exp()
            })
            .collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect()
    }

    fn whims(&self, kind: usize) -> [f64; N_INTENTS] {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ (0x77_6869_6d00 + kind as u64));
        std::array::from_fn(|_| 0.5 * standard_normal(&mut rng))
    }

    /// A log of `n_impressions` showings to `n_users` users (at least one), times increasing, every
    /// record marked as simulated. The same arguments give the same log.
    pub fn generate_log(&self, n_impressions: usize, n_users: usize, seed: u64) -> Vec<Impression> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x6c6f67);
        let tastes: Vec<[f64; N_INTENTS]> =
            (0..n_users.max(1)).map(|_| std::array::from_fn(|_| standard_normal(&mut rng))).collect();
        let mut tables: HashMap<(usize, usize), DrawTable> = HashMap::new();
        let mut time_millis = START_MILLIS;
        (0..n_impressions)
            .map(|i| {
                time_millis += rng.random_range(3_000..120_000);
                let user = rng.random_range(0..tastes.len());
                let (prompt, situation) = &self.prompts[rng.random_range(0..self.prompts.len())];
                let key = (situation.topic, situation.kind);
                let table = tables.entry(key).or_insert_with(|| self.draw_table(*situation));
                Impression {
                    impression_id: format!("sim-{seed}-{i:06}"),
                    user_hash: format!("simuser{user:05}"),
                    time_millis,
                    prompt: prompt.clone(),
                    slate: self.show(*situation, table, &tastes[user], &mut rng),
                    policy: Some(LOGGING_POLICY.to_owned()),
                    checkpoint: None,
                    experiment: None,
                    arm: None,
                    simulated: true,
                }
            })
            .collect()
    }

    /// Draws a slate and lets the user look at it.
    fn show(
        &self,
        situation: Situation,
        table: &DrawTable,
        taste: &[f64; N_INTENTS],
        rng: &mut ChaCha8Rng,
    ) -> Vec<Slot> {
        let candidates = self.candidates(situation);
        let mut chosen = draw_three(&table.weights, rng);
        chosen.shuffle(rng);
        chosen
            .into_iter()
            .zip(EXAMINATION)
            .map(|(i, examination)| {
                let propensity = (table.inclusion[i] / EXAMINATION.len() as f64 * 1e6).round() / 1e6;
                let examined = rng.random::<f64>() < examination;
                let mood = standard_normal(rng);
                let utility = self.utility(situation, candidates[i], taste, mood);
                self.look(candidates[i], propensity, examined.then_some(utility), rng)
            })
            .collect()
    }

    pub(super) fn utility(&self, situation: Situation, phrase: &Phrase, taste: &[f64; N_INTENTS], mood: f64) -> f64 {
        // candidates are on the topic or a related one, so the mean exists
        self.mean(situation, phrase).unwrap_or(f64::NEG_INFINITY)
            + self.spread[phrase.intent] * taste[phrase.intent]
            + mood
    }

    /// What the log says of one slot; `utility` is `None` where the user did not look.
    fn look(&self, phrase: &Phrase, propensity: f64, utility: Option<f64>, rng: &mut ChaCha8Rng) -> Slot {
        let clicked = utility.is_some_and(|u| u > TAU_CLICK);
        let satisfied = utility.is_some_and(|u| clicked && u + satisfaction_effect(phrase.style) > TAU_SATISFIED);
        // drawn for every slot, so that a change of one outcome does not shift the draws after it
        let (short, long) = (rng.random_range(5..80), rng.random_range(100..900));
        let goes_on = rng.random::<f64>() < 0.5;
        Slot {
            text: phrase.text.clone(),
            propensity: Some(propensity),
            visible: None,
            clicked,
            dwell_secs: clicked.then(|| f64::from(if satisfied { long } else { short }) / 10.0),
            followed_up: clicked.then_some(satisfied && goes_on),
        }
    }
}

/// P(item is among the first three draws without replacement), for each item; `p` sums to 1.
pub(super) fn inclusion_of_three(p: &[f64]) -> Vec<f64> {
    let mut inclusion = p.to_vec();
    for (a, &pa) in p.iter().enumerate() {
        let rest_a = 1.0 - pa;
        for (b, &pb) in p.iter().enumerate().filter(|&(b, _)| b != a) {
            let second = pa * pb / rest_a;
            inclusion[b] += second;
            let rest_ab = rest_a - pb;
            for (c, &pc) in p.iter().enumerate().filter(|&(c, _)| c != a && c != b) {
                inclusion[c] += second * pc / rest_ab;
            }
        }
    }
    inclusion
}

pub(super) fn draw_three(p: &[f64], rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut left = p.to_vec();
    EXAMINATION
        .iter()
        .map(|_| {
            let mut u = rng.random::<f64>() * left.iter().sum::<f64>();
            let drawn = left.iter().position(|&w| {
                u -= w;
                w > 0.0 && u < 0.0
            });
            // rounding can leave u at 0 after the last item
            let i = drawn.unwrap_or_else(|| left.iter().rposition(|&w| w > 0.0).unwrap_or(0));
            left[i] = 0.0;
            i
        })
        .collect()
}

/// One JSON line an impression.
pub fn to_jsonl(log: &[Impression]) -> String {
    let mut text = String::new();
    for impression in log {
        // a struct of strings, numbers and lists always serialises
        text.push_str(&serde_json::to_string(impression).unwrap_or_default());
        text.push('\n');
    }
    text
}

/// `beckon simulate`: writes a log of the world of `seed` to `out`, appearing by rename.
///
/// # Errors
/// Where the file cannot be written.
pub fn write_log(n_impressions: usize, n_users: usize, seed: u64, out: &Path) -> Result<(), StateError> {
    let text = to_jsonl(&World::new(seed).generate_log(n_impressions, n_users, seed));
    write_atomic(out, text.as_bytes())
}
