//! Futures that have nothing to wait for: everything on the CPU, and every GPU call outside a page.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The output of a future that completes at its first poll; `None` where it would wait for someone.
///
/// GPU work blocks inside the poll natively, so this runs it to the end; in a page it would wait for
/// the browser, and must be awaited instead.
pub fn ready<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_what_is_there_and_does_not_wait() {
        assert_eq!(ready(async { std::future::ready(3).await + 1 }), Some(4));
        assert_eq!(ready(std::future::pending::<u32>()), None);
    }
}
