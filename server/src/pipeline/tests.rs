//! The whole run on a small simulated log: every arrow, going on after an interruption, and refusals.

use super::*;
use crate::simulate::World;
use crate::stage::Control;
use beckon_shared::checkpoint::{Checkpoint, PolicyParts};
use beckon_shared::click::Record;
use beckon_shared::config::Preset;
use beckon_shared::control::sample::SampledPrompt;
use beckon_shared::control::{DeviceChoice, GarmConfig, LoraConfig, RlConfig, SftConfig, TeacherConfig};
use beckon_shared::prompt::PromptFormat;

/// Counts steps, and cancels at a given one.
#[derive(Default)]
struct Watch {
    n_steps_seen: usize,
    n_controls: usize,
    cancel_at: Option<usize>,
    stages: Vec<Stage>,
    logs: Vec<String>,
    samples: Vec<(Stage, usize)>,
}

impl Observer for Watch {
    fn metric(&mut self, stage: Stage, _: usize, _: usize, name: &str, _: f64) {
        self.n_steps_seen += usize::from(name == "loss" || name == "reward_mean");
        if self.stages.last() != Some(&stage) {
            self.stages.push(stage);
        }
    }
    fn log(&mut self, text: &str) {
        self.logs.push(text.to_owned());
    }
    fn sample(&mut self, stage: Stage, step: usize, prompts: &[SampledPrompt]) {
        assert!(!prompts.is_empty());
        self.samples.push((stage, step));
    }
    fn control(&mut self) -> Control {
        self.n_controls += 1;
        if self.cancel_at.is_some_and(|at| self.n_controls >= at) { Control::Cancel } else { Control::Continue }
    }
    fn wait_while_paused(&mut self) -> Control {
        Control::Continue
    }
}

fn small_config() -> RunConfig {
    let base = RunConfig::preset(Preset::Tiny);
    RunConfig {
        device: DeviceChoice::Cpu,
        sft: SftConfig { n_steps: 8, n_warmup_steps: 2, batch_tokens: 256, ..base.sft },
        garm: GarmConfig { n_steps: 6, batch_pairs: 8, ..base.garm },
        rl: RlConfig { n_steps: 3, batch_prompts: 4, group_size: 4, max_new_tokens: 8, ..base.rl },
        save_every: 3,
        ..base
    }
}

fn simulated(n_impressions: usize) -> Vec<Sourced> {
    let log = World::new(1).generate_log(n_impressions, 40, 1);
    log.into_iter().map(|i| Sourced { source: "log".into(), record: Record::Impression(i) }).collect()
}

#[test]
fn every_arrow_runs_and_a_second_call_trains_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (records, config) = (simulated(240), small_config());
    let mut watch = Watch::default();
    let outcome = run(dir.path(), &config, &records, &mut watch).expect("runs");

    let mut order = watch.stages.clone();
    order.dedup();
    assert_eq!(order, Stage::ALL);
    let of_sft = [0, 2, 4, 6, 8].map(|step| (Stage::Sft, step));
    assert_eq!(watch.samples, [&of_sft[..], &[(Stage::Rl, 0), (Stage::Rl, 3)]].concat());
    let bytes = std::fs::read(&outcome.checkpoint_path).expect("a checkpoint");
    let checkpoint = Checkpoint::decode(&bytes).expect("a whole checkpoint");
    assert_eq!(checkpoint.id, outcome.checkpoint.id);
    assert!(outcome.checkpoint.simulated && checkpoint.manifest.lineage.simulated);
    // the curves of RL are against this reward
    let version = checkpoint.manifest.lineage.reward_version.as_deref().expect("a version");
    assert!(watch.logs.iter().any(|line| line.contains(&format!("against reward model {version}"))), "{version}");

    let report = &outcome.report;
    assert_eq!(report.checkpoint, checkpoint.id);
    assert_eq!(report.policies.len(), 2);
    assert_eq!(report.samples.len(), 10);
    assert!(report.sft.ngram_nll.is_finite() && report.sft.held_out_nll < report.sft.held_out_nll_before);
    let models: Vec<&str> = report.garm.sources[0].models.iter().map(|m| m.model.as_str()).collect();
    let rivals = ["Bradley-Terry", "Case V", "TF-IDF", "pointwise logistic", "length", "constant"];
    assert_eq!((models[0], &models[1..]), ("GaRM", &rivals[..]));
    assert!(report.garm.sources[0].models.iter().all(|m| m.aurc.is_finite() && m.adaptive_ece.is_finite()));
    assert_eq!(report.rl.curve("reward_mean").map(|c| c.points.len()), Some(3));
    let html = std::fs::read_to_string(dir.path().join("report.html")).expect("a page");
    assert!(html.contains("Every click in this run's log was simulated."));
    assert!(!html.contains("NaN") && !html.contains("src=\"http"));

    let mut again = Watch::default();
    let second = run(dir.path(), &config, &records, &mut again).expect("is there");
    assert_eq!((again.n_steps_seen, again.n_controls), (0, 0));
    assert_eq!(second.checkpoint, outcome.checkpoint);
    assert_eq!(second.report.findings, outcome.report.findings);
}

#[test]
fn an_interrupted_run_ends_as_an_uninterrupted_one() {
    let (records, config) = (simulated(240), small_config());
    let straight = tempfile::tempdir().expect("a temporary folder");
    let want = run(straight.path(), &config, &records, &mut Watch::default()).expect("runs").checkpoint.id;

    let dir = tempfile::tempdir().expect("a temporary folder");
    // once within SFT, once within GaRM, once within RL
    for cancel_at in [5, 6, 7] {
        let mut watch = Watch { cancel_at: Some(cancel_at), ..Watch::default() };
        let error = run(dir.path(), &config, &records, &mut watch).expect_err("cancelled");
        assert!(matches!(error, PipelineError::Cancelled), "{error}");
    }
    let outcome = run(dir.path(), &config, &records, &mut Watch::default()).expect("goes on");
    assert_eq!(outcome.checkpoint.id, want);
}

/// The parent's tokenizer carries the prompt format, which no tokenizer file of the run's folder does.
#[test]
fn a_run_from_a_pretrained_parent_goes_on_after_an_interruption() {
    let (records, config) = (simulated(240), small_config());
    let first = tempfile::tempdir().expect("a temporary folder");
    let made = run(first.path(), &config, &records, &mut Watch::default()).expect("runs");
    let made = Checkpoint::decode(&std::fs::read(&made.checkpoint_path).expect("a checkpoint")).expect("whole");
    let json = made.tokenizer_json.replace("<|user|>", "<|im_start|>").replace("<|assistant|>", "<|im_end|>");
    let tokenizer =
        Tokenizer::pretrained(&json, PromptFormat::plain("<|im_start|>", "<|im_end|>")).expect("a tokenizer");
    let of_policy = |(name, matrix): (String, _)| Some((name.strip_prefix("policy.")?.to_owned(), matrix));
    let policy = made.tensors.into_iter().filter_map(of_policy).collect();
    let parts = PolicyParts {
        name: "pretrained".into(),
        model: &made.manifest.model,
        lineage: made.manifest.lineage,
        tokenizer: &tokenizer,
    };
    let parent = Checkpoint::from_policy(parts, policy).expect("a checkpoint");

    let dir = tempfile::tempdir().expect("a temporary folder");
    parent::place(dir.path(), &parent.encode().expect("a file")).expect("placed");
    let from = RunConfig { parent: Some(parent.id), ..config };
    let mut watch = Watch { cancel_at: Some(5), ..Watch::default() };
    let error = run(dir.path(), &from, &records, &mut watch).expect_err("cancelled");
    assert!(matches!(error, PipelineError::Cancelled), "{error}");
    let child = run(dir.path(), &from, &records, &mut Watch::default()).expect("goes on");
    let child = Checkpoint::decode(&std::fs::read(&child.checkpoint_path).expect("a checkpoint")).expect("whole");
    assert_eq!(child.tokenizer().expect("a tokenizer").end(), tokenizer.end());
}

/// Adapters on a parent of another shape than the preset's, through every stage; without a parent they are refused.
#[test]
fn a_run_from_a_parent_has_its_shape_and_adapters_need_one() {
    let (records, config) = (simulated(240), small_config());
    let first = tempfile::tempdir().expect("a temporary folder");
    let parent = run(first.path(), &config, &records, &mut Watch::default()).expect("runs");
    let lora = Some(LoraConfig { rank: 2, ..LoraConfig::default() });
    let nano = RunConfig { preset: Preset::Nano, lora, ..config };
    assert_ne!(nano.preset.model().d_model, config_of(&parent).d_model);

    let dir = tempfile::tempdir().expect("a temporary folder");
    let error = run(dir.path(), &nano, &records, &mut Watch::default()).expect_err("nothing to adapt");
    assert!(matches!(error, PipelineError::NoBase), "{error}");

    // what the parent's shape does not allow is refused before hours of SFT
    parent::place(dir.path(), &std::fs::read(&parent.checkpoint_path).expect("a checkpoint")).expect("placed");
    let garm = GarmConfig { n_layers: Some(3), ..nano.garm.clone() };
    let deeper = RunConfig { parent: Some(parent.checkpoint.id.clone()), garm, ..nano.clone() };
    let mut watch = Watch::default();
    let error = run(dir.path(), &deeper, &records, &mut watch).map(|_| ()).expect_err("two layers").to_string();
    assert!(error.contains("garm.n_layers is 3, expected 1 to 2") && watch.n_controls == 0, "{error}");

    // neither refusal has claimed the folder
    let from = RunConfig { parent: Some(parent.checkpoint.id.clone()), ..nano };
    let child = run(dir.path(), &from, &records, &mut Watch::default()).expect("runs");
    assert_eq!(config_of(&child), config_of(&parent));
    assert_ne!(child.checkpoint.id, parent.checkpoint.id);

    // what it learnt lies beside the checkpoint, and answers on the parent; the parent's run left none
    let adapter = |outcome: &PipelineOutcome| std::fs::read(outcome.checkpoint_path.with_extension("adapter"));
    assert!(adapter(&parent).is_err());
    let bytes = adapter(&child).expect("an adapter");
    let adapter = beckon_shared::adapter::AdapterFile::decode(&bytes).expect("a whole adapter");
    assert_eq!((&adapter.manifest.base, &adapter.manifest.checkpoint), (&parent.checkpoint.id, &child.checkpoint.id));
    let ranks: Vec<usize> = adapter.adapter.policy.values().map(|side| side.a.shape[0]).collect();
    assert!(!ranks.is_empty() && ranks.iter().all(|rank| *rank <= 4), "{ranks:?}");
    let base = Checkpoint::decode(&std::fs::read(&parent.checkpoint_path).expect("a checkpoint")).expect("whole");
    let mut engine = beckon_shared::engine::Engine::cpu(&adapter.frame(base).expect("fits")).expect("an engine");
    beckon_shaders::ready(adapter.apply(&mut engine, None)).expect("no waiting").expect("passes its self-test");
}

/// From random weights, with the teacher's tokenizer, suggestions and distribution.
#[test]
fn a_run_learns_from_a_teacher() {
    let (id, bytes) = crate::catalog::tests::checkpoint_file(1);
    let dir = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(teacher::place(dir.path(), &bytes, false).expect("placed"), id);
    let settings = TeacherConfig { id: id.clone(), max_prompts: 4, soft_weight: 0.5, ..TeacherConfig::default() };
    let base = small_config();
    let config = RunConfig { sft: SftConfig { teacher: Some(settings), ..base.sft }, ..base };
    let outcome = run(dir.path(), &config, &simulated(240), &mut Watch::default()).expect("runs");
    let child = Checkpoint::decode(&std::fs::read(&outcome.checkpoint_path).expect("a checkpoint")).expect("whole");
    let teacher = Checkpoint::decode(&bytes).expect("whole");
    assert_eq!(child.tokenizer_json, teacher.tokenizer_json);
    assert_eq!(child.manifest.model.vocab_size, teacher.manifest.model.vocab_size);
    assert_eq!(child.manifest.lineage.config["sft"]["teacher"]["id"], id.as_str());
    assert!(dir.path().join("data/teacher_samples.jsonl").is_file());
}

fn config_of(outcome: &PipelineOutcome) -> ModelConfig {
    let bytes = std::fs::read(&outcome.checkpoint_path).expect("a checkpoint");
    Checkpoint::decode(&bytes).expect("a whole checkpoint").manifest.model
}

#[test]
fn a_folder_of_another_run_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (records, config) = (simulated(40), small_config());
    claim(dir.path(), &config, &records).expect("a new folder");
    claim(dir.path(), &config, &records).expect("the same run");
    let other = RunConfig { seed: 9, ..config.clone() };
    for error in [claim(dir.path(), &other, &records), claim(dir.path(), &config, &records[1..])] {
        assert!(matches!(error, Err(PipelineError::OtherRun { .. })), "{error:?}");
    }
    // of a version that writes something new, with and without saying so; and of one that said nothing yet
    let path = dir.path().join("run.json");
    let whole: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("there")).expect("JSON");
    let claimed_after = |edit: &dyn Fn(&mut serde_json::Value)| {
        let mut json = whole.clone();
        edit(&mut json);
        std::fs::write(&path, json.to_string()).expect("writes");
        claim(dir.path(), &config, &records)
    };
    let newer: fn(&mut serde_json::Value) = |json| json["version"] = 2.into();
    let unknown: fn(&mut serde_json::Value) = |json| json["config"]["rl"]["new_setting"] = 1.into();
    for edit in [newer, unknown] {
        let error = claimed_after(&|json| {
            json["written_by"] = "0.9.0".into();
            edit(json);
        });
        let error = error.expect_err("another version's").to_string();
        assert!(error.contains("written by Beckon 0.9.0") && error.contains("start a new one"), "{error}");
        assert!(!error.contains("damaged"), "{error}");
    }
    let older = claimed_after(&|json| {
        let keys = json.as_object_mut().expect("an object");
        ["version", "written_by"].into_iter().for_each(|key| _ = keys.remove(key));
    });
    older.expect("the same run");
    std::fs::write(&path, "{").expect("writes");
    let error = claim(dir.path(), &config, &records).expect_err("damaged").to_string();
    assert!(error.contains("run.json") && error.contains("delete it"), "{error}");
}

#[test]
fn a_log_without_clicks_says_what_to_import() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut records = simulated(40);
    for record in &mut records {
        if let Record::Impression(i) = &mut record.record {
            i.slate.iter_mut().for_each(|s| (s.clicked, s.dwell_secs, s.followed_up) = (false, None, None));
        }
    }
    for records in [&records[..], &[]] {
        let dir = dir.path().join(records.len().to_string());
        let error = run(&dir, &small_config(), records, &mut Watch::default()).map(|_| ()).expect_err("no data");
        assert!(error.to_string().contains("impressions with clicks"), "{error}");
    }
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("writes");
    let error = run(&file.join("run"), &small_config(), &simulated(9), &mut Watch::default());
    let error = error.map(|_| ()).expect_err("not a folder").to_string();
    assert!(error.contains("file/run") && error.starts_with("could not create"), "{error}");
}

#[test]
fn a_full_disk_says_what_to_do() {
    let full = io::Error::from(io::ErrorKind::StorageFull);
    let error = PipelineError::io("write", Path::new("run/sft/state"), full).to_string();
    assert!(error.contains("run/sft/state") && error.contains("free some space"), "{error}");
}
