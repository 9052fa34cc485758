//! Bursts, refills, and the bound on clients.

use super::*;

const RATE: Rate = Rate { per_sec: 2.0, burst: 3.0 };

#[test]
fn a_burst_then_the_rate_then_a_wait() {
    let mut buckets = Buckets::new(RATE, 10);
    for _ in 0..3 {
        assert_eq!(buckets.take("a", 0.0), Ok(()));
    }
    assert_eq!(buckets.take("a", 0.0), Err(Duration::from_millis(500)));
    assert_eq!(buckets.take("b", 0.0), Ok(()), "clients do not share a bucket");
    assert_eq!(buckets.take("a", 0.5), Ok(()));
    assert!(buckets.take("a", 0.5).is_err());
    // a long pause fills it up to the burst, not beyond
    let n = (0..10).filter(|_| buckets.take("a", 1_000.0).is_ok()).count();
    assert_eq!(n, 3);
}

#[test]
fn a_clock_that_goes_back_gives_nothing() {
    let mut buckets = Buckets::new(RATE, 10);
    (0..3).for_each(|_| assert!(buckets.take("a", 100.0).is_ok()));
    assert!(buckets.take("a", 0.0).is_err());
}

#[test]
fn clients_are_bounded_and_the_busy_ones_stay_known() {
    let mut buckets = Buckets::new(RATE, 100);
    (0..3).for_each(|_| assert!(buckets.take("busy", 0.0).is_ok()));
    for i in 0..1_000 {
        assert!(buckets.take(&format!("c{i}"), 0.0).is_ok());
        assert!(buckets.buckets.len() <= 100);
    }
    assert!(buckets.take("busy", 0.0).is_err(), "many other clients made it forget the busy one");
}
