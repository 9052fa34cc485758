//! Held-out evaluation of the reward model, a table a data set: pair accuracy, likelihood, calibration
//! and quality of the spread, against a constant, the length of the text, and a Bradley-Terry model of
//! the same network. Method B.2.8, B.6.1.
//!
//! A pair names the preferred text first. Accuracy counts that order; likelihood, Brier score and
//! calibration use the soft label. Calibration sees each pair from both sides, so that naming the
//! preferred text first cannot pass as skill.

use super::{null_as_nan, nulls_as_nan};
use crate::model::reward::Scorer;
use crate::report::plot::ReliabilityPoint;
use crate::stage::aside::evenly;
use beckon_shared::click::{Counts, Record, Sourced};
use beckon_shared::engine::Score;
use beckon_shared::lexical::LexicalModel;
use beckon_shared::metrics::{brier, ece, mean, nll, pair_accuracy, spearman};
use beckon_shared::preference::{Pair, PairKind};
use beckon_shared::prompt::Prompt;
use beckon_shared::special::normal_cdf;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Bins of the calibration error and of the reliability diagram.
const N_BINS: usize = 10;
/// Resamplings behind an interval.
const N_RESAMPLES: usize = 400;

/// Figures of one model on one data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelFigures {
    /// `GaRM`, `Bradley-Terry`, `TF-IDF`, `length` or `constant`.
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

/// Spread against true counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Dispersion {
    /// Spearman's correlation of v with the squared residual beyond sampling noise.
    #[serde(deserialize_with = "null_as_nan")]
    pub spearman: f64,
    /// Texts compared.
    pub n_texts: usize,
}

/// One data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourceFigures {
    /// Data set.
    pub source: String,
    /// Held-out pairs.
    pub n_pairs: usize,
    /// Users, queries or tests that they come from.
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

/// What a model says of pairs: P(chosen preferred) and, where it has one, the standard deviation of
/// the difference.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// Name of the model.
    pub model: String,
    /// In pair order.
    pub p: Vec<f64>,
    /// In pair order.
    pub std: Option<Vec<f64>>,
}

impl Predictions {
    /// GaRM: `Φ((mu_a - mu_b)/sqrt(v_a + v_b))` with the aleatoric variance that the likelihood was
    /// trained with; `scores` holds chosen and rejected of each pair in turn.
    pub fn garm(scores: &[Score]) -> Self {
        let std: Vec<f64> = scores
            .chunks_exact(2)
            .map(|s| f64::from(s[0].aleatoric_std).hypot(f64::from(s[1].aleatoric_std)))
            .collect();
        let p = scores.chunks_exact(2).zip(&std).map(|(s, std)| normal_cdf(margin(s) / std)).collect();
        Self { model: "GaRM".into(), p, std: Some(std) }
    }

    /// Bradley-Terry: logistic in the difference of the means.
    pub fn bradley_terry(scores: &[Score]) -> Self {
        Self {
            model: "Bradley-Terry".into(),
            p: scores.chunks_exact(2).map(|s| sigmoid(margin(s))).collect(),
            std: None,
        }
    }

    /// Always one half.
    pub fn constant(n_pairs: usize) -> Self {
        Self { model: "constant".into(), p: vec![0.5; n_pairs], std: None }
    }

    /// Logistic in the words' TF-IDF, fitted on training pairs of the data set.
    pub fn lexical(train: &[&Pair], held_out: &[&Pair]) -> Self {
        let model = LexicalModel::fit(train.iter().copied());
        let p = held_out.iter().map(|pair| model.preference(&pair.chosen, &pair.rejected)).collect();
        Self { model: "TF-IDF".into(), p, std: None }
    }

    /// Logistic in the difference of log lengths, its slope fitted on training pairs of the data set.
    pub fn length(train: &[&Pair], held_out: &[&Pair]) -> Self {
        let slope = fitted_slope(train);
        Self {
            model: "length".into(),
            p: held_out.iter().map(|pair| sigmoid(slope * length_difference(pair))).collect(),
            std: None,
        }
    }
}

fn margin(pair: &[Score]) -> f64 {
    f64::from(pair[0].reward_mean) - f64::from(pair[1].reward_mean)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn length_difference(pair: &Pair) -> f64 {
    let log_length = |text: &str| (text.chars().count().max(1) as f64).ln();
    log_length(&pair.chosen) - log_length(&pair.rejected)
}

/// Newton's method on the weighted logistic likelihood of one slope, with a weak prior N(0, 10²) that
/// keeps it finite where length decides every pair.
fn fitted_slope(pairs: &[&Pair]) -> f64 {
    const PRIOR_PRECISION: f64 = 0.01;
    let mut slope = 0.0;
    for _ in 0..50 {
        let (mut gradient, mut curvature) = (-PRIOR_PRECISION * slope, PRIOR_PRECISION);
        for pair in pairs {
            let (x, w) = (length_difference(pair), f64::from(pair.weight));
            let p = sigmoid(slope * x);
            gradient += w * (f64::from(pair.label) - p) * x;
            curvature += w * p * (1.0 - p) * x * x;
        }
        // a step longer than one would be outside the range where the quadratic holds
        let step = (gradient / curvature).clamp(-1.0, 1.0);
        slope += step;
        if step.abs() < 1e-10 {
            break;
        }
    }
    slope
}

/// Most held-out pairs of a data set that are scored.
const MAX_PAIRS: usize = 2_000;

/// Figures of each data set that has held-out pairs: GaRM, the Bradley-Terry model of the same network where there is one
/// (`scorers`), and, where there is something to learn from, words and length; each from the data set's own `train` pairs.
pub fn figures_by_source(
    records: &[Sourced],
    train: &[Pair],
    held_out: &[Pair],
    (garm, rival): (&Scorer, Option<&Scorer>),
    seed: u64,
) -> Vec<SourceFigures> {
    let names: BTreeSet<&str> = held_out.iter().map(|p| p.source.as_str()).collect();
    let figures = |source: &str| {
        let of =
            |pairs: &'_ [Pair]| -> Vec<usize> { (0..pairs.len()).filter(|&i| pairs[i].source == source).collect() };
        let own: Vec<&Pair> = of(train).into_iter().map(|i| &train[i]).collect();
        let pairs: Vec<&Pair> = evenly(&of(held_out), MAX_PAIRS).into_iter().map(|i| &held_out[i]).collect();
        let texts = |p: &&Pair| [&p.chosen, &p.rejected].map(|text| (p.prompt.clone(), text.clone()));
        let items: Vec<(Prompt, String)> = pairs.iter().flat_map(texts).collect();
        let mut predictions = vec![Predictions::garm(&garm.score(&items))];
        predictions.extend(rival.map(|rival| Predictions::bradley_terry(&rival.score(&items))));
        if !own.is_empty() {
            predictions.extend([Predictions::lexical(&own, &pairs), Predictions::length(&own, &pairs)]);
        }
        predictions.push(Predictions::constant(pairs.len()));
        let counts = held_out_counts(records, source, &pairs);
        let items: Vec<(Prompt, String)> = counts.iter().map(|c| (c.prompt.clone(), c.text.clone())).collect();
        let scored: Vec<_> = counts.into_iter().zip(garm.score(&items)).collect();
        SourceFigures { dispersion: dispersion(&scored), ..source_figures(source, &pairs, &predictions, seed) }
    };
    names.into_iter().map(figures).collect()
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

/// Pairs by group, for intervals that respect that pairs of one user, query or test hang together.
struct Groups {
    members: Vec<Vec<usize>>,
    seed: u64,
}

impl Groups {
    fn new(pairs: &[&Pair], seed: u64) -> Self {
        let mut by_group: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, pair) in pairs.iter().enumerate() {
            by_group.entry(&pair.group).or_default().push(i);
        }
        Self { members: by_group.into_values().collect(), seed }
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

/// Whether GaRM's variance finds the texts whose true click rate strays from its mean, beyond what
/// sampling explains. Within each test, the empirical logit `l_i = ln((k+½)/(n-k+½))` is regressed on
/// the predicted mean (one slope for the data set); the residual's square minus its sampling variance
/// `m_i = 1/(k+½) + 1/(n-k+½)` is compared with v_i by ranks. `None` below 20 texts.
pub fn dispersion(texts: &[(&Counts, Score)]) -> Option<Dispersion> {
    const FEWEST_TEXTS: usize = 20;
    let mut tests: HashMap<(&str, &beckon_shared::prompt::Prompt), Vec<&(&Counts, Score)>> = HashMap::new();
    for row in texts {
        tests.entry((&row.0.group, &row.0.prompt)).or_default().push(row);
    }
    // centred logit, centred mean, sampling variance of the centred logit, v
    let mut rows: Vec<[f64; 4]> = Vec::new();
    for test in tests.values().filter(|t| t.len() >= 2) {
        let n = test.len() as f64;
        let logits: Vec<(f64, f64)> = test.iter().map(|(c, _)| empirical_logit(c)).collect();
        let (logit_mean, mu_mean) = (
            logits.iter().map(|l| l.0).sum::<f64>() / n,
            test.iter().map(|(_, s)| f64::from(s.reward_mean)).sum::<f64>() / n,
        );
        for ((_, score), (logit, noise)) in test.iter().zip(logits) {
            let v = f64::from(score.aleatoric_std).powi(2);
            rows.push([logit - logit_mean, f64::from(score.reward_mean) - mu_mean, noise * (1.0 - 1.0 / n), v]);
        }
    }
    if rows.len() < FEWEST_TEXTS {
        return None;
    }
    let xx: f64 = rows.iter().map(|r| r[1] * r[1]).sum();
    let slope = if xx > 0.0 { rows.iter().map(|r| r[0] * r[1]).sum::<f64>() / xx } else { 0.0 };
    let strays: Vec<f64> = rows.iter().map(|r| (r[0] - slope * r[1]).powi(2) - r[2]).collect();
    let variances: Vec<f64> = rows.iter().map(|r| r[3]).collect();
    Some(Dispersion { spearman: spearman(&variances, &strays), n_texts: rows.len() })
}

fn empirical_logit(counts: &Counts) -> (f64, f64) {
    let clicked = counts.n_clicks as f64 + 0.5;
    let not = counts.n_impressions.saturating_sub(counts.n_clicks) as f64 + 0.5;
    ((clicked / not).ln(), 1.0 / clicked + 1.0 / not)
}

/// The counts of a data set whose text is in a held-out pair.
pub fn held_out_counts<'a>(records: &'a [Sourced], source: &str, held_out: &[&Pair]) -> Vec<&'a Counts> {
    let seen: std::collections::HashSet<(&beckon_shared::prompt::Prompt, &str)> =
        held_out.iter().flat_map(|p| [(&p.prompt, p.chosen.as_str()), (&p.prompt, p.rejected.as_str())]).collect();
    let mut counts = Vec::new();
    for record in records.iter().filter(|r| r.source == source) {
        if let Record::Counts(c) = &record.record
            && seen.contains(&(&c.prompt, c.text.as_str()))
        {
            counts.push(c);
        }
    }
    counts
}

#[cfg(test)]
mod tests;
