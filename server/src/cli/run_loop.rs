//! `beckon loop`: the whole loop in the terminal, over files instead of the database.

use super::device::LentArgs;
use super::terminal::{Terminal, interrupt_flag};
use super::{DeviceArg, Interrupted, typed};
use crate::import::{files_of_folder, in_words, write_rejects};
use crate::pipeline::lineage::Origin;
use crate::pipeline::{parent, teacher};
use crate::run_config::run_config_from_json;
use crate::trainer::{Job, RunError, guarded, run_pipeline};
use anyhow::{Context, bail};
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::click::Sourced;
use beckon_shared::config::Preset;
use beckon_shared::control::RunConfig;
use beckon_shared::import::{Format, parse};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// Built-in sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PresetArg {
    /// About 0.1 M parameters, trains in seconds.
    Tiny,
    /// About 4.2 M parameters, the model that ships with the product.
    Nano,
}

impl From<PresetArg> for Preset {
    fn from(preset: PresetArg) -> Self {
        match preset {
            PresetArg::Tiny => Self::Tiny,
            PresetArg::Nano => Self::Nano,
        }
    }
}

/// Options of `beckon loop`.
#[derive(Debug, Args)]
pub struct LoopArgs {
    /// Model size and defaults; nano unless --config names another.
    #[arg(long, value_enum)]
    pub preset: Option<PresetArg>,
    /// Folder with the log: known data sets by their names, and *.jsonl with impressions.
    #[arg(long)]
    pub data: PathBuf,
    /// Folder for state, report and checkpoint; the same folder goes on where it ended.
    #[arg(long)]
    pub out: PathBuf,
    /// Every random choice follows from it.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where Burn computes.
    #[arg(long, value_enum)]
    pub device: Option<DeviceArg>,
    #[command(flatten)]
    pub lent: LentArgs,
    /// Checkpoint to start from (*.beckon, as from `beckon model import` or an earlier loop) in place of random weights;
    /// the run then has its shape and its tokenizer.
    #[arg(long)]
    pub base: Option<PathBuf>,
    /// Train low-rank adapters of the base in place of all its weights.
    #[arg(long, requires = "base")]
    pub lora: bool,
    /// SFT's teacher: a checkpoint (*.beckon) that writes suggestions for the log's conversations, or a file of such
    /// suggestions (*.jsonl, lines as {"prompt": [{"role": "user", "text": "…"}], "text": "…", "score": 1.5}). Its settings are
    /// sft.teacher of --config.
    #[arg(long)]
    pub teacher: Option<PathBuf>,
    /// JSON file with a run configuration; what it leaves out comes from its preset.
    #[arg(long)]
    pub config: Option<PathBuf>,
}

/// Runs the loop and prints where the results are.
///
/// # Errors
/// In words for people; [`Interrupted`] after Ctrl-C with the state saved.
pub fn run_loop(args: &LoopArgs) -> anyhow::Result<()> {
    let mut config = configuration(args)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    if let Some(base) = &args.base {
        let bytes = std::fs::read(base).with_context(|| format!("cannot read {}", base.display()))?;
        let checkpoint = Checkpoint::decode(&bytes).with_context(|| format!("refused {}", base.display()))?;
        parent::place(&args.out, &bytes)?;
        config.parent = Some(checkpoint.id);
    }
    if let Some(path) = &args.teacher {
        let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let is_samples = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jsonl"));
        let id = teacher::place(&args.out, &bytes, is_samples);
        config.sft.teacher.get_or_insert_default().id = id.with_context(|| format!("refused {}", path.display()))?;
    }
    let records = read_folder(&args.data, &args.out.join("rejects"))?;
    let interrupted = interrupt_flag().context("cannot listen for Ctrl-C")?;
    let mut terminal = Terminal::new(interrupted);
    let origin = Origin { command: typed(), ..Origin::of(&config) };
    let job = Job { dir: args.out.clone(), config, records, origin, lent: args.lent.open()? };
    let end = guarded(|| run_pipeline(&job, &mut terminal));
    terminal.finish();
    match end {
        Ok(product) => {
            println!("checkpoint: {}", product.checkpoint_path.display());
            println!("report: {}", args.out.join("report.html").display());
            Ok(())
        }
        Err(RunError::Cancelled) => Err(Interrupted::saved_in(&args.out, &typed()).into()),
        Err(RunError::Failed(text)) => bail!("{text}"),
    }
}

fn configuration(args: &LoopArgs) -> anyhow::Result<RunConfig> {
    let mut config = match &args.config {
        Some(path) => {
            let json = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
            run_config_from_json(&json).with_context(|| format!("in {}", path.display()))?
        }
        None => RunConfig::preset(args.preset.map_or(Preset::Nano, Preset::from)),
    };
    if let Some(preset) = args.preset.map(Preset::from)
        && preset != config.preset
    {
        bail!("--preset and the preset of --config differ; leave one out");
    }
    if args.lora {
        config.lora.get_or_insert_default();
    }
    config.seed = args.seed.unwrap_or(config.seed);
    config.device = args.device.map_or(config.device, Into::into);
    Ok(config)
}

/// All records of a folder, each once, in a fixed order; what is refused is told and written into `rejects_dir`.
pub(super) fn read_folder(dir: &Path, rejects_dir: &Path) -> anyhow::Result<Vec<Sourced>> {
    let files = files_of_folder(dir).with_context(|| format!("cannot list the data folder {}", dir.display()))?;
    if files.is_empty() {
        bail!(
            "no log file was found in {}: no known name (as upworthy/upworthy.csv) and no *.jsonl with impressions",
            dir.display()
        );
    }
    read_files(files, rejects_dir)
}

/// All records of a folder, or of one file that is written as `format` says.
pub(super) fn read_log(path: &Path, format: Option<Format>, rejects_dir: &Path) -> anyhow::Result<Vec<Sourced>> {
    match format {
        _ if path.is_dir() => read_folder(path, rejects_dir),
        Some(format) => read_files(vec![(path.to_owned(), format)], rejects_dir),
        None => {
            let names = Format::ALL.map(Format::name).join(", ");
            bail!("say how {} is written with --format: {names}", path.display())
        }
    }
}

fn read_files(files: Vec<(PathBuf, Format)>, rejects_dir: &Path) -> anyhow::Result<Vec<Sourced>> {
    let mut records = Vec::new();
    for (path, format) in files {
        let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let parsed = parse(format, &bytes);
        eprintln!("{}: {} records, {} refused", path.display(), parsed.records.len(), parsed.rejects.len());
        if !parsed.rejects.is_empty() {
            for reject in parsed.rejects.iter().take(3) {
                eprintln!("  {}", in_words(reject));
            }
            let name = path.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
            eprintln!("  all refused lines: {}", write_rejects(&parsed.rejects, &name, rejects_dir)?.display());
        }
        records.extend(parsed.records);
    }
    Ok(crate::store::without_duplicates(records))
}
