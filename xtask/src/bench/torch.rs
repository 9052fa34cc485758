//! PyTorch as the rival of a training step (eager) and of the engine on a GPU, in a virtual environment outside of the clone.
//!
//! The environment is made once, in the user's cache folder, and used again. It takes PyTorch from the package
//! index that pip is set up for (PyPI's for Linux computes with CUDA); a PyTorch of the same version that the system already has
//! is used as it is. A Python that is named is used with the versions that it has, and nothing is installed.

use crate::project::succeed;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version that figures are compared with.
const VERSION: &str = "2.15.0";
/// Of transformers, whose `generate` is the rival of our rollouts.
const TRANSFORMERS: &str = "5.24.0";
/// The rival's programs: of SFT and GaRM steps, of RL steps, and of the engine on a GPU.
const STEP: &str = include_str!("torch_step.py");
const RL: &str = concat!(include_str!("torch_llama.py"), include_str!("torch_rl.py"));
const GENERATE: &str = concat!(include_str!("torch_llama.py"), include_str!("torch_generate.py"));

/// A Python that has PyTorch and transformers.
pub struct Torch {
    python: PathBuf,
    /// Version of PyTorch.
    torch: String,
    transformers: String,
}

impl Torch {
    /// The Python that is named, or where none is the environment of this project.
    ///
    /// # Errors
    /// As [`Torch::prepare`]; a named one that lacks something.
    pub fn at(python: Option<&Path>) -> Result<Self> {
        python.map_or_else(Self::prepare, Self::of)
    }

    /// A Python with whatever PyTorch and transformers it has.
    fn of(python: &Path) -> Result<Self> {
        let program = "import torch, transformers; print(torch.__version__, transformers.__version__)";
        let mut command = Command::new(python);
        command.args(["-c", program]).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = command.output().with_context(|| format!("could not start {}", python.display()))?;
        ensure!(output.status.success(), "{} lacks PyTorch or transformers", python.display());
        let versions = String::from_utf8_lossy(&output.stdout);
        let versions = versions.trim().split_once(' ');
        let (torch, transformers) = versions.context("PyTorch and transformers named no versions")?;
        Ok(Self { python: python.to_owned(), torch: torch.to_owned(), transformers: transformers.to_owned() })
    }

    /// Finds the environment, or makes it (several gigabytes are downloaded the first time).
    ///
    /// # Errors
    /// No Python, or no PyTorch to be had; what was left half-made is made anew by the next call.
    fn prepare() -> Result<Self> {
        let folder = cache_folder()?.join("beckon").join("rivals").join(format!("torch-{VERSION}"));
        let python = if cfg!(windows) { folder.join("Scripts/python.exe") } else { folder.join("bin/python") };
        if !has_torch(&python) {
            eprintln!("installing PyTorch {VERSION} into {} (several gigabytes, once)", folder.display());
            let system = if cfg!(windows) { "python" } else { "python3" };
            let mut command = Command::new(system);
            succeed(command.args(["-m", "venv", "--system-site-packages"]).arg(&folder))?;
            let mut command = Command::new(&python);
            let packages = [format!("torch=={VERSION}"), format!("transformers=={TRANSFORMERS}"), "numpy".to_owned()];
            command.args(["-m", "pip", "install", "--quiet"]).args(packages);
            // pip's messages must not stand among the figures
            succeed(command.stdout(Stdio::null()))?;
            ensure!(has_torch(&python), "PyTorch {VERSION} was installed into {} but does not load", folder.display());
        }
        Ok(Self { python, torch: VERSION.to_owned(), transformers: TRANSFORMERS.to_owned() })
    }

    /// As it is named beside the figure of `verb`.
    pub fn name(&self, verb: &str) -> String {
        let Self { torch, transformers, .. } = self;
        match verb {
            "rl" => format!("PyTorch {torch} eager, transformers {transformers}"),
            "generate" => format!("PyTorch {torch} bf16, transformers {transformers} generate"),
            _ => format!("PyTorch {torch} eager"),
        }
    }

    /// Tokens per second of the step `verb` (`sft`, `garm`, `rl`) in the setting of our figure.
    ///
    /// # Errors
    /// The program failed or printed something else.
    pub fn step(&self, verb: &str, setting: &Value) -> Result<f64> {
        let program = if verb == "rl" { RL } else { STEP };
        speed(&self.answer(program, verb, setting)?)
    }

    /// What transformers' `generate` did on the GPU in the setting of our figure: `rival` in tokens per second, `device`,
    /// `memory_bytes`.
    ///
    /// # Errors
    /// As [`Torch::step`]; PyTorch sees no GPU.
    pub fn generate(&self, setting: &Value) -> Result<Value> {
        let answer = self.answer(GENERATE, "generate", setting)?;
        speed(&answer)?;
        Ok(answer)
    }

    /// Runs a program and reads its JSON.
    fn answer(&self, program: &str, verb: &str, setting: &Value) -> Result<Value> {
        let output = Command::new(&self.python)
            .args(["-c", program, verb, &setting.to_string()])
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("could not start {}", self.python.display()))?;
        ensure!(output.status.success(), "the PyTorch program `{verb}` failed ({})", output.status);
        serde_json::from_slice(&output.stdout).context("the PyTorch program printed no JSON")
    }
}

fn speed(answer: &Value) -> Result<f64> {
    answer["rival"].as_f64().filter(|speed| speed.is_finite()).context("the PyTorch program printed no speed")
}

fn has_torch(python: &Path) -> bool {
    let program = format!(
        "import torch, transformers, sys; \
         sys.exit(not torch.__version__.startswith('{VERSION}') or transformers.__version__ != '{TRANSFORMERS}')"
    );
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
        let error = Torch::at(Some(Path::new("/no/such/python"))).err().expect("there is none").to_string();
        assert!(error.contains("could not start /no/such/python"), "{error}");
    }

    #[test]
    fn the_rival_takes_what_a_figure_says_of_its_work() {
        for key in ["model", "n_rows", "n_tokens", "n_threads", "n_steps", "d_model", "n_kv_heads", "rope_base"] {
            assert!(STEP.contains(&format!("\"{key}\"")), "{key}");
        }
        for key in ["drawing", "n_prompts", "group_size", "n_prompt_tokens", "n_new_tokens", "n_threads", "n_steps"] {
            assert!(RL.contains(&format!("\"{key}\"")), "{key}");
        }
        for key in ["model", "n_rows", "n_prompt_tokens", "n_new_tokens", "n_repeats"] {
            assert!(GENERATE.contains(&format!("\"{key}\"")), "{key}");
        }
    }
}
