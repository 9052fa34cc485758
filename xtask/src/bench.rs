//! `cargo xtask bench [NAME] [--json]`: runs the benches and prints one figure a line.
//!
//! A bench is an example whose name starts with `bench_`, in any crate. It takes an optional name to run one
//! figure only and prints a JSON object a line: `name, device, unit, ours, rival, rival_name, ratio`, where a
//! ratio above 1 means that ours is better and both sides were measured in the same run.

use crate::project::{Project, spelled, succeed};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::process::{Command, Stdio};

/// Which figures, and how to print them.
#[derive(clap::Args)]
pub struct Options {
    /// Part of a figure's name; without it all.
    name: Option<String>,
    /// One JSON object a line instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs every bench that has a figure of the name.
pub fn run(project: &Project, options: &Options) -> Result<()> {
    let targets = project.targets()?;
    let benches: Vec<_> = targets
        .iter()
        .filter(|target| target.kind == "example" && target.name.starts_with("bench_"))
        .map(|target| target.name.as_str())
        .collect();
    ensure!(!benches.is_empty(), "no example is named bench_*");
    let mut build = project.cargo(["build", "--release", "--workspace"]);
    benches.iter().for_each(|bench| {
        build.args(["--example", bench]);
    });
    succeed(&mut build)?;
    let mut n_figures = 0;
    for bench in benches {
        for figure in figures(project, bench, options.name.as_deref())? {
            println!("{}", if options.json { figure.to_string() } else { line(&figure) });
            n_figures += 1;
        }
    }
    match &options.name {
        Some(name) if n_figures == 0 => bail!("no figure is named like `{name}`"),
        _ if n_figures == 0 => bail!("the benches printed no figure"),
        _ => Ok(()),
    }
}

/// Runs one bench and reads its lines.
fn figures(project: &Project, bench: &str, name: Option<&str>) -> Result<Vec<Value>> {
    let mut command = Command::new(project.target.join("release/examples").join(bench));
    command.args(name).current_dir(&project.root).stdin(Stdio::null()).stderr(Stdio::inherit());
    project.set_environment(&mut command);
    let spelled = spelled(&command);
    eprintln!("$ {spelled}");
    let output = command.output().with_context(|| spelled.clone())?;
    ensure!(output.status.success(), "`{spelled}` failed ({})", output.status);
    let figures: Vec<_> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(figure)
        .collect::<Result<_>>()?;
    Ok(figures.into_iter().filter(|figure| name.is_none_or(|name| text(figure, "name").contains(name))).collect())
}

/// Parses a line and insists on every field.
fn figure(line: &str) -> Result<Value> {
    let figure: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
    for key in ["name", "device", "unit", "rival_name"] {
        ensure!(figure[key].is_string(), "a bench line without the text `{key}`: {line}");
    }
    for key in ["ours", "rival", "ratio"] {
        ensure!(figure[key].as_f64().is_some_and(f64::is_finite), "a bench line without the number `{key}`: {line}");
    }
    Ok(figure)
}

fn text<'a>(figure: &'a Value, key: &str) -> &'a str {
    figure[key].as_str().unwrap_or_default()
}

fn line(figure: &Value) -> String {
    let number = |key: &str| figure[key].as_f64().unwrap_or(f64::NAN);
    format!(
        "{:<32} {:>12.2} {:<12} {:>12.2} {:<24} ratio {:>7.3}  on {}",
        text(figure, "name"),
        number("ours"),
        text(figure, "unit"),
        number("rival"),
        text(figure, "rival_name"),
        number("ratio"),
        text(figure, "device"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_needs_every_field() {
        let whole =
            r#"{"name":"decode","device":"cpu","unit":"tokens/s","ours":2.0,"rival":1.0,"rival_name":"x","ratio":2.0}"#;
        assert!(line(&figure(whole).unwrap()).contains("decode"));
        for key in ["name", "device", "unit", "ours", "rival", "rival_name", "ratio"] {
            let mut broken: Value = serde_json::from_str(whole).unwrap();
            broken[key] = Value::Null;
            assert!(figure(&broken.to_string()).is_err(), "{key}");
        }
        assert!(figure("{").is_err());
    }
}
