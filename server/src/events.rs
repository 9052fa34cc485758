//! What the server tells those who listen: numbered events, kept in the store, so that a listener that comes back, even
//! after a restart, misses nothing.
//!
//! In the loop: carries curves, run states and new checkpoints to open pages. An event is kept before anyone sees it, so
//! its number is never given twice. Curve points come many a step: they and a run's progress wait up to [`BATCH_EVERY`] (longer
//! where many listen), are kept together in one transaction, and wake every listener once; everything else is kept at once, with
//! what waited before it, and told at once but where [`MANY_LISTENERS`] would have to be woken for it alone.
//!
//! In a store that several servers share, the database gives the numbers, and each server reads on from the last one that it
//! knows, every [`BATCH_EVERY`]: events of all servers come to the listeners of each, in one order.
//!
//! What a run says, lines, alarms and samples, is also kept beside the run, for as long as it is there: events are forgotten, and
//! those who look at a run of last month want to know why it was alarming.
//!
//! A listener is a place in the sequence, not a queue: it reads from there on at its own pace, from the ring in memory or,
//! behind that, from the store. However slow it is, it costs a few events of memory, whose bytes all listeners share. Only what
//! has left the store ([`MAX_KEPT`]) is lost to it, and it is told how many with [`Event::Missed`].

use crate::store::{Kept, Store, StoreError};
use axum::body::Bytes;
use beckon_shared::control::{Event, Metric};
use futures_util::stream::{self, Stream, StreamExt};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Events kept in memory.
const RING: usize = 1_024;
/// Events kept in the store, and how many more may pile up before the oldest are removed.
const MAX_KEPT: u64 = 100_000;
const MAX_OVER: u64 = 5_000;
/// How long a curve point may wait for others, and how many may wait.
const BATCH_EVERY: Duration = Duration::from_millis(100);
const MAX_WAITING: usize = 512;
/// What it may wait more for each listener, as each is woken and written to for every batch; and at most.
const MORE_A_LISTENER: Duration = Duration::from_micros(200);
const BATCH_AT_MOST: Duration = Duration::from_millis(300);
/// From so many listeners on, whatever is kept is told no oftener than that.
const MANY_LISTENERS: usize = 128;
/// Batches whose bytes are kept for listeners that are late, and events of one at most.
const RECENT: usize = 8;
const MAX_BATCH: usize = 512;
/// Listeners at a time.
const MAX_LISTENERS: usize = 4_096;
/// Events read for a listener at once.
const PAGE: usize = 256;

/// An event with its place in the order of all events of this server.
#[derive(Debug)]
pub struct Numbered {
    /// Sequence number; grows by one from event to event, also over restarts.
    pub seq: u64,
    /// What happened, as JSON.
    pub json: String,
}

/// Events that became known together; listeners that are at the first of them share them.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order, without a gap but for what is lost.
    pub events: Vec<Arc<Numbered>>,
    sse: OnceLock<Bytes>,
}

impl Batch {
    fn new(events: Vec<Arc<Numbered>>) -> Arc<Self> {
        Arc::new(Self { events, sse: OnceLock::new() })
    }

    /// As server-sent events; every listener gets the same bytes.
    pub fn sse(&self) -> Bytes {
        // JSON of serde_json has no line break
        let text = |event: &Arc<Numbered>| format!("id: {}\ndata: {}\n\n", event.seq, event.json);
        self.sse.get_or_init(|| self.events.iter().map(text).collect::<String>().into()).clone()
    }
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
    /// Number of the next event; those before it can be listened to.
    next_seq: u64,
    /// Oldest number that the store has.
    oldest_seq: u64,
    /// First number that was ever given in this data folder.
    first_seq: u64,
    ring: VecDeque<Arc<Numbered>>,
    /// The newest events of the ring, as they became known.
    recent: VecDeque<Arc<Batch>>,
    /// Listeners know that the last of them is there.
    is_told: bool,
    /// Curve points and progress that wait to be kept.
    waiting: Vec<Event>,
    /// Events that the store refused, as on a full disk; tried again with the next.
    unkept: Vec<Kept>,
    closed: bool,
}

impl Board {
    /// Takes in what is kept.
    fn push(&mut self, rows: impl IntoIterator<Item = Kept>) {
        // what nobody knows of yet becomes known together
        let untold = if self.is_told { None } else { self.recent.pop_back() };
        let mut events = untold.map_or_else(Vec::new, |batch| batch.events.clone());
        for (seq, json) in rows {
            if seq != self.next_seq {
                // the oldest were removed before they could be read here
                self.ring.clear();
                self.recent.clear();
                events.clear();
            }
            if self.ring.len() == RING {
                self.ring.pop_front();
            }
            let event = Arc::new(Numbered { seq, json });
            self.ring.push_back(Arc::clone(&event));
            events.push(event);
            self.next_seq = seq + 1;
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.is_told = false;
        self.recent.push_back(Batch::new(events));
    }

    /// The batch that begins at a number.
    fn batch_at(&self, seq: u64) -> Option<&Arc<Batch>> {
        self.recent.iter().find(|batch| batch.events.first().is_some_and(|event| event.seq == seq))
    }
}

/// Where events are announced and listened to; share it behind an `Arc`.
pub struct Events {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    store: Arc<Store>,
    board: Mutex<Board>,
    /// Signalled when the first event waits to be kept or told, and at the end.
    waiting: Condvar,
    /// Held while events are read from a store that is shared.
    pulling: Mutex<()>,
    /// A store that fails is told of once.
    complained: AtomicBool,
    /// Number of the next event; `None` once closed.
    news: watch::Sender<Option<u64>>,
    listeners: Arc<Semaphore>,
}

impl Events {
    /// Goes on with the numbers of the store. In a fresh one the first event has the number `first_seq`: take the clock in
    /// microseconds, so that a number of another data folder is not taken for one of this.
    ///
    /// # Errors
    /// [`StoreError`] where the store cannot be read.
    pub fn open(store: Arc<Store>, first_seq: u64) -> Result<Self, StoreError> {
        let bounds = store.event_bounds()?;
        let (oldest_seq, next_seq) = bounds.map_or((first_seq, first_seq), |(oldest, newest)| (oldest, newest + 1));
        let first_seq = store.first_event_seq(oldest_seq)?;
        let next_seq = if store.is_shared() { store.next_shared_seq(next_seq)? } else { next_seq };
        let board = Board {
            next_seq,
            oldest_seq,
            first_seq,
            ring: VecDeque::new(),
            recent: VecDeque::new(),
            is_told: true,
            waiting: Vec::new(),
            unkept: Vec::new(),
            closed: false,
        };
        let (news, _) = watch::channel(Some(next_seq));
        let listeners = Arc::new(Semaphore::new(MAX_LISTENERS));
        let shared = Arc::new(Shared {
            store,
            board: Mutex::new(board),
            waiting: Condvar::new(),
            pulling: Mutex::new(()),
            complained: AtomicBool::new(false),
            news,
            listeners,
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("events".into()).spawn(move || {
            if for_thread.store.is_shared() { for_thread.share_batches() } else { for_thread.keep_batches() }
        });
        // a process that cannot start a thread at its beginning cannot go on
        let thread = thread.unwrap_or_else(|error| panic!("cannot start the thread of the events: {error}"));
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Announces an event; never waits for a listener. A line, an alarm or a sample of a run is kept with the run before anyone
    /// hears it.
    pub fn announce(&self, event: &Event) {
        self.shared.keep_said(event);
        if self.shared.store.is_shared() {
            return self.shared.share(Some(event));
        }
        let mut board = self.shared.board();
        self.shared.keep(&mut board, Some(event));
    }

    /// Announces an event, which may wait a moment for others; of [`Event::Metric`] the point itself is kept too.
    pub fn announce_soon(&self, event: Event) {
        let mut board = self.shared.board();
        if board.closed {
            return;
        }
        board.waiting.push(event);
        if board.waiting.len() >= MAX_WAITING {
            if self.shared.store.is_shared() {
                drop(board);
                return self.shared.share(None);
            }
            self.shared.keep(&mut board, None);
        } else {
            self.shared.waiting.notify_one();
        }
    }

    /// [`Events::listen_in_batches`], event by event.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen(
        &self,
        last_seq: Option<u64>,
    ) -> Result<impl Stream<Item = Arc<Numbered>> + Send + use<>, ListenError> {
        let batches = self.listen_in_batches(last_seq)?;
        Ok(batches.flat_map(|batch| stream::iter(batch.events.clone())))
    }

    /// Events from now on; with `last_seq` (the last one a returning listener saw) also those in between, led by
    /// [`Event::Missed`] where they are no longer kept. The stream ends after the last event once the hub is closed.
    /// Has to be read within a Tokio runtime.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen_in_batches(
        &self,
        last_seq: Option<u64>,
    ) -> Result<impl Stream<Item = Arc<Batch>> + Send + use<>, ListenError> {
        let (first, next, closed) = {
            let board = self.shared.board();
            (board.first_seq, board.next_seq, board.closed)
        };
        if closed {
            return Err(ListenError::Closed);
        }
        let permit = Arc::clone(&self.shared.listeners).try_acquire_owned().map_err(|_| ListenError::Full)?;
        let cursor = match last_seq {
            None => Cursor { at: next, strange: false },
            // another server of the same store has told of it already, and this one reads on to it in a moment
            Some(last) if last >= next && self.shared.store.is_shared() && last - next < MAX_OVER => {
                Cursor { at: last + 1, strange: false }
            }
            // a number ahead of ours comes from another server: nothing is known about what was missed
            Some(last) if last >= next => Cursor { at: next, strange: true },
            // so does one before our first; what there was between the two was not ours, so it does not count as missed
            Some(last) if last + 1 < first => Cursor { at: first, strange: true },
            Some(last) => Cursor { at: last + 1, strange: false },
        };
        let shared = Arc::clone(&self.shared);
        let news = shared.news.subscribe();
        let listener = Listener { shared, cursor, news, _permit: permit };
        Ok(stream::unfold(listener, async |mut listener| Some((listener.next().await?, listener))))
    }

    /// Listeners at this moment.
    pub fn n_listeners(&self) -> usize {
        self.shared.n_listeners()
    }

    /// Ends every listener's stream after what was announced; later announcements are dropped.
    pub fn close(&self) {
        if self.shared.store.is_shared() {
            self.shared.share(None);
        }
        let mut board = self.shared.board();
        if !self.shared.store.is_shared() {
            self.shared.keep(&mut board, None);
        }
        board.closed = true;
        drop(board);
        self.shared.waiting.notify_all();
        self.shared.news.send_replace(None);
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // it has nothing left to report
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn n_listeners(&self) -> usize {
        MAX_LISTENERS - self.listeners.available_permits()
    }

    /// How long what may wait waits at this moment.
    fn batch_every(&self) -> Duration {
        // there are at most MAX_LISTENERS
        (BATCH_EVERY + MORE_A_LISTENER * self.n_listeners() as u32).min(BATCH_AT_MOST)
    }

    /// Keeps a line, an alarm or a sample with its run.
    fn keep_said(&self, event: &Event) {
        let line = |run_id: &str, alarm, text: &str| self.store.add_run_line(run_id, crate::now_millis(), alarm, text);
        let (run_id, kept) = match event {
            Event::Line { run_id, text } => (run_id, line(run_id, false, text)),
            Event::Alarm { run_id: Some(run_id), text } => (run_id, line(run_id, true, text)),
            Event::Sample(sample) => (&sample.run_id, self.store.add_run_sample(sample)),
            _ => return,
        };
        if let Err(error) = kept {
            tracing::error!(%error, run = %run_id, "what a run said is not kept; listeners still hear it");
        }
    }

    /// Keeps what waits, and then `event`, and tells the listeners: at once, or with the next batch where they are many.
    fn keep(&self, board: &mut Board, event: Option<&Event>) {
        if board.closed {
            return;
        }
        if !board.waiting.is_empty() || event.is_some() {
            self.keep_now(board, event);
        }
        let n_untold = if board.is_told { 0 } else { board.recent.back().map_or(0, |batch| batch.events.len()) };
        let may_wait = event.is_some() && n_untold < MAX_BATCH && self.n_listeners() >= MANY_LISTENERS;
        if may_wait {
            self.waiting.notify_one();
        } else if n_untold > 0 {
            self.tell(board);
        }
    }

    fn tell(&self, board: &mut Board) {
        board.is_told = true;
        self.news.send_replace(Some(board.next_seq));
    }

    /// Keeps what waits, and then `event`.
    fn keep_now(&self, board: &mut Board, event: Option<&Event>) {
        let waiting = std::mem::take(&mut board.waiting);
        let jsons = jsons(&waiting, event);
        let metrics = metrics(waiting);
        let first = board.next_seq;
        let mut rows = std::mem::take(&mut board.unkept);
        rows.extend(jsons.iter().enumerate().map(|(i, json)| (first + i as u64, json.clone())));
        if let Err(error) = self.store.keep_events(&rows, &metrics) {
            tracing::error!(%error, "events are not kept; they are tried again with the next");
            let n_over = rows.len().saturating_sub(RING);
            rows.drain(..n_over);
            board.unkept = rows;
        }
        board.push((first..).zip(jsons));
        if board.next_seq - board.oldest_seq > MAX_KEPT + MAX_OVER {
            let oldest = board.next_seq - MAX_KEPT;
            match self.store.forget_events_before(oldest) {
                Ok(()) => board.oldest_seq = oldest,
                Err(error) => tracing::warn!(%error, "old events are not removed"),
            }
        }
    }

    /// Writes what waits, and then `event`, into a store that other servers write to as well, and tells what is new there.
    fn share(&self, event: Option<&Event>) {
        let (waiting, unkept) = {
            let mut board = self.board();
            if board.closed {
                return;
            }
            (std::mem::take(&mut board.waiting), std::mem::take(&mut board.unkept))
        };
        let new = jsons(&waiting, event);
        let metrics = metrics(waiting);
        let jsons: Vec<String> = unkept.into_iter().map(|(_, json)| json).chain(new).collect();
        if !jsons.is_empty()
            && let Err(error) = self.store.append_events(&jsons, &metrics)
        {
            tracing::error!(%error, "events are not kept; they are tried again with the next");
            let n_over = jsons.len().saturating_sub(RING);
            // they have no numbers yet
            let mut unkept: Vec<Kept> = jsons.into_iter().skip(n_over).map(|json| (0, json)).collect();
            let mut board = self.board();
            unkept.append(&mut board.unkept);
            board.unkept = unkept;
        }
        self.pull();
    }

    /// Tells what is new in a store that is shared.
    fn pull(&self) {
        let _alone = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let at = {
                let board = self.board();
                if board.closed {
                    return;
                }
                board.next_seq
            };
            // not under the lock of the board: the database may be far away
            let rows = match self.store.events_from(at, PAGE) {
                Ok(rows) => rows,
                Err(error) => {
                    if !self.complained.swap(true, Ordering::Relaxed) {
                        tracing::error!(%error, "events of the other servers cannot be read; they come once they can");
                    }
                    return;
                }
            };
            self.complained.store(false, Ordering::Relaxed);
            if rows.is_empty() {
                return;
            }
            let mut board = self.board();
            board.push(rows);
            self.tell(&mut board);
            let next = board.next_seq;
            let oldest = (next - board.oldest_seq > MAX_KEPT + MAX_OVER).then(|| next - MAX_KEPT);
            board.oldest_seq = oldest.unwrap_or(board.oldest_seq);
            drop(board);
            if let Some(oldest) = oldest
                && let Err(error) = self.store.forget_events_before(oldest)
            {
                tracing::warn!(%error, "old events are not removed");
            }
        }
    }

    /// The thread that writes and reads on in a store that is shared.
    fn share_batches(&self) {
        while !self.board().closed {
            std::thread::sleep(self.batch_every());
            self.share(None);
        }
    }

    /// The thread that keeps events that wait and for which nothing else came, and tells of those that were kept meanwhile.
    fn keep_batches(&self) {
        let mut board = self.board();
        while !board.closed {
            if board.waiting.is_empty() && board.is_told {
                board = self.waiting.wait(board).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(board);
            std::thread::sleep(self.batch_every());
            board = self.board();
            self.keep(&mut board, None);
        }
    }

    /// Events from `cursor` on: what became known last, or at most [`PAGE`]. Blocks where they have to be read from the store.
    fn page(&self, cursor: &mut Cursor) -> Result<Arc<Batch>, StoreError> {
        let oldest = {
            let board = self.board();
            let first = board.ring.front().map_or(board.next_seq, |numbered| numbered.seq);
            if cursor.at >= first && !cursor.strange {
                if let Some(batch) = board.batch_at(cursor.at) {
                    cursor.at += batch.events.len() as u64;
                    return Ok(Arc::clone(batch));
                }
                let from = usize::try_from(cursor.at - first).unwrap_or(RING);
                let page: Vec<_> = board.ring.iter().skip(from).take(PAGE).cloned().collect();
                cursor.at += page.len() as u64;
                return Ok(Batch::new(page));
            }
            board.oldest_seq
        };
        let mut page = Vec::new();
        if std::mem::take(&mut cursor.strange) || cursor.at < oldest {
            // only what was ours and is gone is counted
            let n_gone = oldest.saturating_sub(cursor.at);
            cursor.at += n_gone;
            page.push(missed(cursor.at.saturating_sub(1), n_gone));
        }
        for (seq, json) in self.store.events_from(cursor.at, PAGE)? {
            if seq > cursor.at {
                // what a full disk kept from being written, or what was removed between the two looks
                page.push(missed(seq - 1, seq - cursor.at));
            }
            cursor.at = seq + 1;
            page.push(Arc::new(Numbered { seq, json }));
        }
        Ok(Batch::new(page))
    }
}

/// Every event has a JSON form: strings, numbers (finite ones: see `Watch`) and lists of them.
fn jsons(waiting: &[Event], event: Option<&Event>) -> Vec<String> {
    waiting.iter().chain(event).map(serde_json::to_string).filter_map(Result::ok).collect()
}

fn metrics(events: Vec<Event>) -> Vec<Metric> {
    let metric = |event| if let Event::Metric(metric) = event { Some(metric) } else { None };
    events.into_iter().filter_map(metric).collect()
}

/// Where a listener is.
#[derive(Clone, Copy)]
struct Cursor {
    at: u64,
    /// It named a number that this server never gave.
    strange: bool,
}

/// Says that events up to `seq` are lost. It carries the number of the last of them, so a reconnect does not ask for those
/// again.
fn missed(seq: u64, n_events: u64) -> Arc<Numbered> {
    let json = serde_json::to_string(&Event::Missed { n_events }).unwrap_or_default();
    Arc::new(Numbered { seq, json })
}

/// Who listens: a place in the sequence.
struct Listener {
    shared: Arc<Shared>,
    cursor: Cursor,
    news: watch::Receiver<Option<u64>>,
    _permit: OwnedSemaphorePermit,
}

impl Listener {
    /// The next events; `None` once the hub is closed and everything is told, or where past events cannot be read: the listener
    /// then comes back with the number it has.
    async fn next(&mut self) -> Option<Arc<Batch>> {
        loop {
            // looked at before the page is read, so that what comes in between is not slept through
            let closed = self.news.borrow_and_update().is_none();
            match self.read().await {
                Ok(page) if page.events.is_empty() => {}
                Ok(page) => return Some(page),
                Err(error) => {
                    tracing::error!(%error, "past events cannot be read");
                    return None;
                }
            }
            if closed || self.news.changed().await.is_err() {
                return None;
            }
        }
    }

    /// What comes at the cursor, which moves on. What is no longer in memory is read on another thread.
    async fn read(&mut self) -> Result<Arc<Batch>, StoreError> {
        let behind = {
            let board = self.shared.board();
            self.cursor.at < board.ring.front().map_or(board.next_seq, |first| first.seq)
        };
        if !behind && !self.cursor.strange {
            return self.shared.page(&mut self.cursor);
        }
        let (shared, mut cursor) = (Arc::clone(&self.shared), self.cursor);
        let read = tokio::task::spawn_blocking(move || {
            let page = shared.page(&mut cursor);
            (page, cursor)
        });
        // a runtime that is shutting down
        let Ok((page, cursor)) = read.await else { return Ok(Arc::default()) };
        self.cursor = cursor;
        page
    }
}

#[cfg(test)]
mod tests;
