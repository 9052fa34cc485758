//! Many small tests at once (Upworthy): for each, whether its arms have the same click rate, by Pearson's
//! chi-square on clicks × arms with arms - 1 degrees of freedom, and whether impressions were split evenly;
//! Holm over all tests. The tests have ended and are looked at once, so this is a fixed-horizon analysis.

use crate::ab::holm;
use crate::ab::input::upworthy::HeadlineTest;
use crate::ab::sample_ratio::{SampleRatio, SampleRatioError};
use crate::metrics::wilson_interval;
use crate::special::chi_square_tail;
use serde::{Deserialize, Serialize};

/// Smallest expected number of clicks in an arm for which the chi-square distribution is trusted.
const MIN_EXPECTED_CLICKS: f64 = 5.0;

/// A headline with its counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeadlineFigures {
    /// The text.
    pub text: String,
    /// Impressions.
    pub n_impressions: u64,
    /// Clicks.
    pub n_clicks: u64,
    /// Clicks per impression.
    pub ctr: f64,
    /// Wilson's 95% interval.
    pub wilson: (f64, f64),
}

/// One test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TestFigures {
    /// Test and picture.
    pub name: String,
    /// Headlines, the highest click rate first.
    pub headlines: Vec<HeadlineFigures>,
    /// Σ (clicks - expected)² / (expected (1 - p)), p the common rate.
    pub chi_square: f64,
    /// Of "all headlines have one click rate"; null where an arm expects fewer than five clicks.
    pub p_value: Option<f64>,
    /// By Holm over all tests that have a p-value.
    pub p_holm: Option<f64>,
    /// Highest over lowest click rate, minus 1: descriptive, as both were picked by looking.
    pub spread: Option<f64>,
    /// Impressions against an even split.
    pub sample_ratio: SampleRatio,
}

/// All tests with their counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeadlineReport {
    /// Version of this JSON.
    pub version: u32,
    /// Level over all tests.
    pub alpha: f64,
    /// Tests with at least two headlines.
    pub n_tests: usize,
    /// Headlines in them.
    pub n_headlines: usize,
    /// Tests with enough clicks for a p-value.
    pub n_tested: usize,
    /// Of these, with p <= alpha taken alone.
    pub n_below_alpha: usize,
    /// Of these, with p <= alpha by Holm.
    pub n_rejected: usize,
    /// Tests whose impressions are too uneven to have been split evenly at random (p < 0.0005).
    pub n_sample_ratio_mismatches: usize,
    /// What the figures rest on.
    pub assumptions: Vec<String>,
    /// Tests, the most certain first.
    pub tests: Vec<TestFigures>,
}

/// Analyses all tests.
///
/// # Errors
/// [`SampleRatioError`] for a test of one arm.
pub fn analyze(tests: &[HeadlineTest], alpha: f64) -> Result<HeadlineReport, SampleRatioError> {
    let mut figures: Vec<TestFigures> = tests.iter().map(test_figures).collect::<Result<_, _>>()?;
    let tested: Vec<usize> = (0..figures.len()).filter(|&i| figures[i].p_value.is_some()).collect();
    let p_values: Vec<f64> = tested.iter().filter_map(|&i| figures[i].p_value).collect();
    for (&i, p_holm) in tested.iter().zip(holm::adjust(&p_values)) {
        figures[i].p_holm = Some(p_holm);
    }
    let below = |p: &dyn Fn(&TestFigures) -> Option<f64>| {
        figures.iter().filter(|test| p(test).is_some_and(|p| p <= alpha)).count() //
    };
    let (n_below_alpha, n_rejected) = (below(&|test| test.p_value), below(&|test| test.p_holm));
    let n_sample_ratio_mismatches = figures.iter().filter(|test| test.sample_ratio.is_mismatch()).count();
    figures.sort_by(|a, b| {
        let p = |test: &TestFigures| test.p_value.unwrap_or(f64::INFINITY);
        p(a).total_cmp(&p(b)).then(b.chi_square.total_cmp(&a.chi_square))
    });
    Ok(HeadlineReport {
        version: super::REPORT_VERSION,
        alpha,
        n_tests: tests.len(),
        n_headlines: tests.iter().map(|test| test.arms.len()).sum(),
        n_tested: tested.len(),
        n_below_alpha,
        n_rejected,
        n_sample_ratio_mismatches,
        assumptions: vec![
            "unit: the impression, taken as independent; the archive has no users".to_owned(),
            "each test has ended and is looked at once".to_owned(),
            "a rejected test says that its headlines differ, not which pair does".to_owned(),
        ],
        tests: figures,
    })
}

fn test_figures(test: &HeadlineTest) -> Result<TestFigures, SampleRatioError> {
    let n: u64 = test.arms.iter().map(|arm| arm.n_units).sum();
    let clicks: u64 = test.arms.iter().map(|arm| arm.n_clicks).sum();
    let p = clicks as f64 / n as f64;
    let expected = |n_units: u64| p * n_units as f64;
    let shown = test.arms.iter().filter(|arm| arm.n_units > 0);
    let terms =
        shown.map(|arm| (arm.n_clicks as f64 - expected(arm.n_units)).powi(2) / (expected(arm.n_units) * (1.0 - p)));
    let chi_square: f64 = terms.sum();
    let is_trusted = test.arms.iter().all(|arm| expected(arm.n_units) >= MIN_EXPECTED_CLICKS) && p < 1.0;
    let mut headlines: Vec<HeadlineFigures> = test
        .arms
        .iter()
        .map(|arm| HeadlineFigures {
            text: arm.arm.clone(),
            n_impressions: arm.n_units,
            n_clicks: arm.n_clicks,
            ctr: if arm.n_units > 0 { arm.n_clicks as f64 / arm.n_units as f64 } else { 0.0 },
            wilson: wilson_interval(arm.n_clicks as f64, arm.n_units as f64),
        })
        .collect();
    headlines.sort_by(|a, b| b.ctr.total_cmp(&a.ctr));
    let (first, last) = (headlines.first().map(|h| h.ctr), headlines.last().map(|h| h.ctr));
    let spread = first.zip(last).map(|(high, low)| high / low - 1.0).filter(|spread| spread.is_finite());
    let impressions: Vec<u64> = test.arms.iter().map(|arm| arm.n_units).collect();
    Ok(TestFigures {
        name: test.name.clone(),
        headlines,
        chi_square: if chi_square.is_finite() { chi_square } else { 0.0 },
        p_value: is_trusted.then(|| chi_square_tail(chi_square, (test.arms.len() - 1) as f64)),
        p_holm: None,
        spread,
        sample_ratio: SampleRatio::test(&impressions, &vec![1.0; impressions.len()])?,
    })
}
