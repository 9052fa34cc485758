//! What server, page and tests agree on: click log, preferences, tokenizer, checkpoint format, the
//! inference engine, the reference formulas of the losses, and the control protocol.
//!
//! Never here: files, sockets, threads, the clock, unseeded randomness, Burn, the DOM.

pub mod ab;
pub mod adapter;
pub mod checkpoint;
pub mod click;
pub mod click_model;
pub mod config;
mod conjugate;
pub mod control;
pub mod ctr;
pub mod digest;
pub mod distill;
pub mod eigen;
pub mod engine;
pub mod garm;
pub mod gguf;
pub mod import;
pub mod json;
pub mod lexical;
pub mod metrics;
pub mod off_policy;
pub mod preference;
pub mod prompt;
pub mod quant;
pub mod replay;
pub mod reward;
pub mod sampling;
pub mod special;
pub mod tensor;
pub mod tokenizer;
