//! Runs in the page: what they said, all their settings, values that change while they train, a start from a checkpoint; and that
//! a click is done once.

use crate::operator::typed;
use crate::page::install;
use crate::trained::trained;
use beckon_server::store::{FILE_NAME, Store};
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::config::Preset;
use beckon_shared::control::audit::AuditRecord;
use beckon_shared::control::sample::{Sample, SampledPrompt};
use beckon_shared::control::{RunConfig, RunState, RunStatus, Stage};
use beckon_shared::prompt::Prompt;
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::process::Server;
use serde_json::Value;
use std::path::Path;

/// Puts a run of last month into the store, with what it said.
fn past_run(dir: &Path) -> RunStatus {
    let store = Store::open(&dir.join(FILE_NAME)).unwrap();
    let run = store.add_run(RunConfig::preset(Preset::Tiny), RunState::Finished, 1, None).unwrap();
    store.add_run_line(&run.id, 2, false, "sft: said long ago").unwrap();
    store.add_run_line(&run.id, 3, true, "rl: the proxy rises alone").unwrap();
    for (step, text) in [(0, "noise"), (25, "learnt by then"), (50, "learnt in the end")] {
        let prompts = vec![SampledPrompt::new(&Prompt::from_query("rust"), [(text, None)])];
        store.add_run_sample(&Sample { run_id: run.id.clone(), stage: Stage::Rl, step, prompts }).unwrap();
    }
    run
}

/// Opens every folded part of an element.
#[track_caller]
fn unfold(page: &Page, test_id: &str) {
    page.wait(test_id, 30, || (page.count(test_id) > 0).then_some(()));
    page.eval(&format!(
        "document.querySelectorAll('[data-testid={test_id}], [data-testid={test_id}] details').forEach(e => {{ e.open = true }})"
    ));
}

/// What the console says beside refusals, which the tests ask for.
fn errors(page: &Page) -> Vec<String> {
    page.errors().into_iter().filter(|error| !error.contains("422")).collect()
}

#[test]
#[ignore = "needs Chromium"]
fn what_a_run_said_and_was_set_to_is_shown_during_and_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let past = past_run(dir.path());
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&format!("{}/#/train/{}", server.client.url, past.id), WebGpu::Off);
    let alarm = page.wait("the alarm", 30, || page.text("run-alarm"));
    assert!(alarm.ends_with("rl: the proxy rises alone"), "{alarm}");
    let lines = page.text("run-lines").unwrap_or_default();
    let (newest, oldest) = lines.trim().split_once('\n').expect("two lines");
    assert!(newest.ends_with("ALARM rl: the proxy rises alone") && oldest.ends_with("sft: said long ago"), "{lines}");
    let written = page.wait("what it wrote", 30, || page.text("run-samples"));
    let is_there = |text: &str| written.contains(text);
    assert!(["RL, step 50", "rust", "learnt in the end", "noise"].into_iter().all(is_there), "{written}");
    assert!(!is_there("by then"), "{written}");
    unfold(&page, "run-detail");
    let shown = page.wait("its settings", 30, || page.text("run-config").filter(|text| !text.is_empty()));
    assert_eq!(serde_json::from_str::<RunConfig>(&shown).expect("a configuration"), past.config);

    // a run over an empty log fails, and the page hears why without asking
    page.click("run-start");
    page.wait("the failure", 60, || page.text("run-failure"));
    page.wait("the last line", 30, || page.text("run-lines").filter(|text| text.contains("ALARM run r2 failed")));
    assert_eq!(page.count("run-alarm"), 0, "the reason stands there twice");
    assert_eq!(errors(&page), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn a_run_is_made_with_settings_that_have_no_field() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&format!("{}/#/train", server.client.url), WebGpu::Off);
    let refused = |text: &str, word: &str| {
        page.fill("run-json", text);
        page.wait("the reason", 30, || page.text("run-json-error").filter(|reason| reason.contains(word)));
        assert_eq!(page.count("run-checked"), 0, "an old check still stands");
    };
    // what is no JSON is told at once, what is no setting by the server
    refused("{\"lora\"", "EOF");
    refused("{\"lora\": {\"rnk\": 2}}", "rnk");
    page.fill("setting-rl.group_size", "5");
    page.fill(
        "run-json",
        "{\"rl\": {\"weights\": {\"novelty\": 0.75}, \"fusion\": \"soft_gate\"}, \"micro_batch_tokens\": 4096}",
    );
    let checked = page.wait("the whole configuration", 30, || page.text("run-checked"));
    let checked: RunConfig = serde_json::from_str(&checked).expect("a configuration");
    assert_eq!(page.count("run-json-error"), 0);
    page.click("run-draft");
    page.wait("the draft", 30, || (page.attribute("run-detail", "data-state")? == "draft").then_some(()));
    let made = server.client.run("r1").config;
    assert_eq!((made.rl.weights.novelty, made.rl.group_size, made.micro_batch_tokens), (0.75, 5, Some(4096)));
    assert_eq!(made, checked);
    assert_eq!(errors(&page), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn every_value_that_may_change_is_changed_in_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    assert_eq!(server.client.post("/api/runs?draft=true", br#"{"preset": "tiny"}"#).status, 201);
    let page = Page::open(&format!("{}/#/train/r1", server.client.url), WebGpu::Off);
    page.fill("tune-fusion-weights", "1, 2");
    page.click("tune-send");
    page.wait("the reason", 30, || page.text("tune-error").filter(|text| text.contains("fusion_weights has 2")));
    let values =
        [("sft-rate", "1e-3"), ("garm-rate", "2e-3"), ("rl-rate", "3e-4"), ("kl-beta", "0.2"), ("kl-budget", "3")];
    for (field, text) in values {
        page.fill(&format!("tune-{field}"), text);
    }
    page.fill("tune-fusion-weights", "1, 0, 0.25, 0, 0, 0.5");
    page.click("tune-send");
    let said = page.wait("the change", 30, || page.text("tune-changes").filter(|text| text.contains("next step")));
    for word in ["SFT learning rate", "KL budget 3", "fusion weights"] {
        assert!(said.contains(word), "{said}");
    }
    let tuning = server.client.run("r1").changes.remove(0).tuning;
    assert_eq!((tuning.sft.learning_rate, tuning.garm.learning_rate), (Some(1e-3), Some(2e-3)));
    assert_eq!(
        (tuning.rl.learning_rate, tuning.rl.kl_beta, tuning.rl.kl_budget_nats),
        (Some(3e-4), Some(0.2), Some(3.0))
    );
    assert_eq!(tuning.rl.fusion_weights, Some(vec![1.0, 0.0, 0.25, 0.0, 0.0, 0.5]));
    page.wait("the weights of now", 30, || page.text("run-detail").filter(|text| text.contains("now 1, 0, 0.25")));
    assert_eq!(page.errors(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn a_run_starts_from_a_checkpoint_with_other_settings() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::decode(&trained().checkpoint_bytes).unwrap();
    install(dir.path(), &checkpoint, &trained().checkpoint_bytes);
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&format!("{}/#/checkpoints", server.client.url), WebGpu::Off);
    unfold(&page, "checkpoint-branch");
    // untouched fields show what the run had that made it
    let made_with = &checkpoint.manifest.lineage.config;
    page.wait("the form", 30, || (page.count("run-form") > 0).then_some(()));
    assert_eq!(typed(&page, "run-seed"), made_with["seed"].to_string());
    assert_eq!(typed(&page, "setting-sft.n_steps"), made_with["sft"]["n_steps"].to_string());
    assert_eq!(page.count("run-preset"), 0, "its model is the checkpoint's");
    page.fill("run-name", "further");
    page.fill("run-seed", "77");
    page.fill("run-json", "{\"rl\": {\"n_steps\": 3}, \"sft\": {\"beta_x\": 1}}");
    page.wait("the reason", 30, || page.text("run-json-error").filter(|text| text.contains("beta_x")));
    page.fill("run-json", "{\"rl\": {\"n_steps\": 3}}");
    page.wait("the whole configuration", 30, || page.text("run-checked"));
    page.click("run-start");
    page.wait("the run", 30, || (page.attribute("run-detail", "data-run")? == "r1").then_some(()));
    let run = server.client.run("r1").config;
    assert_eq!((run.parent.as_deref(), run.name.as_str(), run.seed), (Some(checkpoint.id.as_str()), "further", 77));
    assert_eq!((run.rl.n_steps, run.sft.n_steps as u64), (3, made_with["sft"]["n_steps"].as_u64().expect("a number")));
    assert_eq!(errors(&page), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn a_click_whose_answer_is_lost_is_done_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&format!("{}/#/train", server.client.url), WebGpu::Off);
    page.wait("the form", 60, || (page.count("run-draft") > 0).then_some(()));
    // the first command arrives, and its answer does not
    page.eval(
        "(() => {
            const real = window.fetch;
            window.keys = [];
            window.fetch = async (request) => {
                const answer = await real(request);
                if (request.method !== 'POST') return answer;
                window.keys.push(request.headers.get('idempotency-key'));
                if (window.keys.length === 1) throw new TypeError('the answer is lost');
                return answer;
            };
        })()",
    );
    let n_runs = || server.client.get("/api/runs").json::<Vec<RunStatus>>().len();
    page.click("run-draft");
    page.wait("the draft", 30, || (page.attribute("run-detail", "data-run")? == "r1").then_some(()));
    assert_eq!(n_runs(), 1, "it was done twice");
    page.click("run-draft");
    page.wait("another draft", 30, || (n_runs() == 2).then_some(()));
    let keys = page.wait("three requests", 30, || {
        let keys: Vec<String> = serde_json::from_value(page.eval("window.keys")).ok()?;
        (keys.len() == 3).then_some(keys)
    });
    assert!(keys[0] == keys[1] && keys[1] != keys[2] && keys[0].len() == 32, "{keys:?}");
    let kept: Vec<AuditRecord> = server.client.get("/api/audit").json();
    let kept: Vec<Option<&str>> = kept.iter().map(|record| record.key.as_deref()).collect();
    assert_eq!(kept, [Some(keys[2].as_str()), Some(keys[0].as_str())]);
    assert_eq!(page.eval("document.querySelectorAll('[role=alert]').length"), Value::from(0));
}
