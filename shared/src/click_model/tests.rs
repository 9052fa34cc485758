//! Property test 7: known examination is found again, and refused where no item moves.

use super::*;
use crate::click::{Impression, Slot};
use crate::metrics::assert_close;
use crate::prompt::Prompt;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const THETA: [f64; 3] = [1.0, 0.7, 0.5];
const N_ITEMS: usize = 30;

/// How a slate is put in order.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Shuffled,
    BestFirst,
    /// Every item has its slot.
    Fixed,
}

/// `n` slates of three out of 30 items with attractions 0.05 to 0.5, clicks by the position model.
fn simulate(n: usize, order: Order, seed: u64) -> ClickLog {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let gamma: Vec<f64> = (0..N_ITEMS).map(|i| 0.05 + 0.45 * i as f64 / (N_ITEMS - 1) as f64).collect();
    let mut items: Vec<usize> = (0..N_ITEMS).collect();
    let slates: Vec<(usize, Vec<(usize, bool)>)> = (0..n)
        .map(|s| {
            items.shuffle(&mut rng);
            let mut chosen: Vec<usize> = match order {
                Order::Fixed => (0..3).map(|k| 3 * (items[k] / 3) + k).collect(),
                _ => items[..3].to_vec(),
            };
            if order == Order::BestFirst {
                chosen.sort_unstable_by(|a, b| b.cmp(a));
            }
            let slots = (0..3).map(|k| (chosen[k], rng.random::<f64>() < THETA[k] * gamma[chosen[k]])).collect();
            (s % 1_000, slots)
        })
        .collect();
    ClickLog::from_slates(slates)
}

fn config(kind: ClickModelKind, n_resamples: usize) -> ClickModelConfig {
    ClickModelConfig { kind, n_resamples, ..ClickModelConfig::default() }
}

#[test]
fn property_7_the_position_model_finds_examination() {
    for (order, tol) in [(Order::Shuffled, 0.02), (Order::BestFirst, 0.03)] {
        let log = simulate(100_000, order, 7);
        let fitted = fit(&log, &[], &config(ClickModelKind::Position, 0), 1).expect("items move");
        for (slot, want) in fitted.slots.iter().zip(THETA) {
            assert_close("theta", slot.theta, want, tol);
        }
        assert_close("attraction", fitted.attraction[N_ITEMS - 1], 0.5, 0.03);
    }
}

#[test]
fn property_7_items_that_never_move_are_refused_and_em_would_return_its_start() {
    let log = simulate(100_000, Order::Fixed, 7);
    for kind in [ClickModelKind::Choice, ClickModelKind::Position, ClickModelKind::Trust] {
        let error = fit(&log, &[], &config(kind, 0), 1).expect_err("nothing moves");
        assert_eq!(
            error,
            ClickModelError::NotIdentified { rank: 0, needed: 2, groups: "slot 0 | slot 1 | slot 2".into() }
        );
        assert!(error.to_string().contains("random order"), "{error}");
    }
    // two starts end in two places, each near where it began: the data do not choose
    let cells = log.cells(&log.equal_weights());
    let from = |theta: f64| PositionModel { theta: vec![1.0, theta, theta], ..PositionModel::start(3, N_ITEMS) };
    let (high, low) = (from(0.9).fitted(&cells, 0.0).theta, from(0.4).fitted(&cells, 0.0).theta);
    for k in 1..3 {
        assert_close("theta stays near its start", high[k], 0.9, 0.1);
        assert_close("theta stays near its start", low[k], 0.4, 0.1);
    }
    assert!(fit(&log, &[], &config(ClickModelKind::Cascade, 0), 1).is_ok(), "a cascade needs no moves");
}

#[test]
fn one_moving_item_ties_two_slots_but_not_the_third() {
    let fixed = |k: usize| vec![(k, true), (k + 10, false), (k + 20, false)];
    let mut slates: Vec<_> = (0..10).map(|k| (k, fixed(k))).collect();
    slates.push((10, vec![(10, true), (0, false), (20, false)]));
    let error = fit(&ClickLog::from_slates(slates), &[], &config(ClickModelKind::Position, 0), 1);
    let Err(ClickModelError::NotIdentified { rank, needed, groups }) = error else { panic!("{error:?}") };
    assert_eq!((rank, needed, groups.as_str()), (1, 2, "slots 0, 1 | slot 2"));
}

#[test]
fn intervals_cover_the_truth_and_shrink_with_data() {
    let width = |n: usize| {
        let log = simulate(n, Order::Shuffled, 3);
        let fitted = fit(&log, &[], &config(ClickModelKind::Position, 60), 5).expect("items move");
        let (low, high) = fitted.slots[1].interval.expect("1,000 users");
        assert!(low < fitted.slots[1].theta && fitted.slots[1].theta < high);
        assert!((low - 0.05..high + 0.05).contains(&0.7), "{low} to {high}");
        assert_eq!(fitted.slots[0].interval, Some((1.0, 1.0)), "the gauge has no spread");
        high - low
    };
    let (few, many) = (width(4_000), width(40_000));
    assert!(many < 0.5 * few, "{few} to {many}");
}

#[test]
fn the_same_seed_gives_the_same_interval() {
    let log = simulate(3_000, Order::Shuffled, 3);
    for kind in [ClickModelKind::Choice, ClickModelKind::Trust, ClickModelKind::Cascade] {
        let of = |seed| fit(&log, &[], &config(kind, 20), seed).expect("fits").slots;
        assert_eq!(of(1), of(1));
        assert_ne!(of(1)[1].interval, of(2)[1].interval);
    }
}

#[test]
fn the_choice_model_agrees_where_clicks_are_rare() {
    // with attractions of a few percent one-click and several-click worlds look alike
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut items: Vec<usize> = (0..N_ITEMS).collect();
    let slates: Vec<_> = (0..200_000)
        .map(|s| {
            items.shuffle(&mut rng);
            let click = |k: usize, i: usize| THETA[k] * (0.01 + 0.002 * i as f64);
            (s % 1_000, (0..3).map(|k| (items[k], rng.random::<f64>() < click(k, items[k]))).collect())
        })
        .collect();
    let fitted = fit(&ClickLog::from_slates(slates), &[], &config(ClickModelKind::Choice, 0), 1).expect("items move");
    for (slot, want) in fitted.slots.iter().zip(THETA) {
        assert_close("v", slot.theta, want, 0.05);
    }
}

#[test]
fn a_log_without_clicks_is_refused() {
    let log = ClickLog::from_slates([(0, vec![(0, false), (1, false)])]);
    let error = fit(&log, &[], &config(ClickModelKind::Choice, 0), 1).expect_err("no click");
    assert!(error.to_string().contains("1 slates"), "{error}");
    let one_user = ClickLog::from_slates([(0, vec![(0, true), (1, false)]), (0, vec![(1, true), (0, false)])]);
    let fitted = fit(&one_user, &[], &config(ClickModelKind::Choice, 20), 1).expect("items move");
    assert_eq!(fitted.slots[1].interval, None);
}

#[test]
fn impressions_share_items_as_the_key_says() {
    let slot = |text: &str, visible| Slot {
        text: text.into(),
        propensity: None,
        visible,
        clicked: false,
        dwell_secs: None,
        followed_up: None,
    };
    let impression = |user: &str, query: &str, slate: Vec<Slot>| Impression {
        impression_id: format!("{user}{query}"),
        user_hash: user.into(),
        time_millis: 0,
        prompt: Prompt::from_query(query),
        slate,
        policy: None,
        checkpoint: None,
        experiment: None,
        arm: None,
        simulated: false,
    };
    let rows = [
        impression("u", "Rice!", vec![slot("Brown rice", None), slot("out of view", Some(false))]),
        impression("v", "rice", vec![slot("white", None), slot("brown  rice", Some(true))]),
        impression("v", "beans", vec![slot("brown rice", None)]),
        impression("w", "beans", vec![slot("unseen", Some(false))]),
    ];
    let rows: Vec<&Impression> = rows.iter().collect();
    let n_items = |key| ClickLog::new(&rows, key, ContextKey::Conversation).0.n_items;
    assert_eq!((n_items(ItemKey::Suggestion), n_items(ItemKey::Text), n_items(ItemKey::Context)), (3, 2, 2));
    let (log, index) = ClickLog::new(&rows, ItemKey::Suggestion, ContextKey::Conversation);
    assert_eq!((log.slates.len(), log.n_users, log.n_slots), (3, 2, 2));
    let context = ContextKey::Conversation.of(&Prompt::from_query("RICE"));
    let item = index.get(ItemKey::Suggestion, &context, "brown rice");
    assert_eq!(item, Some(log.slates[0].shown[0].item));
    assert_eq!(item, Some(log.slates[1].shown[1].item));
    assert_eq!(ContextKey::Query.of(&rows[2].prompt), "beans");
}
