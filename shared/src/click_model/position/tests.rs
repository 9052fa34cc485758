//! Oracle C1 and C2; EM never loses likelihood.

use super::*;
use crate::click_model::log::ClickLog;
use crate::metrics::assert_close;

/// C1: (item, slot from 1, click).
const C1: [(usize, usize, f64); 9] = [
    (0, 1, 1.0),
    (0, 1, 0.0),
    (0, 2, 0.0),
    (1, 1, 0.0),
    (1, 2, 1.0),
    (1, 3, 0.0),
    (2, 3, 0.0),
    (2, 2, 0.0),
    (2, 1, 1.0),
];

fn cells() -> Vec<Cell> {
    C1.iter().map(|&(item, slot, clicked)| Cell { item, slot: slot - 1, shown: 1.0, clicked }).collect()
}

#[test]
fn c1_two_sweeps() {
    let mut model = PositionModel { theta: vec![1.0, 0.6, 0.4], gamma: vec![0.5, 0.3, 0.2] };
    let want = [
        ([0.428571429, 0.401515152, 0.407114625], [1.0, 0.658008658, 0.333003953]),
        ([0.401378122, 0.436381128, 0.501435130], [1.0, 0.685519537, 0.229227568]),
    ];
    for (gamma, theta) in want {
        model = model.sweep(&cells(), 0.0);
        for i in 0..3 {
            assert_close("gamma", model.gamma[i], gamma[i], 1e-9);
            assert_close("theta", model.theta[i], theta[i], 1e-9);
        }
    }
}

#[test]
fn c2_examination_and_pair_weight() {
    let examined = examined_unclicked(0.6, 0.3);
    assert_close("e_b", examined, 0.512195122, 1e-9);
    assert_close("weight", examined * inverse_propensity(0.4, 5.0), 1.280487805, 1e-9);
    assert_close("largest weight", inverse_propensity(0.05, 5.0), 5.0, 0.0);
    assert_close("always clicked", examined_unclicked(1.0, 1.0), 0.0, 0.0);
    assert_close("attractive", attractive_unclicked(0.6, 0.3), 0.3 * 0.4 / 0.82, 1e-12);
}

#[test]
fn a_sweep_never_loses_likelihood() {
    let mut model = PositionModel { theta: vec![1.0, 0.6, 0.4], gamma: vec![0.5, 0.3, 0.2] };
    for _ in 0..50 {
        let next = model.sweep(&cells(), 0.0);
        assert!(next.log_likelihood(&cells()) >= model.log_likelihood(&cells()) - 1e-12);
        model = next;
    }
}

#[test]
fn weights_of_users_are_counts() {
    let log = ClickLog::from_slates([(0, vec![(0, true), (1, false)]), (1, vec![(1, false), (0, false)])]);
    let cells = log.cells(&[2.0, 1.0]);
    let total: f64 = cells.iter().map(|c| c.shown).sum();
    assert_close("shown", total, 6.0, 0.0);
    assert_close("clicked", cells.iter().map(|c| c.clicked).sum::<f64>(), 2.0, 0.0);
}

#[test]
fn rare_items_do_not_explain_everything_by_themselves() {
    // 4,000 items, each shown once; attraction 0.1, the second slot half as likely seen
    let cells: Vec<Cell> = (0..4_000)
        .map(|item| {
            let (slot, every) = if item % 2 == 0 { (0, 20) } else { (1, 40) };
            Cell { item, slot, shown: 1.0, clicked: f64::from(u8::from(item % every == slot)) }
        })
        .collect();
    let theta = |prior: f64| PositionModel::start(2, 4_000).fitted(&cells, prior).theta[1];
    assert!(theta(0.0) > 0.75, "plain EM is misled: {}", theta(0.0));
    assert_close("with a prior", theta(200.0), 0.5, 0.05);
}
