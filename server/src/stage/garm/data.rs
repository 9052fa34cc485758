//! Pairs and anchors as tokens, the validation slice, and which of them meet at which step. Method B.2.6.
//!
//! Every choice follows from (seed, step), so a resumed run sees the batches that an uninterrupted one
//! would have seen.

use super::GarmInputs;
use super::synthetic::Material;
use crate::model::batch::{Sequence, derived_seed};
use crate::stage::StageError;
use crate::stage::aside::{evenly, groups_aside};
use beckon_shared::config::ConfigError;
use beckon_shared::control::GarmConfig;
use beckon_shared::garm::normal::normal_quantile;
use beckon_shared::preference::{Anchor, Pair};
use beckon_shared::prompt::Prompt;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// Share of the training groups kept aside, and the fewest groups from which that is done.
const VALIDATION_SHARE: f64 = 0.1;
const MIN_GROUPS: usize = 20;
/// Pairs that a look at the model reads at most, per set.
const MAX_LOOKED_AT: usize = 384;
/// Logged suggestions behind the whitening, and behind the prior.
const MAX_LOGGED: usize = 2_048;
const PRIOR_SAMPLE: usize = 256;

/// How often an item of a small source comes in one pass, at most.
const MAX_REPEATS: usize = 4;

/// Purposes of derived seeds.
const VALIDATION: u64 = 2;
const PAIRS: u64 = 3;
const ANCHORS: u64 = 4;
const NEGATIVES: u64 = 5;
const LOGGED: u64 = 6;

/// A pair as tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct PairItem {
    /// Index of its data set, for means over data sets.
    pub source: usize,
    /// Prompt and preferred suggestion.
    pub chosen: Sequence,
    /// Prompt and the other.
    pub rejected: Sequence,
    /// y.
    pub label: f32,
    /// w.
    pub weight: f32,
}

/// An anchor as tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct AnchorItem {
    /// Prompt and suggestion.
    pub sequence: Sequence,
    /// o.
    pub level: u8,
    /// w.
    pub weight: f32,
}

/// All that a run reads.
pub struct Data {
    pairs: Vec<PairItem>,
    anchors: Vec<AnchorItem>,
    /// Indices into `pairs` and `anchors` that one pass goes through.
    pair_pass: Vec<usize>,
    anchor_pass: Vec<usize>,
    /// Pairs of the training groups kept aside.
    pub validation: Vec<PairItem>,
    /// Pairs of the held-out split, at most 384, evenly spread.
    pub held_out: Vec<PairItem>,
    /// Suggestions of the training set in an order of chance.
    pub logged: Vec<Sequence>,
    material: Material,
    batch_pairs: usize,
    batch_anchors: usize,
    batch_negatives: usize,
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
        let encode = |prompt: &Prompt, text: &str| Sequence::encode(tokenizer, prompt, text, model.max_seq_len);
        let sources: BTreeSet<&str> = inputs.train.pairs.iter().map(|p| p.source.as_str()).collect();
        let pair = |p: &Pair| PairItem {
            source: sources.iter().position(|s| *s == p.source).unwrap_or(sources.len()),
            chosen: encode(&p.prompt, &p.chosen),
            rejected: encode(&p.prompt, &p.rejected),
            label: p.label,
            weight: p.weight,
        };
        let aside = validation_groups(&inputs.train.pairs, seed);
        let is_aside = |source: &str, group: &str| aside.contains(&(source, group));
        let (validation, train): (Vec<&Pair>, Vec<&Pair>) =
            inputs.train.pairs.iter().partition(|p| is_aside(&p.source, &p.group));
        let anchors: Vec<&Anchor> = inputs.train.anchors.iter().filter(|a| !is_aside(&a.source, &a.group)).collect();
        let mut logged: Vec<(Prompt, String)> =
            train.iter().flat_map(|p| [&p.chosen, &p.rejected].map(|text| (p.prompt.clone(), text.clone()))).collect();
        logged.shuffle(&mut ChaCha8Rng::seed_from_u64(derived_seed(seed, LOGGED)));
        let held_out: Vec<&Pair> = inputs.held_out.pairs.iter().collect();
        Ok(Self {
            pair_pass: balanced_pass(&train.iter().map(|p| p.source.as_str()).collect::<Vec<_>>()),
            anchor_pass: balanced_pass(&anchors.iter().map(|a| a.source.as_str()).collect::<Vec<_>>()),
            pairs: train.into_iter().map(pair).collect(),
            anchors: anchors
                .into_iter()
                .map(|a| AnchorItem {
                    sequence: encode(&a.prompt, &a.suggestion),
                    level: a.level.min(2),
                    weight: a.weight,
                })
                .collect(),
            validation: evenly(&validation, MAX_LOOKED_AT).into_iter().map(pair).collect(),
            held_out: evenly(&held_out, MAX_LOOKED_AT).into_iter().map(pair).collect(),
            logged: logged.iter().take(MAX_LOGGED).map(|(prompt, text)| encode(prompt, text)).collect(),
            material: Material::new(logged),
            batch_pairs: config.batch_pairs.max(1),
            batch_anchors: config.batch_pairs.max(1),
            batch_negatives: config.batch_pairs.div_ceil(4),
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

    /// Batches of pairs in one pass.
    pub fn n_batches(&self) -> usize {
        self.pair_pass.len().div_ceil(self.batch_pairs)
    }

    /// A line for people.
    pub fn summary(&self) -> String {
        let (n_pairs, n_anchors) = (self.pairs.len(), self.anchors.len());
        format!(
            "garm: {n_pairs} pairs and {n_anchors} anchors to learn from, {} pairs to validate",
            self.validation.len()
        )
    }

    /// Pairs of step `step`.
    pub fn pair_batch(&self, seed: u64, step: usize) -> Vec<&PairItem> {
        let length = |p: &PairItem| p.chosen.tokens.len().max(p.rejected.tokens.len());
        let lengths: Vec<usize> = self.pair_pass.iter().map(|&i| length(&self.pairs[i])).collect();
        let rows = batch_of_step(&lengths, self.batch_pairs, derived_seed(seed, PAIRS), step);
        rows.into_iter().map(|i| &self.pairs[self.pair_pass[i]]).collect()
    }

    /// Anchors of step `step`; none where there are none.
    pub fn anchor_batch(&self, seed: u64, step: usize) -> Vec<&AnchorItem> {
        let lengths: Vec<usize> = self.anchor_pass.iter().map(|&i| self.anchors[i].sequence.tokens.len()).collect();
        let rows = batch_of_step(&lengths, self.batch_anchors, derived_seed(seed, ANCHORS), step);
        rows.into_iter().map(|i| &self.anchors[self.anchor_pass[i]]).collect()
    }

    /// Synthetic text of step `step`.
    pub fn negatives(&self, seed: u64, step: usize, inputs: &GarmInputs) -> Vec<Sequence> {
        let mut rng = ChaCha8Rng::seed_from_u64(derived_seed(seed, NEGATIVES));
        rng.set_stream(step as u64);
        (0..self.batch_negatives)
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

/// A tenth of each source's groups (source, group), drawn by `seed`; none of a source with few groups.
fn validation_groups(pairs: &[Pair], seed: u64) -> BTreeSet<(&str, &str)> {
    let n_of = |n: usize| if n < MIN_GROUPS { 0 } else { (VALIDATION_SHARE * n as f64).round() as usize };
    let groups = pairs.iter().map(|p| (p.source.as_str(), p.group.as_str()));
    groups_aside(groups, n_of, derived_seed(seed, VALIDATION))
}

/// Indices that one pass goes through: an item of a source with a k-th of the largest one's items comes
/// sqrt(k) times, so that a small data set is neither drowned nor learnt by heart.
fn balanced_pass(sources: &[&str]) -> Vec<usize> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for source in sources {
        *counts.entry(source).or_default() += 1;
    }
    let largest = counts.values().copied().max().unwrap_or(0) as f64;
    let repeats = |source: &str| ((largest / counts[source] as f64).sqrt().round() as usize).clamp(1, MAX_REPEATS);
    sources.iter().enumerate().flat_map(|(i, source)| std::iter::repeat_n(i, repeats(source))).collect()
}

/// Items of step `step`: each pass shuffles by (seed, pass), brings items of like length together in
/// batches of `n_batch`, and shuffles the batches. Every item comes once a pass.
fn batch_of_step(lengths: &[usize], n_batch: usize, seed: u64, step: usize) -> Vec<usize> {
    if lengths.is_empty() {
        return Vec::new();
    }
    let n_batches = lengths.len().div_ceil(n_batch);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream((step / n_batches) as u64);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.shuffle(&mut rng);
    order.sort_by_key(|&i| lengths[i]);
    let mut batches: Vec<&[usize]> = order.chunks(n_batch).collect();
    batches.shuffle(&mut rng);
    batches[step % n_batches].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::preference::PairKind;

    #[test]
    fn a_pass_uses_every_item_once_and_follows_from_seed_and_step() {
        let lengths: Vec<usize> = (0..53).map(|i| 5 + i * 7 % 11).collect();
        let pass = |first: usize, seed: u64| {
            (first..first + 7).map(|s| batch_of_step(&lengths, 8, seed, s)).collect::<Vec<_>>()
        };
        for first in [0, 7] {
            let mut seen = pass(first, 1).concat();
            seen.sort_unstable();
            assert_eq!(seen, (0..53).collect::<Vec<_>>());
        }
        assert_eq!(pass(0, 1), pass(0, 1));
        assert_ne!(pass(0, 1), pass(0, 2));
        assert_ne!(pass(0, 1), pass(7, 1));
        assert!(batch_of_step(&[], 8, 1, 0).is_empty());
    }

    #[test]
    fn a_quarter_of_the_items_comes_twice_a_pass() {
        let sources = [vec!["large"; 40], vec!["small"; 10], vec!["tiny"; 1]].concat();
        let pass = balanced_pass(&sources);
        let count = |i: usize| pass.iter().filter(|&&j| j == i).count();
        assert_eq!((count(0), count(40), count(50)), (1, 2, MAX_REPEATS));
        assert!(balanced_pass(&[]).is_empty());
    }

    #[test]
    fn a_tenth_of_the_groups_of_a_large_source_is_kept_aside() {
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
        let aside = validation_groups(&pairs, 1);
        assert_eq!(aside.len(), 4);
        assert!(aside.iter().all(|(source, _)| *source == "large"));
        assert_ne!(aside, validation_groups(&pairs, 2));
    }
}
