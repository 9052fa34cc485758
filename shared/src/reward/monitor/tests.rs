//! Each alarm holds where it should and nowhere else; the best gold is remembered.

use super::*;
use crate::metrics::assert_close;

const BASE: Baseline = Baseline { distinct_2: 0.5, n_tokens_mean: 8.0, opening_share: 0.2, epistemic_std_p99: 0.6 };

fn reading(step: usize) -> Reading {
    Reading {
        step,
        proxy: 0.0,
        gold: None,
        kl_share: 1.0,
        distinct_2: 0.5,
        n_tokens_mean: 8.0,
        opening_share: 0.2,
        epistemic_std_mean: 0.3,
    }
}

#[test]
fn a_run_like_sft_is_quiet() {
    let mut monitor = Monitor::new(BASE);
    for step in 0..10 {
        assert_eq!(monitor.observe(&reading(step)), []);
    }
    assert_eq!(monitor.best_step(), None);
}

#[test]
fn each_drift_has_its_alarm_at_its_threshold() {
    let of = |change: &dyn Fn(&mut Reading)| {
        let mut r = reading(1);
        change(&mut r);
        Monitor::new(BASE).observe(&r)
    };
    assert_eq!(of(&|r| r.distinct_2 = 0.41), []);
    assert_eq!(of(&|r| r.distinct_2 = 0.39), [Alarm::DiversityFalls]);
    assert_eq!(of(&|r| r.distinct_2 = f64::NAN), [Alarm::DiversityFalls], "no text has two words");
    assert_eq!(of(&|r| r.n_tokens_mean = 9.9), []);
    assert_eq!(of(&|r| r.n_tokens_mean = 10.1), [Alarm::LengthDrifts]);
    assert_eq!(of(&|r| r.n_tokens_mean = 5.9), [Alarm::LengthDrifts]);
    assert_eq!(of(&|r| r.opening_share = 0.39), []);
    assert_eq!(of(&|r| r.opening_share = 0.41), [Alarm::OpeningsRepeat]);
    assert_eq!(of(&|r| r.epistemic_std_mean = 0.61), [Alarm::OutOfDistribution]);
    assert_eq!(of(&|r| r.kl_share = 1.4), []);
    assert_eq!(of(&|r| r.kl_share = 1.6), [Alarm::FarFromReference]);
    assert_eq!(of(&|r| r.proxy = f64::NAN), [Alarm::NotFinite]);
    assert_eq!(of(&|r| r.gold = Some((0.1, f64::INFINITY))), [Alarm::NotFinite]);
}

/// A log in a language without spaces has no pairs of words from the start; the other alarms hold there.
#[test]
fn what_has_no_distinct_words_is_watched_for_the_rest() {
    let mut monitor = Monitor::new(Baseline { distinct_2: f64::NAN, ..BASE });
    let undefined = Reading { distinct_2: f64::NAN, ..reading(1) };
    assert_eq!(monitor.observe(&undefined), []);
    assert_eq!(monitor.observe(&Reading { opening_share: 0.41, ..undefined }), [Alarm::OpeningsRepeat]);
}

/// Alarms of gold and proxy curves, standard error 0.01.
fn curve(gold: &[f64], proxy: impl Fn(usize) -> f64) -> (Vec<usize>, Option<usize>) {
    let mut monitor = Monitor::new(BASE);
    let mut alarmed = Vec::new();
    for (step, gold) in gold.iter().enumerate() {
        let r = Reading { proxy: proxy(step), gold: Some((*gold, 0.01)), ..reading(step) };
        if monitor.observe(&r).contains(&Alarm::GoldFalls) {
            alarmed.push(step);
        }
    }
    (alarmed, monitor.best_step())
}

#[test]
fn gold_that_falls_while_the_proxy_rises_alarms_at_the_third_evaluation() {
    let gold = [0.10, 0.20, 0.25, 0.15, 0.10, 0.05, 0.0, 0.0];
    let rising = |step: usize| step as f64;
    // running means 0.10, 0.15, 0.20, 0.175, 0.1375, 0.094, …: from step 4 on more than two errors below the best
    assert_eq!(curve(&gold, rising), (vec![6, 7], Some(2)));
    // both fall: the policy got worse, it does not cheat
    assert_eq!(curve(&gold, |step| -rising(step)).0, [0usize; 0]);
    // within noise
    assert_eq!(curve(&[0.2, 0.19, 0.2, 0.19, 0.2, 0.19], rising).0, [0usize; 0]);
}

#[test]
fn a_new_best_ends_the_count() {
    let gold = [0.2, 0.1, 0.1, 0.9, 0.9, 0.8, 0.9];
    // the running mean rises from step 3 on
    assert_eq!(curve(&gold, |step| step as f64), (vec![], Some(6)));
}

#[test]
fn a_reading_that_is_no_number_is_not_remembered() {
    let mut monitor = Monitor::new(BASE);
    monitor.observe(&Reading { gold: Some((0.2, 0.01)), ..reading(0) });
    let before = monitor.clone();
    monitor.observe(&Reading { proxy: f64::NAN, gold: Some((9.0, 0.01)), ..reading(1) });
    assert_eq!(monitor, before);
    let json = serde_json::to_string(&monitor).expect("numbers");
    assert_eq!(serde_json::from_str::<Monitor>(&json).ok(), Some(monitor));
}

#[test]
fn openings_are_counted_by_their_first_words() {
    let texts: Vec<String> = (0..30).map(|i| format!("unique{i} word here")).collect();
    assert_close("20 of 30", opening_share(&texts), 2.0 / 3.0, 1e-12);
    let template: Vec<String> = (0..30).map(|i| format!("Best way to cook {i}")).collect();
    assert_close("one template", opening_share(&template), 1.0, 0.0);
    let none: [&str; 0] = [];
    assert_close("none", opening_share(&none), 0.0, 0.0);
}

#[test]
fn every_alarm_says_what_to_do() {
    for alarm in [
        Alarm::GoldFalls,
        Alarm::OutOfDistribution,
        Alarm::DiversityFalls,
        Alarm::LengthDrifts,
        Alarm::OpeningsRepeat,
        Alarm::NotFinite,
    ] {
        assert!(alarm.in_words().contains(':'), "{alarm:?}");
    }
}
