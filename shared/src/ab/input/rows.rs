//! Rows of a CSV table or of one JSON object a line, as cells in an order that the caller chooses; every problem
//! names its line and column.

use super::InputError;
use csv::{ReaderBuilder, StringRecord};
use serde_json::{Map, Value};

/// Longest line that is read, in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Columns of a file and how its rows are written.
pub(super) struct Layout {
    is_json: bool,
    columns: Vec<String>,
}

impl Layout {
    /// Reads the header, or the keys of the first object.
    pub(super) fn of(bytes: &[u8]) -> Result<Self, InputError> {
        let Some(first) = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) else {
            return Err(InputError::whole(1, "the file is empty; expected a header or JSON objects"));
        };
        if *first == b'{' {
            let (line, text) = json_lines(bytes).next().unwrap_or((1, &[]));
            let columns = object(line, text)?.keys().cloned().collect();
            return Ok(Self { is_json: true, columns });
        }
        let mut reader = ReaderBuilder::new().flexible(true).from_reader(bytes);
        let header = reader.headers().map_err(|error| InputError::whole(1, format!("no header: {error}")))?;
        let columns: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
        let twice = columns.iter().enumerate().find(|(i, name)| columns[..*i].contains(name));
        if let Some((_, name)) = twice {
            return Err(InputError::new(1, name, "stands in the header twice"));
        }
        Ok(Self { is_json: false, columns })
    }

    /// Whether the file has this column; in JSON, whether the first object has.
    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }
}

/// One row in the caller's order of columns.
pub(super) struct Cells<'a> {
    line: usize,
    names: &'a [&'a str],
    cells: Vec<Option<String>>,
}

impl Cells<'_> {
    pub(super) fn len(&self) -> usize {
        self.cells.len()
    }

    /// A problem with a cell.
    pub(super) fn error(&self, column: usize, problem: impl Into<String>) -> InputError {
        InputError::new(self.line, self.names[column], problem)
    }

    /// The cell, trimmed; `None` where it is missing or empty.
    pub(super) fn optional_text(&self, column: usize) -> Option<&str> {
        self.cells[column].as_deref().map(str::trim).filter(|text| !text.is_empty())
    }

    pub(super) fn text(&self, column: usize) -> Result<&str, InputError> {
        self.optional_text(column).ok_or_else(|| self.error(column, "empty; expected text"))
    }

    /// A number >= 0.
    pub(super) fn number(&self, column: usize) -> Result<f64, InputError> {
        let text = self.optional_text(column).ok_or_else(|| self.error(column, "empty; expected a number"))?;
        let value: Option<f64> = text.parse().ok().filter(|value: &f64| value.is_finite() && *value >= 0.0);
        value.ok_or_else(|| self.error(column, format!("`{text}`; expected a number, 0 or more")))
    }

    /// As [`Self::number`]; an empty cell is 0.
    pub(super) fn optional_number(&self, column: usize) -> Result<f64, InputError> {
        if self.optional_text(column).is_none() { Ok(0.0) } else { self.number(column) }
    }

    pub(super) fn count(&self, column: usize) -> Result<u64, InputError> {
        let text = self.optional_text(column).ok_or_else(|| self.error(column, "empty; expected a count"))?;
        text.parse().map_err(|_| self.error(column, format!("`{text}`; expected a whole number, 0 or more")))
    }
}

/// Calls `each` with every row. Columns of the file that are not in `names` are an error, as a misspelt
/// optional column would otherwise be ignored; names that the file lacks give empty cells.
pub(super) fn for_each_row(
    bytes: &[u8],
    layout: &Layout,
    names: &[&str],
    mut each: impl FnMut(&Cells) -> Result<(), InputError>,
) -> Result<(), InputError> {
    let unknown = |line, name: &str| {
        InputError::new(line, name, format!("unknown; expected {}, or name it as a stratum", names.join(", ")))
    };
    if let Some(name) = layout.columns.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(unknown(1, name));
    }
    let mut n_rows = 0usize;
    if layout.is_json {
        for (line, text) in json_lines(bytes) {
            let object = object(line, text)?;
            if let Some(name) = object.keys().find(|name| !names.contains(&name.as_str())) {
                return Err(unknown(line, name));
            }
            let cells = names.iter().map(|name| object.get(*name).and_then(as_text)).collect();
            each(&Cells { line, names, cells })?;
            n_rows += 1;
        }
    } else {
        let places: Vec<Option<usize>> =
            names.iter().map(|name| layout.columns.iter().position(|column| column == name)).collect();
        let mut reader = ReaderBuilder::new().flexible(true).from_reader(bytes);
        let mut record = StringRecord::new();
        loop {
            let line = reader.position().line() as usize;
            match reader.read_record(&mut record) {
                Ok(false) => break,
                Err(error) => return Err(InputError::whole(line, error.to_string())),
                Ok(true) => {}
            }
            let line = record.position().map_or(line, |position| position.line() as usize);
            if record.len() != layout.columns.len() {
                let problem = format!("{} cells for {} columns", record.len(), layout.columns.len());
                return Err(InputError::whole(line, problem));
            }
            let cells = places.iter().map(|place| place.and_then(|i| record.get(i)).map(str::to_owned)).collect();
            each(&Cells { line, names, cells })?;
            n_rows += 1;
        }
    }
    if n_rows == 0 { Err(InputError::whole(1, "no rows under the header")) } else { Ok(()) }
}

/// Lines that are not blank, with their 1-based numbers.
fn json_lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate().map(|(i, line)| (i + 1, line));
    lines.filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace))
}

fn object(line: usize, text: &[u8]) -> Result<Map<String, Value>, InputError> {
    if text.len() > MAX_LINE_BYTES {
        return Err(InputError::whole(line, format!("{} bytes; at most {MAX_LINE_BYTES} are read", text.len())));
    }
    serde_json::from_slice(text).map_err(|error| InputError::whole(line, format!("no JSON object: {error}")))
}

/// A cell of text or number; null is an empty cell.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}
