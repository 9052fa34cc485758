use super::*;
use crate::special::chi_square_tail;

fn assignment() -> Assignment {
    let arm = |name: &str, weight| ArmShare { name: name.into(), weight };
    Assignment {
        salt: "s1".into(),
        layer: "page".into(),
        from: 0.0,
        to: 1.0,
        arms: vec![arm("control", 2.0), arm("b", 1.0), arm("c", 1.0)],
        excluded: BTreeSet::new(),
    }
}

fn unit(i: usize) -> String {
    format!("u-{i}")
}

/// A pinned value, as another release must assign the same users the same way.
#[test]
fn assignment_is_pinned() {
    let arms: Vec<Option<usize>> = (0..12).map(|i| assignment().arm_of(&unit(i))).collect();
    assert_eq!(arms, [2, 0, 0, 0, 2, 2, 0, 0, 1, 2, 1, 2].map(Some));
}

#[test]
fn units_spread_by_weight_and_evenly_within() {
    let (assignment, n) = (assignment(), 60_000);
    let mut counts = [0u32; 3];
    let mut cells = [0u32; 50];
    for i in 0..n {
        counts[assignment.arm_of(&unit(i)).expect("all take part")] += 1;
        cells[(50.0 * point(&["beckon-arm-1", "s1"], &unit(i))) as usize] += 1;
    }
    let chi = |counts: &[u32], shares: &dyn Fn(usize) -> f64| -> f64 {
        let cell = |(i, c): (usize, &u32)| (f64::from(*c) - shares(i) * n as f64).powi(2) / (shares(i) * n as f64);
        counts.iter().enumerate().map(cell).sum()
    };
    assert!(chi_square_tail(chi(&counts, &|i| assignment.share(i)), 2.0) > 1e-3, "{counts:?}");
    assert!(chi_square_tail(chi(&cells, &|_| 0.02), 49.0) > 1e-3, "{cells:?}");
}

#[test]
fn more_traffic_moves_nobody() {
    let small = Assignment { to: 0.2, ..assignment() };
    let large = Assignment { to: 0.7, ..assignment() };
    let mut n_small = 0;
    for i in 0..5_000 {
        if let Some(arm) = small.arm_of(&unit(i)) {
            n_small += 1;
            assert_eq!(large.arm_of(&unit(i)), Some(arm));
        }
    }
    // 1,000 ± 4 standard deviations
    assert!((887..=1_113).contains(&n_small), "{n_small}");
}

#[test]
fn stretches_of_one_layer_share_no_unit_and_experiments_are_independent() {
    let one = Assignment { to: 0.5, ..assignment() };
    let two = Assignment { from: 0.5, salt: "s2".into(), ..assignment() };
    let other_layer = Assignment { salt: "s3".into(), layer: "api".into(), ..assignment() };
    let mut both = [[0u32; 3]; 3];
    for i in 0..20_000 {
        let name = unit(i);
        assert!(one.arm_of(&name).is_some() != two.arm_of(&name).is_some(), "{name}");
        if let (Some(a), Some(b)) = (assignment().arm_of(&name), other_layer.arm_of(&name)) {
            both[a][b] += 1;
        }
    }
    let expected = |a: usize, b: usize| 20_000.0 * assignment().share(a) * assignment().share(b);
    let cells = (0..9).map(|i| (i / 3, i % 3));
    let chi: f64 = cells.map(|(a, b)| (f64::from(both[a][b]) - expected(a, b)).powi(2) / expected(a, b)).sum();
    assert!(chi_square_tail(chi, 8.0) > 1e-3, "{both:?}");
}

#[test]
fn the_excluded_stay_out() {
    let excluded = Assignment { excluded: BTreeSet::from([unit(1)]), ..assignment() };
    assert_eq!(excluded.arm_of(&unit(1)), None);
    assert_eq!(excluded.arm_of(&unit(2)), assignment().arm_of(&unit(2)));
}

/// Lengths go into the hash, so the end of one part cannot pass for the start of the next.
#[test]
fn parts_do_not_run_together() {
    assert_ne!(point(&["a", "bc"], "d"), point(&["ab", "c"], "d"));
}

#[test]
fn what_cannot_be_is_named() {
    assert_eq!(assignment().validate(), Ok(()));
    let message = |assignment: Assignment| assignment.validate().unwrap_err().to_string();
    let salt = Assignment { salt: String::new(), ..assignment() };
    assert_eq!(message(salt), "salt is empty; expected a name unique to the experiment");
    let traffic = Assignment { from: 0.4, to: 0.4, ..assignment() };
    assert_eq!(message(traffic), "traffic from 0.4 to 0.4; expected 0 <= from < to <= 1");
    let mut arms = assignment();
    arms.arms[2].name = "b".into();
    assert_eq!(message(arms), "arm `b`: named twice");
    let mut weight = assignment();
    weight.arms[1].weight = f64::NAN;
    assert_eq!(message(weight), "arm `b`: its weight is not above 0");
    let lone = Assignment { arms: vec![assignment().arms[0].clone()], ..assignment() };
    assert_eq!(message(lone), "1 arms; expected at least two");
}
