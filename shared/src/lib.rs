//! What server, page and tests agree on: click log, preferences, tokenizer, checkpoint format, the
//! inference engine, the reference formulas of the losses, and the control protocol.
//!
//! Never here: files, sockets, threads, the clock, unseeded randomness, Burn, the DOM.

pub mod checkpoint;
pub mod click;
pub mod config;
pub mod control;
pub mod ctr;
pub mod digest;
pub mod engine;
pub mod garm;
pub mod gguf;
pub mod import;
pub mod metrics;
pub mod preference;
pub mod prompt;
pub mod quant;
pub mod reward;
pub mod sampling;
pub mod special;
pub mod tensor;
pub mod tokenizer;
