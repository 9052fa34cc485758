//! What the server tells those who listen: numbered events, the newest of them kept for listeners that come back.
//!
//! In the loop: carries curves, run states and new checkpoints to open pages. Both the memory of past events and
//! what may wait for a slow listener are bounded; whoever falls out is told with [`Event::Missed`] and reads the
//! resources again.

use beckon_shared::control::Event;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt};

/// Events kept for listeners that come back, and events that may wait for a slow one.
const CAPACITY: usize = 1_024;
/// Listeners at a time.
const MAX_LISTENERS: usize = 256;

/// An event with its place in the order of all events of this server.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbered {
    /// Sequence number; grows by one from event to event and stays ahead of earlier runs of the server.
    pub seq: u64,
    /// What happened.
    pub event: Event,
}

/// The listener limit is reached, or the server is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// [`MAX_LISTENERS`] are connected.
    #[error("{MAX_LISTENERS} listeners are connected already; close some pages")]
    Full,
    /// No more events will come.
    #[error("the server is shutting down")]
    Closed,
}

struct Board {
    first_seq: u64,
    next_seq: u64,
    ring: VecDeque<Arc<Numbered>>,
    /// `None` once closed.
    sender: Option<broadcast::Sender<Arc<Numbered>>>,
}

/// Where events are announced and listened to; share it behind an `Arc`.
pub struct Events {
    board: Mutex<Board>,
}

impl Events {
    /// An empty hub whose first event has the number `first_seq`. Take the clock (milliseconds) times 1,000, so that a
    /// number from before a restart is recognised as older than everything here.
    pub fn new(first_seq: u64) -> Self {
        let (sender, _) = broadcast::channel(CAPACITY);
        let ring = VecDeque::new();
        Self { board: Mutex::new(Board { first_seq, next_seq: first_seq, ring, sender: Some(sender) }) }
    }

    /// Announces an event; never blocks on a listener.
    pub fn announce(&self, event: Event) {
        let mut board = self.board();
        let Some(sender) = board.sender.clone() else { return };
        let numbered = Arc::new(Numbered { seq: board.next_seq, event });
        board.next_seq += 1;
        if board.ring.len() == CAPACITY {
            board.ring.pop_front();
        }
        board.ring.push_back(Arc::clone(&numbered));
        // sent under the lock, so that the order of a listener is the order of the numbers; an error means nobody listens
        let _ = sender.send(numbered);
    }

    /// Events from now on; with `last_seq` (the last one a returning listener saw) also those in between, led by
    /// [`Event::Missed`] where they are no longer kept. The stream ends when the hub is closed.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen(&self, last_seq: Option<u64>) -> Result<impl Stream<Item = Numbered> + Send + use<>, ListenError> {
        let board = self.board();
        let sender = board.sender.as_ref().ok_or(ListenError::Closed)?;
        if sender.receiver_count() >= MAX_LISTENERS {
            return Err(ListenError::Full);
        }
        let backlog = backlog(&board, last_seq);
        let mut next_seq = board.next_seq;
        let live = BroadcastStream::new(sender.subscribe()).map(move |received| match received {
            Ok(numbered) => {
                next_seq = numbered.seq + 1;
                (*numbered).clone()
            }
            // carries the number of the last lost event, so that a reconnect does not ask for those again
            Err(BroadcastStreamRecvError::Lagged(n_events)) => {
                next_seq += n_events;
                Numbered { seq: next_seq.saturating_sub(1), event: Event::Missed { n_events } }
            }
        });
        Ok(tokio_stream::iter(backlog).chain(live))
    }

    /// Ends every listener's stream after what is already on its way; later announcements are dropped.
    pub fn close(&self) {
        self.board().sender = None;
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a listener that saw `last_seq` has not seen. How many events an earlier run of the server announced is not
/// known, so a gap that reaches back before this one counts only what this one announced.
fn backlog(board: &Board, last_seq: Option<u64>) -> Vec<Numbered> {
    let Some(last_seq) = last_seq else { return Vec::new() };
    let missed = |seq: u64, n_events| Numbered { seq, event: Event::Missed { n_events } };
    if last_seq >= board.next_seq {
        // a number ahead of ours comes from another server: nothing is known about what was missed
        return vec![missed(board.next_seq.saturating_sub(1), 0)];
    }
    let oldest = board.ring.front().map_or(board.next_seq, |numbered| numbered.seq);
    let gap =
        (last_seq + 1 < oldest).then(|| missed(oldest.saturating_sub(1), oldest - board.first_seq.max(last_seq + 1)));
    let newer = board.ring.iter().filter(|numbered| numbered.seq > last_seq).map(|numbered| (**numbered).clone());
    gap.into_iter().chain(newer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    fn changed(n_records: u64) -> Event {
        Event::LogChanged { n_records }
    }

    async fn collect(events: &Events, last_seq: Option<u64>) -> Vec<(u64, Event)> {
        let stream = events.listen(last_seq).expect("the hub is open");
        events.close();
        stream.map(|numbered| (numbered.seq, numbered.event)).collect().await
    }

    #[tokio::test]
    async fn a_returning_listener_gets_exactly_what_it_missed() {
        let events = Events::new(10);
        (0..5).for_each(|n| events.announce(changed(n)));
        let got = collect(&events, Some(12)).await;
        assert_eq!(got, [(13, changed(3)), (14, changed(4))]);
    }

    #[tokio::test]
    async fn a_new_listener_gets_nothing_old() {
        let events = Events::new(10);
        events.announce(changed(0));
        assert_eq!(collect(&events, None).await, []);
    }

    #[tokio::test]
    async fn a_listener_that_is_up_to_date_gets_nothing() {
        let events = Events::new(10);
        events.announce(changed(0));
        assert_eq!(collect(&events, Some(10)).await, []);
    }

    #[tokio::test]
    async fn events_that_fell_out_of_the_ring_are_reported_as_missed() {
        let events = Events::new(0);
        let n = CAPACITY as u64 + 5;
        (0..n).for_each(|i| events.announce(changed(i)));
        let got = collect(&events, Some(1)).await;
        // 0 to 4 fell out, of which 2, 3 and 4 are new to this listener
        assert_eq!(got[0], (4, Event::Missed { n_events: 3 }));
        assert_eq!(got[1], (5, changed(5)));
        assert_eq!(got.len(), CAPACITY + 1);
    }

    #[tokio::test]
    async fn a_number_from_another_server_reads_as_missed() {
        let events = Events::new(10);
        events.announce(changed(0));
        let got = collect(&events, Some(99)).await;
        assert_eq!(got, [(10, Event::Missed { n_events: 0 })]);
    }

    #[tokio::test]
    async fn after_a_restart_the_listener_is_told_to_read_again() {
        let events = Events::new(1_000);
        events.announce(changed(0));
        let got = collect(&events, Some(7)).await;
        assert_eq!(got, [(999, Event::Missed { n_events: 0 }), (1_000, changed(0))]);
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_how_many_it_lost() {
        let events = Events::new(0);
        let stream = events.listen(None).expect("the hub is open");
        let n = CAPACITY as u64 + 3;
        (0..n).for_each(|i| events.announce(changed(i)));
        events.close();
        let got: Vec<Numbered> = stream.collect().await;
        let missed: u64 = got.iter().map(|g| if let Event::Missed { n_events } = g.event { n_events } else { 0 }).sum();
        let seen = got.iter().filter(|g| matches!(g.event, Event::LogChanged { .. })).count() as u64;
        assert!(missed > 0, "the listener lost events and was not told");
        assert_eq!(missed + seen, n);
        assert_eq!(got.last().map(|g| g.seq), Some(n - 1));
        assert!(got.windows(2).all(|w| w[0].seq < w[1].seq), "numbers do not grow");
    }

    #[test]
    fn the_number_of_listeners_is_limited() {
        let events = Events::new(0);
        let open: Vec<_> = (0..MAX_LISTENERS).map(|_| events.listen(None).expect("below the limit")).collect();
        assert_eq!(events.listen(None).err(), Some(ListenError::Full));
        drop(open);
        assert!(events.listen(None).is_ok());
    }
}
