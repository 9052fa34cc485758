//! Each reason finds its impression and no other.

use super::*;
use crate::click::Slot;
use crate::prompt::Prompt;

fn impression(id: &str, user: &str, millis: i64, clicked: bool) -> Impression {
    let slot = |text: &str, clicked| Slot {
        text: text.into(),
        propensity: None,
        visible: None,
        clicked,
        dwell_secs: None,
        followed_up: None,
    };
    Impression {
        impression_id: id.into(),
        user_hash: user.into(),
        time_millis: millis,
        prompt: Prompt::from_query("rice"),
        slate: vec![slot("brown", clicked), slot("white", false)],
        policy: None,
        checkpoint: None,
        experiment: None,
        arm: None,
        simulated: false,
    }
}

fn run(rows: &[Impression], config: &FilterConfig) -> (Vec<String>, Filtered) {
    let rows: Vec<&Impression> = rows.iter().collect();
    let (kept, filtered) = kept(&rows, config);
    (kept.iter().map(|i| i.impression_id.clone()).collect(), filtered)
}

#[test]
fn what_was_never_in_view_is_left_out() {
    let mut hidden = impression("a", "u", 0, false);
    hidden.slate.iter_mut().for_each(|s| s.visible = Some(false));
    let mut half = impression("b", "u", 9_000, false);
    half.slate[0].visible = Some(false);
    let (ids, filtered) = run(&[hidden, half], &FilterConfig::default());
    assert_eq!((ids, filtered.n_not_visible, filtered.n_kept), (vec!["b".to_owned()], 1, 1));
}

#[test]
fn a_refresh_is_dropped_and_its_click_kept() {
    let rows = [
        impression("a", "u", 0, false),
        impression("b", "u", 1_900, true),
        // within two seconds of the refresh before it
        impression("c", "u", 3_500, false),
        impression("d", "u", 9_000, false),
        impression("e", "v", 9_100, false),
    ];
    let (ids, filtered) = run(&rows, &FilterConfig::default());
    assert_eq!((ids, filtered.n_refresh), (vec!["b".into(), "d".into(), "e".into()], 2));
    let none = FilterConfig { refresh_secs: 0.0, ..FilterConfig::default() };
    assert_eq!(run(&rows, &none).1.n_refresh, 0);
    let mut other = impression("b", "u", 1_900, true);
    other.slate[1].text = "wild".into();
    assert_eq!(run(&[rows[0].clone(), other], &FilterConfig::default()).1.n_refresh, 0);
}

#[test]
fn more_clicks_a_minute_than_a_hand_makes_is_a_bot() {
    let mut rows: Vec<Impression> =
        (0..51i64).map(|i| impression(&format!("bot{i}"), "bot", 3_000 + i * 1_000, true)).collect();
    // as many, but over an hour
    rows.extend((0..51i64).map(|i| impression(&format!("u{i}"), "u", i * 70_000, true)));
    for row in &mut rows {
        row.slate[1].text = row.impression_id.clone();
    }
    let (ids, filtered) = run(&rows, &FilterConfig::default());
    assert_eq!((filtered.n_bot, filtered.n_bot_users, filtered.n_kept), (51, 1, 51));
    assert!(ids.iter().all(|id| id.starts_with('u')));
    let lenient = FilterConfig { bot_clicks_per_minute: 51, ..FilterConfig::default() };
    assert_eq!(run(&rows, &lenient).1.n_bot_users, 0);
}

#[test]
fn from_a_thousand_users_on_the_busiest_thousandth_is_a_bot() {
    let of = |n_users: usize| {
        let mut rows: Vec<Impression> =
            (0..n_users).map(|u| impression(&format!("i{u}"), &format!("u{u}"), 0, true)).collect();
        // 20 clicks in one minute: below the fixed limit, above everyone else
        for i in 0..20i64 {
            let mut row = impression(&format!("busy{i}"), "busy", i * 2_500, true);
            row.slate[1].text = format!("text {i}");
            rows.push(row);
        }
        run(&rows, &FilterConfig::default()).1.n_bot_users
    };
    assert_eq!((of(1_500), of(500)), (1, 0));
}

#[test]
fn the_order_of_impressions_changes_nothing() {
    let mut rows: Vec<Impression> =
        (0..40i64).map(|i| impression(&format!("{i}"), &format!("u{}", i % 3), i * 900, i % 7 == 0)).collect();
    rows.push(rows[5].clone());
    let before = run(&rows, &FilterConfig::default());
    assert_eq!(before.1.n_same_id, 1);
    rows.reverse();
    assert_eq!(run(&rows, &FilterConfig::default()), before);
}
