//! `beckon bench`: speed of what only the server holds. The engine's speed is `cargo xtask bench engine`.

use super::DeviceArg;
use super::run_loop::PresetArg;
use crate::model::bench::sft_step;
use clap::{Args, ValueEnum};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchName {
    /// A full SFT step: forward, backward, AdamW.
    Sft,
}

/// Options of `beckon bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[arg(value_enum)]
    pub name: BenchName,
    /// Model size.
    #[arg(long, value_enum, default_value_t = PresetArg::Nano)]
    pub preset: PresetArg,
    /// Where Burn computes.
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    pub device: DeviceArg,
    /// Steps under the clock.
    #[arg(long, default_value_t = 12)]
    pub steps: usize,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// Measures, and prints the figure.
///
/// # Errors
/// No such device.
pub fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let figure = match args.name {
        BenchName::Sft => sft_step(args.preset.into(), args.device.into(), args.steps.max(1))?,
    };
    if args.json {
        println!("{}", serde_json::to_string(&figure)?);
    } else {
        println!("{}: {:.0} {} on {}", figure.name, figure.ours, figure.unit, figure.device);
    }
    Ok(())
}
