//! Tables with a header: rows by column name, with the line on which each began.

use super::{Parsed, Problem};
use crate::click::Record;
use csv::{ReaderBuilder, StringRecord};

/// Columns of a table.
pub(super) struct Columns(StringRecord);

/// A row with its columns.
pub(super) struct Row<'a> {
    columns: &'a Columns,
    cells: &'a StringRecord,
}

impl Row<'_> {
    /// The cell of a column, trimmed.
    pub(super) fn get(&self, column: &str) -> Result<&str, Problem> {
        let at = self.columns.0.iter().position(|name| name == column);
        let cell = at.and_then(|i| self.cells.get(i));
        cell.map(str::trim).ok_or_else(|| Problem::new(column, "missing; the row is too short"))
    }

    /// The cell as a number.
    pub(super) fn number<T: std::str::FromStr>(&self, column: &str, expected: &str) -> Result<T, Problem> {
        let cell = self.get(column)?;
        cell.parse().map_err(|_| Problem::new(column, format!("`{cell}`; expected {expected}")))
    }

    /// The cells `option_1` to `option_5` that are filled, with their 1-based number.
    pub(super) fn options(&self) -> Result<Vec<(usize, String)>, Problem> {
        let mut options = Vec::new();
        for i in 1..=5 {
            let cell = self.get(&format!("option_{i}"))?;
            if !cell.is_empty() {
                options.push((i, cell.to_owned()));
            }
        }
        if options.is_empty() {
            Err(Problem::new("option_1", "no options; expected at least one"))
        } else {
            Ok(options)
        }
    }
}

/// Reads a table; `required` columns must be in its header.
pub(super) fn for_each_row(
    bytes: &[u8],
    delimiter: u8,
    required: &[&str],
    parsed: &mut Parsed,
    each: impl Fn(&Row) -> Result<Record, Problem>,
) {
    let quoting = delimiter == b',';
    let mut reader = ReaderBuilder::new().delimiter(delimiter).quoting(quoting).flexible(true).from_reader(bytes);
    let columns = match reader.headers() {
        Ok(header) => Columns(header.iter().map(str::trim).collect()),
        Err(error) => return parsed.refuse(1, Problem::whole(format!("no header: {error}")), ""),
    };
    if let Some(missing) = required.iter().find(|name| !columns.0.iter().any(|column| column == **name)) {
        let header: Vec<&str> = columns.0.iter().collect();
        return parsed.refuse(1, Problem::new(*missing, "no such column in the header"), &header.join(" | "));
    }
    for (i, cells) in reader.records().enumerate() {
        match cells {
            Ok(cells) => {
                let line = cells.position().map_or(i + 2, |position| position.line() as usize);
                let text = cells.iter().collect::<Vec<_>>().join("\t");
                parsed.take(line, &text, each(&Row { columns: &columns, cells: &cells }));
            }
            Err(error) => {
                let line = error.position().map_or(i + 2, |position| position.line() as usize);
                parsed.refuse(line, Problem::whole(error.to_string()), "");
            }
        }
    }
}
