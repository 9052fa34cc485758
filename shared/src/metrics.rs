//! How well predictions fit: pair accuracy, AUC, likelihoods, calibration, risk-coverage, spread quality and
//! intervals; how different texts are ([`diversity`]). Used by the report and by tests; method B.2.8 and B.6.2,
//! oracles T10.
//!
//! Predictions `p` are probabilities that an event happens, `labels` are 0, 1 or a soft label between;
//! where a metric needs a class, a label above 0.5 is the event. All logs natural, standard deviations n-1.
//! Undefined values (no rows, one class) are NaN, never a made-up number.

use crate::special::{normal_cdf, normal_pdf};

pub mod diversity;

/// Compares two numbers, for tests; passes only on `|got - want| <= tol`, so NaN fails.
///
/// # Panics
/// With name, both values and the difference, where they are further apart.
#[track_caller]
pub fn assert_close(name: &str, got: impl Into<f64>, want: impl Into<f64>, tol: f64) {
    let (got, want) = (got.into(), want.into());
    let diff = (got - want).abs();
    let close = diff <= tol;
    assert!(close, "{name}: got {got}, want {want}, difference {diff} above {tol}");
}

fn check_lengths(p: &[f64], labels: &[f64]) {
    assert_eq!(p.len(), labels.len(), "as many predictions as labels");
}

/// Arithmetic mean; NaN for no values.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Mean and its standard error (n-1); the error is NaN for fewer than two values.
pub fn mean_and_std_error(values: &[f64]) -> (f64, f64) {
    let (m, n) = (mean(values), values.len() as f64);
    let variance = values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (n - 1.0);
    (m, if values.len() < 2 { f64::NAN } else { (variance / n).sqrt() })
}

/// Share of predictions on the right side of 0.5; p = 0.5 counts half.
///
/// # Panics
/// If lengths differ.
pub fn accuracy(p: &[f64], labels: &[f64]) -> f64 {
    check_lengths(p, labels);
    let right: f64 =
        p.iter().zip(labels).map(|(&p, &y)| if p == 0.5 { 0.5 } else { f64::from((p > 0.5) == (y > 0.5)) }).sum();
    right / p.len() as f64
}

/// Pair accuracy: share of pairs whose `margin` = score(chosen) - score(rejected) is positive; a tie counts half.
pub fn pair_accuracy(margins: &[f64]) -> f64 {
    let right: f64 = margins.iter().map(|&m| if m == 0.0 { 0.5 } else { f64::from(m > 0.0) }).sum();
    right / margins.len() as f64
}

/// Ranks from 1, ties share their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let mut end = start + 1;
        while end < order.len() && values[order[end]] == values[order[start]] {
            end += 1;
        }
        for &i in &order[start..end] {
            ranks[i] = (start + 1 + end) as f64 / 2.0;
        }
        start = end;
    }
    ranks
}

/// Area under the ROC curve: P(score of an event > score of a non-event), ties half. NaN for one class only.
///
/// # Panics
/// If lengths differ.
pub fn auc(scores: &[f64], labels: &[f64]) -> f64 {
    check_lengths(scores, labels);
    let ranks = ranks(scores);
    let n_events = labels.iter().filter(|&&y| y > 0.5).count() as f64;
    let n_others = labels.len() as f64 - n_events;
    let rank_sum: f64 = ranks.iter().zip(labels).filter(|&(_, &y)| y > 0.5).map(|(r, _)| r).sum();
    (rank_sum - n_events * (n_events + 1.0) / 2.0) / (n_events * n_others)
}

/// Mean cross-entropy -[y ln p + (1-y) ln(1-p)] in nats; infinite for a certain and wrong prediction.
///
/// # Panics
/// If lengths differ.
pub fn nll(p: &[f64], labels: &[f64]) -> f64 {
    check_lengths(p, labels);
    // 0 · ln 0 = 0
    let term = |y: f64, p: f64| if y == 0.0 { 0.0 } else { y * p.ln() };
    let sum: f64 = p.iter().zip(labels).map(|(&p, &y)| term(y, p) + term(1.0 - y, 1.0 - p)).sum();
    -sum / p.len() as f64
}

/// Mean squared difference of prediction and label.
///
/// # Panics
/// If lengths differ.
pub fn brier(p: &[f64], labels: &[f64]) -> f64 {
    check_lengths(p, labels);
    p.iter().zip(labels).map(|(p, y)| (p - y).powi(2)).sum::<f64>() / p.len() as f64
}

/// Expected calibration error in signed-event form: `n_bins` equal-width bins on p, index
/// min(floor(p·B), B-1); the mean over rows of |mean p - mean y| of their bin.
///
/// # Panics
/// If lengths differ or `n_bins` is 0.
pub fn ece(p: &[f64], labels: &[f64], n_bins: usize) -> f64 {
    check_lengths(p, labels);
    assert!(n_bins > 0, "at least one bin");
    let mut gaps = vec![0.0; n_bins];
    for (&p, &y) in p.iter().zip(labels) {
        gaps[((p * n_bins as f64).floor() as usize).min(n_bins - 1)] += p - y;
    }
    gaps.iter().map(|g: &f64| g.abs()).sum::<f64>() / p.len() as f64
}

/// Adaptive expected calibration error: as [`ece`], with `n_bins` bins of equally many rows, sorted by p; rows of one p
/// share their mean label, so that their order says nothing. Empty bins where there are fewer rows than bins; steadier than
/// [`ece`] where predictions crowd, as click rates do.
///
/// # Panics
/// If lengths differ or `n_bins` is 0.
pub fn adaptive_ece(p: &[f64], labels: &[f64], n_bins: usize) -> f64 {
    check_lengths(p, labels);
    assert!(n_bins > 0, "at least one bin");
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut shared = vec![0.0; p.len()];
    for tie in order.chunk_by(|&a, &b| p[a] == p[b]) {
        let label = tie.iter().map(|&row| labels[row]).sum::<f64>() / tie.len() as f64;
        tie.iter().for_each(|&row| shared[row] = label);
    }
    let bin = |i: usize| &order[i * p.len() / n_bins..(i + 1) * p.len() / n_bins];
    let gap = |rows: &[usize]| rows.iter().map(|&row| p[row] - shared[row]).sum::<f64>().abs();
    (0..n_bins).map(|i| gap(bin(i))).sum::<f64>() / p.len() as f64
}

/// Expected calibration error in confidence form: as [`ece`] on confidence max(p, 1-p) against being right.
///
/// # Panics
/// If lengths differ or `n_bins` is 0.
pub fn confidence_ece(p: &[f64], labels: &[f64], n_bins: usize) -> f64 {
    check_lengths(p, labels);
    let confidence: Vec<f64> = p.iter().map(|p| p.max(1.0 - p)).collect();
    ece(&confidence, &is_right(p, labels), n_bins)
}

/// 1 where the side of 0.5 is right, 0 where not, 0.5 at p = 0.5.
fn is_right(p: &[f64], labels: &[f64]) -> Vec<f64> {
    p.iter().zip(labels).map(|(&p, &y)| if p == 0.5 { 0.5 } else { f64::from((p > 0.5) == (y > 0.5)) }).collect()
}

/// Area under the risk-coverage curve: rows by confidence max(p, 1-p) descending (stable), mean of the
/// cumulative error over coverages 1/n to 1.
///
/// # Panics
/// If lengths differ.
pub fn aurc(p: &[f64], labels: &[f64]) -> f64 {
    check_lengths(p, labels);
    let right = is_right(p, labels);
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[b].max(1.0 - p[b]).total_cmp(&p[a].max(1.0 - p[a])));
    let (mut n_wrong, mut sum) = (0.0, 0.0);
    for (i, &row) in order.iter().enumerate() {
        n_wrong += 1.0 - right[row];
        sum += n_wrong / (i + 1) as f64;
    }
    sum / p.len() as f64
}

/// Spearman's rank correlation, mean ranks for ties. NaN where a side is constant.
///
/// # Panics
/// If lengths differ.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    check_lengths(a, b);
    let (ra, rb) = (ranks(a), ranks(b));
    let (ma, mb) = (mean(&ra), mean(&rb));
    let covariance: f64 = ra.iter().zip(&rb).map(|(x, y)| (x - ma) * (y - mb)).sum();
    let spread = |r: &[f64], m: f64| r.iter().map(|x| (x - m).powi(2)).sum::<f64>();
    covariance / (spread(&ra, ma) * spread(&rb, mb)).sqrt()
}

/// Mean negative log density of `y` under N(mu, v), nats.
///
/// # Panics
/// If lengths differ.
pub fn gaussian_nll(y: &[f64], mu: &[f64], v: &[f64]) -> f64 {
    check_lengths(y, mu);
    check_lengths(y, v);
    let sum: f64 =
        (0..y.len()).map(|i| ((y[i] - mu[i]).powi(2) / v[i] + v[i].ln() + std::f64::consts::TAU.ln()) / 2.0).sum();
    sum / y.len() as f64
}

/// Mean of (y - mu)^2 / v; 1 for a calibrated spread, above for one too narrow.
///
/// # Panics
/// If lengths differ.
pub fn z_score_variance(y: &[f64], mu: &[f64], v: &[f64]) -> f64 {
    check_lengths(y, mu);
    check_lengths(y, v);
    (0..y.len()).map(|i| (y[i] - mu[i]).powi(2) / v[i]).sum::<f64>() / y.len() as f64
}

/// Continuous ranked probability score of N(mu, v) at `y`, in units of `y`; 0 is best.
pub fn gaussian_crps(y: f64, mu: f64, v: f64) -> f64 {
    let sigma = v.sqrt();
    let z = (y - mu) / sigma;
    sigma * (z * (2.0 * normal_cdf(z) - 1.0) + 2.0 * normal_pdf(z) - std::f64::consts::FRAC_2_SQRT_PI / 2.0)
}

/// How often a judge prefers one side, asked in both orders, with Wilson's 95% interval over items. Each item
/// is (preference when this side stood first, preference when it stood second), 1 for it, 0 against it, 0.5 for
/// a tie: a judge that always takes the first counts as a tie. NaN and (0, 1) for no items.
pub fn win_rate(judgements: &[(f64, f64)]) -> (f64, (f64, f64)) {
    let wins: f64 = judgements.iter().map(|(first, second)| 0.5 * (first + second)).sum();
    let n = judgements.len() as f64;
    (wins / n, wilson_interval(wins, n))
}

/// Wilson score interval at 95% for `n_hits` of `n`: (low, high). (0, 1) for n = 0.
pub fn wilson_interval(n_hits: f64, n: f64) -> (f64, f64) {
    if n <= 0.0 {
        return (0.0, 1.0);
    }
    // the 0.975 quantile of the standard normal
    const Z: f64 = 1.959_963_984_540_054;
    let (p, z2) = (n_hits / n, Z * Z);
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: [f64; 8] = [0.92, 0.81, 0.55, 0.30, 0.66, 0.10, 0.97, 0.48];
    const Y: [f64; 8] = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0];

    #[test]
    fn t10_classification_rows() {
        assert_close("accuracy", accuracy(&P, &Y), 0.75, 1e-12);
        assert_close("auc", auc(&P, &Y), 0.933333333, 1e-9);
        assert_close("nll", nll(&P, &Y), 0.341823703, 1e-9);
        assert_close("brier", brier(&P, &Y), 0.1039875, 1e-12);
        assert_close("ece 10", ece(&P, &Y, 10), 0.26375, 1e-12);
        assert_close("ece 5", ece(&P, &Y, 5), 0.13375, 1e-12);
        assert_close("confidence ece 5", confidence_ece(&P, &Y, 5), 0.26375, 1e-12);
        assert_close("aurc", aurc(&P, &Y), 0.049107143, 1e-9);
        // by hand: sorted p .1 .3 | .48 .55 | .66 .81 | .92 .97 with labels 0 0 | 1 0 | 1 1 | 1 1
        assert_close("adaptive ece", adaptive_ece(&P, &Y, 4), (0.4 + 0.03 + 0.53 + 0.11) / 8.0, 1e-12);
        assert_close("ties", adaptive_ece(&[0.5; 6], &[1.0, 0.9, 0.7, 0.0, 0.1, 0.3], 3), 0.0, 1e-12);
        assert_close("one bin", adaptive_ece(&P, &Y, 1), (P.iter().sum::<f64>() - 5.0).abs() / 8.0, 1e-12);
    }

    #[test]
    fn t10_spread_rows() {
        let sigma = [0.3, 0.4, 0.35, 0.5, 0.45, 0.9, 0.6, 0.4];
        let out = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
        assert_close("ood auroc", auc(&sigma, &out), 0.84375, 1e-12);
        let (y, mu, v) = ([0.1, -0.4, 1.2, 0.3], [0.0, 0.0, 0.8, 0.5], [0.04, 0.25, 0.09, 0.16]);
        assert_close("gaussian nll", gaussian_nll(&y, &mu, &v), 0.177948598, 1e-9);
        assert_close("z variance", z_score_variance(&y, &mu, &v), 0.729444444, 1e-9);
        // T3: a logit of 8% in 200 showings under N(-2, 0.25)
        let (l, noise) = ((0.08f64 / 0.92).ln(), 1.0 / (200.0 * 0.08 * 0.92));
        assert_close("rate", gaussian_nll(&[l], &[-2.0], &[0.25 + noise]), 0.653705788, 1e-9);
        for (i, want) in [0.066281, 0.238112, 0.256180, 0.132561].into_iter().enumerate() {
            assert_close("crps", gaussian_crps(y[i], mu[i], v[i]), want, 1e-6);
        }
    }

    #[test]
    fn wilson_of_57_in_100() {
        let (low, high) = wilson_interval(57.0, 100.0);
        assert_close("low", low, 0.472153895, 1e-9);
        // T10 prints 0.662666715; with 40 decimal digits it is 0.662667014758899 (and low + high = 2 · centre)
        assert_close("high", high, 0.662667014758899, 1e-12);
        assert_eq!(wilson_interval(0.0, 0.0), (0.0, 1.0));
    }

    #[test]
    fn a_judge_of_positions_says_nothing() {
        let (rate, interval) = win_rate(&[(1.0, 0.0); 40]);
        assert_eq!(rate, 0.5);
        assert!(interval.0 < 0.5 && interval.1 > 0.5);
        // wins 1, 0.75 (a tie in one order), 0.5, 0
        assert_close("rate", win_rate(&[(1.0, 1.0), (1.0, 0.5), (0.0, 1.0), (0.0, 0.0)]).0, 2.25 / 4.0, 1e-12);
        assert!(win_rate(&[]).0.is_nan());
    }

    #[test]
    fn ties_count_half() {
        assert_close("pairs", pair_accuracy(&[1.0, -1.0, 0.0, 0.5]), 0.625, 1e-12);
        assert_close("accuracy", accuracy(&[0.5, 0.9], &[1.0, 1.0]), 0.75, 1e-12);
        assert_close("auc", auc(&[0.2, 0.2], &[1.0, 0.0]), 0.5, 1e-12);
    }

    #[test]
    fn spearman_by_hand() {
        assert_close("reversed", spearman(&[1.0, 2.0, 3.0], &[9.0, 4.0, 1.0]), -1.0, 1e-12);
        // ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 · 5)
        assert_close("ties", spearman(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]), 0.948683298, 1e-9);
    }

    #[test]
    fn mean_and_error_by_hand() {
        let (m, se) = mean_and_std_error(&[1.0, 2.0, 3.0, 4.0]);
        assert_close("mean", m, 2.5, 1e-12);
        assert_close("error", se, (5.0f64 / 3.0 / 4.0).sqrt(), 1e-12);
        assert!(mean_and_std_error(&[1.0]).1.is_nan());
        assert!(auc(&[0.1, 0.2], &[1.0, 1.0]).is_nan());
    }

    #[test]
    fn a_certain_right_prediction_costs_nothing() {
        assert_close("nll", nll(&[1.0, 0.0], &[1.0, 0.0]), 0.0, 0.0);
        assert_eq!(nll(&[0.0], &[1.0]), f64::INFINITY);
    }

    #[test]
    fn assert_close_refuses_what_it_should() {
        for (got, want) in [(f64::NAN, 1.0), (1.0, f64::NAN), (1.0, 1.1), (f64::INFINITY, f64::INFINITY)] {
            assert!(std::panic::catch_unwind(|| assert_close("x", got, want, 0.05)).is_err(), "{got} passed as {want}");
        }
        assert_close("f32 too", 1.0f32, 1.0f32, 0.0);
    }
}
