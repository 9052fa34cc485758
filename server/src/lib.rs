//! Storage, training, HTTP and CLI of Beckon. See ARCHITECTURE.md.

pub mod app;
pub mod cli;
pub mod eval;
pub mod model;
pub mod pipeline;
pub mod report;
pub mod route;
pub mod simulate;
pub mod stage;
pub mod store;
pub mod trainer;
