//! Repository rules: what `ARCHITECTURE.md` asks for and a machine can see in the text of the files.
//!
//! Each rule is a function from the files to findings, and has a test in which it finds something. Rules
//! about one file at a time stand in `tidy/source.rs`, rules about how files relate in `tidy/layout.rs`.

mod layout;
mod source;

use crate::project::Project;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// A file of the repository: path from the root with `/`, and its text (empty where it is not UTF-8).
#[derive(Debug, Clone)]
pub struct File {
    /// Path from the root.
    pub path: String,
    /// Contents.
    pub text: String,
}

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// File, and line where there is one.
    pub place: String,
    /// What, and what to do instead.
    pub what: String,
}

impl Finding {
    fn at(file: &File, line_idx: usize, what: impl Into<String>) -> Self {
        Self { place: format!("{}:{}", file.path, line_idx + 1), what: what.into() }
    }

    fn of(path: &str, what: impl Into<String>) -> Self {
        Self { place: path.to_owned(), what: what.into() }
    }
}

type Rule = fn(&[File]) -> Vec<Finding>;

/// Every rule with its name.
const RULES: [(&str, Rule); 15] = [
    ("module-header", source::module_header),
    ("file-length", source::file_length),
    ("function-length", source::function_length),
    ("unfinished", source::unfinished),
    ("glob-reexport", source::glob_reexport),
    ("ignore-reason", source::ignore_reason),
    ("shared-is-pure", source::shared_is_pure),
    ("wgsl-plain", source::wgsl_plain),
    ("whitespace", source::whitespace),
    ("file-names", layout::file_names),
    ("top-level", layout::top_level),
    ("kernel-twins", layout::kernel_twins),
    ("dependency-direction", layout::dependency_direction),
    ("pinned-versions", layout::pinned_versions),
    ("links", layout::links),
];

/// Applies every rule; an error when one finds something, else a line for people.
pub fn run(project: &Project) -> Result<String> {
    let files = files(&project.root)?;
    let mut n_findings = 0;
    for (name, rule) in RULES {
        for finding in rule(&files) {
            println!("{}: {} [{name}]", finding.place, finding.what);
            n_findings += 1;
        }
    }
    if n_findings > 0 {
        bail!("{n_findings} findings");
    }
    Ok(format!("{} rules, {} files", RULES.len(), files.len()))
}

/// Files that Git knows or would add; without Git, all but build outputs.
fn files(root: &Path) -> Result<Vec<File>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())
        .map(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect::<Vec<_>>()
        });
    let mut paths = match listed {
        Some(paths) => paths,
        None => {
            let mut paths = Vec::new();
            walk(root, root, &mut paths)?;
            paths
        }
    };
    paths.sort();
    paths.dedup();
    // A file deleted but not yet committed is still listed.
    paths.retain(|path| root.join(path).is_file());
    paths
        .into_iter()
        .map(|path| {
            let bytes = std::fs::read(root.join(&path)).with_context(|| path.clone())?;
            Ok(File { text: String::from_utf8(bytes).unwrap_or_default(), path })
        })
        .collect()
}

fn walk(root: &Path, dir: &Path, paths: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let relative = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
        if ["target", ".git", "data", "server/page"].contains(&relative.as_str()) {
            continue;
        }
        if path.is_dir() {
            walk(root, &path, paths)?;
        } else {
            paths.push(relative);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_repository_is_listed_with_or_without_git() {
        // not where it was built, if two clones share a build directory
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        let root = Path::new(&here).parent().unwrap();
        let mut walked = Vec::new();
        walk(root, root, &mut walked).unwrap();
        for paths in [walked, files(root).unwrap().into_iter().map(|file| file.path).collect()] {
            assert!(paths.iter().any(|path| path == "xtask/src/tidy.rs"));
            assert!(!paths.iter().any(|path| path.starts_with("target/")));
        }
    }
}
