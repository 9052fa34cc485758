//! Soft components of the composite reward, each of one suggestion in its group. Method B.4.2.
//!
//! | component | range | guards against |
//! | --- | --- | --- |
//! | r1 GaRM: mu - k_al sigma_al - k_ep sigma_ep | unbounded | (the proxy itself) |
//! | r2 relevance | [0, 1] | off-topic text; clipped above, so that copying gains nothing |
//! | r3 diversity | [0, 1] | a group that says one thing |
//! | r4 novelty | [0, 1] | repeating the conversation |
//! | r6 length band | <= 0 | padding and stubs |
//!
//! Method's r5 (answerability) is not here: it needs a classifier that we have no labels for.
//!
//! Departures: the similarity is a character-trigram cosine, not an embedding's, so that it depends on
//! nothing that training changes; r3 is one minus the *mean* similarity to the rest of the group rather
//! than the maximum, because a group here is G draws for one slot and not a slate of K: with the maximum
//! one twin would already zero both.

use super::similarity::{cosine, ngram_overlap, trigrams, words};
use crate::prompt::Prompt;

/// w_m of r1, r2, r3, r4, r6. Method B.7.
pub const WEIGHTS: [f64; 5] = [1.0, 0.5, 0.25, 0.25, 0.1];
/// Names of the components, for metrics.
pub const NAMES: [&str; 5] = ["garm", "relevance", "diversity", "novelty", "length"];
/// Smallest allowed s_min per component: a GaRM difference of 0.05 (in the gauge where one level of
/// engagement is 1), or a share's difference of 0.05, counts as one standard deviation at most.
pub const STD_FLOOR_MINIMUM: [f64; 5] = [0.05, 0.05, 0.05, 0.05, 0.05];

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

/// r2, r3, r4 and r6 of a group, `[4][G]`; the caller puts r1 before them.
pub fn heuristics(prompt: &Prompt, suggestions: &[String]) -> Vec<Vec<f64>> {
    vec![
        suggestions.iter().map(|s| relevance(s, prompt)).collect(),
        diversity(suggestions),
        suggestions.iter().map(|s| novelty(s, prompt)).collect(),
        suggestions.iter().map(|s| length_band(s)).collect(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    #[test]
    fn relevance_saturates_before_a_copy() {
        let prompt = Prompt::from_query("fitbit sync now");
        assert_close("copy", relevance("fitbit sync now", &prompt), 1.0, 0.0);
        assert_close("extension", relevance("fitbit sync now on iphone", &prompt), 1.0, 0.0);
        assert_close("off topic", relevance("aloe vera gel", &prompt), 0.0, 0.0);
        let partly = relevance("how to reset my fitbit", &prompt);
        assert!(partly > 0.0 && partly < 1.0, "{partly}");
    }

    #[test]
    fn diversity_falls_with_copies_in_the_group() {
        let group = ["red apples", "red apples", "green pears"].map(str::to_owned);
        let r3 = diversity(&group);
        assert_close("twins", r3[0], r3[1], 1e-12);
        assert!(r3[2] > r3[0], "{r3:?}");
        assert_close("alone", diversity(&group[..1])[0], 1.0, 0.0);
        assert_close("all the same", diversity(&[group[0].clone(), group[0].clone()])[0], 0.0, 1e-12);
    }

    #[test]
    fn novelty_and_length_by_hand() {
        let prompt = Prompt::from_query("fitbit sync now");
        assert_close("novelty", novelty("pc fitbit sync now", &prompt), 1.0 / 3.0, 1e-12);
        assert_close("inside", length_band("pc fitbit sync"), 0.0, 0.0);
        assert_close("one word", length_band("weather"), -0.5, 1e-12);
        assert_close("18 words", length_band(&"word ".repeat(18)), -0.5, 1e-12);
    }

    #[test]
    fn heuristics_come_in_the_order_of_the_names() {
        let rows = heuristics(&Prompt::from_query("a b"), &["a b".to_owned(), "c d e".to_owned()]);
        assert_eq!(rows.len() + 1, NAMES.len());
        assert!(rows.iter().all(|r| r.len() == 2));
        assert_close("novelty of the copy", rows[2][0], 0.0, 0.0);
    }
}
