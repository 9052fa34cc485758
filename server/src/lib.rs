//! Storage, training, HTTP and CLI of Beckon. See ARCHITECTURE.md.

pub mod accept;
pub mod access;
pub mod allocator;
pub mod app;
pub mod assets;
pub mod audit;
pub mod backup;
pub mod catalog;
pub mod cli;
pub mod cold_start;
pub mod crash;
pub mod eval;
pub mod events;
pub mod import;
pub mod limit;
pub mod model;
pub mod openapi;
mod outbound;
pub mod pipeline;
pub mod priority;
pub mod registry;
pub mod remote;
pub mod replica;
pub mod report;
pub mod route;
pub mod run_config;
pub mod simulate;
pub mod stage;
pub mod store;
pub mod telemetry;
pub mod trainer;

/// Milliseconds since 1970-01-01 UTC; 0 on a machine whose clock stands before that.
pub fn now_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
