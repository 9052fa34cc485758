//! Agreement with PyPI `gbstats` 0.8.0 on the same data: Welch's test of proportions, means and ratio metrics,
//! CUPED, the asymptotic confidence sequence, sample ratios, and the Bayesian posterior. The answers stand in
//! `gbstats/agreement.json`, written by `gbstats/generate.py`; real data are read from `../shared/data`.

use beckon_shared::ab::estimate::{Effect, Estimate};
use beckon_shared::ab::moments::{Moments, Totals};
use beckon_shared::ab::posterior::{Posterior, Prior};
use beckon_shared::ab::sample_ratio::SampleRatio;
use beckon_shared::ab::sequential::Mixture;
use beckon_shared::ab::{Interval, cuped, fixed};
use beckon_shared::metrics::assert_close;
use serde_json::Value;
use std::collections::BTreeMap;

const ALPHA: f64 = 0.05;
/// Relative to the answer's size.
const TOLERANCE: f64 = 1e-8;

fn answers() -> Value {
    serde_json::from_str(include_str!("gbstats/agreement.json")).expect("JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("a number, not {value}"))
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(number).collect()
}

fn cases<'a>(answers: &'a Value, name: &str) -> &'a [Value] {
    let cases = answers[name].as_array().expect("a list");
    assert!(!cases.is_empty(), "no {name}");
    cases
}

#[track_caller]
fn agree(name: &str, got: f64, want: &Value) {
    let want = number(want);
    // their p-values are 1 - cdf, exact to 1e-16 only
    assert_close(name, got, want, TOLERANCE * want.abs() + 1e-14);
}

#[track_caller]
fn agree_on_interval(name: &str, got: Interval, want: &Value) {
    // ends near 0 are differences of larger numbers
    let slack = TOLERANCE * (got.high - got.low);
    assert_close(&format!("{name}, low"), got.low, number(&want[0]), slack);
    assert_close(&format!("{name}, high"), got.high, number(&want[1]), slack);
}

/// gbstats tunes by equation 161 of the paper: one step of the fixed point that `narrowest_ratio` solves.
fn their_mixture(tuning: f64) -> Mixture {
    let x = -2.0 * ALPHA.ln();
    Mixture { rho2: (x + x.ln_1p()) / tuning }
}

fn agree_on_everything(name: &str, control: &Estimate, treatment: &Estimate, want: &Value, prior_std_dev: f64) {
    let lift = Effect::lift(control, treatment);
    for (kind, effect) in [("absolute", Effect::difference(control, treatment)), ("relative", lift)] {
        let (want, name) = (&want[kind], format!("{name}, {kind}"));
        agree(&format!("{name}: estimate"), effect.estimate, &want["estimate"]);
        agree(&format!("{name}: error"), effect.std_error(), &want["std_error"]);
        agree(&format!("{name}: dof"), effect.dof, &want["dof"]);
        agree(&format!("{name}: p"), fixed::p_value(&effect, 0.0), &want["p"]);
        agree_on_interval(&format!("{name}: interval"), fixed::interval(&effect, ALPHA), &want["ci"]);
        for look in cases(want, "sequential") {
            let mixture = their_mixture(number(&look["tuning"]));
            agree(&format!("{name}: running p"), mixture.p_value(&effect, 0.0), &look["p"]);
            agree_on_interval(&format!("{name}: sequence"), mixture.interval(&effect, ALPHA), &look["ci"]);
        }
    }
    for (kind, prior) in [("flat", None), ("normal", Some(Prior { mean: 0.0, std_dev: prior_std_dev }))] {
        let (posterior, want, name) = (Posterior::of(&lift, prior), &want[kind], format!("{name}, {kind} prior"));
        agree(&format!("{name}: chance to win"), posterior.probability_to_win(), &want["chance"]);
        agree(&format!("{name}: mean"), posterior.mean, &want["mean"]);
        agree_on_interval(&format!("{name}: interval"), posterior.interval(ALPHA), &want["ci"]);
        // theirs come from a truncated normal and cancel in the tail
        for (side, got) in [("control", posterior.loss_of_control()), ("treatment", posterior.loss_of_treatment())] {
            let want = number(&want[format!("loss_of_{side}")]);
            assert_close(&format!("{name}: loss of {side}"), got, want, 1e-9 + 1e-6 * want);
        }
    }
}

fn binomial(arm: &Value) -> Estimate {
    let counts = numbers(arm);
    Estimate::binomial(counts[1], counts[0])
}

#[test]
fn proportions() {
    let answers = answers();
    for (i, case) in cases(&answers, "counts").iter().enumerate() {
        let prior = number(&answers["prior_std_dev"]);
        agree_on_everything(&format!("case {i}"), &binomial(&case["a"]), &binomial(&case["b"]), &case["want"], prior);
    }
}

/// Rows of clicks, impressions, past clicks, past impressions into the totals of a metric.
fn users(arm: &Value, totals: impl Fn(&[f64]) -> Totals) -> Moments {
    Moments::of(arm.as_array().expect("rows").iter().map(|row| totals(&numbers(row))))
}

#[test]
fn ratios_means_and_cuped_from_rows_of_users() {
    let answers = answers();
    let prior = number(&answers["prior_std_dev"]);
    let ratio = |row: &[f64]| Totals { numerator: row[0], denominator: row[1], ..Totals::default() };
    let mean =
        |row: &[f64]| Totals { numerator: row[0], denominator: 1.0, pre_numerator: row[2], pre_denominator: 1.0 };
    let mut most = 0.0f64;
    for (i, case) in cases(&answers, "rows").iter().enumerate() {
        let of = |totals: &dyn Fn(&[f64]) -> Totals| (users(&case["a"], totals), users(&case["b"], totals));
        let (a, b) = of(&ratio);
        let name = format!("rows {i}, ratio");
        agree_on_everything(&name, &Estimate::ratio(&a), &Estimate::ratio(&b), &case["ratio"], prior);
        let (a, b) = of(&mean);
        let name = format!("rows {i}, mean");
        agree_on_everything(&name, &Estimate::ratio(&a), &Estimate::ratio(&b), &case["mean"], prior);
        let adjusted = cuped::adjust(&a, &b).expect("a past");
        most = adjusted.variance_reduction.max(most);
        agree_on_everything(&format!("rows {i}, CUPED"), &adjusted.control, &adjusted.treatment, &case["cuped"], prior);
    }
    assert!(most > 0.05, "no case in which the past explains anything: {most}");
}

#[test]
fn sample_ratios() {
    let answers = answers();
    for case in cases(&answers, "sample_ratios") {
        let n_users: Vec<u64> = numbers(&case["users"]).iter().map(|n| *n as u64).collect();
        let ratio = SampleRatio::test(&n_users, &numbers(&case["weights"])).expect("arms");
        agree(&format!("{n_users:?}"), ratio.p_value.expect("large cells"), &case["p"]);
    }
}

fn table(file: &str) -> Vec<BTreeMap<String, String>> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");
    let root = std::env::var("BECKON_DATA").unwrap_or_else(|_| beside.into());
    let mut reader = csv::Reader::from_path(format!("{root}/{file}")).expect(file);
    reader.deserialize().map(|row| row.expect("a row")).collect()
}

fn cell(row: &BTreeMap<String, String>, column: &str) -> f64 {
    row[column].parse().expect(column)
}

#[test]
#[ignore = "needs ../shared/data"]
fn upworthy_headlines() {
    let (answers, rows) = (answers(), table("upworthy/upworthy.csv"));
    let arm = |row: &Value| {
        let row = &rows[row.as_u64().expect("a row number") as usize];
        Estimate::binomial(cell(row, "clicks"), cell(row, "impressions"))
    };
    for case in cases(&answers, "upworthy") {
        let (a, b) = (&case["rows"][0], &case["rows"][1]);
        let prior = number(&answers["prior_std_dev"]);
        agree_on_everything(&format!("rows {a} and {b}"), &arm(a), &arm(b), &case["want"], prior);
    }
}

/// A user is all rows with the same four features: clustered, as impressions of real users are.
#[test]
#[ignore = "needs ../shared/data"]
fn open_bandit_click_rate_over_users() {
    let answers = answers();
    let want = &answers["open_bandit"];
    let arms: Vec<Moments> = ["random_men", "bts_men"]
        .iter()
        .map(|policy| {
            let mut users: BTreeMap<Vec<String>, Totals> = BTreeMap::new();
            for row in table(&format!("open-bandit-men/{policy}.csv")) {
                let features = (0..4).map(|i| row[&format!("user_feature_{i}")].clone()).collect();
                let user = users.entry(features).or_default();
                user.numerator += cell(&row, "click");
                user.denominator += 1.0;
            }
            Moments::of(users.into_values())
        })
        .collect();
    assert_eq!(numbers(&want["n_users"]), [arms[0].n() as f64, arms[1].n() as f64]);
    let (control, treatment) = (Estimate::ratio(&arms[0]), Estimate::ratio(&arms[1]));
    agree_on_everything("users", &control, &treatment, &want["want"], number(&answers["prior_std_dev"]));
}
