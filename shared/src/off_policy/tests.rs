use super::slate::{cascade_weights, independent, pseudo_inverse_weight};
use super::*;
use crate::ctr::Beta;
use crate::metrics::assert_close;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

fn t8() -> Log {
    let logging = [0.5, 0.25, 0.25, 0.1, 0.4];
    let policy = [0.2, 0.5, 0.1, 0.3, 0.4];
    let rewards = [0.0, 1.0, 0.0, 1.0, 0.0];
    let predicted = [0.1, 0.4, 0.05, 0.6, 0.2];
    let of_policy = [0.15, 0.35, 0.12, 0.5, 0.22];
    let round = |i: usize| Round {
        logging_propensity: logging[i],
        propensity: policy[i],
        reward: rewards[i],
        predicted: predicted[i],
        predicted_policy: of_policy[i],
    };
    Log::new((0..5).map(round).collect()).expect("valid rounds")
}

#[test]
fn oracle_t8() {
    let log = t8();
    for (got, want) in log.weights().iter().zip([0.4, 2.0, 0.4, 3.0, 1.0]) {
        assert_close("w", *got, want, 1e-12);
    }
    let rows = [
        ("IPS", log.ips(), 1.0, Some(0.632455532)),
        ("SNIPS", log.snips(), 0.735294118, Some(0.187439002)),
        ("DM", log.direct(), 0.268, None),
        ("DR", log.doubly_robust(), 0.696, Some(0.380323546)),
        ("SNDR", log.self_normalised_doubly_robust(), 0.582705882, None),
        // w = 2 is kept
        ("Switch-DR", log.switch_doubly_robust(2.0), 0.456, None),
        ("DRos", log.shrunk_doubly_robust(1.0), 0.309655172, None),
        ("clipped IPS", log.clipped_ips(2.0), 0.8, None),
    ];
    for (name, value, want, std_error) in rows {
        assert_close(name, value.estimate, want, 1e-9);
        if let Some(want) = std_error {
            assert_close(&format!("{name} error"), value.std_error, want, 1e-9);
        }
    }
    assert_close("ESS", log.overlap().effective, 3.229050279, 1e-9);
    assert!(!log.overlap().is_evaluable(), "five rounds are no evidence");
}

#[test]
fn oracle_t8_slate() {
    let (weights, clicks) = ([1.5, 0.5, 2.0], [0.0, 0.0, 1.0]);
    assert_close("PI", pseudo_inverse_weight(&weights), 2.0, 1e-12);
    assert_close("IIPS", independent(&weights, &clicks), 2.0, 1e-12);
    assert_close("RIPS", cascade_weights(&weights)[2], 1.5, 1e-12);
}

fn random_log(n: usize, seed: u64) -> Vec<Round> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut round = || Round {
        logging_propensity: rng.random_range(0.05..1.0),
        propensity: rng.random_range(0.0..1.0),
        reward: f64::from(u8::from(rng.random_bool(0.3))),
        predicted: rng.random_range(0.0..1.0),
        predicted_policy: rng.random_range(0.0..1.0),
    };
    (0..n).map(|_| round()).collect()
}

/// Property test 6: SNIPS of r + c, minus c, is SNIPS of r; IPS is not so.
#[test]
fn a_shift_of_rewards_passes_through_snips_but_not_through_ips() {
    let rounds = random_log(500, 6);
    let shifted = rounds.iter().map(|r| Round { reward: r.reward + 5.0, ..*r }).collect();
    let (log, shifted) = (Log::new(rounds).unwrap(), Log::new(shifted).unwrap());
    assert_close("SNIPS", shifted.snips().estimate - 5.0, log.snips().estimate, 1e-12);
    assert!((shifted.ips().estimate - 5.0 - log.ips().estimate).abs() > 0.01);
}

/// The estimators that have limits reach them.
#[test]
fn limits_of_switch_and_shrinkage() {
    let log = Log::new(random_log(200, 7)).unwrap();
    let (direct, robust) = (log.direct().estimate, log.doubly_robust().estimate);
    assert_close("switch never", log.switch_doubly_robust(f64::MAX).estimate, robust, 1e-12);
    assert_close("switch always", log.switch_doubly_robust(-1.0).estimate, direct, 1e-12);
    assert_close("lambda 0", log.shrunk_doubly_robust(0.0).estimate, direct, 1e-12);
    assert_close("lambda large", log.shrunk_doubly_robust(1e12).estimate, robust, 1e-6);
    assert_close("no clip", log.clipped_ips(f64::MAX).estimate, log.ips().estimate, 1e-12);
}

/// Two contexts, three actions, known click rates: IPS, SNIPS and DR find the truth with a useless q̂, DM does
/// not.
#[test]
fn a_simulated_truth_is_found() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let logging = [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]];
    let policy = [[0.1, 0.3, 0.6], [0.5, 0.4, 0.1]];
    let rate = [[0.1, 0.2, 0.4], [0.5, 0.1, 0.3]];
    let truth: f64 = (0..2).map(|x| (0..3).map(|a| policy[x][a] * rate[x][a]).sum::<f64>() / 2.0).sum();
    let mut draw = || {
        let x = rng.random_range(0..2usize);
        let u: f64 = rng.random();
        let a = if u < logging[x][0] { 0 } else { 2 - usize::from(u < logging[x][0] + logging[x][1]) };
        Round {
            logging_propensity: logging[x][a],
            propensity: policy[x][a],
            reward: f64::from(u8::from(rng.random_bool(rate[x][a]))),
            predicted: 0.9,
            predicted_policy: 0.9,
        }
    };
    let log = Log::new((0..40_000).map(|_| draw()).collect()).unwrap();
    assert!(log.overlap().is_evaluable());
    assert_close("mean weight", log.overlap().weight_mean, 1.0, 0.03);
    for (name, value) in [
        ("IPS", log.ips()),
        ("SNIPS", log.snips()),
        ("DR", log.doubly_robust()),
        ("SNDR", log.self_normalised_doubly_robust()),
    ] {
        assert_close(name, value.estimate, truth, 4.0 * value.std_error);
        assert!(value.std_error < 0.02, "{name}: {value:?}");
    }
    assert!((log.direct().estimate - truth).abs() > 0.3);
}

#[test]
fn impossible_rounds_are_named() {
    let good = random_log(3, 9);
    let mut bad = good.clone();
    bad[1].logging_propensity = 0.0;
    let error = Log::new(bad).unwrap_err();
    assert_eq!(error.to_string(), "round 1: logging propensity is 0; expected above 0, at most 1");
    let mut bad = good;
    bad[2].propensity = f64::NAN;
    assert_eq!(Log::new(bad).unwrap_err().field, "propensity");
}

/// A row of the open-bandit log: item, position, click, propensity.
struct Shown {
    item: usize,
    position: usize,
    click: f64,
    propensity: f64,
}

fn open_bandit(file: &str) -> Vec<Shown> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");
    let root = std::env::var("BECKON_DATA").unwrap_or_else(|_| beside.into());
    let mut reader = csv::Reader::from_path(format!("{root}/open-bandit-men/{file}")).expect(file);
    let header = reader.headers().expect("header").clone();
    let at = |name: &str| header.iter().position(|column| column == name).expect("column");
    let columns = [at("item_id"), at("position"), at("click"), at("propensity_score")];
    reader
        .records()
        .map(|record| {
            let record = record.expect("a row");
            let number = |i: usize| record[columns[i]].parse::<f64>().expect("a number");
            Shown { item: number(0) as usize, position: number(1) as usize, click: number(2), propensity: number(3) }
        })
        .collect()
}

const N_ITEMS: usize = 34;
const N_FOLDS: usize = 5;

/// The log of one policy, prepared to evaluate another whose probability of an item at a position is `policy`;
/// q̂ is the smoothed click rate of an item, fitted on the other folds.
fn evaluated(shown: &[Shown], policy: impl Fn(usize, usize) -> f64) -> Log {
    let fold_rates: Vec<[f64; N_ITEMS]> = (0..N_FOLDS)
        .map(|fold| {
            let mut counts = [(0.0, 0.0); N_ITEMS];
            for (_, row) in shown.iter().enumerate().filter(|(i, _)| i % N_FOLDS != fold) {
                counts[row.item].0 += row.click;
                counts[row.item].1 += 1.0;
            }
            let prior = Beta::fit(&counts);
            counts.map(|(clicks, n)| prior.observe(clicks, n).mean())
        })
        .collect();
    let rounds = shown.iter().enumerate().map(|(i, row)| {
        let rates = &fold_rates[i % N_FOLDS];
        Round {
            logging_propensity: row.propensity,
            propensity: policy(row.item, row.position),
            reward: row.click,
            predicted: rates[row.item],
            predicted_policy: (0..N_ITEMS).map(|item| policy(item, row.position) * rates[item]).sum(),
        }
    });
    Log::new(rounds.collect()).expect("valid rounds")
}

/// Real logs of two policies on one page: each is estimated from the other's log and compared with what it
/// really got. `--nocapture` prints the table that stands in EXPERIMENTS.md.
#[test]
#[ignore = "needs ../shared/data"]
fn open_bandit_policies_are_estimated_from_each_others_log() {
    let (random, bts) = (open_bandit("random_men.csv"), open_bandit("bts_men.csv"));
    assert_eq!((random.len(), bts.len()), (10_000, 10_000));
    let on_policy = |shown: &[Shown]| mean_and_std_error(&shown.iter().map(|row| row.click).collect::<Vec<_>>());
    // BTS does not look at the user: over the log's time its choice at a position is the share that an item had
    // there
    let mut n_at: BTreeMap<usize, f64> = BTreeMap::new();
    bts.iter().for_each(|row| *n_at.entry(row.position).or_default() += 1.0);
    let mut share: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    bts.iter().for_each(|row| *share.entry((row.item, row.position)).or_default() += 1.0 / n_at[&row.position]);
    let bts_policy = |item, position| share.get(&(item, position)).copied().unwrap_or(0.0);
    let cases = [
        ("random from the log of BTS", evaluated(&bts, |_, _| 1.0 / N_ITEMS as f64), on_policy(&random)),
        ("BTS from the log of random", evaluated(&random, bts_policy), on_policy(&bts)),
    ];
    for (name, log, (truth, truth_error)) in &cases {
        let overlap = log.overlap();
        println!("{name}: on-policy {truth:.5} ± {truth_error:.5}; {overlap:?}, evaluable {}", overlap.is_evaluable());
        for (estimator, value) in [
            ("IPS", log.ips()),
            ("clipped IPS, 5", log.clipped_ips(5.0)),
            ("SNIPS", log.snips()),
            ("DM", log.direct()),
            ("DR", log.doubly_robust()),
            ("SNDR", log.self_normalised_doubly_robust()),
            ("Switch-DR, 5", log.switch_doubly_robust(5.0)),
            ("DRos, 5", log.shrunk_doubly_robust(5.0)),
        ] {
            println!("  {estimator:15} {:.5} ± {:.5}", value.estimate, value.std_error);
            // the standard error of DM knows nothing of the error of q̂, which here is that of another policy's
            // log
            if overlap.is_evaluable() && estimator != "DM" {
                let both = (value.std_error.powi(2) + truth_error.powi(2)).sqrt();
                assert_close(&format!("{name}, {estimator}"), value.estimate, *truth, 3.0 * both);
            }
        }
    }
    assert!(cases.iter().any(|(_, log, _)| log.overlap().is_evaluable()), "nothing was compared");
}
