//! Storage, training, HTTP and CLI of Beckon. See ARCHITECTURE.md.

pub mod app;
pub mod assets;
pub mod catalog;
pub mod cli;
pub mod eval;
pub mod events;
pub mod import;
pub mod model;
pub mod pipeline;
pub mod report;
pub mod route;
pub mod run_config;
pub mod simulate;
pub mod stage;
pub mod store;
pub mod trainer;

/// Milliseconds since 1970-01-01 UTC; 0 on a machine whose clock stands before that.
pub fn now_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
