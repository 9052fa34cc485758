//! Both kinds of teacher, from their file to what SFT learns from.

use super::*;
use crate::catalog::tests::checkpoint_file;
use crate::pipeline::given::Given;
use crate::pipeline::prepare;
use crate::simulate::World;
use beckon_shared::click::{Record, Sourced};
use beckon_shared::config::Preset;
use beckon_shared::control::{SftConfig, Stage};

#[derive(Default)]
struct Watch {
    cancel: bool,
}

impl Observer for Watch {
    fn metric(&mut self, _: Stage, _: usize, _: usize, _: &str, _: f64) {}
    fn log(&mut self, _: &str) {}
    fn control(&mut self) -> Control {
        if self.cancel { Control::Cancel } else { Control::Continue }
    }
    fn wait_while_paused(&mut self) -> Control {
        Control::Continue
    }
}

fn log() -> Vec<Sourced> {
    let log = World::new(1).generate_log(240, 40, 1);
    log.into_iter().map(|i| Sourced { source: "log".into(), record: Record::Impression(i) }).collect()
}

fn config(teacher: TeacherConfig) -> RunConfig {
    let base = RunConfig::preset(Preset::Tiny);
    RunConfig { sft: SftConfig { teacher: Some(teacher), ..base.sft }, ..base }
}

/// A network that finds every token as likely as any other: some of many long suggestions end.
fn checkpoint(dir: &Path) -> TeacherConfig {
    let (id, bytes) = checkpoint_file(1);
    assert_eq!(place(dir, &bytes, false).expect("placed"), id);
    TeacherConfig { id, n_samples: 64, max_new_tokens: 64, max_prompts: 5, ..TeacherConfig::default() }
}

#[test]
fn a_checkpoint_writes_once_for_the_conversations_of_the_log() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let (records, config) = (log(), config(checkpoint(dir.path())));
    let given = Given::load(dir.path(), &config).expect("placed");
    let error = given.samples(dir.path(), &config, &records, &mut Watch { cancel: true }).expect_err("cancelled");
    assert!(matches!(error, PipelineError::Cancelled), "{error}");

    let written = given.samples(dir.path(), &config, &records, &mut Watch::default()).expect("written");
    let prompts: HashSet<&Prompt> = written.iter().map(|sample| &sample.prompt).collect();
    assert!(written.len() > prompts.len() && (2..=5).contains(&prompts.len()), "{written:?}");
    assert!(written.iter().all(|s| s.score.is_finite() && !s.text.trim().is_empty()));
    // what is there is not written again, whoever asks
    let again = given.samples(dir.path(), &config, &records, &mut Watch { cancel: true }).expect("kept");
    assert_eq!(again, written);
    let other = RunConfig { seed: 9, ..config };
    let elsewhere = tempfile::tempdir().expect("a folder for the test");
    let redrawn = given.samples(elsewhere.path(), &other, &records, &mut Watch::default()).expect("written");
    assert_ne!(redrawn, written);
}

#[test]
fn a_file_of_samples_is_imitated_beside_the_log() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let records = log();
    let plain = RunConfig::preset(Preset::Tiny);
    let without = Given::load(dir.path(), &plain).expect("nothing is named");
    let (dataset, _) = prepare(dir.path(), &plain, &records, &without, &mut Watch::default()).expect("prepared");
    let asked = dataset.train.prompts[0].clone();
    let text = "where can i read more about that".to_owned();
    let sample = TeacherSample { prompt: asked.clone(), text: text.clone(), score: 1.0 };
    let bytes = samples_to_jsonl(&[sample]).expect("finite");
    let id = place(dir.path(), &bytes, true).expect("placed");

    let config = config(TeacherConfig { id: id.clone(), ..TeacherConfig::default() });
    let given = Given::load(dir.path(), &config).expect("placed");
    let (dataset, _) = prepare(dir.path(), &config, &records, &given, &mut Watch::default()).expect("prepared");
    let of_teacher: Vec<&Prompt> =
        dataset.train.sft.iter().filter(|e| e.suggestion == text).map(|e| &e.prompt).collect();
    assert_eq!(of_teacher, [&asked]);
    assert!(dataset.held_out.sft.iter().all(|e| e.suggestion != text));

    let refused = |teacher: TeacherConfig| {
        Given::load(dir.path(), &self::config(teacher)).map(|_| ()).expect_err("refused").to_string()
    };
    assert!(refused(TeacherConfig { id: "other".into(), ..TeacherConfig::default() }).contains("\"other\""));
    let soft = refused(TeacherConfig { id, soft_weight: 0.5, ..TeacherConfig::default() });
    assert!(soft.contains("no distribution"), "{soft}");
    assert!(place(dir.path(), b"{}", true).expect_err("no sample").to_string().contains("line 1"));
}

#[test]
fn soft_targets_bring_the_teachers_tokenizer_and_need_its_vocabulary_and_length() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let teacher = TeacherConfig { soft_weight: 0.5, ..checkpoint(dir.path()) };
    let tiny = config(teacher);
    let given = Given::load(dir.path(), &tiny).expect("fits");
    let soft = given.soft.as_ref().expect("asked for");
    let tokenizer = given.tokenizer().expect("taken over");
    assert_eq!(tokenizer.hash(), soft.tokenizer.hash());
    let model = given.model(&tiny, tokenizer);
    assert_eq!((model.vocab_size, model.n_layers), (soft.model.vocab_size, Preset::Tiny.model().n_layers));
    assert_eq!(soft.targets().weight, 0.5);

    let other = Tokenizer::train(["weather in another town tomorrow"], 280).expect("a tokenizer");
    let error = soft.check(&other, &model).expect_err("another vocabulary").to_string();
    assert!(error.contains("another tokenizer"), "{error}");
    let nano = RunConfig { preset: Preset::Nano, ..tiny.clone() };
    let error = Given::load(dir.path(), &nano).map(|_| ()).expect_err("a longer network").to_string();
    assert!(error.contains("reads 128 tokens") && error.contains("256"), "{error}");

    let (parent, bytes) = checkpoint_file(2);
    crate::pipeline::parent::place(dir.path(), &bytes).expect("placed");
    let branch = RunConfig { parent: Some(parent), ..tiny };
    let given = Given::load(dir.path(), &branch).expect("the parent has the teacher's tokenizer");
    assert_eq!(given.model(&branch, given.tokenizer().expect("the parent's")).n_layers, 1);
}
