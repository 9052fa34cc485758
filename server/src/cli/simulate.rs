//! `beckon simulate`: simulated users, every trace of them labelled as simulated. They leave a click log, or, with
//! `--experiment`, they visit a running experiment through its public endpoints.

use super::remote::ServerArgs;
use crate::remote::Remote;
use crate::simulate::logging::{SAMPLE_IMPRESSIONS, SAMPLE_SEED, SAMPLE_USERS, write_log};
use crate::simulate::traffic::{Traffic, drive};
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;

/// Options of `beckon simulate`; the defaults make the sample log that ships with beckon.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// File to write, as our own JSONL.
    #[arg(long, default_value = "simulated.jsonl", conflicts_with = "experiment")]
    pub out: PathBuf,
    /// Showings of the log.
    #[arg(long, default_value_t = SAMPLE_IMPRESSIONS, conflicts_with = "experiment")]
    pub impressions: usize,
    /// Users.
    #[arg(long, default_value_t = SAMPLE_USERS)]
    pub users: usize,
    /// Seed of the users and their clicks; the same seed gives the same file, and the same visitors.
    #[arg(long, default_value_t = SAMPLE_SEED)]
    pub seed: u64,
    /// Visit this running experiment (as `e2`) of a server instead of writing a log.
    #[arg(long)]
    pub experiment: Option<String>,
    /// Ingest key of the experiment; a local server takes its own user without one.
    #[arg(long, env = "BECKON_INGEST_KEY", hide_env_values = true, requires = "experiment")]
    pub key: Option<String>,
    /// Slates that each user of the experiment sees.
    #[arg(long, default_value_t = 3, requires = "experiment")]
    pub visits: usize,
    /// Different conversations that they have.
    #[arg(long, default_value_t = 48, requires = "experiment")]
    pub prompts: usize,
    /// Days over which they seem to come, the last of which ends now.
    #[arg(long, default_value_t = 1, requires = "experiment")]
    pub days: usize,
    /// Seed of the world they live in; the sample log is from the default one.
    #[arg(long, default_value_t = SAMPLE_SEED, requires = "experiment")]
    pub world: u64,
    #[command(flatten)]
    server: ServerArgs,
}

/// Writes the log, or visits the experiment.
///
/// # Errors
/// The file cannot be written; the server refuses, or does not answer.
pub fn simulate(args: &SimulateArgs) -> anyhow::Result<()> {
    if let Some(experiment) = &args.experiment {
        return visit(args, experiment);
    }
    let shown = args.out.display();
    write_log(args.impressions, args.users, args.seed, &args.out).with_context(|| format!("cannot write {shown}"))?;
    println!("{shown}: {} simulated impressions, seed {}", args.impressions, args.seed);
    Ok(())
}

fn visit(args: &SimulateArgs, experiment: &str) -> anyhow::Result<()> {
    let viewer = args.server.open()?;
    let intake = match &args.key {
        Some(key) => Remote::new(&args.server.server, Some(key), args.server.ca.as_deref())?,
        None => viewer.clone(),
    };
    let traffic = Traffic {
        experiment: experiment.to_owned(),
        n_users: args.users,
        n_visits: args.visits.max(1),
        n_prompts: args.prompts,
        n_days: args.days.max(1),
        seed: args.seed,
        world_seed: args.world,
    };
    let visits = drive(&intake, &viewer, &traffic, |visits| {
        eprintln!("{} of {} simulated users, {} clicks", visits.n_users, traffic.n_users, visits.n_clicks);
    })?;
    println!("{}", serde_json::to_string(&visits)?);
    if visits.n_clicks == 0 && visits.n_exposures > visits.n_empty {
        eprintln!(
            "nobody clicked: simulated users only want what the simulated world knows, so let at least one arm be a checkpoint \
             that was trained on its log"
        );
    }
    Ok(())
}
