//! Building blocks that more than one page uses.

pub mod chart;
pub mod progress;
pub mod simulated;
pub mod spread;
