//! One page per step of the loop.

pub mod checkpoints;
pub mod data;
pub mod experiments;
pub mod preview;
pub mod server;
pub mod train;
