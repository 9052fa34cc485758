//! Conversations of TREC CAsT and iKAT: `history` and the person's real `next_query`, which is what
//! a good suggestion would have said. The query as asked is taken, not its rewrite
//! (`next_query_resolved`), since a suggestion is read within its conversation.

use super::{Parsed, Problem, for_each_line, from_json};
use crate::click::{Demonstration, Record};
use crate::prompt::{Prompt, Turn};
use serde::Deserialize;

#[derive(Deserialize)]
struct Line {
    history: Vec<Turn>,
    next_query: String,
}

pub(super) fn parse(bytes: &[u8], parsed: &mut Parsed) {
    for_each_line(bytes, parsed, |text| {
        let line: Line = from_json(text)?;
        if line.history.is_empty() {
            return Err(Problem::new("history", "no turns; expected at least one"));
        }
        if line.next_query.trim().is_empty() {
            return Err(Problem::new("next_query", "empty; expected text"));
        }
        let suggestions = vec![line.next_query.trim().to_owned()];
        Ok(Record::Demonstration(Demonstration { prompt: Prompt { turns: line.history }, suggestions, label: None }))
    });
}
