//! Query to suggestions: one JSON object `{query: [suggestion, …]}` (the intents of MIMICS queries).
//! Suggestions become full queries. The number of a refused entry counts entries, not lines.

use super::{Parsed, Problem, full_query};
use crate::click::{Demonstration, Record};
use crate::prompt::Prompt;
use serde_json::Value;

pub(super) fn parse(bytes: &[u8], parsed: &mut Parsed) {
    let object: serde_json::Map<String, Value> = match serde_json::from_slice(bytes) {
        Ok(object) => object,
        Err(error) => {
            let reason = format!("expected a JSON object from query to a list of suggestions: {error}");
            return parsed.refuse(error.line().max(1), Problem::whole(reason), "");
        }
    };
    for (i, (query, suggestions)) in object.iter().enumerate() {
        let text = format!("{query:?}: {suggestions}");
        parsed.take(i + 1, &text, entry(query, suggestions));
    }
}

fn entry(query: &str, suggestions: &Value) -> Result<Record, Problem> {
    if query.trim().is_empty() {
        return Err(Problem::whole("the query is empty; expected text"));
    }
    let list = suggestions.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| Problem::new(query, "expected a list of suggestions, at least one"))?;
    let full = |value: &Value| match value.as_str().map(str::trim) {
        Some(text) if !text.is_empty() => Ok(full_query(query, text)),
        _ => Err(Problem::new(query, format!("`{value}`; expected text"))),
    };
    let suggestions = list.iter().map(full).collect::<Result<Vec<String>, Problem>>()?;
    let prompt = Prompt::from_query(query.trim());
    Ok(Record::Demonstration(Demonstration { prompt, suggestions, label: None }))
}
