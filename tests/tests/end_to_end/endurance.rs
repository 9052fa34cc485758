//! Long use: memory of the page stays what it was after warming up.

use crate::adapters::{install_tuned, pick};
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::process::Server;
use serde_json::Value;

/// Asks for suggestions one after the other, each with another seed; gives wasm and GPU bytes after each.
fn script(n: usize) -> String {
    format!(
        "(async () => {{ const seen = [];
          for (let seed = 0; seed < {n}; seed++) {{
            const options = {{ n_candidates: 2, max_new_tokens: 2, seed }};
            const got = JSON.parse(await beckon.suggest('\"how to cook rice\"', JSON.stringify(options)));
            seen.push([got.memory.wasm_bytes, got.memory.device_bytes]);
          }}
          return seen; }})()"
    )
}

fn memory(page: &Page, n: usize) -> Vec<(u64, u64)> {
    let seen: Vec<(u64, u64)> = serde_json::from_value::<Vec<[u64; 2]>>(page.eval(&script(n)))
        .expect("numbers")
        .into_iter()
        .map(|[wasm, device]| (wasm, device))
        .collect();
    assert_eq!(seen.len(), n);
    seen
}

fn open(url: &str, executor: &str, base: &str) -> Page {
    let page = Page::open(&format!("{url}/#/preview"), WebGpu::On);
    page.wait("the list of checkpoints", 60, || (page.count("checkpoint-pick") > 0).then_some(()));
    page.fill("setting-executor", executor);
    pick(&page, base);
    let runs = || page.attribute("engine-status", "data-executor").filter(|runs| runs == executor);
    page.wait(executor, 120, runs);
    page
}

/// 300 generations with 20 exchanges of the adapter among them.
fn stays_flat(executor: &str) {
    const N_SWAPS: usize = 20;
    const N_BETWEEN: usize = 15;
    let dir = tempfile::tempdir().unwrap();
    let tuned = install_tuned(dir.path());
    let ids = ["first", "second"].map(|name| tuned.install_as(dir.path(), name, |_| {}).0);
    let server = Server::start(dir.path(), &[]);
    let page = open(&server.client.url, executor, tuned.base());
    // both ways of loading have been gone, and both adapters been on
    for id in &ids {
        pick(&page, id);
        memory(&page, 3);
    }
    let warm = *memory(&page, 3).last().unwrap();
    assert_eq!(warm.1 > 0, executor == "gpu", "{warm:?}");
    let mut n_generations = 0;
    for swap in 0..N_SWAPS {
        pick(&page, &ids[swap % 2]);
        for seen in memory(&page, N_BETWEEN) {
            n_generations += 1;
            assert_eq!(seen, warm, "memory after {n_generations} generations and {} swaps", swap + 1);
        }
    }
    assert_eq!(n_generations, 300);
    let executor_now = page.eval("beckon.status()");
    let status: Value = serde_json::from_str(executor_now.as_str().unwrap()).unwrap();
    assert_eq!(status["engine"]["executor"], executor, "{status}");
    assert_eq!(page.errors(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn memory_stays_flat_over_300_generations_and_20_adapters_on_the_cpu() {
    stays_flat("cpu");
}

#[test]
#[ignore = "needs Chromium"]
fn memory_stays_flat_over_300_generations_and_20_adapters_on_the_gpu() {
    stays_flat("gpu");
}
