//! Editors' lists, labelled panes and real next queries: SFT examples of equal weight. Lists that a
//! person labelled bad (0) are left out, and so are a suggestion that breaks a hard rule (a copy of the query,
//! say) and a next query that cannot be understood alone (method B.1.5).

use super::partition::beginning;
use super::{Making, SftExample, Side};
use crate::click::Record;
use crate::distill::Distilled;
use crate::prompt::Prompt;
use crate::reward::gate::{Candidate, Gate};
use crate::reward::self_contained::self_containedness;
use std::collections::HashSet;

pub(super) fn add(records: &[&Record], making: &mut Making) {
    let mut seen = HashSet::new();
    let mut told = Distilled::default();
    for record in records {
        let Record::Demonstration(demonstration) = record else { continue };
        let prompt = &demonstration.prompt;
        making.split.prompts.push(prompt.clone());
        if demonstration.label == Some(0) {
            continue;
        }
        let list: Vec<Candidate> =
            demonstration.suggestions.iter().map(|text| Candidate { text, finished: true }).collect();
        let broken = Gate::SLATE.check(prompt, &list);
        for (suggestion, broken) in demonstration.suggestions.iter().zip(broken) {
            if !seen.insert((super::key(prompt), suggestion.trim().to_lowercase())) {
                continue;
            }
            told.n_candidates += 1;
            if broken.is_some() {
                told.n_gated += 1;
            } else if is_next_query(prompt)
                && self_containedness(suggestion) < making.config.distill.min_self_containedness
            {
                told.n_not_self_contained += 1;
            } else {
                told.n_chosen += 1;
                making.split.sft.push(SftExample {
                    source: making.source.to_owned(),
                    group: format!("query:{}", beginning(prompt)),
                    prompt: prompt.clone(),
                    suggestion: suggestion.clone(),
                    weight: 1.0,
                });
            }
        }
    }
    if making.side == Side::Train {
        making.report.distilled.add(told);
    }
}

/// What follows a conversation is a person's next query; what follows a lone query is an editor's list.
fn is_next_query(prompt: &Prompt) -> bool {
    prompt.turns.len() > 1
}
