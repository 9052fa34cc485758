//! The page: wasm-bindgen as a library, hashed names, Brotli beside each file, one folder that `server` embeds.
//!
//! Inputs: the crate `web`, every file in `web/static/`, the template `index.html`. A text file may name
//! another one as `{{NAME}}` (`{{beckon.js}}`, `{{beckon.wasm}}`, `{{style.css}}`); the build puts the hashed
//! name there, so a name changes whenever anything behind it changes and files may be cached for ever. Only
//! `index.html` and `page.json` (what was built from what) keep their names. Files are written to a folder
//! beside `server/page` and moved there in one step.

mod shrink;

use crate::project::{Project, succeed};
use crate::system;
use anyhow::{Context, Result, anyhow, bail, ensure};
use brotlic::{BlockSize, BrotliEncoderOptions, CompressionMode, CompressorWriter, Quality, WindowSize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use wasm_bindgen_cli_support::Bindgen;

/// What a first visit may transfer at most, in Brotli bytes.
pub const BUDGET_BYTES: u64 = 1_000_000;
/// Name of the file that says what the page was built from.
const MANIFEST: &str = "page.json";
/// What the page is a function of; folders are walked.
const SOURCES: [&str; 10] = [
    "Cargo.lock",
    "Cargo.toml",
    ".cargo/config.toml",
    "rust-toolchain.toml",
    "index.html",
    "shaders",
    "shared",
    "web",
    "xtask/src/page.rs",
    "xtask/src/page",
];

/// How to build the page.
#[derive(clap::Args, Default)]
pub struct Options {
    /// Build even if no source has changed.
    #[arg(long)]
    pub force: bool,
}

/// A page that was built.
pub struct Page {
    /// Where it lies.
    pub dir: PathBuf,
    /// Name, bytes, Brotli bytes.
    pub files: Vec<(String, u64, u64)>,
    /// Nothing had changed.
    pub reused: bool,
}

impl Page {
    /// Bytes of a first visit over Brotli.
    pub fn brotli_bytes(&self) -> u64 {
        self.files.iter().map(|(_, _, brotli)| brotli).sum()
    }

    /// Sizes for people.
    pub fn print(&self) {
        println!("{} {}", self.dir.display(), if self.reused { "(unchanged)" } else { "" });
        for (name, bytes, brotli) in &self.files {
            println!("  {name:<40} {bytes:>9} bytes {brotli:>9} with Brotli");
        }
        println!("  {:<40} {:>25} of {BUDGET_BYTES} with Brotli", "first visit", self.brotli_bytes());
    }

    /// Fails when the page has outgrown its budget.
    pub fn check_budget(&self) -> Result<()> {
        let bytes = self.brotli_bytes();
        ensure!(bytes <= BUDGET_BYTES, "the page is {bytes} bytes with Brotli, the budget is {BUDGET_BYTES}");
        Ok(())
    }
}

/// Builds the page unless it stands already.
pub fn run(project: &Project, options: &Options) -> Result<Page> {
    let dir = project.root.join("server/page");
    let sources = hash_of_sources(&project.root)?;
    if !options.force
        && let Some(files) = reusable(&dir, &sources)
    {
        return Ok(Page { dir, files, reused: true });
    }
    system::require_wasm_target(project)?;
    let wasm = compile(project)?;
    let mut files = bind(project, &wasm)?;
    files.extend(read_static(&project.root.join("web/static"))?);
    let index = std::fs::read(project.root.join("index.html")).context("index.html")?;
    files.insert("index.html".to_owned(), index);
    let hashed = hash_names(files)?;
    let sizes = write(&dir, &hashed, &sources)?;
    Ok(Page { dir, files: sizes, reused: false })
}

/// A Cargo call for the page: its flags come from `.cargo/config.toml` alone, as a `RUSTFLAGS` of the
/// caller would replace them.
pub fn cargo(project: &Project, verb: &str) -> std::process::Command {
    let mut command =
        project.cargo([verb, "--profile", "web", "--target", "wasm32-unknown-unknown", "--package", "beckon-web"]);
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

fn compile(project: &Project) -> Result<PathBuf> {
    succeed(cargo(project, "build").arg("--lib"))?;
    let wasm = project.target.join("wasm32-unknown-unknown/web/beckon_web.wasm");
    ensure!(wasm.is_file(), "cargo built no {}", wasm.display());
    Ok(wasm)
}

/// Runs wasm-bindgen: `beckon.js` (an ES module whose `init` is given the path of the wasm), `beckon.wasm`.
fn bind(project: &Project, wasm: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let out = project.target.join("page-bindgen");
    remove_dir(&out)?;
    Bindgen::new()
        .input_path(wasm)
        .out_name("beckon")
        .web(true)
        .and_then(|bindgen| {
            bindgen
                .typescript(false)
                .omit_default_module_path(true)
                .remove_name_section(true)
                .remove_producers_section(true)
                .generate(&out)
        })
        .context("wasm-bindgen")?;
    ensure!(!out.join("snippets").exists(), "the page has wasm-bindgen snippets; move them to web/static");
    let read = |name: &str| std::fs::read(out.join(name)).with_context(|| format!("wasm-bindgen's {name}"));
    let js = String::from_utf8(read("beckon.js")?).context("wasm-bindgen's beckon.js")?;
    let (js, wasm) = shrink::shrink(&js, &read("beckon_bg.wasm")?)?;
    Ok(BTreeMap::from([("beckon.js".to_owned(), js.into_bytes()), ("beckon.wasm".to_owned(), wasm)]))
}

/// Files of `web/static`, which has no folders inside; none if it does not exist.
fn read_static(dir: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    if dir.is_dir() {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            ensure!(path.is_file(), "{} is a folder; web/static is flat", path.display());
            let bytes = std::fs::read(&path)?;
            let is_js = name.ends_with(".js");
            let bytes = if is_js { shrink::stripped(&String::from_utf8(bytes)?)?.into_bytes() } else { bytes };
            files.insert(name, bytes);
        }
    }
    Ok(files)
}

/// Replaces `{{NAME}}` by hashed names and renames every file but `index.html`. A file's own hash is taken
/// after its references were filled in, so the order follows the references.
fn hash_names(files: BTreeMap<String, Vec<u8>>) -> Result<BTreeMap<String, Vec<u8>>> {
    let known: BTreeSet<String> = files.keys().cloned().collect();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut hashed = BTreeMap::new();
    let mut waiting: Vec<(String, Vec<u8>)> = files.into_iter().collect();
    while !waiting.is_empty() {
        let n_before = waiting.len();
        let mut blocked = Vec::new();
        for (name, bytes) in waiting {
            let references = if is_text(&name) { references(&bytes) } else { BTreeSet::new() };
            if let Some(unknown) = references.iter().find(|reference| !known.contains(*reference)) {
                bail!("{name} names {{{{{unknown}}}}}, which is no file of the page");
            }
            if !references.iter().all(|reference| names.contains_key(reference)) {
                blocked.push((name, bytes));
                continue;
            }
            let bytes = fill(bytes, &references, &names);
            let new_name = if name == "index.html" { name.clone() } else { hashed_name(&name, &bytes) };
            names.insert(name, new_name.clone());
            hashed.insert(new_name, bytes);
        }
        ensure!(blocked.len() < n_before, "files of the page name each other in a circle");
        waiting = blocked;
    }
    Ok(hashed)
}

fn is_text(name: &str) -> bool {
    [".html", ".js", ".css", ".svg", ".json"].iter().any(|ending| name.ends_with(ending))
}

/// `{{NAME}}` where NAME looks like a file name; other braces (JavaScript has many) are left alone.
fn references(bytes: &[u8]) -> BTreeSet<String> {
    let text = String::from_utf8_lossy(bytes);
    text.split("{{")
        .skip(1)
        .filter_map(|rest| rest.split_once("}}").map(|(name, _)| name))
        .filter(|name| {
            name.contains('.') && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        })
        .map(str::to_owned)
        .collect()
}

fn fill(bytes: Vec<u8>, references: &BTreeSet<String>, names: &BTreeMap<String, String>) -> Vec<u8> {
    if references.is_empty() {
        return bytes;
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    references.iter().fold(text, |text, name| text.replace(&format!("{{{{{name}}}}}"), &names[name])).into_bytes()
}

/// `style.css` → `style-0123456789abcdef.css`.
fn hashed_name(name: &str, bytes: &[u8]) -> String {
    let hash = hex(&Sha256::digest(bytes)[..8]);
    match name.rsplit_once('.') {
        Some((stem, ending)) => format!("{stem}-{hash}.{ending}"),
        None => format!("{name}-{hash}"),
    }
}

/// Writes the files with a `.br` beside each to a new folder and moves it to `dir`.
fn write(dir: &Path, files: &BTreeMap<String, Vec<u8>>, sources: &str) -> Result<Vec<(String, u64, u64)>> {
    let new = dir.with_file_name(".page-new");
    let old = dir.with_file_name(".page-old");
    remove_dir(&new)?;
    std::fs::create_dir_all(&new)?;
    let mut sizes = Vec::new();
    for (name, bytes) in files {
        let compressed = brotli(bytes)?;
        sizes.push((name.clone(), bytes.len() as u64, compressed.len() as u64));
        std::fs::write(new.join(name), bytes)?;
        std::fs::write(new.join(format!("{name}.br")), compressed)?;
    }
    let manifest = serde_json::json!({ "sources": sources, "files": sizes });
    std::fs::write(new.join(MANIFEST), serde_json::to_vec_pretty(&manifest)?)?;
    remove_dir(&old)?;
    if dir.exists() {
        std::fs::rename(dir, &old)?;
    }
    std::fs::rename(&new, dir)?;
    remove_dir(&old)?;
    Ok(sizes)
}

/// At best quality. Mode, window and block are those that made the page's wasm smallest (EXPERIMENTS.md, 2026-11-28): a window
/// of 1 MiB has shorter distances to write than one of 16, and what is further back is hardly ever the same.
fn brotli(bytes: &[u8]) -> Result<Vec<u8>> {
    let encoder = BrotliEncoderOptions::new()
        .quality(Quality::best())
        .mode(CompressionMode::Font)
        .window_size(WindowSize::new(20)?)
        .block_size(BlockSize::new(16)?)
        .size_hint(u32::try_from(bytes.len())?)
        .build()
        .map_err(|error| anyhow!("Brotli: {error:?}"))?;
    let mut compressor = CompressorWriter::with_encoder(encoder, Vec::new());
    compressor.write_all(bytes).context("Brotli")?;
    compressor.into_inner().map_err(|error| anyhow!("Brotli: {error:?}"))
}

/// Sizes of the page that stands, if it was built from these sources and nobody removed a file.
fn reusable(dir: &Path, sources: &str) -> Option<Vec<(String, u64, u64)>> {
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join(MANIFEST)).ok()?).ok()?;
    if manifest["sources"].as_str() != Some(sources) {
        return None;
    }
    let files: Vec<(String, u64, u64)> = serde_json::from_value(manifest["files"].clone()).ok()?;
    let has_length =
        |name: String, n_bytes: u64| std::fs::metadata(dir.join(name)).is_ok_and(|metadata| metadata.len() == n_bytes);
    files
        .iter()
        .all(|(name, bytes, brotli)| has_length(name.clone(), *bytes) && has_length(format!("{name}.br"), *brotli))
        .then_some(files)
}

/// SHA-256 over the paths and contents of everything in [`SOURCES`], hex.
fn hash_of_sources(root: &Path) -> Result<String> {
    let mut paths = Vec::new();
    for source in SOURCES {
        walk(&root.join(source), &mut paths)?;
    }
    paths.sort();
    let mut hasher = Sha256::new();
    for path in paths {
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        hasher.update(path.strip_prefix(root)?.to_string_lossy().as_bytes());
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(&bytes);
    }
    Ok(hex(&hasher.finalize()))
}

fn walk(path: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_dir() {
        for entry in std::fs::read_dir(path)? {
            walk(&entry?.path(), paths)?;
        }
    } else if path.is_file() {
        paths.push(path.to_owned());
    }
    Ok(())
}

fn remove_dir(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(dir.display().to_string()),
        _ => Ok(()),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        list.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_change_deep_down_changes_every_name_above() {
        let page = |wasm: &str| {
            hash_names(files(&[
                ("beckon.wasm", wasm),
                ("worker.js", "load('{{beckon.wasm}}') // {{ x: 1 }}"),
                ("index.html", "<script src={{worker.js}}>"),
                ("style.css", "a{}"),
            ]))
            .unwrap()
        };
        let (one, two) = (page("1"), page("2"));
        let name = |page: &BTreeMap<String, Vec<u8>>, stem: &str| {
            page.keys().find(|name| name.starts_with(stem)).unwrap().clone()
        };
        assert_ne!(name(&one, "beckon-"), name(&two, "beckon-"));
        assert_ne!(name(&one, "worker-"), name(&two, "worker-"));
        assert_eq!(name(&one, "style-"), name(&two, "style-"));
        assert_eq!(one["index.html"], format!("<script src={}>", name(&one, "worker-")).into_bytes());
        assert!(String::from_utf8_lossy(&one[&name(&one, "worker-")]).contains("{{ x: 1 }}"));
    }

    #[test]
    fn unknown_and_circular_references_are_errors() {
        assert!(hash_names(files(&[("index.html", "{{missing.js}}")])).is_err());
        assert!(hash_names(files(&[("a.js", "{{b.js}}"), ("b.js", "{{a.js}}")])).is_err());
    }

    #[test]
    fn an_oversized_page_breaks_the_budget() {
        let page = |brotli| Page { dir: PathBuf::new(), files: vec![("a".into(), 1, brotli)], reused: false };
        assert!(page(BUDGET_BYTES).check_budget().is_ok());
        assert!(page(BUDGET_BYTES + 1).check_budget().is_err());
    }

    #[test]
    fn a_page_is_reused_only_while_it_is_whole() {
        let dir = std::env::temp_dir().join(format!("beckon-xtask-page-{}", std::process::id()));
        let page = dir.join("page");
        let sizes = write(&page, &files(&[("index.html", "hello hello hello")]), "abc").unwrap();
        assert_eq!(reusable(&page, "abc"), Some(sizes));
        assert_eq!(reusable(&page, "abd"), None);
        std::fs::write(page.join("index.html"), "cut").unwrap();
        assert_eq!(reusable(&page, "abc"), None);
        remove_dir(&dir).unwrap();
    }
}
