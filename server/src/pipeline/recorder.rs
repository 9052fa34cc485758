//! Keeps every curve of a stage on disk beside its state, so that a report after a crash still shows
//! the whole of it, and passes everything on to whoever runs the stage. TensorBoard gets a file of its own.

use super::PipelineError;
use super::tensorboard::EventFile;
use crate::report::Curve;
use crate::stage::{Control, Observer};
use beckon_shared::control::Stage;
use beckon_shared::control::sample::SampledPrompt;
use beckon_shared::control::tuning::{self, Change, Moment, Tuned};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

const FILE: &str = "metrics.jsonl";

/// A line of `metrics.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// Counts the starts of this stage, from 0.
    session: usize,
    /// Seconds since that start.
    secs: f64,
    step: usize,
    name: String,
    /// Null where the stage measured something that is not a number.
    value: Option<f64>,
}

/// An observer that writes down what passes.
pub struct Recorder<'a> {
    inner: &'a mut dyn Observer,
    file: File,
    events: EventFile,
    path: PathBuf,
    session: usize,
    begun: Instant,
    failure: Option<io::Error>,
}

impl<'a> Recorder<'a> {
    /// Records into `dir`, which exists.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(dir: &Path, inner: &'a mut dyn Observer) -> Result<Self, PipelineError> {
        let path = dir.join(FILE);
        let io = |source| PipelineError::io("open", &path, source);
        let lines = read(&path)?;
        let session = lines.iter().map(|l| l.session + 1).max().unwrap_or(0);
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        // a crash may have cut the last line; what follows must not be glued to it
        if session > 0 {
            file.write_all(b"\n").map_err(io)?;
        }
        let events = EventFile::create(dir, session).map_err(io)?;
        Ok(Self { inner, file, events, path, session, begun: Instant::now(), failure: None })
    }

    /// Seconds since this start.
    pub fn secs(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    /// What kept a curve from being written, if anything did.
    ///
    /// # Errors
    /// The first failure to write.
    pub fn finish(self) -> Result<(), PipelineError> {
        self.failure.map_or(Ok(()), |source| Err(PipelineError::io("write", &self.path, source)))
    }

    fn write(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)
    }
}

impl Observer for Recorder<'_> {
    fn metric(&mut self, stage: Stage, step: usize, n_steps: usize, name: &str, value: f64) {
        let line = Line {
            session: self.session,
            secs: self.secs(),
            step,
            name: name.to_owned(),
            value: value.is_finite().then_some(value),
        };
        let tag = format!("{}/{name}", stage.name());
        if let Err(e) = self.write(&line).and_then(|()| self.events.scalar(&tag, step, value)) {
            self.failure.get_or_insert(e);
        }
        self.inner.metric(stage, step, n_steps, name, value);
    }

    fn log(&mut self, text: &str) {
        self.inner.log(text);
    }

    fn alarm(&mut self, text: &str) {
        self.inner.alarm(text);
    }

    fn sample(&mut self, stage: Stage, step: usize, prompts: &[SampledPrompt]) {
        self.inner.sample(stage, step, prompts);
    }

    fn tuned(&mut self, stage: Stage, step: usize) -> Tuned {
        self.inner.tuned(stage, step)
    }

    fn changes(&self) -> Vec<Change> {
        self.inner.changes()
    }

    fn control(&mut self) -> Control {
        // a full disk ends the stage like a cancel; `finish` then says why
        if self.failure.is_some() { Control::Cancel } else { self.inner.control() }
    }

    fn wait_while_paused(&mut self) -> Control {
        self.inner.wait_while_paused()
    }
}

/// An observer of a baseline: its loss passes on under another name, so that it does not mix with the
/// model's curves; its other curves and its samples do not. Live changes reach it where they reached the model, and none takes
/// effect while it trains.
pub struct Quiet<'a>(pub &'a mut dyn Observer);

impl Observer for Quiet<'_> {
    fn metric(&mut self, stage: Stage, step: usize, n_steps: usize, name: &str, value: f64) {
        if name == "loss" {
            self.0.metric(stage, step, n_steps, "baseline_loss", value);
        }
    }

    fn log(&mut self, text: &str) {
        self.0.log(text);
    }

    fn alarm(&mut self, text: &str) {
        self.0.alarm(text);
    }

    fn tuned(&mut self, stage: Stage, step: usize) -> Tuned {
        tuning::tuned(&self.0.changes(), Moment { stage, step })
    }

    fn changes(&self) -> Vec<Change> {
        self.0.changes()
    }

    fn control(&mut self) -> Control {
        self.0.control()
    }

    fn wait_while_paused(&mut self) -> Control {
        self.0.wait_while_paused()
    }
}

fn read(path: &Path) -> Result<Vec<Line>, PipelineError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(PipelineError::io("read", path, source)),
    };
    // a line that a crash cut short is no line
    Ok(text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect())
}

/// The curves that a stage left in `dir`, by name; where a step was done twice (before and after a
/// crash), the later value counts.
///
/// # Errors
/// The file cannot be read.
pub fn curves(dir: &Path) -> Result<Vec<Curve>, PipelineError> {
    let mut by_name: BTreeMap<String, BTreeMap<usize, f64>> = BTreeMap::new();
    for line in read(&dir.join(FILE))? {
        if let Some(value) = line.value {
            by_name.entry(line.name).or_default().insert(line.step, value);
        }
    }
    Ok(by_name.into_iter().map(|(name, points)| Curve { name, points: points.into_iter().collect() }).collect())
}

/// Seconds that a stage worked, over all its starts, up to the last value of each.
///
/// # Errors
/// The file cannot be read.
pub fn secs_of(dir: &Path) -> Result<f64, PipelineError> {
    let mut by_session: BTreeMap<usize, f64> = BTreeMap::new();
    for line in read(&dir.join(FILE))? {
        let secs = by_session.entry(line.session).or_default();
        *secs = secs.max(line.secs);
    }
    Ok(by_session.values().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;
    impl Observer for Silent {
        fn metric(&mut self, _: Stage, _: usize, _: usize, _: &str, _: f64) {}
        fn log(&mut self, _: &str) {}
        fn control(&mut self) -> Control {
            Control::Continue
        }
        fn wait_while_paused(&mut self) -> Control {
            Control::Continue
        }
    }

    /// Told of steps, it would put a waiting change on record.
    struct Stamping(Vec<Change>);
    impl Observer for Stamping {
        fn metric(&mut self, _: Stage, _: usize, _: usize, _: &str, _: f64) {}
        fn log(&mut self, _: &str) {}
        fn tuned(&mut self, _: Stage, _: usize) -> Tuned {
            panic!("a baseline puts nothing on record")
        }
        fn changes(&self) -> Vec<Change> {
            self.0.clone()
        }
        fn control(&mut self) -> Control {
            Control::Continue
        }
        fn wait_while_paused(&mut self) -> Control {
            Control::Continue
        }
    }

    #[test]
    fn a_baseline_is_tuned_as_the_model_was_and_takes_no_change_of_its_own() {
        let change = |at, learning_rate| {
            let text = format!("{{\"garm\": {{\"learning_rate\": {learning_rate}}}}}");
            Change { at, tuning: serde_json::from_str(&text).expect("a live change") }
        };
        let taken = change(Some(Moment { stage: Stage::Garm, step: 5 }), 1e-5);
        let mut inner = Stamping(vec![taken, change(None, 1e-3)]);
        let mut quiet = Quiet(&mut inner);
        assert_eq!(quiet.tuned(Stage::Garm, 4).learning_rate, None);
        assert_eq!(quiet.tuned(Stage::Garm, 30).learning_rate, Some(1e-5));
    }

    #[test]
    fn a_cut_line_is_dropped_and_a_repeated_step_counts_once() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut silent = Silent;
        let mut first = Recorder::open(dir.path(), &mut silent).expect("opens");
        for step in 1..=3 {
            first.metric(Stage::Sft, step, 5, "loss", step as f64);
        }
        drop(first);
        let path = dir.path().join(FILE);
        let mut text = std::fs::read_to_string(&path).expect("written");
        text.push_str("{\"session\":0,\"se");
        std::fs::write(&path, text).expect("writes");

        let mut second = Recorder::open(dir.path(), &mut silent).expect("opens");
        second.metric(Stage::Sft, 3, 5, "loss", 30.0);
        second.metric(Stage::Sft, 4, 5, "loss", f64::NAN);
        second.finish().expect("no failure");
        let curves = curves(dir.path()).expect("reads");
        assert_eq!(curves, vec![Curve { name: "loss".into(), points: vec![(1, 1.0), (2, 2.0), (3, 30.0)] }]);
        assert!(secs_of(dir.path()).expect("reads") > 0.0);
    }

    #[test]
    fn a_full_disk_ends_the_stage_and_is_named() {
        let full = Path::new("/dev/full");
        if !full.exists() {
            return;
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::os::unix::fs::symlink(full, dir.path().join(FILE)).expect("links");
        let mut silent = Silent;
        let file = OpenOptions::new().append(true).open(full).expect("opens");
        let path = dir.path().join(FILE);
        let events = EventFile::create(dir.path(), 0).expect("opens");
        let mut recorder =
            Recorder { inner: &mut silent, file, events, path, session: 0, begun: Instant::now(), failure: None };
        recorder.metric(Stage::Sft, 1, 5, "loss", 1.0);
        assert_eq!(recorder.control(), Control::Cancel);
        let error = recorder.finish().expect_err("the disk is full").to_string();
        assert!(error.contains(FILE) && error.contains("free some space"), "{error}");
    }
}
