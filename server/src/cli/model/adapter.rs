//! `beckon model adapter`: what runs with LoRA learnt, as files over the checkpoint that they started from.

use super::{find, folder, open};
use crate::model::state::write_atomic;
use crate::pipeline::export::ADAPTER_EXTENSION;
use anyhow::{Context, bail};
use beckon_shaders::ready;
use beckon_shared::adapter::AdapterFile;
use beckon_shared::checkpoint::{Checkpoint, Formats, Lineage, Parts};
use beckon_shared::engine::Engine;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

/// What to do with adapters.
#[derive(Debug, Subcommand)]
pub(super) enum AdapterCommand {
    /// List the adapters that lie beside checkpoints.
    List(ListArgs),
    /// Write the adapter of a checkpoint to a file of its own.
    Export(ExportArgs),
    /// Test an adapter on its base and write the checkpoint that both give together.
    Apply(ApplyArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Folder with the checkpoints' folder [default: the platform's folder for application data]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// A checkpoint file, or the beginning of a checkpoint's id.
    checkpoint: String,
    /// File to write.
    #[arg(long)]
    out: PathBuf,
    /// Folder with the checkpoints' folder [default: the platform's folder for application data]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// An adapter file.
    adapter: PathBuf,
    /// The checkpoint that it lies over: a file, or the beginning of its id.
    #[arg(long)]
    base: String,
    /// Checkpoint file to write. Its matrices are quantized anew: policy 8 bits, reward model 4 bits.
    #[arg(long)]
    out: PathBuf,
    /// Folder with the checkpoints' folder [default: the platform's folder for application data]
    #[arg(long)]
    data_dir: Option<PathBuf>,
}

/// Does what was asked.
///
/// # Errors
/// In words for people.
pub(super) fn adapter(command: &AdapterCommand) -> anyhow::Result<()> {
    match command {
        AdapterCommand::List(args) => list(&folder(args.data_dir.as_deref())),
        AdapterCommand::Export(args) => export(args),
        AdapterCommand::Apply(args) => apply(args),
    }
}

/// An adapter file and its bytes.
pub(in crate::cli) fn read(path: &Path) -> anyhow::Result<(AdapterFile, Vec<u8>)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let adapter = AdapterFile::decode(&bytes).with_context(|| format!("refused {}", path.display()))?;
    Ok((adapter, bytes))
}

/// One line about an adapter.
fn line(adapter: &AdapterFile, n_bytes: usize) -> String {
    let AdapterFile { id, manifest, adapter } = adapter;
    let n_paths = adapter.policy.len() + adapter.reward.len();
    let (id, base, megabytes) = (&id[..12], &manifest.base[..12.min(manifest.base.len())], n_bytes as f64 / 1e6);
    format!("{id}  {}  {n_paths} matrices, {megabytes:.1} MB, over {base}", manifest.name)
}

fn list(dir: &Path) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    if dir.is_dir() {
        for item in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = item?.path();
            if path.extension().is_some_and(|extension| extension == ADAPTER_EXTENSION) {
                lines.push(match read(&path) {
                    Ok((adapter, bytes)) => line(&adapter, bytes.len()),
                    Err(error) => format!("refused: {error:#}"),
                });
            }
        }
    }
    if lines.is_empty() {
        println!("no adapter in {}; a run with lora leaves one", dir.display());
    }
    lines.sort();
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn export(args: &ExportArgs) -> anyhow::Result<()> {
    let path = find(&args.checkpoint, args.data_dir.as_deref())?.with_extension(ADAPTER_EXTENSION);
    if !path.exists() {
        bail!(
            "checkpoint {} has no adapter: its run did not train with lora (`beckon model adapter list`)",
            args.checkpoint
        );
    }
    let (adapter, bytes) = read(&path)?;
    write_atomic(&args.out, &bytes)?;
    println!("{}\n{}", args.out.display(), line(&adapter, bytes.len()));
    Ok(())
}

fn apply(args: &ApplyArgs) -> anyhow::Result<()> {
    let (adapter, _) = read(&args.adapter)?;
    let base = open(&args.base, args.data_dir.as_deref())?;
    let mut engine = Engine::cpu(&adapter.frame(base.clone())?)?;
    ready(adapter.apply(&mut engine, None)).context("the engine waits for a device")??;
    let (policy, reward) = (adapter.merged(&base, "policy")?, adapter.merged(&base, "reward")?);
    let parts = Parts {
        name: adapter.manifest.name.clone(),
        model: &base.manifest.model,
        reward: adapter.manifest.reward.clone(),
        lineage: Lineage { parent: Some(base.id.clone()), command: super::typed(), ..base.manifest.lineage.clone() },
        tokenizer: &base.tokenizer()?,
    };
    let checkpoint = Checkpoint::build(parts, &policy, &reward, Formats::default())?;
    write_atomic(&args.out, &checkpoint.encode()?)?;
    println!(
        "{}\ncheckpoint {}: the self-test passed; quantized anew, so not bit-equal to {}",
        args.out.display(),
        checkpoint.id,
        adapter.manifest.checkpoint
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::{adapter_file, checkpoint_file};

    #[test]
    fn an_adapter_goes_onto_its_base_and_no_other() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let ((base_id, base), (other_id, other)) = (checkpoint_file(1), checkpoint_file(2));
        let store = folder(Some(dir.path()));
        std::fs::create_dir_all(&store).expect("made");
        let file = |id: &str, extension: &str| store.join(id).with_extension(extension);
        std::fs::write(file(&base_id, "beckon"), &base).expect("written");
        std::fs::write(file(&other_id, "beckon"), &other).expect("written");
        std::fs::write(file(&other_id, "adapter"), adapter_file(&base, &other_id)).expect("written");
        let (data_dir, exported) = (Some(dir.path().to_owned()), dir.path().join("one.adapter"));
        let export_of = |checkpoint: &str| {
            export(&ExportArgs { checkpoint: checkpoint.into(), out: exported.clone(), data_dir: data_dir.clone() })
        };
        assert!(export_of(&base_id).expect_err("none").to_string().contains("lora"));
        export_of(&other_id[..20]).expect("exported");
        let out = dir.path().join("both.beckon");
        let onto = |base: &str| {
            let (adapter, base) = (exported.clone(), base.to_owned());
            apply(&ApplyArgs { adapter, base, out: out.clone(), data_dir: data_dir.clone() })
        };
        let refused = format!("{:#}", onto(&other_id).expect_err("another base"));
        assert!(refused.contains(&base_id) && refused.contains(&other_id) && !out.exists(), "{refused}");
        onto(&base_id).expect("applied");
        let made = Checkpoint::decode(&std::fs::read(&out).expect("written")).expect("whole");
        assert_eq!(made.manifest.lineage.parent.as_deref(), Some(base_id.as_str()));
    }
}
