//! `beckon simulate`: a click log of simulated users, every record labelled as simulated.

use crate::simulate::logging::{SAMPLE_IMPRESSIONS, SAMPLE_SEED, SAMPLE_USERS, write_log};
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;

/// Options of `beckon simulate`; the defaults make the sample log that ships with beckon.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// File to write, as our own JSONL.
    #[arg(long, default_value = "simulated.jsonl")]
    pub out: PathBuf,
    /// Showings.
    #[arg(long, default_value_t = SAMPLE_IMPRESSIONS)]
    pub impressions: usize,
    /// Users.
    #[arg(long, default_value_t = SAMPLE_USERS)]
    pub users: usize,
    /// Seed of the users and their clicks; the same seed gives the same file.
    #[arg(long, default_value_t = SAMPLE_SEED)]
    pub seed: u64,
}

/// Writes the log.
///
/// # Errors
/// The file cannot be written.
pub fn simulate(args: &SimulateArgs) -> anyhow::Result<()> {
    let shown = args.out.display();
    write_log(args.impressions, args.users, args.seed, &args.out).with_context(|| format!("cannot write {shown}"))?;
    println!("{shown}: {} simulated impressions, seed {}", args.impressions, args.seed);
    Ok(())
}
