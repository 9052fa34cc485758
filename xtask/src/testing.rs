//! Builds the test binaries, runs them one by one, and counts what libtest reports.
//!
//! Binaries are run directly rather than through `cargo test`, so that every result belongs to a known
//! target and an ignored test can be run later, when the part of the system that it names is there.

use crate::project::{Project, spelled};
use crate::system::{Part, System};
use anyhow::{Context, Result, bail};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A binary that runs longer than this has hung; it is ended and counts as failed.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// A compiled test binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestBinary {
    /// Target name, as `beckon_shared` or `end_to_end`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Folder of its package, where Cargo would run it.
    pub dir: PathBuf,
}

/// Counts of tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ran and passed.
    pub passed: u64,
    /// Ran and failed.
    pub failed: u64,
    /// Did not run.
    pub skipped: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// What running some binaries gave.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Counts.
    pub tally: Tally,
    /// `binary::test` of each failure.
    pub failures: Vec<String>,
    /// `binary::test (why)` of each test that did not run.
    pub skipped: Vec<String>,
}

/// One line of libtest.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Passed,
    Failed(String),
    Ignored { name: String, reason: String },
}

fn parse(line: &str) -> Option<Line> {
    let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
    let name = name.trim_end_matches(" - should panic").to_owned();
    match result {
        "ok" => Some(Line::Passed),
        "FAILED" => Some(Line::Failed(name)),
        "ignored" => Some(Line::Ignored { name, reason: String::new() }),
        _ => result.strip_prefix("ignored, ").map(|reason| Line::Ignored { name, reason: reason.to_owned() }),
    }
}

/// Compiles every test of the workspace (`--no-run`); `only` restricts it to some test targets.
pub fn build(project: &Project, only: &[&str]) -> Result<Vec<TestBinary>> {
    let mut command = project.cargo(["test", "--release", "--workspace", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    for target in only {
        command.args(["--test", target]);
    }
    eprintln!("$ {}", spelled(&command));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("cargo test --no-run")?;
    if !output.status.success() {
        bail!("the tests do not compile");
    }
    let mut binaries: Vec<_> = String::from_utf8_lossy(&output.stdout).lines().filter_map(test_binary).collect();
    binaries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(binaries)
}

/// Reads one message of `cargo --message-format=json`.
fn test_binary(message: &str) -> Option<TestBinary> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    Some(TestBinary {
        name: message["target"]["name"].as_str()?.to_owned(),
        path: message["executable"].as_str()?.into(),
        dir: PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned(),
    })
}

/// Runs the tests of a binary whose names hold `filter`; then, of the ignored ones, those whose parts are on this machine.
pub fn run(project: &Project, system: &System, binary: &TestBinary, filter: &str) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let ignored = run_once(project, system, binary, &[filter.to_owned()], &mut outcome)?;
    let mut runnable = Vec::new();
    for (name, reason) in ignored {
        match why_not(system, &reason) {
            None => runnable.push(name),
            Some(why) => {
                outcome.tally.skipped += 1;
                outcome.skipped.push(format!("{}::{name} ({why})", binary.name));
            }
        }
    }
    if !runnable.is_empty() {
        let mut args = vec!["--ignored".to_owned(), "--exact".to_owned()];
        args.extend(runnable);
        run_once(project, system, binary, &args, &mut outcome)?;
    }
    Ok(outcome)
}

/// Why an ignored test stays ignored, or `None` when everything it names is there.
fn why_not(system: &System, reason: &str) -> Option<String> {
    let parts = Part::in_ignore_reason(reason);
    if parts.is_empty() {
        return Some(if reason.is_empty() { "ignored".to_owned() } else { reason.to_owned() });
    }
    parts.into_iter().find_map(|part| system.lacks(part)).map(str::to_owned)
}

/// One process; adds to `outcome` and returns the ignored tests with their reasons.
fn run_once(
    project: &Project,
    system: &System,
    binary: &TestBinary,
    args: &[String],
    outcome: &mut Outcome,
) -> Result<Vec<(String, String)>> {
    let mut command = Command::new(&binary.path);
    command.args(args).current_dir(&binary.dir).stdin(Stdio::null()).stdout(Stdio::piped());
    project.set_environment(&mut command);
    command.env("CARGO_MANIFEST_DIR", &binary.dir);
    if let Some(chromium) = system.chromium() {
        command.env("CHROME", chromium);
    }
    if let Some(model) = system.smollm2() {
        command.env(crate::model::VARIABLE, model);
    }
    if let Some(moto) = system.moto() {
        command.env(crate::system::MOTO_VARIABLE, moto);
    }
    if let Some(postgres) = system.postgres() {
        command.env(crate::system::POSTGRES_VARIABLE, postgres);
    }
    eprintln!("$ {} {}", binary.name, args.join(" "));
    let mut child = command.spawn().with_context(|| binary.path.display().to_string())?;
    let stdout = child.stdout.take().context("no stdout")?;
    let done = Arc::new(AtomicBool::new(false));
    let watchdog = end_after(child.id(), LIMIT, done.clone());
    let mut ignored = Vec::new();
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        match parse(line.trim_end()) {
            Some(Line::Passed) => outcome.tally.passed += 1,
            Some(Line::Failed(name)) => {
                outcome.tally.failed += 1;
                outcome.failures.push(format!("{}::{name}", binary.name));
            }
            Some(Line::Ignored { name, reason }) => ignored.push((name, reason)),
            None => {}
        }
    }
    let status = child.wait()?;
    done.store(true, Ordering::Relaxed);
    let timed_out = watchdog.join().unwrap_or(false);
    let named = outcome.failures.iter().any(|failure| failure.starts_with(&format!("{}::", binary.name)));
    if !status.success() && (!named || timed_out) {
        // A crash or a hang takes the tests that had not reported with it: count it as one failure.
        outcome.tally.failed += 1;
        let why = if timed_out { format!("ended after {} minutes", LIMIT.as_secs() / 60) } else { status.to_string() };
        outcome.failures.push(format!("{} ({why})", binary.name));
    }
    Ok(ignored)
}

/// A thread that ends the process when the time is up; it gives true when it had to.
fn end_after(pid: u32, limit: Duration, done: Arc<AtomicBool>) -> std::thread::JoinHandle<bool> {
    std::thread::spawn(move || {
        let start = Instant::now();
        while !done.load(Ordering::Relaxed) {
            if start.elapsed() > limit {
                let _ = Command::new("kill").arg(pid.to_string()).status();
                return true;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_libtest_are_read() {
        assert_eq!(parse("test a::b ... ok"), Some(Line::Passed));
        assert_eq!(parse("test a::b - should panic ... FAILED"), Some(Line::Failed("a::b".into())));
        assert_eq!(
            parse("test x ... ignored, needs ../shared/data"),
            Some(Line::Ignored { name: "x".into(), reason: "needs ../shared/data".into() })
        );
        assert_eq!(parse("test result: ok. 3 passed; 0 failed"), None);
        assert_eq!(parse("running 3 tests"), None);
    }

    #[test]
    fn messages_of_cargo_are_read() {
        let message = r#"{"reason":"compiler-artifact","manifest_path":"/p/tests/Cargo.toml",
            "target":{"name":"end_to_end"},"profile":{"test":true},"executable":"/t/end_to_end-1"}"#;
        let binary = test_binary(message).unwrap();
        assert_eq!((binary.name.as_str(), binary.dir.to_str().unwrap()), ("end_to_end", "/p/tests"));
        assert_eq!(test_binary(&message.replace("true", "false")), None);
    }

    #[cfg(unix)]
    #[test]
    fn failures_crashes_and_missing_parts_are_counted() {
        use std::os::unix::fs::PermissionsExt;
        let dir = std::env::temp_dir().join(format!("beckon-xtask-testing-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let script = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            TestBinary { name: name.to_owned(), path, dir: dir.clone() }
        };
        let project = Project { root: dir.clone(), target: dir.clone() };
        let system = System::look(&project); // no ../shared/data beside a temporary folder
        let mixed =
            "echo 'test a ... ok'; echo 'test b ... FAILED'; echo 'test c ... ignored, needs ../shared/data'; exit 101";
        let outcome = run(&project, &system, &script("mixed", mixed), "").unwrap();
        assert_eq!(outcome.tally, Tally { passed: 1, failed: 1, skipped: 1 });
        assert_eq!(outcome.failures, ["mixed::b"]);
        let outcome = run(&project, &system, &script("crash", "echo 'test a ... ok'; kill -9 $$"), "").unwrap();
        assert_eq!(outcome.tally, Tally { passed: 1, failed: 1, skipped: 0 });
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
