//! Ranks by hand: chains tie, islands do not, panes need cycles with unequal moves.

use super::*;

fn of_items(items: &[&[usize]], n_slots: usize) -> Ties {
    Ties::of_items(items.iter().copied(), vec![true; n_slots])
}

#[test]
fn a_chain_of_moves_ties_every_slot() {
    let ties = of_items(&[&[0, 1], &[1, 2]], 3);
    assert!(ties.is_complete());
    assert_eq!(ties.groups(), [vec![0, 1, 2]]);
}

#[test]
fn items_that_never_move_tie_nothing() {
    let ties = of_items(&[&[0], &[1], &[2]], 3);
    assert_eq!((ties.rank(), ties.needed(), ties.is_complete()), (0, 2, false));
    assert_eq!(ties.groups(), [vec![0], vec![1], vec![2]]);
}

#[test]
fn two_islands_are_told_apart() {
    let ties = of_items(&[&[0, 2], &[1, 3], &[0, 2]], 4);
    assert_eq!((ties.rank(), ties.needed()), (2, 3));
    assert_eq!(ties.groups(), [vec![0, 2], vec![1, 3]]);
}

#[test]
fn an_unused_slot_needs_no_tie() {
    let ties = Ties::of_items([&[0usize, 2][..]], vec![true, false, true]);
    assert!(ties.is_complete());
    assert_eq!(ties.groups(), [vec![0, 2]]);
}

#[test]
fn panes_need_two_shared_items_that_move_differently() {
    let used = || vec![true, true];
    // one shared item: the level of the second pane is free, nothing is measured
    let one = Ties::of_panes(&[vec![(0, 0), (1, 1)], vec![(0, 1), (2, 0)]], used());
    assert_eq!((one.rank(), one.is_complete()), (0, false));
    // the same two items swapped: c_p - c_q = b_0 - b_1 and = b_1 - b_0
    let swapped = Ties::of_panes(&[vec![(0, 0), (1, 1)], vec![(0, 1), (1, 0)]], used());
    assert!(swapped.is_complete());
    // both stay: a cycle that measures nothing
    let stayed = Ties::of_panes(&[vec![(0, 0), (1, 1)], vec![(0, 0), (1, 1)]], used());
    assert_eq!(stayed.rank(), 0);
}

#[test]
fn a_cycle_through_three_panes_counts() {
    // a: slots 0, 1 / b: slots 1, 2 ; item 0 moves 0->1, item 1 moves 1->2, item 2 stays
    let panes = [vec![(0, 0), (1, 1), (2, 2)], vec![(0, 1), (2, 2)], vec![(1, 2), (2, 2)]];
    let ties = Ties::of_panes(&panes, vec![true; 3]);
    // item 2 says that all levels are equal, so both moves measure a contrast
    assert!(ties.is_complete(), "{ties:?}");
}

#[test]
fn a_basis_knows_what_it_spans() {
    let mut basis = Basis::default();
    assert!(basis.insert(&[1.0, 1.0, 0.0]));
    assert!(basis.insert(&[0.0, 1.0, 1.0]));
    assert!(!basis.insert(&[1.0, 2.0, 1.0]));
    assert!(basis.contains(&[1.0, 0.0, -1.0]) && !basis.contains(&[0.0, 0.0, 1.0]));
    assert_eq!(basis.rank(), 2);
    assert!(!basis.insert(&[0.0, 0.0, 0.0]));
}
