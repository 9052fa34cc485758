//! No group on both sides, fixed order, position bias corrected, weights of mean 1.

use super::*;
use crate::click::{Counts, Demonstration, Impression, ImpressionLevel, Pane, Slot};
use crate::metrics::assert_close;

fn slot(text: &str, clicked: bool) -> Slot {
    Slot {
        text: text.into(),
        propensity: Some(1.0 / 3.0),
        visible: None,
        clicked,
        dwell_secs: clicked.then_some(20.0),
        followed_up: None,
    }
}

fn impression(i: usize, slate: Vec<Slot>) -> Sourced {
    let record = Record::Impression(Impression {
        impression_id: format!("i{i}"),
        user_hash: format!("u{}", i % 40),
        time_millis: i as i64,
        prompt: Prompt::from_query(format!("rice {}", i % 3)),
        slate,
        policy: None,
        checkpoint: None,
        experiment: None,
        arm: None,
        simulated: false,
    });
    Sourced { source: "log".into(), record }
}

/// Slot 0 is clicked in half of its showings, slot 1 in a quarter, texts at random.
fn log() -> Vec<Sourced> {
    let slate = |i: usize| {
        let (a, b) = if i.is_multiple_of(2) { ("brown rice", "white rice") } else { ("white rice", "brown rice") };
        vec![slot(a, i % 4 < 2), slot(b, i % 8 >= 6)]
    };
    (0..400).map(|i| impression(i, slate(i))).collect()
}

fn others() -> Vec<Sourced> {
    let mut records = Vec::new();
    for i in 0..200 {
        let prompt = Prompt::from_query(format!("Query {i}"));
        let demonstration = Demonstration {
            prompt: prompt.clone(),
            suggestions: vec![format!("query {i} price"), format!("query {i}")],
            label: (i % 4 == 0).then_some((i % 3) as u8),
        };
        records.push(Sourced { source: "list".into(), record: Record::Demonstration(demonstration) });
        let pane = Pane {
            prompt: Prompt::from_query(format!("query {i}")),
            options: vec!["a".into(), "b".into(), "c".into()],
            engagement_level: (i % 11) as u8,
            impression_level: ImpressionLevel::Low,
            conditional_ctr: if i % 11 == 0 { vec![0.0; 3] } else { vec![0.25, 0.75, 0.0] },
        };
        records.push(Sourced { source: "panes".into(), record: Record::Pane(pane) });
        for (picture, text, n_clicks) in [("x", "one", 10), ("x", "two", 40), ("y", "three", 90)] {
            let counts = Counts {
                group: format!("t{i}/{picture}"),
                prompt: Prompt::from_query("headline"),
                text: format!("{text} {i}"),
                n_impressions: 1_000,
                n_clicks,
            };
            records.push(Sourced { source: "tests".into(), record: Record::Counts(counts) });
        }
    }
    records
}

#[test]
fn no_group_stands_on_both_sides_whatever_its_source() {
    let Dataset { train, held_out } = dataset_from_records(&others(), 0);
    let groups = |split: &Split| -> HashSet<String> {
        let pairs = split.pairs.iter().map(|p| p.group.clone());
        pairs
            .chain(split.anchors.iter().map(|a| a.group.clone()))
            .chain(split.sft.iter().map(|e| e.group.clone()))
            .collect()
    };
    let (train_groups, held_out_groups) = (groups(&train), groups(&held_out));
    assert!(train_groups.is_disjoint(&held_out_groups));
    // 200 queries and 200 tests; 15% of them held out
    assert!((30..=90).contains(&held_out_groups.len()), "{}", held_out_groups.len());
    let users = |split: &Split| -> HashSet<String> { split.anchors.iter().map(|a| a.group.clone()).collect() };
    let Dataset { train, held_out } = dataset_from_records(&log(), 0);
    assert!(!held_out.anchors.is_empty() && users(&train).is_disjoint(&users(&held_out)));
}

#[test]
fn the_order_of_records_changes_nothing() {
    let mut records = log();
    records.extend(others());
    let dataset = dataset_from_records(&records, 3);
    records.reverse();
    assert_eq!(dataset, dataset_from_records(&records, 3));
}

#[test]
fn weights_have_mean_one_in_every_source() {
    let mut records = log();
    records.extend(others());
    let train = dataset_from_records(&records, 0).train;
    for source in ["log", "panes", "tests", "list"] {
        let of = |weights: Vec<(&String, f32)>| -> Vec<f64> {
            weights.into_iter().filter(|(s, _)| *s == source).map(|(_, w)| f64::from(w)).collect()
        };
        for weights in [
            of(train.sft.iter().map(|e| (&e.source, e.weight)).collect()),
            of(train.pairs.iter().map(|p| (&p.source, p.weight)).collect()),
            of(train.anchors.iter().map(|a| (&a.source, a.weight)).collect()),
        ] {
            if !weights.is_empty() {
                assert_close(source, crate::metrics::mean(&weights), 1.0, 1e-5);
            }
        }
    }
}

#[test]
fn a_click_on_a_later_slot_weighs_more() {
    let train = dataset_from_records(&log(), 0).train;
    let slate: Vec<&Pair> = train.pairs.iter().filter(|p| p.group.starts_with("user:")).collect();
    let (lightest, heaviest) =
        slate.iter().fold((f32::MAX, 0.0_f32), |(lo, hi), pair| (lo.min(pair.weight), hi.max(pair.weight)));
    assert!(heaviest > 1.5 * lightest, "{lightest} to {heaviest}");
    assert!(slate.iter().all(|pair| pair.label == HARD_LABEL));
}

#[test]
fn what_is_out_of_view_teaches_nothing() {
    let unseen = |text: &str| Slot { visible: Some(false), ..slot(text, false) };
    let records: Vec<Sourced> = (0..50).map(|i| impression(i, vec![slot("a", true), unseen("b")])).collect();
    let train = dataset_from_records(&records, 0).train;
    assert!(train.pairs.is_empty() && train.anchors.iter().all(|anchor| anchor.suggestion == "a" && anchor.level == 2));
}

#[test]
fn counts_are_compared_within_a_group_only() {
    let train = dataset_from_records(&others(), 0).train;
    let pairs: Vec<&Pair> = train.pairs.iter().filter(|p| p.source == "tests").collect();
    assert!(!pairs.is_empty());
    assert!(pairs.iter().all(|p| p.chosen.starts_with("two") && p.rejected.starts_with("one") && p.label > 0.99));
    let level = |start: &str| train.anchors.iter().find(|a| a.suggestion.starts_with(start)).map(|a| a.level);
    assert_eq!((level("one"), level("three")), (Some(1), Some(2)));
}

#[test]
fn panes_give_soft_pairs_and_levels() {
    let train = dataset_from_records(&others(), 0).train;
    let pair = train.pairs.iter().find(|p| p.source == "panes" && p.chosen == "b" && p.rejected == "a");
    // contrast 0.5, believed to 0.6
    assert_close("label", pair.expect("b beats a").label, 0.65, 1e-6);
    assert!(train.pairs.iter().filter(|p| p.source == "panes").all(|p| p.chosen != "c"));
    assert!(train.anchors.iter().filter(|a| a.suggestion == "c").all(|a| a.level == 0));
    assert!(train.anchors.iter().any(|a| a.suggestion == "b" && a.level == 2));
}

#[test]
fn bad_labels_and_repeated_queries_are_not_imitated() {
    let train = dataset_from_records(&others(), 0).train;
    assert!(train.sft.iter().all(|example| example.suggestion.ends_with("price")));
    assert!(train.sft.len() < train.prompts.len());
}
