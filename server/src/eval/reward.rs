//! Held-out evaluation of the reward model, a table a data set: pair accuracy, likelihood, calibration, risk by confidence
//! and quality of the spread, against rivals from a constant to a Bradley-Terry model of the same network. Method B.2.8, B.6.1.
//!
//! | file | what |
//! | --- | --- |
//! | `predictions` | what GaRM and its rivals say of pairs |
//! | `spread` | GaRM's spread against true counts |
//!
//! A pair names the preferred text first. Accuracy and risk count that order; likelihood, Brier score and
//! calibration use the soft label. Calibration sees each pair from both sides, so that naming the
//! preferred text first cannot pass as skill.

mod predictions;
mod spread;

use super::{null_as_nan, nulls_as_nan, undefined};
use crate::model::reward::Scorer;
use crate::report::plot::ReliabilityPoint;
use crate::stage::aside::evenly;
use beckon_shared::click::Sourced;
use beckon_shared::metrics::{adaptive_ece, aurc, brier, ece, mean, nll, pair_accuracy, spearman};
use beckon_shared::preference::unit::Units;
use beckon_shared::preference::{Anchor, Pair, PairKind, Split};
use beckon_shared::prompt::Prompt;
use beckon_shared::special::normal_cdf;
pub use predictions::Predictions;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
pub use spread::{Dispersion, dispersion};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// Bins of the calibration error and of the reliability diagram.
const N_BINS: usize = 10;
/// Resamplings behind an interval.
const N_RESAMPLES: usize = 400;

/// Figures of one model on one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFigures {
    /// `GaRM`, `Bradley-Terry`, `Case V`, `TF-IDF`, `pointwise logistic`, `length` or `constant`.
    pub model: String,
    /// Share of pairs in the right order, ties half.
    #[serde(deserialize_with = "null_as_nan")]
    pub accuracy: f64,
    /// Its 95% interval.
    #[serde(deserialize_with = "nulls_as_nan")]
    pub accuracy_interval: (f64, f64),
    /// Nats per pair, soft labels.
    #[serde(deserialize_with = "null_as_nan")]
    pub nll: f64,
    /// Its 95% interval.
    #[serde(deserialize_with = "nulls_as_nan")]
    pub nll_interval: (f64, f64),
    /// Signed-event calibration error, ten bins, both orders of each pair.
    #[serde(deserialize_with = "null_as_nan")]
    pub ece: f64,
    /// The same with ten bins of equally many rows.
    #[serde(default = "undefined", deserialize_with = "null_as_nan")]
    pub adaptive_ece: f64,
    /// Area under the risk-coverage curve: mean share of wrong orders among the surest 1/n to all of the pairs.
    #[serde(default = "undefined", deserialize_with = "null_as_nan")]
    pub aurc: f64,
    /// Mean squared error of the probability.
    #[serde(deserialize_with = "null_as_nan")]
    pub brier: f64,
    /// Spearman's correlation of the pair's standard deviation with |label - p|; models with a spread.
    pub spread_spearman: Option<f64>,
}

/// GaRM's likelihood against another model's on the same pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NllDifference {
    /// The other model.
    pub against: String,
    /// GaRM's nats per pair minus the other's; below zero GaRM is better.
    #[serde(deserialize_with = "null_as_nan")]
    pub difference: f64,
    /// 95%, from resampling groups.
    #[serde(deserialize_with = "nulls_as_nan")]
    pub interval: (f64, f64),
}

/// One data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceFigures {
    /// Data set.
    pub source: String,
    /// Held-out pairs.
    pub n_pairs: usize,
    /// Users, queries or tests that they come from; conversations where rates stand beside the clicks that they add up.
    pub n_groups: usize,
    /// Mean entropy of the soft labels, nats: the lowest possible NLL.
    #[serde(deserialize_with = "null_as_nan")]
    pub label_entropy: f64,
    /// GaRM first, then its rivals.
    pub models: Vec<ModelFigures>,
    /// GaRM against each rival.
    pub nll_differences: Vec<NllDifference>,
    /// GaRM's calibration.
    pub reliability: Vec<ReliabilityPoint>,
    /// Where the data set has true counts.
    pub dispersion: Option<Dispersion>,
    /// The pairs of true counts whose difference is beyond chance.
    #[serde(default)]
    pub clear: Option<ClearPairs>,
}

/// Pairs with |z| > 1.96 between their counts, that is a label above Φ(1.96).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClearPairs {
    /// How many.
    pub n_pairs: usize,
    /// As in [`SourceFigures::models`].
    pub models: Vec<ModelFigures>,
}

/// Most held-out pairs of a data set that are scored.
const MAX_PAIRS: usize = 2_000;

/// Reward models that score pairs.
#[derive(Debug, Clone, Copy)]
pub struct Scorers<'a> {
    /// The one that is judged.
    pub garm: &'a Scorer,
    /// Of the same network, trained on the same pairs.
    pub bradley_terry: Option<&'a Scorer>,
    /// Of the policy's frozen trunk ([`crate::stage::garm::start::case_v`]).
    pub case_v: Option<&'a Scorer>,
}

/// Figures of each data set that has held-out pairs: of GaRM, of the rivals that `scorers` has, and, where the data set's own
/// part of `train` has something to learn from, of words, clicks of single texts, and length.
pub fn figures_by_source(
    records: &[Sourced],
    train: &Split,
    held_out: &[Pair],
    scorers: Scorers,
    seed: u64,
) -> Vec<SourceFigures> {
    let names: BTreeSet<&str> = held_out.iter().map(|p| p.source.as_str()).collect();
    let figures = |source: &str| {
        let own: Vec<&Pair> = held_out.iter().filter(|p| p.source == source).collect();
        let pairs = evenly(&own, MAX_PAIRS);
        let predictions = predictions(source, train, &pairs, scorers);
        let counts = spread::held_out_counts(records, source, &pairs);
        let items: Vec<(Prompt, String)> = counts.iter().map(|c| (c.prompt.clone(), c.text.clone())).collect();
        let scored: Vec<_> = counts.into_iter().zip(scorers.garm.score(&items)).collect();
        SourceFigures { dispersion: dispersion(&scored), ..source_figures(source, &pairs, &predictions, seed) }
    };
    names.into_iter().map(figures).collect()
}

/// Of every model there is, GaRM first.
fn predictions(source: &str, train: &Split, pairs: &[&Pair], scorers: Scorers) -> Vec<Predictions> {
    let texts = |p: &&Pair| [&p.chosen, &p.rejected].map(|text| (p.prompt.clone(), text.clone()));
    let items: Vec<(Prompt, String)> = pairs.iter().flat_map(texts).collect();
    let own: Vec<&Pair> = train.pairs.iter().filter(|p| p.source == source).collect();
    let anchors: Vec<&Anchor> = train.anchors.iter().filter(|a| a.source == source).collect();
    let mut all = vec![Predictions::garm(&scorers.garm.score(&items))];
    all.extend(scorers.bradley_terry.map(|rival| Predictions::bradley_terry(&rival.score(&items))));
    all.extend(scorers.case_v.map(|rival| Predictions::case_v(&rival.score(&items))));
    if !own.is_empty() {
        all.push(Predictions::lexical(&own, pairs));
    }
    all.extend(Predictions::pointwise(&anchors, pairs));
    if !own.is_empty() {
        all.push(Predictions::length(&own, pairs));
    }
    all.push(Predictions::constant(pairs.len()));
    all
}

/// Figures of all models on the held-out pairs of one data set; the first of `predictions` is the one
/// that the others are compared with.
///
/// # Panics
/// If a prediction's length is not that of `pairs`.
pub fn source_figures(source: &str, pairs: &[&Pair], predictions: &[Predictions], seed: u64) -> SourceFigures {
    let labels: Vec<f64> = pairs.iter().map(|p| f64::from(p.label)).collect();
    let groups = Groups::new(pairs, seed);
    let per_pair: Vec<Vec<f64>> = predictions.iter().map(|m| pair_nlls(&m.p, &labels)).collect();
    let models = predictions
        .iter()
        .zip(&per_pair)
        .map(|(m, nlls)| {
            assert_eq!(m.p.len(), pairs.len(), "{}: one prediction a pair", m.model);
            model_figures(m, nlls, &labels, &groups)
        })
        .collect();
    let nll_differences = predictions
        .iter()
        .zip(&per_pair)
        .skip(1)
        .map(|(other, nlls)| {
            let differences: Vec<f64> = per_pair[0].iter().zip(nlls).map(|(a, b)| a - b).collect();
            NllDifference {
                against: other.model.clone(),
                difference: mean(&differences),
                interval: groups.interval(&differences),
            }
        })
        .collect();
    SourceFigures {
        source: source.to_owned(),
        n_pairs: pairs.len(),
        n_groups: groups.members.len(),
        label_entropy: mean(&pair_nlls(&labels, &labels)),
        models,
        nll_differences,
        reliability: predictions.first().map_or_else(Vec::new, |m| reliability(&m.p, &labels)),
        dispersion: None,
        clear: clear_pairs(pairs, predictions, seed),
    }
}

/// Figures on the clear pairs alone; `None` where there are fewer than ten.
fn clear_pairs(pairs: &[&Pair], predictions: &[Predictions], seed: u64) -> Option<ClearPairs> {
    const FEWEST: usize = 10;
    let is_clear = |p: &Pair| p.kind == PairKind::Counts && f64::from(p.label) > normal_cdf(1.96);
    let rows: Vec<usize> = (0..pairs.len()).filter(|&i| is_clear(pairs[i])).collect();
    if rows.len() < FEWEST {
        return None;
    }
    let picked: Vec<&Pair> = rows.iter().map(|&i| pairs[i]).collect();
    let labels: Vec<f64> = picked.iter().map(|p| f64::from(p.label)).collect();
    let groups = Groups::new(&picked, seed);
    let of_rows = |values: &[f64]| -> Vec<f64> { rows.iter().map(|&i| values[i]).collect() };
    let models = predictions.iter().map(|m| {
        let own = Predictions { model: m.model.clone(), p: of_rows(&m.p), std: m.std.as_deref().map(of_rows) };
        model_figures(&own, &pair_nlls(&own.p, &labels), &labels, &groups)
    });
    Some(ClearPairs { n_pairs: rows.len(), models: models.collect() })
}

fn model_figures(m: &Predictions, nlls: &[f64], labels: &[f64], groups: &Groups) -> ModelFigures {
    let margins: Vec<f64> = m.p.iter().map(|p| p - 0.5).collect();
    let right: Vec<f64> = margins.iter().map(|&d| pair_accuracy(&[d])).collect();
    let (both_p, both_labels) = both_sides(&m.p, labels);
    ModelFigures {
        model: m.model.clone(),
        accuracy: mean(&right),
        accuracy_interval: groups.interval(&right),
        nll: mean(nlls),
        nll_interval: groups.interval(nlls),
        ece: ece(&both_p, &both_labels, N_BINS),
        adaptive_ece: adaptive_ece(&both_p, &both_labels, N_BINS),
        aurc: aurc(&m.p, labels),
        brier: brier(&m.p, labels),
        spread_spearman: m.std.as_ref().map(|std| {
            let residuals: Vec<f64> = m.p.iter().zip(labels).map(|(p, y)| (y - p).abs()).collect();
            spearman(std, &residuals)
        }),
    }
}

fn pair_nlls(p: &[f64], labels: &[f64]) -> Vec<f64> {
    p.iter().zip(labels).map(|(&p, &y)| nll(&[p], &[y])).collect()
}

fn both_sides(p: &[f64], labels: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mirrored = |values: &[f64]| values.iter().copied().chain(values.iter().map(|v| 1.0 - v)).collect();
    (mirrored(p), mirrored(labels))
}

/// Mean prediction and mean label of each bin that holds any pair.
pub fn reliability(p: &[f64], labels: &[f64]) -> Vec<ReliabilityPoint> {
    let (p, labels) = both_sides(p, labels);
    let mut bins = vec![(0.0, 0.0, 0usize); N_BINS];
    for (p, y) in p.into_iter().zip(labels) {
        let bin = &mut bins[((p * N_BINS as f64) as usize).min(N_BINS - 1)];
        *bin = (bin.0 + p, bin.1 + y, bin.2 + 1);
    }
    bins.into_iter()
        .filter(|b| b.2 > 0)
        .map(|(p, y, n)| ReliabilityPoint { predicted: p / n as f64, observed: y / n as f64, n })
        .collect()
}

/// Pairs by unit, for intervals that respect that pairs of one user, query or test hang together, and rates with the clicks that
/// they add up ([`Units`]).
struct Groups {
    members: Vec<Vec<usize>>,
    seed: u64,
}

impl Groups {
    fn new(pairs: &[&Pair], seed: u64) -> Self {
        let units = Units::of(pairs.iter().copied());
        let mut by_unit: BTreeMap<Cow<str>, Vec<usize>> = BTreeMap::new();
        for (i, pair) in pairs.iter().enumerate() {
            by_unit.entry(units.of_pair(pair)).or_default().push(i);
        }
        Self { members: by_unit.into_values().collect(), seed }
    }

    /// 95% percentile interval of the mean over pairs, groups drawn with replacement.
    fn interval(&self, values: &[f64]) -> (f64, f64) {
        if self.members.len() < 2 {
            return (f64::NAN, f64::NAN);
        }
        let sums: Vec<(f64, f64)> =
            self.members.iter().map(|m| (m.iter().map(|&i| values[i]).sum(), m.len() as f64)).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut means: Vec<f64> = (0..N_RESAMPLES)
            .map(|_| {
                let (sum, n) = (0..sums.len()).fold((0.0, 0.0), |(sum, n), _| {
                    let drawn = sums[rng.random_range(0..sums.len())];
                    (sum + drawn.0, n + drawn.1)
                });
                sum / n
            })
            .collect();
        means.sort_by(f64::total_cmp);
        let at = |q: f64| means[((N_RESAMPLES - 1) as f64 * q).round() as usize];
        (at(0.025), at(0.975))
    }
}

#[cfg(test)]
mod tests;
