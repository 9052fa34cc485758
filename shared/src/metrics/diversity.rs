//! How different texts, or the vectors that stand for them, are from each other. Method B.6.2, oracle T10.
//!
//! Words are split at white space. Undefined values are NaN.

use crate::eigen::symmetric_eigen;
use std::collections::{HashMap, HashSet};

/// Distinct-n: distinct n-grams of whitespace words over all n-grams of the sample. NaN without n-grams.
pub fn distinct_n<S: AsRef<str>>(texts: &[S], n: usize) -> f64 {
    let mut seen = HashSet::new();
    let mut total = 0usize;
    for text in texts {
        let words: Vec<&str> = text.as_ref().split_whitespace().collect();
        for gram in words.windows(n.max(1)) {
            total += 1;
            seen.insert(gram.to_vec());
        }
    }
    seen.len() as f64 / total as f64
}

/// How an n-gram precision without a match is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Smoothing {
    /// As it is: one 0 makes the score 0.
    None,
    /// One is added to matches and n-grams of every n > 1.
    AddOne,
}

/// Self-BLEU-2 of each text against all others (Zhu et al., SIGIR 2018), in [0, 1]; high is repetitive.
/// Geometric mean of clipped unigram and bigram precision, brevity penalty by the closest reference length (the
/// shorter of two as close). A text without words, or alone, is NaN. For one prompt, or for the whole sample.
pub fn self_bleu_2<S: AsRef<str>>(texts: &[S], smoothing: Smoothing) -> Vec<f64> {
    let split: Vec<Vec<&str>> = texts.iter().map(|text| text.as_ref().split_whitespace().collect()).collect();
    (0..split.len())
        .map(|i| {
            let others: Vec<&[&str]> =
                split.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, words)| words.as_slice()).collect();
            bleu_2(&split[i], &others, smoothing)
        })
        .collect()
}

fn bleu_2(text: &[&str], references: &[&[&str]], smoothing: Smoothing) -> f64 {
    let n_words = text.len() as f64;
    let closest = references.iter().map(|words| words.len()).min_by_key(|len| (len.abs_diff(text.len()), *len));
    let Some(closest) = closest.filter(|_| !text.is_empty()) else { return f64::NAN };
    let precision = |n: usize| {
        let of_text = gram_counts(text, n);
        let mut allowed: HashMap<&[&str], usize> = HashMap::new();
        for reference in references {
            for (gram, count) in gram_counts(reference, n) {
                let most = allowed.entry(gram).or_default();
                *most = count.max(*most);
            }
        }
        let matches: usize =
            of_text.iter().map(|(gram, count)| (*count).min(allowed.get(gram).copied().unwrap_or(0))).sum();
        let total = text.len().saturating_sub(n - 1);
        let added = usize::from(smoothing == Smoothing::AddOne && n > 1);
        if total + added == 0 { 0.0 } else { (matches + added) as f64 / (total + added) as f64 }
    };
    let brevity = (1.0 - closest as f64 / n_words).min(0.0).exp();
    brevity * (precision(1) * precision(2)).sqrt()
}

fn gram_counts<'a, 'b>(words: &'a [&'b str], n: usize) -> HashMap<&'a [&'b str], usize> {
    let mut counts = HashMap::new();
    words.windows(n).for_each(|gram| *counts.entry(gram).or_default() += 1);
    counts
}

/// Cosine of two vectors; NaN where one is 0.
///
/// # Panics
/// If lengths differ.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors of one width");
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Mean of 1 - cosine over all pairs of `vectors` `[N][D]`; NaN for fewer than two.
///
/// # Panics
/// If widths differ.
pub fn mean_pairwise_cosine_distance(vectors: &[Vec<f64>]) -> f64 {
    let pairs = (0..vectors.len()).flat_map(|i| (0..i).map(move |j| (i, j)));
    let (mut sum, mut n_pairs) = (0.0, 0.0);
    for (i, j) in pairs {
        sum += 1.0 - cosine(&vectors[i], &vectors[j]);
        n_pairs += 1.0;
    }
    sum / n_pairs
}

/// Vendi score (Friedman and Dieng, TMLR 2023): exp of the entropy of the eigenvalues of K/N, K the cosines of
/// `vectors` `[N][D]`. The effective number of different vectors, in [1, N]. NaN for none. Cost N³.
///
/// # Panics
/// If widths differ.
pub fn vendi_score(vectors: &[Vec<f64>]) -> f64 {
    let n = vectors.len();
    if n == 0 {
        return f64::NAN;
    }
    let kernel: Vec<f64> = (0..n * n).map(|i| cosine(&vectors[i / n], &vectors[i % n]) / n as f64).collect();
    let (eigenvalues, _) = symmetric_eigen(kernel, n);
    // rounding may leave a zero slightly negative
    let entropy: f64 = eigenvalues.into_iter().map(|value| if value <= 0.0 { 0.0 } else { -value * value.ln() }).sum();
    entropy.exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{assert_close, mean};

    const TEXTS: [&str; 3] = ["how to cook rice", "how to cook brown rice", "best rice cooker brands"];

    #[test]
    fn t10_diversity_rows() {
        assert_close("distinct-1", distinct_n(&TEXTS, 1), 8.0 / 13.0, 1e-12);
        assert_close("distinct-2", distinct_n(&TEXTS, 2), 0.8, 1e-12);
        let smoothed = self_bleu_2(&TEXTS, Smoothing::AddOne);
        for (got, want) in smoothed.iter().zip([0.866025, 0.692820, 0.25]) {
            assert_close("self-BLEU-2, add-1", *got, want, 5e-7);
        }
        assert_close("mean", mean(&smoothed), 0.602949, 1e-6);
        let plain = self_bleu_2(&TEXTS, Smoothing::None);
        for (got, want) in plain.iter().zip([0.816497, 0.632456, 0.0]) {
            assert_close("self-BLEU-2", *got, want, 5e-7);
        }
        assert_close("mean", mean(&plain), 0.482984, 1e-6);
        let vectors = [vec![1.0, 0.0, 0.0], vec![0.8, 0.6, 0.0], vec![0.0, 0.6, 0.8]];
        assert_close("cosine distance", mean_pairwise_cosine_distance(&vectors), 0.613333333, 1e-9);
        assert_close("Vendi", vendi_score(&vectors), 2.204102038, 1e-9);
    }

    #[test]
    fn the_ends_of_the_scales() {
        let same = ["a b c", "a b c", "a b c"];
        assert_eq!(self_bleu_2(&same, Smoothing::None), [1.0; 3]);
        // a shorter text is punished: exp(1 - 3/2)
        let short = self_bleu_2(&["a b", "a b c"], Smoothing::None);
        assert_close("brevity", short[0], (-0.5f64).exp(), 1e-12);
        assert!(
            self_bleu_2(&["a"], Smoothing::AddOne)[0].is_nan() && self_bleu_2(&["", "a"], Smoothing::None)[0].is_nan()
        );
        assert_close("one kind", vendi_score(&vec![vec![0.3, 0.4]; 5]), 1.0, 1e-9);
        let apart = [vec![1.0, 0.0, 0.0], vec![0.0, 2.0, 0.0], vec![0.0, 0.0, 3.0]];
        assert_close("all different", vendi_score(&apart), 3.0, 1e-9);
        assert!(vendi_score(&[]).is_nan() && mean_pairwise_cosine_distance(&apart[..1]).is_nan());
        assert!(distinct_n::<&str>(&[], 1).is_nan());
    }
}
