//! Rivals of the benches from npm, in a folder that the caller throws away.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Installs one package (`name@version`) without running its scripts; gives `node_modules`, or `None` where there is no
/// npm.
///
/// # Errors
/// npm fails, for example without a network.
pub fn installed(dir: &Path, package: &str) -> Result<Option<PathBuf>> {
    let npm = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", "--prefix"])
        .arg(dir)
        .arg(package)
        .status();
    let status = match npm {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.context("npm")?,
    };
    ensure!(status.success(), "npm install {package} failed ({status})");
    Ok(Some(dir.join("node_modules")))
}
