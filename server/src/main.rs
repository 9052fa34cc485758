//! `beckon`: parses the command line, runs the command, and tells in words what went wrong.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted with the state saved.

use beckon_server::cli::{Cli, Interrupted, run};
use clap::Parser;
use std::process::ExitCode;

// training allocates and frees large tensors at every step, which the system's allocator is slow at
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    beckon_server::allocator::keep_freed_memory();
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Interrupted>() {
            Some(interrupted) => {
                eprintln!("{interrupted}");
                ExitCode::from(130)
            }
            None => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}
