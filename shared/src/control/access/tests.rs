//! The table of senders and needs, cell by cell.

use super::*;

#[test]
fn every_cell_is_as_written_down() {
    let holder = |role| Sender::Holder { role, name: "n".into() };
    let ingest = |experiment: &str| Sender::Ingest { experiment: experiment.into() };
    let needs = [Need::Nothing, Need::Ingest, Need::View, Need::Operate, Need::Administer];
    for (sender, row) in [
        (Sender::Anonymous, [true, false, false, false, false]),
        (ingest("e1"), [true, true, false, false, false]),
        (ingest("e2"), [true, false, false, false, false]),
        (holder(Role::Viewer), [true, false, true, false, false]),
        (holder(Role::Operator), [true, true, true, true, false]),
        (holder(Role::Admin), [true, true, true, true, true]),
    ] {
        assert_eq!(needs.map(|need| sender.may(need, Some("e1"))), row, "{sender:?}");
    }
    assert!(!ingest("e1").may(Need::Ingest, None), "a key without an experiment in the path opens nothing");
}

#[test]
fn names_read_back() {
    for role in Role::ALL {
        assert_eq!(Role::from_name(role.name()), Some(role));
    }
    assert_eq!(Role::from_name("root"), None);
}
