//! Speed of one training step, for `beckon bench sft`. Synthetic rows, so that the figure depends on
//! the machine and the network alone; nothing is printed here.

use super::batch::{Batch, Sequence, plan};
use super::device::{DeviceError, pick_device};
use super::llama::Llama;
use super::optim::{AdamW, AdamWConfig};
use crate::stage::sft;
use beckon_shared::config::Preset;
use beckon_shared::control::DeviceChoice;
use burn::optim::GradientsParams;
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
}

/// The bench could not run.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// No such device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The preset is no network.
    #[error(transparent)]
    Model(#[from] super::ModelError),
}

/// Steps before the clock runs: kernels are compiled and memory is touched in them.
const N_WARMUP: usize = 2;

/// Tokens (padding excluded) per second of a full SFT step, forward, backward and AdamW, of
/// `preset` at 1,024 padded tokens a batch: the median over `n_steps` steps.
///
/// # Errors
/// A GPU was asked for and there is none.
pub fn sft_step(preset: Preset, choice: DeviceChoice, n_steps: usize) -> Result<BenchFigure, BenchError> {
    let (device, text) = pick_device(choice)?;
    let device = device.autodiff();
    let config = preset.model();
    let rows = rows(config.vocab_size as u32, 256);
    let lengths: Vec<usize> = rows.iter().map(|r| r.tokens.len()).collect();
    let batches = plan(&lengths, 1_024, 0, 0);
    let mut model = Llama::init(&config, 0, &device)?;
    let mut optimizer = AdamW::new(AdamWConfig::default());
    let mut speeds = Vec::with_capacity(n_steps);
    for step in 0..N_WARMUP + n_steps {
        let picked = &batches[step % batches.len()];
        let begun = Instant::now();
        let batch = Batch::pack(picked.iter().map(|&i| &rows[i]));
        let loss = sft::loss(&model, &batch, &vec![1.0; picked.len()], &device);
        let grads = GradientsParams::from_grads(loss.backward(), &model);
        // Reading the gradient's norm waits for the device, so the clock sees the whole step but
        // the update itself, which the next step's read waits for.
        (model, _) = optimizer.step(model, grads, 1e-3, &|_| 1.0);
        let n_tokens: usize = picked.iter().map(|&i| lengths[i]).sum();
        if step >= N_WARMUP {
            speeds.push(n_tokens as f64 / begun.elapsed().as_secs_f64());
        }
    }
    speeds.sort_by(f64::total_cmp);
    let ours = speeds.get(speeds.len() / 2).copied().unwrap_or(f64::NAN);
    let name = format!("sft_step {preset:?}").to_lowercase();
    Ok(BenchFigure { name, device: text, unit: "tokens/s".into(), ours, rival: None })
}

/// Rows like those of a click log: prompts of 8 to 40 tokens, suggestions of 6 to 14.
fn rows(vocab_size: u32, n: usize) -> Vec<Sequence> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let mut tokens = |low, high| -> Vec<u32> {
        let n = rng.random_range(low..=high);
        (0..n).map(|_| rng.random_range(5..vocab_size)).collect()
    };
    (0..n).map(|_| Sequence::new(&tokens(8, 40), &tokens(6, 14))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bench_gives_a_positive_figure() {
        let figure = sft_step(Preset::Tiny, DeviceChoice::Cpu, 1).expect("cpu is always there");
        assert!(figure.ours > 0.0 && figure.rival.is_none());
        assert_eq!((figure.name.as_str(), figure.unit.as_str()), ("sft_step tiny", "tokens/s"));
    }

    /// `cargo test --release -p beckon-server nano_step -- --ignored --nocapture`
    #[test]
    #[ignore = "slow: a measurement, not a check"]
    fn nano_step() {
        println!("{:?}", sft_step(Preset::Nano, DeviceChoice::Cpu, 12));
    }
}
