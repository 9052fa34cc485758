//! A [`PromptFormat`] as tokens of one tokenizer.

use crate::prompt::{PromptFormat, Role};

/// The pieces around turns, as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub begin: Vec<u32>,
    user: [Vec<u32>; 2],
    assistant: [Vec<u32>; 2],
    pub suggest: Vec<u32>,
    pub end: u32,
}

impl Frame {
    /// Encodes the pieces; `None` where the end is not one special token. `tokenizer` parses special tokens.
    pub fn of(tokenizer: &tokenizers::Tokenizer, format: &PromptFormat) -> Option<Self> {
        // byte-level BPE has no failing path
        let encode = |piece: &String| match tokenizer.encode_fast(piece.as_str(), false) {
            Ok(encoding) => encoding.get_ids().to_vec(),
            Err(_) => Vec::new(),
        };
        let end = tokenizer.token_to_id(&format.end)?;
        tokenizer.get_added_tokens_decoder().get(&end).filter(|token| token.special)?;
        let frame = Self {
            begin: encode(&format.begin),
            user: format.user.each_ref().map(encode),
            assistant: format.assistant.each_ref().map(encode),
            suggest: encode(&format.suggest),
            end,
        };
        // a suggestion needs something to follow
        (!frame.suggest.is_empty()).then_some(frame)
    }

    /// What stands before and behind a turn.
    pub fn around(&self, role: Role) -> [&[u32]; 2] {
        let [before, behind] = match role {
            Role::User => &self.user,
            Role::Assistant => &self.assistant,
        };
        [before, behind]
    }
}
