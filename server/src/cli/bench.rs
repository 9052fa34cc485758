//! `beckon bench`: speed of what only the server holds. The engine's speed, and rivals in the same run:
//! `cargo xtask bench`.

use super::DeviceArg;
use crate::model::bench::{Size, garm_step, sft_step};
use clap::{Args, ValueEnum};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchName {
    /// A full SFT step: forward, backward, AdamW.
    Sft,
    /// A full GaRM step on pairs.
    Garm,
}

/// Sizes of network and batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SizeArg {
    /// The test network, 8 rows of 32 tokens.
    Tiny,
    /// 5 M parameters, 16 rows of 64 tokens.
    #[value(name = "5m")]
    M5,
    /// 33 M parameters, 8 rows of 64 tokens.
    #[value(name = "33m")]
    M33,
}

impl From<SizeArg> for Size {
    fn from(size: SizeArg) -> Self {
        match size {
            SizeArg::Tiny => Self::Tiny,
            SizeArg::M5 => Self::M5,
            SizeArg::M33 => Self::M33,
        }
    }
}

/// Options of `beckon bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[arg(value_enum)]
    pub name: BenchName,
    /// Network and batch.
    #[arg(long, value_enum, default_value_t = SizeArg::M5)]
    pub size: SizeArg,
    /// Where Burn computes.
    #[arg(long, value_enum, default_value_t = DeviceArg::Auto)]
    pub device: DeviceArg,
    /// Steps under the clock.
    #[arg(long, default_value_t = 5)]
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
    let measure = match args.name {
        BenchName::Sft => sft_step,
        BenchName::Garm => garm_step,
    };
    let figure = measure(args.size.into(), args.device.into(), args.steps.max(1))?;
    if args.json {
        println!("{}", serde_json::to_string(&figure)?);
    } else {
        println!("{}: {:.0} {} on {}", figure.name, figure.ours, figure.unit, figure.device);
    }
    Ok(())
}
