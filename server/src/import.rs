//! From a file's bytes to records in the store: what `beckon import` and the HTTP route share.
//!
//! In the loop: the first arrow's end. Parsing is in [`beckon_shared::import`]; here good records are stored, known
//! ones counted, and every refused line is written to a file so that it can be mended and imported again.

use crate::store::{Store, StoreError};
use beckon_shared::control::{ImportOutcome, Reject};
use beckon_shared::import::{Format, Parsed, parse};
use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Largest file over HTTP.
pub const MAX_IMPORT_BYTES: usize = 256 << 20;
/// Refused lines told in the outcome; all of them are in the file.
const MAX_SHOWN_REJECTS: usize = 20;
/// End of the name of a file with refused lines.
const REJECTS_EXTENSION: &str = ".rejects.jsonl";

/// Why an import broke off.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The refused lines could not be written.
    #[error("cannot write the refused lines: {source}: {path}")]
    Rejects {
        /// What the system said.
        source: std::io::Error,
        /// Which file.
        path: PathBuf,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Files of a folder that are known by name, beside any other `*.jsonl` with our own impressions.
const KNOWN: [(&str, Format); 5] = [
    ("mimics-duo/panes.jsonl", Format::MimicsDuo),
    ("mimics-intents/query2intents.json", Format::Intents),
    ("mimics-manual/MIMICS-Manual.tsv", Format::MimicsManual),
    ("upworthy/upworthy.csv", Format::Upworthy),
    ("conversations/next_query.jsonl", Format::Conversations),
];

/// What can be imported from a folder: the known files in a fixed order, then its own `*.jsonl` by name.
///
/// # Errors
/// The folder cannot be listed.
pub fn files_of_folder(dir: &Path) -> std::io::Result<Vec<(PathBuf, Format)>> {
    let known = KNOWN.iter().map(|(name, format)| (dir.join(name), *format)).filter(|(path, _)| path.is_file());
    let mut files: Vec<(PathBuf, Format)> = known.collect();
    let mut own = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().map_or_else(Default::default, |name| name.to_string_lossy());
        // refused lines of an earlier import are no log
        if path.is_file() && name.ends_with(".jsonl") && !name.ends_with(REJECTS_EXTENSION) {
            own.push(path);
        }
    }
    own.sort();
    files.extend(own.into_iter().map(|path| (path, Format::Jsonl)));
    Ok(files)
}

/// Parses `bytes` and stores what is good.
///
/// # Errors
/// [`ImportError`]; records stored before the error stay, and a repeated import counts them as duplicates.
pub fn import_bytes(
    store: &Store,
    format: Format,
    name: &str,
    bytes: &[u8],
    rejects_dir: &Path,
) -> Result<ImportOutcome, ImportError> {
    let Parsed { source, records, rejects } = parse(format, bytes);
    let added = store.add_records(&records)?;
    let rejects_file = if rejects.is_empty() { None } else { Some(write_rejects(&rejects, name, rejects_dir)?) };
    Ok(ImportOutcome {
        source,
        n_accepted: added.n_accepted,
        n_duplicates: added.n_duplicates,
        n_rejected: rejects.len() as u64,
        rejects: rejects.into_iter().take(MAX_SHOWN_REJECTS).collect(),
        rejects_file: rejects_file.map(|path| path.display().to_string()),
    })
}

/// What to tell where an import brought nothing but refusals; `None` otherwise.
pub fn summary_of_refusal(outcome: &ImportOutcome) -> Option<String> {
    let ImportOutcome { n_accepted, n_duplicates, n_rejected, rejects, .. } = outcome;
    (*n_accepted == 0 && *n_duplicates == 0 && *n_rejected > 0).then(|| {
        let first = rejects.first().map_or_else(String::new, |reject| format!("; {}", in_words(reject)));
        format!("nothing could be imported, {n_rejected} refused{first}")
    })
}

/// A refused line in words.
pub fn in_words(reject: &Reject) -> String {
    let field = reject.field.as_ref().map_or_else(String::new, |field| format!(", {field}"));
    format!("line {}{field}: {}", reject.line, reject.reason)
}

/// Writes one JSON line per refused line into a new file, `NAME-N.rejects.jsonl` with the first free N.
///
/// # Errors
/// [`ImportError::Rejects`].
pub fn write_rejects(rejects: &[Reject], name: &str, dir: &Path) -> Result<PathBuf, ImportError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ImportError::Rejects { source, path }
    };
    std::fs::create_dir_all(dir).map_err(failed(dir))?;
    let stem = safe_stem(name);
    for n in 1u32.. {
        let path = dir.join(format!("{stem}-{n}{REJECTS_EXTENSION}"));
        let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err(failed(&path)(error)),
        };
        let mut out = BufWriter::new(file);
        for reject in rejects {
            let line = serde_json::to_string(reject).map_err(std::io::Error::from);
            line.and_then(|line| writeln!(out, "{line}")).map_err(failed(&path))?;
        }
        out.flush().map_err(failed(&path))?;
        return Ok(path);
    }
    unreachable!("four thousand million names are taken")
}

/// The part of a name from outside that is safe in a file name.
fn safe_stem(name: &str) -> String {
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    let stem: String = stem.chars().map(safe).take(60).collect();
    if stem.is_empty() { "import".into() } else { stem }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_stay_in_the_folder() {
        for (name, want) in
            [("log.jsonl", "log"), ("../../etc/passwd", "passwd"), ("", "import"), ("a b\0.csv", "a_b_")]
        {
            assert_eq!(safe_stem(name), want, "{name:?}");
        }
        assert_eq!(safe_stem(&"x".repeat(500)).len(), 60);
    }

    #[test]
    fn refused_lines_never_overwrite_earlier_ones() {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let reject = |line| Reject { line, field: Some("slate".into()), reason: "missing".into(), text: "{}".into() };
        let first = write_rejects(&[reject(3)], "log.jsonl", dir.path()).expect("written");
        let second = write_rejects(&[reject(4), reject(9)], "log.jsonl", dir.path()).expect("written");
        assert_ne!(first, second);
        let lines = std::fs::read_to_string(&second).expect("read");
        let back: Vec<Reject> = lines.lines().map(|line| serde_json::from_str(line).expect("a reject")).collect();
        assert_eq!(back, [reject(4), reject(9)]);
    }
}
