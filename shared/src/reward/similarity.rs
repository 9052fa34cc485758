//! How much two texts share: words, character n-grams, common substrings. All on lower-cased text
//! with single spaces. Used by gate and components; method B.4.1, B.4.2.

use std::collections::{BTreeMap, BTreeSet};

/// Lower case, with white space collapsed to single spaces.
pub fn normalised(text: &str) -> String {
    text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

/// Words: maximal runs of letters, digits and inner apostrophes, lower case.
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'' && c != '’')
        .map(|w| w.trim_matches(['\'', '’']).to_lowercase())
        .filter(|w| !w.is_empty())
        .collect()
}

/// Counts of character trigrams over the normalised text, each word padded by spaces, so that short words
/// and word starts count too.
pub fn trigrams(text: &str) -> BTreeMap<[char; 3], u32> {
    let padded: Vec<char> = format!("  {}  ", normalised(text)).chars().collect();
    let mut counts = BTreeMap::new();
    for w in padded.windows(3) {
        *counts.entry([w[0], w[1], w[2]]).or_insert(0) += 1;
    }
    counts
}

/// Cosine of two trigram profiles, in [0, 1]; 0 where either text is empty.
pub fn cosine(a: &BTreeMap<[char; 3], u32>, b: &BTreeMap<[char; 3], u32>) -> f64 {
    let dot: f64 = a.iter().filter_map(|(k, x)| b.get(k).map(|y| f64::from(*x) * f64::from(*y))).sum();
    let norm = |m: &BTreeMap<[char; 3], u32>| m.values().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let scale = norm(a) * norm(b);
    if scale > 0.0 { dot / scale } else { 0.0 }
}

/// Length in characters of the longest common substring.
pub fn longest_common_substring(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row = vec![0usize; b.len() + 1];
    let mut best = 0;
    for ca in a.chars() {
        // right to left, so that row[j] still holds the previous row's value
        for j in (0..b.len()).rev() {
            row[j + 1] = if ca == b[j] { row[j] + 1 } else { 0 };
            best = best.max(row[j + 1]);
        }
    }
    best
}

/// Share of the word n-grams of `text` (bigrams, or words where it has only one) that `other` has too.
pub fn ngram_overlap(text: &str, other: &str) -> f64 {
    let (words, other) = (words(text), words(other));
    let n = words.len().min(2);
    if n == 0 {
        return 0.0;
    }
    let known: BTreeSet<&[String]> = other.windows(n).collect();
    let total = words.windows(n).count();
    words.windows(n).filter(|w| known.contains(w)).count() as f64 / total as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    #[test]
    fn values_by_hand() {
        assert_eq!(words("What's new, in Rust 1.95?"), ["what's", "new", "in", "rust", "1", "95"]);
        assert_eq!(longest_common_substring("aloe vera gel", "best aloe vera"), 9);
        assert_eq!(longest_common_substring("", "abc"), 0);
        // bigrams of "pc fitbit sync now": pc fitbit, fitbit sync, sync now
        assert_close("overlap", ngram_overlap("pc fitbit sync now", "fitbit sync now"), 2.0 / 3.0, 1e-12);
        assert_close("one word", ngram_overlap("sync", "fitbit sync now"), 1.0, 0.0);
    }

    #[test]
    fn cosine_is_one_for_the_same_text_and_zero_for_strangers() {
        let same = cosine(&trigrams("Fitbit  sync"), &trigrams("fitbit sync"));
        assert_close("same", same, 1.0, 1e-12);
        assert_close("strangers", cosine(&trigrams("fitbit"), &trigrams("aloe")), 0.0, 0.0);
        assert!(cosine(&trigrams("fitbit sync pc"), &trigrams("fitbit sync now")) > 0.6);
    }
}
