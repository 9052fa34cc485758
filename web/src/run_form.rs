//! The form that starts a run, from scratch or from a checkpoint: its fields, what untouched ones show, and the request body, which
//! names what differs. Pure.
//!
//! A field is a JSON pointer into [`RunConfig`], so the form holds no second copy of a default. What has no field is given as JSON.

use beckon_shared::config::Preset;
use beckon_shared::control::RunConfig;
use beckon_shared::json::merge;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Where a fault of the JSON text stands among the faults.
pub const JSON: &str = "json";

/// What a field takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldKind {
    /// A whole number, at least this.
    Whole(u64),
    /// A number, at least 0.
    Real,
}

/// One setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// As the server names it: `sft.n_steps`.
    pub path: &'static str,
    /// Group of the form.
    pub group: &'static str,
    /// For people.
    pub label: &'static str,
    /// One sentence: what it does.
    pub help: &'static str,
    /// What it takes.
    pub kind: FieldKind,
}

/// The settings worth a field; the others keep their value, or come as JSON.
pub const FIELDS: &[Field] = &[
    field("sft.n_steps", "SFT", "Steps", "Optimiser steps of supervised fine-tuning.", FieldKind::Whole(1)),
    field("sft.learning_rate", "SFT", "Learning rate", "Peak; cosine to a tenth after the warm-up.", FieldKind::Real),
    field("sft.batch_tokens", "SFT", "Tokens per batch", "Padded tokens of one step.", FieldKind::Whole(1)),
    field("garm.n_steps", "GaRM", "Steps", "Optimiser steps of the reward model.", FieldKind::Whole(1)),
    field("garm.learning_rate", "GaRM", "Learning rate", "Peak; the variance head runs at 0.3 of it.", FieldKind::Real),
    field("garm.batch_pairs", "GaRM", "Pairs per batch", "Preference pairs of one step.", FieldKind::Whole(1)),
    field("rl.n_steps", "RL", "Steps", "One batch of rollouts and one update each.", FieldKind::Whole(1)),
    field("rl.learning_rate", "RL", "Learning rate", "Constant.", FieldKind::Real),
    field("rl.batch_prompts", "RL", "Prompts per step", "Prompts that get rollouts in a step.", FieldKind::Whole(1)),
    field(
        "rl.group_size",
        "RL",
        "Rollouts per prompt",
        "The mean of the others is the baseline of each.",
        FieldKind::Whole(2),
    ),
    field("rl.max_new_tokens", "RL", "Longest suggestion", "In tokens.", FieldKind::Whole(1)),
    field("rl.kl_beta", "RL", "KL weight", "Price of one nat away from the SFT policy.", FieldKind::Real),
    field(
        "rl.epistemic_penalty",
        "RL",
        "Epistemic penalty",
        "Pessimism where the reward model has seen little.",
        FieldKind::Real,
    ),
    field("rl.aleatoric_penalty", "RL", "Aleatoric penalty", "Pessimism where users disagree.", FieldKind::Real),
    field(
        "n_devices",
        "Run",
        "Devices",
        "Each step is split over this many: the one above, then those lent to the server.",
        FieldKind::Whole(1),
    ),
    field("save_every", "Run", "Save every", "Steps between saves of the training state.", FieldKind::Whole(1)),
];

const fn field(
    path: &'static str,
    group: &'static str,
    label: &'static str,
    help: &'static str,
    kind: FieldKind,
) -> Field {
    Field { path, group, label, help, kind }
}

/// What a person typed.
#[derive(Debug, Clone, PartialEq)]
pub struct RunForm {
    /// Model size; sets every default. A run that starts from a checkpoint has its shape, so there it is not sent.
    pub preset: Preset,
    /// Shown in lists; empty means the preset's name, or that of the run that made the checkpoint.
    pub name: String,
    /// As typed.
    pub seed: String,
    /// Where to train: `auto`, `cpu`, `gpu` or `lent`.
    pub device: String,
    /// Changed settings by path, as typed.
    pub changed: BTreeMap<&'static str, String>,
    /// Settings as JSON, laid over the fields; empty for none.
    pub json: String,
    /// Configuration of the run that made the checkpoint to start from; `None` for a run from scratch.
    base: Option<Value>,
}

impl Default for RunForm {
    fn default() -> Self {
        Self {
            preset: Preset::Tiny,
            name: String::new(),
            seed: "0".into(),
            device: "auto".into(),
            changed: BTreeMap::new(),
            json: String::new(),
            base: None,
        }
    }
}

impl RunForm {
    /// A run that starts from a checkpoint. `config` is that of the run that made it; what it leaves out, as an older version
    /// did, has the preset's default.
    pub fn from_checkpoint(config: Value) -> Self {
        let preset = if config["preset"] == "tiny" { Preset::Tiny } else { Preset::Nano };
        let seed = config["seed"].as_u64().unwrap_or_default().to_string();
        let device = config["device"].as_str().unwrap_or("auto").to_owned();
        let mut base = Map::new();
        if let Value::Object(keys) = config {
            // what was changed by hand stands there too, and is no setting
            base.extend(keys.into_iter().filter(|(key, _)| key != "changes"));
        }
        Self { preset, seed, device, base: Some(Value::Object(base)), ..Self::default() }
    }

    /// Text of a field: as typed, else what the run has without it.
    pub fn text(&self, path: &str) -> String {
        let typed = || self.changed.get(path).cloned();
        let inherited = || self.base.as_ref()?.pointer(&pointer(path)).map(ToString::to_string);
        typed().or_else(inherited).unwrap_or_else(|| default_text(self.preset, path))
    }

    /// What to send: all that differs from the preset, or from the configuration that the checkpoint was made with. Else every
    /// field at fault with what it expects.
    ///
    /// # Errors
    /// `(path, message)` for each field that does not hold what it should; [`JSON`] is the path of the JSON text.
    pub fn config(&self) -> Result<Value, Vec<(String, String)>> {
        let mut faults = Vec::new();
        let mut config = Value::Object(Map::new());
        config["device"] = self.device.as_str().into();
        if self.base.is_none() {
            let preset = if self.preset == Preset::Tiny { "tiny" } else { "nano" };
            config["preset"] = preset.into();
        }
        let name = self.name.trim();
        if !name.is_empty() {
            config["name"] = name.into();
        }
        match number(&self.seed, FieldKind::Whole(0)) {
            Ok(seed) => config["seed"] = seed,
            Err(expected) => faults.push(("seed".into(), expected)),
        }
        for field in FIELDS {
            let Some(text) = self.changed.get(field.path) else { continue };
            match number(text, field.kind) {
                Ok(number) => {
                    let inside = |value: Value, key: &str| Value::Object(Map::from_iter([(key.to_owned(), value)]));
                    merge(&mut config, field.path.rsplit('.').fold(number, inside));
                }
                Err(expected) => faults.push((field.path.to_owned(), expected)),
            }
        }
        let text = self.json.trim();
        match serde_json::from_str::<Value>(if text.is_empty() { "{}" } else { text }) {
            Ok(given @ Value::Object(_)) => merge(&mut config, given),
            Ok(_) => faults.push((JSON.into(), "expected a JSON object, as {\"lora\": {\"rank\": 8}}".into())),
            Err(error) => faults.push((JSON.into(), error.to_string())),
        }
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    /// [`Self::config`] with what it goes over, to have it checked: it names what the server cannot know without the
    /// checkpoint.
    ///
    /// # Errors
    /// As [`Self::config`].
    pub fn whole(&self) -> Result<Value, Vec<(String, String)>> {
        let config = self.config()?;
        let Some(mut whole) = self.base.clone() else { return Ok(config) };
        merge(&mut whole, config);
        Ok(whole)
    }
}

/// Path of the field that a server message is about, where it names one.
pub fn field_named_in(detail: &str) -> Option<&'static str> {
    let named = |path: &str| {
        detail
            .split(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '_')))
            .any(|word| word.trim_matches('.') == path)
    };
    ["seed", "name", "device"].into_iter().chain(FIELDS.iter().map(|f| f.path)).find(|path| named(path))
}

fn number(text: &str, kind: FieldKind) -> Result<Value, String> {
    let text = text.trim().replace(',', "");
    match kind {
        FieldKind::Whole(least) => match text.parse::<u64>() {
            Ok(n) if n >= least => Ok(n.into()),
            _ => Err(format!("expected a whole number, {least} or more")),
        },
        FieldKind::Real => match text.parse::<f64>() {
            Ok(x) if x.is_finite() && x >= 0.0 => Ok(x.into()),
            _ => Err("expected a number, 0 or more".into()),
        },
    }
}

fn default_text(preset: Preset, path: &str) -> String {
    let defaults = serde_json::to_value(RunConfig::preset(preset)).unwrap_or_default();
    defaults.pointer(&pointer(path)).map(ToString::to_string).unwrap_or_default()
}

fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::control::DeviceChoice;
    use serde_json::json;

    /// What the server makes of it: its preset with what it names.
    fn read(config: Value) -> RunConfig {
        let preset = if config["preset"] == "nano" { Preset::Nano } else { Preset::Tiny };
        let mut whole = serde_json::to_value(RunConfig::preset(preset)).expect("plain data");
        merge(&mut whole, config);
        serde_json::from_value(whole).expect("a configuration")
    }

    #[test]
    fn every_field_exists_in_the_configuration() {
        for preset in [Preset::Tiny, Preset::Nano] {
            for field in FIELDS {
                assert!(!default_text(preset, field.path).is_empty(), "{} is not a setting", field.path);
            }
        }
    }

    #[test]
    fn untouched_it_is_the_preset() {
        let form = RunForm { preset: Preset::Nano, ..RunForm::default() };
        assert_eq!(form.config().map(read), Ok(RunConfig::preset(Preset::Nano)));
        assert_eq!(form.text("sft.n_steps"), RunConfig::preset(Preset::Nano).sft.n_steps.to_string());
    }

    #[test]
    fn changes_reach_the_configuration() {
        let mut form = RunForm { seed: " 7 ".into(), name: "try".into(), device: "lent".into(), ..RunForm::default() };
        form.changed.insert("sft.n_steps", "1,000".into());
        form.changed.insert("rl.learning_rate", "5e-5".into());
        form.changed.insert("save_every", "9".into());
        let config = form.config().map(read).expect("valid");
        assert_eq!((config.seed, config.name.as_str(), config.sft.n_steps, config.save_every), (7, "try", 1000, 9));
        assert_eq!(
            (config.device, config.rl.n_steps),
            (DeviceChoice::Lent, RunConfig::preset(Preset::Tiny).rl.n_steps)
        );
        assert!((config.rl.learning_rate - 5e-5).abs() < 1e-18);
    }

    #[test]
    fn json_goes_over_the_fields() {
        let mut form = RunForm {
            json: r#" {"rl": {"n_steps": 4, "weights": {"novelty": 0.5}}, "seed": 3} "#.into(),
            ..RunForm::default()
        };
        form.changed.insert("rl.n_steps", "9".into());
        form.changed.insert("rl.group_size", "5".into());
        let config = form.config().map(read).expect("valid");
        assert_eq!((config.seed, config.rl.n_steps, config.rl.group_size), (3, 4, 5));
        assert!((config.rl.weights.novelty - 0.5).abs() < 1e-12);
        for (text, word) in [("[1]", "object"), ("{\"a\"", "EOF")] {
            form.json = text.into();
            let faults = form.config().expect_err(text);
            assert!(faults.len() == 1 && faults[0].0 == JSON && faults[0].1.contains(word), "{faults:?}");
        }
    }

    #[test]
    fn from_a_checkpoint_only_what_differs_is_sent_and_the_rest_is_shown() {
        let mut made = serde_json::to_value(RunConfig::preset(Preset::Tiny)).expect("plain data");
        (made["seed"], made["rl"]["n_steps"], made["changes"]) = (4.into(), 11.into(), json!([]));
        made["sft"].as_object_mut().expect("an object").remove("n_steps");
        let mut form = RunForm::from_checkpoint(made);
        assert_eq!((form.seed.as_str(), form.text("rl.n_steps")), ("4", "11".to_owned()));
        assert_eq!(form.text("sft.n_steps"), RunConfig::preset(Preset::Tiny).sft.n_steps.to_string());
        form.changed.insert("rl.kl_beta", "0.5".into());
        assert_eq!(form.config(), Ok(json!({"device": "auto", "seed": 4, "rl": {"kl_beta": 0.5}})));
        let whole = form.whole().map(read).expect("valid");
        assert_eq!((whole.seed, whole.rl.n_steps, whole.name.as_str()), (4, 11, "tiny"));
        let of_nothing = RunForm::from_checkpoint(Value::Null);
        assert_eq!(of_nothing.whole(), Ok(json!({"device": "auto", "seed": 0})));
    }

    #[test]
    fn faults_name_their_field() {
        let mut form = RunForm { seed: "-1".into(), ..RunForm::default() };
        form.changed.insert("rl.group_size", "1".into());
        form.changed.insert("rl.kl_beta", "a lot".into());
        let faults = form.config().expect_err("three faults");
        let paths: Vec<_> = faults.iter().map(|f| f.0.as_str()).collect();
        assert_eq!(paths, ["seed", "rl.group_size", "rl.kl_beta"]);
    }

    #[test]
    fn server_messages_are_matched_to_fields() {
        assert_eq!(field_named_in("sft.n_steps is 0, expected 1 to 1,000,000"), Some("sft.n_steps"));
        assert_eq!(field_named_in("`rl.group_size`: too small."), Some("rl.group_size"));
        assert_eq!(field_named_in("the log is empty"), None);
    }
}
