//! What only a database can be asked that several servers share: two stores on one, at the same time.

use super::postgres::Postgres;
use super::{asked, running, shown};
use crate::events::Events;
use crate::store::{Begun, Store, StoreError};
use beckon_shared::control::Event;
use futures_util::{Stream, StreamExt};
use std::sync::Arc;

#[test]
#[ignore = "needs PostgreSQL"]
fn what_two_servers_do_at_once_is_done_once_and_in_one_order() {
    let server = Postgres::start();
    let url = server.fresh("two_servers");
    let (a, b) = (Store::connect(&url).expect("connects"), Store::connect(&url).expect("connects"));
    commands(&a, &b, &url);
    intake(&a, &b);
    numbers(&a, &b);
    assert!(matches!(a.set_setting("x", "a\0b"), Err(StoreError::Nul)));
    assert!(a.copy_to(std::path::Path::new("x")).expect_err("refused").to_string().contains("pg_dump"));
    drop((a, b));
    events(&url);
    let url = server.fresh("foreign");
    server.sql("foreign", "CREATE TABLE runs (x int)");
    assert!(matches!(Store::connect(&url), Err(StoreError::ForeignTables { .. })));
    let wrong = Store::connect(&url.replace(":secret@", ":wrong@")).err().expect("refused").to_string();
    assert!(wrong.contains("password") && !wrong.contains("wrong"), "{wrong}");
    away(server);
}

/// A key belongs to the server that is at it, until that is gone. One server has the right to train.
fn commands(a: &Store, b: &Store, url: &str) {
    let gone = Store::connect(url).expect("connects");
    let Begun::New(id) = gone.begin_command(&asked("k", "d"), 11).expect("begun") else { panic!("it is new") };
    assert_eq!(b.begin_command(&asked("k", "d"), 22).expect("asked"), Begun::Busy);
    assert!(gone.hold_training(11).expect("asked") && !b.hold_training(22).expect("asked"));
    drop(gone);
    // the database takes a moment to notice
    let begun =
        eventually(|| Some(b.begin_command(&asked("k", "d"), 22).expect("asked")).filter(|it| *it != Begun::Busy));
    assert_eq!(begun, Begun::BrokenOff(id));
    eventually(|| b.hold_training(22).expect("asked").then_some(()));
    assert!(b.hold_training(22).expect("still"));
    assert!(!a.hold_training(33).expect("asked"));
    // the same key on both at once: one of them does it
    for n in 0..20 {
        let key = format!("race {n}").replace(' ', "-");
        let begun = std::thread::scope(|scope| {
            let at_a = scope.spawn(|| a.begin_command(&asked(&key, "d"), 33).expect("begun"));
            [b.begin_command(&asked(&key, "d"), 22).expect("begun"), at_a.join().expect("done")]
        });
        let n_new = begun.iter().filter(|begun| matches!(begun, Begun::New(_))).count();
        assert_eq!((n_new, begun.contains(&Begun::Busy)), (1, true), "{begun:?}");
    }
}

/// What `ask` gives once it gives something, within seconds.
fn eventually<T>(ask: impl Fn() -> Option<T>) -> T {
    let found = (0..500).find_map(|_| {
        let found = ask();
        if found.is_none() {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        found
    });
    found.expect("it comes about")
}

/// The same batches to both, as clients do whose answer was lost.
fn intake(a: &Store, b: &Store) {
    let experiment = a.add_experiment(running(), None).expect("added");
    let arms = experiment.config.assignment(&experiment.id);
    let send = |store: &Store| -> usize {
        let accepted = (0..200).map(|user| {
            let events = shown(&experiment, user);
            store.ingest(&experiment, &events, |unit| arms.arm_of(unit)).expect("taken in").n_accepted
        });
        accepted.sum()
    };
    let (of_a, of_b) = std::thread::scope(|scope| {
        let at_a = scope.spawn(|| send(a));
        (send(b), at_a.join().expect("done"))
    });
    assert_eq!(of_a + of_b, 400);
    let (users, n_exposures, n_clicks) = b.experiment_users(&experiment, i64::MAX).expect("summed");
    assert_eq!((users.users.len(), n_exposures, n_clicks), (200, 200, 200));
}

/// Numbers of events have no gap and become visible in their order.
fn numbers(a: &Store, b: &Store) {
    let first = a.next_shared_seq(1_000).expect("a number");
    assert_eq!(b.next_shared_seq(5_000).expect("the same"), first);
    let write = |store: &Store, name: &str| {
        for n in 0..100 {
            store.append_events(&[format!("\"{name}{n}\""), format!("\"{name}{n}'\"")], &[]).expect("appended");
        }
    };
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| write(a, "a"));
        scope.spawn(|| write(b, "b"));
        let (mut seen, mut at) = (Vec::new(), first);
        while seen.len() < 400 {
            let page = a.events_from(at, 50).expect("read");
            at += page.len() as u64;
            seen.extend(page);
        }
        seen
    });
    assert!(seen.iter().map(|(seq, _)| *seq).eq(first..first + 400));
    for name in ["a", "b"] {
        let of_one: Vec<&String> =
            seen.iter().map(|(_, json)| json).filter(|json| json[1..].starts_with(name)).collect();
        assert_eq!((of_one.len(), of_one[1].as_str()), (200, &*format!("\"{name}0'\"")));
    }
}

/// Listeners of either server hear the same.
fn events(url: &str) {
    let hub = || Events::open(Arc::new(Store::connect(url).expect("connects")), 1_000).expect("opens");
    let (a, b) = (hub(), hub());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let (at_a, at_b) = (a.listen(None).expect("open"), b.listen(None).expect("open"));
    for n_records in 0..10 {
        let hub = if n_records % 2 == 0 { &a } else { &b };
        hub.announce(&Event::LogChanged { n_records });
    }
    let heard = |stream: std::pin::Pin<Box<dyn Stream<Item = Arc<crate::events::Numbered>>>>| {
        runtime.block_on(async {
            stream.take(10).map(|numbered| (numbered.seq, numbered.json.clone())).collect::<Vec<_>>().await
        })
    };
    let (at_a, at_b) = (heard(Box::pin(at_a)), heard(Box::pin(at_b)));
    assert_eq!(at_a, at_b);
    let want: Vec<String> =
        (0..10).map(|n_records| serde_json::to_string(&Event::LogChanged { n_records }).expect("JSON")).collect();
    assert!(at_a.iter().map(|(_, json)| json).eq(&want), "{at_a:?}");
    // who comes back at the other server, which has not read that far yet, gets the next one and nothing twice
    drop(b);
    let last = at_a[9].0;
    a.announce(&Event::LogChanged { n_records: 10 });
    let b = hub();
    let ahead = b.listen(Some(last + 2)).expect("open");
    for n_records in 11..14 {
        a.announce(&Event::LogChanged { n_records });
    }
    let next = runtime.block_on(async { ahead.map(|numbered| numbered.seq).take(1).collect::<Vec<_>>().await });
    assert_eq!(next, [last + 3]);
}

/// A database that was away: what was asked then fails by name, and what is asked later works.
fn away(server: Postgres) {
    let url = server.fresh("away");
    let store = Store::connect(&url).expect("connects");
    store.set_setting("x", "1").expect("stored");
    assert!(store.hold_training(1).expect("asked"));
    let server = server.restart(|| {
        let error = store.set_setting("x", "2").expect_err("nobody is there");
        assert!(
            matches!(error, StoreError::Lost { .. } | StoreError::Connect { .. } | StoreError::Postgres { .. }),
            "{error}"
        );
    });
    assert_eq!(store.setting("x").expect("read").as_deref(), Some("1"));
    store.set_setting("x", "3").expect("stored");
    assert!(store.hold_training(1).expect("taken again"));
    assert_eq!(store.setting("x").expect("read").as_deref(), Some("3"));
    drop(server);
}
