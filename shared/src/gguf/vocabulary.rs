//! Tokenizers between GGUF metadata and `tokenizer.json`: byte-level BPE only (`tokenizer.ggml.model` "gpt2").
//!
//! The metadata name the way of splitting text by a word (`tokenizer.ggml.pre`); here are those that models of
//! architecture `llama` with a byte-level vocabulary use. Not here: SentencePiece vocabularies (model "llama"),
//! which hold no merges; such a model is imported from its Hugging Face files.

use super::llama::TemplateReader;
use super::{Array, Gguf, GgufError, Value};
use crate::prompt::PromptFormat;
use crate::tokenizer::{SPECIAL_TOKENS, Tokenizer, TokenizerError};
use serde_json::{Map, json};
use std::collections::BTreeMap;

const TOKENS: &str = "tokenizer.ggml.tokens";
const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TEMPLATE: &str = "tokenizer.chat_template";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const PADDING: &str = "tokenizer.ggml.padding_token_id";
/// Numbers of `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
/// How Llama 3 splits text.
const LLAMA3_PATTERN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// `tokenizer.json` but for what a file says. As text, because text is small in a page and code that builds it is not.
const WHOLE: &str = r#"{"version": "1.0", "truncation": null, "padding": null, "added_tokens": null, "normalizer": null,
    "pre_tokenizer": null, "post_processor": null,
    "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": null, "vocab": null,
        "merges": null}}"#;
const OWN_NORMALIZER: &str = r#"{"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}"#;
const BYTE_LEVEL: &str = r#"{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}"#;
const DIGITS: &str = r#"{"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]}"#;
const SPLIT: &str = r#"{"type": "Sequence", "pretokenizers": [
    {"type": "Split", "pattern": {"Regex": ""}, "behavior": "Isolated", "invert": false},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]}"#;

/// One of the texts above.
fn parsed(text: &'static str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// The pre-tokenizer of `tokenizer.json` for a word of `tokenizer.ggml.pre`; `None` for an unknown one.
fn pre_tokenizer(word: &str) -> Option<serde_json::Value> {
    match word {
        "gpt-2" | "default" => Some(parsed(BYTE_LEVEL)),
        "smollm" | "refact" | "codeshell" | "starcoder" | "command-r" => Some(parsed(DIGITS)),
        "llama-bpe" | "llama3" | "llama-v3" => {
            let mut split = parsed(SPLIT);
            split["pretokenizers"][0]["pattern"]["Regex"] = LLAMA3_PATTERN.into();
            Some(split)
        }
        _ => None,
    }
}

/// The tokenizer of a file, with the prompt format that `template` finds in its chat template, or a plain one where it
/// has none.
///
/// # Errors
/// Another kind of vocabulary or way of splitting, metadata that are missing or contradict each other, a chat
/// template that cannot be cut into turns.
pub fn tokenizer(gguf: &Gguf, template: TemplateReader) -> Result<Tokenizer, GgufError> {
    let bad = |key: &str, reason: String| GgufError::Metadata { key: key.to_owned(), reason };
    let model = gguf.text(MODEL)?;
    if model != "gpt2" {
        let hint = "only byte-level BPE (\"gpt2\") is read; import the Hugging Face files of this model instead";
        return Err(bad(MODEL, format!("is {model:?}: {hint}")));
    }
    let word = gguf.metadata.get(PRE).map_or(Some("default"), Value::as_str).unwrap_or_default();
    let pre_tokenizer = pre_tokenizer(word).ok_or_else(|| {
        let known = "gpt-2, smollm and llama-bpe are known";
        bad(PRE, format!("is {word:?}, a way of splitting text that Beckon does not know ({known})"))
    })?;
    let tokens = strings(gguf, TOKENS)?;
    let types = types(gguf, tokens.len())?;
    let mut vocab = Map::new();
    for (id, token) in tokens.iter().enumerate() {
        if vocab.insert(token.clone(), id.into()).is_some() {
            return Err(bad(TOKENS, format!("holds {token:?} twice, the second time at {id}")));
        }
    }
    let added = tokens.iter().zip(&types).enumerate().filter(|(_, (_, t))| [CONTROL, USER_DEFINED].contains(t));
    let added: Vec<_> = added
        .map(|(id, (token, t))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *t == CONTROL})
        })
        .collect();
    let merges = strings(gguf, MERGES)?.iter().enumerate().map(|(i, merge)| {
        let pair = merge.split_once(' ').filter(|(a, b)| vocab.contains_key(*a) && vocab.contains_key(*b));
        let merged = pair.filter(|(a, b)| vocab.contains_key(&format!("{a}{b}")));
        merged.map(|(a, b)| [a, b]).ok_or_else(|| bad(MERGES, format!("entry {i} ({merge:?}) is no pair of tokens")))
    });
    let merges = merges.collect::<Result<Vec<_>, _>>()?;
    let own = is_own(tokens);
    let mut whole = parsed(WHOLE);
    whole["added_tokens"] = added.into();
    if own {
        whole["normalizer"] = parsed(OWN_NORMALIZER);
    }
    whole["pre_tokenizer"] = pre_tokenizer;
    whole["model"]["ignore_merges"] = word.starts_with("llama").into();
    whole["model"]["vocab"] = vocab.into();
    whole["model"]["merges"] = merges.into();
    let format = if own { PromptFormat::own() } else { prompt_format(gguf, tokens, &types, template)? };
    Ok(Tokenizer::pretrained(&whole.to_string(), format)?)
}

/// Whether a vocabulary is one of ours, written by [`metadata`].
fn is_own(tokens: &[String]) -> bool {
    tokens.iter().map(String::as_str).take(SPECIAL_TOKENS.len()).eq(SPECIAL_TOKENS)
}

fn strings<'a>(gguf: &'a Gguf, key: &str) -> Result<&'a [String], GgufError> {
    let value = gguf.value(key)?;
    let reason = || format!("is {}, expected an array of texts", value.describe());
    value.as_strings().ok_or_else(|| GgufError::Metadata { key: key.to_owned(), reason: reason() })
}

fn types(gguf: &Gguf, n_tokens: usize) -> Result<Vec<i32>, GgufError> {
    let types = match gguf.value(TOKEN_TYPES)? {
        Value::Array(Array::I32(types)) => types.clone(),
        Value::Array(Array::U32(types)) => types.iter().map(|t| *t as i32).collect(),
        other => {
            let reason = format!("is {}, expected an array of whole numbers", other.describe());
            return Err(GgufError::Metadata { key: TOKEN_TYPES.to_owned(), reason });
        }
    };
    if types.len() != n_tokens {
        let reason = format!("has {} entries for {n_tokens} tokens", types.len());
        return Err(GgufError::Metadata { key: TOKEN_TYPES.to_owned(), reason });
    }
    Ok(types)
}

fn prompt_format(
    gguf: &Gguf,
    tokens: &[String],
    types: &[i32],
    template: TemplateReader,
) -> Result<PromptFormat, GgufError> {
    let spelling = |key: &str| -> Result<&str, GgufError> {
        if !gguf.metadata.contains_key(key) {
            return Ok("");
        }
        let id = gguf.number(key)?;
        let token = usize::try_from(id).ok().and_then(|id| tokens.get(id));
        token.map(String::as_str).ok_or_else(|| {
            let reason = format!("is {id}, but there are {} tokens", tokens.len());
            GgufError::Metadata { key: key.to_owned(), reason }
        })
    };
    let is_special = |s: &str| tokens.iter().zip(types).any(|(token, t)| token == s && *t == CONTROL);
    let (bos, eos) = (spelling(BOS)?, spelling(EOS)?);
    if !gguf.metadata.contains_key(TEMPLATE) {
        return Ok(PromptFormat::plain(bos, eos));
    }
    let format = template(gguf.text(TEMPLATE)?, bos, eos, &is_special);
    Ok(format.map_err(TokenizerError::from)?)
}

/// Metadata of a tokenizer for a network of `vocab_size` rows; rows beyond the tokenizer's get tokens that are never
/// used, because llama.cpp insists on one a row.
///
/// A normaliser has no place in GGUF: llama.cpp has to be given text in NFKC and lower case where the tokenizer is
/// our own, which [`tokenizer`] knows by its special tokens.
///
/// # Errors
/// [`GgufError::Feature`] for a tokenizer that is no byte-level BPE, or splits text in a way without a word for it.
pub fn metadata(tokenizer: &Tokenizer, vocab_size: usize) -> Result<BTreeMap<String, Value>, GgufError> {
    let json: serde_json::Value = serde_json::from_str(tokenizer.to_json())
        .map_err(|e| GgufError::Tokenizer(TokenizerError::Json { reason: e.to_string() }))?;
    let feature = |what: &str| GgufError::Feature { what: what.to_owned() };
    if json["model"]["type"] != "BPE" || json["model"]["byte_fallback"] == true {
        return Err(feature("a tokenizer other than byte-level BPE, which cannot be written to GGUF"));
    }
    let word = word_for(&json["pre_tokenizer"])
        .ok_or_else(|| feature("a tokenizer that splits text in a way that GGUF has no word for"))?;
    let vocab = json["model"]["vocab"].as_object().ok_or_else(|| feature("a tokenizer without vocabulary"))?;
    let mut tokens: Vec<String> = (0..vocab_size).map(|id| format!("<|unused_{id}|>")).collect();
    let mut types = vec![UNUSED; vocab_size];
    let mut put = |spelling: &str, id: &serde_json::Value, kind: i32| {
        if let Some(place) = id.as_u64().and_then(|id| usize::try_from(id).ok()).filter(|id| *id < vocab_size) {
            (tokens[place], types[place]) = (spelling.to_owned(), kind);
        }
    };
    vocab.iter().for_each(|(spelling, id)| put(spelling, id, NORMAL));
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let kind = if token["special"] == true { CONTROL } else { USER_DEFINED };
        put(token["content"].as_str().unwrap_or_default(), &token["id"], kind);
    }
    let merges = json["model"]["merges"].as_array().into_iter().flatten().map(|merge| match merge {
        serde_json::Value::String(merge) => merge.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default()),
    });
    let end = tokenizer.end();
    Ok(BTreeMap::from([
        (MODEL.to_owned(), "gpt2".into()),
        (PRE.to_owned(), word.into()),
        (MERGES.to_owned(), Array::String(merges.collect()).into()),
        (TOKENS.to_owned(), Array::String(tokens).into()),
        (TOKEN_TYPES.to_owned(), Array::I32(types).into()),
        // a chat template spells its own first token
        (BOS.to_owned(), end.into()),
        (EOS.to_owned(), end.into()),
        (UNKNOWN.to_owned(), 0u32.into()),
        (PADDING.to_owned(), 0u32.into()),
        ("tokenizer.ggml.add_bos_token".to_owned(), false.into()),
        ("tokenizer.ggml.add_space_prefix".to_owned(), false.into()),
        (TEMPLATE.to_owned(), tokenizer.format().to_chat_template().into()),
    ]))
}

/// The word for a pre-tokenizer: the one whose settings are the same.
fn word_for(pre_tokenizer: &serde_json::Value) -> Option<&'static str> {
    let same = |ours: &serde_json::Value| splits_alike(ours, pre_tokenizer);
    ["gpt-2", "smollm", "llama-bpe"].into_iter().find(|word| self::pre_tokenizer(word).as_ref().is_some_and(same))
}

/// Whether two pre-tokenizers split alike; offsets, which nothing here reads, may be trimmed or not.
fn splits_alike(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    let settings = |value: &serde_json::Value| {
        let mut value = value.clone();
        if let Some(map) = value.as_object_mut() {
            map.remove("trim_offsets");
            map.remove("pretokenizers");
        }
        value
    };
    let parts = |value: &serde_json::Value| value["pretokenizers"].as_array().cloned().unwrap_or_default();
    let (of_a, of_b) = (parts(a), parts(b));
    settings(a) == settings(b) && of_a.len() == of_b.len() && of_a.iter().zip(&of_b).all(|(a, b)| splits_alike(a, b))
}
