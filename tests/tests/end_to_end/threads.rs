//! Products that the page's workers share.

use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::process::Server;
use serde_json::Value;

/// What the page writes on so many threads, with everything that it says of it but times; and what it says that it runs.
fn suggested(url: &str, n_threads: usize) -> (Vec<Value>, String) {
    let page = Page::open(&format!("{url}/?threads={n_threads}#/preview"), WebGpu::Off);
    page.wait("the list of checkpoints", 60, || (page.count("checkpoint-pick") > 0).then_some(()));
    page.fill("setting-executor", "cpu");
    page.wait("the engine", 120, || page.attribute("engine-status", "data-executor").filter(|runs| runs == "cpu"));
    let mut all = Vec::new();
    for (n_candidates, seed) in [(1, 5), (8, 6), (3, 7)] {
        let options = format!("'{{\"n_candidates\":{n_candidates},\"max_new_tokens\":12,\"seed\":{seed}}}'");
        let got = page.eval(&format!("beckon.suggest('\"how to cook rice\"', {options})"));
        let mut got: Value = serde_json::from_str(got.as_str().expect("JSON text")).expect("JSON");
        all.push(got["candidates"].take());
    }
    let status = page.eval("beckon.status()");
    let status: Value = serde_json::from_str(status.as_str().expect("JSON text")).expect("JSON");
    assert_eq!(page.errors(), Vec::<String>::new());
    (all, status["engine"]["adapter"].as_str().expect("an adapter").to_owned())
}

#[test]
#[ignore = "needs Chromium"]
fn the_page_shares_products_among_threads_and_writes_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let (alone, name) = suggested(&server.client.url, 1);
    assert!(name.contains("int8-relaxed") && !name.contains("threads"), "{name}");
    assert_eq!(alone[1].as_array().map(Vec::len), Some(8), "{alone:?}");
    let (together, name) = suggested(&server.client.url, 3);
    assert!(name.ends_with(", 3 threads"), "{name}");
    assert_eq!(together, alone);
}
