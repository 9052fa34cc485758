//! What is refused, and which values hold at which step, also when a run goes on from an older state.

use super::*;

fn parse(json: &str) -> Tuning {
    serde_json::from_str(json).expect(json)
}

fn at(stage: Stage, step: usize) -> Moment {
    Moment { stage, step }
}

#[test]
fn numbers_that_no_stage_can_work_with_are_refused_by_name() {
    for (json, needle) in [
        ("{}", "nothing to change"),
        (r#"{"rl": {"learning_rate": 0}}"#, "rl.learning_rate is 0"),
        (r#"{"sft": {"learning_rate": 2}}"#, "sft.learning_rate is 2"),
        (r#"{"rl": {"kl_beta": -1}}"#, "rl.kl_beta is -1"),
        (r#"{"rl": {"kl_budget_nats": 0}}"#, "rl.kl_budget_nats is 0"),
        (r#"{"rl": {"fusion_weights": [1]}}"#, "has 1 values"),
    ] {
        let error = parse(json).check(None).expect_err(json).to_string();
        assert!(error.contains(needle), "{json}: {error}");
    }
    assert!(serde_json::from_str::<Tuning>(r#"{"rl": {"n_steps": 3}}"#).is_err());
    let nan = Tuning { sft: RateTuning { learning_rate: Some(f64::NAN) }, ..Tuning::default() };
    assert!(matches!(nan.check(None), Err(TuningError::Range { .. })));
}

#[test]
fn a_stage_that_is_over_cannot_be_tuned() {
    let sft = parse(r#"{"sft": {"learning_rate": 0.001}}"#);
    assert_eq!(sft.check(Some(Stage::Sft)), Ok(()));
    assert_eq!(sft.check(Some(Stage::Garm)), Err(TuningError::Over { stage: Stage::Sft }));
    let rl = parse(r#"{"rl": {"kl_beta": 0.2, "fusion_weights": [1, 1, 1, 1, 1, 1]}}"#);
    assert_eq!(rl.check(Some(Stage::Data)), Ok(()));
    assert_eq!(rl.check(Some(Stage::Export)), Err(TuningError::Over { stage: Stage::Rl }));
}

#[test]
fn a_change_holds_from_its_step_on() {
    let mut changes = vec![Change { at: None, tuning: parse(r#"{"sft": {"learning_rate": 0.5}}"#) }];
    assert_eq!(tuned(&changes, at(Stage::Sft, 3)), Tuned::default());
    assert!(take_effect(&mut changes, at(Stage::Sft, 4)));
    assert!(!take_effect(&mut changes, at(Stage::Sft, 5)));
    changes.push(Change { at: Some(at(Stage::Sft, 9)), tuning: parse(r#"{"sft": {"learning_rate": 0.25}}"#) });
    // as asked again by a run that goes on from step 2
    let rates: Vec<Option<f64>> = (2..11).map(|step| tuned(&changes, at(Stage::Sft, step)).learning_rate).collect();
    let (before, first, second) = (None, Some(0.5), Some(0.25));
    assert_eq!(rates, [before, before, first, first, first, first, first, second, second]);
    assert_eq!(tuned(&changes, at(Stage::Garm, 0)), Tuned::default());
}

#[test]
fn a_budget_holds_from_its_step_on() {
    let change = |at, json| Change { at: Some(at), tuning: parse(json) };
    let changes = [
        change(at(Stage::Garm, 3), r#"{"rl": {"kl_budget_nats": 2}}"#),
        change(at(Stage::Rl, 5), r#"{"rl": {"kl_budget_nats": 0.5}}"#),
        change(at(Stage::Rl, 6), r#"{"rl": {"kl_beta": 0.7}}"#),
    ];
    let budget = |step| tuned(&changes, at(Stage::Rl, step)).kl_budget_nats;
    assert_eq!([0, 4, 5, 6, 9].map(budget), [Some(2.0), Some(2.0), Some(0.5), Some(0.5), Some(0.5)]);
    assert_eq!(tuned(&changes, at(Stage::Sft, 9)).kl_budget_nats, None);
}

#[test]
fn beta_is_taken_over_once() {
    let json = r#"{"rl": {"kl_beta": 0.2, "learning_rate": 0.01}}"#;
    let mut changes = vec![Change { at: Some(at(Stage::Sft, 7)), tuning: parse(json) }];
    let beta = |changes: &[Change], step| tuned(changes, at(Stage::Rl, step)).kl_beta;
    assert_eq!((beta(&changes, 0), beta(&changes, 1)), (Some(0.2), None));
    changes.push(Change { at: Some(at(Stage::Rl, 5)), tuning: parse(r#"{"rl": {"kl_beta": 0.7}}"#) });
    assert_eq!((beta(&changes, 0), beta(&changes, 5), beta(&changes, 6)), (Some(0.2), Some(0.7), None));
    assert_eq!(tuned(&changes, at(Stage::Rl, 6)).learning_rate, Some(0.01));
}
