use super::*;
use crate::ab::fixed;
use crate::metrics::assert_close;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn ranking(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_draft_by_hand() {
    let (a, b) = (ranking(&["x", "y", "z"]), ranking(&["x", "w", "y"]));
    let drawn = team_draft(&a, &b, 3, || true);
    let teams: Vec<(&str, Team)> = drawn.iter().map(|placed| (placed.text.as_str(), placed.team)).collect();
    // A takes x; B's best left is w; then A takes y
    assert_eq!(teams, [("x", Team::A), ("w", Team::B), ("y", Team::A)]);
    let clicked = [true, true, true];
    assert_close("credit", credit(&drawn, &clicked), -1.0, 0.0);
    assert_eq!(team_draft(&a, &b, 10, || true).len(), 4, "ends where both run out");
    assert!(team_draft(&[], &[], 3, || true).is_empty());
}

#[test]
fn propensities_are_those_of_the_draw() {
    let (a, b) = (ranking(&["x", "y", "z"]), ranking(&["w", "x", "z"]));
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let slate = team_draft(&a, &b, 3, || rng.random());
    let exact = propensities(&a, &b, &slate);
    let n = 20_000;
    let mut hits = [0u32; 3];
    for _ in 0..n {
        let drawn = team_draft(&a, &b, 3, || rng.random());
        for (hit, (drawn, placed)) in hits.iter_mut().zip(drawn.iter().zip(&slate)) {
            *hit += u32::from(drawn.text == placed.text);
        }
    }
    for (slot, exact) in exact.iter().enumerate() {
        assert!(*exact > 0.0);
        assert_close(&format!("slot {slot}"), f64::from(hits[slot]) / f64::from(n), *exact, 0.015);
    }
}

/// Users of one test; click rates fall by slot, and by the suggestion's quality (its first letter's).
fn run(a: &[String], b: &[String], n_users: usize, quality: impl Fn(&str) -> f64, rng: &mut ChaCha8Rng) -> Vec<Votes> {
    let user = |_| {
        let mut votes = Votes::default();
        for _ in 0..rng.random_range(1..6) {
            let slate = team_draft(a, b, 3, || rng.random());
            let clicked: Vec<bool> = slate
                .iter()
                .enumerate()
                .map(|(slot, placed)| rng.random_bool(quality(&placed.text) / (slot + 1) as f64))
                .collect();
            votes.net += credit(&slate, &clicked);
            votes.n_clicks += clicked.iter().filter(|clicked| **clicked).count() as f64;
        }
        votes
    };
    (0..n_users).map(user).collect()
}

/// Equal rankings under strong position bias: the credit is 0 on average and the test keeps its level.
#[test]
fn equal_policies_are_told_apart_at_the_level_only() {
    let same = ranking(&["x", "y", "z", "v"]);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let n_runs = 1_000;
    let effects: Vec<Effect> = (0..n_runs).map(|_| preference(&run(&same, &same, 300, |_| 0.4, &mut rng))).collect();
    let n_found = effects.iter().filter(|effect| fixed::p_value(effect, 0.0) <= 0.05).count();
    let (mean, error) = crate::metrics::mean_and_std_error(&effects.iter().map(|e| e.estimate).collect::<Vec<_>>());
    assert!(mean.abs() < 3.0 * error, "mean credit {mean} ± {error}");
    // 50 ± 4 standard deviations
    assert!((22..=78).contains(&n_found), "{n_found} of {n_runs}");
}

#[test]
fn a_better_policy_wins() {
    let (a, b) = (ranking(&["poor 1", "poor 2", "fine 1"]), ranking(&["fine 1", "fine 2", "poor 1"]));
    let quality = |text: &str| if text.starts_with("fine") { 0.3 } else { 0.15 };
    let effect = preference(&run(&a, &b, 600, quality, &mut ChaCha8Rng::seed_from_u64(3)));
    assert!(effect.estimate > 0.0 && fixed::p_value(&effect, 0.0) < 1e-3, "{effect:?}");
}
