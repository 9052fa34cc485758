//! Where the project lies, and how its Cargo is called.
//!
//! Inner calls pass `--workspace`, also for one binary: Cargo unites the features of the packages it was
//! asked for, so `-p beckon-server` and `--workspace` would build Burn twice.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Folders of the project.
pub struct Project {
    /// Root of the clone.
    pub root: PathBuf,
    /// Cargo's target folder, wherever the environment or Cargo's configuration puts it.
    pub target: PathBuf,
}

/// One target of a package as `cargo metadata` names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CargoTarget {
    /// Package name.
    pub package: String,
    /// Target name.
    pub name: String,
    /// `lib`, `bin`, `test`, `example`, ….
    pub kind: String,
}

impl Project {
    /// Finds the workspace: the one that `cargo run` runs xtask for, which is not where it was built if two clones share
    /// a build directory; the latter without Cargo.
    pub fn find() -> Result<Self> {
        let own =
            std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
        let root = own.parent().context("xtask has no parent folder")?.to_owned();
        if !root.join("Cargo.toml").is_file() {
            bail!("{} holds no Cargo.toml; was the clone moved? run `cargo clean -p xtask`", root.display());
        }
        let metadata = metadata(&root)?;
        let target = metadata["target_directory"].as_str().context("cargo metadata without target_directory")?.into();
        Ok(Self { root, target })
    }

    /// A Cargo call in the root with a clean environment: what `cargo run` set for xtask does not leak.
    pub fn cargo<I, S>(&self, args: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = cargo();
        command.args(args).current_dir(&self.root);
        self.set_environment(&mut command);
        command
    }

    /// What every child process needs: no leaked Cargo variables, a runtime folder for the Vulkan loader.
    pub fn set_environment(&self, command: &mut Command) {
        for (key, _) in std::env::vars_os() {
            let name = key.to_string_lossy();
            if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_BIN_NAME" {
                command.env_remove(&key);
            }
        }
        if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
            let dir = self.target.join("runtime");
            if std::fs::create_dir_all(&dir).is_ok() {
                set_private(&dir);
                command.env("XDG_RUNTIME_DIR", dir);
            }
        }
    }

    /// Builds the `beckon` binary in the one release profile and returns its path.
    pub fn build_server(&self) -> Result<PathBuf> {
        succeed(&mut self.cargo(["build", "--release", "--workspace", "--bin", "beckon"]))?;
        Ok(self.target.join("release").join(format!("beckon{}", std::env::consts::EXE_SUFFIX)))
    }

    /// Targets of all workspace members.
    pub fn targets(&self) -> Result<Vec<CargoTarget>> {
        targets_from_metadata(&metadata(&self.root)?)
    }
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// What Cargo knows of the workspace without its dependencies.
fn metadata(root: &Path) -> Result<serde_json::Value> {
    let mut command = cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root).stderr(Stdio::inherit());
    let output = command.output().context("cargo metadata")?;
    serde_json::from_slice(&output.stdout).context("cargo metadata printed no JSON")
}

fn targets_from_metadata(metadata: &serde_json::Value) -> Result<Vec<CargoTarget>> {
    let packages = metadata["packages"].as_array().context("cargo metadata without packages")?;
    let mut targets: Vec<_> = packages
        .iter()
        .flat_map(|package| package["targets"].as_array().into_iter().flatten().map(move |target| (package, target)))
        .filter_map(|(package, target)| {
            Some(CargoTarget {
                package: package["name"].as_str()?.to_owned(),
                name: target["name"].as_str()?.to_owned(),
                kind: target["kind"][0].as_str()?.to_owned(),
            })
        })
        .collect();
    targets.sort();
    Ok(targets)
}

/// The command as a person would type it.
pub fn spelled(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    std::iter::once(program)
        .chain(command.get_args().map(|arg| {
            let arg = arg.to_string_lossy();
            if arg.contains(' ') { format!("'{arg}'") } else { arg.into_owned() }
        }))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Prints the command, runs it with inherited output, and fails unless it succeeds.
pub fn succeed(command: &mut Command) -> Result<()> {
    let spelled = spelled(command);
    eprintln!("$ {spelled}");
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("could not start `{spelled}`"))?;
    if !status.success() {
        bail!("`{spelled}` failed ({status})");
    }
    Ok(())
}

#[cfg(unix)]
fn set_private(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    // Best effort: a loader that minds the mode says so itself.
    let _ = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700));
}

#[cfg(not(unix))]
fn set_private(_dir: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_becomes_targets() {
        let metadata = serde_json::json!({"packages": [
            {"name": "b", "targets": [{"name": "one", "kind": ["test"]}]},
            {"name": "a", "targets": [{"name": "a", "kind": ["cdylib", "rlib"]}]}
        ]});
        let targets = targets_from_metadata(&metadata).unwrap();
        assert_eq!(targets[0], CargoTarget { package: "a".into(), name: "a".into(), kind: "cdylib".into() });
        assert_eq!(targets[1].name, "one");
        assert!(targets_from_metadata(&serde_json::json!({})).is_err());
    }

    #[test]
    fn a_failing_command_is_an_error() {
        assert!(succeed(&mut Command::new("false")).is_err());
        assert!(succeed(&mut Command::new("no-such-program-here")).is_err());
    }
}
