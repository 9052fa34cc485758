//! Parts that come from outside: the wasm target, Chromium, a Vulkan driver, the real data, the real model, servers that
//! tests speak to.
//!
//! What is missing is installed where that is safe (rustup target; apt as root on Debian and Ubuntu), else
//! the exact command is printed. Nothing here fails a check: a part that is not there makes the checks that
//! need it show as not run.

use crate::model;
use crate::project::{Project, succeed};
use crate::python;
use anyhow::{Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A part that some checks need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `../shared/data`: real data beside the clone.
    Data,
    /// A Vulkan driver; Mesa's lavapipe where there is no GPU.
    Vulkan,
    /// Chromium for the browser tests.
    Chromium,
    /// The right to mount a small file system.
    Root,
    /// SmolLM2-135M-Instruct, which `cargo xtask model` fetches.
    Smollm2,
    /// Node, which runs WebAssembly without a browser.
    Node,
    /// Moto from PyPI: a server that speaks S3.
    Moto,
    /// PostgreSQL's programs, of the system or from PyPI.
    Postgres,
    /// The same, built with TLS, as distributions do.
    PostgresTls,
}

impl Part {
    /// The parts that a test names in its `#[ignore = "needs …"]`.
    pub fn in_ignore_reason(reason: &str) -> Vec<Self> {
        let reason = reason.to_lowercase();
        let words = [
            (Self::Data, "shared/data"),
            (Self::Vulkan, "vulkan"),
            (Self::Chromium, "chromium"),
            (Self::Root, "root"),
            (Self::Smollm2, "smollm2"),
            (Self::Node, "node"),
            (Self::Moto, "moto"),
            (Self::Postgres, "postgresql"),
            (Self::PostgresTls, "postgresql with tls"),
        ];
        words.into_iter().filter(|(_, word)| reason.contains(word)).map(|(part, _)| part).collect()
    }
}

/// What this machine has.
pub struct System {
    data: bool,
    vulkan: bool,
    chromium: Option<PathBuf>,
    root: bool,
    smollm2: Option<PathBuf>,
    node: bool,
    moto: Option<PathBuf>,
    postgres: Option<PathBuf>,
    postgres_tls: bool,
}

/// Where tests look for the S3 server, and which one that is.
pub const MOTO_VARIABLE: &str = "BECKON_MOTO";
const MOTO: &str = "moto[server]==5.2.5";
const MOTO_PROGRAM: &str = "moto_server";

/// Where tests look for the folder of PostgreSQL's programs, and what is fetched where the system has none.
pub const POSTGRES_VARIABLE: &str = "BECKON_POSTGRES";
const POSTGRES: &str = "pgserver==0.1.4";

/// Folder for what is fetched once and used by every clone, in the user's cache.
pub fn cache_folder() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    cache.or_else(|| variable("LOCALAPPDATA")).map(|cache| cache.join("beckon"))
}

fn moto_folder() -> Option<PathBuf> {
    cache_folder().map(|cache| cache.join("moto-5.2.5"))
}

fn postgres_folder() -> Option<PathBuf> {
    cache_folder().map(|cache| cache.join("pgserver-0.1.4"))
}

/// The folder of PostgreSQL's programs: of the system (Debian keeps them out of the PATH), or of the package.
fn postgres() -> Option<PathBuf> {
    let all_there = |dir: &PathBuf| {
        ["initdb", "postgres", "psql"]
            .iter()
            .all(|name| dir.join(format!("{name}{}", std::env::consts::EXE_SUFFIX)).is_file())
    };
    let in_path =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    let below = |dir: &Path, part: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().join(part)).collect()
    };
    let of_debian = below(Path::new("/usr/lib/postgresql"), "bin");
    let package = postgres_folder().map(|folder| folder.join("lib")).into_iter();
    let of_package = package.flat_map(|lib| below(&lib, "site-packages/pgserver/pginstall/bin"));
    in_path.into_iter().chain(of_debian).chain(of_package).find(all_there)
}

/// Whether this PostgreSQL was built with TLS: one that was not says so in its messages.
fn has_tls(programs: &Path) -> bool {
    const WITHOUT: &[u8] = b"SSL is not supported by this build";
    let program = std::fs::read(programs.join(format!("postgres{}", std::env::consts::EXE_SUFFIX)));
    program.is_ok_and(|bytes| !bytes.windows(WITHOUT.len()).any(|part| part == WITHOUT))
}

impl System {
    /// Looks, and installs what may be installed.
    pub fn prepare(project: &Project) -> Self {
        let mut missing = Vec::new();
        if chromium().is_none() {
            missing.push("chromium");
        }
        if !has_vulkan() {
            missing.extend(["mesa-vulkan-drivers", "libvulkan1"]);
        }
        if !missing.is_empty() {
            install(&missing);
        }
        if let Some(folder) = moto_folder()
            && let Err(error) = python::program(&folder, MOTO, MOTO_PROGRAM)
        {
            eprintln!("no {MOTO}: {error:#}");
        }
        if postgres().is_none()
            && let Some(folder) = postgres_folder()
            && let Err(error) = python::install(&folder, POSTGRES)
        {
            eprintln!("no {POSTGRES}: {error:#}");
        }
        Self::look(project)
    }

    /// Looks only.
    pub fn look(project: &Project) -> Self {
        Self {
            data: project.root.join("../shared/data").is_dir(),
            vulkan: has_vulkan(),
            chromium: chromium(),
            root: is_root(),
            smollm2: model::file(),
            node: find_program(&["node"]).is_some(),
            postgres_tls: postgres().is_some_and(|programs| has_tls(&programs)),
            postgres: postgres(),
            moto: moto_folder().map(|folder| python::path(&folder, MOTO_PROGRAM)).filter(|program| program.is_file()),
        }
    }

    /// `None` where the part is there, else why a check that needs it was not run.
    pub fn lacks(&self, part: Part) -> Option<&'static str> {
        let (there, why) = match part {
            Part::Data => (self.data, "no ../shared/data beside the clone"),
            Part::Vulkan => (self.vulkan, "no Vulkan driver (apt-get install mesa-vulkan-drivers)"),
            Part::Chromium => (self.chromium.is_some(), "no Chromium (apt-get install chromium)"),
            Part::Root => (self.root, "not root, so no small file system can be mounted"),
            Part::Smollm2 => (self.smollm2.is_some(), "no SmolLM2-135M-Instruct (cargo xtask model)"),
            Part::Node => (self.node, "no Node (apt-get install nodejs)"),
            Part::Moto => (self.moto.is_some(), "no moto, a server that speaks S3 (needs Python with venv, and PyPI)"),
            Part::Postgres => {
                (self.postgres.is_some(), "no PostgreSQL (apt-get install postgresql, or Python with venv, and PyPI)")
            }
            Part::PostgresTls => (self.postgres_tls, "no PostgreSQL with TLS (apt-get install postgresql)"),
        };
        (!there).then_some(why)
    }

    /// The model file, where it was fetched.
    pub fn smollm2(&self) -> Option<&Path> {
        self.smollm2.as_deref()
    }

    /// The server that speaks S3, where it could be had.
    pub fn moto(&self) -> Option<&Path> {
        self.moto.as_deref()
    }

    /// The folder of PostgreSQL's programs, where there is one.
    pub fn postgres(&self) -> Option<&Path> {
        self.postgres.as_deref()
    }

    /// Chromium, where there is one.
    pub fn chromium(&self) -> Option<&Path> {
        self.chromium.as_deref()
    }
}

/// Makes sure that `wasm32-unknown-unknown` can be compiled for.
pub fn require_wasm_target(project: &Project) -> Result<()> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).current_dir(&project.root).output()?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    if sysroot.join("lib/rustlib/wasm32-unknown-unknown/lib").is_dir() {
        return Ok(());
    }
    if find_program(&["rustup"]).is_none() {
        bail!(
            "the Rust target wasm32-unknown-unknown is missing and there is no rustup to add it; \
             install your distribution's package for it (Debian: libstd-rust-dev-wasm32)"
        );
    }
    succeed(Command::new("rustup").args(["target", "add", "wasm32-unknown-unknown"]).current_dir(&project.root))
}

/// A program of one of these names in `PATH`.
pub fn find_program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    names
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)))
        .find(|candidate| candidate.is_file())
}

fn chromium() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CHROME").map(PathBuf::from).filter(|path| path.is_file()) {
        return Some(path);
    }
    find_program(&["chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome"])
}

fn has_vulkan() -> bool {
    let loader = ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64"].iter().any(|dir| {
        let arch = format!("{}-linux-gnu", std::env::consts::ARCH);
        Path::new(dir).join("libvulkan.so.1").exists() || Path::new(dir).join(arch).join("libvulkan.so.1").exists()
    });
    let driver = ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].iter().any(|name| std::env::var_os(name).is_some())
        || ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d"]
            .iter()
            .any(|dir| std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()));
    loader && driver
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Installs Debian packages where that is possible, else prints how to.
fn install(packages: &[&str]) {
    let command = format!("apt-get install --yes --no-install-recommends {}", packages.join(" "));
    if !is_root() || find_program(&["apt-get"]).is_none() {
        eprintln!("missing: {}. On Debian or Ubuntu: sudo {command}", packages.join(", "));
        return;
    }
    let update = apt(&["update"]);
    let mut args = vec!["install", "--yes", "--no-install-recommends"];
    args.extend(packages);
    if let Err(error) = update.and_then(|()| apt(&args)) {
        eprintln!(
            "{error:#}\nthe checks that need {} will show as not run; to install: {command}",
            packages.join(", ")
        );
    }
}

fn apt(args: &[&str]) -> Result<()> {
    let options = ["-q", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::Retries=1"];
    succeed(
        Command::new("apt-get")
            .args(options)
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::inherit()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignore_reasons_name_their_part() {
        assert_eq!(Part::in_ignore_reason("needs ../shared/data"), [Part::Data]);
        assert_eq!(Part::in_ignore_reason("needs a Vulkan adapter and Chromium"), [Part::Vulkan, Part::Chromium]);
        assert_eq!(Part::in_ignore_reason("needs root for a small tmpfs"), [Part::Root]);
        assert_eq!(Part::in_ignore_reason("needs SmolLM2 and Vulkan"), [Part::Vulkan, Part::Smollm2]);
        assert_eq!(Part::in_ignore_reason("needs Node"), [Part::Node]);
        assert_eq!(Part::in_ignore_reason("needs moto and PostgreSQL"), [Part::Moto, Part::Postgres]);
        assert_eq!(Part::in_ignore_reason("needs PostgreSQL with TLS"), [Part::Postgres, Part::PostgresTls]);
        assert_eq!(Part::in_ignore_reason("slow: 40 minutes"), []);
    }

    #[test]
    fn a_missing_part_says_why() {
        let bare = System {
            data: false,
            vulkan: true,
            chromium: None,
            root: false,
            smollm2: None,
            node: false,
            moto: None,
            postgres: None,
            postgres_tls: false,
        };
        assert!(bare.lacks(Part::Data).is_some_and(|why| why.contains("shared/data")));
        assert!(bare.lacks(Part::Chromium).is_some());
        assert!(bare.lacks(Part::Smollm2).is_some_and(|why| why.contains("cargo xtask model")));
        assert!(bare.lacks(Part::Node).is_some_and(|why| why.contains("nodejs")));
        assert!(bare.lacks(Part::Vulkan).is_none());
    }

    #[test]
    fn programs_are_found_in_path() {
        assert!(find_program(&["no-such-program-here", "sh"]).is_some());
        assert!(find_program(&["no-such-program-here"]).is_none());
    }
}
