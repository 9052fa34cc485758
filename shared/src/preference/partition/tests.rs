//! A clean partition passes the leak check; every kind of leak put in by hand is found.

use super::*;
use crate::click::Slot;

fn record(i: usize) -> Record {
    let slot = Slot {
        text: "brown rice".into(),
        propensity: None,
        visible: None,
        clicked: i.is_multiple_of(5),
        dwell_secs: None,
        followed_up: None,
    };
    Record::Impression(Impression {
        impression_id: format!("i{i}"),
        user_hash: format!("u{}", i % 97),
        time_millis: 1_000 * i as i64,
        prompt: Prompt::from_query(format!("rice {}", i % 31)),
        slate: vec![slot],
        policy: None,
        checkpoint: None,
        experiment: None,
        arm: None,
        simulated: false,
    })
}

fn records() -> Vec<Record> {
    (0..6_000).map(record).collect()
}

fn config(by: SplitKey) -> SplitConfig {
    SplitConfig { by, ..SplitConfig::default() }
}

fn checked(part: Partition, by: SplitKey) -> Result<(), Leak> {
    check(&BTreeMap::from([("log", part)]), by)
}

#[test]
fn users_or_prompts_and_time_are_split() {
    let records = records();
    let rows: Vec<&Record> = records.iter().collect();
    for by in [SplitKey::User, SplitKey::Prompt] {
        let part = partition(&rows, &config(by));
        assert_eq!(part.held_out_from, Some(4_800_000));
        assert!(!part.held_out.is_empty() && part.train.len() > 3_000);
        assert_eq!(part.train.len() + part.held_out.len() + part.n_between, rows.len());
        assert_eq!(checked(part, by), Ok(()));
    }
}

#[test]
fn few_impressions_or_one_moment_are_split_by_group_alone() {
    let records = records();
    let few: Vec<&Record> = records.iter().take(900).collect();
    let part = partition(&few, &config(SplitKey::User));
    assert_eq!((part.held_out_from, part.n_between), (None, 0));
    let mut same = records.clone();
    for record in &mut same {
        if let Record::Impression(i) = record {
            i.time_millis = 7;
        }
    }
    assert_eq!(partition(&same.iter().collect::<Vec<_>>(), &config(SplitKey::User)).held_out_from, None);
}

#[test]
fn a_group_on_both_sides_is_found() {
    let records = records();
    let rows: Vec<&Record> = records.iter().collect();
    let mut part = partition(&rows, &config(SplitKey::User));
    part.train.push(part.held_out[3]);
    let error = checked(part, SplitKey::User).expect_err("a leak");
    assert!(matches!(&error, Leak::Group { group } if group.starts_with("user:")), "{error}");
    // users are apart, prompts are not: only the split by user may call that clean
    let by_user = partition(&rows, &config(SplitKey::User));
    assert_eq!(checked(by_user.clone(), SplitKey::User), Ok(()));
    assert!(matches!(checked(by_user, SplitKey::Prompt), Err(Leak::Group { .. })));
}

#[test]
fn a_group_that_two_data_sets_share_is_found() {
    let records = records();
    let rows: Vec<&Record> = records.iter().collect();
    let part = partition(&rows, &config(SplitKey::User));
    let other = Partition { train: vec![part.held_out[0]], ..Partition::default() };
    let parts = BTreeMap::from([("log", part), ("other", other)]);
    assert!(matches!(check(&parts, SplitKey::User), Err(Leak::Group { .. })));
}

#[test]
fn an_impression_under_another_user_is_found() {
    let records = records();
    let rows: Vec<&Record> = records.iter().collect();
    let mut part = partition(&rows, &config(SplitKey::User));
    let Record::Impression(held_out) = part.held_out[0] else { panic!("an impression") };
    let renamed = Record::Impression(Impression { user_hash: "someone".into(), ..held_out.clone() });
    part.train.push(&renamed);
    let error = checked(part.clone(), SplitKey::User).expect_err("a leak");
    assert_eq!(error, Leak::Impression { id: held_out.impression_id.clone() });
}

#[test]
fn learning_from_the_future_is_found() {
    let records = records();
    let rows: Vec<&Record> = records.iter().collect();
    let mut part = partition(&rows, &config(SplitKey::User));
    let late = Record::Impression(Impression {
        impression_id: "late".into(),
        user_hash: "someone".into(),
        time_millis: i64::MAX,
        ..impression(&records[0]).expect("an impression").clone()
    });
    part.train.push(&late);
    let error = checked(part, SplitKey::User).expect_err("a leak");
    assert!(matches!(&error, Leak::Time { source_name, .. } if source_name == "log"), "{error}");
}
