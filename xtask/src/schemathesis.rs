//! `cargo xtask schemathesis`: asks a server of its own thousands of requests made from its OpenAPI document, and fails where an
//! answer is a server error or one that the document does not describe.
//!
//! Schemathesis comes from PyPI into a virtual environment in the target folder, made once. Not part of `check`, which works
//! without a network.

use crate::demo::{free_port, wait_until_it_answers};
use crate::project::{Project, spelled, succeed};
use crate::python;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::process::{Command, Stdio};

/// Version that is installed.
const VERSION: &str = "4.32.5";
/// What an answer is held against.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
/// Endless streams: events, and the WebSocket.
const ENDLESS: &str = "^/api/(events|control)$";

/// How much to ask.
#[derive(clap::Args)]
pub struct Options {
    /// Requests of the fuzzing phase for each operation; those of the coverage phase come on top.
    #[arg(long, default_value_t = 15)]
    max_examples: u32,
    /// Test a server that runs already instead of one of its own; it will be full of nonsense afterwards.
    #[arg(long)]
    url: Option<String>,
}

/// Sets itself up, asks, and gives the verdict.
pub fn run(project: &Project, options: &Options) -> Result<()> {
    let folder = project.target.join(format!("schemathesis-{VERSION}"));
    let program = python::program(&folder, &format!("schemathesis=={VERSION}"), "schemathesis")?;
    let Some(url) = &options.url else {
        let binary = project.build_server()?;
        let port = free_port();
        let data_dir = project.target.join(format!("schemathesis-data-{}", std::process::id()));
        let mut command = Command::new(binary);
        command.args([
            "serve",
            "--demo",
            "--device",
            "cpu",
            "--rate",
            "1000000",
            "--addr",
            &format!("127.0.0.1:{port}"),
        ]);
        command.arg("--data-dir").arg(&data_dir);
        project.set_environment(&mut command);
        // its log would stand among the findings
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = command.spawn().context("could not start the server")?;
        let outcome = wait_until_it_answers(&mut server, port)
            .and_then(|()| ask(&program, &format!("http://127.0.0.1:{port}"), options.max_examples));
        let alive = server.try_wait()?.is_none();
        let _ = server.kill();
        let _ = server.wait();
        let _ = std::fs::remove_dir_all(&data_dir);
        ensure!(alive, "the server ended under the test");
        return outcome;
    };
    ask(&program, url, options.max_examples)
}

fn ask(program: &Path, url: &str, max_examples: u32) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["run", &format!("{}/openapi.json", url.trim_end_matches('/'))]);
    command.args(["--checks", CHECKS, "--exclude-path-regex", ENDLESS, "--phases", "examples,coverage,fuzzing"]);
    command.args(["--max-examples", &max_examples.to_string(), "--generation-deterministic", "--no-color"]);
    // it keeps what it found in the folder that it is started in
    command.current_dir(program.parent().context("a program lies in a folder")?);
    eprintln!("$ {}", spelled(&command));
    succeed(command.stdin(Stdio::null()))
}
