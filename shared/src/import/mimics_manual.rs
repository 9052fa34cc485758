//! MIMICS-Manual (Zamani et al. 2020): panes with human labels; `options_overall_label` is the label
//! of the suggestions. Options become full queries. A pane that nobody labelled has no label.

use super::table::{Row, for_each_row};
use super::{Parsed, Problem, full_query};
use crate::click::{Demonstration, Record};
use crate::prompt::Prompt;

pub(super) fn parse(bytes: &[u8], parsed: &mut Parsed) {
    for_each_row(bytes, b'\t', &["query", "option_1", "options_overall_label"], parsed, row);
}

fn row(row: &Row) -> Result<Record, Problem> {
    let query = row.get("query")?;
    if query.is_empty() {
        return Err(Problem::new("query", "empty; expected text"));
    }
    let label = match row.get("options_overall_label")? {
        "" => None,
        _ => Some(row.number::<u8>("options_overall_label", "0, 1 or 2")?),
    };
    if let Some(label) = label.filter(|label| *label > 2) {
        return Err(Problem::new("options_overall_label", format!("{label}; expected 0, 1 or 2")));
    }
    let suggestions = row.options()?.into_iter().map(|(_, option)| full_query(query, &option)).collect();
    Ok(Record::Demonstration(Demonstration { prompt: Prompt::from_query(query), suggestions, label }))
}
