//! A run with LoRA in the page: the adapter is fetched in place of the checkpoint, laid over the base that the page has, tested,
//! exchanged as a whole, and taken back where it fails.

use crate::page::{install, saved_recording, suggestions_with_scores};
use crate::trained::trained;
use beckon_shared::adapter::AdapterFile;
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::control::RunState;
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::cutting::{self, Cuts};
use beckon_tests::process::{Server, beckon, printed};
use beckon_tests::sample::{simulated_log, tiny_config};
use serde_json::json;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Head of an answer, and what lies in sockets when one is cut.
const SLACK_BYTES: usize = 64 << 10;

/// A base, and what a run with LoRA left over it.
pub struct Tuned {
    base: Checkpoint,
    checkpoint: Checkpoint,
    adapter: AdapterFile,
}

/// Trains at the first call.
pub fn tuned() -> &'static Tuned {
    static TUNED: OnceLock<Tuned> = OnceLock::new();
    TUNED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let base = Checkpoint::decode(&trained().checkpoint_bytes).unwrap();
        install(dir.path(), &base, &trained().checkpoint_bytes);
        let server = Server::start(dir.path(), &[]);
        assert_eq!(server.client.import("log.jsonl", &simulated_log(300)).0, 200);
        let config = tiny_config(2, json!({"parent": base.id, "lora": {"rank": 2}, "sft": {"n_steps": 60}}));
        let run = server.client.start_run(&config).id;
        let id = server.client.wait_for_state(&run, RunState::Finished, Duration::from_secs(240)).checkpoint.unwrap();
        let get = |what: &str| server.client.get(&format!("/api/checkpoints/{id}/{what}")).body;
        let adapter = AdapterFile::decode(&get("adapter")).expect("a run with lora leaves an adapter");
        Tuned { base, checkpoint: Checkpoint::decode(&get("file")).unwrap(), adapter }
    })
}

/// Puts base and result into a data folder.
pub fn install_tuned(dir: &Path) -> &'static Tuned {
    let tuned = tuned();
    install(dir, &tuned.base, &trained().checkpoint_bytes);
    tuned
}

impl Tuned {
    /// Id of the base.
    pub fn base(&self) -> &str {
        &self.base.id
    }

    /// The same result under another name, its adapter changed by `edit`; gives id and size of the adapter.
    pub fn install_as(&self, dir: &Path, name: &str, edit: impl FnOnce(&mut AdapterFile)) -> (String, usize) {
        let mut checkpoint = self.checkpoint.clone();
        checkpoint.manifest.name = name.to_owned();
        let bytes = checkpoint.encode().unwrap();
        let checkpoint = Checkpoint::decode(&bytes).unwrap();
        install(dir, &checkpoint, &bytes);
        let mut adapter = self.adapter.clone();
        adapter.manifest.name = name.to_owned();
        adapter.manifest.checkpoint = checkpoint.id.clone();
        edit(&mut adapter);
        let bytes = adapter.encode().unwrap();
        std::fs::write(dir.join("checkpoints").join(format!("{}.adapter", checkpoint.id)), &bytes).unwrap();
        (checkpoint.id, bytes.len())
    }
}

/// Picks a checkpoint and waits until it answers; gives the bytes that the page says it fetched.
#[track_caller]
pub fn pick(page: &Page, id: &str) -> usize {
    page.fill("checkpoint-pick", id);
    page.wait("the picked checkpoint", 120, || {
        (page.attribute("engine-status", "data-checkpoint")? == id).then_some(())
    });
    page.attribute("engine-status", "data-fetched").and_then(|n| n.parse().ok()).expect("a number of bytes")
}

#[test]
#[ignore = "needs Chromium"]
fn the_page_fetches_an_adapter_over_a_base_that_it_has_and_refuses_a_bad_one() {
    let dir = tempfile::tempdir().unwrap();
    let tuned = install_tuned(dir.path());
    let (first, first_bytes) = tuned.install_as(dir.path(), "first", |_| {});
    let (second, second_bytes) =
        tuned.install_as(dir.path(), "second", |adapter| adapter.manifest.probe.tolerance *= 1.1);
    let (wrong, _) = tuned.install_as(dir.path(), "wrong", |adapter| adapter.manifest.probe.logits[0] += 1e3);
    let (damaged, _) = tuned.install_as(dir.path(), "damaged", |_| {});
    let server = Server::start(dir.path(), &[]);
    // whole when the server listed it, damaged when the page fetches it
    let path = dir.path().join("checkpoints").join(format!("{damaged}.adapter"));
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    let cuts = Arc::new(Mutex::new(Cuts::default()));
    let url = cutting::start(&server.client.url, &cuts).unwrap();
    let page = Page::open(&format!("{url}/#/preview"), WebGpu::Off);
    page.wait("the list of checkpoints", 60, || (page.count("checkpoint-pick") > 0).then_some(()));
    assert!(pick(&page, tuned.base()) > 0, "the base was not fetched");
    assert_eq!(page.text("adapter-status"), None);

    // the adapter alone comes over the network, and goes on where its download broke off
    let sent = || cuts.lock().unwrap().n_bytes;
    let before = sent();
    cuts.lock().unwrap().after = vec![first_bytes / 2];
    let n_fetched = pick(&page, &first);
    assert_eq!(n_fetched, first_bytes);
    let n_sent = sent() - before;
    // what came before the break was compressed, which leaves at least four fifths of it
    let least = first_bytes - first_bytes / 8;
    assert!((least..first_bytes + SLACK_BYTES).contains(&n_sent), "{n_sent} bytes for {first_bytes}");
    assert!(cuts.lock().unwrap().after.is_empty(), "the download was not cut");
    assert_eq!(page.attribute("adapter-status", "data-base").as_deref(), Some(tuned.base()));
    assert!(page.text("adapter-status").is_some_and(|text| text.contains("less than the whole checkpoint")));
    suggestions_with_scores(&page);
    let folder = dir.path().to_string_lossy().into_owned();
    std::fs::write(dir.path().join("replay.json"), saved_recording(&page)).unwrap();
    let replayed = beckon(["replay", "replay.json", "--data-dir", &folder], dir.path());
    assert!(printed(&replayed).contains("came out the same"), "{}", printed(&replayed));

    // exchanged for another over the same base; what cannot pass changes nothing
    assert_eq!(pick(&page, &second), second_bytes);
    suggestions_with_scores(&page);
    let texts = |page: &Page| page.eval("[...document.querySelectorAll('[data-testid=chip]')].map(c => c.textContent)");
    let shown = texts(&page);
    for (bad, why) in [(&wrong, "self-test"), (&damaged, "SHA-256")] {
        page.fill("checkpoint-pick", bad);
        let failure = || page.text("engine-failure").filter(|failure| failure.contains(why));
        let failure = page.wait(why, 60, failure);
        assert!(failure.contains("second stays in use"), "{failure}");
        assert_eq!(page.attribute("engine-status", "data-checkpoint").as_ref(), Some(&second));
        suggestions_with_scores(&page);
        assert_eq!(texts(&page), shown, "the old adapter does not run as before");
    }

    // the whole checkpoint instead, the base again, and an adapter that is kept: without the server
    page.click("engine-whole");
    page.wait("the whole one", 60, || (page.attribute("engine-status", "data-checkpoint")? == damaged).then_some(()));
    assert_eq!(page.text("adapter-status"), None);
    drop(server);
    assert_eq!(pick(&page, tuned.base()), 0);
    assert_eq!(pick(&page, &first), 0);
    assert!(page.text("adapter-status").is_some());
    suggestions_with_scores(&page);
}

#[test]
#[ignore = "needs Chromium"]
fn an_adapter_is_downloaded_from_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let tuned = install_tuned(dir.path());
    let (id, n_bytes) = tuned.install_as(dir.path(), "with an adapter", |_| {});
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&format!("{}/#/checkpoints", server.client.url), WebGpu::Off);
    let link = |id: &str| format!("checkpoint-row[data-checkpoint=\"{id}\"] [data-testid=adapter-download]");
    let href = page.wait("the link", 60, || page.attribute(&link(&id), "href"));
    assert_eq!(server.client.get(&href).body.len(), n_bytes);
    assert_eq!(page.count(&link(tuned.base())), 0, "the base has none");
}
