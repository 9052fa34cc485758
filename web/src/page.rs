//! One page per step of the loop.

pub mod data;
pub mod preview;
pub mod train;
