//! A download that breaks off goes on where it was.

use beckon_shared::checkpoint::CHUNK_BYTES;
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::cutting::{self, Cuts};
use beckon_tests::process::Server;
use std::sync::{Arc, Mutex};

/// Interruptions.
const N_CUTS: usize = 20;
/// Head of an answer, and what lies in sockets when one is cut.
const SLACK_BYTES: usize = 64 << 10;

#[test]
#[ignore = "needs Chromium"]
fn a_download_cut_at_20_points_ends_whole_and_fetches_less_than_a_chunk_twice() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let info = server.client.checkpoints().remove(0);
    let n_bytes = info.n_bytes as usize;
    // places that are no multiple of anything, all of them before the end
    let after = (0..N_CUTS).map(|i| 1_000 + (i * 7_919 + 104_729 * (i % 3)) % (n_bytes / (N_CUTS + 1))).collect();
    let cuts = Arc::new(Mutex::new(Cuts { after, ..Cuts::default() }));
    let url = cutting::start(&server.client.url, &cuts).unwrap();
    let page = Page::open(&format!("{url}/#/preview"), WebGpu::Off);
    page.wait("the list of checkpoints", 60, || (page.count("checkpoint-pick") > 0).then_some(()));
    let mut n_tries = 0;
    page.wait("the checkpoint", 300, || {
        // several breaks in one chunk are shown, and somebody tries again
        if page.text("engine-failure").is_some() && page.count("engine-retry") > 0 {
            n_tries += 1;
            page.click("engine-retry");
        }
        (page.attribute("engine-status", "data-checkpoint")? == info.id).then_some(())
    });
    let cuts = cuts.lock().unwrap();
    assert!(cuts.after.is_empty(), "{} cuts were not made", cuts.after.len());
    assert!(cuts.n_requests > N_CUTS, "{} requests", cuts.n_requests);
    // a retry by hand loses what it had of one chunk; others go on within it
    let most = n_bytes + n_tries * CHUNK_BYTES + N_CUTS * SLACK_BYTES;
    assert!(cuts.n_bytes < most, "{} bytes for a file of {n_bytes} with {n_tries} tries by hand", cuts.n_bytes);
    println!("{} bytes in {} requests for a file of {n_bytes}, {n_tries} tries by hand", cuts.n_bytes, cuts.n_requests);
}
