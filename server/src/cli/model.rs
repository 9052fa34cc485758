//! `beckon model`: policies from elsewhere into the checkpoints, and from there to where others use them.

pub(super) mod adapter;

use super::run_loop::read_log;
use super::{default_data_dir, typed};
use crate::cold_start::{self, BUILT_IN, Template};
use crate::model::pretrained::hub::Hub;
use crate::model::pretrained::{self, Options};
use crate::model::state::write_atomic;
use crate::pipeline::lineage::{attribution, data_hash, is_simulated, sources};
use anyhow::{Context, bail};
use beckon_shared::checkpoint::{Checkpoint, Header, Lineage, PREFIX_BYTES, decode_header, header_bytes};
use beckon_shared::gguf::llama::DEFAULT_MAX_SEQ_LEN;
use beckon_shared::import::Format;
use beckon_shared::preference::{PreferenceConfig, dataset_from_records};
use beckon_shared::quant::BlockFormat;
use clap::{Args, Subcommand, ValueEnum};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Options of `beckon model`.
#[derive(Debug, Args)]
pub struct ModelArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Fetch a model by name from the Hugging Face hub and import it.
    Pull(PullArgs),
    /// Import a GGUF file or a Hugging Face folder as a checkpoint without a reward model.
    Import(ImportArgs),
    /// List the checkpoints.
    List(ListArgs),
    /// Write the policy of a checkpoint as GGUF (for llama.cpp) or safetensors (for transformers).
    Export(ExportArgs),
    /// List, export or apply what runs with LoRA learnt.
    #[command(subcommand)]
    Adapter(adapter::AdapterCommand),
    /// Show what a checkpoint is and where it comes from.
    Show(ShowArgs),
    /// Make a policy by a prompt alone: a template with an instruction and examples from a log around a base.
    Prompt(PromptArgs),
}

/// How an import becomes a checkpoint.
#[derive(Debug, Args)]
struct ImportOptions {
    /// Name for people [default: that of the model]
    #[arg(long)]
    name: Option<String>,
    /// Longest prompt plus suggestion in tokens; memory of the cache grows with it.
    #[arg(long, default_value_t = DEFAULT_MAX_SEQ_LEN)]
    max_seq_len: usize,
    /// Format of matrices that the model stores plain, or in 6 bits (which never become 4); 4-bit and 8-bit blocks of a
    /// GGUF file are kept as they are.
    #[arg(long, value_enum, default_value_t = Plain::Q8)]
    plain: Plain,
    /// Folder with the checkpoints' folder [default: the platform's folder for application data]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// Format of plain matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Plain {
    /// As they are: for training, and large.
    F32,
    /// 8-bit blocks.
    Q8,
    /// 4-bit blocks.
    Q4,
}

#[derive(Debug, Args)]
struct PullArgs {
    /// Owner and model, as HuggingFaceTB/SmolLM2-135M-Instruct.
    model: String,
    /// Branch, tag or commit.
    #[arg(long, default_value = "main")]
    revision: String,
    /// Fetch this GGUF file of the model in place of its safetensors.
    #[arg(long)]
    gguf: Option<String>,
    #[command(flatten)]
    options: ImportOptions,
}

#[derive(Debug, Args)]
struct ImportArgs {
    /// A .gguf file, or a folder with config.json, tokenizer.json and safetensors.
    path: PathBuf,
    #[command(flatten)]
    options: ImportOptions,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Folder with the checkpoints' folder [default: the platform's folder for application data]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// One file that llama.cpp loads; blocks as they are.
    Gguf,
    /// A folder in Hugging Face's layout, f32.
    Safetensors,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// A checkpoint file, or the beginning of a checkpoint's id.
    checkpoint: String,
    /// What to write.
    #[arg(long, value_enum)]
    format: ExportFormat,
    /// File (gguf) or folder (safetensors) to write.
    #[arg(long)]
    out: PathBuf,
    /// Folder with the checkpoints' folder [default: the platform's folder for application data]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// A checkpoint file, or the beginning of a checkpoint's id.
    checkpoint: String,
    /// The whole header as JSON.
    #[arg(long)]
    json: bool,
    /// Folder with the checkpoints' folder [default: the platform's folder for application data]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PromptArgs {
    /// The base: a checkpoint file, or the beginning of a checkpoint's id.
    base: String,
    /// instruct.v1, examples.v1, both.v1, or a file with a Jinja template.
    #[arg(long, default_value = "both.v1")]
    template: String,
    /// Examples, drawn from the train side of the log.
    #[arg(long, default_value_t = 4)]
    examples: usize,
    /// Folder or file of the log that examples are drawn from.
    #[arg(long)]
    data: Option<PathBuf>,
    /// How a file is written: jsonl, mimics-duo, mimics-manual, intents, upworthy or conversations.
    #[arg(long)]
    format: Option<Format>,
    /// Seed of the draw.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Name for people [default: that of the base and of the template]
    #[arg(long)]
    name: Option<String>,
    /// Folder with the checkpoints' folder [default: the platform's folder for application data]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// Does what was asked.
///
/// # Errors
/// In words for people.
pub fn model(args: &ModelArgs) -> anyhow::Result<()> {
    match &args.what {
        What::Pull(args) => {
            println!("fetching {} ({})", args.model, args.revision);
            let cache = args.options.data_dir.clone().unwrap_or_else(default_data_dir);
            let path = Hub::from_env(&cache).pull(&args.model, &args.revision, args.gguf.as_deref())?;
            let name = args.options.name.clone().unwrap_or_else(|| args.model.clone());
            import(&path, Some(name), &args.options)
        }
        What::Import(args) => import(&args.path, args.options.name.clone(), &args.options),
        What::List(args) => list(&folder(args.data_dir.as_deref())),
        What::Export(args) => export(args),
        What::Adapter(command) => adapter::adapter(command),
        What::Show(args) => show(args),
        What::Prompt(args) => prompt(args),
    }
}

/// Folder of the checkpoints.
fn folder(data_dir: Option<&Path>) -> PathBuf {
    data_dir.map_or_else(default_data_dir, Path::to_owned).join("checkpoints")
}

fn import(path: &Path, name: Option<String>, options: &ImportOptions) -> anyhow::Result<()> {
    let plain_format = match options.plain {
        Plain::F32 => BlockFormat::F32,
        Plain::Q8 => BlockFormat::Q8,
        Plain::Q4 => BlockFormat::Q4,
    };
    let options_of_model = Options { name, max_seq_len: options.max_seq_len, plain_format, command: typed() };
    keep(&pretrained::import(path, &options_of_model)?, options.data_dir.as_deref())
}

/// Puts a checkpoint among the others.
fn keep(checkpoint: &Checkpoint, data_dir: Option<&Path>) -> anyhow::Result<()> {
    let dir = folder(data_dir);
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let file = dir.join(format!("{}.beckon", checkpoint.id));
    let bytes = checkpoint.encode()?;
    if file.exists() {
        println!("{} is there already", file.display());
    } else {
        write_atomic(&file, &bytes)?;
        println!("{}", file.display());
    }
    println!("{}", line(&checkpoint.id, &checkpoint.manifest, bytes.len() as u64));
    println!("it has no reward model: suggestions are not scored. A server that runs shows it after a restart.");
    Ok(())
}

fn prompt(args: &PromptArgs) -> anyhow::Result<()> {
    let base = open(&args.base, args.data_dir.as_deref())?;
    let template = match Template::built_in(&args.template) {
        Some(template) => template,
        None => {
            let built_in = BUILT_IN.map(|(name, _)| name).join(", ");
            let source = std::fs::read_to_string(&args.template)
                .with_context(|| format!("no template {} ({built_in}), and no such file", args.template))?;
            let name = Path::new(&args.template).file_stem().map_or_else(String::new, |s| s.to_string_lossy().into());
            Template { name, source }
        }
    };
    let mut lineage = Lineage { seed: args.seed, command: typed(), ..Lineage::default() };
    let log;
    let mut examples = Vec::new();
    if template.shows_examples() {
        let Some(data) = &args.data else {
            bail!("template {} shows examples: say with --data which log they are drawn from", template.name)
        };
        let records = read_log(data, args.format, Path::new("rejects"))?;
        log = dataset_from_records(&records, &PreferenceConfig::default(), args.seed)?.train.sft;
        examples = cold_start::draw_examples(&log, &base.tokenizer()?, args.examples, args.seed)?;
        lineage.sources = sources(&records);
        lineage.attribution = attribution(&lineage.sources);
        lineage.data_hash = data_hash(&records);
        lineage.simulated = is_simulated(&records);
    }
    let name = args.name.clone().unwrap_or_else(|| format!("{}, {}", base.manifest.name, template.name));
    keep(&cold_start::with_template(&base, &template, &examples, name, lineage)?, args.data_dir.as_deref())
}

/// One line about a checkpoint.
fn line(id: &str, manifest: &beckon_shared::checkpoint::Manifest, n_bytes: u64) -> String {
    let reward = if manifest.reward.is_some() { "policy and reward model" } else { "policy" };
    let simulated = if manifest.lineage.simulated { ", simulated clicks" } else { "" };
    let millions = manifest.model.n_params() as f64 / 1e6;
    let (id, megabytes) = (&id[..12], n_bytes as f64 / 1e6);
    format!("{id}  {}  {millions:.1} M parameters, {megabytes:.1} MB, {reward}{simulated}", manifest.name)
}

fn list(dir: &Path) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    if dir.is_dir() {
        for item in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = item?.path();
            if path.extension().is_some_and(|extension| extension == "beckon") {
                lines.push(match read_header(&path) {
                    Ok(header) => line(&header.id, &header.manifest, header.file_bytes()),
                    Err(error) => format!("refused: {error:#}"),
                });
            }
        }
    }
    if lines.is_empty() {
        println!("no checkpoint in {}; the built-in one is inside the program", dir.display());
    }
    lines.sort();
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// The header alone, without reading what may be gigabytes.
fn read_header(path: &Path) -> anyhow::Result<Header> {
    let shown = path.display();
    let mut file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let mut bytes = Vec::new();
    file.by_ref().take(PREFIX_BYTES as u64).read_to_end(&mut bytes)?;
    let end = header_bytes(&bytes).with_context(|| format!("refused {shown}"))?;
    file.take((end - bytes.len()) as u64).read_to_end(&mut bytes)?;
    decode_header(&bytes).with_context(|| format!("refused {shown}"))
}

/// The file of a checkpoint that is named by its path or the beginning of its id.
pub(super) fn find(named: &str, data_dir: Option<&Path>) -> anyhow::Result<PathBuf> {
    let path = PathBuf::from(named);
    if path.is_file() {
        return Ok(path);
    }
    let dir = folder(data_dir);
    let mut found = Vec::new();
    for item in
        std::fs::read_dir(&dir).with_context(|| format!("no file {named}, and cannot list {}", dir.display()))?
    {
        let path = item?.path();
        let is_named = path.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with(named));
        if is_named && path.extension().is_some_and(|extension| extension == "beckon") {
            found.push(path);
        }
    }
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => bail!("no file {named}, and no checkpoint in {} begins so (`beckon model list`)", dir.display()),
        n => bail!("{n} checkpoints in {} begin with {named}; give more of the id", dir.display()),
    }
}

/// The checkpoint that is named so.
pub(super) fn open(named: &str, data_dir: Option<&Path>) -> anyhow::Result<Checkpoint> {
    let path = find(named, data_dir)?;
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Checkpoint::decode(&bytes).with_context(|| format!("refused {}", path.display()))
}

fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let checkpoint = open(&args.checkpoint, args.data_dir.as_deref())?;
    match args.format {
        ExportFormat::Gguf => pretrained::write_gguf(&checkpoint, &args.out)?,
        ExportFormat::Safetensors => pretrained::write_folder(&checkpoint, &args.out)?,
    }
    println!("{}", args.out.display());
    if checkpoint.manifest.prompt_format.is_none() {
        println!("its tokenizer expects text in NFKC and lower case");
    }
    Ok(())
}

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let path = find(&args.checkpoint, args.data_dir.as_deref())?;
    let header = read_header(&path)?;
    if args.json {
        println!("{:#}", serde_json::to_value(&header.manifest)?);
        return Ok(());
    }
    let (manifest, c) = (&header.manifest, &header.manifest.model);
    println!("{}", line(&header.id, manifest, header.file_bytes()));
    println!(
        "{} layers, width {}, {} heads ({} for keys and values) of {}, feed-forward {}, vocabulary {}, context {}",
        c.n_layers, c.d_model, c.n_heads, c.n_kv_heads, c.head_dim, c.d_ff, c.vocab_size, c.max_seq_len
    );
    if let Some(reward) = &manifest.reward {
        println!(
            "reward model: the first {} of {} layers, heads of its own",
            reward.n_layers.unwrap_or(c.n_layers),
            c.n_layers
        );
    }
    match &manifest.prompt_format {
        None => println!("prompts in Beckon's own format"),
        Some(format) => println!("a suggestion ends with {}; a prompt begins {:?}", format.end, format.begin),
    }
    println!("made by: {}", manifest.lineage.command);
    manifest.lineage.attribution.iter().for_each(|line| println!("attribution: {line}"));
    Ok(())
}
