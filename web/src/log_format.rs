//! Formats that the server imports, and how to tell them from a file's first lines. Pure.

use serde_json::Value;

/// A format of `POST /api/log/import`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogFormat {
    /// As the server calls it.
    pub name: &'static str,
    /// For people.
    pub label: &'static str,
}

/// All of them.
pub const FORMATS: &[LogFormat] = &[
    LogFormat { name: "jsonl", label: "Beckon click log (JSONL)" },
    LogFormat { name: "mimics-duo", label: "MIMICS-Duo panes (TSV or JSONL)" },
    LogFormat { name: "mimics-manual", label: "MIMICS-Manual (TSV)" },
    LogFormat { name: "intents", label: "Query to suggestions (JSON)" },
    LogFormat { name: "upworthy", label: "Upworthy tests (CSV)" },
    LogFormat { name: "conversations", label: "Conversations with next query (JSONL)" },
];

/// Tells the format from the first lines; `None` where none fits.
pub fn detect(head: &str) -> Option<&'static str> {
    let head = head.trim_start_matches('\u{feff}').trim_start();
    let first = head.lines().next()?.trim();
    if first.starts_with('{') {
        return json_format(head, first);
    }
    let columns: Vec<&str> = first.split(['\t', ',']).map(|c| c.trim().trim_matches('"')).collect();
    let has = |name: &str| columns.contains(&name);
    if has("clickability_test_id") || (has("headline") && has("impressions") && has("clicks")) {
        Some("upworthy")
    } else if has("options_overall_label") {
        Some("mimics-manual")
    } else if has("engagement_level") || has("impression_level") {
        Some("mimics-duo")
    } else {
        None
    }
}

fn json_format(head: &str, first: &str) -> Option<&'static str> {
    // a line that is cut or broken still shows its keys
    let line = serde_json::from_str::<Value>(first).ok();
    let has = |key: &str| match &line {
        Some(value) => value.get(key).is_some(),
        None => first.contains(&format!("\"{key}\"")),
    };
    if has("impression_id") || (has("slate") && has("prompt")) {
        Some("jsonl")
    } else if has("engagement_level") || has("option_cctr") {
        Some("mimics-duo")
    } else if has("next_query") || has("history") {
        Some("conversations")
    } else if head.split_once(':').is_some_and(|(_, after)| after.trim_start().starts_with('[')) {
        Some("intents")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_told_apart() {
        for (head, want) in [
            ("{\"impression_id\":\"1\",\"user_hash\":\"u\"}\n", Some("jsonl")),
            ("{\"impression_id\":\"1\",\"user_ha", Some("jsonl")),
            ("{\"query\":\"q\",\"options\":[],\"engagement_level\":0}", Some("mimics-duo")),
            ("query\tquestion\toption_1\timpression_level\tengagement_level\n", Some("mimics-duo")),
            ("query\tquestion\toption_1\tquestion_label\toptions_overall_label\n", Some("mimics-manual")),
            ("{\n\"recent folders\": [\n\"a\"", Some("intents")),
            ("{\"recent folders\": [\"a\"]}", Some("intents")),
            ("\u{feff}clickability_test_id,headline,lede,impressions,clicks\n", Some("upworthy")),
            ("{\"source\":\"x\",\"history\":[],\"next_query\":\"y\"}", Some("conversations")),
            ("hello", None),
            ("", None),
        ] {
            assert_eq!(detect(head), want, "{head:?}");
            assert!(want.is_none_or(|name| FORMATS.iter().any(|f| f.name == name)));
        }
    }
}
