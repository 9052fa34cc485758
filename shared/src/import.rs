//! Importers: text from outside into [`crate::click`] records, once, at the edge. One format a file.
//!
//! In the loop: before the click log. A broken line is refused with its number and field, the good
//! ones are kept; an importer never fails as a whole. Not here: files, the store, duplicates against
//! what is stored already.

mod conversations;
mod intents;
mod jsonl;
mod mimics_duo;
mod mimics_manual;
mod table;
mod upworthy;

use crate::click::{Record, Sourced};
use crate::control::Reject;
use std::str::FromStr;

/// Longest line that an importer reads, in bytes.
pub const MAX_LINE_BYTES: usize = 1 << 20;
/// Characters of a refused line that are kept.
const KEPT_CHARS: usize = 2_000;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Our own impressions, one JSON object a line; see `schema/impression.schema.json`.
    Jsonl,
    /// MIMICS-Duo panes: `panes.jsonl`, or the upstream TSV `Mimics-ClickExploreSampling.tsv`.
    MimicsDuo,
    /// MIMICS-Manual TSV with human labels.
    MimicsManual,
    /// JSON object from query to suggestions.
    Intents,
    /// Upworthy Research Archive CSV.
    Upworthy,
    /// TREC conversations: `history` and `next_query`, one JSON object a line.
    Conversations,
}

impl Format {
    /// All formats, in the order in which they are offered.
    pub const ALL: [Self; 6] =
        [Self::Jsonl, Self::MimicsDuo, Self::MimicsManual, Self::Intents, Self::Upworthy, Self::Conversations];

    /// Name on the command line and in URLs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::MimicsDuo => "mimics-duo",
            Self::MimicsManual => "mimics-manual",
            Self::Intents => "intents",
            Self::Upworthy => "upworthy",
            Self::Conversations => "conversations",
        }
    }

    /// Data set under which records are stored; impressions of the simulator are stored as `simulated`.
    pub fn source(self) -> &'static str {
        match self {
            Self::Jsonl => "log",
            Self::Intents => "mimics-intents",
            other => other.name(),
        }
    }
}

/// A name that is no format.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("unknown format `{0}`; expected one of jsonl, mimics-duo, mimics-manual, intents, upworthy, conversations")]
pub struct UnknownFormat(String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| UnknownFormat(name.to_owned()))
    }
}

/// What a file held.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Parsed {
    /// Data set.
    pub source: String,
    /// Good records, in the file's order.
    pub records: Vec<Sourced>,
    /// Refused lines, in the file's order.
    pub rejects: Vec<Reject>,
}

impl Parsed {
    fn accept(&mut self, record: Record) {
        let source = match &record {
            Record::Impression(impression) if impression.simulated => "simulated".to_owned(),
            _ => self.source.clone(),
        };
        self.records.push(Sourced { source, record });
    }

    fn refuse(&mut self, line: usize, problem: Problem, text: &str) {
        let text = text.chars().take(KEPT_CHARS).collect();
        self.rejects.push(Reject { line, field: problem.field, reason: problem.reason, text });
    }

    fn take(&mut self, line: usize, text: &str, outcome: Result<Record, Problem>) {
        match outcome {
            Ok(record) => self.accept(record),
            Err(problem) => self.refuse(line, problem, text),
        }
    }
}

/// Why a line is refused.
#[derive(Debug)]
struct Problem {
    field: Option<String>,
    reason: String,
}

impl Problem {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: Some(field.into()), reason: reason.into() }
    }

    fn whole(reason: impl Into<String>) -> Self {
        Self { field: None, reason: reason.into() }
    }
}

/// Parses a file. Never fails as a whole: what cannot be read is in `rejects`, an empty file too.
pub fn parse(format: Format, bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed { source: format.source().to_owned(), ..Parsed::default() };
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if bytes.iter().all(u8::is_ascii_whitespace) {
        let reason = format!("the file is empty; expected {}", expectation(format));
        parsed.refuse(1, Problem::whole(reason), "");
        return parsed;
    }
    match format {
        Format::Jsonl => jsonl::parse(bytes, &mut parsed),
        Format::MimicsDuo => mimics_duo::parse(bytes, &mut parsed),
        Format::MimicsManual => mimics_manual::parse(bytes, &mut parsed),
        Format::Intents => intents::parse(bytes, &mut parsed),
        Format::Upworthy => upworthy::parse(bytes, &mut parsed),
        Format::Conversations => conversations::parse(bytes, &mut parsed),
    }
    if parsed.records.is_empty() && parsed.rejects.is_empty() {
        parsed.refuse(1, Problem::whole(format!("no records in the file; expected {}", expectation(format))), "");
    }
    parsed
}

fn expectation(format: Format) -> &'static str {
    match format {
        Format::Jsonl => "one impression a line as JSON, see /api/log/schema",
        Format::MimicsDuo => "panes.jsonl or a TSV with the header of Mimics-ClickExploreSampling",
        Format::MimicsManual => "a TSV with the header of MIMICS-Manual",
        Format::Intents => "a JSON object from query to a list of suggestions",
        Format::Upworthy => "a CSV with the header of the Upworthy archive",
        Format::Conversations => "one JSON object a line with `history` and `next_query`",
    }
}

/// Calls `each` with the number (1-based) and text of every line that is not blank; refuses lines
/// that are too long or not UTF-8.
fn for_each_line(bytes: &[u8], parsed: &mut Parsed, each: impl Fn(&str) -> Result<Record, Problem>) {
    for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if line.len() > MAX_LINE_BYTES {
            let reason = format!("line of {} bytes; at most {MAX_LINE_BYTES} are read", line.len());
            parsed.refuse(i + 1, Problem::whole(reason), &String::from_utf8_lossy(&line[..KEPT_CHARS]));
            continue;
        }
        match std::str::from_utf8(line) {
            Ok(text) => parsed.take(i + 1, text, each(text)),
            Err(error) => {
                let reason = format!("not UTF-8 at byte {}", error.valid_up_to());
                parsed.refuse(i + 1, Problem::whole(reason), &String::from_utf8_lossy(line));
            }
        }
    }
}

/// JSON of one line into `T`; the problem names the path of the field at fault.
fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value: T = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        let broken = inner.is_syntax() || inner.is_eof();
        let field = if broken || path == "." { named_in(&inner.to_string()) } else { Some(path) };
        let prefix = if broken { "broken JSON: " } else { "" };
        Problem { field, reason: format!("{prefix}{inner}") }
    })?;
    reader.end().map_err(|error| Problem::whole(format!("broken JSON: {error}")))?;
    Ok(value)
}

/// The field that serde's message quotes, as in "missing field `slate`".
fn named_in(message: &str) -> Option<String> {
    let rest = message.split_once("field `")?.1;
    Some(rest.split_once('`')?.0.to_owned())
}

/// An option of a MIMICS pane as a full query: many are fragments ("episodes" for "school of
/// rock"), so the query goes before one that shares no word with it.
fn full_query(query: &str, option: &str) -> String {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
    };
    let of_query = words(query);
    if words(option).iter().any(|word| of_query.contains(word)) {
        option.trim().to_owned()
    } else {
        format!("{} {}", query.trim(), option.trim())
    }
}

#[cfg(test)]
mod tests;
