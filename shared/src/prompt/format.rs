//! What stands around the turns of a conversation when it becomes tokens: special tokens of our own, or
//! the pieces of a pretrained model's chat template.
//!
//! In the loop: part of the tokenizer, so that SFT, GaRM, RL and the engine know nothing of it. A prompt is
//! `begin`, each turn between its two pieces, then `suggest`; the suggestion follows and ends with `end`. The
//! pieces may hold special tokens; what people write never does.

use super::template::{self, TemplateError};
use super::{Prompt, Role};
use serde::{Deserialize, Serialize};

/// The pieces around turns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptFormat {
    /// Before the first turn.
    pub begin: String,
    /// Before and behind what the person wrote.
    pub user: [String; 2],
    /// Before and behind what the product wrote.
    pub assistant: [String; 2],
    /// Behind the last turn; the suggestion follows.
    pub suggest: String,
    /// The special token that ends a suggestion.
    pub end: String,
    /// The chat template that the pieces were cut from; it goes with the model when it is exported.
    pub chat_template: Option<String>,
}

impl PromptFormat {
    /// Beckon's own: one special token before each turn, one before and one behind the suggestion.
    pub fn own() -> Self {
        let alone = |token: &str| [token.to_owned(), String::new()];
        Self {
            begin: String::new(),
            user: alone("<|user|>"),
            assistant: alone("<|assistant|>"),
            suggest: "<|suggest|>".to_owned(),
            end: "<|end|>".to_owned(),
            chat_template: None,
        }
    }

    /// For a model that was never taught to chat: turns as lines of a dialogue. `bos` may be empty; `eos` ends a
    /// suggestion, which the model has to learn.
    pub fn plain(bos: &str, eos: &str) -> Self {
        let line = |who: &str| [format!("{who}: "), "\n".to_owned()];
        Self {
            begin: bos.to_owned(),
            user: line("User"),
            assistant: line("Assistant"),
            suggest: "User:".to_owned(),
            end: eos.to_owned(),
            chat_template: None,
        }
    }

    /// Cut from a chat template. `bos` and `eos` are the spellings of those tokens (empty where there is none),
    /// `is_special` tells whether a spelling is a special token of the vocabulary.
    ///
    /// A suggestion is what the person could say next, so it is written as the next user turn, behind its first piece,
    /// and ends with the special token that ends a user turn, else with `eos`. No system turn is said, not even the
    /// template's own: SmolLM2-135M stays closer to the conversation without, and the prompt is shorter.
    ///
    /// # Errors
    /// A template that cannot be rendered or cut, or has no token that ends a turn.
    pub fn from_chat_template(
        source: &str,
        bos: &str,
        eos: &str,
        is_special: &dyn Fn(&str) -> bool,
    ) -> Result<Self, TemplateError> {
        let pieces = template::cut(source, bos, eos)?;
        let ends_turn = special_at_start(&pieces.user_end, is_special).unwrap_or(eos);
        if ends_turn.is_empty() || !is_special(ends_turn) {
            return Err(TemplateError::NoEnd { behind_user: pieces.user_end });
        }
        if pieces.user_start.is_empty() {
            return Err(TemplateError::Cut { reason: "nothing begins a user turn" });
        }
        let begins = pieces.begin.starts_with(bos) && !pieces.user_start.starts_with(bos);
        Ok(Self {
            begin: if begins { bos.to_owned() } else { String::new() },
            suggest: pieces.user_start.clone(),
            end: ends_turn.to_owned(),
            user: [pieces.user_start, pieces.user_end],
            assistant: [pieces.assistant_start, pieces.assistant_end],
            chat_template: Some(source.to_owned()),
        })
    }

    /// As [`Self::from_chat_template`] for a template that writes turns as ChatML does, told by its looks: where there is no
    /// room for a template engine.
    ///
    /// # Errors
    /// Any other template, even one that says the same in other words.
    pub fn from_known_template(
        source: &str,
        bos: &str,
        _eos: &str,
        is_special: &dyn Fn(&str) -> bool,
    ) -> Result<Self, TemplateError> {
        const BEGIN: &str = "<|im_start|>";
        const END: &str = "<|im_end|>";
        let told = plainly(source);
        let writes_turns = told.contains("'<|im_start|>'+message['role']+'\n'+message['content']+'<|im_end|>\n'");
        let begins = told.starts_with("{{bos_token}}");
        let has_other_bos = told.matches("bos_token").count() > usize::from(begins);
        if !writes_turns || has_other_bos || !is_special(BEGIN) || !is_special(END) {
            return Err(TemplateError::Unknown);
        }
        let around = |role: &str| [format!("{BEGIN}{role}\n"), format!("{END}\n")];
        Ok(Self {
            begin: if begins && bos != BEGIN { bos.to_owned() } else { String::new() },
            user: around("user"),
            assistant: around("assistant"),
            suggest: format!("{BEGIN}user\n"),
            end: END.to_owned(),
            chat_template: Some(source.to_owned()),
        })
    }

    /// A chat template that says the same as these pieces, for a model that has none of its own.
    pub fn to_chat_template(&self) -> String {
        if let Some(template) = &self.chat_template {
            return template.clone();
        }
        let quoted =
            |piece: &str| format!("'{}'", piece.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n"));
        format!(
            "{{{{ {} }}}}{{% for message in messages %}}{{% if message['role'] == 'user' %}}{{{{ {} + message['content'] \
             + {} }}}}{{% elif message['role'] == 'assistant' %}}{{{{ {} + message['content'] + {} }}}}{{% endif %}}\
             {{% endfor %}}{{% if add_generation_prompt %}}{{{{ {} }}}}{{% endif %}}",
            quoted(&self.begin),
            quoted(&self.user[0]),
            quoted(&self.user[1]),
            quoted(&self.assistant[0]),
            quoted(&self.assistant[1]),
            quoted(&self.suggest),
        )
    }

    /// The pieces around a turn of this role.
    pub fn around(&self, role: Role) -> &[String; 2] {
        match role {
            Role::User => &self.user,
            Role::Assistant => &self.assistant,
        }
    }

    /// A whole prompt as text, special tokens spelled out: for people and for other programs. What the engine reads
    /// are tokens, see [`crate::tokenizer::Tokenizer::encode_prompt`].
    pub fn render(&self, prompt: &Prompt) -> String {
        let turns = prompt.turns.iter().map(|turn| {
            let [before, behind] = self.around(turn.role);
            format!("{before}{}{behind}", turn.text)
        });
        format!("{}{}{}", self.begin, turns.collect::<String>(), self.suggest)
    }
}

/// A template without what means nothing: blanks outside of quotes, the kind of quotes, where texts are put together, and
/// `a.b` beside `a['b']`.
fn plainly(source: &str) -> String {
    let mut told = String::new();
    let mut quote = None;
    for c in source.replace("\\n", "\n").chars() {
        match quote {
            None if c.is_whitespace() => {}
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                told.push('\'');
            }
            Some(open) if c == open => {
                quote = None;
                told.push('\'');
            }
            _ => told.push(c),
        }
    }
    told.replace("'+'", "")
        .replace("{{-", "{{")
        .replace("message.role", "message['role']")
        .replace("message.content", "message['content']")
}

/// The special token that `text` starts with, blanks aside.
fn special_at_start<'a>(text: &'a str, is_special: &dyn Fn(&str) -> bool) -> Option<&'a str> {
    let text = text.trim_start();
    let ends = text.char_indices().map(|(i, c)| i + c.len_utf8());
    ends.map(|end| &text[..end]).find(|spelling| is_special(spelling))
}

#[cfg(test)]
mod tests;
