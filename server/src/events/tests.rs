//! Order, gaps, restarts, slow and vanishing listeners.

use super::*;
use beckon_shared::config::Preset;
use beckon_shared::control::{RunConfig, RunState, Stage};
use futures_util::StreamExt;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a folder for the test") }
    }

    fn open(&self, first_seq: u64) -> (Arc<Store>, Events) {
        let store = Arc::new(Store::open(&self.dir.path().join("beckon.sqlite")).expect("opens"));
        let events = Events::open(Arc::clone(&store), first_seq).expect("opens");
        (store, events)
    }
}

fn changed(n_records: u64) -> Event {
    Event::LogChanged { n_records }
}

fn parsed(numbered: &Numbered) -> (u64, Event) {
    (numbered.seq, serde_json::from_str(&numbered.json).expect("an event"))
}

async fn collect(events: &Events, last_seq: Option<u64>) -> Vec<(u64, Event)> {
    let stream = events.listen(last_seq).expect("the hub is open");
    events.close();
    stream.map(|numbered| parsed(&numbered)).collect().await
}

#[tokio::test]
async fn a_returning_listener_gets_exactly_what_it_missed() {
    let bench = Bench::new();
    let (_store, events) = bench.open(10);
    (0..5).for_each(|n| events.announce(&changed(n)));
    assert_eq!(collect(&events, Some(12)).await, [(13, changed(3)), (14, changed(4))]);
}

#[tokio::test]
async fn a_new_or_current_listener_gets_nothing_old() {
    for last in [None, Some(10)] {
        let bench = Bench::new();
        let (_store, events) = bench.open(10);
        events.announce(&changed(0));
        assert_eq!(collect(&events, last).await, []);
    }
}

#[tokio::test]
async fn a_restart_goes_on_with_the_numbers_and_nothing_is_lost() {
    let bench = Bench::new();
    let (store, events) = bench.open(10);
    (0..4).for_each(|n| events.announce(&changed(n)));
    drop((events, store));
    let (_store, events) = bench.open(999_999);
    events.announce(&changed(4));
    assert_eq!(collect(&events, Some(11)).await, [(12, changed(2)), (13, changed(3)), (14, changed(4))]);
}

#[tokio::test]
async fn a_listener_behind_the_ring_reads_from_the_store() {
    let bench = Bench::new();
    let (_store, events) = bench.open(0);
    let n = 3 * RING as u64 + 5;
    (0..n).for_each(|i| events.announce(&changed(i)));
    let got = collect(&events, Some(1)).await;
    let want: Vec<_> = (2..n).map(|i| (i, changed(i))).collect();
    assert_eq!(got, want);
}

#[tokio::test]
async fn what_the_store_has_forgotten_is_told_as_missed() {
    let bench = Bench::new();
    let (store, events) = bench.open(0);
    (0..10).for_each(|i| events.announce(&changed(i)));
    drop(events);
    store.forget_events_before(6).expect("forgotten");
    let events = Events::open(Arc::clone(&store), 0).expect("opens");
    let got = collect(&events, Some(1)).await;
    // 2, 3, 4 and 5 are gone
    assert_eq!(got[0], (5, Event::Missed { n_events: 4 }));
    assert_eq!(got[1..], [(6, changed(6)), (7, changed(7)), (8, changed(8)), (9, changed(9))]);
}

#[test]
fn what_a_run_says_outlives_the_events_that_told_it() {
    let bench = Bench::new();
    let (store, events) = bench.open(0);
    let run = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Running, 0, None).expect("stored").id;
    let line = |text: &str| Event::Line { run_id: run.clone(), text: text.into() };
    let alarm = |run_id: Option<&str>| Event::Alarm { run_id: run_id.map(str::to_owned), text: "look".into() };
    for event in [line("one"), alarm(Some(&run)), alarm(None), alarm(Some("r99")), changed(1)] {
        events.announce(&event);
    }
    store.forget_events_before(u64::from(u32::MAX)).expect("forgotten");
    let kept = store.run_lines(&run, i64::MAX, 9).expect("read");
    assert_eq!(
        kept.iter().map(|line| (line.text.as_str(), line.alarm)).collect::<Vec<_>>(),
        [("look", true), ("one", false)]
    );
    assert!(kept.iter().all(|line| line.time_millis > 1_700_000_000_000), "{kept:?}");
}

#[tokio::test]
async fn a_number_from_another_server_reads_as_missed() {
    let bench = Bench::new();
    let (_store, events) = bench.open(10);
    events.announce(&changed(0));
    assert_eq!(collect(&events, Some(99)).await, [(10, Event::Missed { n_events: 0 })]);
}

#[tokio::test]
async fn a_number_far_below_the_first_counts_only_what_was_here() {
    // real numbers begin at the clock in microseconds, so the distance to 0 says nothing
    const FIRST: u64 = 1_700_000_000_000_000;
    let bench = Bench::new();
    let (store, events) = bench.open(FIRST);
    (0..4).for_each(|i| events.announce(&changed(i)));
    drop(events);
    // a listener ends its hub, so each gets one of its own; the first number is remembered over the restarts
    let seen = async |last| collect(&Events::open(Arc::clone(&store), 5).expect("opens"), Some(last)).await;
    let kept = |from: u64| (from..4).map(|i| (FIRST + i, changed(i)));
    let told = |seq, n_events| std::iter::once((seq, Event::Missed { n_events }));
    for last in [0, FIRST - 2] {
        assert_eq!(seen(last).await, told(FIRST - 1, 0).chain(kept(0)).collect::<Vec<_>>(), "{last}");
    }
    // the number just before the first missed nothing
    assert_eq!(seen(FIRST - 1).await, kept(0).collect::<Vec<_>>());
    store.forget_events_before(FIRST + 2).expect("forgotten");
    assert_eq!(seen(0).await, told(FIRST + 1, 2).chain(kept(2)).collect::<Vec<_>>());
}

#[tokio::test]
async fn curve_points_are_kept_with_their_events_and_in_order() {
    let bench = Bench::new();
    let (store, events) = bench.open(0);
    let run_id = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Queued, 0, None).expect("stored").id;
    let metric = |step| Metric { run_id: run_id.clone(), stage: Stage::Sft, step, name: "loss".into(), value: 1.0 };
    (1..=3).for_each(|step| events.announce_soon(Event::Metric(metric(step))));
    events.announce(&changed(7));
    // an event that is not a point carries the ones before it along
    assert_eq!(store.metrics(&run_id).expect("read").len(), 3);
    events.announce_soon(Event::Metric(metric(4)));
    let stream = events.listen(Some(0)).expect("open");
    let got: Vec<_> = stream.take(4).map(|numbered| parsed(&numbered)).collect().await;
    let steps: Vec<_> = got.iter().map(|(_, event)| if let Event::Metric(m) = event { m.step } else { 0 }).collect();
    assert_eq!(steps, [2, 3, 0, 4]);
    assert_eq!(store.metrics(&run_id).expect("read").len(), 4);
}

#[tokio::test]
async fn a_slow_listener_costs_no_queue_and_loses_nothing() {
    let bench = Bench::new();
    let (_store, events) = bench.open(0);
    let mut stream = Box::pin(events.listen(None).expect("open"));
    let n = 4 * RING as u64;
    (0..n).for_each(|i| events.announce(&changed(i)));
    events.close();
    let mut got = Vec::new();
    while let Some(numbered) = stream.next().await {
        got.push(numbered.seq);
    }
    assert_eq!(got, (0..n).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_hundred_random_disconnects_lose_and_repeat_nothing() {
    use rand::{Rng, SeedableRng};
    let bench = Bench::new();
    let (_store, events) = bench.open(0);
    let events = Arc::new(events);
    let n = 20_000u64;
    let announcer = Arc::clone(&events);
    let thread = std::thread::spawn(move || {
        for i in 0..n {
            announcer.announce(&changed(i));
            if i % 64 == 0 {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
    });
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let mut seen: Vec<u64> = Vec::new();
    let mut last = None;
    let mut n_connections = 0;
    // 200 disconnects after a random number of events, then to the end
    while (seen.len() as u64) < n {
        n_connections += 1;
        let stream = events.listen(last).expect("open");
        tokio::pin!(stream);
        let limit = if n_connections > 200 { usize::MAX } else { rng.random_range(0..=120) };
        let mut got = 0;
        while got < limit && (seen.len() as u64) < n {
            let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await.expect("an event in time");
            let (seq, event) = parsed(&next.expect("open"));
            if last.is_none() {
                // the first connection may come after the first events; what it has not seen it never asked for
                (0..seq).for_each(|earlier| seen.push(earlier));
            }
            assert_eq!(event, changed(seq));
            seen.push(seq);
            last = Some(seq);
            got += 1;
        }
    }
    thread.join().expect("announced");
    assert!(n_connections > 200, "only {n_connections} connections");
    assert_eq!(seen, (0..n).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_number_of_listeners_is_limited_and_a_vanished_one_counts_no_more() {
    let bench = Bench::new();
    let (_store, events) = bench.open(0);
    let open: Vec<_> = (0..MAX_LISTENERS).map(|_| events.listen(None).expect("below the limit")).collect();
    assert_eq!(events.listen(None).err(), Some(ListenError::Full));
    drop(open);
    let start = std::time::Instant::now();
    while events.n_listeners() > 0 {
        assert!(start.elapsed() < Duration::from_secs(20), "{} listeners are still counted", events.n_listeners());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(events.listen(None).is_ok());
    events.close();
    assert_eq!(events.listen(None).err(), Some(ListenError::Closed));
}

#[tokio::test]
async fn many_listeners_are_told_once_of_what_came_within_a_moment() {
    for (n_listeners, n_together) in [(2, 1), (MANY_LISTENERS, 3)] {
        let bench = Bench::new();
        let (store, events) = bench.open(0);
        let mut streams: Vec<_> =
            (0..n_listeners).map(|_| Box::pin(events.listen_in_batches(None).expect("there is room"))).collect();
        let listening: Vec<_> =
            streams.drain(..).map(|mut stream| tokio::spawn(async move { stream.next().await })).collect();
        tokio::time::sleep(Duration::from_millis(20)).await; // all of them wait
        let start = std::time::Instant::now();
        for n in 0..3 {
            events.announce(&changed(n));
            assert_eq!(store.events_from(n, 1).expect("reads").len(), 1, "kept before anyone is told");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut batches = Vec::new();
        for task in listening {
            batches.push(task.await.expect("no panic").expect("a batch"));
        }
        assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        for batch in &batches {
            assert!(Arc::ptr_eq(batch, &batches[0]), "all share the bytes");
            assert_eq!(batch.events.len(), n_together, "{n_listeners} listeners");
        }
    }
}

#[tokio::test]
async fn a_listener_that_is_a_few_batches_late_shares_their_bytes() {
    let bench = Bench::new();
    let (_store, events) = bench.open(0);
    let [mut a, mut b] = [(); 2].map(|()| Box::pin(events.listen_in_batches(None).expect("there is room")));
    (0..RECENT as u64).for_each(|n| events.announce(&changed(n)));
    for n in 0..RECENT as u64 {
        let (a, b) = (a.next().await.expect("a batch"), b.next().await.expect("a batch"));
        assert!(Arc::ptr_eq(&a, &b) && a.events[0].seq == n && a.events.len() == 1, "batch {n}");
    }
}
