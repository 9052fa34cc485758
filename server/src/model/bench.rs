//! Speed of training steps, for `beckon bench`. Synthetic rows, so that a figure depends on the machine and the
//! network alone; nothing is printed here. The setting goes out with the figure: a rival is given the same.

use super::batch::{Batch, Sequence};
use super::device::{DeviceError, pick_device};
use super::llama::Llama;
use super::optim::{AdamW, AdamWConfig};
use super::reward::RewardModel;
use super::reward::likelihood::pair_loss;
use crate::stage::sft;
use beckon_shared::config::{ModelConfig, Preset};
use beckon_shared::control::DeviceChoice;
use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::time::Instant;

/// One measured number, in the form that every bench of the project prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BenchFigure {
    /// What was measured.
    pub name: String,
    /// On what.
    pub device: String,
    /// Of what.
    pub unit: String,
    /// Our value.
    pub ours: f64,
    /// A rival's value from the same run, where one was run.
    pub rival: Option<f64>,
    /// What a rival needs to do the same work.
    pub setting: Setting,
}

/// The work that is measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// The network.
    pub model: ModelConfig,
    /// Rows of a step.
    pub n_rows: usize,
    /// Tokens of a row. All of them count; a policy learns to predict each from those before it.
    pub n_tokens: usize,
    /// Threads of the CPU backend.
    pub n_threads: usize,
    /// Steps under the clock.
    pub n_steps: usize,
}

/// Sizes of network and batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// The test network: 8 rows of 32 tokens.
    Tiny,
    /// 5.0 M parameters, 16 rows of 64 tokens.
    M5,
    /// 33 M parameters, 8 rows of 64 tokens.
    M33,
}

/// The bench could not run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The size is no network.
    #[error(transparent)]
    Model(#[from] super::ModelError),
}

/// Steps before the clock runs: kernels are compiled and memory is touched in them.
const N_WARMUP: usize = 2;
const RATE: f64 = 1e-4;

impl Size {
    /// As it is named on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::M5 => "5m",
            Self::M33 => "33m",
        }
    }

    fn setting(self, n_steps: usize) -> Setting {
        let base = Preset::Nano.model();
        let (model, n_rows, n_tokens) = match self {
            Self::Tiny => (Preset::Tiny.model(), 8, 32),
            Self::M5 => (ModelConfig { d_ff: 1024, ..base }, 16, 64),
            Self::M33 => {
                let heads = ModelConfig { n_heads: 9, n_kv_heads: 3, head_dim: 64, ..base };
                (ModelConfig { vocab_size: 8192, d_model: 576, n_layers: 6, d_ff: 2240, ..heads }, 8, 64)
            }
        };
        let n_threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Setting { model, n_rows, n_tokens, n_threads, n_steps }
    }
}

impl Setting {
    /// Random rows: a prompt of one token, so that every later token is predicted.
    fn rows(&self, n: usize) -> Vec<Sequence> {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let v = self.model.vocab_size as u32;
        let mut tokens = |n: usize| -> Vec<u32> { (0..n).map(|_| rng.random_range(5..v)).collect() };
        (0..n).map(|_| Sequence::new(&tokens(1), &tokens(self.n_tokens - 1))).collect()
    }

    /// Tokens per second: the median over the steps of a training whose loss is `loss`.
    fn measure<M: Module>(
        &self,
        mut model: M,
        loss: impl Fn(&M, &[Sequence], &Device) -> Tensor<1>,
        device: &Device,
    ) -> f64 {
        const N_BATCHES: usize = 4;
        let rows = self.rows(N_BATCHES * self.n_rows);
        let mut optimizer = AdamW::new(AdamWConfig::default());
        let mut speeds = Vec::with_capacity(self.n_steps);
        for step in 0..N_WARMUP + self.n_steps {
            let first = step % N_BATCHES * self.n_rows;
            let begun = Instant::now();
            let loss = loss(&model, &rows[first..first + self.n_rows], device);
            let grads = GradientsParams::from_grads(loss.backward(), &model);
            // Reading the gradient's norm waits for the device, so the clock sees the whole step but
            // the update itself, which the next step's read waits for.
            (model, _) = optimizer.step(model, grads, RATE, &|_| 1.0);
            if step >= N_WARMUP {
                speeds.push((self.n_rows * self.n_tokens) as f64 / begun.elapsed().as_secs_f64());
            }
        }
        speeds.sort_by(f64::total_cmp);
        speeds.get(speeds.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn figure(self, name: &str, size: Size, device: String, ours: f64) -> BenchFigure {
        let name = format!("{name} {}", size.name());
        BenchFigure { name, device, unit: "tokens/s".into(), ours, rival: None, setting: self }
    }
}

/// A full SFT step: forward, backward, gradient norm, AdamW.
///
/// # Errors
/// A GPU was asked for and there is none.
pub fn sft_step(size: Size, choice: DeviceChoice, n_steps: usize) -> Result<BenchFigure, BenchError> {
    let (device, text) = pick_device(choice)?;
    let device = device.autodiff();
    let setting = size.setting(n_steps);
    let model = Llama::init(&setting.model, 0, &device)?;
    let loss = |model: &Llama, rows: &[Sequence], device: &Device| {
        sft::loss(model, &Batch::pack(rows), &vec![1.0; rows.len()], device)
    };
    let ours = setting.measure(model, loss, &device);
    Ok(setting.figure("sft", size, text, ours))
}

/// A full GaRM step on pairs, half of the rows chosen and half rejected: forward with both heads, the pair
/// loss of method B.2.1, backward, gradient norm, AdamW.
///
/// # Errors
/// A GPU was asked for and there is none.
pub fn garm_step(size: Size, choice: DeviceChoice, n_steps: usize) -> Result<BenchFigure, BenchError> {
    let (device, text) = pick_device(choice)?;
    let device = device.autodiff();
    let setting = size.setting(n_steps);
    let policy = Llama::init(&setting.model, 0, &device)?.to_tensors();
    let model = RewardModel::init(&setting.model, &policy, 0.0, 0.05, 0, &device)?;
    let loss = |model: &RewardModel, rows: &[Sequence], device: &Device| {
        let constant =
            |x: f32| Tensor::<1>::from_data(TensorData::new(vec![x; rows.len() / 2], [rows.len() / 2]), device).inner();
        let rewards = model.rewards(model.features(&Batch::pack(rows), device));
        pair_loss(rewards.mean, rewards.variance.log(), constant(1.0), constant(1.0), 2.0).mean()
    };
    let ours = setting.measure(model, loss, &device);
    Ok(setting.figure("garm", size, text, ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benches_give_positive_figures() {
        for (bench, name) in [(sft_step as fn(_, _, _) -> _, "sft tiny"), (garm_step, "garm tiny")] {
            let figure: BenchFigure = bench(Size::Tiny, DeviceChoice::Cpu, 1).expect("cpu is always there");
            assert!(figure.ours > 0.0 && figure.rival.is_none());
            assert_eq!((figure.name.as_str(), figure.unit.as_str()), (name, "tokens/s"));
        }
    }

    #[test]
    fn the_sizes_hold_what_they_are_named_after() {
        let millions = |size: Size| (size.setting(1).model.n_params() as f64 / 1e6).round();
        assert_eq!((millions(Size::M5), millions(Size::M33)), (5.0, 33.0));
        for size in [Size::Tiny, Size::M5, Size::M33] {
            size.setting(1).model.validate().expect("a network");
        }
    }
}
