//! Simulated users in a finite world whose true click probabilities are known. It stands beside the
//! loop: it writes a click log, and it tells what a policy is really worth. Method B.6.3.
//!
//! A person with a wish (`kind`) about a topic sees suggestions. The utility of suggestion y in
//! conversation x for a user is `m(x, y) + s_i·t + n`: `m` from a seeded table of wish and intent, with
//! effects of topic, length and clickbait; `t ~ N(0, 1)` the user's lasting taste for the intent `i`,
//! whose spread `s_i` differs between intents; `n ~ N(0, 1)` the mood of the moment. An examined
//! suggestion is clicked where the utility exceeds [`TAU_CLICK`], and the click is satisfied where it
//! exceeds [`TAU_SATISFIED`]. Over users the utility is Gaussian, so with `sigma = sqrt(1 + s_i²)`
//!
//! `P(click | examined) = Φ((m - TAU_CLICK) / sigma)`.
//!
//! `m` and `sigma` are what GaRM's mean and aleatoric standard deviation should find: the thresholds
//! are those of its anchor (method B.2.4 A). Slots are examined independently with probability
//! [`EXAMINATION`] (position-based model). A text outside the grammar, or about a topic that is neither
//! the conversation's nor related to it, is never clicked, so the true CTR of a policy is a finite sum.
//!
//! Everything here is simulated, and every record says so.

pub mod gold;
pub mod grammar;
pub mod logging;
pub mod traffic;
pub mod visitor;

use beckon_shared::prompt::Prompt;
use beckon_shared::special::normal_cdf;
use grammar::{CLICKBAIT, KINDS, N_INTENTS, Phrase, Style, TOPICS};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;

/// P(slot is looked at), slot 0 first.
pub const EXAMINATION: [f64; 3] = [1.0, 0.7, 0.5];
/// Utility above which an examined suggestion is clicked.
pub const TAU_CLICK: f64 = 0.0;
/// Utility above which a click was worth it.
pub const TAU_SATISFIED: f64 = 1.0;

/// Mean utility before any effect.
const BASE: f64 = -1.9;
/// Effect of a related instead of the own topic.
const RELATED_EFFECT: f64 = -0.9;
/// Effect of clickbait on clicking.
const CLICKBAIT_EFFECT: f64 = 0.35;
/// Effect of clickbait on being satisfied, beside the former.
const CLICKBAIT_DISAPPOINTMENT: f64 = -1.2;
/// Effect of the long form.
const LONG_EFFECT: f64 = -0.4;
/// Affinity of the three best intents of each wish.
const BEST_AFFINITIES: [f64; 3] = [1.5, 1.1, 0.7];
/// Smallest and largest `s_i`.
const SPREADS: (f64, f64) = (0.1, 1.3);

/// What a conversation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Index into [`grammar::TOPICS`].
    pub topic: usize,
    /// Index into [`grammar::KINDS`].
    pub kind: usize,
}

/// A world with known truth; two worlds of one seed are the same.
#[derive(Debug, Clone)]
pub struct World {
    seed: u64,
    /// `[kind][intent]`.
    affinity: Vec<[f64; N_INTENTS]>,
    /// s_i.
    spread: [f64; N_INTENTS],
    prompts: Vec<(Prompt, Situation)>,
    situation_of: HashMap<Prompt, Situation>,
    /// Phrases of topic `t` are `phrases[t]`.
    phrases: Vec<Vec<Phrase>>,
    phrase_of: HashMap<String, (usize, usize)>,
}

impl World {
    /// Draws the tables of utility and spread from `seed`; the grammar is the same in every world.
    pub fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let affinity = KINDS.iter().map(|_| draw_affinities(&mut rng)).collect();
        let step = (SPREADS.1 - SPREADS.0) / (N_INTENTS - 1) as f64;
        let mut spread: [f64; N_INTENTS] = std::array::from_fn(|i| SPREADS.0 + step * i as f64);
        spread.shuffle(&mut rng);
        let mut prompts = Vec::new();
        for topic in 0..TOPICS.len() {
            for kind in 0..KINDS.len() {
                prompts.extend(grammar::prompts(topic, kind).into_iter().map(|p| (p, Situation { topic, kind })));
            }
        }
        let situation_of = prompts.iter().cloned().collect();
        let phrases: Vec<Vec<Phrase>> = (0..TOPICS.len()).map(grammar::phrases).collect();
        let phrase_of =
            phrases.iter().flatten().map(|p| p.text.clone()).zip(phrase_places(&phrases)).collect::<HashMap<_, _>>();
        Self { seed, affinity, spread, prompts, situation_of, phrases, phrase_of }
    }

    /// The seed that made it.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Every conversation of the world.
    pub fn prompts(&self) -> impl ExactSizeIterator<Item = &Prompt> {
        self.prompts.iter().map(|(p, _)| p)
    }

    /// `n` different conversations, drawn evenly.
    pub fn sample_prompts(&self, n: usize, seed: u64) -> Vec<Prompt> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x70726f_6d7074);
        let mut order: Vec<usize> = (0..self.prompts.len()).collect();
        order.shuffle(&mut rng);
        order.into_iter().take(n).map(|i| self.prompts[i].0.clone()).collect()
    }

    /// What the conversation is about; `None` outside the grammar.
    pub fn situation(&self, prompt: &Prompt) -> Option<Situation> {
        self.situation_of.get(prompt).copied()
    }

    /// Every suggestion that anyone would ever click in this conversation: those about its topic, then
    /// those about the related ones. Empty outside the grammar.
    pub fn suggestions(&self, prompt: &Prompt) -> Vec<&str> {
        self.situation(prompt).map_or_else(Vec::new, |s| self.candidates(s).iter().map(|p| p.text.as_str()).collect())
    }

    fn candidates(&self, situation: Situation) -> Vec<&Phrase> {
        let topics = std::iter::once(situation.topic).chain(grammar::related(situation.topic));
        topics.flat_map(|t| self.phrases[t].iter()).collect()
    }

    fn phrase(&self, text: &str) -> Option<&Phrase> {
        self.phrase_of.get(text).map(|&(topic, idx)| &self.phrases[topic][idx])
    }

    /// Mean utility and its standard deviation over users and moments, in the gauge of GaRM's anchor
    /// (thresholds 0 and 1); `None` where the suggestion is never clicked.
    pub fn true_mean_and_std(&self, prompt: &Prompt, text: &str) -> Option<(f64, f64)> {
        let situation = self.situation(prompt)?;
        let phrase = self.phrase(text)?;
        self.mean(situation, phrase).map(|m| (m, self.std(phrase.intent)))
    }

    fn std(&self, intent: usize) -> f64 {
        self.spread[intent].hypot(1.0)
    }

    fn mean(&self, situation: Situation, phrase: &Phrase) -> Option<f64> {
        let topic_effect = if phrase.topic == situation.topic {
            0.0
        } else if grammar::related(situation.topic).contains(&phrase.topic) {
            RELATED_EFFECT
        } else {
            return None;
        };
        let style_effect = match phrase.style {
            Style::Plain => 0.0,
            Style::Long => LONG_EFFECT,
            Style::Clickbait => CLICKBAIT_EFFECT,
        };
        Some(BASE + self.affinity[situation.kind][phrase.intent] + topic_effect + style_effect)
    }

    /// P(click | examined), exact; 0 outside the grammar.
    pub fn true_ctr(&self, prompt: &Prompt, text: &str) -> f64 {
        self.true_mean_and_std(prompt, text).map_or(0.0, |(m, std)| normal_cdf((m - TAU_CLICK) / std))
    }

    /// P(satisfied click | examined), exact; 0 outside the grammar. Clickbait disappoints.
    pub fn true_satisfied_ctr(&self, prompt: &Prompt, text: &str) -> f64 {
        let Some((m, std)) = self.true_mean_and_std(prompt, text) else { return 0.0 };
        let m = m + self.phrase(text).map_or(0.0, |p| satisfaction_effect(p.style));
        normal_cdf((m - TAU_SATISFIED) / std)
    }

    /// The best any policy could do in this conversation: the highest true CTR.
    pub fn best_ctr(&self, prompt: &Prompt) -> f64 {
        self.suggestions(prompt).iter().map(|y| self.true_ctr(prompt, y)).fold(0.0, f64::max)
    }
}

fn satisfaction_effect(style: Style) -> f64 {
    if style == Style::Clickbait { CLICKBAIT_DISAPPOINTMENT } else { 0.0 }
}

fn phrase_places(phrases: &[Vec<Phrase>]) -> Vec<(usize, usize)> {
    phrases.iter().enumerate().flat_map(|(topic, list)| (0..list.len()).map(move |idx| (topic, idx))).collect()
}

/// One row of the affinity table: three intents are wanted, the others hardly; clickbait is nobody's wish.
fn draw_affinities(rng: &mut ChaCha8Rng) -> [f64; N_INTENTS] {
    let mut row: [f64; N_INTENTS] = std::array::from_fn(|_| -0.2 + 0.25 * standard_normal(rng));
    let mut order: Vec<usize> = (0..CLICKBAIT).collect();
    order.shuffle(rng);
    for (&intent, affinity) in order.iter().zip(BEST_AFFINITIES) {
        row[intent] = affinity + 0.1 * standard_normal(rng);
    }
    row[CLICKBAIT] = 0.0;
    row
}

/// N(0, 1) by Box and Muller.
fn standard_normal(rng: &mut ChaCha8Rng) -> f64 {
    let u: f64 = 1.0 - rng.random::<f64>(); // (0, 1]
    let v: f64 = rng.random();
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests;
