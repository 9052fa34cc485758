//! An n-gram language model over the same tokens, which SFT has to beat. Interpolated Kneser-Ney
//! trigram (Kneser and Ney 1995, in the form of Chen and Goodman 1999, one discount an order), once
//! plain and once mixed with a cache of the prompt's own tokens, since suggestions repeat words of the
//! conversation and a trigram cannot see them. Dimension key: `V` vocabulary.
//!
//! In the loop: evaluation only. Deliberately not here: pruning, higher orders.

use crate::model::batch::Sequence;
use std::collections::HashMap;

/// Discount where the counts of counts give none.
const DEFAULT_DISCOUNT: f64 = 0.75;
/// Steps of the search over the two cache weights.
const CACHE_GRID: [f64; 6] = [0.0, 0.02, 0.05, 0.1, 0.2, 0.3];
/// Every so many training sequences, one is kept to choose the cache weights.
const TUNING_STRIDE: usize = 10;

/// Counts of what follows one context.
#[derive(Debug, Clone, Default)]
struct Followers {
    counts: HashMap<u32, u32>,
    total: u32,
}

impl Followers {
    fn add(&mut self, token: u32) {
        *self.counts.entry(token).or_default() += 1;
        self.total += 1;
    }

    /// `max(c - D, 0)/total + D·types/total·lower`.
    fn discounted(&self, token: u32, discount: f64, lower: f64) -> f64 {
        let total = f64::from(self.total);
        let count = f64::from(self.counts.get(&token).copied().unwrap_or(0));
        (count - discount).max(0.0) / total + discount * self.counts.len() as f64 / total * lower
    }
}

/// Interpolated Kneser-Ney trigram.
#[derive(Debug, Clone)]
pub struct NGram {
    vocab_size: usize,
    trigrams: HashMap<(u32, u32), Followers>,
    /// Continuation counts: in how many contexts a bigram was seen.
    bigrams: HashMap<u32, Followers>,
    unigrams: Followers,
    /// Discounts of trigram, bigram, unigram.
    discounts: [f64; 3],
}

impl NGram {
    /// Counts whole sequences, prompts included, so that the first tokens of a suggestion have their
    /// context.
    pub fn train<'a>(vocab_size: usize, sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let mut trigrams: HashMap<(u32, u32), Followers> = HashMap::new();
        for s in sequences {
            for w in s.tokens.windows(3) {
                trigrams.entry((w[0], w[1])).or_default().add(w[2]);
            }
        }
        let mut bigrams: HashMap<u32, Followers> = HashMap::new();
        for (&(_, b), followers) in &trigrams {
            for &c in followers.counts.keys() {
                bigrams.entry(b).or_default().add(c);
            }
        }
        let mut unigrams = Followers::default();
        for followers in bigrams.values() {
            for &c in followers.counts.keys() {
                unigrams.add(c);
            }
        }
        let discounts = [
            discount(trigrams.values().flat_map(|f| f.counts.values())),
            discount(bigrams.values().flat_map(|f| f.counts.values())),
            discount(unigrams.counts.values()),
        ];
        Self { vocab_size, trigrams, bigrams, unigrams, discounts }
    }

    /// P(token | the two before it), in (0, 1].
    pub fn probability(&self, before: (u32, u32), token: u32) -> f64 {
        let uniform = 1.0 / self.vocab_size as f64;
        let unigram = if self.unigrams.total == 0 {
            uniform
        } else {
            self.unigrams.discounted(token, self.discounts[2], uniform)
        };
        let bigram = self.bigrams.get(&before.1).map_or(unigram, |f| f.discounted(token, self.discounts[1], unigram));
        self.trigrams.get(&before).map_or(bigram, |f| f.discounted(token, self.discounts[0], bigram))
    }
}

/// D = n1 / (n1 + 2 n2).
fn discount<'a>(counts: impl Iterator<Item = &'a u32>) -> f64 {
    let (mut n1, mut n2) = (0.0, 0.0);
    for &c in counts {
        match c {
            1 => n1 += 1.0,
            2 => n2 += 1.0,
            _ => {}
        }
    }
    if n1 > 0.0 && n2 > 0.0 { n1 / (n1 + 2.0 * n2) } else { DEFAULT_DISCOUNT }
}

/// The trigram mixed with what the prompt itself says.
#[derive(Debug, Clone)]
pub struct CachedNGram {
    ngram: NGram,
    /// Weight of a token drawn from the prompt's.
    unigram_weight: f64,
    /// Weight of a token that followed the last one in the prompt; goes to the trigram where none did.
    bigram_weight: f64,
}

impl CachedNGram {
    /// Trains on all sequences; the two cache weights are those that do best on every tenth sequence
    /// with a trigram of the others.
    pub fn train(vocab_size: usize, sequences: &[Sequence]) -> Self {
        let tuning: Vec<&Sequence> = sequences.iter().step_by(TUNING_STRIDE).collect();
        let rest = sequences.iter().enumerate().filter(|(i, _)| i % TUNING_STRIDE != 0).map(|(_, s)| s);
        let mut trial = Self { ngram: NGram::train(vocab_size, rest), unigram_weight: 0.0, bigram_weight: 0.0 };
        let mut best = (f64::INFINITY, 0.0, 0.0);
        for unigram_weight in CACHE_GRID {
            for bigram_weight in CACHE_GRID {
                (trial.unigram_weight, trial.bigram_weight) = (unigram_weight, bigram_weight);
                let nll = trial.nll(tuning.iter().copied()).0;
                if nll < best.0 {
                    best = (nll, unigram_weight, bigram_weight);
                }
            }
        }
        Self { ngram: NGram::train(vocab_size, sequences), unigram_weight: best.1, bigram_weight: best.2 }
    }

    /// The trigram without the cache.
    pub fn plain(&self) -> Self {
        Self { ngram: self.ngram.clone(), unigram_weight: 0.0, bigram_weight: 0.0 }
    }

    /// Mean nats per suggestion token, and how many tokens that is over. NaN where there are none.
    pub fn nll<'a>(&self, sequences: impl IntoIterator<Item = &'a Sequence>) -> (f64, usize) {
        let (mut sum, mut n) = (0.0, 0);
        for s in sequences {
            for t in s.n_prompt..s.tokens.len() {
                sum -= self.probability(&s.tokens[..s.n_prompt], &s.tokens[..t], s.tokens[t]).ln();
                n += 1;
            }
        }
        (sum / n as f64, n)
    }

    fn probability(&self, prompt: &[u32], before: &[u32], token: u32) -> f64 {
        let last = before.last().copied();
        let last_two = (before.len().checked_sub(2).map_or(u32::MAX, |i| before[i]), last.unwrap_or(u32::MAX));
        let mut p = self.ngram.probability(last_two, token);
        let followers: Vec<u32> = prompt.windows(2).filter(|w| Some(w[0]) == last).map(|w| w[1]).collect();
        if !followers.is_empty() {
            p += self.bigram_weight * (share(&followers, token) - p);
        }
        if !prompt.is_empty() {
            p += self.unigram_weight * (share(prompt, token) - p);
        }
        p
    }
}

fn share(tokens: &[u32], token: u32) -> f64 {
    tokens.iter().filter(|&&t| t == token).count() as f64 / tokens.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::metrics::assert_close;

    fn sequence(prompt: &[u32], suggestion: &[u32]) -> Sequence {
        Sequence::new(prompt, suggestion)
    }

    fn corpus() -> Vec<Sequence> {
        (0..40u32).map(|i| sequence(&[1, 5 + i % 7, 3], &[5 + i % 7, 12 + i % 3, 4])).collect()
    }

    #[test]
    fn probabilities_sum_to_one_in_seen_and_unseen_contexts() {
        let model = CachedNGram::train(20, &corpus());
        for before in [[1, 5], [3, 6], [19, 18]] {
            let sum: f64 = (0..20).map(|t| model.probability(&[1, 6, 3], &before, t)).sum();
            assert_close("sum", sum, 1.0, 1e-12);
        }
    }

    #[test]
    fn kneser_ney_by_hand() {
        // trigrams: (0 1 2) twice, (0 1 3) once, (4 1 2) once; n1 = 2, n2 = 1, D3 = 2/4
        let text = [sequence(&[0, 1], &[2]), sequence(&[0, 1], &[2]), sequence(&[0, 1], &[3]), sequence(&[4, 1], &[2])];
        let model = NGram::train(5, &text);
        assert_close("D3", model.discounts[0], 0.5, 1e-12);
        // continuation counts after 1: 2 in two contexts, 3 in one; n1 = n2 = 1, D2 = 1/3
        assert_close("D2", model.discounts[1], 1.0 / 3.0, 1e-12);
        // unigrams: 2 and 3 after one word each, no count of two: D1 = 0.75
        let unigram_2 = 0.25 / 2.0 + 0.75 * 2.0 / 2.0 / 5.0;
        let bigram_2 = (2.0 - 1.0 / 3.0) / 3.0 + (1.0 / 3.0) * 2.0 / 3.0 * unigram_2;
        let trigram_2 = 1.5 / 3.0 + 0.5 * 2.0 / 3.0 * bigram_2;
        assert_close("P(2 | 0 1)", model.probability((0, 1), 2), trigram_2, 1e-12);
    }

    #[test]
    fn cache_helps_where_suggestions_repeat_the_prompt() {
        let train: Vec<Sequence> = (0..200u32).map(|i| sequence(&[1, 10 + i % 40, 3], &[10 + i % 40, 5, 4])).collect();
        let held_out: Vec<Sequence> = (0..20u32).map(|i| sequence(&[1, 60 + i, 3], &[60 + i, 5, 4])).collect();
        let model = CachedNGram::train(100, &train);
        let (cached, n) = model.nll(&held_out);
        let (plain, _) = model.plain().nll(&held_out);
        assert_eq!(n, 60);
        assert!(cached < plain - 0.3, "cached {cached}, plain {plain}");
    }
}
