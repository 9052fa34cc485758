//! The graph of descent, and what a retention may never delete.

use super::*;

fn entry(id: &str, created_millis: i64, parent: Option<&str>) -> RegistryEntry {
    let info = CheckpointInfo {
        id: id.into(),
        name: format!("name of {id}"),
        run_id: Some("r1".into()),
        n_bytes: 1,
        created_millis,
        simulated: false,
        built_in: false,
    };
    RegistryEntry {
        info,
        parent: parent.map(str::to_owned),
        adapter: None,
        data_hash: "d0d0d0d0d0".into(),
        evaluation: BTreeMap::new(),
        tags: Vec::new(),
        note: String::new(),
    }
}

#[test]
fn edges_lead_forward_even_where_clocks_went_back() {
    // the child's clock was behind its parent's
    let entries = [entry("child", 1, Some("parent")), entry("parent", 9, None), entry("orphan", 5, Some("gone"))];
    let lineage = lineage(&entries);
    let place = |id: &str| lineage.nodes.iter().position(|node| node.id == id).expect(id);
    assert_eq!(lineage.nodes.len(), 5);
    for edge in &lineage.edges {
        assert!(place(&edge.from) < place(&edge.to), "{edge:?}");
    }
    assert_eq!(lineage.edges.len(), 5);
    assert_eq!(lineage.nodes[place("gone")].name, "not here");
    assert_eq!(lineage.nodes[place("d0d0d0d0d0")].kind, "data");
}

#[test]
fn a_forged_circle_ends() {
    let entries = [entry("a", 1, Some("b")), entry("b", 2, Some("a"))];
    assert_eq!(lineage(&entries).edges.len(), 4);
}

#[test]
fn what_is_needed_is_kept_with_the_reason() {
    let mut entries = vec![entry("a", 1, None), entry("b", 2, Some("a")), entry("c", 3, None), entry("d", 4, None)];
    entries[2].tags.push(PRODUCTION.into());
    let users = [("d".to_owned(), "experiment e1".to_owned())];
    let check = |id| check_deletable(id, &entries, &users);
    assert_eq!(check("a"), Err(Kept::Parent { id: "a".into(), child: "b".into() }));
    assert_eq!(check("b"), Ok(()));
    assert_eq!(check("c"), Err(Kept::Tagged { id: "c".into(), tag: PRODUCTION.into() }));
    assert_eq!(check("d"), Err(Kept::Used { id: "d".into(), user: "experiment e1".into() }));
    entries[1].info.built_in = true;
    assert_eq!(check_deletable("b", &entries, &users), Err(Kept::BuiltIn { id: "b".into() }));
}

#[test]
fn the_oldest_go_and_the_needed_never() {
    let mut entries: Vec<RegistryEntry> = (0..6).map(|i| entry(&format!("c{i}"), i, None)).collect();
    entries[0].tags.push(PRODUCTION.into());
    entries[2].parent = Some("c1".into());
    assert_eq!(expired(&entries, &[], 2), ["c2", "c3"]);
    assert_eq!(expired(&entries, &[], 100), Vec::<String>::new());
    // even a retention of none leaves the promoted one and the parent
    assert_eq!(expired(&entries, &[], 0), ["c2", "c3", "c4", "c5"]);
}

#[test]
fn tags_are_plain_words() {
    for good in ["production", "canary-2"] {
        assert!(is_tag(good), "{good}");
    }
    for bad in ["", "Production", "../x", "a b", &"x".repeat(41)] {
        assert!(!is_tag(bad), "{bad}");
    }
}
