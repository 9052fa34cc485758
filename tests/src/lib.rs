//! What the end-to-end binary stands on: the real `beckon` as a process, a client for its routes and events,
//! Chromium, and small logs.
//!
//! In the loop: around all of it. Nothing here repeats a unit test, and nothing here is used by the product.

pub mod browser;
pub mod client;
pub mod cutting;
pub mod lender;
pub mod moto;
pub mod npm;
pub mod postgres;
pub mod process;
pub mod sample;
pub mod site;
pub mod wllama;

use std::time::{Duration, Instant};

/// Asks again and again until there is an answer.
///
/// # Panics
/// When `limit` is over, naming what was waited for.
#[track_caller]
pub fn wait_for<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The processor in words, for figures.
pub fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let n = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{n} cores of {}", model.trim_start_matches([':', ' ', '\t']))
}
