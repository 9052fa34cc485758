//! The world is what it claims: probabilities match a brute-force user, the gold CTR of known policies
//! is checkable by hand, the sample log regenerates byte for byte.

use super::logging::{SAMPLE_IMPRESSIONS, SAMPLE_SEED, SAMPLE_USERS, to_jsonl};
use super::*;
use beckon_shared::metrics::assert_close;
use std::convert::Infallible;

/// Share of `n` draws of `m + s·t + n` above `tau`.
fn monte_carlo_share(mean: f64, spread: f64, tau: f64, n: usize) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let above = (0..n).filter(|_| mean + spread * standard_normal(&mut rng) + standard_normal(&mut rng) > tau).count();
    above as f64 / n as f64
}

#[test]
fn closed_form_ctr_matches_simulated_users() {
    let world = World::new(3);
    let prompt = world.prompts().next().expect("a world has prompts").clone();
    for text in world.suggestions(&prompt).into_iter().step_by(7) {
        let (mean, std) = world.true_mean_and_std(&prompt, text).expect("listed suggestions have a utility");
        let spread = (std * std - 1.0).sqrt();
        let n = 40_000;
        // four standard errors of a share
        let tol = 4.0 * (0.25 / n as f64).sqrt();
        assert_close("ctr", world.true_ctr(&prompt, text), monte_carlo_share(mean, spread, TAU_CLICK, n), tol);
    }
}

#[test]
fn text_outside_the_grammar_or_off_topic_is_never_clicked() {
    let world = World::new(0);
    let prompt = world.prompts().next().expect("a world has prompts").clone();
    let other = Prompt::from_query("how do magnets work");
    assert_eq!(world.true_ctr(&prompt, "anything else"), 0.0);
    assert_eq!(world.true_ctr(&other, "cost of yoga lessons"), 0.0);
    let about = world.situation(&prompt).expect("of the grammar").topic;
    let far = (0..TOPICS.len()).find(|t| *t != about && !grammar::related(about).contains(t)).expect("16 topics");
    assert_eq!(world.true_ctr(&prompt, &grammar::phrases(far)[0].text), 0.0);
    assert!(world.suggestions(&other).is_empty());
}

#[test]
fn texts_and_prompts_are_distinct() {
    let world = World::new(0);
    let n_phrases: usize = world.phrases.iter().map(Vec::len).sum();
    assert_eq!(world.phrase_of.len(), n_phrases);
    assert_eq!(world.situation_of.len(), world.prompts.len());
}

#[test]
fn gold_ctr_of_known_policies() {
    let world = World::new(5);
    let prompts = world.sample_prompts(12, 0);
    // a policy that always writes the first suggestion, half of the time followed by nonsense
    let gold = world
        .gold_ctr(&prompts, |_, texts| {
            Ok::<_, Infallible>(
                (0..texts.len()).map(|i| if i == 0 { 0.5f64.ln() } else { f64::NEG_INFINITY }).collect(),
            )
        })
        .expect("infallible");
    let want = prompts.iter().map(|x| 0.5 * world.true_ctr(x, world.suggestions(x)[0])).sum::<f64>() / 12.0;
    assert_close("gold", gold.ctr, want, 1e-12);
    assert_close("mass", gold.enumerated_mass, 0.5, 1e-12);
    let best = prompts.iter().map(|x| world.best_ctr(x)).sum::<f64>() / 12.0;
    assert!(gold.ctr < best);
}

#[test]
fn logging_policy_is_so_so_and_its_propensities_sum_to_one() {
    for seed in 0..5 {
        let world = World::new(seed);
        let prompts: Vec<Prompt> = world.prompts().cloned().collect();
        let gold = world.gold_ctr_of_logging(&prompts);
        assert_close("mass of one slot", gold.enumerated_mass, 1.0, 1e-9);
        let best = prompts.iter().map(|x| world.best_ctr(x)).sum::<f64>() / prompts.len() as f64;
        assert!((0.05..0.16).contains(&gold.ctr), "seed {seed}: logging CTR {}", gold.ctr);
        assert!(best > 2.0 * gold.ctr, "seed {seed}: best {best}, logging {}", gold.ctr);
    }
}

#[test]
fn log_agrees_with_propensities_examination_and_gold_ctr() {
    let world = World::new(2);
    let n = 30_000;
    let log = world.generate_log(n, 5_000, 9);
    let prompts: Vec<Prompt> = world.prompts().cloned().collect();
    let gold = world.gold_ctr_of_logging(&prompts).ctr;
    for (slot, examination) in EXAMINATION.into_iter().enumerate() {
        let clicks = log.iter().filter(|i| i.slate[slot].clicked).count();
        let want = gold * examination;
        // users' tastes correlate clicks, so the tolerance is wider than binomial
        assert_close("slot ctr", clicks as f64 / n as f64, want, 6.0 * (want / n as f64).sqrt());
    }
    // inverse propensities average to the number of suggestions with any chance
    let mean_inverse =
        log.iter().flat_map(|i| &i.slate).map(|s| 1.0 / s.propensity.expect("recorded")).sum::<f64>() / (3 * n) as f64;
    assert_close("E 1/propensity", mean_inverse / 57.0, 1.0, 0.03);
    assert!(log.windows(2).all(|w| w[0].time_millis < w[1].time_millis));
    assert!(log.iter().all(|i| i.simulated && i.slate.iter().all(|s| s.clicked == s.dwell_secs.is_some())));
    let texts: std::collections::HashSet<_> = log[0].slate.iter().map(|s| &s.text).collect();
    assert_eq!(texts.len(), 3);
}

#[test]
fn sample_log_regenerates() {
    let sample = include_str!("../../assets/sample.jsonl");
    let again = to_jsonl(&World::new(SAMPLE_SEED).generate_log(SAMPLE_IMPRESSIONS, SAMPLE_USERS, SAMPLE_SEED));
    assert!(sample.len() <= 1_500_000, "{} bytes", sample.len());
    assert!(
        sample == again,
        "make it again: beckon simulate --impressions {SAMPLE_IMPRESSIONS} --users {SAMPLE_USERS} --seed {SAMPLE_SEED} --out server/assets/sample.jsonl"
    );
}

#[test]
fn every_suggestion_passes_the_gate() {
    use beckon_shared::reward::gate::{Candidate, Gate};
    let world = World::new(0);
    for prompt in world.prompts() {
        for text in world.suggestions(prompt) {
            let broken = Gate::SLATE.check(prompt, &[Candidate { text, finished: true }]);
            assert_eq!(broken, [None], "{text} after {prompt:?}");
        }
    }
}
