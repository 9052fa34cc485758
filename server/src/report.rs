//! What a run has shown, as data and as one page for people.

pub mod plot;
