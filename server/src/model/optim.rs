//! AdamW with decoupled weight decay (Loshchilov and Hutter 2019) over the named parameters of any
//! Burn module, with one gradient-norm clip over all of them.
//!
//! Burn's own optimiser keeps its moments under parameter ids that are drawn anew in each process;
//! this one keeps them under module paths (`layers.0.q.weight`), so that a training state can be saved and
//! restored bit for bit. Decay touches matrices only, not norms, biases and vectors. On Burn's CPU backend a
//! step is one pass over memory (`ops::fused::adamw`), which changes parameter and moments in place.

use super::ops::{self, fused};
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
    /// `lr_scale` maps a module path (`layers.0.q.weight`) to a factor on the learning rate `lr`; 1 is the
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

    /// New values of one flattened parameter, with `g` the gradient times `clip`:
    /// `m ← β₁m + (1-β₁)g`, `v ← β₂v + (1-β₂)g²`,
    /// `p ← p(1 - lr·decay) - lr · (m / (1-β₁ᵗ)) / (sqrt(v / (1-β₂ᵗ)) + ε)`.
    fn update(&mut self, path: &str, p: Tensor<1>, g: Tensor<1>, lr: f64, decay: f64, clip: f64) -> Tensor<1> {
        let AdamWConfig { beta_1, beta_2, epsilon, .. } = self.config;
        let t = self.n_steps as i32;
        // The bias corrections are folded into two scalars: fewer passes over memory.
        let root = (1.0 - beta_2.powi(t)).sqrt();
        let (rate, epsilon) = (lr * root / (1.0 - beta_1.powi(t)), epsilon * root);
        let keep = 1.0 - lr * decay;
        let Moments { first, second } =
            self.moments.remove(path).unwrap_or_else(|| Moments { first: g.zeros_like(), second: g.zeros_like() });
        let (p, moments) = if ops::is_fused(&p.device()) {
            let [clip, beta_1, beta_2, rate, epsilon, keep] =
                [clip, beta_1, beta_2, rate, epsilon, keep].map(|x| x as f32);
            let step = fused::adamw::Step { clip, beta_1, beta_2, rate, epsilon, keep };
            let [p, first, second] = fused::adamw_step([p, first, second], g, step);
            (p, Moments { first, second })
        } else {
            let g = if clip < 1.0 { g.mul_scalar(clip) } else { g };
            let first = first.mul_scalar(beta_1) + g.clone().mul_scalar(1.0 - beta_1);
            let second = second.mul_scalar(beta_2) + g.square().mul_scalar(1.0 - beta_2);
            let direction = first.clone() / second.clone().sqrt().add_scalar(epsilon);
            (p.mul_scalar(keep) - direction.mul_scalar(rate), Moments { first, second })
        };
        self.moments.insert(path.to_owned(), moments);
        p
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
        let decay = if D >= 2 { self.optimizer.config.weight_decay } else { 0.0 };
        let value = self.optimizer.update(&path, value.inner().reshape([n]), grad, lr, decay, self.clip);
        let value = Tensor::<D>::from_inner(value.reshape(shape)).require_grad();
        Param::from_mapped_value(id, value, mapper)
    }
}

/// Euclidean norm of all gradients of `model` taken together. One read from the device.
pub fn grad_norm<M: Module>(model: &M, grads: &GradientsParams) -> f64 {
    struct Squares<'a> {
        grads: &'a GradientsParams,
        /// Of gradients on the host.
        sum: f64,
        /// Of gradients elsewhere, which are read together.
        elsewhere: Vec<Tensor<1>>,
    }
    impl ModuleVisitor for Squares<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            match self.grads.get::<D>(param.id) {
                Some(grad) if ops::is_fused(&grad.device()) => self.sum += fused::sum_squares(grad),
                Some(grad) => self.elsewhere.push(grad.square().sum()),
                None => {}
            }
        }
    }
    let mut visitor = Squares { grads, sum: 0.0, elsewhere: Vec::new() };
    model.visit(&mut visitor);
    let Squares { sum, elsewhere, .. } = visitor;
    if elsewhere.is_empty() {
        return sum.sqrt();
    }
    let squares: Vec<f32> = Tensor::cat(elsewhere, 0).into_data().try_into_vec().expect("gradients are f32");
    (sum + squares.into_iter().map(f64::from).sum::<f64>()).sqrt()
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

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::metrics::assert_close;

    #[derive(Module, Debug)]
    struct Pair {
        matrix: Param<Tensor<2>>,
        bias: Param<Tensor<1>>,
    }

    fn pair(device: &Device) -> Pair {
        let data = |values: &[f32], shape: &[usize]| TensorData::new(values.to_vec(), shape.to_vec());
        Pair {
            matrix: Param::from_data(data(&[1.0, -2.0], &[1, 2]), device),
            bias: Param::from_data(data(&[0.5], &[1]), device),
        }
    }

    /// Gradients: `(a, b)` of the matrix, `c` of the bias.
    fn grads(pair: &Pair, values: [f32; 3], device: &Device) -> GradientsParams {
        let factor = Tensor::<2>::from_data([[values[0], values[1]]], device);
        let loss = (pair.matrix.val() * factor).sum() + pair.bias.val().mul_scalar(values[2]).sum();
        GradientsParams::from_grads(loss.backward(), pair)
    }

    fn values(pair: &Pair) -> [f32; 3] {
        let matrix: Vec<f32> = pair.matrix.val().into_data().try_into_vec().expect("f32");
        [matrix[0], matrix[1], pair.bias.val().into_scalar()]
    }

    /// The published formula in f64, without folded bias corrections.
    fn reference(p: &mut [f64; 3], steps: &[[f64; 3]], lr: f64, scale: [f64; 3], c: &AdamWConfig) {
        let (mut m, mut v) = ([0.0; 3], [0.0; 3]);
        for (t, g) in steps.iter().enumerate() {
            let norm = g.iter().map(|x| x * x).sum::<f64>().sqrt();
            let clip = if norm > c.clip_norm { c.clip_norm / norm } else { 1.0 };
            for i in 0..3 {
                let g = g[i] * clip;
                m[i] = c.beta_1 * m[i] + (1.0 - c.beta_1) * g;
                v[i] = c.beta_2 * v[i] + (1.0 - c.beta_2) * g * g;
                let t = t as i32 + 1;
                let (m_hat, v_hat) = (m[i] / (1.0 - c.beta_1.powi(t)), v[i] / (1.0 - c.beta_2.powi(t)));
                let decay = if i < 2 { c.weight_decay } else { 0.0 };
                let lr = lr * scale[i];
                p[i] = p[i] * (1.0 - lr * decay) - lr * m_hat / (v_hat.sqrt() + c.epsilon);
            }
        }
    }

    #[test]
    fn steps_follow_the_formula_with_clip_decay_and_groups() {
        let device = Device::flex().autodiff();
        let config = AdamWConfig { weight_decay: 0.5, ..AdamWConfig::default() };
        let gradients = [[0.3, -0.4, 0.0], [30.0, 4.0, -2.0], [0.01, 0.02, 0.5]];
        let mut model = pair(&device);
        let mut optimizer = AdamW::new(config);
        let mut norms = Vec::new();
        for g in gradients {
            let g = grads(&model, g.map(|x| x as f32), &device);
            let norm;
            (model, norm) = optimizer.step(model, g, 0.1, &|path| if path == "bias" { 0.3 } else { 1.0 });
            norms.push(norm);
        }
        let mut want = [1.0, -2.0, 0.5];
        reference(&mut want, &gradients, 0.1, [1.0, 1.0, 0.3], &config);
        for (i, (got, want)) in values(&model).iter().zip(want).enumerate() {
            assert_close(&format!("parameter {i}"), *got, want, 1e-5);
        }
        assert_close("norm before clipping", norms[1], (900.0f64 + 16.0 + 4.0).sqrt(), 1e-4);
        assert_eq!(optimizer.n_steps(), 3);
    }

    #[test]
    fn restored_moments_go_on_bit_for_bit() {
        let device = Device::flex().autodiff();
        let step = |model: Pair, optimizer: &mut AdamW, k: f32| {
            let g = grads(&model, [0.1 * k, -0.7, 0.3 / k], &device);
            optimizer.step(model, g, 0.01, &|_| 1.0).0
        };
        let mut straight = AdamW::new(AdamWConfig::default());
        let mut model = pair(&device);
        for k in [1.0, 2.0, 3.0] {
            model = step(model, &mut straight, k);
        }
        let saved = straight.to_tensors();
        let names: Vec<&str> = saved.keys().map(String::as_str).collect();
        let want = ["adamw.first.bias", "adamw.first.matrix", "adamw.second.bias", "adamw.second.matrix"];
        assert_eq!(names, want);
        let mut restored = AdamW::restore(AdamWConfig::default(), straight.n_steps(), &saved, &Device::flex());
        let copy = step(model.clone(), &mut restored, 4.0);
        let model = step(model, &mut straight, 4.0);
        assert_eq!(values(&copy).map(f32::to_bits), values(&model).map(f32::to_bits));
        assert_eq!(restored.to_tensors(), straight.to_tensors());
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let device = Device::flex().autodiff();
        let model = pair(&device);
        let g = grads(&model, [f32::NAN, 0.0, 0.0], &device);
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let (model, norm) = optimizer.step(model, g, 0.1, &|_| 1.0);
        assert!(norm.is_nan());
        assert_eq!((values(&model), optimizer.n_steps()), ([1.0, -2.0, 0.5], 0));
    }

    #[test]
    fn a_parameter_without_gradient_stays() {
        let device = Device::flex().autodiff();
        let model = pair(&device);
        let loss = model.bias.val().sum();
        let g = GradientsParams::from_grads(loss.backward(), &model);
        let (model, _) = AdamW::new(AdamWConfig::default()).step(model, g, 0.1, &|_| 1.0);
        assert_eq!(values(&model)[..2], [1.0, -2.0]);
        assert!(values(&model)[2] < 0.5);
    }

    #[test]
    fn the_learning_rate_rises_then_falls_to_a_tenth() {
        let lr = |step| warmup_cosine(step, 101, 10, 2.0);
        assert_close("first", lr(0), 0.2, 1e-12);
        assert_close("end of warm-up", lr(9), 2.0, 1e-12);
        assert_close("peak", lr(10), 2.0, 1e-12);
        assert_close("middle", lr(55), 1.1, 1e-12);
        assert_close("last", lr(100), 0.2, 1e-12);
        assert_close("a run of one step", warmup_cosine(0, 1, 0, 2.0), 2.0, 1e-12);
    }
}
