//! GaRM's heads on the host: from the pooled hidden state to mean and spread.
//!
//! Source: method B.2.5 (mean and variance heads) and B.3 (epistemic spread from the distance to the
//! training features). Dimension key: `D` width, `D_f` whitened coordinates.

use super::{EngineError, Score};
use crate::checkpoint::RewardConfig;
use crate::config::{ModelConfig, reward_head_names};
use std::collections::BTreeMap;

/// Heads of the reward model.
#[derive(Debug, Clone)]
pub(super) struct Heads {
    mean_weight: Vec<f32>,
    mean_bias: f32,
    variance_weight: Vec<f32>,
    variance_bias: f32,
    feature_mean: Vec<f32>,
    /// `[D_f, D]`.
    whitening: Vec<f32>,
    config: RewardConfig,
}

impl Heads {
    /// Gathers the heads; `take` gives the values of a tensor by its name of [`reward_head_names`].
    ///
    /// # Errors
    /// What `take` says, or [`EngineError::Shape`].
    pub fn gather(
        model: &ModelConfig,
        config: &RewardConfig,
        mut take: impl FnMut(&str) -> Result<Vec<f32>, EngineError>,
    ) -> Result<Self, EngineError> {
        let mut tensors = BTreeMap::new();
        for (name, shape) in reward_head_names(model, config.feature_dims) {
            let values = take(&name)?;
            let want = shape.iter().product();
            if values.len() != want {
                return Err(EngineError::Shape { name, got: (1, values.len()), want: (1, want) });
            }
            tensors.insert(name, values);
        }
        let mut own = |name: &str| {
            tensors.remove(name).ok_or_else(|| EngineError::MissingTensor { name: format!("reward.{name}") })
        };
        Ok(Self {
            mean_weight: own("mean_head.weight")?,
            mean_bias: own("mean_head.bias")?[0],
            variance_weight: own("variance_head.weight")?,
            variance_bias: own("variance_head.bias")?[0],
            feature_mean: own("feature_mean")?,
            whitening: own("whitening")?,
            config: config.clone(),
        })
    }

    /// Layers before them, as [`RewardConfig::n_layers`].
    pub fn n_layers(&self) -> Option<usize> {
        self.config.n_layers
    }

    /// Score of a suggestion from the final hidden states of its tokens `[T, D]`, T > 0.
    ///
    /// f = mean over tokens; mean = w·f + b; aleatoric variance = floor + softplus(w_v·f + b_v);
    /// epistemic variance = kappa · max(0, |W (f - f_mean)|² / D_f - 1). Sums in f64.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`] where the network gave NaN or infinity.
    pub fn score(&self, hidden: &[f32]) -> Result<Score, EngineError> {
        let d = self.mean_weight.len();
        let n_tokens = hidden.len() / d;
        let mut feature = vec![0.0f64; d];
        for token in hidden.chunks_exact(d) {
            for (f, h) in feature.iter_mut().zip(token) {
                *f += f64::from(*h) / n_tokens as f64;
            }
        }
        let along = |weight: &[f32]| weight.iter().zip(&feature).map(|(w, f)| f64::from(*w) * f).sum::<f64>();
        let mean = along(&self.mean_weight) + f64::from(self.mean_bias);
        let raw = along(&self.variance_weight) + f64::from(self.variance_bias);
        let aleatoric = f64::from(self.config.variance_floor) + softplus(raw);
        let centred: Vec<f64> = feature.iter().zip(&self.feature_mean).map(|(f, m)| f - f64::from(*m)).collect();
        let distance2: f64 = self
            .whitening
            .chunks_exact(d)
            .map(|row| row.iter().zip(&centred).map(|(w, c)| f64::from(*w) * c).sum::<f64>().powi(2))
            .sum();
        // not f64::max, which would turn NaN into 0
        let excess = distance2 / self.config.feature_dims as f64 - 1.0;
        let epistemic = if excess < 0.0 { 0.0 } else { f64::from(self.config.kappa) * excess };
        let score = Score {
            reward_mean: mean as f32,
            aleatoric_std: aleatoric.sqrt() as f32,
            epistemic_std: epistemic.sqrt() as f32,
        };
        if score.reward_mean.is_finite() && score.aleatoric_std.is_finite() && score.epistemic_std.is_finite() {
            Ok(score)
        } else {
            Err(EngineError::NotFinite { what: "a score of the reward model" })
        }
    }
}

/// ln(1 + e^x), without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    fn heads(kappa: f32) -> Heads {
        Heads {
            mean_weight: vec![1.0, 2.0],
            mean_bias: 0.5,
            variance_weight: vec![0.0, 1.0],
            variance_bias: -1.0,
            feature_mean: vec![1.0, 0.0],
            whitening: vec![2.0, 0.0, 0.0, 1.0],
            config: RewardConfig { variance_floor: 0.01, feature_dims: 2, kappa, n_layers: None },
        }
    }

    #[test]
    fn a_score_by_hand() {
        // tokens (1, 1) and (3, 1): f = (2, 1); W (f - m) = (2, 1); d2 = 5
        let score = heads(0.4).score(&[1.0, 1.0, 3.0, 1.0]).unwrap();
        assert_close("mean", score.reward_mean, 4.5, 1e-6);
        assert_close("aleatoric", score.aleatoric_std, (0.01 + 2.0f64.ln()).sqrt(), 1e-6);
        assert_close("epistemic", score.epistemic_std, (0.4f64 * 1.5).sqrt(), 1e-6);
        assert_close("both", score.reward_std(), (0.01 + 2.0f64.ln() + 0.6).sqrt(), 1e-6);
    }

    #[test]
    fn near_the_training_features_nothing_is_epistemic() {
        assert_eq!(heads(0.4).score(&[1.0, 0.5]).unwrap().epistemic_std, 0.0);
    }

    #[test]
    fn softplus_neither_overflows_nor_vanishes() {
        assert_eq!(softplus(1e6), 1e6);
        assert_close("at 0", softplus(0.0), 2.0f64.ln(), 1e-15);
        assert_close("at -40", softplus(-40.0) / (-40.0f64).exp(), 1.0, 1e-12);
    }

    #[test]
    fn not_a_number_is_an_error() {
        assert!(matches!(heads(0.4).score(&[f32::NAN, 0.0]), Err(EngineError::NotFinite { .. })));
    }
}
