//! Text to tokens and back: byte-level BPE behind NFKC and lower case, with the five special tokens that
//! mark turns and suggestions.
//!
//! In the loop: trained once per run from the log's texts, stored in every checkpoint, used by trainer,
//! engine and page. A prompt is `<|user|>…<|assistant|>…<|suggest|>`, a suggestion ends with `<|end|>`.
//! Text is never parsed for special tokens: a user who types `<|end|>` gets the letters of it.
//!
//! Encoding is by the crate `tokenizers`. Training is here, because `BpeTrainer` breaks ties between equally
//! frequent pairs by hash-map order when one string has two spellings, and a run must be a function of its
//! data and seed.

use crate::digest::sha256_hex;
use crate::prompt::{Prompt, Role};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Lowercase, NFKC, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizedString, Normalizer as _, OffsetReferential, OffsetType};
use tokenizers::{PreTokenizedString, PreTokenizer as _};

/// Fills batches; never part of a text.
pub const PAD: u32 = 0;
/// Begins a user turn.
pub const USER: u32 = 1;
/// Begins an assistant turn.
pub const ASSISTANT: u32 = 2;
/// Ends the prompt; the suggestion follows.
pub const SUGGEST: u32 = 3;
/// Ends a suggestion.
pub const END: u32 = 4;
/// Spelling of the special tokens, index = id.
pub const SPECIAL_TOKENS: [&str; 5] = ["<|pad|>", "<|user|>", "<|assistant|>", "<|suggest|>", "<|end|>"];
/// Smallest vocabulary: special tokens and the 256 bytes.
pub const MIN_VOCAB_SIZE: usize = SPECIAL_TOKENS.len() + 256;

/// Why there is no tokenizer.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// Too few tokens for specials and bytes.
    #[error(
        "vocabulary of {got} tokens is too small: at least {MIN_VOCAB_SIZE} are needed (special tokens and all bytes)"
    )]
    VocabTooSmall {
        /// What was asked for.
        got: usize,
    },
    /// Not the JSON of a byte-level BPE tokenizer.
    #[error("tokenizer JSON: {reason}")]
    Json {
        /// What the parser says.
        reason: String,
    },
    /// A special token is missing or stands at another id.
    #[error("tokenizer JSON: special token {token} has id {got:?}, expected {want}")]
    SpecialToken {
        /// Which.
        token: &'static str,
        /// Its id there.
        got: Option<u32>,
        /// Where it must be.
        want: u32,
    },
    /// Ids are not 0..n, or a byte has no token.
    #[error("tokenizer JSON: {reason}")]
    Vocabulary {
        /// What is wrong.
        reason: String,
    },
}

/// Text to tokens and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: String,
    vocab_size: usize,
}

type Merge = (u32, u32);

/// Merges and spellings of a trained BPE; index in `spelling` = id.
struct Vocabulary {
    spelling: Vec<String>,
    merges: Vec<(String, String)>,
}

fn normalizer() -> Sequence {
    Sequence::new(vec![NFKC.into(), Lowercase.into()])
}

/// Splits on the GPT-2 pattern, without adding a space in front.
fn byte_level() -> ByteLevel {
    ByteLevel::new(false, false, true)
}

/// What a text looks like to the model: NFKC, lower case.
pub fn normalise(text: &str) -> String {
    let mut normalised = NormalizedString::from(text);
    match normalizer().normalize(&mut normalised) {
        Ok(()) => normalised.get().to_owned(),
        // neither normaliser has a failing path; the text itself is the safe answer
        Err(_) => text.to_owned(),
    }
}

/// Words of `text` in byte-level spelling.
fn words(text: &str) -> Vec<String> {
    let mut pieces = PreTokenizedString::from(normalise(text).as_str());
    if byte_level().pre_tokenize(&mut pieces).is_err() {
        return Vec::new();
    }
    pieces
        .get_splits(OffsetReferential::Normalized, OffsetType::None)
        .iter()
        .map(|(word, _, _)| (*word).to_owned())
        .collect()
}

/// Byte-pair merges until `vocab_size` tokens or until no pair occurs twice. The most frequent pair is merged
/// first, of equals the one with the lowest ids, so the result depends on the word counts alone.
fn train_merges(word_counts: &BTreeMap<String, u64>, vocab_size: usize) -> Vocabulary {
    let alphabet: BTreeSet<char> = ByteLevel::alphabet().into_iter().collect();
    let mut spelling: Vec<String> = SPECIAL_TOKENS.iter().map(|t| (*t).to_owned()).collect();
    spelling.extend(alphabet.iter().map(char::to_string));
    let mut id_of: HashMap<String, u32> = spelling.iter().cloned().zip(0..).collect();
    let mut words: Vec<(Vec<u32>, u64)> = word_counts
        .iter()
        .map(|(word, &n)| (word.chars().filter_map(|c| id_of.get(c.to_string().as_str()).copied()).collect(), n))
        .collect();
    let mut counts: HashMap<Merge, u64> = HashMap::new();
    let mut places: HashMap<Merge, BTreeSet<usize>> = HashMap::new();
    for (i, (word, n)) in words.iter().enumerate() {
        for pair in word.windows(2) {
            *counts.entry((pair[0], pair[1])).or_default() += n;
            places.entry((pair[0], pair[1])).or_default().insert(i);
        }
    }
    let mut merges = Vec::new();
    while spelling.len() < vocab_size {
        let best = counts.iter().max_by_key(|(pair, n)| (**n, std::cmp::Reverse(**pair)));
        let Some((&pair, _)) = best.filter(|(_, n)| **n >= 2) else { break };
        let (left, right) = (spelling[pair.0 as usize].clone(), spelling[pair.1 as usize].clone());
        // two ways to spell one string share a token
        let merged = *id_of.entry(format!("{left}{right}")).or_insert_with_key(|text| {
            spelling.push(text.clone());
            spelling.len() as u32 - 1
        });
        merges.push((left, right));
        for i in places.remove(&pair).unwrap_or_default() {
            let (word, n) = &mut words[i];
            for old in word.windows(2) {
                if let Some(count) = counts.get_mut(&(old[0], old[1])) {
                    *count -= *n;
                }
            }
            *word = merge_word(word, pair, merged);
            for new in word.windows(2) {
                *counts.entry((new[0], new[1])).or_default() += *n;
                places.entry((new[0], new[1])).or_default().insert(i);
            }
        }
        counts.remove(&pair);
    }
    Vocabulary { spelling, merges }
}

/// `word` with every `pair` from the left replaced by `merged`.
fn merge_word(word: &[u32], pair: Merge, merged: u32) -> Vec<u32> {
    let mut out = Vec::with_capacity(word.len());
    let mut i = 0;
    while i < word.len() {
        if i + 1 < word.len() && (word[i], word[i + 1]) == pair {
            out.push(merged);
            i += 2;
        } else {
            out.push(word[i]);
            i += 1;
        }
    }
    out
}

impl Tokenizer {
    /// Trains a vocabulary of at most `vocab_size` tokens; fewer where the texts have no pair left that
    /// occurs twice. The same texts in any order give the same tokenizer.
    ///
    /// # Errors
    /// If `vocab_size` is below [`MIN_VOCAB_SIZE`].
    pub fn train<S: AsRef<str>>(texts: impl IntoIterator<Item = S>, vocab_size: usize) -> Result<Self, TokenizerError> {
        if vocab_size < MIN_VOCAB_SIZE {
            return Err(TokenizerError::VocabTooSmall { got: vocab_size });
        }
        let mut word_counts: BTreeMap<String, u64> = BTreeMap::new();
        for text in texts {
            for word in words(text.as_ref()) {
                *word_counts.entry(word).or_default() += 1;
            }
        }
        let trained = train_merges(&word_counts, vocab_size);
        let vocab: Vocab = trained.spelling.into_iter().zip(0..).collect();
        let as_json = |e: tokenizers::Error| TokenizerError::Json { reason: e.to_string() };
        let model = BPE::builder().vocab_and_merges(vocab, trained.merges).build().map_err(as_json)?;
        let mut inner = tokenizers::Tokenizer::new(model);
        inner.with_normalizer(Some(normalizer())).map_err(as_json)?;
        inner.with_pre_tokenizer(Some(byte_level())).with_decoder(Some(byte_level()));
        inner.add_special_tokens(SPECIAL_TOKENS.map(|t| AddedToken::from(t, true))).map_err(as_json)?;
        Self::from_json(&inner.to_string(false).map_err(as_json)?)
    }

    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// Not such JSON; special tokens elsewhere than at ids 0 to 4; ids with gaps; a byte without token.
    pub fn from_json(json: &str) -> Result<Self, TokenizerError> {
        let mut inner: tokenizers::Tokenizer =
            json.parse().map_err(|e: tokenizers::Error| TokenizerError::Json { reason: e.to_string() })?;
        for (token, want) in SPECIAL_TOKENS.into_iter().zip(0..) {
            let got = inner.token_to_id(token);
            if got != Some(want) {
                return Err(TokenizerError::SpecialToken { token, got, want });
            }
        }
        let vocab = inner.get_vocab(true);
        let ids: BTreeSet<u32> = vocab.values().copied().collect();
        if ids.len() != vocab.len() || ids.last().is_some_and(|&last| last as usize + 1 != ids.len()) {
            let reason = format!("{} tokens do not have the ids 0 to {}", vocab.len(), vocab.len().saturating_sub(1));
            return Err(TokenizerError::Vocabulary { reason });
        }
        if let Some(c) = ByteLevel::alphabet().into_iter().find(|c| !vocab.contains_key(c.to_string().as_str())) {
            return Err(TokenizerError::Vocabulary { reason: format!("no token for the byte written {c:?}") });
        }
        inner.set_encode_special_tokens(true);
        Ok(Self { inner, json: json.to_owned(), vocab_size: vocab.len() })
    }

    /// `tokenizer.json` as it was read or made.
    pub fn to_json(&self) -> &str {
        &self.json
    }

    /// V: number of tokens, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// SHA-256 of [`Self::to_json`], hex.
    pub fn hash(&self) -> String {
        sha256_hex(self.json.as_bytes())
    }

    /// Tokens of plain text; never a special one.
    pub fn encode_text(&self, text: &str) -> Vec<u32> {
        // byte-level BPE with all 256 bytes has a token for every text, so there is no failing path
        self.inner.encode_fast(text, false).map(|e| e.get_ids().to_vec()).unwrap_or_default()
    }

    /// Tokens of a conversation, at most `max_tokens` (at least 1). Ends with [`SUGGEST`]. Where the
    /// conversation is too long the newest turns are kept, and of the oldest kept turn its end, behind
    /// its role token.
    pub fn encode_prompt(&self, prompt: &Prompt, max_tokens: usize) -> Vec<u32> {
        let mut room = max_tokens.saturating_sub(1);
        let mut kept: Vec<Vec<u32>> = Vec::new();
        for turn in prompt.turns.iter().rev() {
            if room < 2 {
                break;
            }
            let text = self.encode_text(&turn.text);
            let n_kept = text.len().min(room - 1);
            let role = match turn.role {
                Role::User => USER,
                Role::Assistant => ASSISTANT,
            };
            kept.push([&[role], &text[text.len() - n_kept..]].concat());
            room -= 1 + n_kept;
            if n_kept < text.len() {
                break;
            }
        }
        kept.iter().rev().flatten().copied().chain([SUGGEST]).collect()
    }

    /// Tokens of a suggestion, ending with [`END`].
    pub fn encode_suggestion(&self, text: &str) -> Vec<u32> {
        let mut tokens = self.encode_text(text);
        tokens.push(END);
        tokens
    }

    /// Text of `tokens`; special and unknown ones are left out, broken UTF-8 shows as U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        // the byte-level decoder has no failing path
        self.inner.decode(tokens, true).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Turn;

    const TEXTS: [&str; 6] = [
        "how to cook rice",
        "how to cook brown rice",
        "best rice cooker brands",
        "Cooking Rice in a pot",
        "what is the weather in london today",
        "weather tomorrow in london",
    ];

    fn tokenizer() -> Tokenizer {
        Tokenizer::train(TEXTS, 512).unwrap()
    }

    #[test]
    fn round_trip_gives_the_normalised_text() {
        let t = tokenizer();
        for text in [
            "",
            " ",
            "how to cook rice",
            "Ｆｕｌｌ ＷＩＤＴＨ ﬁsh",
            "naïve café\n\ttabs  two",
            "日本語 🙂 e\u{301}",
            "<|end|> <|user|>",
            "\0\u{7f}",
        ] {
            let tokens = t.encode_text(text);
            assert_eq!(t.decode(&tokens), normalise(text), "{text:?}");
            assert!(tokens.iter().all(|&id| id > END && (id as usize) < t.vocab_size()), "{text:?} gave {tokens:?}");
        }
        assert_eq!(normalise("Ｆｕｌｌ ﬁsh"), "full fish");
    }

    #[test]
    fn training_merges_and_shrinks_text() {
        let t = tokenizer();
        assert!(t.vocab_size() > MIN_VOCAB_SIZE && t.vocab_size() <= 512, "{}", t.vocab_size());
        assert!(t.encode_text("how to cook rice").len() <= 5);
        // no token crosses the space between words
        assert_eq!(t.encode_text("rice"), t.encode_text("rice weather")[..t.encode_text("rice").len()]);
    }

    #[test]
    fn merges_by_hand() {
        // "aab" three times, "ab" twice: a-b occurs 5 times and merges first, then a-ab
        let counts = BTreeMap::from([("aab".to_owned(), 3), ("ab".to_owned(), 2)]);
        let v = train_merges(&counts, MIN_VOCAB_SIZE + 10);
        assert_eq!(v.merges, [("a".to_owned(), "b".to_owned()), ("a".to_owned(), "ab".to_owned())]);
        assert_eq!(v.spelling[MIN_VOCAB_SIZE..], ["ab".to_owned(), "aab".to_owned()]);
        // a pair that overlaps itself is taken from the left
        assert_eq!(merge_word(&[7, 7, 7], (7, 7), 9), [9, 7]);
    }

    #[test]
    fn deterministic_and_independent_of_order() {
        let reversed = Tokenizer::train(TEXTS.iter().rev(), 512).unwrap();
        assert_eq!(tokenizer().to_json(), reversed.to_json());
        assert_eq!(tokenizer().hash(), reversed.hash());
    }

    #[test]
    fn json_round_trip() {
        let t = tokenizer();
        let again = Tokenizer::from_json(t.to_json()).unwrap();
        assert_eq!(again.to_json(), t.to_json());
        assert_eq!(again.encode_text("cook the weather"), t.encode_text("cook the weather"));
        assert_eq!(again.encode_text("<|end|>"), t.encode_text("<|end|>"));
    }

    #[test]
    fn prompts_and_suggestions() {
        let t = tokenizer();
        let prompt = Prompt {
            turns: vec![
                Turn { role: Role::User, text: "cook rice".into() },
                Turn { role: Role::Assistant, text: "in a pot".into() },
                Turn { role: Role::User, text: "weather <|suggest|>".into() },
            ],
        };
        let tokens = t.encode_prompt(&prompt, 1000);
        let specials: Vec<u32> = tokens.iter().copied().filter(|&id| id <= END).collect();
        assert_eq!(specials, [USER, ASSISTANT, USER, SUGGEST]);
        assert_eq!((tokens[0], *tokens.last().unwrap()), (USER, SUGGEST));
        assert_eq!(t.decode(&tokens), "cook ricein a potweather <|suggest|>");
        assert_eq!(t.encode_prompt(&Prompt::default(), 1000), [SUGGEST]);
        let suggestion = t.encode_suggestion("brown rice");
        assert_eq!(suggestion.last(), Some(&END));
        assert_eq!(t.decode(&suggestion), "brown rice");
    }

    #[test]
    fn long_prompts_keep_the_newest() {
        let t = tokenizer();
        let prompt = Prompt {
            turns: vec![
                Turn { role: Role::User, text: "cook rice".into() },
                Turn { role: Role::Assistant, text: "weather in london today".into() },
            ],
        };
        let full = t.encode_prompt(&prompt, 1000);
        for max in 0..=full.len() {
            let cut = t.encode_prompt(&prompt, max);
            assert!(cut.len() <= max.max(1) && *cut.last().unwrap() == SUGGEST, "{max}: {cut:?}");
            assert!(cut[0] <= END, "{max}: a kept turn begins with its role token, {cut:?}");
            // behind the role token the cut prompt is the end of the full one
            assert_eq!(cut[1..], full[full.len() - (cut.len() - 1)..], "{max}");
        }
        assert_eq!(t.encode_prompt(&prompt, full.len()), full);
    }

    #[test]
    fn refuses_what_is_no_tokenizer_of_ours() {
        assert!(matches!(Tokenizer::train(TEXTS, 260), Err(TokenizerError::VocabTooSmall { got: 260 })));
        assert!(matches!(Tokenizer::from_json("{"), Err(TokenizerError::Json { .. })));
        let swapped = tokenizer().to_json().replace("<|pad|>", "<|bad|>");
        assert!(matches!(
            Tokenizer::from_json(&swapped),
            Err(TokenizerError::SpecialToken { token: "<|pad|>", got: None, want: 0 })
        ));
        let gap = tokenizer().to_json().replace("\"rice\":", "\"rice\":9").replace("Ġrice\":", "Ġrice\":9");
        assert!(Tokenizer::from_json(&gap).is_err());
    }
}
