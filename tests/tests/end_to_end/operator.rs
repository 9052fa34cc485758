//! What an operator does in the page beside the loop: plans a test, analyses the file of one, makes experiments with every setting,
//! deletes one, moves tags, makes a draft of a run, hands out tokens, reads the audit log.

use crate::page::{install, install_as};
use crate::trained::trained;
use beckon_shared::ab::plan::{Plan, Size};
use beckon_shared::checkpoint::Checkpoint;
use beckon_shared::control::audit::AuditRecord;
use beckon_shared::control::experiment::{ExperimentConfig, ExperimentState, ExperimentStatus, Layout, Source};
use beckon_shared::control::registry::TagState;
use beckon_shared::control::{RunState, RunStatus};
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::process::{Server, beckon, printed};
use serde_json::Value;

/// Presses a button that asks first.
#[track_caller]
fn press_twice(page: &Page, test_id: &str) {
    page.click(test_id);
    page.wait("the question", 10, || page.text(test_id).filter(|text| text.ends_with('?')));
    page.click(test_id);
}

/// What stands in a text area.
#[track_caller]
pub fn typed(page: &Page, test_id: &str) -> String {
    page.eval(&format!("document.querySelector('[data-testid=\"{test_id}\"]').value"))
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Cells of a table without those that name the rows.
#[track_caller]
fn cells(page: &Page, test_id: &str) -> Vec<String> {
    let cells = format!("[...document.querySelectorAll('[data-testid={test_id}] td')].map(cell => cell.textContent)");
    let cells = page.eval(&cells);
    cells.as_array().into_iter().flatten().map(|cell| cell.as_str().unwrap_or_default().to_owned()).collect()
}

fn experiment(server: &Server, id: &str) -> ExperimentStatus {
    server.client.get(&format!("/api/experiments/{id}")).json()
}

#[track_caller]
fn plan_in_the_page(page: &Page, server: &Server) {
    for (field, text) in [("plan-base-rate", "5"), ("plan-lift", "10"), ("plan-users-per-day", "4,000")] {
        page.fill(field, text);
    }
    page.click("plan-ask");
    let shown = page.wait("a plan", 30, || Some(cells(page, "plan-answer")).filter(|cells| !cells.is_empty()));
    let plan: Plan = server.client.get("/api/plan?base_rate=0.05&lift=0.1&users_per_day=4000").json();
    let figures = |size: Size| [size.n_users_per_arm, size.n_users, size.days.expect("days")];
    let expected: Vec<f64> =
        [plan.fixed_horizon, plan.always_valid].into_iter().flat_map(figures).map(f64::ceil).collect();
    let shown: Vec<f64> = shown.iter().map(|cell| cell.replace(',', "").parse().expect("a number")).collect();
    assert_eq!(shown, expected);

    // the other way round: what so many users detect
    page.fill("plan-lift", "");
    page.fill("plan-users", "10,000");
    page.click("plan-ask");
    let said = page.wait("lifts", 30, || page.text("plan-lifts"));
    let lifts: Value = server.client.get("/api/plan?base_rate=0.05&users=10000").json();
    for name in ["fixed_horizon_lift", "always_valid_lift"] {
        let percent = format!("{:.1} %", lifts[name].as_f64().expect("a lift") * 100.0);
        assert!(said.contains(&percent), "{percent}: {said}");
    }
    page.fill("plan-users", "");

    // what is no number is named before it is sent, what cannot be by the server
    for (lift, word) in [("a lot", "a lot"), ("-100", "lift")] {
        page.fill("plan-lift", lift);
        page.click("plan-ask");
        page.wait("the reason", 30, || page.text("plan-error").filter(|text| text.contains(word)));
    }
}

#[test]
#[ignore = "needs Chromium"]
fn an_experiment_is_planned_made_with_every_setting_and_deleted_in_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::decode(&trained().checkpoint_bytes).unwrap();
    install(dir.path(), &checkpoint, &trained().checkpoint_bytes);
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&format!("{}/#/experiments", server.client.url), WebGpu::Off);
    plan_in_the_page(&page, &server);

    // the text follows the fields until it is edited
    page.fill("experiment-name", "by hand");
    page.fill("experiment-control", &checkpoint.id);
    page.fill("experiment-treatment", &checkpoint.id);
    let followed = page.wait("a text that follows", 10, || {
        Some(typed(&page, "experiment-json")).filter(|text| text.contains("by hand") && text.contains(&checkpoint.id))
    });
    page.fill("experiment-json", &followed.replacen("\"weight\"", "\"wieght\"", 1));
    page.click("experiment-create");
    page.wait("the wrong key", 30, || page.text("experiment-refused").filter(|text| text.contains("wieght")));
    assert_eq!(server.client.get("/api/experiments").json::<Vec<Value>>(), Vec::<Value>::new());

    let mut wish: Value = serde_json::from_str(&followed).expect("JSON");
    wish["traffic"] = serde_json::json!([0.0, 0.5]);
    wish["arms"][0]["weight"] = 3.into();
    wish["arms"][1]["source"] = serde_json::json!({"template": "Suggest follow-ups."});
    wish["excluded"] = serde_json::json!(["u-1"]);
    wish["settings"]["latency_margin"] = 0.2.into();
    page.fill("experiment-json", &wish.to_string());
    page.click("experiment-create");
    page.wait("the draft", 30, || page.attribute("experiment-row[data-experiment=\"e1\"]", "data-state"));
    assert_eq!(page.count("experiment-refused"), 0, "the old refusal still stands");
    let made = experiment(&server, "e1").config;
    assert_eq!(made, serde_json::from_value::<ExperimentConfig>(wish).expect("a configuration"));
    assert_eq!((made.arms[0].weight, made.traffic, made.layout), (3.0, (0.0, 0.5), Layout::Split));

    // from the fields alone, and back from a text that was edited
    page.fill("experiment-json", "{");
    page.click("experiment-follow");
    page.fill("experiment-name", "by the fields");
    page.click("experiment-create");
    page.wait("the second draft", 30, || page.attribute("experiment-row[data-experiment=\"e2\"]", "data-state"));
    let second = experiment(&server, "e2").config;
    assert_eq!(second.name, "by the fields");
    assert!(second.arms.iter().all(|arm| arm.source == Source::Checkpoint(checkpoint.id.clone())), "{second:?}");

    settings_are_shown_and_experiments_deleted(&page, &server, &made);
    assert_eq!(page.errors().iter().filter(|error| !error.contains("422")).count(), 0, "{:?}", page.errors());
}

#[track_caller]
fn settings_are_shown_and_experiments_deleted(page: &Page, server: &Server, first: &ExperimentConfig) {
    page.eval("document.querySelectorAll('[data-testid=experiment-row] details').forEach(e => { e.open = true })");
    let shown = page.wait("the settings of e1", 30, || {
        let all = "[...document.querySelectorAll('[data-testid=experiment-settings]')].map(e => e.textContent)";
        let texts = page.eval(all);
        let mut texts = texts.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned);
        texts.find(|text| text.contains("by hand"))
    });
    assert_eq!(&serde_json::from_str::<ExperimentConfig>(&shown).expect("a configuration"), first);

    // one that runs cannot be deleted; newest first, so e2 has the first button
    assert_eq!(page.count("experiment-delete"), 2);
    page.click("experiment-start");
    page.wait("the start", 30, || (page.count("experiment-delete") == 1).then_some(()));
    assert_eq!(experiment(server, "e2").state, ExperimentState::Running);
    press_twice(page, "experiment-delete");
    page.wait("e1 to be gone", 30, || (page.count("experiment-row") == 1).then_some(()));
    server.client.get("/api/experiments/e1").problem(404);
    page.click("experiment-stop");
    page.wait("the stop", 30, || (page.count("experiment-delete") == 1).then_some(()));
    press_twice(page, "experiment-delete");
    page.wait("an empty list", 30, || (page.count("experiment-row") == 0).then_some(()));
}

#[test]
#[ignore = "needs Chromium"]
fn a_file_of_a_test_is_analysed_in_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&format!("{}/#/experiments", server.client.url), WebGpu::Off);
    let pick = |field: &str, name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        page.pick_file(field, &path);
        page.wait(name, 30, || page.text(&format!("{field}-name")).filter(|shown| shown == name));
    };
    let refused = |word: &str| {
        page.click("analyze-ask");
        page.wait("the reason", 30, || page.text("analyze-error").filter(|text| text.contains(word)));
    };
    refused("Choose a file");
    pick("analyze-file", "wrong.csv", "arm,users,clicks\nA,many,600\n");
    refused("line 2, column `users`");

    pick("analyze-file", "counts.csv", "arm,users,clicks\nA,12000,600\nB,12000,800\n");
    page.click("analyze-ask");
    page.wait("the verdict", 30, || page.text("verdict").filter(|text| text == "treatment better"));
    assert_eq!(page.attribute("sample-ratio", "data-state").as_deref(), Some("ok"));
    let kept = "decodeURIComponent(document.querySelector('[data-testid=analyze-looks-out]').href.split(',').slice(1).join(','))";
    let kept = page.eval(kept).as_str().expect("JSON text").to_owned();
    let looks: Value = serde_json::from_str(&kept).expect("JSON");
    assert!(looks["control"] == "A" && looks["running"]["B"].is_object(), "{looks}");

    // a further look goes on from these, under the same settings
    pick("analyze-looks", "looks.json", &kept);
    pick("analyze-file", "later.csv", "arm,users,clicks\nA,20000,1050\nB,20000,1300\n");
    let settings = typed(&page, "analyze-settings");
    page.fill("analyze-settings", &settings.replace("0.05,\n  \"control\"", "0.1,\n  \"control\""));
    refused("alpha changed");
    page.fill("analyze-settings", &settings);
    page.click("analyze-ask");
    page.wait("the second look", 30, || page.text("analyze-report"));

    // impressions as units are named as such; many small tests are listed
    pick("analyze-file", "impressions.csv", "arm,impressions,clicks\nA,12000,600\nB,12000,800\n");
    pick("analyze-looks", "none.json", "");
    page.click("analyze-ask");
    page.wait("impressions", 30, || page.text("analyze-report").filter(|text| text.contains("12,000 impressions")));
    let headlines = "clickability_test_id,headline,eyecatcher_id,impressions,clicks\n\
                     t1,One,p,10000,100\nt1,Two,p,10000,300\nt2,Three,p,10000,100\nt2,Four,p,10000,101\n";
    pick("analyze-file", "headlines.csv", headlines);
    page.fill("analyze-format", "upworthy");
    page.click("analyze-ask");
    page.wait("headlines", 30, || {
        page.text("analyze-headlines").filter(|text| text.starts_with("2 tests of 4 headlines"))
    });
    let listed = cells(&page, "analyze-tests");
    assert!(listed.len() == 2 && listed[1].contains("Two") && !listed[1].contains("Four"), "{listed:?}");
    assert_eq!(page.errors().iter().filter(|error| !error.contains("422")).count(), 0, "{:?}", page.errors());
}

#[test]
#[ignore = "needs Chromium"]
fn a_tag_beside_production_is_rolled_back_in_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::decode(&trained().checkpoint_bytes).unwrap();
    let ids = ["first", "second"].map(|name| install_as(dir.path(), &checkpoint, name).0.id);
    let server = Server::start(dir.path(), &[]);
    for id in &ids {
        let promote = server.client.post(&format!("/api/checkpoints/{id}/promote"), br#"{"tag": "staging"}"#);
        assert_eq!(promote.status, 200, "{}", promote.text());
    }
    let page = Page::open(&format!("{}/#/checkpoints", server.client.url), WebGpu::Off);
    let shown = |name: &str| page.text("tags").filter(|text| text.contains(&format!("{name} (")));
    let text = page.wait("the tag", 30, || shown("second").filter(|text| text.contains("Back to first")));
    assert!(text.contains("staging") && text.contains("by local"), "{text}");
    press_twice(&page, "tag-roll-back");
    page.wait("the first again", 30, || shown("first").filter(|text| text.contains("nothing before it")));
    let tags: Vec<TagState> = server.client.get("/api/tags").json();
    assert_eq!((tags.len(), tags[0].now.tag.as_str(), &tags[0].now.checkpoint), (1, "staging", &ids[0]));
    assert_eq!(page.eval("document.querySelector('[data-testid=tag-roll-back]').disabled"), true);
    assert_eq!(page.errors(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn a_checkpoint_is_promoted_rolled_back_and_its_tags_history_read_in_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::decode(&trained().checkpoint_bytes).unwrap();
    let ids = ["first", "second"].map(|name| install_as(dir.path(), &checkpoint, name).0.id);
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&format!("{}/#/checkpoints", server.client.url), WebGpu::Off);
    let row = |id: &str| format!("checkpoint-row[data-checkpoint=\"{id}\"]");
    let in_production = |id: &str| (page.attribute(&row(id), "data-tags")? == "production").then_some(());
    for id in &ids {
        page.click(&format!("{} [data-testid=checkpoint-promote]", row(id)));
        page.wait("the tag", 30, || in_production(id));
    }
    press_twice(&page, "roll-back");
    page.wait("the first again", 30, || in_production(&ids[0]));

    // newest first; what was rolled back stays in the history, and says so
    page.eval("document.querySelector('[data-testid=production] details').open = true");
    let rolled_back =
        || Some(cells(&page, "promotions")).filter(|cells| cells.len() > 1 && cells[1].ends_with("rolled back since"));
    let moves = page.wait("the history", 30, rolled_back);
    let wanted = [("second", ", rolled back since"), ("first", "")];
    assert_eq!(moves.len(), 6, "{moves:?}");
    for ((name, then), (id, moved)) in wanted.into_iter().zip(ids.iter().rev().zip(moves.as_chunks::<3>().0)) {
        assert_eq!(moved[..2], ["production".to_owned(), format!("{name} ({}){then}", &id[..10])]);
    }
    assert_eq!(page.errors(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn a_run_is_made_as_a_draft_in_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&format!("{}/#/train", server.client.url), WebGpu::Off);
    page.fill("run-name", "later");
    page.click("run-draft");
    page.wait("the draft", 30, || (page.attribute("run-detail", "data-state")? == "draft").then_some(()));
    let runs: Vec<RunStatus> = server.client.get("/api/runs").json();
    assert_eq!((runs.len(), runs[0].state, runs[0].config.name.as_str()), (1, RunState::Draft, "later"));
    assert_eq!(page.count("run-start-again"), 1, "it cannot be started");
    assert_eq!(page.errors(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn tokens_are_handed_out_and_the_audit_log_is_read_in_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--rate", "10000"]);
    let client = &server.client;
    // more commands than a part of the list holds
    for _ in 0..60 {
        client.command("r999", "pause").problem(404);
    }
    let page = Page::open(&format!("{}/#/server", client.url), WebGpu::Off);
    let tokens = || client.get("/api/tokens").json::<Vec<Value>>();
    page.fill("token-name", "ann");
    page.fill("token-role", "operator");
    page.fill("token-days", "soon");
    page.click("token-make");
    page.wait("the reason", 30, || page.text("token-made").filter(|text| text.contains("days")));
    page.fill("token-days", "7");
    page.click("token-make");
    let secret = page.wait("the token", 30, || page.text("token-made").filter(|text| text.starts_with("bk_")));
    page.wait("its line", 30, || page.text("tokens").filter(|text| text.contains("ann") && text.contains("operator")));
    let kept = tokens();
    let life =
        kept[0]["expires_millis"].as_i64().zip(kept[0]["created_millis"].as_i64()).map(|(end, begin)| end - begin);
    assert_eq!((kept.len(), kept[0]["name"].as_str(), life), (1, Some("ann"), Some(7 * 86_400_000)));

    page.click("audit-again");
    page.wait("the newest line", 30, || page.text("audit-lines").filter(|text| text.contains("POST /api/tokens")));
    let n_lines = || cells(&page, "audit-lines").len() / 3;
    assert_eq!(n_lines(), 50);
    page.click("audit-older");
    let all: Vec<AuditRecord> = client.get("/api/audit").json();
    page.wait("all lines", 30, || (n_lines() == all.len()).then_some(()));
    assert_eq!(page.count("audit-older"), 0, "there is nothing older");
    let text = page.text("audit-lines").unwrap_or_default();
    assert!(text.contains("local") && text.contains("/api/runs/r999/pause") && text.contains("404"), "{text}");
    assert!(!text.contains(&secret), "the secret is in the audit log");

    press_twice(&page, "token-remove");
    page.wait("no token", 30, || page.text("tokens").filter(|text| !text.contains("ann")));
    assert_eq!(tokens(), Vec::<Value>::new());
    assert_eq!(page.count("token-made"), 0, "the secret of a token that is gone still stands");
}

#[test]
#[ignore = "needs Chromium"]
fn a_viewer_reads_why_tokens_and_audit_log_are_not_shown_and_signs_out() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_string_lossy().into_owned();
    let made = beckon(["token", "add", "eve", "--role", "viewer", "--data-dir", &data], dir.path());
    let text = printed(&made);
    let token = text.split_whitespace().find(|word| word.starts_with("bk_")).unwrap_or_else(|| panic!("{text}"));
    let server = Server::start(dir.path(), &["--require-token"]);
    let page = Page::open(&format!("{}/sign-in", server.client.url), WebGpu::Off);
    let sign_in =
        format!("fetch('/api/session', {{method: 'POST', body: '{{\"token\": \"{token}\"}}'}}).then(r => r.status)");
    assert_eq!(page.eval(&sign_in), 200);
    page.go(&format!("{}/#/server", server.client.url));
    let reason = page.wait("the reason", 60, || page.text("server-refused"));
    let shown = page.text("server-page").unwrap_or_default();
    assert!(reason.contains("admin") && shown.contains("eve, viewer"), "{shown}");
    assert_eq!((page.count("token-make"), page.count("audit-lines")), (0, 0));
    page.click("sign-out");
    page.wait("the question for a token", 30, || {
        page.try_eval("document.querySelector('#token') !== null").is_ok_and(|there| there == true).then_some(())
    });
}
