//! `cargo xtask check`: every check, cheapest first, with the time of each and one table at the end.
//!
//! A check that could not run shows as NOT RUN with its reason, never as passed. The last line is
//! `N passed, N failed, N skipped`: all tests, and one for each other step.

use crate::project::{Project, succeed};
use crate::system::System;
use crate::testing::{self, Outcome, Tally, TestBinary};
use crate::{page, tidy};
use anyhow::{Result, bail};
use std::time::Instant;

/// The one end-to-end binary; it comes last.
const END_TO_END: &str = "end_to_end";
/// Its tests of WGSL.
const WGSL_IN_CHROMIUM: &str = "wgsl::";
/// The test target of `shaders` that needs neither Burn nor a device.
const WGSL_VALIDATION: &str = "validate";

/// What to check.
#[derive(clap::Args)]
pub struct Options {
    /// Leave out what takes minutes: page build, clippy for wasm32, documentation, end-to-end and browser tests.
    #[arg(long)]
    fast: bool,
}

/// How a step went.
enum Verdict {
    Ok { note: String, tally: Tally },
    Failed { note: String, tally: Tally },
    NotRun(String),
}

impl Verdict {
    fn ok(note: impl Into<String>) -> Self {
        Self::Ok { note: note.into(), tally: Tally { passed: 1, ..Tally::default() } }
    }

    fn failed(note: impl Into<String>) -> Self {
        Self::Failed { note: note.into(), tally: Tally { failed: 1, ..Tally::default() } }
    }

    fn tally(&self) -> Tally {
        match self {
            Self::Ok { tally, .. } | Self::Failed { tally, .. } => *tally,
            Self::NotRun(_) => Tally { skipped: 1, ..Tally::default() },
        }
    }

    fn row(&self) -> (&'static str, &str) {
        match self {
            Self::Ok { note, .. } => ("ok", note),
            Self::Failed { note, .. } => ("FAILED", note),
            Self::NotRun(why) => ("NOT RUN", why),
        }
    }
}

/// The steps so far.
#[derive(Default)]
struct Report {
    steps: Vec<(&'static str, Verdict, f64)>,
    details: Vec<String>,
}

impl Report {
    /// Runs a step, prints how it went and how long it took.
    fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<Verdict>) {
        eprintln!("\n── {name}");
        let start = Instant::now();
        let verdict = work().unwrap_or_else(|error| Verdict::failed(format!("{error:#}")));
        let secs = start.elapsed().as_secs_f64();
        let (word, note) = verdict.row();
        eprintln!("── {name}: {word} in {secs:.1} s {note}");
        self.steps.push((name, verdict, secs));
    }

    fn not_run(&mut self, name: &'static str, why: &str) {
        self.step(name, || Ok(Verdict::NotRun(why.to_owned())));
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.steps.iter().for_each(|(_, verdict, _)| tally += verdict.tally());
        tally
    }

    /// The table, the details, the closing line.
    fn render(&self) -> String {
        let mut text = String::from("\nstep                     result    seconds  note\n");
        for (name, verdict, secs) in &self.steps {
            let (word, note) = verdict.row();
            text += &format!("{name:<24} {word:<8} {secs:>8.1}  {note}\n");
        }
        for detail in &self.details {
            text += &format!("{detail}\n");
        }
        let Tally { passed, failed, skipped } = self.tally();
        text + &format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    /// Runs test binaries as one step.
    fn tests(&mut self, name: &'static str, project: &Project, system: &System, binaries: &[&TestBinary]) {
        let mut details = Vec::new();
        self.step(name, || {
            let mut sum = Outcome::default();
            for binary in binaries {
                let outcome = testing::run(project, system, binary, "")?;
                sum.tally += outcome.tally;
                sum.failures.extend(outcome.failures);
                sum.skipped.extend(outcome.skipped);
            }
            let note =
                format!("{} passed, {} failed, {} skipped", sum.tally.passed, sum.tally.failed, sum.tally.skipped);
            details.extend(sum.failures.iter().map(|failure| format!("FAILED   {failure}")));
            details.extend(sum.skipped.iter().map(|skipped| format!("NOT RUN  {skipped}")));
            Ok(match sum.tally {
                Tally { failed: 0, passed: 0, .. } => Verdict::failed("no test ran"),
                tally @ Tally { failed: 0, .. } => Verdict::Ok { note, tally },
                tally => Verdict::Failed { note, tally },
            })
        });
        self.details.extend(details);
    }
}

/// Runs the checks; an error when any failed.
pub fn run(project: &Project, options: &Options) -> Result<()> {
    let start = Instant::now();
    let system = System::prepare(project);
    let mut report = Report::default();
    cheap_checks(project, &mut report);
    lints(project, options, &mut report);
    if options.fast {
        report.not_run("page and size budget", "--fast");
    } else {
        report.step("page and size budget", || {
            let page = page::run(project, &page::Options::default())?;
            page.print();
            page.check_budget()?;
            Ok(Verdict::ok(format!("{} of {} bytes with Brotli", page.brotli_bytes(), page::BUDGET_BYTES)))
        });
    }
    tests_and_docs(project, options, &system, &mut report);
    println!("{}", report.render());
    eprintln!("in {:.0} s", start.elapsed().as_secs_f64());
    if report.tally().failed > 0 {
        bail!("some checks failed");
    }
    Ok(())
}

/// Format, repository rules, WGSL: seconds.
fn cheap_checks(project: &Project, report: &mut Report) {
    report.step("format", || {
        succeed(&mut project.cargo(["fmt", "--all", "--check"]))?;
        Ok(Verdict::ok(""))
    });
    report.step("repository rules", || tidy::run(project).map(Verdict::ok));
    let targets = project.targets().unwrap_or_default();
    if targets.iter().any(|target| target.package == "beckon-shaders" && target.name == WGSL_VALIDATION) {
        report.step("WGSL validation", || {
            let binary = testing::build(project, &[WGSL_VALIDATION])?;
            let mut inner = Report::default();
            let binaries: Vec<_> = binary.iter().filter(|binary| binary.dir.ends_with("shaders")).collect();
            inner.tests("naga", project, &System::look(project), &binaries);
            // Its tests run again with all others, which is where they are counted.
            match inner.tally() {
                Tally { failed: 0, passed, .. } => Ok(Verdict::ok(format!("{passed} tests"))),
                Tally { failed, .. } => bail!("{failed} tests failed"),
            }
        });
    } else {
        report.not_run("WGSL validation", "shaders has no test target `validate`");
    }
}

/// Clippy on the host and for wasm32; warnings are errors.
fn lints(project: &Project, options: &Options, report: &mut Report) {
    report.step("clippy", || {
        let args = ["clippy", "--release", "--workspace", "--all-targets", "--", "-D", "warnings"];
        succeed(&mut project.cargo(args))?;
        Ok(Verdict::ok(""))
    });
    if options.fast {
        report.not_run("clippy wasm32", "--fast");
    } else {
        report.step("clippy wasm32", || {
            crate::system::require_wasm_target(project)?;
            succeed(page::cargo(project, "clippy").args(["--", "-D", "warnings"]))?;
            Ok(Verdict::ok(""))
        });
    }
}

/// Builds once, then unit tests, documentation, and last what starts the server and a browser.
fn tests_and_docs(project: &Project, options: &Options, system: &System, report: &mut Report) {
    let mut binaries = Vec::new();
    report.step("build", || {
        project.build_server()?;
        binaries = testing::build(project, &[])?;
        Ok(Verdict::ok(format!("{} test binaries", binaries.len())))
    });
    let (last, first): (Vec<_>, Vec<_>) = binaries.iter().partition(|binary| binary.name == END_TO_END);
    if !options.fast && !last.is_empty() {
        report.step("WGSL in Chromium", || wgsl_in_chromium(project, system, &last));
    }
    if binaries.is_empty() {
        report.not_run("unit tests", "the build failed");
    } else {
        report.tests("unit tests", project, system, &first);
    }
    if options.fast {
        report.not_run("documentation", "--fast");
        report.not_run("end to end, browser", "--fast");
        return;
    }
    report.step("documentation", || {
        let mut command = project.cargo(["doc", "--release", "--workspace", "--no-deps"]);
        succeed(command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links"))?;
        succeed(&mut project.cargo(["test", "--release", "--workspace", "--doc", "--quiet"]))?;
        Ok(Verdict::ok(""))
    });
    match last.as_slice() {
        [] if binaries.is_empty() => report.not_run("end to end, browser", "the build failed"),
        [] => report.not_run("end to end, browser", "there is no test target `end_to_end`"),
        last => report.tests("end to end, browser", project, system, last),
    }
}

/// A kernel that Chromium refuses is known before everything else fails because of it. The test runs again with all others, which
/// is where it is counted.
fn wgsl_in_chromium(project: &Project, system: &System, binaries: &[&TestBinary]) -> Result<Verdict> {
    for binary in binaries {
        let outcome = testing::run(project, system, binary, WGSL_IN_CHROMIUM)?;
        if !outcome.failures.is_empty() {
            bail!("{}", outcome.failures.join("; "));
        }
        if outcome.tally.passed == 0 {
            return Ok(Verdict::NotRun(outcome.skipped.join("; ")));
        }
    }
    Ok(Verdict::Ok { note: String::new(), tally: Tally::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_run_is_not_passed() {
        let mut report = Report::default();
        report.step("one", || Ok(Verdict::ok("")));
        report.step("two", || bail!("broken"));
        report.not_run("three", "no Chromium");
        report.step("four", || {
            Ok(Verdict::Ok { note: String::new(), tally: Tally { passed: 7, failed: 0, skipped: 2 } })
        });
        let text = report.render();
        assert!(text.contains("NOT RUN") && text.contains("no Chromium") && text.contains("broken"), "{text}");
        assert!(text.ends_with("8 passed, 1 failed, 3 skipped"), "{text}");
    }

    #[test]
    fn a_test_step_without_a_test_fails() {
        let mut report = Report::default();
        let project = Project { root: ".".into(), target: ".".into() };
        report.tests("nothing", &project, &System::look(&project), &[]);
        assert_eq!(report.tally().failed, 1);
    }
}
