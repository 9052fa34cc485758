//! GGUF files in the page: picked from the disk or at an address, read by ranges, refused where they are bad.

use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::gguf::Gguf;
use beckon_shared::gguf::llama::gguf_from_checkpoint;
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::process::{Server, beckon, printed, root};
use beckon_tests::site::Site;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Texts and log-probabilities of suggestions, with the sampling named.
fn written(page: &Page, prompt: &str, options: &str) -> (Vec<String>, Vec<f64>, Value) {
    let text = page.eval(&format!("beckon.suggest({}, {options:?})", Value::from(Value::from(prompt).to_string())));
    let suggested: Value = serde_json::from_str(text.as_str().expect("JSON text")).unwrap();
    let candidates = suggested["candidates"].as_array().unwrap();
    let texts = candidates.iter().map(|c| c["text"].as_str().unwrap().to_owned()).collect();
    let logps = candidates.iter().map(|c| c["logp_nats"].as_f64().unwrap()).collect();
    (texts, logps, suggested)
}

/// Picks a GGUF file and waits until it answers on this executor.
#[track_caller]
fn open(page: &Page, path: &Path, executor: &str) {
    page.pick_file("gguf-file", path);
    let name = path.file_name().unwrap().to_str().unwrap();
    page.wait("the file in use", 180, || {
        let shown = page.text("engine-status")?;
        let on = page.attribute("engine-status", "data-executor")?;
        assert_eq!(page.text("engine-failure"), None);
        (shown.contains(name) && on == executor).then_some(())
    });
}

#[test]
#[ignore = "needs Chromium"]
fn a_gguf_file_of_the_user_writes_what_the_checkpoint_writes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let info = server.client.checkpoints().remove(0);
    let gguf = dir.path().join("nano.gguf");
    let built_in = dir.path().join("nano.beckon");
    std::fs::write(&built_in, server.client.get(&format!("/api/checkpoints/{}/file", info.id)).body).unwrap();
    let arg = |path: &PathBuf| path.to_str().unwrap().to_owned();
    let export = ["model", "export", &arg(&built_in), "--format", "gguf", "--out", &arg(&gguf)].map(str::to_owned);
    let exported = beckon(export, dir.path());
    assert!(exported.status.success(), "{}", printed(&exported));

    let page = Page::open(&format!("{}/#/preview", server.client.url), WebGpu::On);
    let sampled = "{\"seed\": 5, \"n_candidates\": 4, \"max_new_tokens\": 8}";
    let greedy = "{\"temperature\": 0, \"n_candidates\": 1, \"max_new_tokens\": 12}";
    let on = |executor: &str| {
        page.wait(executor, 180, || (page.attribute("engine-status", "data-executor")? == executor).then_some(()));
    };
    for executor in ["cpu", "gpu"] {
        page.fill("checkpoint-pick", &info.id);
        page.fill("setting-executor", executor);
        page.wait("the checkpoint", 180, || {
            (page.attribute("engine-status", "data-checkpoint")? == info.id).then_some(())
        });
        on(executor);
        let want = [sampled, greedy].map(|options| written(&page, "how to cook rice", options));
        assert!(want[0].2["candidates"][0]["score"].is_object(), "the checkpoint has a reward model");
        open(&page, &gguf, executor);
        for (options, (texts, logps, _)) in [sampled, greedy].into_iter().zip(want) {
            let (got_texts, got_logps, suggested) = written(&page, "how to cook rice", options);
            assert_eq!((got_texts, got_logps), (texts, logps), "{executor}: {options}");
            assert!(suggested["candidates"].as_array().unwrap().iter().all(|c| c["score"].is_null()));
            assert_ne!(suggested["engine"]["checkpoint"]["id"], info.id);
            if options == sampled {
                // letter by letter again, from the same file: in 8 bits for the CPU, in f32 for the GPU
                std::fs::write(dir.path().join("replay.json"), suggested["recording"].as_str().unwrap()).unwrap();
                let replayed = beckon(["replay", "replay.json", "--checkpoint", "nano.gguf"], dir.path());
                assert!(printed(&replayed).contains("came out the same"), "{}", printed(&replayed));
            }
        }
        let notice = page.text("engine-notice").unwrap_or_default();
        assert!(notice.contains("nothing scores them"), "{notice}");
        assert!(page.text("engine-status").is_some_and(|text| text.contains("from your disk, sent nowhere")));
    }
    page.click("suggest");
    page.wait("chips", 60, || page.text("chip"));
    assert!(
        page.eval("document.querySelector('[data-testid=column]').innerText").as_str().unwrap().contains("not scored")
    );
    assert_eq!(page.errors(), Vec::<String>::new());
}

/// A folder behind any web server is enough: the page, and a model beside it.
#[test]
#[ignore = "needs Chromium"]
fn a_gguf_file_at_an_address_is_read_by_ranges_without_a_beckon_server() {
    let built_in = beckon_server::assets::built_in_checkpoint().unwrap();
    let gguf = gguf_from_checkpoint(&Checkpoint::decode(built_in).unwrap()).unwrap();
    let shipped = root().join("server/page");
    let index = std::fs::read(shipped.join("index.html")).expect("a page (cargo xtask build-page)");
    let (site, url) = Site::start(vec![("/", shipped)], false).unwrap();
    site.put("/", index);
    site.put("/model.gguf", gguf.clone());
    site.put("/cut.gguf", &gguf[..gguf.len() / 2]);
    let page = Page::open(&format!("{url}#/preview"), WebGpu::Off);
    let refused = page.try_eval("beckon.open_gguf('/none.gguf')").unwrap_err();
    assert!(refused.contains("answered 404 for /none.gguf"), "{refused}");
    let refused = page.try_eval("beckon.open_gguf('/cut.gguf')").unwrap_err();
    assert!(refused.contains("the file ends at byte"), "{refused}");
    let status = page.eval("beckon.open_gguf('/model.gguf')");
    let status: Value = serde_json::from_str(status.as_str().unwrap()).unwrap();
    let engine = &status["engine"];
    assert_eq!(engine["checkpoint"]["n_bytes"].as_u64(), Some(gguf.len() as u64));
    let n_fetched = engine["n_fetched_bytes"].as_u64().unwrap() as usize;
    assert!((gguf.len() - 4096..gguf.len() * 3 / 2).contains(&n_fetched), "{n_fetched} bytes of {}", gguf.len());
    let (texts, ..) = written(&page, "how to cook rice", "{}");
    assert!(texts.iter().any(|text| !text.is_empty()), "{texts:?}");
}

#[test]
#[ignore = "needs Chromium"]
fn a_bad_gguf_file_is_refused_in_words_and_the_page_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let info = server.client.checkpoints().remove(0);
    let checkpoint = server.client.get(&format!("/api/checkpoints/{}/file", info.id)).body;
    let good = gguf_from_checkpoint(&Checkpoint::decode(&checkpoint).unwrap()).unwrap();
    let head = Gguf::parse(&good, good.len() as u64).unwrap();
    let replaced = |old: &[u8], new: &[u8]| {
        let mut bytes = good.clone();
        let at = bytes.windows(old.len()).position(|w| w == old).expect("something to replace");
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    // the entry of a tensor: name, two dimensions, type, offset
    let name = b"blk.0.ffn_up.weight";
    let entry = good.windows(name.len()).position(|w| w == name).unwrap() + name.len();
    let with = |at: usize, value: u64| {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let bad = [
        ("cut.gguf", good[..good.len() * 2 / 3].to_vec(), "the file ends at byte"),
        ("cut-head.gguf", good[..head.data_start as usize / 2].to_vec(), "the file ends at byte"),
        ("offset.gguf", with(entry + 24, 1 << 40), "blk.0.ffn_up.weight"),
        ("size.gguf", with(entry + 12, 1 << 33), "blk.0.ffn_up.weight"),
        ("type.gguf", with(entry + 20, 12), "12 (Q4_K), which Beckon does not read"),
        ("other.gguf", replaced(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0qwen2"), "\"qwen2\" is not supported"),
        ("zip.gguf", b"PK\x03\x04 something else".to_vec(), "not a GGUF file"),
        ("empty.gguf", Vec::new(), "not a GGUF file"),
    ];
    let page = Page::open(&format!("{}/#/preview", server.client.url), WebGpu::Off);
    page.wait("the list of checkpoints", 60, || (page.count("checkpoint-pick") > 0).then_some(()));
    page.fill("checkpoint-pick", &info.id);
    page.wait("an engine", 120, || page.attribute("engine-status", "data-checkpoint"));
    for (name, bytes, why) in &bad {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        page.pick_file("gguf-file", &path);
        let failure = page.wait(name, 60, || page.text("engine-failure").filter(|text| text.contains(name)));
        assert!(failure.contains(why) && failure.contains("stays in use"), "{name}: {failure}");
        assert_eq!(page.attribute("engine-status", "data-checkpoint").as_ref(), Some(&info.id), "{name}");
    }
    crate::page::suggestions_with_scores(&page);
    // and a good one is taken after all of them
    let path = dir.path().join("good.gguf");
    std::fs::write(&path, &good).unwrap();
    open(&page, &path, "cpu");
    assert_eq!(page.errors(), Vec::<String>::new());
}
