//! Building blocks that more than one page uses.

pub mod all_settings;
pub mod chart;
pub mod confirm;
pub mod density;
pub mod field;
pub mod interval_plot;
pub mod progress;
pub mod simulated;
pub mod spread;
pub mod table;
