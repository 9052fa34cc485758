//! `cargo xtask bench [NAME] [--json]`: runs the benches and prints one figure a line.
//!
//! A bench is an example whose name starts with `bench_`, in any crate, or a verb of `beckon bench`. It prints a
//! JSON object a line: `name, device, unit, ours, rival, rival_name, ratio`. A ratio above 1 means that ours is
//! better, both sides measured in the same run; where no rival can run, the three are null. `bench_NAME` alone runs
//! where there is one (`decode`, `suggest`, `q4`, `engine`), `sft`, `garm` and `rl` are training steps alone, and
//! `generate` is the native engine on a GPU against transformers there; any other NAME is a part of a figure's name.
//!
//! Training steps (`beckon bench`) are measured in [`N_ROUNDS`] rounds, ours and the rival's in turn, so that both
//! see the same machine; both sides of a figure are medians over the rounds.

mod generate;
mod torch;

use crate::model;
use crate::page;
use crate::project::{CargoTarget, Project, spelled, succeed};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use torch::Torch;

/// Which figures, and how to print them.
#[derive(clap::Args)]
pub struct Options {
    /// A bench, or part of a figure's name; without it all.
    name: Option<String>,
    /// One JSON object a line instead of text.
    #[arg(long)]
    json: bool,
    /// A Python that has PyTorch and transformers, for rivals; without it they are installed once.
    #[arg(long, value_name = "PATH", env = "BECKON_BENCH_PYTHON")]
    python: Option<PathBuf>,
    /// `generate` on whatever adapter there is, a software one included: two small batches without a rival.
    #[arg(long)]
    any_adapter: bool,
}

/// What `beckon bench` is asked for: verb and size.
const OF_SERVER: [(&str, &str); 6] =
    [("sft", "5m"), ("sft", "33m"), ("garm", "5m"), ("garm", "33m"), ("rl", "5m"), ("rl", "33m")];
/// Examples that measure the page as it is built, with the real model.
const OF_PAGE: [&str; 2] = ["bench_decode", "bench_suggest"];
/// Rounds of a training step.
const N_ROUNDS: usize = 5;

/// Runs every bench that has a figure of the name.
pub fn run(project: &Project, options: &Options) -> Result<()> {
    let name = options.name.as_deref().unwrap_or_default();
    let mut commands = Vec::new();
    let targets = project.targets()?;
    let has_no_example = is_training_step(name) || generate::is_alone(name);
    let mut examples = if has_no_example { Vec::new() } else { benches(&targets, name) };
    let model = if need_page(&examples) { page_for(&mut examples, || prepare_page(project))? } else { None };
    let mut build = project.cargo(["build", "--release", "--workspace"]);
    for example in &examples {
        build.args(["--example", example]);
        let mut command = Command::new(project.target.join("release/examples").join(example));
        command.args(&options.name).envs(model.iter().map(|file| (model::VARIABLE, file)));
        commands.push(command);
    }
    if !examples.is_empty() {
        succeed(&mut build)?;
    }
    let mut n_figures = 0;
    let mut print = |figure: &Value| {
        println!("{}", if options.json { figure.to_string() } else { line(figure) });
        n_figures += 1;
    };
    for command in &mut commands {
        figures(project, command)?.iter().filter(|figure| text(figure, "name").contains(name)).for_each(&mut print);
    }
    let python = options.python.as_deref();
    if !generate::names(name).is_empty() {
        generate::run(project, name, options.any_adapter, python, &mut print)?;
    }
    let steps: Vec<_> = OF_SERVER.iter().filter(|(verb, size)| format!("{verb} {size}").contains(name)).collect();
    if !steps.is_empty() {
        let server = project.build_server()?;
        let torch = Torch::at(python);
        if let Err(error) = &torch {
            eprintln!("no rival for {} training figures: {error:#}", steps.len());
        }
        for (verb, size) in steps {
            print(&training_step(project, &server, [verb, size], torch.as_ref().ok())?);
        }
    }
    ensure!(n_figures > 0, "no figure: none is named like `{name}`, or those that are were not run, as said above");
    Ok(())
}

/// Examples to run: the bench of that name alone, or all of them, which pick their figures.
fn benches<'a>(targets: &'a [CargoTarget], name: &str) -> Vec<&'a str> {
    let examples = targets.iter().filter(|target| target.kind == "example").map(|target| &*target.name);
    // that of `generate` takes turns with its rival
    let is_bench = |example: &&str| example.starts_with("bench_") && *example != generate::EXAMPLE;
    let all: Vec<&str> = examples.filter(is_bench).collect();
    match all.iter().find(|example| example.strip_prefix("bench_") == Some(name)) {
        Some(own) => vec![own],
        None => all,
    }
}

/// Whether the name is that of a training step, of which no example has figures.
fn is_training_step(name: &str) -> bool {
    OF_SERVER.iter().any(|(verb, size)| name == *verb || name == format!("{verb} {size}"))
}

fn need_page(examples: &[&str]) -> bool {
    examples.iter().any(|example| OF_PAGE.contains(example))
}

/// What `prepare` gives the benches of the page. Where it fails the others go on without these, if there are others.
fn page_for(examples: &mut Vec<&str>, prepare: impl FnOnce() -> Result<Option<PathBuf>>) -> Result<Option<PathBuf>> {
    let others: Vec<&str> = examples.iter().copied().filter(|example| !OF_PAGE.contains(example)).collect();
    match prepare() {
        Err(error) if !others.is_empty() => {
            eprintln!("no page, so none of its figures: {error:#}");
            *examples = others;
            Ok(None)
        }
        prepared => prepared,
    }
}

/// Builds the page and fetches the model; without the model its benches say that they were not run.
fn prepare_page(project: &Project) -> Result<Option<PathBuf>> {
    page::run(project, &page::Options::default())?;
    let model = model::fetch();
    if let Err(error) = &model {
        eprintln!("no model for the page's figures: {error:#}");
    }
    Ok(model.ok())
}

/// One training step in rounds, ours and PyTorch's in turn.
fn training_step(project: &Project, server: &Path, [verb, size]: [&str; 2], torch: Option<&Torch>) -> Result<Value> {
    let (mut ours, mut rival) = (Vec::new(), Vec::new());
    let mut last = Value::Null;
    for _ in 0..N_ROUNDS {
        let mut command = Command::new(server);
        command.args(["bench", verb, "--size", size, "--device", "cpu", "--json"]);
        last = figures(project, &mut command)?.pop().context("`beckon bench` printed no figure")?;
        ours.push(last["ours"].as_f64().context("`beckon bench` printed no number")?);
        if let Some(torch) = torch {
            rival.push(torch.step(verb, &last["setting"])?);
        }
    }
    last["ours"] = median(&mut ours).into();
    if let Some(torch) = torch {
        last["rival"] = median(&mut rival).into();
        last["rival_name"] = torch.name(verb).into();
        last["ratio"] = (median(&mut ours) / median(&mut rival)).into();
    }
    figure(&last.to_string())
}

/// Middle value; NaN for none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
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

    #[test]
    fn a_bench_of_the_name_runs_alone() {
        let target = |kind: &str, name: &str| CargoTarget {
            package: "beckon-tests".to_owned(),
            name: name.to_owned(),
            kind: kind.to_owned(),
        };
        let targets = [
            target("example", "bench_engine"),
            target("bin", "bench_q4"),
            target("example", "bench_decode"),
            target("example", "schema"),
            target("example", generate::EXAMPLE),
        ];
        assert_eq!(benches(&targets, "decode"), ["bench_decode"]);
        for part in ["", "decode_8", "q4", "schema"] {
            assert_eq!(benches(&targets, part), ["bench_engine", "bench_decode"], "{part}");
        }
    }

    #[test]
    fn only_benches_of_the_page_wait_for_it() {
        for (name, is_step) in
            [("sft", true), ("garm", true), ("rl 33m", true), ("", false), ("5m", false), ("q4", false)]
        {
            assert_eq!(is_training_step(name), is_step, "{name}");
        }
        assert!(need_page(&["bench_q4", "bench_decode"]) && !need_page(&["bench_q4"]) && !need_page(&[]));
        let failed = || Err(anyhow::anyhow!("no wasm-opt"));
        let mut examples = vec!["bench_decode", "bench_q4"];
        assert!(page_for(&mut examples, failed).unwrap().is_none());
        assert_eq!(examples, ["bench_q4"], "the others go on");
        assert!(page_for(&mut vec!["bench_decode"], failed).is_err());
        let mut examples = vec!["bench_decode", "bench_q4"];
        assert!(page_for(&mut examples, || Ok(Some("model".into()))).unwrap().is_some());
        assert_eq!(examples.len(), 2);
    }

    #[test]
    fn a_median_does_not_follow_an_outlier() {
        assert_eq!(median(&mut [3.0, 900.0, 1.0, 2.0, 4.0]), 3.0);
        assert!(median(&mut []).is_nan());
    }
}
