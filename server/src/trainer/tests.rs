//! Life of a run under the trainer, with a quick runner in place of the pipeline.

use super::*;
use crate::stage::{Control, Observer};
use beckon_shared::config::Preset;
use beckon_shared::control::Stage;
use beckon_shared::control::sample::{Sample, SampledPrompt};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Longest wait for something that should happen at once; generous, because test machines are busy.
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    dir: tempfile::TempDir,
    store: Arc<Store>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder for the test");
        let store = Arc::new(Store::open(&dir.path().join("beckon.sqlite")).expect("a fresh store"));
        Self { dir, store }
    }

    fn start(&self, runner: Box<Runner>) -> Trainer {
        let store = Arc::clone(&self.store);
        let (catalog, _) =
            Catalog::open(&self.dir.path().join("checkpoints"), None, &store, None).expect("a fresh catalog");
        let events = Arc::new(Events::open(Arc::clone(&store), 0).expect("opens"));
        let (catalog, runs_dir) = (Arc::new(catalog), self.dir.path().join("runs"));
        let parts = TrainerParts { store, events, catalog, runs_dir, lent: Lent::default() };
        Trainer::start(parts, runner).expect("starts")
    }
}

fn config() -> RunConfig {
    RunConfig::preset(Preset::Tiny)
}

/// A runner that walks steps until told to end: one metric a step, one step a millisecond.
fn stepper(job: &Job, observer: &mut dyn Observer) -> Result<Product, RunError> {
    let state = job.dir.join("step");
    let mut step: usize = std::fs::read_to_string(&state).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    loop {
        let control = match observer.control() {
            Control::Pause => {
                std::fs::write(&state, step.to_string()).expect("saved");
                observer.wait_while_paused()
            }
            other => other,
        };
        if control == Control::Cancel {
            std::fs::write(&state, step.to_string()).expect("saved");
            return Err(RunError::Cancelled);
        }
        step += 1;
        observer.metric(Stage::Sft, step, 1_000_000, "loss", 1.0 / step as f64);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn wait_for(trainer: &Trainer, id: &str, state: RunState) -> RunStatus {
    let start = Instant::now();
    loop {
        let status = trainer.status(id).expect("the run is there");
        if status.state == state {
            return status;
        }
        assert!(start.elapsed() < PATIENCE, "run {id} is {:?}, not {state:?}: {:?}", status.state, status.error);
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn saved_step(path: &Path) -> usize {
    std::fs::read_to_string(path.join("step")).expect("saved").parse().expect("a number")
}

#[test]
fn a_run_pauses_resumes_and_is_cancelled_at_a_step() {
    let bench = Bench::new();
    let trainer = bench.start(Box::new(stepper));
    let id = trainer.submit(config(), false, None).expect("queued").id;
    wait_for(&trainer, &id, RunState::Running);
    trainer.command(&id, RunCommand::Pause, false).expect("possible");
    wait_for(&trainer, &id, RunState::Paused);
    assert_eq!(bench.store.run(&id).expect("read").expect("is there").status.state, RunState::Paused);
    let at_pause = saved_step(&trainer.run_dir(&id));
    assert_eq!(trainer.command(&id, RunCommand::Resume, false).expect("possible").state, RunState::Running);
    trainer.command(&id, RunCommand::Cancel, false).expect("possible");
    wait_for(&trainer, &id, RunState::Cancelled);
    assert!(saved_step(&trainer.run_dir(&id)) >= at_pause);
}

#[test]
fn what_a_state_does_not_allow_is_refused() {
    let bench = Bench::new();
    let trainer = bench.start(Box::new(stepper));
    let id = trainer.submit(config(), false, None).expect("queued").id;
    let check = |id: &str, command| {
        let error = trainer.command(id, command, false).expect_err("not possible in this state");
        assert!(matches!(error, TrainerError::NotPossible { .. }), "{error}");
    };
    wait_for(&trainer, &id, RunState::Running);
    check(&id, RunCommand::Resume);
    trainer.command(&id, RunCommand::Pause, false).expect("possible");
    wait_for(&trainer, &id, RunState::Paused);
    check(&id, RunCommand::Pause);
    trainer.command(&id, RunCommand::Cancel, false).expect("possible");
    wait_for(&trainer, &id, RunState::Cancelled);
    for command in [RunCommand::Pause, RunCommand::Resume, RunCommand::Cancel] {
        check(&id, command);
    }
    assert!(matches!(trainer.command("r77", RunCommand::Pause, false), Err(TrainerError::Unknown { .. })));
    assert!(matches!(trainer.status("../r1"), Err(TrainerError::Unknown { .. })));
}

#[test]
fn the_queue_has_a_limit_and_a_cancelled_run_makes_room() {
    let bench = Bench::new();
    let trainer = bench.start(Box::new(stepper));
    let first = trainer.submit(config(), false, None).expect("queued").id;
    wait_for(&trainer, &first, RunState::Running);
    let waiting: Vec<String> =
        (0..MAX_QUEUED).map(|_| trainer.submit(config(), false, None).expect("room").id).collect();
    assert!(matches!(trainer.submit(config(), false, None), Err(TrainerError::QueueFull)));
    let cancelled = trainer.command(&waiting[3], RunCommand::Cancel, false).expect("possible");
    assert_eq!(cancelled.state, RunState::Cancelled);
    assert_eq!(trainer.submit(config(), false, None).expect("room again").state, RunState::Queued);
}

#[test]
fn a_paused_run_lets_another_go_ahead_and_goes_on_later() {
    let bench = Bench::new();
    let trainer = bench.start(Box::new(stepper));
    let first = trainer.submit(config(), false, None).expect("queued").id;
    wait_for(&trainer, &first, RunState::Running);
    trainer.command(&first, RunCommand::Pause, false).expect("possible");
    wait_for(&trainer, &first, RunState::Paused);
    let second = trainer.submit(config(), false, None).expect("queued").id;
    wait_for(&trainer, &second, RunState::Running);
    assert_eq!(trainer.status(&first).expect("is there").state, RunState::Paused);
    assert_eq!(trainer.command(&first, RunCommand::Resume, false).expect("possible").state, RunState::Queued);
    trainer.command(&second, RunCommand::Cancel, false).expect("possible");
    wait_for(&trainer, &first, RunState::Running);
}

#[test]
fn a_panic_or_an_error_fails_the_run_and_the_next_one_runs() {
    let bench = Bench::new();
    let mut n_runs = 0;
    let trainer = bench.start(Box::new(move |job: &Job, observer: &mut dyn Observer| {
        n_runs += 1;
        match n_runs {
            1 => panic!("tensor q_proj has shape [1]"),
            2 => Err(RunError::Failed("sft has no data".into())),
            3 => panic!("wgpu error: Out of Memory"),
            4 => panic!("Failed to read tensor: RecvError(())"),
            _ => stepper(job, observer),
        }
    }));
    let ids: Vec<String> = (0..5).map(|_| trainer.submit(config(), false, None).expect("queued").id).collect();
    let error = wait_for(&trainer, &ids[0], RunState::Failed).error.unwrap_or_default();
    assert!(error.contains("tensor q_proj has shape [1]"), "{error}");
    assert_eq!(wait_for(&trainer, &ids[1], RunState::Failed).error.as_deref(), Some("sft has no data"));
    let error = wait_for(&trainer, &ids[2], RunState::Failed).error.unwrap_or_default();
    assert!(error.contains("micro_batch_tokens") && error.contains("wgpu error"), "{error}");
    let error = wait_for(&trainer, &ids[3], RunState::Failed).error.unwrap_or_default();
    assert!(error.contains("lent device") && error.contains("RecvError"), "{error}");
    wait_for(&trainer, &ids[4], RunState::Running);
}

#[test]
fn after_a_restart_running_and_queued_runs_go_on_and_paused_ones_wait() {
    let bench = Bench::new();
    let trainer = bench.start(Box::new(stepper));
    let paused = trainer.submit(config(), false, None).expect("queued").id;
    wait_for(&trainer, &paused, RunState::Running);
    trainer.command(&paused, RunCommand::Pause, false).expect("possible");
    wait_for(&trainer, &paused, RunState::Paused);
    let running = trainer.submit(config(), false, None).expect("queued").id;
    wait_for(&trainer, &running, RunState::Running);
    let queued = trainer.submit(config(), false, None).expect("queued").id;
    while trainer.status(&running).expect("is there").step < 3 {
        std::thread::sleep(Duration::from_millis(2));
    }
    trainer.stop();
    trainer.join();
    assert!(matches!(trainer.submit(config(), false, None), Err(TrainerError::Stopping)));
    let state = |id: &str| bench.store.run(id).expect("read").expect("is there").status.state;
    assert_eq!(
        [&paused, &running, &queued].map(|id| state(id)),
        [RunState::Paused, RunState::Running, RunState::Queued]
    );
    let at_stop = saved_step(&trainer.run_dir(&running));
    drop(trainer);

    let (sender, receiver) = mpsc::channel();
    let trainer = bench.start(Box::new(move |job: &Job, observer: &mut dyn Observer| {
        sender.send(job.dir.clone()).expect("the test listens");
        stepper(job, observer)
    }));
    assert_eq!(receiver.recv_timeout(PATIENCE).expect("a run starts"), trainer.run_dir(&running));
    let start = Instant::now();
    while trainer.status(&running).expect("is there").step <= at_stop {
        assert!(start.elapsed() < PATIENCE, "the run did not go on from its saved step {at_stop}");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(trainer.status(&paused).expect("is there").state, RunState::Paused);
    trainer.command(&running, RunCommand::Cancel, false).expect("possible");
    wait_for(&trainer, &queued, RunState::Running);
}

#[test]
fn a_finished_run_offers_its_checkpoint() {
    let bench = Bench::new();
    let (id, file) = crate::catalog::tests::checkpoint_file(1);
    let (checkpoint, n_bytes) = (id.clone(), file.len());
    let trainer = bench.start(Box::new(move |job: &Job, _: &mut dyn Observer| {
        let checkpoint_path = job.dir.join("out.beckon");
        std::fs::write(&checkpoint_path, &file).expect("written");
        Ok(Product {
            checkpoint_path,
            checkpoint: crate::catalog::tests::info(&checkpoint, n_bytes),
            evaluation: BTreeMap::new(),
        })
    }));
    let run = trainer.submit(config(), false, None).expect("queued").id;
    let status = wait_for(&trainer, &run, RunState::Finished);
    assert_eq!(status.checkpoint.as_deref(), Some(id.as_str()));
    assert_eq!(trainer.shared.parts.catalog.infos()[0].run_id, Some(run.clone()));
    assert_eq!(bench.store.checkpoints().expect("read")[0].id, id);
    assert!(bench.dir.path().join("checkpoints").join(format!("{id}.beckon")).exists());
}

#[test]
fn a_run_whose_checkpoint_is_damaged_fails() {
    let bench = Bench::new();
    let trainer = bench.start(Box::new(|job: &Job, _: &mut dyn Observer| {
        let (id, mut file) = crate::catalog::tests::checkpoint_file(1);
        file[9000] ^= 4;
        let checkpoint_path = job.dir.join("out.beckon");
        std::fs::write(&checkpoint_path, &file).expect("written");
        Ok(Product {
            checkpoint_path,
            checkpoint: crate::catalog::tests::info(&id, file.len()),
            evaluation: BTreeMap::new(),
        })
    }));
    let run = trainer.submit(config(), false, None).expect("queued").id;
    let error = wait_for(&trainer, &run, RunState::Failed).error.unwrap_or_default();
    assert!(error.contains("SHA-256"), "{error}");
    assert_eq!(trainer.shared.parts.catalog.infos(), []);
}

#[test]
fn a_wish_that_a_dying_process_left_is_done_at_the_next_start() {
    let bench = Bench::new();
    let with = |state, wish| {
        let mut status = bench.store.add_run(config(), RunState::Queued, 0, None).expect("stored");
        status.state = state;
        bench.store.set_run(&status, wish).expect("stored");
        status.id
    };
    let to_pause = with(RunState::Running, Some(Wish::Pause));
    let to_cancel = with(RunState::Running, Some(Wish::Cancel));
    let trainer = bench.start(Box::new(stepper));
    assert_eq!(trainer.status(&to_pause).expect("is there").state, RunState::Paused);
    assert_eq!(trainer.status(&to_cancel).expect("is there").state, RunState::Cancelled);
}

#[test]
fn curves_and_progress_reach_store_and_listeners() {
    let bench = Bench::new();
    let mut done = false;
    let trainer = bench.start(Box::new(move |_: &Job, observer: &mut dyn Observer| {
        observer.device("cpu (test)");
        observer.metric(Stage::Sft, 1, 2, "loss", 3.0);
        observer.metric(Stage::Sft, 2, 2, "loss", f64::NAN);
        observer.sample(Stage::Sft, 2, &[SampledPrompt { prompt: "rice".into(), suggestions: Vec::new() }]);
        assert!(!std::mem::replace(&mut done, true), "one run only");
        Err(RunError::Failed("enough".into()))
    }));
    let id = trainer.submit(config(), false, None).expect("queued").id;
    let status = wait_for(&trainer, &id, RunState::Failed);
    assert_eq!((status.stage, status.step, status.n_steps), (Some(Stage::Sft), 2, 2));
    assert_eq!(status.device.as_deref(), Some("cpu (test)"));
    let curve: Vec<_> = bench.store.metrics(&id).expect("read").into_iter().map(|m| (m.step, m.value)).collect();
    assert_eq!(curve, [(1, 3.0)]);
    let prompts = vec![SampledPrompt { prompt: "rice".into(), suggestions: Vec::new() }];
    let sample = Sample { run_id: id.clone(), stage: Stage::Sft, step: 2, prompts };
    assert_eq!(bench.store.run_samples(&id).expect("read"), std::slice::from_ref(&sample));
    let told = bench.store.events_from(0, 100).expect("read");
    let told = told.iter().filter_map(|(_, json)| serde_json::from_str::<Event>(json).ok());
    assert_eq!(told.filter(|event| *event == Event::Sample(sample.clone())).count(), 1);
}

/// What a run makes that has checkpoint number `seed` to show.
fn product(job: &Job, seed: u64) -> Product {
    let (id, file) = crate::catalog::tests::checkpoint_file(seed);
    let checkpoint_path = job.dir.join("out.beckon");
    std::fs::write(&checkpoint_path, &file).expect("written");
    let checkpoint = crate::catalog::tests::info(&id, file.len());
    Product { checkpoint_path, checkpoint, evaluation: BTreeMap::new() }
}

/// Waits for something that should happen at once.
fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_run_cancelled_while_its_checkpoint_is_brought_in_takes_it_back_unless_it_was_there() {
    let bench = Bench::new();
    let mut n_runs = 0;
    let trainer = bench.start(Box::new(move |job: &Job, observer: &mut dyn Observer| {
        n_runs += 1;
        // the second makes what the first made; the wish of the last two comes behind their last step
        while n_runs > 1 && observer.control() != Control::Cancel {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(product(job, n_runs / 3))
    }));
    let ids: Vec<String> = (0..3).map(|_| trainer.submit(config(), false, None).expect("queued").id).collect();
    let kept = wait_for(&trainer, &ids[0], RunState::Finished).checkpoint.expect("a checkpoint");
    for id in &ids[1..] {
        wait_for(&trainer, id, RunState::Running);
        trainer.command(id, RunCommand::Cancel, false).expect("possible");
        wait_for(&trainer, id, RunState::Cancelled);
    }
    let files = || std::fs::read_dir(bench.dir.path().join("checkpoints")).expect("a folder").count();
    eventually("nothing is on its way", || bench.store.moving_checkpoints().expect("read").is_empty());
    assert_eq!(files(), 1, "the file of a cancelled run stays");
    drop(trainer);
    let trainer = bench.start(Box::new(stepper));
    let offered: Vec<String> = trainer.shared.parts.catalog.infos().into_iter().map(|info| info.id).collect();
    assert_eq!(offered, [kept]);
}

#[test]
fn a_checkpoint_whose_run_died_before_its_end_was_stored_is_brought_in_again_and_names_its_run() {
    let bench = Bench::new();
    let [with_word, without] = [1, 2].map(crate::catalog::tests::checkpoint_file);
    // the second file is of a time when nothing was said beforehand
    for (id, file) in [&with_word, &without] {
        let folder = bench.dir.path().join("checkpoints");
        std::fs::create_dir_all(&folder).expect("made");
        std::fs::write(folder.join(format!("{id}.beckon")), file).expect("written");
    }
    assert!(bench.store.checkpoint_arrives(&with_word.0).expect("stored"));
    let runs = [0; 2].map(|time| bench.store.add_run(config(), RunState::Queued, time, None).expect("stored").id);
    let mut seed = 0;
    let trainer = bench.start(Box::new(move |job: &Job, _: &mut dyn Observer| {
        seed += 1;
        Ok(product(job, seed))
    }));
    for ((id, _), run) in [&with_word, &without].into_iter().zip(&runs) {
        assert_eq!(wait_for(&trainer, run, RunState::Finished).checkpoint.as_ref(), Some(id));
        let infos = [trainer.shared.parts.catalog.infos(), bench.store.checkpoints().expect("read")];
        for infos in infos {
            let makers: Vec<_> = infos.iter().filter(|info| info.id == *id).map(|info| info.run_id.as_ref()).collect();
            assert_eq!(makers, [Some(run)], "{infos:?}");
        }
    }
}

#[test]
fn a_store_that_fails_for_a_while_loses_no_run_of_the_queue() {
    let bench = Bench::new();
    let past = rusqlite::Connection::open(bench.dir.path().join("beckon.sqlite")).expect("opens");
    past.busy_timeout(PATIENCE).expect("waits");
    let refusal = "CREATE TRIGGER refuse BEFORE UPDATE OF state ON runs WHEN NEW.state = 'running' \
                   BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END";
    past.execute_batch(refusal).expect("made");
    let trainer = bench.start(Box::new(|_: &Job, _: &mut dyn Observer| Err(RunError::Failed("enough".into()))));
    let ids: Vec<String> = (0..2).map(|_| trainer.submit(config(), false, None).expect("queued").id).collect();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(trainer.n_queued(), 2, "a run was dropped");
    past.execute_batch("DROP TRIGGER refuse").expect("removed");
    for id in &ids {
        wait_for(&trainer, id, RunState::Failed);
    }
}
