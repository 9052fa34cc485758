//! Property test 8 of method B.8: linear heads fitted to simulated users find the scale of the truth with two thresholds; with
//! one or none the likelihood says nothing of it (method B.2.3).
//!
//! Dimension key: `F` features; `P` parameters, w and b of mu = w·x + b, then u and c of log v = u·x + c.

use crate::garm::Gaussian;
use crate::garm::anchor::{THRESHOLDS, ordinal_nll};
use crate::garm::normal::{inverse_mills, log_phi};
use crate::garm::pair::pair_nll;
use crate::metrics::{assert_close, mean};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const F: usize = 6;
const P: usize = 2 * F + 2;

type Parameters = [f64; P];

/// Means and spreads both differ from text to text; a text is clicked by about half of the users.
const TRUTH: Parameters = [0.5, -0.4, 0.3, 0.5, -0.2, 0.1, 0.3, 0.4, -0.3, 0.2, -0.1, 0.3, 0.0, -0.3];
/// Small means and equal spreads.
const START: Parameters = [0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];

/// N texts, N pairs of them, and what two other users do with each.
struct Log {
    features: Vec<[f64; F]>,
    /// (preferred, other).
    pairs: Vec<(usize, usize)>,
    /// (text, thresholds that a user's utility passes).
    levels: Vec<(usize, u8)>,
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (a, b): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// mu and log v.
fn heads(parameters: &Parameters, x: &[f64; F]) -> (f64, f64) {
    let along = |head: &[f64]| head.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + head[F];
    (along(&parameters[..=F]), along(&parameters[F + 1..]))
}

fn gaussian((mean, log_variance): (f64, f64)) -> Gaussian {
    Gaussian::new(mean, log_variance.exp())
}

/// `n` texts.
fn simulated(n: usize, seed: u64) -> Log {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let features: Vec<[f64; F]> = (0..n).map(|_| std::array::from_fn(|_| normal(&mut rng))).collect();
    let mut utility = |text: usize| {
        let of_text = gaussian(heads(&TRUTH, &features[text]));
        of_text.mean + of_text.std() * normal(&mut rng)
    };
    let mut log = Log { features: Vec::new(), pairs: Vec::new(), levels: Vec::new() };
    for a in 0..n {
        let b = (a + 1) % n;
        log.pairs.push(if utility(a) > utility(b) { (a, b) } else { (b, a) });
        for _ in 0..2 {
            let u = utility(a);
            log.levels.push((a, THRESHOLDS.iter().map(|tau| u8::from(u > *tau)).sum()));
        }
    }
    log.features = features;
    log
}

/// -log P of whether a user's utility passes the first threshold, with its gradients to mu and log v.
fn threshold_nll(reward: Gaussian, passed: bool) -> (f64, f64, f64) {
    let (sign, sigma) = (if passed { 1.0 } else { -1.0 }, reward.std());
    let z = (reward.mean - THRESHOLDS[0]) / sigma;
    let g = -sign * inverse_mills(sign * z);
    (-log_phi(sign * z), g / sigma, -0.5 * g * z)
}

/// Negative log-likelihood of pairs, and of levels read against so many thresholds, per text, with its gradient.
fn loss(log: &Log, parameters: &Parameters, n_thresholds: usize) -> (f64, Parameters) {
    let outputs: Vec<(f64, f64)> = log.features.iter().map(|x| heads(parameters, x)).collect();
    let rewards: Vec<Gaussian> = outputs.iter().map(|o| gaussian(*o)).collect();
    let mut nll = 0.0;
    let mut gradients = vec![(0.0, 0.0); rewards.len()];
    let mut add = |text: usize, d_mean: f64, d_log_variance: f64| {
        gradients[text].0 += d_mean;
        gradients[text].1 += d_log_variance;
    };
    for &(a, b) in &log.pairs {
        let pair = pair_nll(rewards[a], rewards[b], 1.0, 1.0);
        nll += pair.nll;
        add(a, pair.d_mean_chosen, pair.d_log_variance_chosen);
        add(b, -pair.d_mean_chosen, pair.d_log_variance_rejected);
    }
    for &(text, level) in &log.levels {
        let (value, d_mean, d_log_variance) = match n_thresholds {
            0 => break,
            1 => threshold_nll(rewards[text], level > 0),
            _ => {
                let anchor = ordinal_nll(rewards[text], level, THRESHOLDS);
                (anchor.nll, anchor.d_mean, 0.5 * anchor.d_log_std)
            }
        };
        nll += value;
        add(text, d_mean, d_log_variance);
    }
    let n = rewards.len() as f64;
    let mut gradient = [0.0; P];
    for (x, (d_mean, d_log_variance)) in log.features.iter().zip(&gradients) {
        for (k, x) in x.iter().chain([&1.0]).enumerate() {
            gradient[k] += d_mean * x / n;
            gradient[F + 1 + k] += d_log_variance * x / n;
        }
    }
    (nll / n, gradient)
}

fn inner(a: &Parameters, b: &Parameters) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The parameters at which BFGS with halved steps ends, begun at `start`.
fn fitted(log: &Log, start: Parameters, n_thresholds: usize) -> Parameters {
    let mut inverse: [Parameters; P] = std::array::from_fn(|i| std::array::from_fn(|k| f64::from(u8::from(i == k))));
    let mut here = start;
    let (mut value, mut gradient) = loss(log, &here, n_thresholds);
    for _ in 0..200 {
        let direction: Parameters = std::array::from_fn(|i| -inner(&inverse[i], &gradient));
        let slope = inner(&direction, &gradient);
        let mut length = 1.0;
        let (next, next_value, next_gradient) = loop {
            let next: Parameters = std::array::from_fn(|i| here[i] + length * direction[i]);
            let (next_value, next_gradient) = loss(log, &next, n_thresholds);
            if next_value <= value + 1e-4 * length * slope || length < 1e-9 {
                break (next, next_value, next_gradient);
            }
            length *= 0.5;
        };
        let s: Parameters = std::array::from_fn(|i| next[i] - here[i]);
        let y: Parameters = std::array::from_fn(|i| next_gradient[i] - gradient[i]);
        let curvature = inner(&s, &y);
        if curvature > 0.0 {
            let image: Parameters = std::array::from_fn(|i| inner(&inverse[i], &y));
            let share = (1.0 + inner(&y, &image) / curvature) / curvature;
            for i in 0..P {
                for k in 0..P {
                    inverse[i][k] += share * s[i] * s[k] - (image[i] * s[k] + s[i] * image[k]) / curvature;
                }
            }
        }
        (here, value, gradient) = (next, next_value, next_gradient);
        if gradient.iter().all(|g| g.abs() < 1e-7) {
            break;
        }
    }
    here
}

/// (mu, v) -> (c mu, c² v).
fn scaled(parameters: &Parameters, c: f64) -> Parameters {
    let mut moved = *parameters;
    moved[..=F].iter_mut().for_each(|w| *w *= c);
    moved[P - 1] += 2.0 * c.ln();
    moved
}

/// Slope of `got`'s means on `want`'s, and the geometric mean of the ratios of their sigmas.
fn slope_and_ratio(log: &Log, got: &Parameters, want: &Parameters) -> (f64, f64) {
    let of =
        |parameters: &Parameters| -> (Vec<f64>, Vec<f64>) { log.features.iter().map(|x| heads(parameters, x)).unzip() };
    let ((mu, log_v), (true_mu, true_log_v)) = (of(got), of(want));
    let centre = mean(&true_mu);
    let cross: f64 = mu.iter().zip(&true_mu).map(|(m, t)| m * (t - centre)).sum();
    let square: f64 = true_mu.iter().map(|t| (t - centre).powi(2)).sum();
    (cross / square, (0.5 * (mean(&log_v) - mean(&true_log_v))).exp())
}

#[test]
fn property_8_two_thresholds_find_the_scale_from_wherever_the_fit_begins() {
    let log = simulated(20_000, 8);
    let ends = [START, scaled(&START, 3.0)].map(|start| fitted(&log, start, 2));
    for end in &ends {
        let (slope, ratio) = slope_and_ratio(&log, end, &TRUTH);
        assert_close("slope of the means", slope, 1.0, 0.05);
        assert_close("ratio of the spreads", ratio, 1.0, 0.05);
    }
    for (k, (a, b)) in ends[0].iter().zip(&ends[1]).enumerate() {
        assert_close(&format!("parameter {k} of the two fits"), *a, *b, 1e-3);
    }
    let (at, away) = (loss(&log, &TRUTH, 2).0, loss(&log, &scaled(&TRUTH, 1.5), 2).0);
    assert!(away > at + 0.01, "another scale fits worse: {at} and {away} nats a text");
}

#[test]
fn property_8_with_one_threshold_or_none_the_scale_is_where_the_fit_began() {
    let log = simulated(4_000, 8);
    for n_thresholds in [0, 1] {
        let at = |parameters: &Parameters| loss(&log, parameters, n_thresholds).0;
        for c in [0.2, 1.5, 7.0] {
            assert_close(&format!("a truth {c} as large"), at(&scaled(&TRUTH, c)), at(&TRUTH), 1e-9);
        }
        let ends = [START, scaled(&START, 3.0)].map(|start| fitted(&log, start, n_thresholds));
        assert_close("both fit as well", at(&ends[0]), at(&ends[1]), 1e-6);
        let (slope, ratio) = slope_and_ratio(&log, &ends[1], &ends[0]);
        assert!(slope > 1.3 && ratio > 1.3, "{n_thresholds} thresholds: slope {slope}, ratio {ratio}");
        // one and the same distribution in two units
        assert_close("units of means and of spreads", slope, ratio, 0.01 * ratio);
    }
}

#[test]
fn the_gradients_are_finite_differences() {
    let log = simulated(50, 3);
    for n_thresholds in 0..=2 {
        let (_, gradient) = loss(&log, &TRUTH, n_thresholds);
        for k in 0..P {
            let at = |h: f64| {
                let mut moved = TRUTH;
                moved[k] += h;
                loss(&log, &moved, n_thresholds).0
            };
            let want = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert_close(&format!("{n_thresholds} thresholds, parameter {k}"), gradient[k], want, 1e-7);
        }
    }
}
