//! `beckon ab`: analyses an A/B test from a file, or plans one. The statistics are `beckon_shared::ab`; here
//! are files, options and words.

mod text;

use super::remote::FarArgs;
use crate::remote::Remote;
use anyhow::{Context, bail};
use beckon_shared::ab::input::{InputError, Table, parse, upworthy, users_from_impressions};
use beckon_shared::ab::plan::{Planned, detectable_lift, plan};
use beckon_shared::ab::posterior::Prior;
use beckon_shared::ab::report::headlines::{self, HeadlineReport};
use beckon_shared::ab::report::{Design, Looks, Report, Settings, analyze};
use beckon_shared::click::Record;
use beckon_shared::import::{self, Format};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Options of `beckon ab`.
#[derive(Debug, Args)]
pub struct AbArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What a test shows so far, and what may be claimed.
    Analyze(Box<AnalyzeArgs>),
    /// Users and days that a test needs.
    Plan(PlanArgs),
}

/// What the file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    /// Counts of arms or rows of users, told apart by the columns.
    Table,
    /// Our own click log; needs --experiment.
    Log,
    /// Upworthy Research Archive: each test with one picture by itself, Holm over all.
    Upworthy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DesignArg {
    /// Any number of looks.
    Sequential,
    /// One look, at the planned size.
    Fixed,
}

#[derive(Debug, Args)]
struct AnalyzeArgs {
    /// CSV or JSONL file: `arm,impressions|users,clicks`, or one row a user: `user,arm,impressions,clicks` and
    /// optionally `pre_impressions,pre_clicks`, `requests,no_suggestion`, `latency_millis_sum`, `day`, strata.
    #[arg(long)]
    input: PathBuf,
    /// What the file holds.
    #[arg(long, value_enum, default_value_t = FormatArg::Table)]
    format: FormatArg,
    /// The experiment of a click log.
    #[arg(long)]
    experiment: Option<String>,
    /// The arm that the others are compared with; the first of the file unless told.
    #[arg(long)]
    control: Option<String>,
    /// Planned shares of users, as A=0.9,B=0.1; equal unless told.
    #[arg(long, value_delimiter = ',', value_parser = named_number)]
    shares: Vec<(String, f64)>,
    /// Columns that are strata, besides device_tier and browser.
    #[arg(long, value_delimiter = ',')]
    strata: Vec<String>,
    /// Chance of any false claim.
    #[arg(long, default_value_t = Settings::default().alpha)]
    alpha: f64,
    /// How a claim is made; decided before the test.
    #[arg(long, value_enum, default_value_t = DesignArg::Sequential)]
    design: DesignArg,
    /// Users in each arm that the test was planned for (`beckon ab plan`); tunes the confidence sequence.
    #[arg(long)]
    planned_users: Option<f64>,
    /// Adjust by the columns of the time before the test; decided before the test.
    #[arg(long)]
    cuped: bool,
    /// Normal prior of the lift for the posterior picture, as 0,0.1 (mean, standard deviation); flat unless told.
    #[arg(long, value_parser = prior)]
    prior: Option<Prior>,
    /// Accepted relative rise of the no-suggestion rate.
    #[arg(long, default_value_t = Settings::default().no_suggestion_margin)]
    no_suggestion_margin: f64,
    /// Accepted relative rise of mean latency.
    #[arg(long, default_value_t = Settings::default().latency_margin)]
    latency_margin: f64,
    /// Of a click log, count users with this time after their first impression, in hours, once it is over; decided before
    /// the test. Everything so far unless told.
    #[arg(long, requires = "experiment")]
    observation_hours: Option<f64>,
    /// File that carries the looks at this test from one analysis to the next; made where it is missing.
    #[arg(long)]
    looks: Option<PathBuf>,
    /// Print JSON in place of text.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    far: FarArgs,
}

#[derive(Debug, Args)]
struct PlanArgs {
    /// Click rate of the control.
    #[arg(long)]
    base_rate: f64,
    /// Relative lift to detect, as 0.34.
    #[arg(long, required_unless_present = "users")]
    lift: Option<f64>,
    /// In place of a lift: users in each arm; prints the smallest lift that they detect.
    #[arg(long, conflicts_with = "lift")]
    users: Option<f64>,
    /// Chance of any false claim.
    #[arg(long, default_value_t = 0.05)]
    alpha: f64,
    /// Chance to detect the lift.
    #[arg(long, default_value_t = 0.8)]
    power: f64,
    /// Arms besides the control.
    #[arg(long, default_value_t = 1)]
    treatments: usize,
    /// Mean impressions of a user during the test.
    #[arg(long, default_value_t = 1.0)]
    impressions_per_user: f64,
    /// Variance over users against independent impressions; `beckon ab analyze` prints that of a test.
    #[arg(long, default_value_t = 1.0)]
    design_effect: f64,
    /// Users a day that enter the test, all arms together.
    #[arg(long)]
    users_per_day: Option<f64>,
    /// Print JSON in place of text.
    #[arg(long)]
    json: bool,
}

fn named_number(text: &str) -> Result<(String, f64), String> {
    let parts =
        text.split_once('=').and_then(|(name, value)| Some((name.trim().to_owned(), value.trim().parse().ok()?)));
    parts.ok_or_else(|| format!("`{text}`; expected a name and a number, as A=0.5"))
}

fn prior(text: &str) -> Result<Prior, String> {
    let parts = text.split_once(',').and_then(|(mean, std_dev)| {
        Some(Prior { mean: mean.trim().parse().ok()?, std_dev: std_dev.trim().parse().ok()? })
    });
    parts.ok_or_else(|| format!("`{text}`; expected a mean and a standard deviation, as 0,0.1"))
}

/// Analyses or plans, and prints.
///
/// # Errors
/// In words for people, naming file, line and column.
pub fn ab(args: &AbArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Analyze(args) => analyze_file(args),
        What::Plan(args) => plan_test(args),
    }
}

fn analyze_file(args: &AnalyzeArgs) -> anyhow::Result<()> {
    let shown = args.input.display();
    if args.observation_hours.is_some() && args.format != FormatArg::Log {
        bail!("--observation-hours is for --format log; rows of users have totals already, of the time that you chose");
    }
    if let Some(remote) = args.far.open()? {
        return analyze_there(&remote, args);
    }
    let bytes = std::fs::read(&args.input).with_context(|| format!("cannot read {shown}"))?;
    if args.format == FormatArg::Upworthy {
        let report = upworthy_report(&bytes, args.alpha).with_context(|| shown.to_string())?;
        return print(args.json, &report, text::headlines);
    }
    let settings = settings(args);
    settings.validate()?;
    let table = table(&bytes, args).with_context(|| shown.to_string())?;
    let before = args.looks.as_deref().map(read_looks).transpose()?.flatten();
    let (report, looks) = analyze(&table, &settings, before.as_ref())?;
    if let Some(path) = &args.looks {
        write_looks(path, &looks)?;
    }
    print(args.json, &report, text::report)
}

fn settings(args: &AnalyzeArgs) -> Settings {
    Settings {
        design: match args.design {
            DesignArg::Sequential => Design::Sequential,
            DesignArg::Fixed => Design::Fixed,
        },
        alpha: args.alpha,
        control: args.control.clone(),
        shares: args.shares.iter().cloned().collect::<BTreeMap<_, _>>(),
        planned_users_per_arm: args.planned_users,
        cuped: args.cuped,
        prior: args.prior,
        no_suggestion_margin: args.no_suggestion_margin,
        latency_margin: args.latency_margin,
        observation_hours: args.observation_hours,
    }
}

/// The analysis that a server makes of the file; the looks are kept here.
fn analyze_there(remote: &Remote, args: &AnalyzeArgs) -> anyhow::Result<()> {
    let shown = args.input.display();
    let text = std::fs::read_to_string(&args.input).with_context(|| format!("cannot read {shown}"))?;
    let format = match args.format {
        FormatArg::Table => "table",
        FormatArg::Log => "log",
        FormatArg::Upworthy => "upworthy",
    };
    let before = args.looks.as_deref().map(read_looks).transpose()?.flatten();
    let wish = json!({
        "text": text, "format": format, "experiment": args.experiment.as_deref().unwrap_or_default(), "strata": args.strata,
        "settings": settings(args), "looks": before,
    });
    let mut answer: Value = remote.post("/api/analyze", &wish).with_context(|| shown.to_string())?;
    let mut field = |name: &str| answer.get_mut(name).map(Value::take).unwrap_or_default();
    let not_understood = "the server's analysis was not understood: are both of the same version?";
    if args.format == FormatArg::Upworthy {
        let report: HeadlineReport = serde_json::from_value(field("headlines")).context(not_understood)?;
        return print(args.json, &report, text::headlines);
    }
    let report: Report = serde_json::from_value(field("report")).context(not_understood)?;
    if let Some(path) = &args.looks {
        let looks: Looks = serde_json::from_value(field("looks")).context(not_understood)?;
        write_looks(path, &looks)?;
    }
    print(args.json, &report, text::report)
}

fn print<T: serde::Serialize>(json: bool, report: &T, words: fn(&T) -> String) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        print!("{}", words(report));
    }
    Ok(())
}

fn upworthy_report(bytes: &[u8], alpha: f64) -> anyhow::Result<HeadlineReport> {
    if !(alpha > 0.0 && alpha < 1.0) {
        bail!("alpha is {alpha}; expected a level above 0 and below 1, as 0.05");
    }
    Ok(headlines::analyze(&upworthy::parse(bytes)?, alpha)?)
}

fn table(bytes: &[u8], args: &AnalyzeArgs) -> anyhow::Result<Table> {
    if args.format != FormatArg::Log {
        return Ok(parse(bytes, &args.strata)?);
    }
    let Some(experiment) = &args.experiment else {
        bail!("a click log holds many experiments; name one with --experiment")
    };
    let parsed = import::parse(Format::Jsonl, bytes);
    if let Some(reject) = parsed.rejects.into_iter().next() {
        return Err(InputError { line: reject.line, column: reject.field, problem: reject.reason }.into());
    }
    let impressions = parsed.records.iter().filter_map(|sourced| match &sourced.record {
        Record::Impression(impression) => Some(impression),
        _ => None,
    });
    let users = users_from_impressions(impressions, experiment, args.observation_hours);
    if users.arms.is_empty() {
        bail!("no impression of experiment `{experiment}` with an arm");
    }
    Ok(Table::Users(users))
}

/// The looks so far; `None` where there is no file yet.
fn read_looks(path: &Path) -> anyhow::Result<Option<Looks>> {
    let shown = path.display();
    match std::fs::read(path) {
        Ok(bytes) => {
            Ok(Some(serde_json::from_slice(&bytes).with_context(|| format!("no looks of a test in {shown}"))?))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {shown}")),
    }
}

/// Whole or not at all: the file appears by rename.
fn write_looks(path: &Path, looks: &Looks) -> anyhow::Result<()> {
    let shown = path.display();
    let beside = path.with_extension("part");
    std::fs::write(&beside, serde_json::to_vec_pretty(looks)?)
        .and_then(|()| std::fs::File::open(&beside)?.sync_all())
        .and_then(|()| std::fs::rename(&beside, path))
        .with_context(|| format!("cannot write {shown}"))
}

fn plan_test(args: &PlanArgs) -> anyhow::Result<()> {
    let planned = Planned {
        base_rate: args.base_rate,
        lift: args.lift.unwrap_or(0.1),
        alpha: args.alpha,
        power: args.power,
        n_treatments: args.treatments,
        impressions_per_user: args.impressions_per_user,
        design_effect: args.design_effect,
        users_per_day: args.users_per_day,
    };
    let Some(users) = args.users else {
        return print(args.json, &plan(planned)?, text::plan);
    };
    let (fixed, always_valid) = detectable_lift(planned, users)?;
    if args.json {
        let lifts = json!({
            "n_users_per_arm": users, "fixed_horizon_lift": fixed, "always_valid_lift": always_valid,
        });
        println!("{lifts:#}");
    } else {
        print!("{}", text::detectable(users, fixed, always_valid));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
