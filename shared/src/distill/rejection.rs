//! Statistical rejection sampling: candidates of a pool are drawn as if from a policy tilted by their score.
//! Method B.1.5 (4), oracle C12; the scheme is that of RSO (listed in S:trl), the limit of similarity ours.

use super::DistillConfig;
use crate::reward::similarity::{cosine, trigrams};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// exp((s - s_max)/beta) of each score; the best is always accepted.
pub fn acceptance(scores: &[f64], beta: f64) -> Vec<f64> {
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter().map(|s| ((s - best) / beta).exp()).collect()
}

/// Indices of at most `config.n_select` candidates, in the order in which they were accepted. Goes over what
/// is left in a drawn order until enough are accepted; a candidate too similar to an accepted one drops out.
///
/// # Panics
/// If there are not as many texts as scores.
pub fn sample(scores: &[f64], texts: &[&str], config: &DistillConfig, rng: &mut ChaCha8Rng) -> Vec<usize> {
    assert_eq!(scores.len(), texts.len(), "one score a text");
    let profiles: Vec<_> = texts.iter().map(|text| trigrams(text)).collect();
    let mut left: Vec<usize> = (0..scores.len()).collect();
    let mut accepted: Vec<usize> = Vec::new();
    while !left.is_empty() && accepted.len() < config.n_select {
        // the best of what is left has acceptance 1, so every pass accepts at least one
        let of_left = acceptance(&left.iter().map(|i| scores[*i]).collect::<Vec<_>>(), config.temperature);
        let mut pass: Vec<(usize, f64)> = left.iter().copied().zip(of_left).collect();
        pass.shuffle(rng);
        for (i, p) in pass {
            if accepted.len() < config.n_select && is_new(i, &accepted, &profiles, config) && rng.random::<f64>() < p {
                accepted.push(i);
            }
        }
        left.retain(|i| !accepted.contains(i) && is_new(*i, &accepted, &profiles, config));
    }
    accepted
}

fn is_new(
    i: usize,
    accepted: &[usize],
    profiles: &[std::collections::BTreeMap<[char; 3], u32>],
    config: &DistillConfig,
) -> bool {
    accepted.iter().all(|j| cosine(&profiles[i], &profiles[*j]) < config.max_similarity)
}

#[cfg(test)]
mod tests;
