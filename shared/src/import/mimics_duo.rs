//! MIMICS-Duo (Tavakoli et al. 2022): panes of suggestions with real engagement. Takes the joined
//! `panes.jsonl` or the upstream TSV. Options become full queries.

use super::table::{Row, for_each_row};
use super::{Parsed, Problem, for_each_line, from_json, full_query};
use crate::click::{ImpressionLevel, Pane, Record};
use crate::prompt::Prompt;
use serde::Deserialize;

/// The fields of `panes.jsonl` that are used; human ratings are left out.
#[derive(Deserialize)]
struct Line {
    query: String,
    options: Vec<String>,
    impression_level: ImpressionLevel,
    engagement_level: u8,
    option_cctr: Vec<f64>,
}

pub(super) fn parse(bytes: &[u8], parsed: &mut Parsed) {
    if bytes.trim_ascii_start().starts_with(b"{") {
        return for_each_line(bytes, parsed, |text| {
            let l: Line = from_json(text)?;
            pane(&l.query, &l.options, l.engagement_level, l.impression_level, l.option_cctr)
        });
    }
    let required = ["query", "option_1", "impression_level", "engagement_level", "option_cctr_1"];
    for_each_row(bytes, b'\t', &required, parsed, row);
}

fn row(row: &Row) -> Result<Record, Problem> {
    let options = row.options()?;
    let level = match row.get("impression_level")? {
        "low" => ImpressionLevel::Low,
        "medium" => ImpressionLevel::Medium,
        "high" => ImpressionLevel::High,
        other => {
            return Err(Problem::new("impression_level", format!("`{other}`; expected low, medium or high")));
        }
    };
    let engagement: u8 = row.number("engagement_level", "0 to 10")?;
    let share = |(i, _): &(usize, String)| row.number(&format!("option_cctr_{i}"), "a share of 0 to 1");
    let ctr = options.iter().map(share).collect::<Result<Vec<f64>, Problem>>()?;
    let options: Vec<String> = options.into_iter().map(|(_, text)| text).collect();
    pane(row.get("query")?, &options, engagement, level, ctr)
}

fn pane(
    query: &str,
    options: &[String],
    engagement: u8,
    level: ImpressionLevel,
    ctr: Vec<f64>,
) -> Result<Record, Problem> {
    if query.trim().is_empty() {
        return Err(Problem::new("query", "empty; expected text"));
    }
    if options.is_empty() || options.iter().any(|option| option.trim().is_empty()) {
        return Err(Problem::new("options", "expected at least one, none empty"));
    }
    if engagement > 10 {
        return Err(Problem::new("engagement_level", format!("{engagement}; expected 0 to 10")));
    }
    if ctr.len() != options.len() {
        let reason = format!("{} values for {} options", ctr.len(), options.len());
        return Err(Problem::new("option_cctr", reason));
    }
    if let Some(bad) = ctr.iter().find(|share| !(0.0..=1.0).contains(*share)) {
        return Err(Problem::new("option_cctr", format!("{bad}; expected a share of 0 to 1")));
    }
    Ok(Record::Pane(Pane {
        prompt: Prompt::from_query(query.trim()),
        options: options.iter().map(|option| full_query(query, option)).collect(),
        engagement_level: engagement,
        impression_level: level,
        conditional_ctr: ctr,
    }))
}
