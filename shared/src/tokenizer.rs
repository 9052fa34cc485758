//! Text to tokens and back: our own byte-level BPE behind NFKC and lower case, with the five special tokens
//! that mark turns and suggestions, or the tokenizer of a pretrained model with the pieces of its chat template.
//!
//! In the loop: trained once per run from the log's texts or imported with a policy, stored in every
//! checkpoint, used by trainer, engine and page. What stands around turns is the [`PromptFormat`]; our own is
//! `<|user|>…<|assistant|>…<|suggest|>`, and a suggestion ends with `<|end|>`. Text is never parsed for special
//! tokens: a user who types `<|end|>` gets the letters of it.
//!
//! Encoding is by the crate `tokenizers`. Training is here, because `BpeTrainer` breaks ties between equally
//! frequent pairs by hash-map order when one string has two spellings, and a run must be a function of its
//! data and seed.

mod frame;

use crate::digest::sha256_hex;
use crate::prompt::{Prompt, PromptFormat, TemplateError};
use frame::Frame;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::{Lowercase, NFKC, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, NormalizedString, Normalizer as _, OffsetReferential, OffsetType};
use tokenizers::{PreTokenizedString, PreTokenizer as _};

/// Fills batches, also behind texts of other tokenizers, where nothing reads it.
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
    /// The end of a suggestion is not one special token.
    #[error("prompt format: {end:?} ends a suggestion, but is not one special token of this tokenizer")]
    End {
        /// Its spelling.
        end: String,
    },
    /// The chat template of a pretrained model gives no prompt format.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

/// Text to tokens and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: String,
    vocab_size: usize,
    format: PromptFormat,
    frame: Frame,
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
        let inner: tokenizers::Tokenizer =
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
        Self::new(inner, json, PromptFormat::own())
    }

    /// Reads the `tokenizer.json` of a pretrained model, whose prompts are written in `format`.
    ///
    /// Its vocabulary may lack bytes (SmolLM2's lacks those that no text has); their text is left out.
    ///
    /// # Errors
    /// Not such JSON; no tokens; an end that is not one special token.
    pub fn pretrained(json: &str, format: PromptFormat) -> Result<Self, TokenizerError> {
        let inner = json.parse().map_err(|e: tokenizers::Error| TokenizerError::Json { reason: e.to_string() })?;
        Self::new(inner, json, format)
    }

    /// [`Self::from_json`], or with a format [`Self::pretrained`].
    ///
    /// # Errors
    /// As either of them.
    pub fn from_parts(json: &str, format: Option<&PromptFormat>) -> Result<Self, TokenizerError> {
        format.map_or_else(|| Self::from_json(json), |format| Self::pretrained(json, format.clone()))
    }

    fn new(mut inner: tokenizers::Tokenizer, json: &str, format: PromptFormat) -> Result<Self, TokenizerError> {
        let last = inner.get_vocab(true).values().copied().max();
        let vocab_size = last.map_or(0, |last| last as usize + 1);
        // the pieces of the format, and nothing else, are parsed for special tokens
        inner.set_encode_special_tokens(false);
        let frame = Frame::of(&inner, &format).ok_or_else(|| TokenizerError::End { end: format.end.clone() })?;
        inner.set_encode_special_tokens(true);
        Ok(Self { inner, json: json.to_owned(), vocab_size, format, frame })
    }

    /// `tokenizer.json` as it was read or made.
    pub fn to_json(&self) -> &str {
        &self.json
    }

    /// V: number of tokens, special ones included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// What stands around turns.
    pub fn format(&self) -> &PromptFormat {
        &self.format
    }

    /// The format where it is not our own: what has to be known beside the JSON to read it again.
    pub fn foreign_format(&self) -> Option<&PromptFormat> {
        (self.format != PromptFormat::own()).then_some(&self.format)
    }

    /// The token that ends a suggestion; our own is [`END`].
    pub fn end(&self) -> u32 {
        self.frame.end
    }

    /// SHA-256 of [`Self::to_json`] and, where it is not our own, of the format; hex.
    pub fn hash(&self) -> String {
        match self.foreign_format() {
            None => sha256_hex(self.json.as_bytes()),
            Some(format) => {
                let format = serde_json::to_string(format).unwrap_or_default(); // pieces of text always have a JSON form
                sha256_hex([self.json.as_bytes(), format.as_bytes()].concat().as_slice())
            }
        }
    }

    /// Whether `text` holds the spelling of a special token. In plain text that is harmless; in a piece of a
    /// [`PromptFormat`] it is that token.
    pub fn holds_special(&self, text: &str) -> bool {
        self.inner.get_added_tokens_decoder().values().any(|token| token.special && text.contains(&token.content))
    }

    /// Tokens of plain text; never a special one.
    pub fn encode_text(&self, text: &str) -> Vec<u32> {
        // byte-level BPE with all 256 bytes has a token for every text, so there is no failing path
        self.inner.encode_fast(text, false).map(|e| e.get_ids().to_vec()).unwrap_or_default()
    }

    /// Tokens of a conversation, at most `max_tokens` (at least 1), ready for a suggestion to follow. Where the
    /// conversation is too long the newest turns are kept, and of the oldest kept turn its end, between the pieces
    /// of its role. Where not even the pieces around the conversation fit, their end is kept.
    pub fn encode_prompt(&self, prompt: &Prompt, max_tokens: usize) -> Vec<u32> {
        let frame = &self.frame;
        let mut room = max_tokens.saturating_sub(frame.begin.len() + frame.suggest.len());
        let mut kept: Vec<Vec<u32>> = Vec::new();
        for turn in prompt.turns.iter().rev() {
            let [before, behind] = frame.around(turn.role);
            let n_around = before.len() + behind.len();
            if room <= n_around {
                break;
            }
            let text = self.encode_text(&turn.text);
            let n_kept = text.len().min(room - n_around);
            kept.push([before, &text[text.len() - n_kept..], behind].concat());
            room -= n_around + n_kept;
            if n_kept < text.len() {
                break;
            }
        }
        let turns = kept.iter().rev().flatten();
        let tokens: Vec<u32> = frame.begin.iter().chain(turns).chain(&frame.suggest).copied().collect();
        tokens[tokens.len() - tokens.len().min(max_tokens.max(1))..].to_vec()
    }

    /// Tokens of a suggestion, ending with [`Self::end`].
    pub fn encode_suggestion(&self, text: &str) -> Vec<u32> {
        let mut tokens = self.encode_text(text);
        tokens.push(self.end());
        tokens
    }

    /// Text of `tokens`; special and unknown ones are left out, broken UTF-8 shows as U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        // the byte-level decoder has no failing path
        self.inner.decode(tokens, true).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
