//! A stream ends when the token that opened it does.

use super::*;
use crate::access::new_token;
use crate::app::tests::{Bench, bench_with, open_doors};
use axum::http::HeaderValue;
use beckon_shared::control::Event;
use beckon_shared::control::access::Role;
use tokio::time::timeout;

const OFTEN: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

/// A listener of `bench`, with a token that ends at `expires_millis`, or without one.
fn listener(
    bench: &Bench,
    token: Option<Option<i64>>,
) -> Pin<Box<dyn Stream<Item = Result<Bytes, Infallible>> + Send>> {
    let mut headers = HeaderMap::new();
    if let Some(expires_millis) = token {
        let (text, token) = new_token("ann", Role::Viewer, 0, expires_millis).expect("random");
        assert!(bench.app.store.add_token(&token).expect("stored"));
        let value = HeaderValue::from_str(&format!("Bearer {text}")).expect("a value");
        headers.insert(header::AUTHORIZATION, value);
    }
    let pass = Pass::new(Arc::clone(&bench.app.store), &headers, Need::View);
    Box::pin(frames(bench.app.events.listen_in_batches(None).expect("open"), pass, OFTEN))
}

async fn frame(listener: &mut (impl Stream<Item = Result<Bytes, Infallible>> + Unpin)) -> Option<Bytes> {
    timeout(PATIENCE, listener.next()).await.expect("neither a frame nor an end").map(|frame| match frame {
        Ok(frame) => frame,
        Err(never) => match never {},
    })
}

#[tokio::test]
async fn a_stream_ends_soon_after_its_token_is_removed() {
    let bench = bench_with(open_doors());
    let (mut ann, mut local) = (listener(&bench, Some(None)), listener(&bench, None));
    for _ in 0..3 {
        assert_eq!(frame(&mut ann).await.as_deref(), Some(&b": still here\n\n"[..]), "it ended with a good token");
    }
    assert!(bench.app.store.remove_token("ann").expect("removed"));
    // what was on its way may still come
    let mut n_more = 0;
    while frame(&mut ann).await.is_some() {
        n_more += 1;
        assert!(n_more < 3, "the stream goes on without its token");
    }
    // one that needed none goes on
    for _ in 0..3 {
        assert!(frame(&mut local).await.is_some(), "it ended");
    }
}

// a thread of its own for the time: a stream that is always ready leaves none to it
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_always_has_something_ends_when_its_token_expires() {
    let bench = bench_with(open_doors());
    let begun = std::time::Instant::now();
    let mut ann = listener(&bench, Some(Some(crate::now_millis() + 300)));
    let mut n_events = 0;
    loop {
        bench.app.events.announce(&Event::LogChanged { n_records: 1 });
        match frame(&mut ann).await {
            Some(frame) => n_events += usize::from(frame.starts_with(b"id: ")),
            None => break,
        }
        assert!(begun.elapsed() < PATIENCE, "the stream goes on with a token that has expired");
    }
    assert!(n_events > 0 && begun.elapsed() >= Duration::from_millis(250), "it ended before its token did");
}
