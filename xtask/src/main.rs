//! `cargo xtask …`: everything that builds, checks, shows or measures the project. No product code.
//!
//! Each verb is one file; `project.rs` knows folders and how to call Cargo, `system.rs` the parts that come
//! from the operating system.

mod bench;
mod check;
mod demo;
mod model;
mod page;
mod project;
mod python;
mod schemathesis;
mod system;
mod testing;
mod tidy;

use clap::{Parser, Subcommand};
use project::Project;

/// Builds the page, shows the demo, runs every check, runs the benches.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build everything and serve the demo: built-in checkpoint, simulated sample log.
    Demo(demo::Options),
    /// Run every check, cheapest first; ends with one line `N passed, N failed, N skipped`.
    Check(check::Options),
    /// Build the page for wasm32 into `server/page`, hashed and compressed.
    BuildPage(page::Options),
    /// Run the benches; one figure a line.
    Bench(bench::Options),
    /// Fetch SmolLM2-135M-Instruct into a cache outside the clone, and import it.
    Model(model::Options),
    /// Hold every answer of the server against its OpenAPI document (needs PyPI the first time).
    Schemathesis(schemathesis::Options),
    /// Check the repository rules only.
    Tidy,
}

fn main() -> std::process::ExitCode {
    let outcome = Project::find().and_then(|project| match Cli::parse().verb {
        Verb::Demo(options) => demo::run(&project, &options),
        Verb::Check(options) => check::run(&project, &options),
        Verb::BuildPage(options) => page::run(&project, &options).map(|page| page.print()),
        Verb::Bench(options) => bench::run(&project, &options),
        Verb::Model(options) => model::run(&project, &options),
        Verb::Schemathesis(options) => schemathesis::run(&project, &options),
        Verb::Tidy => tidy::run(&project).map(|summary| println!("{summary}")),
    });
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
