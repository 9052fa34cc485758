//! One closed loop in the terminal (`beckon loop`, preset tiny, the simulated sample log), run once and used by
//! every test that needs a checkpoint of its own.

use beckon_shared::checkpoint::Checkpoint;
use beckon_tests::process::{beckon, printed};
use beckon_tests::sample::{simulated_log, tiny_config};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::OnceLock;

/// What the loop left.
pub struct Trained {
    /// Folder of the run.
    pub out: PathBuf,
    /// The checkpoint file.
    pub checkpoint_bytes: Vec<u8>,
    /// What the command printed.
    pub printed: String,
    /// Keeps the folder.
    _dir: tempfile::TempDir,
}

/// Runs the loop at the first call.
pub fn trained() -> &'static Trained {
    static TRAINED: OnceLock<Trained> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (data, out) = (dir.path().join("data"), dir.path().join("out"));
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("sample.jsonl"), simulated_log(400)).unwrap();
        let config = dir.path().join("config.json");
        std::fs::write(&config, tiny_config(1, json!({"sft": {"n_steps": 60}})).to_string()).unwrap();
        let path = |path: &PathBuf| path.to_string_lossy().into_owned();
        let args = [
            "loop".to_owned(),
            "--data".into(),
            path(&data),
            "--out".into(),
            path(&out),
            "--config".into(),
            path(&config),
        ];
        let output = beckon(args, dir.path());
        let printed = printed(&output);
        assert!(output.status.success(), "{printed}");
        let checkpoint =
            printed.lines().find_map(|line| line.strip_prefix("checkpoint: ")).expect("a checkpoint's path");
        let checkpoint_bytes = std::fs::read(dir.path().join(checkpoint)).unwrap();
        Trained { out, checkpoint_bytes, printed, _dir: dir }
    })
}

#[test]
fn the_loop_in_the_terminal_writes_report_and_checkpoint() {
    let trained = trained();
    let report: Value = serde_json::from_slice(&std::fs::read(trained.out.join("report.json")).unwrap()).unwrap();
    assert!(report.is_object(), "{report}");
    let html = std::fs::read_to_string(trained.out.join("report.html")).unwrap();
    assert!(html.contains("<svg"), "the report has no plot");
    assert!(html.contains("imulated"), "the report does not say that the clicks are simulated");
    let checkpoint = Checkpoint::decode(&trained.checkpoint_bytes).unwrap();
    assert!(checkpoint.manifest.lineage.simulated, "trained on simulated clicks without saying so");
    assert_eq!(checkpoint.manifest.lineage.seed, 1);
    assert!(trained.printed.contains("device: "), "{}", trained.printed);
}
