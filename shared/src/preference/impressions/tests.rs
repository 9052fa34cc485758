//! Clicks for the place do not count for the suggestion where the click model is that of trust.

use crate::click::{Impression, Record, Slot, Sourced};
use crate::click_model::{ClickModelConfig, ClickModelKind};
use crate::preference::{Pair, PairKind, PreferenceConfig, dataset_from_records};
use crate::prompt::Prompt;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// P(click) in slot 0 is γ, in slot 1 0.5 γ + 0.25.
const ALPHA: [f64; 2] = [1.0, 0.5];
const BETA: [f64; 2] = [0.0, 0.25];

/// Every other slate is a good suggestion above a bad one that is only clicked for its place; the others are two of four
/// that move, by which the slots are known.
fn log() -> Vec<Sourced> {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let mut moving = [("first mover", 0.1), ("second mover", 0.3), ("third mover", 0.5), ("fourth mover", 0.7)];
    let mut slate = |i: usize| -> Vec<Slot> {
        moving.shuffle(&mut rng);
        let shown = if i.is_multiple_of(2) { [("good one", 0.4), ("bad one", 0.0)] } else { [moving[0], moving[1]] };
        let slot = |(k, (text, gamma)): (usize, (&str, f64))| {
            let clicked = rng.random::<f64>() < ALPHA[k] * gamma + BETA[k];
            let (text, dwell_secs) = (text.to_owned(), clicked.then_some(20.0));
            Slot { text, propensity: None, visible: None, clicked, dwell_secs, followed_up: None }
        };
        shown.into_iter().enumerate().map(slot).collect()
    };
    let record = |i: usize| {
        Record::Impression(Impression {
            impression_id: format!("i{i}"),
            user_hash: format!("u{}", i % 397),
            time_millis: 10_000 * i as i64,
            prompt: Prompt::from_query("rice"),
            slate: slate(i),
            policy: None,
            checkpoint: None,
            experiment: None,
            arm: None,
            simulated: false,
        })
    };
    (0..4_800).map(record).map(|record| Sourced { source: "log".into(), record }).collect()
}

#[test]
fn clicks_for_the_place_are_taken_out_of_rates_pairs_and_examples() {
    let click_model = ClickModelConfig { kind: ClickModelKind::Trust, n_resamples: 0, ..ClickModelConfig::default() };
    let config = PreferenceConfig { click_model, ..PreferenceConfig::default() };
    let train = dataset_from_records(&log(), &config, 0).expect("valid settings").train;
    let of = |kind: PairKind, chosen: &str| -> Vec<&Pair> {
        let both = |p: &&Pair| p.chosen.ends_with("one") && p.rejected.ends_with("one");
        train.pairs.iter().filter(|p| p.kind == kind && p.chosen.starts_with(chosen)).filter(both).collect()
    };
    // by examination alone the bad one's rate would be 0.25/0.5, above the good one's 0.4
    assert_eq!((of(PairKind::Rate, "good").len(), of(PairKind::Rate, "bad").len()), (1, 0));
    let weight = |chosen: &str| of(PairKind::Slate, chosen).iter().map(|p| f64::from(p.weight)).sum::<f64>();
    let (good, bad) = (weight("good"), weight("bad"));
    assert!(good > 2.0 * bad, "good over bad {good}, bad over good {bad}");
}
