//! Pairs and anchors as tokens, the validation slice, and what a step learns from. Method B.2.6.
//!
//! A text that stands in many pairs is read once a step ([`Lesson`]). Every choice follows from (seed, step), so a
//! resumed run sees the lessons that an uninterrupted one would have seen; which meet is [`super::plan`]'s.

use super::plan::{Item, ItemTexts, Plan};
use super::synthetic::Material;
use super::{GarmInputs, Likelihood};
use crate::model::batch::{Sequence, derived_seed};
use crate::stage::StageError;
use crate::stage::aside::{evenly, groups_aside};
use beckon_shared::config::ConfigError;
use beckon_shared::control::GarmConfig;
use beckon_shared::garm::normal::normal_quantile;
use beckon_shared::preference::unit::Units;
use beckon_shared::preference::{Anchor, Pair};
use beckon_shared::prompt::Prompt;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

/// Share of the training units kept aside, and the fewest units from which that is done.
const VALIDATION_SHARE: f64 = 0.1;
const MIN_GROUPS: usize = 20;
/// Validation pairs, and held-out pairs, that a look at the model reads at most.
const MAX_VALIDATION: usize = 384;
const MAX_HELD_OUT: usize = 128;
/// Folds of the training units on which starts are compared.
const N_FOLDS: usize = 3;
/// Logged suggestions behind the whitening, and behind the prior.
const MAX_LOGGED: usize = 2_048;
const PRIOR_SAMPLE: usize = 256;

/// Purposes of derived seeds.
const VALIDATION: u64 = 2;
const LESSONS: u64 = 3;
const NEGATIVES: u64 = 5;
const LOGGED: u64 = 6;

/// Two texts by number, and which is preferred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairItem {
    /// Index of its data set, for means over data sets.
    pub source: usize,
    /// Number of the preferred text.
    pub chosen: usize,
    /// Number of the other.
    pub rejected: usize,
    /// y.
    pub label: f32,
    /// w.
    pub weight: f32,
}

/// An engagement level of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AnchorItem {
    /// Number of the text.
    pub text: usize,
    /// o.
    pub level: u8,
    /// w.
    pub weight: f32,
}

/// Texts, each once, as tokens.
#[derive(Debug, Default)]
pub struct Texts {
    sequences: Vec<Sequence>,
    numbers: HashMap<(Prompt, String), usize>,
}

impl Texts {
    /// Number of a suggestion under a prompt.
    fn number(&mut self, inputs: &GarmInputs, prompt: &Prompt, text: &str) -> usize {
        let Self { sequences, numbers } = self;
        *numbers.entry((prompt.clone(), text.to_owned())).or_insert_with(|| {
            sequences.push(Sequence::encode(inputs.tokenizer, prompt, text, inputs.model.max_seq_len));
            sequences.len() - 1
        })
    }

    fn pair(&mut self, inputs: &GarmInputs, sources: &BTreeSet<&str>, p: &Pair) -> PairItem {
        PairItem {
            source: sources.iter().position(|s| *s == p.source).unwrap_or(sources.len()),
            chosen: self.number(inputs, &p.prompt, &p.chosen),
            rejected: self.number(inputs, &p.prompt, &p.rejected),
            label: p.label,
            weight: p.weight,
        }
    }
}

/// What one step learns from: each text once, pairs and anchors by their rows among them.
#[derive(Debug, PartialEq)]
pub struct Lesson<'a> {
    /// R texts.
    pub texts: Vec<&'a Sequence>,
    /// `chosen` and `rejected` are rows of `texts`.
    pub pairs: Vec<PairItem>,
    /// `text` is a row of `texts`.
    pub anchors: Vec<AnchorItem>,
}

impl Lesson<'_> {
    /// How often each text is the preferred one of a pair, over the pairs that prefer one (y is not 1/2): the weights of a mean
    /// over those pairs, `[R]`. All 0 where there are none.
    pub fn preferred_shares(&self) -> Vec<f32> {
        let mut counts = vec![0.0; self.texts.len()];
        for pair in self.pairs.iter().filter(|pair| pair.label != 0.5) {
            counts[if pair.label > 0.5 { pair.chosen } else { pair.rejected }] += 1.0;
        }
        let n = counts.iter().sum::<f32>().max(1.0);
        counts.into_iter().map(|count| count / n).collect()
    }
}

/// Some texts in the order in which they were asked for, each once.
struct Rows<'a> {
    all: &'a Texts,
    of_text: HashMap<usize, usize>,
    texts: Vec<&'a Sequence>,
}

impl<'a> Rows<'a> {
    fn of(all: &'a Texts) -> Self {
        Self { all, of_text: HashMap::new(), texts: Vec::new() }
    }

    /// Row of the text of that number.
    fn row(&mut self, text: usize) -> usize {
        *self.of_text.entry(text).or_insert_with(|| {
            self.texts.push(&self.all.sequences[text]);
            self.texts.len() - 1
        })
    }

    /// A pair by rows in place of numbers.
    fn pair(&mut self, pair: PairItem) -> PairItem {
        PairItem { chosen: self.row(pair.chosen), rejected: self.row(pair.rejected), ..pair }
    }
}

/// All that a run reads.
pub struct Data {
    texts: Texts,
    pairs: Vec<PairItem>,
    /// Of each pair.
    folds: Vec<usize>,
    anchors: Vec<AnchorItem>,
    plan: Plan,
    /// Pairs of the training groups kept aside.
    pub validation: Vec<PairItem>,
    /// Pairs of the held-out split, at most 128, evenly spread.
    pub held_out: Vec<PairItem>,
    /// Suggestions of the training set in an order of chance.
    pub logged: Vec<Sequence>,
    material: Material,
    n_negatives: usize,
}

impl Data {
    /// Encodes and splits.
    ///
    /// # Errors
    /// No pairs, or a vocabulary that does not hold the tokenizer's.
    pub fn prepare(inputs: &GarmInputs, config: &GarmConfig, seed: u64) -> Result<Self, StageError> {
        let (tokenizer, model) = (inputs.tokenizer, inputs.model);
        if inputs.train.pairs.is_empty() {
            let hint =
                "import a log in which some suggestion was clicked and another of the same prompt was not".into();
            return Err(StageError::NoData { stage: "garm", hint });
        }
        if tokenizer.vocab_size() > model.vocab_size {
            let (field, expected) = ("vocab_size", "at least the tokenizer's");
            return Err(StageError::Model(ConfigError { field, value: model.vocab_size, expected }.into()));
        }
        let sources: BTreeSet<&str> = inputs.train.pairs.iter().map(|p| p.source.as_str()).collect();
        let units = Units::of(&inputs.train.pairs);
        let aside = validation_units(&inputs.train.pairs, &units, seed);
        let is_aside = |source: &str, unit: Cow<str>| aside.contains(&(source.to_owned(), unit.into_owned()));
        let (validation, train): (Vec<&Pair>, Vec<&Pair>) =
            inputs.train.pairs.iter().partition(|p| is_aside(&p.source, units.of_pair(p)));
        // the baseline has no use for levels
        let levels = if inputs.likelihood == Likelihood::Probit { &inputs.train.anchors[..] } else { &[] };
        let anchors: Vec<&Anchor> =
            levels.iter().filter(|a| !is_aside(&a.source, units.name(&a.source, &a.group, &a.prompt))).collect();
        let mut logged: Vec<(Prompt, String)> =
            train.iter().flat_map(|p| [&p.chosen, &p.rejected].map(|text| (p.prompt.clone(), text.clone()))).collect();
        logged.sort_unstable_by(|a, b| (a.0.query(), &a.1).cmp(&(b.0.query(), &b.1)));
        logged.dedup();
        logged.shuffle(&mut ChaCha8Rng::seed_from_u64(derived_seed(seed, LOGGED)));
        let held_out: Vec<&Pair> = inputs.held_out.pairs.iter().collect();
        let mut texts = Texts::default();
        let mut pairs_of = |pairs: Vec<&Pair>| -> Vec<PairItem> {
            pairs.into_iter().map(|p| texts.pair(inputs, &sources, p)).collect()
        };
        let validation = pairs_of(evenly(&validation, MAX_VALIDATION));
        let held_out = pairs_of(evenly(&held_out, MAX_HELD_OUT));
        let pairs = pairs_of(train.clone());
        let anchor = |a: &&Anchor| AnchorItem {
            text: texts.number(inputs, &a.prompt, &a.suggestion),
            level: a.level.min(2),
            weight: a.weight,
        };
        let anchors_of: Vec<AnchorItem> = anchors.iter().map(anchor).collect();
        let length = |text: usize| texts.sequences[text].tokens.len();
        let pair_units = train.iter().zip(&pairs).map(|(p, item)| {
            let group = (p.source.as_str(), p.group.as_str());
            (group, length(item.chosen).max(length(item.rejected)))
        });
        let anchor_units = anchors.iter().zip(&anchors_of).map(|(a, item)| {
            let group = (a.source.as_str(), a.group.as_str());
            (group, length(item.text))
        });
        let plan = Plan::new(pair_units, anchor_units, config.batch_pairs.max(1), derived_seed(seed, LESSONS));
        Ok(Self {
            plan,
            pairs,
            folds: folds(&train, &units),
            anchors: anchors_of,
            validation,
            held_out,
            logged: logged
                .iter()
                .take(MAX_LOGGED)
                .map(|(prompt, text)| Sequence::encode(tokenizer, prompt, text, model.max_seq_len))
                .collect(),
            texts,
            material: Material::new(logged),
            n_negatives: config.batch_pairs.div_ceil(4),
        })
    }

    /// Φ⁻¹ of the share of anchors above level 0: where mu starts (method B.2.5). 0 without anchors.
    pub fn base_mean(&self) -> f64 {
        if self.anchors.is_empty() {
            return 0.0;
        }
        let n_clicked = self.anchors.iter().filter(|a| a.level > 0).count() as f64;
        normal_quantile((n_clicked + 1.0) / (self.anchors.len() as f64 + 2.0))
    }

    /// Whether there is anything that fixes the scale.
    pub fn has_anchors(&self) -> bool {
        !self.anchors.is_empty()
    }

    /// A line for people.
    pub fn summary(&self) -> String {
        let (n_pairs, n_anchors) = (self.pairs.len(), self.anchors.len());
        format!(
            "garm: {n_pairs} pairs and {n_anchors} anchors to learn from, {} pairs to validate",
            self.validation.len()
        )
    }

    /// Whether step `step` begins a pass.
    pub fn begins_pass(&self, step: usize) -> bool {
        self.plan.at(step, self).1 == 0
    }

    /// What step `step` learns from.
    pub fn lesson(&self, step: usize) -> Lesson<'_> {
        let mut rows = Rows::of(&self.texts);
        let (mut pairs, mut anchors) = (Vec::new(), Vec::new());
        for item in self.plan.at(step, self).0 {
            match item {
                Item::Pair(i) => pairs.push(rows.pair(self.pairs[i])),
                Item::Anchor(i) => {
                    anchors.push(AnchorItem { text: rows.row(self.anchors[i].text), ..self.anchors[i] });
                }
            }
        }
        Lesson { texts: rows.texts, pairs, anchors }
    }

    /// Texts of pairs, each once, and the pairs by their rows.
    pub fn reading(&self, pairs: &[PairItem]) -> (Vec<Sequence>, Vec<PairItem>) {
        let mut rows = Rows::of(&self.texts);
        let pairs = pairs.iter().map(|p| rows.pair(*p)).collect();
        (rows.texts.into_iter().cloned().collect(), pairs)
    }

    /// Pairs of the training groups.
    pub fn train(&self) -> &[PairItem] {
        &self.pairs
    }

    /// Of each of [`Self::train`], the fold of its unit.
    pub fn folds(&self) -> &[usize] {
        &self.folds
    }

    /// Texts that a look at the model reads.
    pub fn n_looked_at(&self) -> usize {
        let n_texts = |pairs: &Vec<PairItem>| {
            pairs.iter().flat_map(|p| [p.chosen, p.rejected]).collect::<BTreeSet<usize>>().len()
        };
        n_texts(&self.validation) + n_texts(&self.held_out)
    }

    /// Synthetic text of step `step`.
    pub fn negatives(&self, seed: u64, step: usize, inputs: &GarmInputs) -> Vec<Sequence> {
        let mut rng = ChaCha8Rng::seed_from_u64(derived_seed(seed, NEGATIVES));
        rng.set_stream(step as u64);
        (0..self.n_negatives)
            .map(|_| {
                let (prompt, text) = self.material.draw(&mut rng);
                Sequence::encode(inputs.tokenizer, &prompt, &text, inputs.model.max_seq_len)
            })
            .collect()
    }

    /// Logged suggestions that the prior is read from.
    pub fn logged_sample(&self) -> &[Sequence] {
        &self.logged[..self.logged.len().min(PRIOR_SAMPLE)]
    }
}

impl ItemTexts for Data {
    fn texts(&self, item: Item) -> [usize; 2] {
        match item {
            Item::Pair(i) => [self.pairs[i].chosen, self.pairs[i].rejected],
            Item::Anchor(i) => [self.anchors[i].text; 2],
        }
    }
}

/// Units in turn, so that each fold has its share of every source.
fn folds(pairs: &[&Pair], units: &Units) -> Vec<usize> {
    let of_pairs: Vec<(&str, Cow<str>)> = pairs.iter().map(|p| (p.source.as_str(), units.of_pair(p))).collect();
    let all: BTreeSet<&(&str, Cow<str>)> = of_pairs.iter().collect();
    let fold_of: HashMap<_, _> = all.into_iter().enumerate().map(|(i, unit)| (unit, i % N_FOLDS)).collect();
    of_pairs.iter().map(|unit| fold_of[unit]).collect()
}

/// A tenth of each source's units (source, unit), drawn by `seed`; none of a source with few.
fn validation_units(pairs: &[Pair], units: &Units, seed: u64) -> BTreeSet<(String, String)> {
    let n_of = |n: usize| if n < MIN_GROUPS { 0 } else { (VALIDATION_SHARE * n as f64).round() as usize };
    let of_pairs: Vec<(&str, Cow<str>)> = pairs.iter().map(|p| (p.source.as_str(), units.of_pair(p))).collect();
    let names = of_pairs.iter().map(|(source, unit)| (*source, unit.as_ref()));
    let aside = groups_aside(names, n_of, derived_seed(seed, VALIDATION));
    aside.into_iter().map(|(source, unit)| (source.to_owned(), unit.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::preference::PairKind;

    #[test]
    fn the_preferred_text_of_each_pair_has_its_share_and_a_tie_prefers_none() {
        let text = Sequence::new(&[3], &[4]);
        let pair = |chosen, rejected, label| PairItem { source: 0, chosen, rejected, label, weight: 1.0 };
        let lesson = |pairs| Lesson { texts: vec![&text; 4], pairs, anchors: Vec::new() };
        let pairs = vec![pair(0, 1, 0.98), pair(0, 2, 0.8), pair(2, 1, 0.2), pair(1, 3, 0.9), pair(3, 0, 0.5)];
        assert_eq!(lesson(pairs).preferred_shares(), [0.5, 0.5, 0.0, 0.0]);
        assert_eq!(lesson(vec![pair(3, 0, 0.5)]).preferred_shares(), [0.0; 4]);
    }

    #[test]
    fn a_tenth_of_the_units_of_a_large_source_is_kept_aside() {
        let pair = |source: &str, group: usize| Pair {
            source: source.into(),
            group: format!("g{group}"),
            prompt: Prompt::from_query("q"),
            chosen: "a".into(),
            rejected: "b".into(),
            label: 1.0,
            weight: 1.0,
            kind: PairKind::Slate,
            logit_variance: 0.0,
        };
        let pairs: Vec<Pair> = (0..40).map(|g| pair("large", g)).chain((0..10).map(|g| pair("small", g))).collect();
        let units = Units::of(&pairs);
        let aside = validation_units(&pairs, &units, 1);
        assert_eq!(aside.len(), 4);
        assert!(aside.iter().all(|(source, _)| source == "large"));
        assert_ne!(aside, validation_units(&pairs, &units, 2));
    }

    /// A user's click and the rate that it is part of lie on one side and in one fold.
    #[test]
    fn rates_do_not_bring_over_the_clicks_that_are_kept_aside() {
        let pair = |query: usize, group: String, kind: PairKind| Pair {
            source: "log".into(),
            group,
            prompt: Prompt::from_query(format!("query {query}")),
            chosen: "a".into(),
            rejected: "b".into(),
            label: 0.9,
            weight: 1.0,
            kind,
            logit_variance: 0.0,
        };
        let pairs: Vec<Pair> = (0..40)
            .flat_map(|q| {
                let slates = (0..3).map(move |u| pair(q, format!("user:{}", (q + u) % 25), PairKind::Slate));
                slates.chain([pair(q, format!("prompt:query {q}"), PairKind::Rate)])
            })
            .collect();
        let units = Units::of(&pairs);
        let aside = validation_units(&pairs, &units, 1);
        assert_eq!(aside.len(), 4);
        let all: Vec<&Pair> = pairs.iter().collect();
        let folds = folds(&all, &units);
        for of_query in 0..40 {
            let rows: Vec<usize> = (4 * of_query..4 * of_query + 4).collect();
            let sides: BTreeSet<bool> = rows
                .iter()
                .map(|&i| aside.contains(&("log".to_owned(), units.of_pair(&pairs[i]).into_owned())))
                .collect();
            assert!(sides.len() == 1 && rows.iter().all(|&i| folds[i] == folds[rows[0]]));
        }
    }
}
