//! Editors' lists, labelled panes and real next queries: SFT examples of equal weight. Lists that a
//! person labelled bad (0) are left out, and so is a suggestion that repeats the query.

use super::{SftExample, Split, beginning};
use crate::click::Record;
use std::collections::HashSet;

pub(super) fn add(source: &str, records: &[&Record], split: &mut Split) {
    let mut seen = HashSet::new();
    for record in records {
        let Record::Demonstration(demonstration) = record else { continue };
        let prompt = &demonstration.prompt;
        split.prompts.push(prompt.clone());
        if demonstration.label == Some(0) {
            continue;
        }
        let query = prompt.query().trim().to_lowercase();
        for suggestion in &demonstration.suggestions {
            let text = suggestion.trim().to_lowercase();
            if text != query && seen.insert((super::key(prompt), text)) {
                split.sft.push(SftExample {
                    source: source.to_owned(),
                    group: format!("query:{}", beginning(prompt)),
                    prompt: prompt.clone(),
                    suggestion: suggestion.clone(),
                    weight: 1.0,
                });
            }
        }
    }
}
