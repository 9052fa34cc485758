//! Held-out evaluation: does each stage beat what is simpler? Method B.6 and B.2.8.
//!
//! In the loop: between RL and the checkpoint; the figures go into [`crate::report`].

pub mod judge;
pub mod ngram;
pub mod odd_text;
pub mod policy;
pub mod reward;
pub mod simulator;

use crate::model::ModelError;
use crate::run_config::RunConfigError;
use beckon_shared::engine::EngineError;
use beckon_shared::preference::PreferenceError;
use beckon_shared::tokenizer::TokenizerError;
use serde::{Deserialize, Deserializer};

pub use judge::{Part, policy, reward};

/// Why an evaluation could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// The records hold nothing to judge by.
    #[error("the log has no {missing} to judge by; import more data")]
    NoData {
        /// What is missing.
        missing: &'static str,
    },
    /// The log could not be turned into preferences.
    #[error("preferences: {0}")]
    Preference(#[from] PreferenceError),
    /// The checkpoint's run had settings that this version does not know.
    #[error("the checkpoint's run configuration cannot be read: {0}")]
    RunConfig(#[from] RunConfigError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The checkpoint's tokenizer cannot be read.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The checkpoint's networks cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
}

/// JSON has no NaN: an undefined figure is written as null and read back as NaN.
pub(crate) fn null_as_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// A figure that an earlier version did not measure.
pub(crate) fn undefined() -> f64 {
    f64::NAN
}

/// [`null_as_nan`] for both ends of an interval.
pub(crate) fn nulls_as_nan<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(f64, f64), D::Error> {
    let (low, high) = <(Option<f64>, Option<f64>)>::deserialize(deserializer)?;
    Ok((low.unwrap_or(f64::NAN), high.unwrap_or(f64::NAN)))
}

/// Two-sided 95% quantile of Student's t with `dof` degrees of freedom, for intervals over few seeds.
///
/// Table of the standard values; above 30 degrees by the expansion of Cornish and Fisher (error below
/// 1e-3).
pub fn t_quantile_975(dof: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
        2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
    ];
    match dof {
        0 => f64::INFINITY,
        1..=30 => TABLE[dof - 1],
        _ => {
            let (z, n) = (1.959_964f64, dof as f64);
            z + (z.powi(3) + z) / (4.0 * n)
        }
    }
}

/// Mean and its 95% t-interval; the interval is undefined for fewer than two values.
pub fn mean_and_t_interval(values: &[f64]) -> (f64, (f64, f64)) {
    let (mean, error) = beckon_shared::metrics::mean_and_std_error(values);
    let half = error * t_quantile_975(values.len().saturating_sub(1));
    (mean, (mean - half, mean + half))
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::metrics::assert_close;

    #[test]
    fn t_interval_by_hand() {
        let (mean, (low, high)) = mean_and_t_interval(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_close("mean", mean, 3.0, 1e-12);
        // sd sqrt(2.5), over sqrt(5), times 2.776
        assert_close("low", low, 3.0 - 2.776 * 0.5f64.sqrt(), 1e-9);
        assert_close("high", high, 3.0 + 2.776 * 0.5f64.sqrt(), 1e-9);
        // standard tables: 2.021 at 40, 1.980 at 120
        assert_close("t40", t_quantile_975(40), 2.021, 2e-3);
        assert_close("t120", t_quantile_975(120), 1.980, 1e-3);
    }
}
