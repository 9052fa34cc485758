//! The form that has a file of a test analysed, as the JSON that is sent. Pure.

use serde_json::{Map, Value};

/// Settings as they are unless told, spelled out so that they can be edited.
pub const SETTINGS: &str = r#"{
  "design": "sequential",
  "alpha": 0.05,
  "control": null,
  "shares": {},
  "planned_users_per_arm": null,
  "cuped": false,
  "prior": null,
  "no_suggestion_margin": 0.05,
  "latency_margin": 0.05,
  "observation_hours": null
}"#;

/// What a person chose and typed.
#[derive(Debug, Clone, PartialEq)]
pub struct AnalysisForm {
    /// What the file holds: `table`, `log` or `upworthy`.
    pub format: String,
    /// The experiment of a click log.
    pub experiment: String,
    /// Columns that are strata, with commas between them.
    pub strata: String,
    /// Settings, as JSON text.
    pub settings: String,
    /// What earlier looks at the same test left, as JSON text; empty for a first look.
    pub looks: String,
}

impl AnalysisForm {
    /// What to send about a file with this text.
    ///
    /// # Errors
    /// Which of the JSON texts is none, and why.
    pub fn wish(&self, text: &str) -> Result<Value, String> {
        let json = |what: &str, text: &str| {
            serde_json::from_str::<Value>(text).map_err(|error| format!("{what}: no JSON ({error})"))
        };
        let strata = self.strata.split(',').map(str::trim).filter(|name| !name.is_empty()).map(Value::from);
        let mut wish = Map::new();
        let mut set = |key: &str, value: Value| wish.insert(key.to_owned(), value);
        set("text", text.into());
        set("format", self.format.as_str().into());
        set("experiment", self.experiment.trim().into());
        set("strata", strata.collect());
        set("settings", json("settings", &self.settings)?);
        if !self.looks.trim().is_empty() {
            set("looks", json("looks", &self.looks)?);
        }
        Ok(Value::Object(wish))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::ab::report::Settings;
    use serde_json::json;

    fn form(settings: &str) -> AnalysisForm {
        let text = |text: &str| text.to_owned();
        let (strata, looks) = (text(" country,, plan "), String::new());
        AnalysisForm { format: text("log"), experiment: text(" e1 "), strata, settings: text(settings), looks }
    }

    #[test]
    fn the_settings_are_spelled_out_as_they_are_unless_told() {
        let shown: Value = serde_json::from_str(SETTINGS).expect("JSON");
        assert_eq!(serde_json::from_value::<Settings>(shown.clone()).expect("settings"), Settings::default());
        let keys = |value: &Value| value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        assert_eq!(keys(&shown), keys(&serde_json::to_value(Settings::default()).expect("plain data")));
    }

    #[test]
    fn what_was_typed_is_sent_and_what_is_no_json_is_named() {
        let wish =
            json!({"text": "a,b", "format": "log", "experiment": "e1", "strata": ["country", "plan"], "settings": {}});
        assert_eq!(form("{}").wish("a,b"), Ok(wish));
        assert!(form("{").wish("").is_err_and(|error| error.starts_with("settings: ")));
        let looks = AnalysisForm { looks: "[1]".into(), ..form("{}") };
        assert_eq!(looks.wish("").map(|wish| wish["looks"].clone()), Ok(json!([1])));
        let wrong = AnalysisForm { looks: "x".into(), ..form("{}") };
        assert!(wrong.wish("").is_err_and(|error| error.starts_with("looks: ")));
    }
}
