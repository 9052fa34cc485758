//! What goes wrong in a page from outside: each ends in a clear state, and what can come back does.

use crate::page::{install_as, suggestions_with_scores};
use beckon_shared::checkpoint::Checkpoint;
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::cutting::{self, Cuts};
use beckon_tests::process::{Server, root};
use serde_json::Value;
use std::path::Path;
use std::sync::{Arc, Mutex};

fn open(url: &str, web_gpu: WebGpu) -> Page {
    Page::open(&format!("{url}/#/preview"), web_gpu)
}

/// Puts a copy of the built-in checkpoint with an id of its own among the files; id and length.
fn another(dir: &Path) -> (String, usize) {
    let bytes = std::fs::read(root().join("server/assets/nano.beckon")).unwrap();
    let (other, bytes) = install_as(dir, &Checkpoint::decode(&bytes).unwrap(), "another");
    (other.id, bytes.len())
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
fn an_old_checkpoint_makes_room_for_a_new_one_where_the_quota_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let (other, n_bytes) = another(dir.path());
    let server = Server::start(dir.path(), &[]);
    let url = &server.client.url;
    let page = Page::open(&format!("{url}/#/data"), WebGpu::Off);
    page.limit_quota(url, 1.6 * n_bytes as f64);
    page.go(&format!("{url}/?first#/preview"));
    loaded(&page);
    let picks: Vec<String> = server.client.checkpoints().into_iter().map(|info| info.id).collect();
    assert!(picks.len() == 2 && picks.contains(&other), "{picks:?}");
    for id in &picks {
        page.fill("checkpoint-pick", id);
        let shown = || page.attribute("engine-status", "data-checkpoint").filter(|shown| shown == id);
        page.wait("the picked checkpoint", 120, shown);
        let notice = page.text("engine-notice").unwrap_or_default();
        assert!(!notice.contains("not kept for offline use"), "{notice}");
    }
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
fn what_came_damaged_comes_again_past_the_browsers_own_cache() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let n_bytes = server.client.checkpoints().remove(0).n_bytes as usize;
    // magic, the header's stored hash, the header, a chunk
    for at in [7, 20, 60, n_bytes / 2] {
        let cuts = Arc::new(Mutex::new(Cuts { damaged: vec![at], ..Cuts::default() }));
        let page = open(&cutting::start(&server.client.url, &cuts).unwrap(), WebGpu::Off);
        loaded(&page);
        assert_eq!(page.text("engine-failure"), None, "byte {at}");
        let cuts = cuts.lock().unwrap();
        assert!(cuts.damaged.is_empty() && cuts.n_requests == 2, "byte {at}: {} requests", cuts.n_requests);
    }
}

#[test]
#[ignore = "needs Chromium"]
fn a_download_in_which_nothing_comes_any_more_goes_on_by_itself_and_the_old_engine_writes_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (_, n_bytes) = another(dir.path());
    let server = Server::start(dir.path(), &[]);
    let cuts = Arc::new(Mutex::new(Cuts { stalls: true, ..Cuts::default() }));
    let page = open(&cutting::start(&server.client.url, &cuts).unwrap(), WebGpu::Off);
    let shown = |id: &str| page.attribute("engine-status", "data-checkpoint").filter(|shown| shown == id);
    let old = page.wait("an engine", 120, || page.attribute("engine-status", "data-checkpoint"));
    let other = server.client.checkpoints().into_iter().find(|info| info.id != old).unwrap().id;
    let before = {
        let mut cuts = cuts.lock().unwrap();
        cuts.after.push(n_bytes / 2);
        (cuts.n_requests, cuts.n_bytes)
    };
    page.fill("checkpoint-pick", &other);
    page.wait("the download", 30, || cuts.lock().unwrap().after.is_empty().then_some(()));
    suggestions_with_scores(&page);
    assert!(shown(&old).is_some() && cuts.lock().unwrap().n_requests == before.0 + 1, "it was over too soon");
    page.wait("the other checkpoint", 60, || shown(&other));
    let cuts = cuts.lock().unwrap();
    let n_fetched = cuts.n_bytes - before.1;
    assert!(cuts.n_requests == before.0 + 2 && n_fetched < n_bytes + n_bytes / 4, "{n_fetched} of {n_bytes}: {cuts:?}");
}

/// Nothing comes for 20 seconds before a download is tried again: who has picked something else does not wait for that.
#[test]
#[ignore = "needs Chromium"]
fn another_choice_ends_a_download_that_nobody_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let (_, n_bytes) = another(dir.path());
    let server = Server::start(dir.path(), &[]);
    let cuts = Arc::new(Mutex::new(Cuts { stalls: true, ..Cuts::default() }));
    let page = open(&cutting::start(&server.client.url, &cuts).unwrap(), WebGpu::Off);
    let first = page.wait("an engine", 120, || page.attribute("engine-status", "data-checkpoint"));
    let other = server.client.checkpoints().into_iter().find(|info| info.id != first).unwrap().id;
    cuts.lock().unwrap().after.push(n_bytes / 2);
    page.fill("checkpoint-pick", &other);
    page.wait("the download", 30, || cuts.lock().unwrap().after.is_empty().then_some(()));
    page.wait("its progress", 10, || page.text("load-progress"));
    page.fill("checkpoint-pick", &first);
    page.wait("the first again", 12, || page.text("load-progress").is_none().then_some(()));
    assert_eq!(page.attribute("engine-status", "data-checkpoint"), Some(first));
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
