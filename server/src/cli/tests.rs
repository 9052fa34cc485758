//! Commands as they are typed, against the whole server on a loopback port.

use super::*;
use crate::app::tests::open_doors;
use crate::remote::tests::{Loopback, impression};
use beckon_shared::control::access::Role;

/// What a command says where it fails.
fn done(server: &Loopback, words: &[&str]) -> Result<(), String> {
    let words = ["beckon"].into_iter().chain(words.iter().copied()).chain(["--server", &server.url]);
    let cli = Cli::try_parse_from(words).map_err(|error| error.to_string())?;
    run(cli).map_err(|error| format!("{error:#}"))
}

fn text_of(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

#[test]
fn every_verb_reaches_the_server_that_is_named() {
    let server = Loopback::start(open_doors());
    let (run, dir) = (server.draft(), tempfile::tempdir().expect("a folder for the test"));
    for words in [
        &["run", "list"][..],
        &["run", "check", "--preset", "tiny", "--seed", "3"],
        &["run", "metrics", &run],
        &["run", "log", &run, "--limit", "5"],
        &["checkpoint", "list"],
        &["checkpoint", "lineage"],
        &["checkpoint", "tags"],
        &["checkpoint", "history"],
        &["experiment", "list"],
        &["audit"],
        &["audit", "--limit", "2"],
        &["token", "list"],
    ] {
        assert_eq!(done(&server, words), Ok(()), "{words:?}");
    }
    let refused = |words: &[&str]| done(&server, words).expect_err("refused");
    assert!(refused(&["run", "log", "r9"]).contains("there is no run r9"));
    assert!(refused(&["run", "check", "--preset", "giant"]).contains("preset"));

    let report = text_of(&dir.path().join("report.html"));
    let download = ["run", "report", &run, "--out", &report];
    assert!(refused(&download).contains("no report yet"));
    assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 0, "a refusal left a file");
    let folder = server.bench.app.trainer.run_dir(&run);
    std::fs::create_dir_all(&folder).expect("made");
    std::fs::write(folder.join("report.html"), "<p>a report</p>").expect("written");
    assert_eq!(done(&server, &download), Ok(()));
    assert_eq!(std::fs::read_to_string(&report).expect("read"), "<p>a report</p>");
    assert_eq!(done(&server, &["run", "report", &run]), Ok(()));
}

#[test]
fn a_file_and_a_folder_are_imported_into_the_log_of_a_server() {
    let server = Loopback::start(open_doors());
    let dir = tempfile::tempdir().expect("a folder for the test");
    std::fs::write(dir.path().join("a.jsonl"), impression("a")).expect("written");
    std::fs::write(dir.path().join("b.jsonl"), impression("b") + "\n{broken\n").expect("written");
    let folder = text_of(dir.path());
    assert_eq!(done(&server, &["import", &folder]), Ok(()));
    assert_eq!(server.bench.app.store.n_records().expect("read"), 2);
    std::fs::write(dir.path().join("c.jsonl"), "garbage\n").expect("written");
    let one = text_of(&dir.path().join("c.jsonl"));
    let error = done(&server, &["import", &one, "--format", "jsonl"]).expect_err("refused");
    assert!(error.contains("c.jsonl") && error.contains("nothing could be imported"), "{error}");
}

#[test]
fn tokens_are_made_and_removed_through_a_server_by_an_admin_alone() {
    let server = Loopback::start(crate::app::Doors { token_needed: true, ..open_doors() });
    let store = &server.bench.app.store;
    let token_of = |role: Role| {
        let (text, token) = crate::access::new_token(role.name(), role, 0, None).expect("random");
        assert!(store.add_token(&token).expect("stored"));
        text
    };
    let (admin, viewer) = (token_of(Role::Admin), token_of(Role::Viewer));
    let add = ["token", "add", "ann", "--role", "viewer", "--days", "3", "--token"];
    let error = done(&server, &[&add[..], &[viewer.as_str()]].concat()).expect_err("a viewer");
    assert!(error.contains("an admin's token"), "{error}");
    assert_eq!(done(&server, &[&add[..], &[admin.as_str()]].concat()), Ok(()));
    let ann = store.tokens().expect("read").into_iter().find(|token| token.name == "ann").expect("made");
    assert!(ann.role == Role::Viewer && ann.expires_millis.is_some());
    assert_eq!(done(&server, &["token", "remove", "ann", "--token", &admin]), Ok(()));
    assert!(store.tokens().expect("read").iter().all(|token| token.name != "ann"));
}

#[test]
fn a_server_analyses_a_test_and_the_looks_stay_here() {
    let server = Loopback::start(open_doors());
    let dir = tempfile::tempdir().expect("a folder for the test");
    let (input, looks) = (dir.path().join("counts.csv"), dir.path().join("looks.json"));
    std::fs::write(&input, "arm,users,clicks\nA,12000,600\nB,12000,800\n").expect("written");
    let (input_text, looks_text) = (text_of(&input), text_of(&looks));
    let words = ["ab", "analyze", "--input", &input_text, "--looks", &looks_text];
    assert_eq!(done(&server, &words), Ok(()));
    assert!(looks.is_file());
    let error = done(&server, &[&words[..], &["--alpha", "0.1"]].concat()).expect_err("another level");
    assert!(error.contains("alpha changed"), "{error}");
    std::fs::write(&input, "arm,users,clicks\nA,many,1\n").expect("written");
    let error = done(&server, &words).expect_err("no number");
    assert!(error.contains("line 2, column `users`"), "{error}");

    let upworthy = "clickability_test_id,headline,eyecatcher_id,impressions,clicks\n\
                    t1,One,p,10000,100\nt1,Two,p,10000,300\n";
    std::fs::write(&input, upworthy).expect("written");
    let words = ["ab", "analyze", "--input", &input_text, "--format", "upworthy"];
    assert_eq!(done(&server, &words), Ok(()));
}
