//! What an experiment may be, its life, and which exposures count.

use super::*;

fn config(more: serde_json::Value) -> Result<ExperimentConfig, String> {
    let mut json = serde_json::json!({
        "name": "rl against sft",
        "arms": [{"name": "sft", "source": {"checkpoint": "aa"}}, {"name": "rl", "source": {"checkpoint": "bb"}}],
    });
    json.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let config: ExperimentConfig = serde_json::from_value(json).map_err(|error| error.to_string())?;
    config.validate().map_err(|error| error.to_string())?;
    Ok(config)
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (more, needle) in [
        (serde_json::json!({"name": " "}), "name"),
        (serde_json::json!({"traffic": [0.5, 0.2]}), "traffic"),
        (serde_json::json!({"arms": [{"name": "a", "source": {"template": "t"}}]}), "at least two"),
        (serde_json::json!({"allowed_origins": ["*"]}), "no origin"),
        (serde_json::json!({"allowed_origins": ["https://a.example/path"]}), "no origin"),
        (serde_json::json!({"salt": "x"}), "salt"),
    ] {
        let error = config(more.clone()).expect_err("refused");
        assert!(error.contains(needle), "{more}: {error}");
    }
    let three = serde_json::json!({"layout": "interleaved", "arms": [
        {"name": "a", "source": {"template": "t"}}, {"name": "b", "source": {"template": "t"}},
        {"name": "c", "source": {"template": "t"}}]});
    assert!(config(three).expect_err("refused").contains("two are interleaved"));
}

#[test]
fn control_shares_and_salt_follow_from_the_arms_and_the_id() {
    let config = config(serde_json::json!({})).expect("valid");
    let settings = config.analysis();
    assert_eq!(settings.control.as_deref(), Some("sft"));
    assert_eq!(settings.shares["rl"], 0.5);
    let arms = |id: &str| (0..200).map(|i| config.assignment(id).arm_of(&format!("u{i}"))).collect::<Vec<_>>();
    assert_ne!(arms("e1"), arms("e2"), "two experiments assign alike");
    assert!(!config.is_aa());
    assert_eq!(config.checkpoints().collect::<Vec<_>>(), ["aa", "bb"]);
}

#[test]
fn two_arms_of_one_policy_are_an_aa_test() {
    let arms = serde_json::json!({"arms": [
        {"name": "a", "source": {"checkpoint": "aa"}}, {"name": "b", "source": {"checkpoint": "aa"}, "weight": 3}]});
    assert!(config(arms).expect("valid").is_aa());
}

#[test]
fn the_life_of_an_experiment() {
    use ExperimentState::{Decided, Draft, Running, Stopped};
    // columns: start, stop, kill, decide
    for (state, row) in [
        (Draft, [Some(Running), None, None, None]),
        (Running, [None, Some(Stopped), Some(Stopped), None]),
        (Stopped, [None, None, Some(Stopped), Some(Decided)]),
        (Decided, [None; 4]),
    ] {
        assert_eq!(ExperimentCommand::ALL.map(|command| next(state, command)), row, "{state:?}");
    }
}

#[test]
fn only_what_was_shown_to_its_unit_counts() {
    let slot = |visible, propensity| ShownSlot { text: "x".into(), propensity, visible, arm: None };
    let exposure = |slate: Vec<ShownSlot>| Exposure {
        impression_id: "i".into(),
        unit: "u".into(),
        arm: "rl".into(),
        time_millis: 1,
        prompt: None,
        slate,
        latency_millis: None,
        device_tier: None,
        browser: None,
        simulated: false,
    };
    let check = |slate, assigned| exposure(slate).check(assigned, Layout::Split);
    assert_eq!(check(vec![slot(false, 0.5), slot(true, 0.5)], Some("rl")), Ok(()));
    assert_eq!(check(vec![], Some("rl")), Ok(()), "a request without suggestion is for the guardrail");
    assert!(check(vec![slot(false, 0.5)], Some("rl")).is_err_and(|why| why.contains("visible")));
    assert!(check(vec![slot(true, 0.0)], Some("rl")).is_err_and(|why| why.contains("propensity")));
    assert!(check(vec![slot(true, f64::NAN)], Some("rl")).is_err());
    assert!(check(vec![slot(true, 1.0)], Some("sft")).is_err_and(|why| why.contains("assigned to sft")));
    assert!(check(vec![slot(true, 1.0)], None).is_err_and(|why| why.contains("take part")));
    let drafted = exposure(vec![slot(true, 1.0)]).check(Some("sft"), Layout::Interleaved);
    assert!(drafted.is_err_and(|why| why.contains("arm is missing")));
}
