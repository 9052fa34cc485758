//! The Gaussian reward model: a Llama trunk that reads prompt and suggestion, and two linear heads that
//! give the mean and the variance of a suggestion's utility.
//!
//! In the loop: `stage::garm` trains it from the SFT policy, `stage::rl` and the evaluation score with
//! it, the page's engine runs the same tensors. Source: the preference as a Gaussian is the paper's
//! idea (PAPERS.md); heads, pooling and spread are our design, method B.2.5 and B.3 (2).
//!
//! f = mean over the suggestion's tokens (its `<|end|>` included) of the final-norm hidden state; the
//! prompt is read but not pooled, so that two suggestions differ by what they say. The trunk may end
//! before the policy's last layer ([`RewardConfig::n_layers`]).
//! mu = w_mu·f + b_mu; v = v_min + softplus(w_v·f + b_v). Softplus keeps dv/dlog v bounded as v -> v_min.
//! d² = |W (f - m)|², v_ep = kappa · max(0, d²/D_f - 1).
//!
//! Dimension key: `B` rows, `T` tokens, `D` width, `F` = D_f whitened features. Not here: the losses'
//! mathematics ([`likelihood`]) and the training ([`crate::stage::garm`]).

pub mod likelihood;

use super::ModelError;
use super::batch::{self, Batch, Sequence};
use super::llama::{Llama, check_shapes, dense, normals};
use super::micro::Tape;
use super::ops;
use beckon_shared::checkpoint::RewardConfig;
use beckon_shared::config::{ModelConfig, reward_head_names};
use beckon_shared::engine::Score;
use beckon_shared::garm::Gaussian;
use beckon_shared::garm::epistemic::{epistemic_variance, squared_distance};
use beckon_shared::garm::pair::preference_probability;
use beckon_shared::preference::Pair;
use beckon_shared::prompt::Prompt;
use beckon_shared::tensor::{DenseTensor, TensorMap};
use beckon_shared::tokenizer::Tokenizer;
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::ops::Range;

/// Standard deviation of a head's initial weights. Not zero: at z = 0 the variance gets no gradient.
const HEAD_INIT_STD: f64 = 0.02;
/// Padded tokens of a batch that is only scored.
const READ_TOKENS: usize = 4_096;

/// A linear map of the pooled feature to one number.
#[derive(Module, Debug)]
pub struct Head {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

/// Trunk and heads.
#[derive(Module, Debug)]
pub struct RewardModel {
    trunk: Llama,
    mean_head: Head,
    variance_head: Head,
    variance_floor: f64,
}

/// Distributions of a batch's suggestions.
#[derive(Debug, Clone)]
pub struct Rewards {
    /// mu, `[B]`.
    pub mean: Tensor<1>,
    /// v, `[B]`.
    pub variance: Tensor<1>,
}

impl Head {
    fn new(weight: Vec<f32>, bias: f32, device: &Device) -> Self {
        let n = weight.len();
        Self {
            weight: Param::from_data(TensorData::new(weight, [n]), device),
            bias: Param::from_data(TensorData::new(vec![bias], [1]), device),
        }
    }

    /// w·f + b: `[B, D]` to `[B]`.
    fn forward(&self, features: Tensor<2>) -> Tensor<1> {
        let [b, d] = features.dims();
        features.matmul(self.weight.val().reshape([d, 1])).reshape([b]) + self.bias.val()
    }
}

/// softplus⁻¹(x) = ln(exp(x) - 1), for x > 0.
pub(crate) fn inverse_softplus(x: f64) -> f64 {
    x + (-(-x).exp_m1()).ln()
}

impl RewardModel {
    /// Trunk of `policy` with fresh heads: mu near `base_mean`, v near 1 for every input.
    ///
    /// # Errors
    /// A policy that is not of this configuration.
    pub fn init(
        config: &ModelConfig,
        policy: &TensorMap,
        base_mean: f64,
        variance_floor: f64,
        seed: u64,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut head = |bias: f64| Head::new(normals(&mut rng, config.d_model, HEAD_INIT_STD), bias as f32, device);
        Ok(Self {
            trunk: Llama::from_tensors(&config.trunk(config.n_layers), policy, device)?,
            mean_head: head(base_mean),
            variance_head: head(inverse_softplus(1.0 - variance_floor)),
            variance_floor,
        })
    }

    /// The network in `tensors`, trunk and heads; other names are ignored.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn from_tensors(
        config: &ModelConfig,
        tensors: &TensorMap,
        variance_floor: f64,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let mut heads = reward_head_names(config, 1);
        heads.truncate(4);
        check_shapes(tensors, &heads)?;
        let head = |name: &str| {
            let bias = tensors[&format!("{name}.bias")].data[0];
            Head::new(tensors[&format!("{name}.weight")].data.clone(), bias, device)
        };
        Ok(Self {
            trunk: Llama::from_tensors(&config.trunk(config.n_layers), tensors, device)?,
            mean_head: head("mean_head"),
            variance_head: head("variance_head"),
            variance_floor,
        })
    }

    /// Trunk and heads under the names of the checkpoint, on the host.
    pub fn to_tensors(&self) -> TensorMap {
        let mut tensors = self.trunk.to_tensors();
        for (name, head) in [("mean_head", &self.mean_head), ("variance_head", &self.variance_head)] {
            tensors.insert(format!("{name}.weight"), dense(&head.weight));
            tensors.insert(format!("{name}.bias"), dense(&head.bias));
        }
        tensors
    }

    /// Replaces the mean head: w `[D]` and b.
    pub fn set_mean_head(&mut self, weight: Vec<f32>, bias: f32, device: &Device) {
        self.mean_head = Head::new(weight, bias, device);
    }

    /// Pooled features of a batch's suggestions, `[B, D]`.
    pub fn features(&self, batch: &Batch, device: &Device) -> Tensor<2> {
        self.read_on(batch, &[], device, &mut Tape::new(false)).0
    }

    /// [`Self::features`] with the pass on a tape, and of the rows `spoken` what the policy's head says over the same hidden
    /// states: log p of each one's suggestion given its prompt, nats, `[S]`; `None` where there are none.
    ///
    /// # Panics
    /// If there is no row of that number.
    pub fn read_on(
        &self,
        batch: &Batch,
        spoken: &[usize],
        device: &Device,
        tape: &mut Tape,
    ) -> (Tensor<2>, Option<Tensor<1>>) {
        let hidden = tape.hidden(&self.trunk, batch.tensors(device).tokens); // [B, T, D]
        let logps = (!spoken.is_empty()).then(|| self.logps(hidden.clone(), batch, spoken, device));
        (pooled(hidden, batch, device), logps)
    }

    /// log p of the suggestions of some rows, `[S]`, from the hidden states of all, `[B, T, D]`. The trunk's embedding is the
    /// head, as the policy's is; only rows that are asked for meet the vocabulary.
    fn logps(&self, hidden: Tensor<3>, batch: &Batch, spoken: &[usize], device: &Device) -> Tensor<1> {
        let [b, t, d] = hidden.dims();
        let spans: Vec<Range<usize>> = spoken.iter().map(|&row| batch.spans[row].clone()).collect();
        let taken = |values: &[i32]| -> Tensor<1, Int> {
            let values = spans.iter().flat_map(|span| &values[span.clone()]).copied().collect::<Vec<i32>>();
            let n = values.len();
            Tensor::from_data(TensorData::new(values, [n]), device)
        };
        let before = ops::rows(hidden.reshape([b * t, d]), taken(&batch.predictors)); // [N, D]
        let logps = self.trunk.token_logps(before, taken(&batch.targets)); // [N]
        let (s, n) = (spans.len(), spans.iter().map(|span| span.len()).sum::<usize>());
        // sums as a product, for the reason of the pooling
        let mut ones = vec![0.0f32; s * n];
        let mut first = 0;
        for (k, span) in spans.iter().enumerate() {
            ones[k * n + first..][..span.len()].fill(1.0);
            first += span.len();
        }
        let sums = Tensor::<2>::from_data(TensorData::new(ones, [s, n]), device);
        sums.matmul(logps.reshape([n, 1])).reshape([s]) // [S]
    }

    /// The network below the heads.
    pub fn trunk(&self) -> &Llama {
        &self.trunk
    }

    /// [`Self::features`] as they would be of a trunk that ends after each of `depths` layers (ascending).
    pub fn features_at(&self, batch: &Batch, depths: &[usize], device: &Device) -> Vec<Tensor<2>> {
        let hidden = self.trunk.hidden_after(batch.tensors(device).tokens, depths);
        hidden.into_iter().map(|hidden| pooled(hidden, batch, device)).collect()
    }

    /// mu and v of pooled features `[B, D]`.
    pub fn rewards(&self, features: Tensor<2>) -> Rewards {
        let mean = self.mean_head.forward(features.clone()); // [B]
        let raw = self.variance_head.forward(features); // [B]
        Rewards { mean, variance: activation::softplus(raw, 1.0).add_scalar(self.variance_floor) }
    }

    /// mu alone, for the Case V warm-up, in which v = 1.
    pub fn means(&self, features: Tensor<2>) -> Tensor<1> {
        self.mean_head.forward(features)
    }

    /// Reads sequences in batches of like length, on a model without autodiff; answers in their order.
    pub fn read(&self, sequences: &[Sequence], device: &Device) -> Vec<Reading> {
        let mut readings: Vec<Option<Reading>> = vec![None; sequences.len()];
        for (batch, rows) in batches(sequences) {
            let features = self.features(&batch, device); // [B, D]
            let rewards = self.rewards(features.clone());
            let [means, variances] = [rewards.mean, rewards.variance].map(host);
            for ((i, feature), (mean, variance)) in
                rows.into_iter().zip(host_rows(features)).zip(means.into_iter().zip(variances))
            {
                readings[i] = Some(Reading { reward: Gaussian::new(f64::from(mean), f64::from(variance)), feature });
            }
        }
        readings.into_iter().flatten().collect()
    }
}

/// What the model says of one suggestion, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// N(mu, v).
    pub reward: Gaussian,
    /// f, `[D]`.
    pub feature: Vec<f32>,
}

/// Sequences of like length together, with their places among `sequences`, for reading alone.
pub fn batches(sequences: &[Sequence]) -> impl Iterator<Item = (Batch, Vec<usize>)> {
    let lengths: Vec<usize> = sequences.iter().map(|s| s.tokens.len()).collect();
    let plan = batch::plan_sorted(&lengths, READ_TOKENS).into_iter();
    plan.map(|rows| (Batch::pack(rows.iter().map(|&i| &sequences[i])), rows))
}

/// Rows of `[B, D]`.
pub fn host_rows(tensor: Tensor<2>) -> Vec<Vec<f32>> {
    let d = tensor.dims()[1];
    host(tensor).chunks_exact(d).map(<[f32]>::to_vec).collect()
}

/// Values of a tensor, row-major.
fn host<const N: usize>(tensor: Tensor<N>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("converted to f32")
}

/// Mean over each row's suggestion of `hidden` `[B, T, D]`: `[B, D]`.
fn pooled(hidden: Tensor<3>, batch: &Batch, device: &Device) -> Tensor<2> {
    let [b, t, d] = hidden.dims();
    // a product with the pooling weights keeps the gradient dense, where a selection would scatter
    let pooling = TensorData::new(pooling_weights(batch), [b, 1, t]);
    Tensor::<3>::from_data(pooling, device).matmul(hidden).reshape([b, d]) // [B, D]
}

/// 1/n over the n suggestion tokens of each row, 0 elsewhere, `[B·T]`.
fn pooling_weights(batch: &Batch) -> Vec<f32> {
    let mut weights = vec![0.0; batch.n_rows * batch.n_columns];
    for span in &batch.spans {
        for predictor in &batch.predictors[span.clone()] {
            // a suggestion token stands right after the token that predicts it
            weights[*predictor as usize + 1] = 1.0 / span.len() as f32;
        }
    }
    weights
}

/// The frozen reward model as everybody but its trainer uses it.
#[derive(Debug)]
pub struct Scorer {
    model: RewardModel,
    config: RewardConfig,
    feature_mean: Vec<f64>,
    /// W, row-major `[F, D]`.
    whitening: Vec<f64>,
    tokenizer: Tokenizer,
    max_seq_len: usize,
    device: Device,
}

impl Scorer {
    /// Loads `tensors` (trunk and [`reward_head_names`]) on a device without autodiff.
    ///
    /// # Errors
    /// A missing tensor or a wrong shape.
    pub fn new(
        model: &ModelConfig,
        tensors: &TensorMap,
        config: &RewardConfig,
        tokenizer: &Tokenizer,
        device: &Device,
    ) -> Result<Self, ModelError> {
        check_shapes(tensors, &reward_head_names(model, config.feature_dims))?;
        let wide = |t: &DenseTensor| t.data.iter().map(|&x| f64::from(x)).collect();
        Ok(Self {
            model: RewardModel::from_tensors(&config.trunk(model), tensors, f64::from(config.variance_floor), device)?,
            config: config.clone(),
            feature_mean: wide(&tensors["feature_mean"]),
            whitening: wide(&tensors["whitening"]),
            tokenizer: tokenizer.clone(),
            max_seq_len: model.max_seq_len,
            device: device.clone(),
        })
    }

    /// Scores suggestions, each in the light of its prompt; what comes more than once is read once.
    pub fn score(&self, items: &[(Prompt, String)]) -> Vec<Score> {
        let mut rows: HashMap<&(Prompt, String), usize> = HashMap::new();
        let mut sequences = Vec::new();
        for item in items {
            rows.entry(item).or_insert_with(|| {
                sequences.push(Sequence::encode(&self.tokenizer, &item.0, &item.1, self.max_seq_len));
                sequences.len() - 1
            });
        }
        let scores = self.score_sequences(&sequences);
        items.iter().map(|item| scores[rows[item]]).collect()
    }

    /// [`Self::score`] on tokens.
    pub fn score_sequences(&self, sequences: &[Sequence]) -> Vec<Score> {
        self.model.read(sequences, &self.device).iter().map(|r| self.score_of(r)).collect()
    }

    /// P(chosen preferred to rejected) = Φ(z) of each pair.
    pub fn pair_probabilities(&self, pairs: &[Pair]) -> Vec<f64> {
        let items: Vec<(Prompt, String)> =
            pairs.iter().flat_map(|p| [&p.chosen, &p.rejected].map(|text| (p.prompt.clone(), text.clone()))).collect();
        let gaussian = |s: &Score| Gaussian::new(f64::from(s.reward_mean), f64::from(s.aleatoric_std).powi(2));
        self.score(&items)
            .chunks_exact(2)
            .map(|two| preference_probability(gaussian(&two[0]), gaussian(&two[1])))
            .collect()
    }

    fn score_of(&self, reading: &Reading) -> Score {
        let centred: Vec<f64> =
            reading.feature.iter().zip(&self.feature_mean).map(|(f, m)| f64::from(*f) - m).collect();
        let whitened: Vec<f64> = self
            .whitening
            .chunks_exact(centred.len())
            .map(|row| row.iter().zip(&centred).map(|(w, c)| w * c).sum())
            .collect();
        let kappa = f64::from(self.config.kappa);
        Score {
            reward_mean: reading.reward.mean as f32,
            aleatoric_std: reading.reward.std() as f32,
            epistemic_std: epistemic_variance(squared_distance(&whitened), self.config.feature_dims, kappa).sqrt()
                as f32,
        }
    }
}

#[cfg(test)]
mod tests;
