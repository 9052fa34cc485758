//! The page in Chromium, through its `data-testid` attributes (listed at the top of `web/src/app.rs`).

use crate::trained::trained;
use beckon_shared::checkpoint::Checkpoint;
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::process::{Server, beckon, printed};
use beckon_tests::sample::simulated_log;
use std::path::Path;

/// Whether no suggestions are being written.
const IDLE: &str = "document.querySelector('[data-testid=suggest]').textContent.trim() === 'Suggest'";

/// A data folder with the checkpoint that was trained a moment ago.
fn folder_with_checkpoint(dir: &Path) -> Checkpoint {
    let checkpoint = Checkpoint::decode(&trained().checkpoint_bytes).unwrap();
    install(dir, &checkpoint, &trained().checkpoint_bytes);
    checkpoint
}

pub fn install(dir: &Path, checkpoint: &Checkpoint, bytes: &[u8]) {
    let folder = dir.join("checkpoints");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(format!("{}.beckon", checkpoint.id)), bytes).unwrap();
}

/// Puts a copy of a checkpoint with another name, and so with an id of its own, among the files; the copy and its bytes.
pub fn install_as(dir: &Path, checkpoint: &Checkpoint, name: &str) -> (Checkpoint, Vec<u8>) {
    let mut copy = checkpoint.clone();
    copy.manifest.name = name.to_owned();
    let bytes = copy.encode().unwrap();
    let copy = Checkpoint::decode(&bytes).unwrap();
    install(dir, &copy, &bytes);
    (copy, bytes)
}

#[track_caller]
fn number(page: &Page, test_id: &str, name: &str) -> f64 {
    let text = page.attribute(test_id, name).unwrap_or_else(|| panic!("no {name} on {test_id}"));
    text.parse().unwrap_or_else(|_| panic!("{name} of {test_id} is {text:?}"))
}

/// Asks for suggestions until there is one to look at, and checks the scores of every candidate.
#[track_caller]
pub fn suggestions_with_scores(page: &Page) {
    page.click("suggest");
    page.wait("the end of writing", 120, || (page.eval(IDLE) == true).then_some(()));
    page.wait("scored candidates", 120, || (page.text("timings").is_some() && page.count("chip") > 0).then_some(()));
    assert_eq!(page.text("suggest-error"), None);
    for name in ["mean", "aleatoric", "epistemic"] {
        let script =
            format!("[...document.querySelectorAll('[data-testid=chip]')].map(c => parseFloat(c.dataset.{name}))");
        let values = page.eval(&script);
        let values: Vec<f64> =
            values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap_or(f64::NAN)).collect();
        assert!(values.iter().all(|value| value.is_finite()), "{name}: {values:?}");
        assert!(name != "aleatoric" || values.iter().all(|value| *value > 0.0), "spreads without spread: {values:?}");
    }
}

/// What the page would save for `beckon replay`.
#[track_caller]
pub fn saved_recording(page: &Page) -> String {
    let saved =
        "decodeURIComponent(document.querySelector('[data-testid=recording]').href.split(',').slice(1).join(','))";
    page.eval(saved).as_str().expect("JSON text").to_owned()
}

/// Imports what is pasted, and gives accepted and rejected.
fn paste(page: &Page, log: &str) -> (f64, f64) {
    page.fill("import-text", log);
    page.click("import-paste");
    page.wait("the outcome of the import", 60, || page.attribute("import-result", "data-accepted"));
    (number(page, "import-result", "data-accepted"), number(page, "import-result", "data-rejected"))
}

/// Fills the form for a tiny run that lasts long enough to be paused, and starts it; gives its id.
fn start_run(page: &Page) -> String {
    page.fill("run-preset", "tiny");
    let steps = [("sft.n_steps", "120"), ("garm.n_steps", "16"), ("garm.batch_pairs", "8"), ("rl.n_steps", "6")];
    let sizes = [("rl.batch_prompts", "4"), ("rl.group_size", "4"), ("rl.max_new_tokens", "8"), ("save_every", "4")];
    for (path, value) in steps.into_iter().chain(sizes) {
        page.fill(&format!("setting-{path}"), value);
    }
    page.click("run-start");
    page.wait("the new run", 30, || page.attribute("run-detail", "data-run"))
}

#[test]
#[ignore = "needs Chromium"]
fn the_loop_is_walked_in_the_page_without_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let old = folder_with_checkpoint(dir.path());
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&server.client.url, WebGpu::On);
    page.eval("window.sameDocument = true");

    // Data: an empty log says so, then a small log with one broken line goes in.
    page.click("nav-data");
    page.wait("the empty log", 60, || page.text("empty-log"));
    let log = format!("{}not json\n", simulated_log(300));
    assert_eq!(paste(&page, &log), (300.0, 1.0));
    assert!(page.text("reject-row").is_some_and(|row| row.contains("301")), "the broken line is not named");
    page.wait("300 impressions", 30, || (page.attribute("n-impressions", "data-value")? == "300").then_some(()));
    page.wait("clicks by slot", 30, || (page.count("slot-row") >= 3).then_some(()));
    assert!(page.text("simulated-badge").is_some(), "simulated clicks are not marked");

    // Preview: the old checkpoint works meanwhile.
    page.click("nav-preview");
    let loaded = page.wait("an engine", 120, || page.attribute("engine-status", "data-checkpoint"));
    assert_eq!(loaded, old.id);

    // Train: the curve moves, stands still while paused, and moves again.
    page.click("nav-train");
    let run = start_run(&page);
    let curve = "chart[data-stage=\"sft\"][data-name=\"loss\"]";
    let points = || page.attribute(curve, "data-points").and_then(|points| points.parse::<u64>().ok()).unwrap_or(0);
    page.wait("a moving curve", 60, || (points() >= 3).then_some(()));
    page.click("run-pause");
    page.wait("the pause", 120, || (page.attribute("run-detail", "data-state")? == "paused").then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(500));
    let standing = points();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert_eq!(points(), standing, "the curve of a paused run moved");
    page.click("run-resume");
    page.wait("a curve that moves again", 60, || (points() > standing).then_some(()));
    page.wait("the end of the run", 240, || (page.attribute("run-detail", "data-state")? == "finished").then_some(()));

    // Preview: the new checkpoint has taken the old one's place, in the same document.
    page.click("nav-preview");
    let new = server.client.run(&run).checkpoint.expect("the run's checkpoint");
    assert_ne!(new, old.id);
    page.wait("the new checkpoint", 120, || (page.attribute("engine-status", "data-checkpoint")? == new).then_some(()));
    suggestions_with_scores(&page);
    assert_eq!(page.attribute("engine-status", "data-checkpoint"), Some(new));
    assert_eq!(page.eval("window.sameDocument"), true, "the page was loaded again");
    assert_eq!(page.errors(), Vec::<String>::new());
}

#[test]
#[ignore = "needs Chromium"]
fn without_webgpu_the_page_says_so_and_works_on_the_cpu() {
    let dir = tempfile::tempdir().unwrap();
    folder_with_checkpoint(dir.path());
    let server = Server::start(dir.path(), &[]);
    let page = Page::open(&format!("{}/#/preview", server.client.url), WebGpu::Off);
    assert_eq!(page.eval("navigator.gpu ? navigator.gpu.requestAdapter() : null"), serde_json::Value::Null);
    let executor = page.wait("an engine", 120, || page.attribute("engine-status", "data-executor"));
    assert_eq!(executor, "cpu");
    let why = page.text("executor-why").unwrap_or_default();
    assert!(why.contains("WebGPU"), "it does not say why: {why:?}");
    suggestions_with_scores(&page);

    // what the page saved is written again natively, letter by letter; another seed is noticed
    let recording = saved_recording(&page);
    let replay = |text: &str| {
        std::fs::write(dir.path().join("replay.json"), text).unwrap();
        let folder = dir.path().to_string_lossy().into_owned();
        beckon(["replay", "replay.json", "--data-dir", &folder], dir.path())
    };
    let same = replay(&recording);
    assert!(same.status.success(), "{}", printed(&same));
    assert!(printed(&same).contains("came out the same"), "{}", printed(&same));
    let mut other: serde_json::Value = serde_json::from_str(&recording).unwrap();
    let seed = other["request"]["sampling"]["seed"].as_u64().expect("a seed");
    other["request"]["sampling"]["seed"] = (seed + 1).into();
    let differs = replay(&other.to_string());
    assert!(!differs.status.success() && printed(&differs).contains("differ"), "{}", printed(&differs));
}

#[test]
#[ignore = "needs Chromium"]
fn a_damaged_checkpoint_is_refused_by_the_page_and_the_old_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let old = folder_with_checkpoint(dir.path());
    let (other, mut bytes) = install_as(dir.path(), &old, "to be damaged");
    assert_ne!(other.id, old.id);
    let server = Server::start(dir.path(), &[]);
    // whole when the server listed it, damaged when the page fetches it
    *bytes.last_mut().unwrap() ^= 1;
    install(dir.path(), &other, &bytes);

    let page = Page::open(&format!("{}/#/preview", server.client.url), WebGpu::On);
    page.wait("the list of checkpoints", 60, || (page.count("checkpoint-pick") > 0).then_some(()));
    page.fill("checkpoint-pick", &old.id);
    let shown = || page.attribute("engine-status", "data-checkpoint");
    page.wait("the whole checkpoint", 120, || (shown()? == old.id).then_some(()));
    page.fill("checkpoint-pick", &other.id);
    let failure = page.wait("a refusal", 60, || page.text("engine-failure"));
    assert!(failure.contains("SHA-256"), "{failure}");
    assert_eq!(shown(), Some(old.id), "the old checkpoint was dropped");
    suggestions_with_scores(&page);
}
