//! Levels say what a text did within its test, whatever the test's base rate.

use crate::click::{Counts, Record, Sourced};
use crate::preference::{PreferenceConfig, dataset_from_records};
use crate::prompt::Prompt;
use std::collections::BTreeMap;

/// 120 tests of four texts each; a text's odds are those of its test, which differ a hundredfold, times its own.
fn headline_tests() -> Vec<Sourced> {
    const OWN: [(&str, f64); 4] = [("dull", 0.6), ("plain", 0.9), ("fair", 1.1), ("bright", 1.7)];
    let counts = |test: usize, (text, own): (&str, f64)| {
        let odds = own * 0.004 * 100f64.powf((test % 12) as f64 / 11.0);
        let n_impressions = 50_000;
        Counts {
            group: format!("t{test}/picture"),
            prompt: Prompt::from_query("headline"),
            text: format!("{text} {test}"),
            n_impressions,
            n_clicks: (n_impressions as f64 * odds / (1.0 + odds)).round() as u64,
        }
    };
    let record = |test, text| Sourced { source: "tests".into(), record: Record::Counts(counts(test, text)) };
    (0..120).flat_map(|test| OWN.map(|text| record(test, text))).collect()
}

#[test]
fn a_level_is_of_the_text_and_not_of_its_test() {
    let train = dataset_from_records(&headline_tests(), &PreferenceConfig::default(), 0).expect("valid settings").train;
    let mut levels: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for anchor in &train.anchors {
        let (text, _) = anchor.suggestion.split_once(' ').expect("a text and its test");
        levels.entry(text).or_default().push(anchor.level);
    }
    assert!(levels["plain"].len() > 60, "{levels:?}");
    // pooled over tests, every text of the poorest three would be low and every text of the richest three high
    for (text, want) in [("dull", 0), ("plain", 1), ("fair", 1), ("bright", 2)] {
        assert!(levels[text].iter().all(|level| *level == want), "{text}: {:?}", levels[text]);
    }
}
