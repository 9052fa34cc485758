//! Soft components of the composite reward, each of one suggestion in its group. Method B.4.2.
//!
//! | component | range | guards against |
//! | --- | --- | --- |
//! | r1 GaRM: mu - k_al sigma_al - k_ep sigma_ep | unbounded | (the proxy itself) |
//! | r2 relevance | [0, 1] | off-topic text; clipped above, so that copying gains nothing |
//! | r3 diversity | [0, 1] | a group that says one thing |
//! | r4 novelty | [0, 1] | repeating the conversation |
//! | r5 answerability | [0, 1] | what nobody understands without the conversation |
//! | r6 length band | <= 0 | padding and stubs |
//!
//! r5 is a rule ([`super::self_contained`]), not a classifier: there are no labels to train one on.
//!
//! Departures: the similarity is a character-trigram cosine, not an embedding's, so that it depends on
//! nothing that training changes; r3 is one minus the *mean* similarity to the rest of the group rather
//! than the maximum, because a group here is G draws for one slot and not a slate of K: with the maximum
//! one twin would already zero both.

use super::self_contained::self_containedness;
use super::similarity::{cosine, ngram_overlap, trigrams, words};
use crate::prompt::Prompt;
use serde::{Deserialize, Serialize};

/// M: components.
pub const N_COMPONENTS: usize = 6;
/// Names of the components r1 to r6, for metrics.
pub const NAMES: [&str; N_COMPONENTS] = ["garm", "relevance", "diversity", "novelty", "answerability", "length"];

/// w_m of each component; defaults of method B.7.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ComponentWeights {
    /// r1.
    pub garm: f64,
    /// r2.
    pub relevance: f64,
    /// r3.
    pub diversity: f64,
    /// r4.
    pub novelty: f64,
    /// r5.
    pub answerability: f64,
    /// r6.
    pub length: f64,
}

impl Default for ComponentWeights {
    fn default() -> Self {
        Self { garm: 1.0, relevance: 0.5, diversity: 0.25, novelty: 0.25, answerability: 0.25, length: 0.1 }
    }
}

impl ComponentWeights {
    /// In the order of [`NAMES`].
    pub fn to_array(self) -> [f64; N_COMPONENTS] {
        let Self { garm, relevance, diversity, novelty, answerability, length } = self;
        [garm, relevance, diversity, novelty, answerability, length]
    }
}

/// Smallest allowed s_min per component: a GaRM difference of 0.05 (in the gauge where one level of
/// engagement is 1), or a share's difference of 0.05, counts as one standard deviation at most.
pub const STD_FLOOR_MINIMUM: [f64; N_COMPONENTS] = [0.05; N_COMPONENTS];

/// Cosines between which relevance rises from 0 to 1.
const RELEVANCE_BAND: (f64, f64) = (0.2, 0.7);
/// Words between which a suggestion's length costs nothing.
const LENGTH_BAND: (f64, f64) = (2.0, 12.0);

/// r2: largest trigram cosine between `suggestion` and a turn of `prompt`, [0.2, 0.7] mapped to [0, 1].
pub fn relevance(suggestion: &str, prompt: &Prompt) -> f64 {
    let own = trigrams(suggestion);
    let best = prompt.turns.iter().map(|t| cosine(&own, &trigrams(&t.text))).fold(0.0, f64::max);
    let (low, high) = RELEVANCE_BAND;
    ((best - low) / (high - low)).clamp(0.0, 1.0)
}

/// r3 of every suggestion of a group: 1 - mean trigram cosine to the others; 1 for a group of one.
pub fn diversity(suggestions: &[String]) -> Vec<f64> {
    let profiles: Vec<_> = suggestions.iter().map(|s| trigrams(s)).collect();
    let n_others = suggestions.len().saturating_sub(1);
    (0..suggestions.len())
        .map(|i| {
            let sum: f64 = (0..profiles.len()).filter(|j| *j != i).map(|j| cosine(&profiles[i], &profiles[j])).sum();
            if n_others == 0 { 1.0 } else { 1.0 - sum / n_others as f64 }
        })
        .collect()
}

/// r4: 1 - largest share of the suggestion's word bigrams that a turn of `prompt` has too.
pub fn novelty(suggestion: &str, prompt: &Prompt) -> f64 {
    1.0 - prompt.turns.iter().map(|t| ngram_overlap(suggestion, &t.text)).fold(0.0, f64::max)
}

/// r6: -max(0, (l - hi)/hi) - max(0, (lo - l)/lo), l in words.
pub fn length_band(suggestion: &str) -> f64 {
    let (low, high) = LENGTH_BAND;
    let l = words(suggestion).len() as f64;
    -((l - high) / high).max(0.0) - ((low - l) / low).max(0.0)
}

/// r5: whether it can be understood and answered alone, 0, 0.5 or 1.
pub fn answerability(suggestion: &str) -> f64 {
    self_containedness(suggestion)
}

/// r2 to r6 of a group, `[5][G]`; the caller puts r1 before them.
pub fn heuristics(prompt: &Prompt, suggestions: &[String]) -> Vec<Vec<f64>> {
    vec![
        suggestions.iter().map(|s| relevance(s, prompt)).collect(),
        diversity(suggestions),
        suggestions.iter().map(|s| novelty(s, prompt)).collect(),
        suggestions.iter().map(|s| answerability(s)).collect(),
        suggestions.iter().map(|s| length_band(s)).collect(),
    ]
}

#[cfg(test)]
mod tests;
