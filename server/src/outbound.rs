//! What this process asks of other servers, the bucket and the database, by asynchronous libraries: one runtime with a thread of
//! its own asks, and callers, which block, wait for the answer.
//!
//! They may be on any thread, also on one of the HTTP server's runtime, where Tokio refuses to wait (`block_on` panics).

use std::sync::{LazyLock, mpsc};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::rustls::crypto::ring;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    // reqwest and tokio-postgres-rustls ask for the process's own cryptography; where one was named already, that one holds
    let _ = ring::default_provider().install_default();
    let built = Builder::new_multi_thread().worker_threads(1).thread_name("outbound").enable_all().build();
    built.expect("the system has room for one thread more")
});

/// Waits for what `asked` gives; it runs on the thread of this module, and so does what it spawns.
pub(crate) fn wait<T: Send + 'static>(asked: impl Future<Output = T> + Send + 'static) -> T {
    let (answer, answered) = mpsc::channel();
    // nobody gives up waiting
    RUNTIME.spawn(async move { _ = answer.send(asked.await) });
    answered.recv().expect("what is asked of other servers does not panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_waits_inside_and_outside_a_runtime() {
        let asked = || wait(async { tokio::spawn(async { 7 }).await.expect("done") });
        assert_eq!(asked(), 7);
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        assert_eq!(runtime.block_on(async { asked() }), 7);
    }
}
