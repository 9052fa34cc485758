//! Values by hand, and that rows come in the order of the names.

use super::*;
use crate::metrics::assert_close;

#[test]
fn relevance_saturates_before_a_copy() {
    let prompt = Prompt::from_query("fitbit sync now");
    assert_close("copy", relevance("fitbit sync now", &prompt), 1.0, 0.0);
    assert_close("extension", relevance("fitbit sync now on iphone", &prompt), 1.0, 0.0);
    assert_close("off topic", relevance("aloe vera gel", &prompt), 0.0, 0.0);
    let partly = relevance("how to reset my fitbit", &prompt);
    assert!(partly > 0.0 && partly < 1.0, "{partly}");
}

#[test]
fn diversity_falls_with_copies_in_the_group() {
    let group = ["red apples", "red apples", "green pears"].map(str::to_owned);
    let r3 = diversity(&group);
    assert_close("twins", r3[0], r3[1], 1e-12);
    assert!(r3[2] > r3[0], "{r3:?}");
    assert_close("alone", diversity(&group[..1])[0], 1.0, 0.0);
    assert_close("all the same", diversity(&[group[0].clone(), group[0].clone()])[0], 0.0, 1e-12);
}

#[test]
fn novelty_and_length_by_hand() {
    let prompt = Prompt::from_query("fitbit sync now");
    assert_close("novelty", novelty("pc fitbit sync now", &prompt), 1.0 / 3.0, 1e-12);
    assert_close("inside", length_band("pc fitbit sync"), 0.0, 0.0);
    assert_close("one word", length_band("weather"), -0.5, 1e-12);
    assert_close("18 words", length_band(&"word ".repeat(18)), -0.5, 1e-12);
}

#[test]
fn heuristics_come_in_the_order_of_the_names() {
    let rows = heuristics(&Prompt::from_query("a b"), &["a b".to_owned(), "c d e".to_owned()]);
    assert_eq!(rows.len() + 1, NAMES.len());
    assert!(rows.iter().all(|r| r.len() == 2));
    assert_close("novelty of the copy", rows[2][0], 0.0, 0.0);
}

#[test]
fn weights_stand_in_the_order_of_the_names() {
    let json = serde_json::to_value(ComponentWeights::default()).expect("numbers");
    let by_name = NAMES.map(|name| json[name].as_f64().expect(name));
    assert_eq!(by_name, ComponentWeights::default().to_array());
    assert!(serde_json::from_str::<ComponentWeights>(r#"{"humour": 1.0}"#).is_err());
    let some: ComponentWeights = serde_json::from_str(r#"{"novelty": 0.0}"#).expect("one weight");
    assert_eq!(some.to_array(), [1.0, 0.5, 0.25, 0.0, 0.25, 0.1]);
}

#[test]
fn answerability_is_that_of_the_text_alone() {
    let rows = heuristics(&Prompt::from_query("fitbit"), &["how does it work".to_owned(), "sync with a pc".to_owned()]);
    assert_eq!(rows[3], [0.0, 1.0]);
}
