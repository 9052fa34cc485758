//! Upworthy Research Archive (Matias et al. 2021): headlines in randomised tests with impressions
//! and clicks.
//!
//! A group is a test and a picture (`eyecatcher_id`): only headlines of one group may be compared.
//! Headlines answer no query; the prompt is the same two words for all of them, so that a model
//! can tell the genre and nothing else.

use super::table::{Row, for_each_row};
use super::{Parsed, Problem};
use crate::click::{Counts, Record};
use crate::prompt::Prompt;

/// The prompt of every headline.
const PROMPT: &str = "news headline";

pub(super) fn parse(bytes: &[u8], parsed: &mut Parsed) {
    let required = ["clickability_test_id", "headline", "eyecatcher_id", "impressions", "clicks"];
    for_each_row(bytes, b',', &required, parsed, row);
}

fn row(row: &Row) -> Result<Record, Problem> {
    let test = row.get("clickability_test_id")?;
    let text = row.get("headline")?;
    for (field, value) in [("clickability_test_id", test), ("headline", text)] {
        if value.is_empty() {
            return Err(Problem::new(field, "empty; expected text"));
        }
    }
    let n_impressions: u64 = row.number("impressions", "a count")?;
    let n_clicks: u64 = row.number("clicks", "a count")?;
    if n_clicks > n_impressions {
        return Err(Problem::new("clicks", format!("{n_clicks} of {n_impressions} impressions")));
    }
    Ok(Record::Counts(Counts {
        group: format!("{test}/{}", row.get("eyecatcher_id")?),
        prompt: Prompt::from_query(PROMPT),
        text: text.to_owned(),
        n_impressions,
        n_clicks,
    }))
}
