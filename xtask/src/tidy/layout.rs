//! Rules about how files and crates relate.

use super::{File, Finding};

/// Folders and files of the root.
const TOP_LEVEL: [&str; 24] = [
    ".cargo",
    ".ci",
    ".gitattributes",
    ".github",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "EXPERIMENTS.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "NOTICE",
    "PAPERS.md",
    "README.md",
    "clippy.toml",
    "index.html",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "server",
    "shaders",
    "shared",
    "tests",
    "web",
];

/// What each crate may depend on among ours; `xtask` holds no product code.
const MAY_USE: [(&str, &[&str]); 6] = [
    ("shaders", &[]),
    ("shared", &["beckon-shaders"]),
    ("server", &["beckon-shaders", "beckon-shared"]),
    ("web", &["beckon-shaders", "beckon-shared"]),
    ("tests", &["beckon-shaders", "beckon-shared", "beckon-server"]),
    ("xtask", &[]),
];

/// `a.rs` + `a/`, not `mod.rs`; a name says what is inside.
pub fn file_names(files: &[File]) -> Vec<Finding> {
    let vague = ["utils", "util", "helpers", "helper", "common", "manager", "misc"];
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        if file.path.ends_with("/mod.rs") {
            findings.push(Finding::of(&file.path, "mod.rs: name it after its folder"));
        }
        let vague_part = file.path.trim_end_matches(".rs").split('/').find(|part| vague.contains(part));
        if let Some(part) = vague_part {
            findings.push(Finding::of(&file.path, format!("`{part}` says nothing: name what it does")));
        }
        for (line_idx, line) in file.text.lines().enumerate() {
            let module = line.trim().trim_start_matches("pub ").strip_prefix("mod ");
            let name = module.map(|rest| rest.trim_end_matches([';', '{', ' ']));
            if let Some(name) = name.filter(|name| vague.contains(name)) {
                findings.push(Finding::at(file, line_idx, format!("module `{name}` says nothing: name what it does")));
            }
        }
    }
    findings
}

/// The root holds what ARCHITECTURE.md lists.
pub fn top_level(files: &[File]) -> Vec<Finding> {
    let mut unknown: Vec<&str> = files
        .iter()
        .filter_map(|file| file.path.split('/').next())
        .filter(|name| !TOP_LEVEL.contains(name) && *name != "xtask")
        .collect();
    unknown.dedup();
    unknown.into_iter().map(|name| Finding::of(name, "does not belong in the root")).collect()
}

/// Every kernel (a WGSL file with parameters) has a CPU twin of the same name.
pub fn kernel_twins(files: &[File]) -> Vec<Finding> {
    let stem =
        |path: &str| path.rsplit('/').next().unwrap_or_default().rsplit_once('.').map(|(stem, _)| stem.to_owned());
    let twins: Vec<_> = files
        .iter()
        .filter(|file| file.path.starts_with("shaders/") && file.path.ends_with(".rs"))
        .filter_map(|file| stem(&file.path))
        .collect();
    files
        .iter()
        .filter(|file| file.path.ends_with(".wgsl") && file.text.contains("var<uniform>"))
        .filter(|file| !stem(&file.path).is_some_and(|stem| twins.contains(&stem)))
        .map(|file| Finding::of(&file.path, "has no CPU twin of the same name in shaders"))
        .collect()
}

/// Names that a manifest depends on, with their line.
fn dependencies(manifest: &File) -> Vec<(usize, String, String)> {
    let mut inside = false;
    let mut found = Vec::new();
    for (line_idx, line) in manifest.text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            inside = line.trim_end_matches(']').ends_with("dependencies");
        } else if inside && let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            let name = name.trim();
            let name = name.split('.').next().unwrap_or(name);
            found.push((line_idx, name.to_owned(), value.trim().to_owned()));
        }
    }
    found
}

/// `shaders` ← `shared` ← `server`, `web` ← `tests`; Burn only where training is.
pub fn dependency_direction(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (folder, may_use) in MAY_USE {
        let path = format!("{folder}/Cargo.toml");
        for manifest in files.iter().filter(|file| file.path == path) {
            for (line_idx, name, _) in dependencies(manifest) {
                let burn = name == "burn" && !["server", "tests"].contains(&folder);
                let ours = name.starts_with("beckon-") && !may_use.contains(&name.as_str());
                if burn || ours {
                    findings.push(Finding::at(manifest, line_idx, format!("`{folder}` must not depend on `{name}`")));
                }
            }
        }
    }
    findings
}

/// Exact versions, once, in the root manifest; no Git branches, no patches.
pub fn pinned_versions(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for manifest in files.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        for (line_idx, line) in manifest.text.lines().enumerate() {
            if line.starts_with("[patch") || line.starts_with("[replace") {
                findings.push(Finding::at(manifest, line_idx, "no patches"));
            }
        }
        let is_root = manifest.path == "Cargo.toml";
        for (line_idx, name, value) in dependencies(manifest) {
            let text = manifest.text.lines().nth(line_idx).unwrap_or_default();
            let from_workspace = text.contains("workspace = true");
            let ours = name.starts_with("beckon-");
            if value.contains("git = ") {
                findings.push(Finding::at(
                    manifest,
                    line_idx,
                    format!("`{name}` comes from Git; use a published version"),
                ));
            } else if is_root && !ours && !value.contains("\"=") {
                findings.push(Finding::at(manifest, line_idx, format!("`{name}` is not pinned: write \"=x.y.z\"")));
            } else if !is_root && !from_workspace {
                findings.push(Finding::at(
                    manifest,
                    line_idx,
                    format!("`{name}`: give the version in the root manifest"),
                ));
            }
        }
    }
    findings
}

/// Links in documents lead somewhere.
pub fn links(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (line_idx, line) in file.text.lines().enumerate() {
            for target in line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
                let path = target.split('#').next().unwrap_or_default();
                if path.is_empty() || path.contains(':') || path.starts_with("..") {
                    continue;
                }
                let path = if folder.is_empty() { path.to_owned() } else { format!("{folder}/{path}") };
                let path = path.trim_end_matches('/');
                if !files.iter().any(|file| file.path == path || file.path.starts_with(&format!("{path}/"))) {
                    findings.push(Finding::at(file, line_idx, format!("link to `{target}`, which does not exist")));
                }
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Rule;
    use super::*;

    fn files(list: &[(&str, &str)]) -> Vec<File> {
        list.iter().map(|(path, text)| File { path: (*path).into(), text: (*text).into() }).collect()
    }

    /// The rule finds one thing in `bad` and nothing in `good`.
    #[track_caller]
    fn check(rule: Rule, bad: &[(&str, &str)], good: &[(&str, &str)]) {
        assert_eq!(rule(&files(bad)).len(), 1, "{:?}", rule(&files(bad)));
        assert_eq!(rule(&files(good)), []);
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        check(file_names, &[("a/mod.rs", "")], &[("a.rs", ""), ("a/b.rs", "")]);
        check(file_names, &[("a/utils.rs", "")], &[("a/common_terms.rs", "")]);
        check(file_names, &[("a.rs", "mod helpers {\n")], &[("a.rs", "mod help_page;\n")]);
        check(top_level, &[("scripts/a", "")], &[("web/a", ""), ("xtask/a", "")]);
        let kernel = ("shaders/a.wgsl", "@group(0) @binding(0) var<uniform> params: Params;");
        check(
            kernel_twins,
            &[kernel, ("shared/a.rs", "")],
            &[kernel, ("shaders/cpu/a.rs", ""), ("shaders/part.wgsl", "")],
        );
        let on_burn = "[dependencies]\nburn.workspace = true\n";
        check(dependency_direction, &[("shared/Cargo.toml", on_burn)], &[("server/Cargo.toml", on_burn)]);
        let on_shared = "[target.'cfg(unix)'.dependencies]\nbeckon-shared.workspace = true\n";
        check(dependency_direction, &[("shaders/Cargo.toml", on_shared)], &[("web/Cargo.toml", on_shared)]);
        let root = |version: &str| format!("[workspace.dependencies]\n# why\na = {{ version = \"{version}\" }}\n");
        check(pinned_versions, &[("Cargo.toml", &root("1"))], &[("Cargo.toml", &root("=1.0.0"))]);
        let member = |line: &str| format!("[dependencies]\n{line}\n");
        check(
            pinned_versions,
            &[("web/Cargo.toml", &member("a = \"=1.0.0\""))],
            &[("web/Cargo.toml", &member("a = { workspace = true, features = [\"b\"] }"))],
        );
        check(pinned_versions, &[("Cargo.toml", "[patch.crates-io]\n")], &[("Cargo.toml", "[workspace]\n")]);
        check(
            links,
            &[("a.md", "[b](b.rs)\n")],
            &[("a.md", "[b](b.rs) [c](https://c.d) [f](f/)\n"), ("b.rs", ""), ("f/x", "")],
        );
    }
}
