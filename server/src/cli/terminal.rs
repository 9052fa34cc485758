//! A run in the terminal: one progress bar per stage, lines where the output is no terminal, and Ctrl-C.

use crate::stage::{Control, Observer};
use beckon_shared::control::Stage;
use beckon_shared::control::sample::{SampledPrompt, in_one_line};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Time between two lines of one stage where bars cannot be drawn.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Curves shown beside a bar; the others are in the report.
const SHOWN: [&str; 8] =
    ["loss", "nll", "held_out_nll", "accuracy", "reward_mean", "kl_nats", "gate_failure_rate", "tokens_per_sec"];

/// Set at the first Ctrl-C; a second one ends the process.
pub(super) fn interrupt_flag() -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let for_thread = Arc::clone(&flag);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            super::serve::wait_for_signal().await;
            for_thread.store(true, Ordering::SeqCst);
            eprintln!("\nsaving; a second Ctrl-C ends at once (what was saved before stays)");
            super::serve::wait_for_signal().await;
            std::process::exit(super::EXIT_INTERRUPTED);
        });
    })?;
    Ok(flag)
}

struct Bar {
    bar: ProgressBar,
    begun: Instant,
    first_step: usize,
    told: Instant,
    values: BTreeMap<String, f64>,
}

/// Shows a run and passes Ctrl-C on to it.
pub(super) struct Terminal {
    bars: MultiProgress,
    is_terminal: bool,
    stage: Option<(Stage, Bar)>,
    interrupted: Arc<AtomicBool>,
}

impl Terminal {
    pub(super) fn new(interrupted: Arc<AtomicBool>) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bars = MultiProgress::with_draw_target(if is_terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        });
        Self { bars, is_terminal, stage: None, interrupted }
    }

    /// Leaves the last bar as it stands.
    pub(super) fn finish(&mut self) {
        if let Some((stage, bar)) = self.stage.take() {
            if !self.is_terminal {
                eprintln!("{}", line(stage, &bar));
            }
            bar.bar.abandon();
        }
    }

    fn enter(&mut self, stage: Stage, step: usize, n_steps: usize) -> &mut Bar {
        // a stage that begins anew, with its baseline or after a rollback, has a bar of its own
        let goes_on = |(current, bar): &(Stage, Bar)| *current == stage && step as u64 >= bar.bar.position();
        if !self.stage.as_ref().is_some_and(goes_on) {
            self.finish();
            let bar = self.bars.add(ProgressBar::new(n_steps as u64));
            let style = ProgressStyle::with_template("{prefix:6} {bar:30} {pos:>6}/{len:<6} ETA {eta:>4}  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(stage.name());
            // a resumed stage begins in the middle: the time left follows from the steps of this process only
            bar.set_position(step as u64);
            bar.reset_eta();
            let now = Instant::now();
            let bar = Bar { bar, begun: now, first_step: step, told: now, values: BTreeMap::new() };
            return &mut self.stage.insert((stage, bar)).1;
        }
        match &mut self.stage {
            Some((_, bar)) => bar,
            None => unreachable!("just checked"),
        }
    }
}

fn message(values: &BTreeMap<String, f64>) -> String {
    let known = SHOWN.iter().filter_map(|name| values.get(*name).map(|value| (*name, value)));
    let mut words: Vec<String> = known.map(|(name, value)| format!("{name} {}", short(*value))).collect();
    if words.is_empty() {
        words = values.iter().take(3).map(|(name, value)| format!("{name} {}", short(*value))).collect();
    }
    words.join("  ")
}

/// Three decimals for small values, none for counts and large ones.
fn short(value: f64) -> String {
    if value.abs() >= 1_000.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

fn line(stage: Stage, bar: &Bar) -> String {
    let (step, n_steps) = (bar.bar.position(), bar.bar.length().unwrap_or(0));
    let done = step.saturating_sub(bar.first_step as u64);
    let secs_left = match done {
        _ if step >= n_steps => String::from("0"),
        0 => String::from("?"),
        _ => format!("{:.0}", bar.begun.elapsed().as_secs_f64() / done as f64 * n_steps.saturating_sub(step) as f64),
    };
    format!("{:6} {step}/{n_steps}  ETA {secs_left} s  {}", stage.name(), message(&bar.values))
}

impl Observer for Terminal {
    fn metric(&mut self, stage: Stage, step: usize, n_steps: usize, name: &str, value: f64) {
        let is_terminal = self.is_terminal;
        let bar = self.enter(stage, step, n_steps);
        bar.values.insert(name.to_owned(), value);
        bar.bar.set_length(n_steps as u64);
        bar.bar.set_position(step as u64);
        bar.bar.set_message(message(&bar.values));
        if !is_terminal && bar.told.elapsed() >= LINE_EVERY {
            bar.told = Instant::now();
            let text = line(stage, bar);
            eprintln!("{text}");
        }
    }

    fn log(&mut self, text: &str) {
        // above the bars; plain where there are none
        if !self.is_terminal || self.bars.println(text).is_err() {
            eprintln!("{text}");
        }
    }

    fn sample(&mut self, stage: Stage, step: usize, prompts: &[SampledPrompt]) {
        self.log(&in_one_line(stage, step, prompts));
    }

    fn device(&mut self, description: &str) {
        self.log(&format!("device: {description}"));
    }

    fn control(&mut self) -> Control {
        if self.interrupted.load(Ordering::SeqCst) { Control::Cancel } else { Control::Continue }
    }

    fn wait_while_paused(&mut self) -> Control {
        // nobody can pause a run in the terminal
        self.control()
    }
}
