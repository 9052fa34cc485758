//! Sample ratio mismatch: did each arm get the share of users that it should have? If not, users were lost or
//! counted in a way that depends on the arm, and no comparison of the arms can be trusted. Method B.6.5, oracle
//! T9.
//!
//! Two tests on the same counts. Pearson's chi-square holds for one look. The multinomial mixture of Lindon and
//! Malek (NeurIPS 2022) holds at every look: Λ = Γ(k) / Γ(k+n) · Π Γ(k q_i + n_i) / Γ(k q_i) / Π q_i^n_i for
//! planned shares q and a Dirichlet(k q) mixture is a martingale without mismatch, so 1/Λ is an always-valid
//! p-value. Strata (device tier, browser) show where the users went missing.

use super::holm;
use crate::special::chi_square_tail;
use serde::{Deserialize, Serialize};

/// A test with a p-value below this is stopped (method B.6.5; published practice is 0.0001 to 0.01).
pub const STOP_BELOW: f64 = 5e-4;
/// k of the Dirichlet mixture: a prior standard deviation of 1.6 percentage points on a planned half.
const MIXTURE_STRENGTH: f64 = 1_000.0;
/// Smallest expected count of a cell for which the chi-square distribution is trusted.
const MIN_EXPECTED: f64 = 5.0;

/// Why counts cannot be tested.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SampleRatioError {
    /// As many shares as arms, at least two.
    #[error("{n_counts} arms and {n_shares} planned shares; expected as many, at least two")]
    Arms {
        /// Arms counted.
        n_counts: usize,
        /// Shares given.
        n_shares: usize,
    },
    /// A share that is none.
    #[error("planned share {share} of arm {arm}; expected a number above 0")]
    Share {
        /// Which arm.
        arm: usize,
        /// Its share.
        share: f64,
    },
}

/// Counts against planned shares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SampleRatio {
    /// Users of each arm.
    pub n_users: Vec<u64>,
    /// Users that each arm should have of that total.
    pub expected: Vec<f64>,
    /// Pearson's Σ (n_i - e_i)² / e_i.
    pub chi_square: f64,
    /// Its p-value, for one look; 1 without users, null where a cell expects fewer than five.
    pub p_value: Option<f64>,
    /// min(1, 1/Λ), valid at every look.
    pub always_valid_p_value: f64,
}

impl SampleRatio {
    /// Tests `n_users` against planned `shares` (any scale).
    ///
    /// # Errors
    /// [`SampleRatioError`].
    pub fn test(n_users: &[u64], shares: &[f64]) -> Result<Self, SampleRatioError> {
        if n_users.len() != shares.len() || shares.len() < 2 {
            return Err(SampleRatioError::Arms { n_counts: n_users.len(), n_shares: shares.len() });
        }
        if let Some(arm) = shares.iter().position(|share| !(*share > 0.0 && share.is_finite())) {
            return Err(SampleRatioError::Share { arm, share: shares[arm] });
        }
        let total: u64 = n_users.iter().sum();
        let sum: f64 = shares.iter().sum();
        let expected: Vec<f64> = shares.iter().map(|share| share / sum * total as f64).collect();
        let cells = n_users.iter().zip(&expected);
        let chi_square = cells.filter(|(_, e)| **e > 0.0).map(|(n, e)| (*n as f64 - e).powi(2) / e).sum();
        let p_value = match total {
            0 => Some(1.0),
            _ if expected.iter().any(|e| *e < MIN_EXPECTED) => None,
            _ => Some(chi_square_tail(chi_square, (shares.len() - 1) as f64)),
        };
        let shares: Vec<f64> = shares.iter().map(|share| share / sum).collect();
        let always_valid_p_value = (-log_mixture_ratio(n_users, &shares)).exp().min(1.0);
        Ok(Self { n_users: n_users.to_vec(), expected, chi_square, p_value, always_valid_p_value })
    }

    /// Whether the test must be stopped: either p-value is below [`STOP_BELOW`].
    pub fn is_mismatch(&self) -> bool {
        self.p_value.is_some_and(|p| p < STOP_BELOW) || self.always_valid_p_value < STOP_BELOW
    }
}

/// ln Λ of counts against shares that sum to 1.
fn log_mixture_ratio(n_users: &[u64], shares: &[f64]) -> f64 {
    let total: f64 = n_users.iter().map(|n| *n as f64).sum();
    let arms: f64 = n_users
        .iter()
        .zip(shares)
        .map(|(n, q)| {
            let (n, prior) = (*n as f64, MIXTURE_STRENGTH * q);
            libm::lgamma(prior + n) - libm::lgamma(prior) - n * q.ln()
        })
        .sum();
    libm::lgamma(MIXTURE_STRENGTH) - libm::lgamma(MIXTURE_STRENGTH + total) + arms
}

/// One stratum of a [`by_stratum`] breakdown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StratumRatio {
    /// Value of the stratum, as "tier 3".
    pub stratum: String,
    /// Its own test.
    pub ratio: SampleRatio,
    /// Its p-value (the always-valid one where a cell is too small) by Holm over the strata.
    pub p_holm: f64,
}

/// The same test within each stratum, the most suspicious first.
///
/// # Errors
/// [`SampleRatioError`].
pub fn by_stratum(strata: &[(String, Vec<u64>)], shares: &[f64]) -> Result<Vec<StratumRatio>, SampleRatioError> {
    let ratios: Vec<SampleRatio> =
        strata.iter().map(|(_, n_users)| SampleRatio::test(n_users, shares)).collect::<Result<_, _>>()?;
    let p_values: Vec<f64> = ratios.iter().map(|r| r.p_value.unwrap_or(r.always_valid_p_value)).collect();
    let adjusted = holm::adjust(&p_values);
    let mut found: Vec<StratumRatio> = strata
        .iter()
        .zip(ratios)
        .zip(adjusted)
        .map(|(((stratum, _), ratio), p_holm)| StratumRatio { stratum: stratum.clone(), ratio, p_holm })
        .collect();
    found.sort_by(|a, b| a.p_holm.total_cmp(&b.p_holm).then(b.ratio.chi_square.total_cmp(&a.ratio.chi_square)));
    Ok(found)
}
