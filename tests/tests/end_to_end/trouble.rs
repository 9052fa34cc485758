//! What goes wrong in a page from outside: each ends in a clear state, and what can come back does.

use crate::page::suggestions_with_scores;
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::cutting::{self, Cuts};
use beckon_tests::process::Server;
use serde_json::Value;
use std::sync::{Arc, Mutex};

fn open(url: &str, web_gpu: WebGpu) -> Page {
    Page::open(&format!("{url}/#/preview"), web_gpu)
}

fn loaded(page: &Page) {
    page.wait("an engine", 120, || page.attribute("engine-status", "data-checkpoint"));
}

#[test]
#[ignore = "needs Chromium"]
fn a_device_lost_while_writing_is_told_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let page = open(&server.client.url, WebGpu::On);
    page.fill("setting-executor", "gpu");
    let on = |executor: &str| page.attribute("engine-status", "data-executor").filter(|on| on == executor).map(drop);
    page.wait("the GPU", 120, || on("gpu"));
    // long enough to be caught at it
    page.fill("setting-tokens", "24");
    page.click("suggest");
    page.wait("the writing", 30, || page.text("suggest").filter(|text| text.trim() == "Writing…"));
    page.eval("new Promise((done) => setTimeout(done, 300))");
    assert_eq!(page.text("suggest").as_deref().map(str::trim), Some("Writing…"), "it was over before the loss");
    page.eval("beckon.lose_device()");
    // the CPU writes what was asked for, and says why; the GPU comes back by itself
    page.wait("suggestions", 120, || (page.text("timings").is_some() && page.count("chip") > 0).then_some(()));
    assert_eq!(page.text("suggest-error"), None);
    page.wait("the GPU again", 120, || {
        page.text("engine-notice").filter(|text| text.contains("lost") && text.contains("is back"))
    });
    page.wait("the GPU again", 30, || on("gpu"));
    page.fill("setting-tokens", "4");
    suggestions_with_scores(&page);
    page.wait("the GPU still", 5, || on("gpu"));
}

#[test]
#[ignore = "needs Chromium"]
fn an_exhausted_quota_costs_the_cache_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let url = &server.client.url;
    let info = server.client.checkpoints().remove(0);
    let page = Page::open(&format!("{url}/#/data"), WebGpu::Off);
    page.limit_quota(url, 2e6);
    page.go(&format!("{url}/?first#/preview"));
    loaded(&page);
    let notice = page.text("engine-notice").unwrap_or_default();
    assert!(notice.contains("not kept for offline use"), "{notice}");
    assert!(notice.contains("This browser keeps"), "{notice}");
    suggestions_with_scores(&page);

    // with room again it is kept, and the next visit fetches nothing
    page.limit_quota(url, 1e9);
    let fetched = |visit: &str| {
        page.go(&format!("{url}/?{visit}#/preview"));
        loaded(&page);
        page.attribute("engine-status", "data-fetched").and_then(|n| n.parse::<u64>().ok()).unwrap()
    };
    assert!(fetched("second") > 0 && page.text("engine-notice").is_some_and(|text| !text.contains("not kept")));
    assert_eq!(fetched("third"), 0, "of {}", info.n_bytes);
}

#[test]
#[ignore = "needs Chromium"]
fn a_server_that_goes_away_half_way_is_named_and_the_rest_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let n_bytes = server.client.checkpoints().remove(0).n_bytes as usize;
    let cuts = Arc::new(Mutex::new(Cuts { after: vec![n_bytes / 2], goes: true, ..Cuts::default() }));
    let page = open(&cutting::start(&server.client.url, &cuts).unwrap(), WebGpu::Off);
    page.wait("the break", 60, || cuts.lock().unwrap().is_gone.then_some(()));
    let failure = page.wait("the failure", 60, || page.text("engine-failure"));
    assert!(failure.contains("no answer from the server") && failure.contains("goes on from it"), "{failure}");
    assert_eq!(page.text("engine-status"), None);
    assert_eq!(page.text("load-progress"), None, "it still seems to load");
    let before = {
        let mut cuts = cuts.lock().unwrap();
        (cuts.goes, cuts.is_gone) = (false, false);
        cuts.n_bytes
    };
    page.click("engine-retry");
    loaded(&page);
    let rest = cuts.lock().unwrap().n_bytes - before;
    assert!(rest < n_bytes * 2 / 3, "{rest} of {n_bytes} bytes came again after {before}");
    assert_eq!(page.text("engine-failure"), None);
    suggestions_with_scores(&page);
}

#[test]
#[ignore = "needs Chromium"]
fn odd_prompts_and_a_hidden_tab_end_well() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let page = open(&server.client.url, WebGpu::Off);
    loaded(&page);
    // nothing said: the button waits, and whoever asks all the same gets suggestions
    page.fill("turn-text", "  ");
    page.wait("a button that waits", 10, || {
        (page.eval("document.querySelector('[data-testid=suggest]').disabled") == true).then_some(())
    });
    let suggest = |prompt: &str| -> Value {
        let call = format!("beckon.suggest({}, '{{\"n_candidates\": 2, \"max_new_tokens\": 4}}')", Value::from(prompt));
        serde_json::from_str(page.eval(&call).as_str().unwrap()).unwrap()
    };
    for prompt in ["\"\"", "[]", "\"\\u0000 \\ud83e\\udd80 \\u202e \\uffff\""] {
        let got = suggest(prompt);
        assert_eq!(got["candidates"].as_array().map(Vec::len), Some(2), "{prompt}: {got}");
    }
    assert!(page.try_eval("beckon.suggest('{}', null)").is_err(), "no prompt at all");
    // longer than the model's context
    let long = "how to cook rice ".repeat(2_000);
    let got = suggest(&format!("{long:?}"));
    let room = got["engine"]["max_seq_len"].as_u64().unwrap() - 4;
    assert_eq!((got["n_prompt_tokens"].as_u64(), &got["fills_context"]), (Some(room), &Value::Bool(true)));
    page.fill("turn-text", &long);
    suggestions_with_scores(&page);
    assert!(page.text("context-full").is_some_and(|text| text.contains("what is older is not read")));
    page.fill("turn-text", "how to cook rice");
    suggestions_with_scores(&page);
    assert_eq!(page.text("context-full"), None);

    let hidden = page.hide();
    page.wait("a hidden tab", 10, || (page.eval("document.visibilityState") == "hidden").then_some(()));
    suggestions_with_scores(&page);
    let got = suggest("\"rust\"");
    assert_eq!(got["candidates"].as_array().map(Vec::len), Some(2));
    drop(hidden);
    page.wait("the tab in front", 10, || (page.eval("document.visibilityState") == "visible").then_some(()));
    suggestions_with_scores(&page);
    assert_eq!(page.errors(), Vec::<String>::new());
}
