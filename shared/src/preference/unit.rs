//! Which pairs and anchors rest on the same clicks, so that no split within one side may part them.
//!
//! In the loop: what GaRM sets aside to choose its weights by, its cross-validation, the two judges, and what is resampled for
//! intervals. A pair of one impression belongs to its user and a pair of rates to its conversation, and the rates add up the clicks
//! of many users' impressions. Where a data set has both, its conversations are the units, told apart by the last user turn
//! alone: then every click stands on one side, though a user may stand on both. Everywhere else a group is a unit.

use super::{Pair, PairKind};
use crate::click_model::ContextKey;
use crate::prompt::Prompt;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Fewest conversations that a data set is split by; below, groups stay the units.
const MIN_CONVERSATIONS: usize = 20;

/// How the pairs of one side are split further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Units<'a> {
    /// Data sets whose units are conversations.
    by_conversation: BTreeSet<&'a str>,
}

/// What a data set has.
#[derive(Default)]
struct Found {
    has_rates: bool,
    has_others: bool,
    conversations: BTreeSet<String>,
}

impl<'a> Units<'a> {
    /// The units of these pairs, and of anchors beside them.
    pub fn of(pairs: impl IntoIterator<Item = &'a Pair>) -> Self {
        let mut sources: BTreeMap<&str, Found> = BTreeMap::new();
        for pair in pairs {
            let found = sources.entry(&pair.source).or_default();
            let is_rate = pair.kind == PairKind::Rate;
            found.has_rates |= is_rate;
            found.has_others |= !is_rate;
            found.conversations.insert(conversation(&pair.prompt));
        }
        let sums =
            |found: &Found| found.has_rates && found.has_others && found.conversations.len() >= MIN_CONVERSATIONS;
        let by_conversation = sources.into_iter().filter(|(_, found)| sums(found)).map(|(source, _)| source);
        Self { by_conversation: by_conversation.collect() }
    }

    /// Unit, within its data set, of a pair or anchor with this group and prompt.
    pub fn name<'b>(&self, source: &str, group: &'b str, prompt: &Prompt) -> Cow<'b, str> {
        if self.by_conversation.contains(source) { conversation(prompt).into() } else { group.into() }
    }

    /// Unit of a pair.
    pub fn of_pair<'b>(&self, pair: &'b Pair) -> Cow<'b, str> {
        self.name(&pair.source, &pair.group, &pair.prompt)
    }
}

/// The coarsest that rates are added up by.
fn conversation(prompt: &Prompt) -> String {
    ContextKey::Query.of(prompt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(source: &str, user: usize, query: usize, kind: PairKind) -> Pair {
        let prompt = Prompt::from_query(format!("Query {query}?"));
        let group = if kind == PairKind::Rate { format!("prompt:{query}") } else { format!("user:{user}") };
        let texts = ["a", "b"].map(str::to_owned);
        let [chosen, rejected] = texts;
        Pair {
            source: source.into(),
            group,
            prompt,
            chosen,
            rejected,
            label: 0.9,
            weight: 1.0,
            kind,
            logit_variance: 0.0,
        }
    }

    /// Every user in every conversation, and the rates of each.
    fn log(source: &str, n_queries: usize, has_rates: bool) -> Vec<Pair> {
        let slates = (0..n_queries).flat_map(|q| (0..3).map(move |u| (u, q, PairKind::Slate)));
        let rates = (0..if has_rates { n_queries } else { 0 }).map(|q| (9, q, PairKind::Rate));
        slates.chain(rates).map(|(user, query, kind)| pair(source, user, query, kind)).collect()
    }

    #[test]
    fn rates_and_the_clicks_that_they_add_up_are_one_unit() {
        let pairs = [log("summed", 20, true), log("plain", 20, false), log("few", 19, true)].concat();
        let units = Units::of(&pairs);
        for pair in &pairs {
            let unit = units.of_pair(pair);
            if pair.source == "summed" {
                assert_eq!(unit, conversation(&pair.prompt));
            } else {
                assert_eq!(unit, pair.group);
            }
        }
        let rate = pairs.iter().find(|p| p.kind == PairKind::Rate).expect("there is one");
        let slate = pairs.iter().find(|p| p.kind == PairKind::Slate && p.prompt == rate.prompt).expect("there is one");
        assert_ne!(rate.group, slate.group);
        assert_eq!(units.of_pair(rate), units.of_pair(slate));
    }
}
