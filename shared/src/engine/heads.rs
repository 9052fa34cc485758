//! GaRM's heads: what an executor multiplies the pooled hidden states with, and a score from what comes of it.
//!
//! Source: method B.2.5 (mean and variance heads) and B.3 (epistemic spread from the distance to the
//! training features). Dimension key: `D` width, `D_f` whitened coordinates.

use super::{EngineError, Score};
use crate::checkpoint::RewardConfig;
use crate::config::{ModelConfig, reward_head_names};
use beckon_shaders::kernels::heads::{HeadsParams, OUTPUTS, Run, heads};
use std::collections::BTreeMap;

/// Heads of the reward model.
#[derive(Debug, Clone)]
pub(super) struct Heads {
    params: HeadsParams,
    /// `[D, 3 + D_f]`, as the kernel reads them.
    weights: Vec<f32>,
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
        let (mean_bias, variance_bias) = (own("mean_head.bias")?[0], own("variance_head.bias")?[0]);
        // side by side, so that what is multiplied at once lies together
        let rows =
            [own("feature_mean")?, own("mean_head.weight")?, own("variance_head.weight")?, own("whitening")?].concat();
        let (d, stride) = (model.d_model, 3 + config.feature_dims);
        let weights = (0..d * stride).map(|i| rows[i % stride * d + i / stride]).collect();
        let params =
            HeadsParams { n_seqs: 0, cols: d as u32, n_features: config.feature_dims as u32, mean_bias, variance_bias };
        Ok(Self { params, weights, config: config.clone() })
    }

    /// Layers before them, as [`RewardConfig::n_layers`].
    pub fn n_layers(&self) -> Option<usize> {
        self.config.n_layers
    }

    /// Parameters of the kernel for `n_seqs` candidates.
    pub fn params(&self, n_seqs: usize) -> HeadsParams {
        HeadsParams { n_seqs: n_seqs as u32, ..self.params }
    }

    /// Weights of the kernel.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// The kernel's twin: what [`Heads::score`] takes, of each candidate from the final hidden states of its `lens` tokens,
    /// one candidate after the other `[T of all, D]`; a candidate has tokens.
    pub fn outputs(&self, lens: &[usize], hidden: &[f32]) -> Vec<[f32; OUTPUTS]> {
        let mut runs = vec![Run::default(); lens.len()];
        advance(&mut runs, lens, 0, hidden.len() / self.params.cols as usize);
        let mut sums = vec![0.0; lens.len() * self.params.cols as usize];
        let mut outputs = vec![0.0; lens.len() * OUTPUTS];
        heads(&self.params(lens.len()), &runs, hidden, &self.weights, &mut sums, &mut outputs);
        outputs.as_chunks().0.to_vec()
    }

    /// Score of a suggestion from what the kernel gives of it.
    ///
    /// mean as it is; aleatoric variance = floor + softplus(raw); epistemic variance = kappa · max(0, d² / D_f - 1).
    ///
    /// # Errors
    /// [`EngineError::NotFinite`] where the network gave NaN or infinity.
    pub fn score(&self, [mean, raw, distance2]: [f32; OUTPUTS]) -> Result<Score, EngineError> {
        let aleatoric = f64::from(self.config.variance_floor) + softplus(f64::from(raw));
        // not f64::max, which would turn NaN into 0
        let excess = f64::from(distance2) / self.config.feature_dims as f64 - 1.0;
        let epistemic = if excess < 0.0 { 0.0 } else { f64::from(self.config.kappa) * excess };
        let score =
            Score { reward_mean: mean, aleatoric_std: aleatoric.sqrt() as f32, epistemic_std: epistemic.sqrt() as f32 };
        if score.reward_mean.is_finite() && score.aleatoric_std.is_finite() && score.epistemic_std.is_finite() {
            Ok(score)
        } else {
            Err(EngineError::NotFinite { what: "a score of the reward model" })
        }
    }
}

/// Goes on to the pass of `n_rows` rows from `start` on: which of them are whose, where candidate i has `lens[i]` rows after those of
/// the candidates before it.
pub(super) fn advance(runs: &mut [Run], lens: &[usize], start: usize, n_rows: usize) {
    let mut first = 0;
    for (run, len) in runs.iter_mut().zip(lens) {
        let (from, to) = (first.max(start), (first + len).min(start + n_rows));
        let n_before = from.min(first + len) - first;
        *run = Run {
            first: from.saturating_sub(start) as u32,
            n_rows: to.saturating_sub(from) as u32,
            n_before: n_before as u32,
            pad: 0,
        };
        first += len;
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
        let config = RewardConfig { variance_floor: 0.01, feature_dims: 2, kappa, n_layers: None };
        let model = ModelConfig {
            vocab_size: 8,
            d_model: 2,
            n_layers: 1,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 2,
            d_ff: 2,
            rope_base: 10_000.0,
            rope_scaling: None,
            norm_eps: 1e-5,
            max_seq_len: 8,
            tied_embedding: true,
        };
        let tensors = [
            ("mean_head.weight", vec![1.0, 2.0]),
            ("mean_head.bias", vec![0.5]),
            ("variance_head.weight", vec![0.0, 1.0]),
            ("variance_head.bias", vec![-1.0]),
            ("feature_mean", vec![1.0, 0.0]),
            ("whitening", vec![2.0, 0.0, 0.0, 1.0]),
        ];
        let take = |name: &str| Ok(tensors.iter().find(|(known, _)| *known == name).expect(name).1.clone());
        Heads::gather(&model, &config, take).unwrap()
    }

    fn score(heads: &Heads, hidden: &[f32]) -> Result<Score, EngineError> {
        heads.score(heads.outputs(&[hidden.len() / 2], hidden)[0])
    }

    #[test]
    fn a_score_by_hand() {
        // tokens (1, 1) and (3, 1): f = (2, 1); W (f - m) = (2, 1); d2 = 5
        let score = score(&heads(0.4), &[1.0, 1.0, 3.0, 1.0]).unwrap();
        assert_close("mean", score.reward_mean, 4.5, 1e-6);
        assert_close("aleatoric", score.aleatoric_std, (0.01 + 2.0f64.ln()).sqrt(), 1e-6);
        assert_close("epistemic", score.epistemic_std, (0.4f64 * 1.5).sqrt(), 1e-6);
        assert_close("both", score.reward_std(), (0.01 + 2.0f64.ln() + 0.6).sqrt(), 1e-6);
    }

    #[test]
    fn near_the_training_features_nothing_is_epistemic() {
        assert_eq!(score(&heads(0.4), &[1.0, 0.5]).unwrap().epistemic_std, 0.0);
    }

    #[test]
    fn passes_take_up_where_the_one_before_ended() {
        let mut runs = [Run::default(); 3];
        let mut of_pass = |start, n_rows| {
            advance(&mut runs, &[2, 3, 1], start, n_rows);
            runs.map(|run| if run.n_rows == 0 { [0, 0, run.n_before] } else { [run.first, run.n_rows, run.n_before] })
        };
        assert_eq!(of_pass(0, 6), [[0, 2, 0], [2, 3, 0], [5, 1, 0]]);
        assert_eq!(of_pass(0, 4), [[0, 2, 0], [2, 2, 0], [0, 0, 0]]);
        assert_eq!(of_pass(4, 2), [[0, 0, 2], [0, 1, 2], [1, 1, 0]]);
    }

    #[test]
    fn softplus_neither_overflows_nor_vanishes() {
        assert_eq!(softplus(1e6), 1e6);
        assert_close("at 0", softplus(0.0), 2.0f64.ln(), 1e-15);
        assert_close("at -40", softplus(-40.0) / (-40.0f64).exp(), 1.0, 1e-12);
    }

    #[test]
    fn not_a_number_is_an_error() {
        assert!(matches!(score(&heads(0.4), &[f32::NAN, 0.0]), Err(EngineError::NotFinite { .. })));
    }
}
