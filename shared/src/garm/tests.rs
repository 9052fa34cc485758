//! Which directions pairs and anchors leave open (method B.2.3): ranks of the Jacobian, exact derivatives.
use crate::click_model::identify::Basis;

/// Parameters (mu_1, v_1, mu_2, v_2, ...) that no pair of the items and no threshold event fixes.
fn n_open(items: &[(f64, f64)], thresholds: &[f64], noise: f64) -> usize {
    let n = items.len();
    let mut basis = Basis::default();
    for i in 0..n {
        for j in 0..i {
            let (d, s2) = (items[i].0 - items[j].0, items[i].1 + items[j].1 + noise);
            let mut row = vec![0.0; 2 * n];
            row[2 * i] = 1.0 / s2.sqrt();
            row[2 * j] = -1.0 / s2.sqrt();
            row[2 * i + 1] = -0.5 * d / s2.powf(1.5);
            row[2 * j + 1] = row[2 * i + 1];
            basis.insert(&row);
        }
        for tau in thresholds {
            // z = (mu - tau)/sqrt(v)
            let mut row = vec![0.0; 2 * n];
            row[2 * i] = 1.0 / items[i].1.sqrt();
            row[2 * i + 1] = -0.5 * (items[i].0 - tau) / items[i].1.powf(1.5);
            basis.insert(&row);
        }
    }
    2 * n - basis.rank()
}

const GENERIC: [(f64, f64); 6] = [(0.3, 0.5), (-0.8, 1.4), (1.1, 0.9), (0.05, 2.2), (-1.7, 0.35), (0.6, 1.05)];

#[test]
fn pairs_alone_leave_shift_and_scale_open() {
    for (n, want) in [(2, 3), (3, 3), (4, 2), (5, 2), (6, 2)] {
        assert_eq!(n_open(&GENERIC[..n], &[], 0.0), want, "{n} items");
        assert_eq!(n_open(&GENERIC[..n], &[], 0.7), want, "{n} items, a known noise fixes nothing");
    }
}

#[test]
fn equal_variances_leave_one_direction_more() {
    for n in 3..=6 {
        let equal: Vec<(f64, f64)> = GENERIC[..n].iter().map(|(mu, _)| (*mu, 1.0)).collect();
        assert_eq!(n_open(&equal, &[], 0.0), 3, "{n} items");
    }
}

#[test]
fn one_threshold_leaves_the_scale_open_and_two_nothing() {
    for n in 2..=6 {
        assert_eq!(n_open(&GENERIC[..n], &[0.2], 0.0), 1, "{n} items");
        assert_eq!(n_open(&GENERIC[..n], &[0.0, 1.0], 0.0), 0, "{n} items");
    }
}
