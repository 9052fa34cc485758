//! r5: can a suggestion be understood, and answered, without the conversation? Method B.4.2 (r5) and B.1.5.
//!
//! A rule, not a classifier: there are no labels to train one on. It looks for words that point back ("it",
//! "those") and for words that carry content. Used as a component of the reward, and as the filter of real
//! next queries that are imitated.

use super::similarity::words;

/// Words that point at something said before.
const POINTING: [&str; 24] = [
    "it", "its", "it's", "this", "that", "that's", "these", "those", "they", "them", "their", "theirs", "he", "she",
    "him", "her", "his", "hers", "one", "ones", "there", "former", "latter", "same",
];

/// Words without content of their own: function words, and what people say to an assistant.
const EMPTY: [&str; 126] = [
    "a", "an", "the", "and", "or", "but", "so", "if", "then", "than", "as", "of", "in", "on", "at", "to", "for",
    "from", "with", "by", "about", "into", "over", "after", "before", "out", "up", "down", "off", "is", "are", "am",
    "was", "were", "be", "been", "being", "do", "does", "did", "has", "have", "had", "can", "could", "will", "would",
    "should", "shall", "may", "might", "must", "i", "me", "my", "mine", "we", "us", "our", "you", "your", "i'm", "i'd",
    "i've", "what", "what's", "which", "who", "whom", "whose", "when", "where", "why", "how", "not", "no", "yes",
    "yeah", "ok", "okay", "sure", "thanks", "thank", "please", "maybe", "just", "also", "too", "very", "really",
    "more", "most", "some", "any", "all", "other", "others", "another", "else", "such", "like", "tell", "give", "show",
    "know", "want", "need", "think", "say", "mean", "get", "go", "make", "let", "again", "now", "well", "near",
    "around", "between", "through", "during", "without", "under", "against", "don't",
];

/// 1 where nothing points back and some word has content; 0.5 where something points back beside two words of
/// content or more ("what are its side effects"); else 0 ("how does it work", "yes please").
pub fn self_containedness(suggestion: &str) -> f64 {
    let words = words(suggestion);
    let is_content = |w: &String| !POINTING.contains(&w.as_str()) && !EMPTY.contains(&w.as_str());
    let n_content = words.iter().filter(|w| is_content(w)).count();
    let points = (0..words.len()).any(|i| {
        // "apps that track sleep": a relative pronoun after its noun points back within the suggestion
        let relative = words[i] == "that" && i > 0 && is_content(&words[i - 1]) && i + 1 < words.len();
        // "one" before a noun counts
        let number = words[i] == "one" && words.get(i + 1).is_some_and(is_content);
        POINTING.contains(&words[i].as_str()) && !relative && !number
    });
    match (points, n_content) {
        (_, 0) => 0.0,
        (false, _) => 1.0,
        (true, 1) => 0.0,
        (true, _) => 0.5,
    }
}

#[cfg(test)]
mod tests;
