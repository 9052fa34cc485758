//! The form that starts a run: its fields, defaults from the preset, and the request body. Pure.
//!
//! A field is a JSON pointer into [`RunConfig`], so the form holds no second copy of a default.

use beckon_shared::config::Preset;
use beckon_shared::control::{DeviceChoice, RunConfig};
use std::collections::BTreeMap;

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

/// The settings worth showing; the others keep the preset's value.
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
    /// Model size; sets every default.
    pub preset: Preset,
    /// Shown in lists; empty means the preset's name.
    pub name: String,
    /// As typed.
    pub seed: String,
    /// Where to train.
    pub device: DeviceChoice,
    /// Changed settings by path, as typed.
    pub changed: BTreeMap<&'static str, String>,
}

impl Default for RunForm {
    fn default() -> Self {
        Self {
            preset: Preset::Tiny,
            name: String::new(),
            seed: "0".into(),
            device: DeviceChoice::Auto,
            changed: BTreeMap::new(),
        }
    }
}

impl RunForm {
    /// Text of a field: as typed, else the preset's default.
    pub fn text(&self, path: &str) -> String {
        self.changed.get(path).cloned().unwrap_or_else(|| default_text(self.preset, path))
    }

    /// The configuration to send, or every field at fault with what it expects.
    ///
    /// # Errors
    /// `(path, message)` for each field that does not hold what it should.
    pub fn config(&self) -> Result<RunConfig, Vec<(String, String)>> {
        let mut faults = Vec::new();
        let mut value = defaults(self.preset);
        for field in FIELDS {
            let Some(text) = self.changed.get(field.path) else { continue };
            match number(text, field.kind) {
                Ok(number) => {
                    if let Some(slot) = value.pointer_mut(&pointer(field.path)) {
                        *slot = number;
                    }
                }
                Err(expected) => faults.push((field.path.to_owned(), expected)),
            }
        }
        let seed = self.seed.trim().replace(',', "").parse::<u64>().unwrap_or_else(|_| {
            faults.push(("seed".into(), "expected a whole number, 0 or more".into()));
            0
        });
        let mut config: RunConfig = match serde_json::from_value(value) {
            Ok(config) => config,
            Err(e) => {
                faults.push(("form".into(), e.to_string()));
                RunConfig::preset(self.preset)
            }
        };
        config.seed = seed;
        config.device = self.device;
        let name = self.name.trim();
        if !name.is_empty() {
            config.name = name.to_owned();
        }
        if faults.is_empty() { Ok(config) } else { Err(faults) }
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

fn number(text: &str, kind: FieldKind) -> Result<serde_json::Value, String> {
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

fn defaults(preset: Preset) -> serde_json::Value {
    serde_json::to_value(RunConfig::preset(preset)).unwrap_or_default()
}

fn default_text(preset: Preset, path: &str) -> String {
    defaults(preset).pointer(&pointer(path)).map(ToString::to_string).unwrap_or_default()
}

fn pointer(path: &str) -> String {
    format!("/{}", path.replace('.', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(form.config(), Ok(RunConfig::preset(Preset::Nano)));
        assert_eq!(form.text("sft.n_steps"), RunConfig::preset(Preset::Nano).sft.n_steps.to_string());
    }

    #[test]
    fn changes_reach_the_configuration() {
        let mut form = RunForm { seed: " 7 ".into(), name: "try".into(), ..RunForm::default() };
        form.changed.insert("sft.n_steps", "1,000".into());
        form.changed.insert("rl.learning_rate", "5e-5".into());
        let config = form.config().expect("valid");
        assert_eq!((config.seed, config.name.as_str(), config.sft.n_steps), (7, "try", 1000));
        assert!((config.rl.learning_rate - 5e-5).abs() < 1e-18);
    }

    #[test]
    fn faults_name_their_field() {
        let mut form = RunForm { seed: "-1".into(), ..RunForm::default() };
        form.changed.insert("rl.group_size", "1".into());
        form.changed.insert("rl.kl_beta", "a lot".into());
        let faults = form.config().expect_err("three faults");
        let paths: Vec<_> = faults.iter().map(|f| f.0.as_str()).collect();
        assert_eq!(paths, ["rl.group_size", "rl.kl_beta", "seed"]);
    }

    #[test]
    fn server_messages_are_matched_to_fields() {
        assert_eq!(field_named_in("sft.n_steps is 0, expected 1 to 1,000,000"), Some("sft.n_steps"));
        assert_eq!(field_named_in("`rl.group_size`: too small."), Some("rl.group_size"));
        assert_eq!(field_named_in("the log is empty"), None);
    }
}
