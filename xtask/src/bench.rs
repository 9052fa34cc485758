//! `cargo xtask bench [NAME] [--json]`: runs the benches and prints one figure a line.
//!
//! A bench is an example whose name starts with `bench_`, in any crate, or a verb of `beckon bench`. It prints a
//! JSON object a line: `name, device, unit, ours, rival, rival_name, ratio`. A ratio above 1 means that ours is
//! better, both sides measured in the same run; where no rival can run, the three are null.

use crate::project::{Project, spelled, succeed};
use anyhow::{Context, Result, ensure};
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

/// Figures of `beckon bench` and its verbs.
const OF_SERVER: [(&str, &str); 1] = [("sft_step", "sft")];

/// Runs every bench that has a figure of the name.
pub fn run(project: &Project, options: &Options) -> Result<()> {
    let name = options.name.as_deref().unwrap_or_default();
    let mut commands = Vec::new();
    let targets = project.targets()?;
    let examples: Vec<_> =
        targets.iter().filter(|target| target.kind == "example" && target.name.starts_with("bench_")).collect();
    let mut build = project.cargo(["build", "--release", "--workspace"]);
    for example in &examples {
        build.args(["--example", &example.name]);
        let mut command = Command::new(project.target.join("release/examples").join(&example.name));
        command.args(&options.name);
        commands.push(command);
    }
    ensure!(!examples.is_empty(), "no example is named bench_*");
    succeed(&mut build)?;
    for (_, verb) in OF_SERVER.iter().filter(|(figure, _)| figure.contains(name) || name.starts_with(figure)) {
        let mut command = Command::new(project.build_server()?);
        command.args(["bench", verb, "--json"]);
        commands.push(command);
    }
    let mut n_figures = 0;
    for command in &mut commands {
        for figure in figures(project, command)?.iter().filter(|figure| text(figure, "name").contains(name)) {
            println!("{}", if options.json { figure.to_string() } else { line(figure) });
            n_figures += 1;
        }
    }
    ensure!(n_figures > 0, "no figure is named like `{name}`");
    Ok(())
}

/// Runs one bench and reads its lines.
fn figures(project: &Project, command: &mut Command) -> Result<Vec<Value>> {
    command.current_dir(&project.root).stdin(Stdio::null()).stderr(Stdio::inherit());
    project.set_environment(command);
    let spelled = spelled(command);
    eprintln!("$ {spelled}");
    let output = command.output().with_context(|| spelled.clone())?;
    ensure!(output.status.success(), "`{spelled}` failed ({})", output.status);
    String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with('{')).map(figure).collect()
}

/// Parses a line and insists on every field; without a rival its three fields become null.
fn figure(line: &str) -> Result<Value> {
    let mut figure: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
    for key in ["name", "device", "unit"] {
        ensure!(figure[key].is_string(), "a bench line without the text `{key}`: {line}");
    }
    ensure!(is_number(&figure["ours"]), "a bench line without the number `ours`: {line}");
    if figure["rival"].is_null() {
        for key in ["rival", "rival_name", "ratio"] {
            figure[key] = Value::Null;
        }
        return Ok(figure);
    }
    ensure!(figure["rival_name"].is_string(), "a rival without a name: {line}");
    ensure!(is_number(&figure["rival"]) && is_number(&figure["ratio"]), "a rival without its numbers: {line}");
    Ok(figure)
}

fn is_number(value: &Value) -> bool {
    value.as_f64().is_some_and(f64::is_finite)
}

fn text<'a>(figure: &'a Value, key: &str) -> &'a str {
    figure[key].as_str().unwrap_or_default()
}

fn line(figure: &Value) -> String {
    let number = |key: &str| figure[key].as_f64().unwrap_or(f64::NAN);
    let rival = match figure["rival"] {
        Value::Null => format!("{:>45}", "no rival in this run"),
        _ => format!("{:>12.2} {:<24} x{:.3}", number("rival"), text(figure, "rival_name"), number("ratio")),
    };
    let (name, unit, device) = (text(figure, "name"), text(figure, "unit"), text(figure, "device"));
    format!("{name:<28} {:>12.2} {unit:<10} {rival}  on {device}", number("ours"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_needs_every_field() {
        let whole =
            r#"{"name":"decode","device":"cpu","unit":"tokens/s","ours":2.0,"rival":1.0,"rival_name":"x","ratio":2.0}"#;
        assert!(line(&figure(whole).unwrap()).contains("decode"));
        for key in ["name", "device", "unit", "ours", "rival_name", "ratio"] {
            let mut broken: Value = serde_json::from_str(whole).unwrap();
            broken[key] = Value::Null;
            assert!(figure(&broken.to_string()).is_err(), "{key}");
        }
        let alone = figure(r#"{"name":"sft_step","device":"cpu","unit":"tokens/s","ours":2.0}"#).unwrap();
        assert!(alone["ratio"].is_null() && line(&alone).contains("no rival"), "{alone}");
        assert!(figure("{").is_err());
    }
}
