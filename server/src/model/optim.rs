//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019) over the named parameters of any
//! Burn module, with one gradient-norm clip over all of them.
//!
//! Burn's own optimiser keeps its moments under parameter ids that are drawn anew in each process;
//! this one keeps them under module paths (`layers.0.q`), so that a training state can be saved and
//! restored bit for bit. Decay touches matrices only, not norms, biases and vectors.

use beckon_shared::tensor::{DenseTensor, TensorMap};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use std::collections::BTreeMap;

/// What AdamW keeps fixed over a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Share of a matrix taken away per step, times the learning rate.
    pub weight_decay: f64,
    /// Longest gradient, as the Euclidean norm over all parameters; longer ones are shortened to it.
    pub clip_norm: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta_1: 0.9, beta_2: 0.95, epsilon: 1e-8, weight_decay: 0.1, clip_norm: 1.0 }
    }
}

/// The optimiser and its moments.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    n_steps: u64,
    moments: BTreeMap<String, Moments>,
}

/// Running means of a parameter's gradient and of its square, flattened.
#[derive(Debug)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

/// Prefixes of the moments in a saved state.
const FIRST: &str = "adamw.first.";
const SECOND: &str = "adamw.second.";

impl AdamW {
    /// An optimiser that has seen nothing.
    pub fn new(config: AdamWConfig) -> Self {
        Self { config, n_steps: 0, moments: BTreeMap::new() }
    }

    /// The optimiser after `n_steps` steps, with the moments of [`Self::to_tensors`] (other names
    /// are ignored), on a device without autodiff.
    pub fn restore(config: AdamWConfig, n_steps: u64, tensors: &TensorMap, device: &Device) -> Self {
        let load = |t: &DenseTensor| Tensor::from_data(TensorData::new(t.data.clone(), t.shape.clone()), device);
        let moments = tensors.iter().filter_map(|(name, first)| {
            let path = name.strip_prefix(FIRST)?;
            let second = tensors.get(&format!("{SECOND}{path}"))?;
            Some((path.to_owned(), Moments { first: load(first), second: load(second) }))
        });
        Self { config, n_steps, moments: moments.collect() }
    }

    /// Steps taken, which the bias correction needs.
    pub fn n_steps(&self) -> u64 {
        self.n_steps
    }

    /// The moments, as `adamw.first.PATH` and `adamw.second.PATH`.
    pub fn to_tensors(&self) -> TensorMap {
        let mut tensors = TensorMap::new();
        for (path, moments) in &self.moments {
            for (prefix, tensor) in [(FIRST, &moments.first), (SECOND, &moments.second)] {
                let data = tensor.to_data().try_into_vec().expect("moments are f32");
                tensors.insert(format!("{prefix}{path}"), DenseTensor::new(tensor.dims().to_vec(), data));
            }
        }
        tensors
    }

    /// One step; gives the changed model and the norm of the gradient before clipping.
    ///
    /// `lr_scale` maps a module path (`layers.0.q`) to a factor on the learning rate `lr`; 1 is the
    /// rule, 0 freezes. Parameters without a gradient stay as they are. Where the norm is not
    /// finite nothing changes at all: the caller sees it in the norm and can stop.
    pub fn step<M: Module>(
        &mut self,
        model: M,
        grads: GradientsParams,
        lr: f64,
        lr_scale: &dyn Fn(&str) -> f64,
    ) -> (M, f64) {
        let norm = grad_norm(&model, &grads);
        if !norm.is_finite() {
            return (model, norm);
        }
        self.n_steps += 1;
        let clip = if norm > self.config.clip_norm { self.config.clip_norm / norm } else { 1.0 };
        let mut update = Update { optimizer: self, grads, lr, lr_scale, clip, path: Vec::new() };
        let model = model.map(&mut update);
        (model, norm)
    }

    /// New values of one flattened parameter:
    /// `m ← β₁m + (1-β₁)g`, `v ← β₂v + (1-β₂)g²`,
    /// `p ← p(1 - lr·decay) - lr · (m / (1-β₁ᵗ)) / (sqrt(v / (1-β₂ᵗ)) + ε)`.
    fn update(&mut self, path: &str, p: Tensor<1>, g: Tensor<1>, lr: f64, decay: f64) -> Tensor<1> {
        let AdamWConfig { beta_1, beta_2, epsilon, .. } = self.config;
        let t = self.n_steps as i32;
        // The bias corrections are folded into two scalars: fewer passes over memory.
        let root = (1.0 - beta_2.powi(t)).sqrt();
        let (step, epsilon) = (lr * root / (1.0 - beta_1.powi(t)), epsilon * root);
        let old = self.moments.remove(path);
        let (mut first, mut second) = (g.clone().mul_scalar(1.0 - beta_1), g.square().mul_scalar(1.0 - beta_2));
        if let Some(old) = old {
            first = old.first.mul_scalar(beta_1) + first;
            second = old.second.mul_scalar(beta_2) + second;
        }
        let direction = first.clone() / second.clone().sqrt().add_scalar(epsilon);
        self.moments.insert(path.to_owned(), Moments { first, second });
        p.mul_scalar(1.0 - lr * decay) - direction.mul_scalar(step)
    }
}

/// Applies [`AdamW::update`] to every parameter of a module.
struct Update<'a> {
    optimizer: &'a mut AdamW,
    grads: GradientsParams,
    lr: f64,
    lr_scale: &'a dyn Fn(&str) -> f64,
    clip: f64,
    path: Vec<String>,
}

impl ModuleMapper for Update<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(grad) = self.grads.remove::<D>(param.id) else {
            return param;
        };
        let path = self.path.join(".");
        let lr = self.lr * (self.lr_scale)(&path);
        let (id, value, mapper) = param.consume();
        let shape = value.shape();
        let n = shape.num_elements();
        let grad = grad.reshape([n]);
        let grad = if self.clip < 1.0 { grad.mul_scalar(self.clip) } else { grad };
        let decay = if D >= 2 { self.optimizer.config.weight_decay } else { 0.0 };
        let value = self.optimizer.update(&path, value.inner().reshape([n]), grad, lr, decay);
        let value = Tensor::<D>::from_inner(value.reshape(shape)).require_grad();
        Param::from_mapped_value(id, value, mapper)
    }
}

/// Euclidean norm of all gradients of `model` taken together. One read from the device.
pub fn grad_norm<M: Module>(model: &M, grads: &GradientsParams) -> f64 {
    struct Squares<'a> {
        grads: &'a GradientsParams,
        squares: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(grad) = self.grads.get::<D>(param.id) {
                self.squares.push(grad.square().sum());
            }
        }
    }
    let mut visitor = Squares { grads, squares: Vec::new() };
    model.visit(&mut visitor);
    if visitor.squares.is_empty() {
        return 0.0;
    }
    let squares = Tensor::cat(visitor.squares, 0).into_data();
    let squares: Vec<f32> = squares.try_into_vec().expect("gradients are f32");
    squares.into_iter().map(f64::from).sum::<f64>().sqrt()
}

/// Learning rate of step `step` (from 0): a linear rise over `n_warmup` steps to `peak`, then a
/// cosine down to a tenth of it at the last of `n_steps`.
pub fn warmup_cosine(step: usize, n_steps: usize, n_warmup: usize, peak: f64) -> f64 {
    if step < n_warmup {
        return peak * (step + 1) as f64 / n_warmup as f64;
    }
    let done = (step - n_warmup) as f64 / n_steps.saturating_sub(n_warmup + 1).max(1) as f64;
    let floor = 0.1;
    peak * (floor + (1.0 - floor) * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()))
}
