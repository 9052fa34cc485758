//! Small logs and run configurations, so that a whole run takes seconds.

use serde_json::{Value, json};

/// The first impressions of the sample log that ships with the product: simulated, and labelled so.
///
/// # Panics
/// When the sample log cannot be read.
pub fn simulated_log(n_impressions: usize) -> String {
    let path = crate::process::root().join("server/assets/sample.jsonl");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines: Vec<&str> = text.lines().take(n_impressions).collect();
    assert_eq!(lines.len(), n_impressions, "the sample log is shorter");
    lines.join("\n") + "\n"
}

/// Two impressions written by hand, with names of their own.
pub fn hand_written_log() -> String {
    let slot = |text: &str, clicked: bool| json!({"text": text, "propensity": 0.5, "clicked": clicked});
    let impression = |id: &str, slate: Value| {
        json!({"impression_id": id, "user_hash": "u1", "time_millis": 1_760_000_000_000_i64,
            "prompt": [{"role": "user", "text": "plan a weekend in lisbon"}], "slate": slate})
    };
    let first =
        impression("hand-1", json!([slot("cheap hotels in lisbon", false), slot("day trips from lisbon", true)]));
    let second = impression("hand-2", json!([slot("lisbon weather in may", false)]));
    format!("{first}\n{second}\n")
}

/// Preset tiny with so few steps that a run takes seconds. `more` is laid over it.
pub fn tiny_config(seed: u64, more: Value) -> Value {
    let mut config = json!({
        "name": format!("tiny-{seed}"), "preset": "tiny", "seed": seed, "device": "cpu", "save_every": 4,
        "sft": {"n_steps": 24, "batch_tokens": 256, "n_warmup_steps": 4},
        "garm": {"n_steps": 16, "batch_pairs": 8},
        "rl": {"n_steps": 8, "batch_prompts": 4, "group_size": 4, "max_new_tokens": 8}
    });
    merge(&mut config, more);
    config
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}
