//! The conversation so far, which every stage conditions on. Dimension-free.
//!
//! In the loop: part of every click-log record, and the input of policy and reward model.

mod format;
mod template;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use format::PromptFormat;
pub use template::TemplateError;

/// Who wrote a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person.
    User,
    /// The product.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Who wrote it.
    pub role: Role,
    /// What was written.
    pub text: String,
}

/// A conversation, oldest turn first. Its last user turn is the `query`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Prompt {
    /// Turns, oldest first.
    pub turns: Vec<Turn>,
}

impl Prompt {
    /// A conversation of one user turn.
    pub fn from_query(query: impl Into<String>) -> Self {
        Self { turns: vec![Turn { role: Role::User, text: query.into() }] }
    }

    /// The last user turn; empty where there is none.
    pub fn query(&self) -> &str {
        self.turns.iter().rev().find(|t| t.role == Role::User).map_or("", |t| t.text.as_str())
    }
}
