//! PyTorch eager as the rival of a training step, in a virtual environment outside of the clone.
//!
//! The environment is made once, in the user's cache folder, and used again. It takes PyTorch from the package
//! index that pip is set up for; a PyTorch of the same version that the system already has is used as it is.

use crate::project::succeed;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version that figures are compared with.
const VERSION: &str = "2.15.0";
/// The rival's program.
const PROGRAM: &str = include_str!("torch_step.py");

/// A Python that has PyTorch.
pub struct Torch {
    python: PathBuf,
}

impl Torch {
    /// Finds the environment, or makes it (several gigabytes are downloaded the first time).
    ///
    /// # Errors
    /// No Python, or no PyTorch to be had; what was left half-made is made anew by the next call.
    pub fn prepare() -> Result<Self> {
        let folder = cache_folder()?.join("beckon").join("rivals").join(format!("torch-{VERSION}"));
        let python = if cfg!(windows) { folder.join("Scripts/python.exe") } else { folder.join("bin/python") };
        if !has_torch(&python) {
            eprintln!("installing PyTorch {VERSION} into {} (several gigabytes, once)", folder.display());
            let system = if cfg!(windows) { "python" } else { "python3" };
            let mut command = Command::new(system);
            succeed(command.args(["-m", "venv", "--system-site-packages"]).arg(&folder))?;
            let mut command = Command::new(&python);
            command.args(["-m", "pip", "install", "--quiet", &format!("torch=={VERSION}"), "numpy"]);
            // pip's messages must not stand among the figures
            succeed(command.stdout(Stdio::null()))?;
            ensure!(has_torch(&python), "PyTorch {VERSION} was installed into {} but does not load", folder.display());
        }
        Ok(Self { python })
    }

    /// As it is named beside a figure.
    pub fn name(&self) -> String {
        format!("PyTorch {VERSION} eager")
    }

    /// Tokens per second of the step `verb` (`sft`, `garm`) in the setting of our figure.
    ///
    /// # Errors
    /// The program failed or printed something else.
    pub fn step(&self, verb: &str, setting: &Value) -> Result<f64> {
        let output = Command::new(&self.python)
            .args(["-c", PROGRAM, verb, &setting.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("could not start {}", self.python.display()))?;
        ensure!(output.status.success(), "the PyTorch step `{verb}` failed ({})", output.status);
        let answer: Value = serde_json::from_slice(&output.stdout).context("the PyTorch step printed no JSON")?;
        answer["rival"].as_f64().filter(|speed| speed.is_finite()).context("the PyTorch step printed no speed")
    }
}

fn has_torch(python: &Path) -> bool {
    let program = format!("import torch, sys; sys.exit(not torch.__version__.startswith('{VERSION}'))");
    let mut command = Command::new(python);
    command.args(["-c", &program]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The user's folder for what can be made again.
fn cache_folder() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = variable("XDG_CACHE_HOME")
        .or_else(|| variable("LOCALAPPDATA"))
        .or_else(|| variable("HOME").map(|home| home.join(".cache")));
    match folder {
        Some(folder) => Ok(folder),
        None => bail!("no folder for PyTorch: set XDG_CACHE_HOME or HOME"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_python_that_is_not_there_has_no_torch() {
        assert!(!has_torch(Path::new("/no/such/python")));
    }

    #[test]
    fn the_rival_takes_what_a_figure_says_of_its_work() {
        for key in ["model", "n_rows", "n_tokens", "n_threads", "n_steps", "d_model", "n_kv_heads", "rope_base"] {
            assert!(PROGRAM.contains(&format!("\"{key}\"")), "{key}");
        }
    }
}
