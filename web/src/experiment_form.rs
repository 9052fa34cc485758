//! The form that makes an experiment, as the JSON text that is sent: what was typed, and every other setting with its default.
//! Pure.

use serde_json::Value;

/// The text of an experiment of two checkpoints. `arms` holds their ids, control first; an empty `origin` is left out.
pub fn text(name: &str, arms: [&str; 2], origin: &str) -> String {
    let quoted = |text: &str| Value::from(text).to_string();
    let [control, treatment] = arms.map(quoted);
    let origin = if origin.trim().is_empty() { String::new() } else { quoted(origin.trim()) };
    format!(
        r#"{{
  "name": {name},
  "arms": [
    {{"name": "control", "weight": 1, "selector": "reward",
      "source": {{"checkpoint": {control}}},
      "decoding": {{"n_candidates": 8, "temperature": 0.8, "top_p": 0.95, "max_new_tokens": 16}}}},
    {{"name": "treatment", "weight": 1, "selector": "reward",
      "source": {{"checkpoint": {treatment}}},
      "decoding": {{"n_candidates": 8, "temperature": 0.8, "top_p": 0.95, "max_new_tokens": 16}}}}
  ],
  "layout": "split",
  "layer": "main",
  "traffic": [0, 1],
  "excluded": [],
  "allowed_origins": [{origin}],
  "settings": {{
    "design": "sequential",
    "alpha": 0.05,
    "planned_users_per_arm": null,
    "cuped": false,
    "prior": null,
    "no_suggestion_margin": 0.05,
    "latency_margin": 0.05,
    "observation_hours": null,
    "shares": {{}}
  }}
}}"#,
        name = quoted(name.trim())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::control::experiment::ExperimentConfig;
    use serde_json::json;

    /// What the server makes of the least that can be said.
    fn least(name: &str, origins: &[&str]) -> ExperimentConfig {
        let arm = |name: &str, id: &str| json!({"name": name, "source": {"checkpoint": id}});
        let arms = [arm("control", "ab"), arm("treatment", "cd")];
        serde_json::from_value(json!({"name": name, "arms": arms, "allowed_origins": origins}))
            .expect("a configuration")
    }

    #[test]
    fn what_is_spelled_out_is_the_servers_default() {
        let read =
            |text: &str| serde_json::from_str::<ExperimentConfig>(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(read(&text("n", ["ab", "cd"], " ")), least("n", &[]));
        let named = text(" a \"b\" ", ["ab", "cd"], "https://example.com ");
        assert_eq!(read(&named), least("a \"b\"", &["https://example.com"]));
    }

    #[test]
    fn every_setting_is_named() {
        let shown: Value = serde_json::from_str(&text("n", ["ab", "cd"], "")).expect("JSON");
        let whole = serde_json::to_value(least("n", &[])).expect("plain data");
        let keys = |value: &Value| value.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        assert_eq!(keys(&shown), keys(&whole));
        assert_eq!(keys(&shown["arms"][1]), keys(&whole["arms"][1]));
        assert_eq!(keys(&shown["arms"][0]["decoding"]), keys(&whole["arms"][0]["decoding"]));
        // the control is the first arm
        let settings: Vec<_> = keys(&whole["settings"]).into_iter().filter(|key| key != "control").collect();
        assert_eq!(keys(&shown["settings"]), settings);
    }
}
