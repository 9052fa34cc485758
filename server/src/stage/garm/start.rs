//! Where the reward model starts: after how many layers its trunk ends, and which way its mean head points.
//!
//! Both follow from what the policy's trunk, as it is, says of the pairs' texts, by cross-validation over groups of the
//! training pairs. A trunk that is trained through adapters hardly changes, and the features of its last layers, which make
//! the next token, are not the best to judge a text by (EXPERIMENTS.md); one whose weights all learn keeps its layers.
//!
//! The fit is also a model of its own, Thurstone's Case V on a frozen trunk, that the evaluation compares GaRM with
//! ([`case_v`]): what the trunk and the spread have learnt is what GaRM has beyond it.
//!
//! Not here: the fit ([`beckon_shared::garm::probe`]).

use super::Trainer;
use super::data::PairItem;
use crate::model::batch::Sequence;
use crate::model::reward::{RewardModel, batches, host_rows, inverse_softplus};
use crate::stage::folder::obey;
use crate::stage::{StageContext, StageError};
use beckon_shared::checkpoint::RewardConfig;
use beckon_shared::config::{ConfigError, ModelConfig, tensor_names};
use beckon_shared::garm::probe::{Probe, ProbePair};
use beckon_shared::tensor::{DenseTensor, TensorMap};

/// Precisions of the prior that are tried, as a share of the pairs.
const PRECISIONS: [f64; 5] = [0.1, 0.3, 1.0, 3.0, 10.0];
/// The one that is taken where pairs of too few groups leave nothing to compare on.
const PRECISION: f64 = 1.0;
/// Lines about how far the reading is, at most.
const N_TOLD: usize = 5;
/// Parts of the layers after which an adapted trunk may end, in sixths.
const SIXTHS: [usize; 4] = [3, 4, 5, 6];
/// Name of the fit among the tensors of a state or a result.
const CASE_V: &str = "case_v.weight";

/// The start.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Layers of the trunk.
    pub n_layers: usize,
    /// Of the probit fit, in units of the features, `[D]`.
    theta: Vec<f64>,
    /// Mean of theta · f over the texts.
    centre: f64,
}

impl Start {
    /// Weights `[D]` and bias of a mean head that is `scale` times the fit, and `base` on average.
    pub fn mean_head(&self, scale: f64, base: f64) -> (Vec<f32>, f32) {
        let weight = self.theta.iter().map(|theta| (theta * scale) as f32).collect();
        (weight, (base - self.centre * scale) as f32)
    }

    /// theta `[D]`.
    pub fn direction(&self) -> Vec<f32> {
        self.theta.iter().map(|theta| *theta as f32).collect()
    }
}

/// Tensors with the fit among them.
pub(super) fn with_case_v(mut tensors: TensorMap, theta: Option<&[f32]>) -> TensorMap {
    if let Some(theta) = theta {
        tensors.insert(CASE_V.to_owned(), DenseTensor::new(vec![theta.len()], theta.to_vec()));
    }
    tensors
}

/// Takes the fit out of what [`with_case_v`] made.
pub(super) fn take_case_v(tensors: &mut TensorMap) -> Option<Vec<f32>> {
    tensors.remove(CASE_V).map(|theta| theta.data)
}

/// Thurstone's Case V as a reward model: the first layers of `policy`, of the shape `model`, as many as the trunk of `garm` has,
/// the mean sqrt(2) theta·f, and v = 1 for every text, so that z = (mu_a - mu_b)/sqrt(2) = theta·(f_a - f_b). It has no epistemic
/// spread. `None` where `policy` lacks a layer, or theta is of another width.
pub fn case_v(
    theta: &[f32],
    policy: &TensorMap,
    model: &ModelConfig,
    garm: &RewardConfig,
) -> Option<(TensorMap, RewardConfig)> {
    let (d, dims) = (model.d_model, garm.feature_dims);
    if theta.len() != d {
        return None;
    }
    let trunk = tensor_names(&garm.trunk(model)).into_iter();
    let mut tensors: TensorMap =
        trunk.map(|(name, _)| policy.get(&name).cloned().map(|tensor| (name, tensor))).collect::<Option<_>>()?;
    let raw_variance = inverse_softplus(1.0 - f64::from(garm.variance_floor)) as f32;
    let mean = theta.iter().map(|theta| theta * std::f32::consts::SQRT_2).collect();
    let of_heads = [
        ("mean_head.weight", vec![d], mean),
        ("mean_head.bias", vec![1], vec![0.0]),
        ("variance_head.weight", vec![d], vec![0.0; d]),
        ("variance_head.bias", vec![1], vec![raw_variance]),
        ("feature_mean", vec![d], vec![0.0; d]),
        ("whitening", vec![dims, d], vec![0.0; dims * d]),
    ];
    tensors.extend(of_heads.map(|(name, shape, data)| (name.to_owned(), DenseTensor::new(shape, data))));
    Some((tensors, RewardConfig { kappa: 0.0, ..garm.clone() }))
}

/// Depths that are compared: with a text regularisation the policy's alone, after which its head reads words.
fn depths(trainer: &Trainer) -> Result<Vec<usize>, StageError> {
    let (inputs, config) = (trainer.inputs, trainer.config);
    let (all, reads_words) = (inputs.model.n_layers, config.text_weight > 0.0);
    let refused = |field, value, expected| StageError::Model(ConfigError { field, value, expected }.into());
    if reads_words && !inputs.model.tied_embedding {
        let expected = "tied under garm.text_weight, as the trunk has no output matrix of its own: leave that out";
        return Err(refused("tied_embedding", 0, expected));
    }
    if let Some(value) = config.n_layers {
        if !(1..=all).contains(&value) {
            return Err(refused("garm.n_layers", value, "1 to the policy's layers"));
        }
        if reads_words && value < all {
            let expected = "all of the policy's layers under garm.text_weight: leave garm.n_layers out";
            return Err(refused("garm.n_layers", value, expected));
        }
        return Ok(vec![value]);
    }
    if inputs.lora.is_none() || reads_words {
        return Ok(vec![all]);
    }
    let mut depths = SIXTHS.map(|sixths| (all * sixths).div_ceil(6)).to_vec();
    depths.dedup();
    Ok(depths)
}

/// Reads every text of the training pairs once, and compares.
///
/// # Errors
/// A depth that the policy has not, or at which no head reads words where `text_weight` asks for it; a cancelled run.
pub(super) fn find(trainer: &Trainer, ctx: &mut StageContext) -> Result<Start, StageError> {
    let (inputs, data) = (trainer.inputs, trainer.data);
    let depths = depths(trainer)?;
    let (sequences, pairs) = data.reading(data.train());
    let item = |p: &PairItem| ProbePair {
        chosen: p.chosen,
        rejected: p.rejected,
        label: f64::from(p.label),
        weight: f64::from(p.weight),
    };
    let pairs: Vec<ProbePair> = pairs.iter().map(item).collect();
    let by_depth = read(trainer, &sequences, &depths, ctx)?;
    let lambdas = PRECISIONS.map(|share| share * pairs.len() as f64);
    let probes: Vec<Probe> = by_depth.iter().map(|features| Probe::new(features)).collect();
    let (known, folds, precisions) = (&pairs, data.folds(), &lambdas);
    let compared: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let compare = |probe: &Probe| probe.cross_validated(known, folds, precisions);
        let running: Vec<_> = probes.iter().map(|probe| scope.spawn(move || compare(probe))).collect();
        running.into_iter().map(|thread| thread.join().expect("comparing does not panic")).collect()
    });
    let candidates = compared.iter().enumerate().flat_map(|(d, losses)| {
        losses.iter().enumerate().filter(|(_, nll)| nll.is_finite()).map(move |(l, nll)| (d, l, *nll))
    });
    let (depth, lambda) = match candidates.min_by(|a, b| a.2.total_cmp(&b.2)) {
        Some((depth, lambda, nll)) => {
            ctx.observer.log(&format!(
                "garm: a fit to the trunk's features after {} of {} layers starts the mean head, {nll:.4} nats an unseen pair",
                depths[depth], inputs.model.n_layers
            ));
            (depth, lambdas[lambda])
        }
        None => (depths.len() - 1, PRECISION * pairs.len() as f64),
    };
    let theta = probes[depth].fit(&pairs, lambda);
    let features = &by_depth[depth];
    let along = |f: &Vec<f32>| f.iter().zip(&theta).map(|(f, t)| f64::from(*f) * t).sum::<f64>();
    let centre = features.iter().map(along).sum::<f64>() / features.len().max(1) as f64;
    Ok(Start { n_layers: depths[depth], theta, centre })
}

/// Pooled features of texts after each depth, in the order of both.
fn read(
    trainer: &Trainer,
    sequences: &[Sequence],
    depths: &[usize],
    ctx: &mut StageContext,
) -> Result<Vec<Vec<Vec<f32>>>, StageError> {
    let inputs = trainer.inputs;
    let device = trainer.device.clone().inner();
    let deepest = trainer.trunk(depths.iter().copied().max().unwrap_or(inputs.model.n_layers));
    let model = RewardModel::init(&deepest, inputs.init, 0.0, trainer.config.variance_floor, 0, &device)?;
    let mut by_depth = vec![vec![Vec::new(); sequences.len()]; depths.len()];
    let (mut n_read, mut n_told) = (0, 0);
    for (batch, rows) in batches(sequences) {
        obey(ctx, || Ok(()))?;
        if n_read >= n_told {
            ctx.observer.log(&format!("garm: {n_read} of {} texts read by the trunk as it is", sequences.len()));
            n_told = n_read + sequences.len().div_ceil(N_TOLD);
        }
        n_read += rows.len();
        for (features, of_depth) in model.features_at(&batch, depths, &device).into_iter().zip(&mut by_depth) {
            rows.iter().zip(host_rows(features)).for_each(|(i, feature)| of_depth[*i] = feature);
        }
    }
    Ok(by_depth)
}
