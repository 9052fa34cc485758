//! No group on both sides, fixed order, position bias corrected, weights of mean 1.

use super::report::SlotReport;
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
        time_millis: 10_000 * i as i64,
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

fn made(records: &[Sourced], seed: u64) -> Dataset {
    dataset_from_records(records, &PreferenceConfig::default(), seed).expect("valid settings, no leak")
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
    let Dataset { train, held_out, .. } = made(&others(), 0);
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
    let Dataset { train, held_out, .. } = made(&log(), 0);
    assert!(!held_out.anchors.is_empty() && users(&train).is_disjoint(&users(&held_out)));
}

#[test]
fn the_order_of_records_changes_nothing() {
    let mut records = log();
    records.extend(others());
    let dataset = made(&records, 3);
    records.reverse();
    assert_eq!(dataset, made(&records, 3));
}

#[test]
fn weights_of_pairs_and_anchors_have_mean_one_in_every_source() {
    let mut records = log();
    records.extend(others());
    let train = made(&records, 0).train;
    for source in ["log", "panes", "tests", "list"] {
        let of = |weights: Vec<(&String, f32)>| -> Vec<f64> {
            weights.into_iter().filter(|(s, _)| *s == source).map(|(_, w)| f64::from(w)).collect()
        };
        for weights in [
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
    let train = made(&log(), 0).train;
    let slate: Vec<&Pair> = train.pairs.iter().filter(|p| p.group.starts_with("user:")).collect();
    let (lightest, heaviest) =
        slate.iter().fold((f32::MAX, 0.0_f32), |(lo, hi), pair| (lo.min(pair.weight), hi.max(pair.weight)));
    assert!(heaviest > 1.5 * lightest, "{lightest} to {heaviest}");
    assert!(slate.iter().all(|pair| pair.label == 0.98 && pair.kind == PairKind::Slate && pair.logit_variance == 0.0));
}

#[test]
fn what_is_out_of_view_teaches_nothing() {
    let unseen = |text: &str| Slot { visible: Some(false), ..slot(text, false) };
    let records: Vec<Sourced> = (0..50).map(|i| impression(i, vec![slot("a", true), unseen("b")])).collect();
    let train = made(&records, 0).train;
    assert!(train.pairs.is_empty() && train.anchors.iter().all(|anchor| anchor.suggestion == "a" && anchor.level == 2));
}

#[test]
fn counts_are_compared_within_a_group_only() {
    let train = made(&others(), 0).train;
    let pairs: Vec<&Pair> = train.pairs.iter().filter(|p| p.source == "tests").collect();
    assert!(!pairs.is_empty());
    assert!(pairs.iter().all(|p| p.chosen.starts_with("two") && p.rejected.starts_with("one") && p.label > 0.99));
    let level = |start: &str| train.anchors.iter().find(|a| a.suggestion.starts_with(start)).map(|a| a.level);
    assert_eq!((level("one"), level("two")), (Some(1), Some(2)));
    assert_eq!(level("three"), None, "alone in its test");
}

#[test]
fn panes_give_soft_pairs_and_levels() {
    let Dataset { train, report, .. } = made(&others(), 0);
    let pair = train.pairs.iter().find(|p| p.source == "panes" && p.chosen == "b" && p.rejected == "a");
    // a quarter and three: at least four clicks; no option moved, so slots are not corrected
    let (label, variance) = panes::share_label([3.0, 1.0], [1.0, 1.0]);
    let pair = pair.expect("b beats a");
    assert_close("label", pair.label, label, 1e-6);
    assert_close("variance", pair.logit_variance, variance, 1e-5);
    assert!(train.pairs.iter().filter(|p| p.source == "panes").all(|p| p.chosen != "c" && p.kind == PairKind::Share));
    assert!(train.anchors.iter().filter(|a| a.suggestion == "c").all(|a| a.level == 0));
    assert!(train.anchors.iter().any(|a| a.suggestion == "b" && a.level == 2));
    let slots = report.sources.iter().find(|s| s.source == "panes").and_then(|s| s.slots.clone());
    assert!(matches!(slots, Some(SlotReport::Refused { .. })), "{slots:?}");
}

#[test]
fn shares_are_of_at_least_so_many_clicks() {
    for (shares, n) in [
        (vec![1.0, 0.0, 0.0], 1),
        (vec![0.5, 0.5], 2),
        (vec![0.333333333, 0.333333333, 0.333333333], 3),
        (vec![0.75, 0.25], 4),
        (vec![0.818181818, 0.181818182], 11),
    ] {
        assert_eq!(panes::fewest_clicks(&shares), Some(n), "{shares:?}");
    }
    assert_eq!(panes::fewest_clicks(&[0.1234, 0.8766]), None);
}

#[test]
fn a_share_says_more_with_more_clicks_and_in_a_worse_slot() {
    let y = |k, v| panes::share_label(k, v).0;
    let even = [1.0, 1.0];
    for v in [even, [1.0, 0.2], [0.3, 1.0]] {
        assert_close("no click tells nothing", y([0.0, 0.0], v), 0.5, 1e-9);
    }
    // uniform before, one click: P(ρ > ½) of Beta(2, 1); a thousand: no doubt left
    assert_close("one click", y([1.0, 0.0], even), 0.75, 1e-5);
    assert_close(
        "variance of logit ρ, uniform",
        panes::share_label([0.0, 0.0], even).1,
        std::f64::consts::PI.powi(2) / 3.0,
        1e-4,
    );
    assert_close("mirror", y([3.0, 1.0], [1.0, 0.4]), 1.0 - y([1.0, 3.0], [0.4, 1.0]), 1e-9);
    assert!(y([10.0, 0.0], even) > 0.99);
    assert!(y([1.0, 0.0], [0.3, 1.0]) > y([1.0, 0.0], even) && y([1.0, 0.0], even) > y([1.0, 0.0], [1.0, 0.3]));
    assert!(panes::share_label([30.0, 10.0], even).1 < panes::share_label([3.0, 1.0], even).1);
}

#[test]
fn bad_labels_and_repeated_queries_are_not_imitated() {
    let train = made(&others(), 0).train;
    assert!(train.sft.iter().all(|example| example.suggestion.ends_with("price")));
    assert!(train.sft.len() < train.prompts.len());
}

#[test]
fn counts_carry_their_sampling_noise() {
    let train = made(&others(), 0).train;
    let pair = train.pairs.iter().find(|p| p.source == "tests").expect("a pair");
    assert!(pair.kind == PairKind::Counts && pair.logit_variance > 0.0 && pair.logit_variance < 0.5, "{pair:?}");
}

/// One user clicks in each of `n` slates of three on one day.
fn busy_user(n: usize) -> Vec<Sourced> {
    let slate =
        |i: usize| vec![slot(&format!("a {i}"), true), slot(&format!("b {i}"), false), slot(&format!("c {i}"), false)];
    (0..n)
        .map(|i| {
            let mut record = impression(i, slate(i));
            if let Record::Impression(i) = &mut record.record {
                i.user_hash = "busy".into();
            }
            record
        })
        .collect()
}

#[test]
fn a_user_gives_so_many_pairs_a_day_and_no_more() {
    let dataset = made(&busy_user(100), 0);
    let n = dataset.train.pairs.len() + dataset.held_out.pairs.len();
    assert_eq!((n, dataset.report.sources[0].n_pairs_capped), (50, 150));
    let mut spread = busy_user(100);
    for (i, record) in spread.iter_mut().enumerate() {
        if let Record::Impression(shown) = &mut record.record {
            shown.time_millis += (i as i64 / 20) * 86_400_000;
        }
    }
    let dataset = made(&spread, 0);
    assert_eq!(
        (dataset.train.pairs.len() + dataset.held_out.pairs.len(), dataset.report.sources[0].n_pairs_capped),
        (200, 0)
    );
}

#[test]
fn an_impression_gives_fewer_pairs_than_slots() {
    // two clicks over two others are four pairs; a slate of four gives three
    let slate = || vec![slot("a", true), slot("b", true), slot("c", false), slot("d", false)];
    let records: Vec<Sourced> = (0..30).map(|i| impression(i, slate())).collect();
    let dataset = made(&records, 0);
    let n = dataset.train.pairs.iter().chain(&dataset.held_out.pairs).filter(|p| p.kind == PairKind::Slate).count();
    assert_eq!((n, dataset.report.sources[0].n_pairs_capped), (90, 30));
}

#[test]
fn a_satisfied_click_beats_a_bounced_one() {
    let bounced = || Slot { dwell_secs: Some(0.5), ..slot("b", true) };
    let records: Vec<Sourced> = (0..30).map(|i| impression(i, vec![slot("a", true), bounced()])).collect();
    let train = made(&records, 0).train;
    let satisfied: Vec<&Pair> = train.pairs.iter().filter(|p| p.kind == PairKind::Satisfied).collect();
    assert!(!satisfied.is_empty());
    assert!(satisfied.iter().all(|p| p.chosen == "a" && p.rejected == "b" && p.label == 0.9));
    assert!(train.anchors.iter().all(|a| a.level == 2));
}

#[test]
fn position_is_reported_with_its_interval_or_refused_in_words() {
    let lines = |records: &[Sourced]| made(records, 0).report.lines().join("\n");
    let estimated = lines(&log());
    assert!(estimated.contains("log: slots looked at (Choice): 1.000 (1.000 to 1.000), 0."), "{estimated}");
    // the same text always stands first
    let fixed: Vec<Sourced> =
        (0..400).map(|i| impression(i, vec![slot("brown", i % 4 < 2), slot("white", i % 8 >= 6)])).collect();
    let refused = lines(&fixed);
    assert!(refused.contains("not identified") && refused.contains("slot 0 | slot 1"), "{refused}");
    let train = made(&fixed, 0).train;
    let slate: Vec<f32> = train.pairs.iter().filter(|p| p.kind == PairKind::Slate).map(|p| p.weight).collect();
    assert!(slate.iter().all(|w| *w == slate[0]), "nothing is corrected: {slate:?}");
}

#[test]
fn late_impressions_are_not_learnt_from() {
    let slate = |i: usize| {
        let (a, b) = if i.is_multiple_of(2) { ("brown rice", "white rice") } else { ("white rice", "brown rice") };
        vec![slot(a, i % 4 < 2), slot(b, i % 8 >= 6)]
    };
    let records: Vec<Sourced> = (0..6_000).map(|i| impression(i, slate(i))).collect();
    let dataset = made(&records, 0);
    let report = &dataset.report.sources[0];
    assert_eq!(report.held_out_from, Some(10_000 * 4_800));
    assert_eq!(report.n_train + report.n_held_out + report.n_between, 6_000);
    assert!(report.n_train > 3_500 && report.n_held_out > 50 && report.n_between > 500, "{report:?}");
    assert!(dataset.report.n_pairs_on_both_sides > 0, "two texts are all there is");
}

#[test]
fn impossible_settings_are_named_by_their_key() {
    let base = PreferenceConfig::default;
    let cases = [
        (
            PreferenceConfig { split: config::SplitConfig { held_out_percent: 0, ..base().split }, ..base() },
            "preferences.split.held_out_percent is 0",
        ),
        (
            PreferenceConfig { pairs: config::PairConfig { hard_label: 0.5, ..base().pairs }, ..base() },
            "preferences.pairs.hard_label is 0.5",
        ),
        (
            PreferenceConfig { filter: config::FilterConfig { satisfied_secs: 1.0, ..base().filter }, ..base() },
            "preferences.filter.satisfied_secs is 1",
        ),
        (
            PreferenceConfig {
                click_model: crate::click_model::ClickModelConfig { prior_clicks: f64::NAN, ..base().click_model },
                ..base()
            },
            "preferences.click_model.prior_clicks is NaN",
        ),
    ];
    for (config, want) in cases {
        let error = dataset_from_records(&log(), &config, 0).expect_err(want).to_string();
        assert!(error.starts_with(want) && error.contains("expected"), "{error}");
    }
    assert_eq!(base().validate(), Ok(()));
}

#[test]
fn a_teachers_samples_are_candidates_too() {
    let prompt = Prompt::from_query("rice 0");
    let sample = |text: &str| TeacherSample { prompt: prompt.clone(), text: text.into(), score: 2.0 };
    let samples = [sample("how long does rice keep"), sample("sure, here are ideas")];
    let config = PreferenceConfig::default();
    let dataset = dataset_with_teacher(&log(), &samples, &config, 0).expect("valid");
    let texts: Vec<&str> = dataset.train.sft.iter().map(|e| e.suggestion.as_str()).collect();
    assert!(texts.contains(&"how long does rice keep") && !texts.iter().any(|t| t.starts_with("sure")), "{texts:?}");
    assert_eq!(dataset.report.sources[0].distilled.n_gated, 1);
    let asked = |e: &SftExample| e.prompt == prompt;
    assert!(dataset.held_out.sft.iter().any(asked), "the held-out side has the conversation too");
    assert!(!dataset.held_out.sft.iter().any(|e| e.suggestion == "how long does rice keep"), "nobody chose it");
}

/// Lists and next queries have no showings to be pooled with; a teacher's samples for them are chosen among themselves.
#[test]
fn a_teachers_samples_for_a_conversation_without_showings_are_a_pool_of_their_own() {
    let plain = made(&others(), 0);
    let Some(listed) = plain.train.sft.first().cloned() else { panic!("lists are imitated") };
    let Some(judged) = plain.held_out.sft.first().cloned() else { panic!("lists are held out") };
    let sample = |prompt: &Prompt, text: &str| TeacherSample { prompt: prompt.clone(), text: text.into(), score: 1.0 };
    let samples = [
        sample(&listed.prompt, "where is it cheaper"),
        sample(&listed.prompt, &listed.suggestion.to_uppercase()),
        sample(&listed.prompt, "as an ai i cannot know"),
        sample(&judged.prompt, "who sells it"),
    ];
    let taught = dataset_with_teacher(&others(), &samples, &PreferenceConfig::default(), 0).expect("valid");
    assert_eq!(taught.held_out, plain.held_out);
    let new: Vec<&SftExample> = {
        let was_there = |e: &SftExample| plain.train.sft.iter().any(|p| p.suggestion == e.suggestion);
        taught.train.sft.iter().filter(|e| !was_there(e)).collect()
    };
    let [new] = new[..] else { panic!("one new example: {new:?}") };
    assert_eq!((&new.prompt, new.suggestion.as_str()), (&listed.prompt, "where is it cheaper"));
    assert_eq!(new.group, listed.group, "on the side of its conversation when some are set aside");
    let known = taught.train.sft.iter().find(|e| e.suggestion == listed.suggestion).expect("still there");
    assert!(new.weight < known.weight, "nobody clicked it");
}

#[test]
fn a_next_query_that_nobody_understands_alone_is_not_imitated() {
    let conversation = |i: usize, next: &str| {
        let mut prompt = Prompt::from_query(format!("tell me about city {i}"));
        prompt.turns.push(crate::prompt::Turn { role: crate::prompt::Role::Assistant, text: "A fine city.".into() });
        let demonstration = Demonstration { prompt, suggestions: vec![next.into()], label: None };
        Sourced { source: "talks".into(), record: Record::Demonstration(demonstration) }
    };
    let records: Vec<Sourced> = (0..40)
        .map(|i| conversation(i, if i % 2 == 0 { "how does it work" } else { "best month for a visit to portugal" }))
        .collect();
    let train = made(&records, 0).train;
    assert!(!train.sft.is_empty() && train.sft.iter().all(|e| e.suggestion.starts_with("best month")));
}

/// The estimate moves with the prior: options' moves between slots tie every slot, but few clicks stand behind
/// them. What does not move is that the last slot is hardly looked at.
#[test]
#[ignore = "needs ../shared/data"]
fn the_real_panes_tie_every_slot_but_say_little_of_the_middle_ones() {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");
    let root = std::env::var("BECKON_DATA").unwrap_or_else(|_| beside.into());
    let bytes = std::fs::read(format!("{root}/mimics-duo/panes.jsonl")).expect("the panes");
    let records = crate::import::parse(crate::import::Format::MimicsDuo, &bytes).records;
    for prior_clicks in [0.05, 0.2, 0.5, 1.0, 2.0] {
        let click_model = crate::click_model::ClickModelConfig { prior_clicks, ..Default::default() };
        let config = PreferenceConfig { click_model, ..PreferenceConfig::default() };
        let report = dataset_from_records(&records, &config, 0).expect("no leak").report;
        println!("prior of {prior_clicks} clicks: {}", report.lines().join("; "));
        let Some(SlotReport::Estimated { slots, .. }) = &report.sources[0].slots else { panic!("{report:?}") };
        let interval = |k: usize| slots[k].interval.expect("224 queries");
        assert!(interval(4).1 < 0.3, "the last slot: {:?}", slots[4]);
        assert!(prior_clicks > 0.1 || (1..4).all(|k| interval(k).1 > 1.0), "moves alone: {slots:?}");
    }
}
