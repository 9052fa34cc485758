//! Programs from PyPI, each in a virtual environment of its own, made once.

use crate::project::succeed;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program `name` of a package, installed into `folder` where it is not yet; `requirement` is as pip takes it.
pub fn program(folder: &Path, requirement: &str, name: &str) -> Result<PathBuf> {
    let program = path(folder, name);
    if program.is_file() {
        return Ok(program);
    }
    eprintln!("installing {requirement} into {} (once)", folder.display());
    let system = if cfg!(windows) { "python" } else { "python3" };
    succeed(Command::new(system).args(["-m", "venv"]).arg(folder).stdin(Stdio::null()))
        .context("Python 3.10 or newer with venv is needed")?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement];
    succeed(Command::new(path(folder, "python")).args(install).stdin(Stdio::null()))?;
    ensure!(program.is_file(), "{requirement} was installed into {} but {name} is not there", folder.display());
    Ok(program)
}

/// Where `name` is in a virtual environment.
pub fn path(folder: &Path, name: &str) -> PathBuf {
    let scripts = folder.join(if cfg!(windows) { "Scripts" } else { "bin" });
    scripts.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}
