//! `beckon backup` and `beckon restore`: everything of a data folder into another folder, and back.

use crate::backup;
use clap::Args;
use std::path::PathBuf;

/// Options of `beckon backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// New folder for the copy.
    #[arg(long)]
    pub out: PathBuf,
    /// Folder of the database [default: the platform's folder for application data]
    #[arg(long, env = "BECKON_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Options of `beckon restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Folder that `beckon backup` made.
    pub from: PathBuf,
    /// New data folder.
    #[arg(long)]
    pub data_dir: PathBuf,
}

/// Copies.
///
/// # Errors
/// In words for people.
pub fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    let data_dir = args.data_dir.clone().unwrap_or_else(super::default_data_dir);
    let backup::Backed { n_files, bucket, missing } = backup::backup(&data_dir, &args.out)?;
    println!("{n_files} files of {} are in {}", data_dir.display(), args.out.display());
    if let Some(url) = bucket {
        println!("not in it: checkpoints that only {url} has; back that up with the means of your storage");
    }
    for id in missing {
        println!("not in it: checkpoint {id}, whose file was deleted while this was copied, or is lost");
    }
    Ok(())
}

/// Copies back.
///
/// # Errors
/// In words for people.
pub fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let n = backup::restore(&args.from, &args.data_dir)?;
    println!("{n} files, hashes right; serve them with: beckon serve --data-dir {}", args.data_dir.display());
    Ok(())
}
