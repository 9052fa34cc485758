//! A run's configuration as it comes from outside: JSON that names only what differs from the preset.
//!
//! In the loop: the edge where the page's or a file's wishes become a valid [`RunConfig`]. Unknown keys and wrong types
//! are refused with their path; numbers that no stage can work with are refused by name.

use axum::Json;
use beckon_shared::config::{ModelConfig, Preset};
use beckon_shared::control::tuning::Tuning;
use beckon_shared::control::{RlConfig, RunConfig, TeacherConfig};
use beckon_shared::json::merge;
use serde_json::Value;

/// A configuration that was refused.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum RunConfigError {
    /// Not JSON, an unknown key, or a value of the wrong type; the text names the key's path.
    #[error("{0}")]
    Json(String),
    /// A number that no stage can work with.
    #[error("{field} is {value}, expected {expected}")]
    Range {
        /// Path of the key.
        field: &'static str,
        /// What it holds.
        value: f64,
        /// What it should hold.
        expected: &'static str,
    },
    /// A number that the network of this run does not allow.
    #[error("{field} is {value}, expected 1 to {most}, {what} of the model that this run trains")]
    Shape {
        /// Path of the key.
        field: &'static str,
        /// What it holds.
        value: usize,
        /// The largest that is allowed.
        most: usize,
        /// What that is.
        what: &'static str,
    },
}

/// Reads a partial configuration; what it leaves out comes from its preset (nano where it names none).
///
/// # Errors
/// [`RunConfigError`].
pub fn run_config_from_json(json: &[u8]) -> Result<RunConfig, RunConfigError> {
    let refused = |error: &dyn std::fmt::Display| RunConfigError::Json(error.to_string());
    let json = if json.trim_ascii().is_empty() { b"{}" } else { json };
    // read once as it came, so that an error points into the sender's own text
    let Json(preset_only) = Json::<RunConfig>::from_bytes(json).map_err(|error| refused(&error.body_text()))?;
    let given: Value = serde_json::from_slice(json).map_err(|error| refused(&error))?;
    if !given.is_object() {
        // serde would read a list as the fields in order
        return Err(RunConfigError::Json("a run's configuration is a JSON object".into()));
    }
    let mut merged = serde_json::to_value(RunConfig::preset(preset_only.preset)).map_err(|error| refused(&error))?;
    merge(&mut merged, given);
    let config: RunConfig = serde_json::from_value(merged).map_err(|error| refused(&error))?;
    validate(&config)?;
    Ok(config)
}

/// The configuration of a run that branches from checkpoint `parent`: that of the run which made it (`base`, from its
/// lineage), and over it what `json` names.
///
/// # Errors
/// [`RunConfigError`]; also where `base` is not a configuration of this version.
pub fn branch_config(parent: &str, base: &Value, json: &[u8]) -> Result<RunConfig, RunConfigError> {
    let mut merged = base.clone();
    match merged.as_object_mut() {
        // what was changed by hand is part of the lineage, not of the configuration
        Some(keys) => _ = keys.remove("changes"),
        None => merged = Value::Object(serde_json::Map::new()),
    }
    let json = if json.trim_ascii().is_empty() { b"{}" } else { json };
    let given: Value = serde_json::from_slice(json).map_err(|error| RunConfigError::Json(error.to_string()))?;
    if !given.is_object() {
        return Err(RunConfigError::Json("a run's configuration is a JSON object".into()));
    }
    merge(&mut merged, given);
    let mut config = run_config_from_json(merged.to_string().as_bytes())?;
    config.parent = Some(parent.to_owned());
    Ok(config)
}

/// Reads new values for a run that trains; their ranges are checked where the run's stage is known.
///
/// # Errors
/// [`RunConfigError::Json`] names the key at fault.
pub fn tuning_from_json(json: &[u8]) -> Result<Tuning, RunConfigError> {
    let Json(tuning) = Json::<Tuning>::from_bytes(json).map_err(|error| RunConfigError::Json(error.body_text()))?;
    Ok(tuning)
}

/// Checks every number against what the stages can work with.
///
/// # Errors
/// [`RunConfigError::Range`] for the first that is out of range.
pub fn validate(config: &RunConfig) -> Result<(), RunConfigError> {
    validate_counts(config)?;
    validate_rates(config)?;
    validate_reward(&config.rl)?;
    if let Some((field, value, expected)) = config.sft.teacher.as_ref().and_then(TeacherConfig::fault) {
        return Err(RunConfigError::Range { field, value, expected });
    }
    config.preferences.validate().map_err(|fault| RunConfigError::Range {
        field: fault.field,
        value: fault.value,
        expected: fault.expected,
    })
}

/// Checks what depends on the network: that of a parent is not known where its configuration is read.
///
/// # Errors
/// [`RunConfigError::Shape`] for the first that does not fit.
pub fn validate_shape(config: &RunConfig, model: &ModelConfig) -> Result<(), RunConfigError> {
    let RunConfig { garm, rl, .. } = config;
    let longest = model.max_suggestion_tokens();
    for (field, value, most, what) in [
        ("garm.feature_dims", garm.feature_dims, model.d_model, "the width"),
        ("garm.n_layers", garm.n_layers.unwrap_or(model.n_layers), model.n_layers, "the layers"),
        ("rl.max_new_tokens", rl.max_new_tokens, longest, "the longest suggestion"),
    ] {
        if !(1..=most).contains(&value) {
            return Err(RunConfigError::Shape { field, value, most, what });
        }
    }
    let refused =
        |expected| Err(RunConfigError::Range { field: "garm.text_weight", value: garm.text_weight, expected });
    if garm.text_weight > 0.0 && garm.n_layers.is_some_and(|n| n < model.n_layers) {
        // only the last layer's states say the next token
        return refused("0 where garm.n_layers ends the trunk before the policy's last layer: leave garm.n_layers out");
    }
    if garm.text_weight > 0.0 && !model.tied_embedding {
        return refused("0 for a model with an output matrix of its own, which the trunk lacks: leave it out");
    }
    Ok(())
}

const STEPS: &str = "1 to 10,000,000";
const RATE: &str = "above 0, at most 1";
const NOT_NEGATIVE: &str = "0 or more, at most 1,000";

fn count(
    field: &'static str,
    n: usize,
    least: usize,
    most: usize,
    expected: &'static str,
) -> Result<(), RunConfigError> {
    let ok = (least..=most).contains(&n);
    if ok { Ok(()) } else { Err(RunConfigError::Range { field, value: n as f64, expected }) }
}

fn real(field: &'static str, value: f64, least: f64, most: f64, expected: &'static str) -> Result<(), RunConfigError> {
    let ok = value >= least && value <= most; // refuses NaN
    if ok { Ok(()) } else { Err(RunConfigError::Range { field, value, expected }) }
}

fn validate_counts(config: &RunConfig) -> Result<(), RunConfigError> {
    let RunConfig { sft, garm, rl, .. } = config;
    count("sft.n_steps", sft.n_steps, 1, 10_000_000, STEPS)?;
    count("garm.n_steps", garm.n_steps, 1, 10_000_000, STEPS)?;
    count("rl.n_steps", rl.n_steps, 1, 10_000_000, STEPS)?;
    if let Some(lora) = &config.lora {
        count("lora.rank", lora.rank, 1, 256, "1 to 256")?;
    }
    count("save_every", config.save_every, 1, 10_000_000, STEPS)?;
    if let Some(n_tokens) = config.micro_batch_tokens {
        count("micro_batch_tokens", n_tokens, 8, 1 << 22, "8 to 4,194,304")?;
    }
    count("n_devices", config.n_devices, 1, 64, "1 to 64")?;
    count("sft.batch_tokens", sft.batch_tokens, 8, 1 << 22, "8 to 4,194,304")?;
    count("sft.n_warmup_steps", sft.n_warmup_steps, 0, 10_000_000, "at most 10,000,000")?;
    count("garm.batch_pairs", garm.batch_pairs, 1, 1 << 16, "1 to 65,536")?;
    let (d_model, widest) = match (&config.parent, config.preset) {
        // [`validate_shape`] knows more
        (Some(_), _) => (1 << 14, "1 to the width of the parent"),
        (None, Preset::Tiny) => (Preset::Tiny.model().d_model, "1 to the model's width, 64 for tiny"),
        (None, Preset::Nano) => (Preset::Nano.model().d_model, "1 to the model's width, 256 for nano"),
    };
    count("garm.feature_dims", garm.feature_dims, 1, d_model, widest)?;
    if let Some(n_layers) = garm.n_layers {
        count("garm.n_layers", n_layers, 1, 256, "1 to the policy's layers")?;
    }
    count("rl.updates_per_batch", rl.updates_per_batch, 1, 8, "1 to 8")?;
    count("rl.batch_prompts", rl.batch_prompts, 1, 1 << 16, "1 to 65,536")?;
    // leave-one-out needs another rollout to compare with
    count("rl.group_size", rl.group_size, 2, 1 << 10, "2 to 1,024")?;
    count("rl.max_new_tokens", rl.max_new_tokens, 1, 64, "1 to 64")?;
    count("rl.overlong_buffer", rl.overlong_buffer, 0, rl.max_new_tokens, "0 to rl.max_new_tokens")
}

fn validate_rates(config: &RunConfig) -> Result<(), RunConfigError> {
    let RunConfig { sft, garm, rl, .. } = config;
    let smallest = f64::MIN_POSITIVE;
    real("sft.learning_rate", sft.learning_rate, smallest, 1.0, RATE)?;
    real("garm.learning_rate", garm.learning_rate, smallest, 1.0, RATE)?;
    real("rl.learning_rate", rl.learning_rate, smallest, 1.0, RATE)?;
    if let Some(lora) = &config.lora {
        real("lora.alpha", lora.alpha, smallest, 1_000.0, "above 0, at most 1,000")?;
    }
    // the head starts at v = 1, floor included
    real("garm.variance_floor", garm.variance_floor, smallest, 1.0_f64.next_down(), "above 0, below 1")?;
    real("garm.variance_warmup", garm.variance_warmup, 0.0, 1.0, "0 to 1")?;
    real("garm.text_weight", garm.text_weight, 0.0, 1.0_f64.next_down(), "0 or more, below 1")?;
    real("rl.kl_budget_nats", rl.kl_budget_nats, smallest, 1e6, "above 0")?;
    real("rl.veto_quantile", rl.veto_quantile, smallest, 1.0, RATE)?;
    for (field, value) in [
        ("sft.weight_decay", sft.weight_decay),
        ("sft.beta_w", sft.beta_w),
        ("garm.weight_decay", garm.weight_decay),
        ("garm.anchor_weight", garm.anchor_weight),
        ("garm.synthetic_weight", garm.synthetic_weight),
        ("rl.kl_beta", rl.kl_beta),
        ("rl.aleatoric_penalty", rl.aleatoric_penalty),
        ("rl.epistemic_penalty", rl.epistemic_penalty),
        ("rl.bc_weight", rl.bc_weight),
    ] {
        real(field, value, 0.0, 1_000.0, NOT_NEGATIVE)?;
    }
    Ok(())
}

fn validate_reward(rl: &RlConfig) -> Result<(), RunConfigError> {
    let weights = rl.weights;
    for (field, value) in [
        ("rl.weights.garm", weights.garm),
        ("rl.weights.relevance", weights.relevance),
        ("rl.weights.diversity", weights.diversity),
        ("rl.weights.novelty", weights.novelty),
        ("rl.weights.answerability", weights.answerability),
        ("rl.weights.length", weights.length),
    ] {
        real(field, value, 0.0, 1_000.0, NOT_NEGATIVE)?;
    }
    let field = |name| match name {
        "k" => "rl.effective.k",
        "q" => "rl.effective.q",
        "beta" => "rl.effective.beta",
        _ => "rl.effective.lambda",
    };
    match rl.effective.fault() {
        Some((name, value, expected)) => Err(RunConfigError::Range { field: field(name), value, expected }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::click_model::ClickModelKind;
    use beckon_shared::garm::effective::EffectiveReward;
    use beckon_shared::preference::config::SplitKey;
    use beckon_shared::reward::advantage::Advantage;
    use beckon_shared::reward::fusion::Fusion;
    use beckon_shared::reward::kl_controller::KlPlacement;

    fn check_refused(json: &str, needle: &str) {
        let error = run_config_from_json(json.as_bytes()).expect_err(json).to_string();
        assert!(error.contains(needle), "{json}: {error:?} does not name {needle:?}");
    }

    #[test]
    fn what_is_left_out_comes_from_the_preset_that_is_named() {
        let json = br#"{"preset": "tiny", "seed": 7, "rl": {"n_steps": 3}}"#;
        let config = run_config_from_json(json).expect("valid");
        let mut want = RunConfig::preset(Preset::Tiny);
        (want.seed, want.rl.n_steps) = (7, 3);
        assert_eq!(config, want);
        assert_eq!(run_config_from_json(b" "), Ok(RunConfig::preset(Preset::Nano)));
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_refused_with_their_path() {
        check_refused(r#"{"sft": {"n_stepz": 3}}"#, "sft.n_stepz");
        check_refused(r#"{"rl": {"n_steps": "many"}}"#, "rl.n_steps");
        check_refused(r#"{"preset": "giant"}"#, "preset");
        check_refused(r#"{"preferences": {"pairs": {"hard": 1}}}"#, "preferences.pairs.hard");
        check_refused(r#"{"preferences": {"click_model": {"kind": "magic"}}}"#, "preferences.click_model.kind");
        check_refused(r#"{"rl": {"fusion": "average"}}"#, "rl.fusion");
        check_refused("{", "line 1");
        check_refused("[]", "object");
    }

    #[test]
    fn numbers_that_no_stage_can_work_with_are_refused() {
        check_refused(r#"{"save_every": 0}"#, "save_every is 0");
        check_refused(r#"{"n_devices": 0}"#, "n_devices is 0");
        check_refused(r#"{"micro_batch_tokens": 1}"#, "micro_batch_tokens is 1");
        check_refused(r#"{"rl": {"group_size": 1}}"#, "rl.group_size is 1");
        check_refused(r#"{"sft": {"learning_rate": -1}}"#, "sft.learning_rate is -1");
        check_refused(r#"{"garm": {"n_layers": 0}}"#, "garm.n_layers is 0");
        check_refused(r#"{"garm": {"text_weight": 1}}"#, "garm.text_weight is 1, expected 0 or more, below 1");
        check_refused(r#"{"garm": {"text_weight": -0.1}}"#, "garm.text_weight is -0.1");
        check_refused(
            r#"{"rl": {"max_new_tokens": 8, "overlong_buffer": 9}}"#,
            "rl.overlong_buffer is 9, expected 0 to rl.max_new_tokens",
        );
        check_refused(r#"{"garm": {"variance_floor": 1}}"#, "garm.variance_floor is 1, expected above 0, below 1");
        check_refused(r#"{"rl": {"updates_per_batch": 0}}"#, "rl.updates_per_batch is 0");
        check_refused(r#"{"rl": {"updates_per_batch": 9}}"#, "rl.updates_per_batch is 9");
        check_refused(r#"{"garm": {"feature_dims": 257}}"#, "garm.feature_dims is 257");
        check_refused(r#"{"preset": "tiny", "garm": {"feature_dims": 65}}"#, "64 for tiny");
        check_refused(r#"{"rl": {"weights": {"novelty": -1}}}"#, "rl.weights.novelty is -1");
        check_refused(r#"{"rl": {"effective": {"kind": "quantile", "q": 2}}}"#, "rl.effective.q is 2");
        check_refused(
            r#"{"preferences": {"split": {"held_out_percent": 0}}}"#,
            "preferences.split.held_out_percent is 0",
        );
        check_refused(r#"{"preferences": {"distill": {"n_select": 0}}}"#, "preferences.distill.n_select is 0");
    }

    #[test]
    fn what_a_parent_allows_is_checked_against_its_shape() {
        // wider than a preset, as SmolLM2
        let wide = ModelConfig { d_model: 576, n_layers: 30, max_seq_len: 64, ..Preset::Nano.model() };
        let read = |json: &str| run_config_from_json(json.as_bytes()).expect(json);
        let config = read(r#"{"parent": "abc", "garm": {"feature_dims": 576, "n_layers": 30, "text_weight": 0.5}}"#);
        assert_eq!(validate_shape(&config, &wide), Ok(()));
        for (json, needle) in [
            (r#"{"parent": "abc", "garm": {"feature_dims": 577}}"#, "garm.feature_dims is 577, expected 1 to 576"),
            (r#"{"parent": "abc", "garm": {"n_layers": 31}}"#, "garm.n_layers is 31, expected 1 to 30"),
            (r#"{"parent": "abc", "rl": {"max_new_tokens": 33}}"#, "rl.max_new_tokens is 33, expected 1 to 32"),
            (r#"{"parent": "abc", "garm": {"text_weight": 0.5, "n_layers": 20}}"#, "leave garm.n_layers out"),
        ] {
            let error = validate_shape(&read(json), &wide).expect_err(json).to_string();
            assert!(error.contains(needle), "{json}: {error}");
        }
        let untied = ModelConfig { tied_embedding: false, ..wide };
        let error = validate_shape(&config, &untied).expect_err("no head over the trunk").to_string();
        assert!(error.contains("garm.text_weight is 0.5, expected 0 for a model with an output matrix"), "{error}");
    }

    #[test]
    fn settings_of_preferences_are_read_by_name() {
        let json =
            br#"{"preferences": {"click_model": {"kind": "position", "item": "context"}, "split": {"by": "prompt"}},
            "rl": {"weights": {"novelty": 0.5}}}"#;
        let config = run_config_from_json(json).expect("valid");
        assert_eq!(config.preferences.click_model.kind, ClickModelKind::Position);
        assert_eq!(config.preferences.split.by, SplitKey::Prompt);
        assert_eq!(config.rl.weights.to_array(), [1.0, 0.5, 0.25, 0.5, 0.25, 0.1]);
    }

    #[test]
    fn choices_of_the_rl_stage_are_read_by_name() {
        let json = br#"{"rl": {"fusion": "soft_gate", "advantage": "dapo", "kl_placement": "loss",
            "effective": {"kind": "kl_dro", "beta": 0.5}}}"#;
        let rl = run_config_from_json(json).expect("valid").rl;
        assert_eq!((rl.fusion, rl.advantage), (Fusion::SoftGate, Advantage::Dapo));
        assert_eq!((rl.kl_placement, rl.effective), (KlPlacement::Loss, EffectiveReward::KlDro { beta: 0.5 }));
        check_refused(r#"{"lora": {"rank": 0}}"#, "lora.rank is 0");
        check_refused(r#"{"lora": {"alpha": 0}}"#, "lora.alpha is 0");
        let (json, possible) = (r#"{"lora": {"base_precision": "f8"}}"#, "expected `f32` or `f16`");
        check_refused(json, "lora.base_precision");
        check_refused(json, possible);
        check_refused(r#"{"rl": {"veto_quantile": 0}}"#, "rl.veto_quantile is 0");
    }

    #[test]
    fn a_teacher_is_named_by_its_id_and_taken_back_by_null() {
        let json = br#"{"sft": {"teacher": {"id": "abc", "soft_weight": 0.5}}}"#;
        let sft = run_config_from_json(json).expect("valid").sft;
        let want = TeacherConfig { id: "abc".into(), soft_weight: 0.5, ..TeacherConfig::default() };
        assert_eq!((sft.teacher, sft.n_steps), (Some(want), RunConfig::default().sft.n_steps));
        check_refused(r#"{"sft": {"teacher": {"soft_weight": 2}}}"#, "sft.teacher.soft_weight is 2");
        check_refused(r#"{"sft": {"teacher": {"idd": "abc"}}}"#, "sft.teacher.idd");
        let base: Value = serde_json::from_slice(json).expect("JSON");
        let branch = branch_config("p", &base, br#"{"sft": {"teacher": null}}"#).expect("valid");
        assert_eq!(branch.sft, RunConfig::default().sft);
    }

    #[test]
    fn a_branch_takes_over_what_its_parent_had() {
        let base = serde_json::json!({"preset": "tiny", "seed": 4, "rl": {"n_steps": 9}, "changes": []});
        let config = branch_config("abc", &base, br#"{"seed": 5, "name": "second"}"#).expect("valid");
        assert_eq!((config.seed, config.rl.n_steps, config.name.as_str()), (5, 9, "second"));
        assert_eq!(config.parent.as_deref(), Some("abc"));
        let error = branch_config("abc", &base, br#"{"sead": 5}"#).expect_err("a key that is not known");
        assert!(error.to_string().contains("sead"), "{error}");
        assert!(branch_config("abc", &Value::Null, b"").is_ok(), "a checkpoint without a configuration");
    }

    #[test]
    fn a_value_that_cannot_be_tuned_is_named() {
        let error = tuning_from_json(br#"{"rl": {"n_steps": 3}}"#).expect_err("cannot be tuned").to_string();
        assert!(error.contains("n_steps"), "{error}");
    }

    #[test]
    fn the_presets_are_valid() {
        for preset in [Preset::Tiny, Preset::Nano] {
            assert_eq!(validate(&RunConfig::preset(preset)), Ok(()));
        }
    }
}
