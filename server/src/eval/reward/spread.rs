//! GaRM's spread against the true counts of randomised tests: does it find the texts that stray from its mean, and is it as
//! wide as they stray? Method B.2.8.
//!
//! Only texts of one test are comparable, so everything is centred in its test; and GaRM's scale is not that of logits, so its
//! mean is brought there by the slope that fits best over the data set, its variance by that slope's square.

use crate::eval::{null_as_nan, undefined};
use beckon_shared::click::{Counts, Record, Sourced};
use beckon_shared::engine::Score;
use beckon_shared::metrics::{gaussian_crps, mean, spearman, z_score_variance};
use beckon_shared::preference::Pair;
use beckon_shared::prompt::Prompt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};

/// Spread against true counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Dispersion {
    /// Spearman's correlation of v with the squared residual beyond sampling noise.
    #[serde(deserialize_with = "null_as_nan")]
    pub spearman: f64,
    /// Texts compared.
    pub n_texts: usize,
    /// Logits of the click rate for a unit of mu, within tests.
    #[serde(default = "undefined", deserialize_with = "null_as_nan")]
    pub slope: f64,
    /// Mean of (l - mu)²/(v + m) in logits: 1 where the spread is as wide as texts stray (0.8 to 1.25 will do), above where
    /// it is too narrow. Undefined where the slope is not above 0.
    #[serde(default = "undefined", deserialize_with = "null_as_nan")]
    pub z_score_variance: f64,
    /// Mean continuous ranked probability score of N(mu, v + m), logits; 0 is best. Undefined as above.
    #[serde(default = "undefined", deserialize_with = "null_as_nan")]
    pub crps: f64,
    /// The same of a normal distribution around each test's mean, as wide as all texts stray from theirs.
    #[serde(default = "undefined", deserialize_with = "null_as_nan")]
    pub crps_of_constant: f64,
}

/// A text of a test, centred in it.
struct Row {
    /// l_i, empirical logit.
    logit: f64,
    /// mu_i.
    mean: f64,
    /// 1 - 1/n: what centring in a test of n texts leaves of a variance.
    left: f64,
    /// m_i, of l_i.
    noise: f64,
    /// v_i.
    variance: f64,
}

/// How GaRM's variance goes with the texts whose true click rate strays from its mean. Within each test, the empirical logit
/// `l_i = ln((k+½)/(n-k+½))` is regressed on the predicted mean (one slope for the data set); the residual's square minus its
/// sampling variance `m_i = 1/(k+½) + 1/(n-k+½)` is compared with v_i by ranks, and the residual itself with the slope's
/// square times v_i and m_i together. `None` below 20 texts.
pub fn dispersion(texts: &[(&Counts, Score)]) -> Option<Dispersion> {
    const FEWEST_TEXTS: usize = 20;
    let rows = rows(texts);
    if rows.len() < FEWEST_TEXTS {
        return None;
    }
    let square: f64 = rows.iter().map(|r| r.mean * r.mean).sum();
    let slope = if square > 0.0 { rows.iter().map(|r| r.logit * r.mean).sum::<f64>() / square } else { 0.0 };
    let residuals: Vec<f64> = rows.iter().map(|r| r.logit - slope * r.mean).collect();
    let strays: Vec<f64> = residuals.iter().zip(&rows).map(|(e, r)| e * e - r.noise * r.left).collect();
    let variances: Vec<f64> = rows.iter().map(|r| r.variance).collect();
    let totals: Vec<f64> = rows.iter().map(|r| r.left * (slope * slope * r.variance + r.noise)).collect();
    let zeros = vec![0.0; rows.len()];
    let logits: Vec<f64> = rows.iter().map(|r| r.logit).collect();
    let spread = mean(&logits.iter().map(|l| l * l).collect::<Vec<_>>());
    let crps = |y: &[f64], v: &dyn Fn(usize) -> f64| {
        mean(&y.iter().enumerate().map(|(i, y)| gaussian_crps(*y, 0.0, v(i))).collect::<Vec<_>>())
    };
    // a mean that goes against the rates has no scale in logits
    let if_scaled = |value: f64| if slope > 0.0 { value } else { f64::NAN };
    Some(Dispersion {
        spearman: spearman(&variances, &strays),
        n_texts: rows.len(),
        slope,
        z_score_variance: if_scaled(z_score_variance(&residuals, &zeros, &totals)),
        crps: if_scaled(crps(&residuals, &|i| totals[i])),
        crps_of_constant: crps(&logits, &|_| spread),
    })
}

fn rows(texts: &[(&Counts, Score)]) -> Vec<Row> {
    let mut tests: BTreeMap<&str, Vec<&(&Counts, Score)>> = BTreeMap::new();
    for row in texts {
        tests.entry(&row.0.group).or_default().push(row);
    }
    let mut rows = Vec::new();
    for test in tests.values().filter(|test| test.len() >= 2) {
        let logits: Vec<(f64, f64)> = test.iter().map(|(counts, _)| empirical_logit(counts)).collect();
        let means: Vec<f64> = test.iter().map(|(_, score)| f64::from(score.reward_mean)).collect();
        let centre = (mean(&logits.iter().map(|l| l.0).collect::<Vec<_>>()), mean(&means));
        for (((_, score), (logit, noise)), mu) in test.iter().zip(logits).zip(means) {
            rows.push(Row {
                logit: logit - centre.0,
                mean: mu - centre.1,
                left: 1.0 - 1.0 / test.len() as f64,
                noise,
                variance: f64::from(score.aleatoric_std).powi(2),
            });
        }
    }
    rows
}

fn empirical_logit(counts: &Counts) -> (f64, f64) {
    let clicked = counts.n_clicks as f64 + 0.5;
    let not = counts.n_impressions.saturating_sub(counts.n_clicks) as f64 + 0.5;
    ((clicked / not).ln(), 1.0 / clicked + 1.0 / not)
}

/// The counts of a data set whose text is in a held-out pair.
pub fn held_out_counts<'a>(records: &'a [Sourced], source: &str, held_out: &[&Pair]) -> Vec<&'a Counts> {
    let seen: HashSet<(&Prompt, &str)> =
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
