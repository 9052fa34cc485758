//! Which conversations count as the same context, so that their clicks add up. Method B.1.4 (2), B.1.5.

use crate::prompt::{Prompt, Role};
use crate::reward::similarity::words;
use serde::{Deserialize, Serialize};

/// How conversations are clustered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContextKey {
    /// The whole conversation, up to case, punctuation and white space.
    #[default]
    Conversation,
    /// The last user turn alone, up to the same: more clicks a context, but "and for two?" means something
    /// else in every conversation.
    Query,
}

impl ContextKey {
    /// The cluster's name.
    pub fn of(self, prompt: &Prompt) -> String {
        match self {
            Self::Query => words(prompt.query()).join(" "),
            Self::Conversation => {
                let turn = |role, text: &str| {
                    let mark = if role == Role::User { "u" } else { "a" };
                    format!("{mark}:{}\n", words(text).join(" "))
                };
                prompt.turns.iter().map(|t| turn(t.role, &t.text)).collect()
            }
        }
    }
}
