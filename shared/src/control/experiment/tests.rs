//! What an experiment may be, its life, and which exposures count.

use super::*;
use crate::ab::input::{Table, Users};
use crate::ab::report::analyze;

/// Settings that are the usual ones except for `more`.
fn settings(more: serde_json::Value) -> serde_json::Value {
    let mut json = serde_json::to_value(Settings::default()).expect("plain data");
    json.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    serde_json::json!({ "settings": json })
}

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

/// Whatever is accepted can be analysed once there are users.
#[test]
fn what_could_never_be_analysed_is_refused_with_the_field() {
    for (more, needle) in [
        (serde_json::json!({"alpha": 0.0}), "settings.alpha: 0; expected a level"),
        (serde_json::json!({"design": "fixed"}), "settings.planned_users_per_arm: not given; expected a number"),
        (serde_json::json!({"planned_users_per_arm": 1e308}), "settings.planned_users_per_arm: 1"),
        (serde_json::json!({"latency_margin": -0.1}), "settings.latency_margin: -0.1; expected 0 or more"),
        (serde_json::json!({"prior": {"mean": 0.0, "std_dev": 0.0}}), "settings.prior.std_dev: 0; expected"),
        (serde_json::json!({"observation_hours": 0.0}), "settings.observation_hours: 0; expected 0.01 to"),
    ] {
        let error = config(settings(more.clone())).expect_err("refused");
        assert!(error.starts_with(needle), "{more}: {error}");
    }
    for (more, needle) in [
        (serde_json::json!({"observation_hours": 24.0}), "settings.observation_hours: given, but arms are interleaved"),
        (serde_json::json!({"cuped": true}), "settings.cuped: true, but arms are interleaved"),
    ] {
        let mut votes = settings(more);
        votes["layout"] = "interleaved".into();
        assert!(config(votes).expect_err("refused").starts_with(needle));
    }
    let fixed = serde_json::json!({"design": "fixed", "planned_users_per_arm": 500.0, "observation_hours": 24.0});
    let cuped = serde_json::json!({"cuped": true});
    for accepted in [settings(serde_json::json!({})), settings(fixed), settings(cuped)] {
        let config = config(accepted).expect("valid");
        let has_past = config.settings.cuped;
        let users = Users { arms: vec!["sft".into(), "rl".into()], has_past, ..Users::default() };
        analyze(&Table::Users(users), &config.analysis(), None).expect("a look");
    }
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
    let split = config(serde_json::json!({})).expect("valid");
    let check = |slate, assigned| exposure(slate).check(assigned, &split);
    assert_eq!(check(vec![slot(false, 0.5), slot(true, 0.5)], Some("rl")), Ok(()));
    assert_eq!(check(vec![], Some("rl")), Ok(()), "a request without suggestion is for the guardrail");
    assert!(check(vec![slot(false, 0.5)], Some("rl")).is_err_and(|why| why.contains("visible")));
    assert!(check(vec![slot(true, 0.0)], Some("rl")).is_err_and(|why| why.contains("propensity")));
    assert!(check(vec![slot(true, f64::NAN)], Some("rl")).is_err());
    assert!(check(vec![slot(true, 1.0)], Some("sft")).is_err_and(|why| why.contains("assigned to sft")));
    assert!(check(vec![slot(true, 1.0)], None).is_err_and(|why| why.contains("take part")));
    let unknown = Exposure { arm: "SFT".into(), ..exposure(vec![slot(true, 1.0)]) };
    assert_eq!(
        unknown.check(Some("sft"), &split),
        Err(r#"arm is "SFT", which is no arm; expected "sft" or "rl""#.into())
    );
}

/// A vote for a name that is misspelt would else be one for somebody.
#[test]
fn each_slot_of_a_drafted_slate_belongs_to_an_arm_of_the_experiment() {
    let drafted = config(serde_json::json!({"layout": "interleaved"})).expect("valid");
    let check = |arm: &str, slots: [Option<&str>; 2]| {
        let slot = |arm: Option<&str>| serde_json::json!({"text": "x", "propensity": 0.5, "visible": true, "arm": arm});
        let exposure: Exposure = serde_json::from_value(serde_json::json!({
            "impression_id": "i", "unit": "u", "arm": arm, "time_millis": 1, "slate": slots.map(slot)
        }))
        .expect("an exposure");
        exposure.check(Some("sft"), &drafted)
    };
    assert_eq!(check("sft", [Some("sft"), Some("rl")]), Ok(()));
    assert_eq!(check("rl", [Some("rl"), Some("rl")]), Ok(()), "which of the two it names does not matter");
    assert!(check("sft", [Some("sft"), None]).is_err_and(|why| why.contains("slate[1].arm is missing")));
    let misspelt = r#"slate[1].arm is "rI", which is no arm; expected "sft" or "rl""#;
    assert_eq!(check("sft", [Some("rl"), Some("rI")]), Err(misspelt.to_owned()));
    assert!(check("none", [Some("sft"), Some("rl")]).is_err_and(|why| why.starts_with("arm is \"none\"")));
    assert!(check(&"x".repeat(9_000), [Some("sft"), Some("rl")]).is_err_and(|why| why.len() < 200));
}
