//! `cargo xtask bench generate`: suggestions that the native engine writes on a GPU, in turn with transformers' `generate`
//! in bf16 on the same one.
//!
//! Each figure is the median of [`N_ROUNDS`] rounds, in each of which either side is a process of its own, so that neither
//! holds the GPU's memory while the other works. Ours is the example `bench_generate`, which prints nothing where there is no
//! real GPU; then there is no figure. A rival on another GPU than ours, or none, is said and left out.

use super::torch::Torch;
use super::{N_ROUNDS, figure, figures, median, text};
use crate::project::{Project, succeed};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Our side.
pub const EXAMPLE: &str = "bench_generate";
/// Rows of a batch.
const ROWS: [usize; 4] = [1, 8, 64, 256];

fn name_of(n_rows: usize) -> String {
    format!("generate.rows_{n_rows}")
}

/// Names of the figures that `name` is a part of.
pub fn names(name: &str) -> Vec<String> {
    ROWS.into_iter().map(name_of).filter(|own| own.contains(name)).collect()
}

/// Whether no other bench has figures of this name.
pub fn is_alone(name: &str) -> bool {
    name.starts_with("generate") && !names(name).is_empty()
}

/// Measures and prints the figures that `name` is a part of. With `any_adapter` our side alone, a small part of it, on
/// whatever adapter there is.
pub fn run(
    project: &Project,
    name: &str,
    any_adapter: bool,
    python: Option<&Path>,
    print: &mut dyn FnMut(&Value),
) -> Result<()> {
    succeed(&mut project.cargo(["build", "--release", "--workspace", "--example", EXAMPLE]))?;
    let program = project.target.join("release/examples").join(EXAMPLE);
    if any_adapter {
        eprintln!("generate on whatever adapter there is: two small batches, no rival");
        figures(project, Command::new(program).args([name, "--any-adapter"]))?.iter().for_each(print);
        return Ok(());
    }
    // asked once before the rival is installed; it says itself why there is none
    if figures(project, Command::new(&program).arg(name_of(ROWS[0])))?.is_empty() {
        return Ok(());
    }
    let torch = Torch::at(python);
    if let Err(error) = &torch {
        eprintln!("no rival for generate: {error:#}");
    }
    let mut torch = torch.ok();
    for name in names(name) {
        let (mut ours, mut rivals) = (Vec::new(), Vec::new());
        let mut last = Value::Null;
        for _ in 0..N_ROUNDS {
            let found = figures(project, Command::new(&program).arg(&name))?;
            last =
                found.into_iter().find(|figure| text(figure, "name") == name).context("our side printed no figure")?;
            ours.push(last["ours"].as_f64().context("our side printed no number")?);
            let answer = torch.as_ref().map(|torch| rival(torch, &last));
            match answer.transpose() {
                Ok(answer) => rivals.extend(answer),
                Err(error) => {
                    eprintln!("no rival for {name}: {error:#}");
                    torch = None;
                }
            }
        }
        let rival_name = torch.as_ref().map(|torch| torch.name("generate"));
        print(&joined(last, &mut ours, &rivals, rival_name)?);
    }
    Ok(())
}

/// What the rival did in the setting of our figure, on the GPU of our figure.
fn rival(torch: &Torch, figure: &Value) -> Result<Value> {
    let answer = torch.generate(&figure["setting"])?;
    let (ours, theirs) = (text(figure, "device"), text(&answer, "device"));
    ensure!(!theirs.is_empty() && ours.contains(theirs), "PyTorch is on {theirs:?}, our side on {ours}");
    Ok(answer)
}

/// The figure of all rounds; with a rival where it was there in every one.
fn joined(mut last: Value, ours: &mut [f64], rivals: &[Value], rival_name: Option<String>) -> Result<Value> {
    let ours_median = median(ours);
    last["ours"] = ours_median.into();
    if let Some(name) = rival_name.filter(|_| rivals.len() == ours.len()) {
        let mut speeds: Vec<f64> = rivals.iter().filter_map(|answer| answer["rival"].as_f64()).collect();
        let most = rivals.iter().filter_map(|answer| answer["memory_bytes"].as_u64()).max();
        last["rival"] = median(&mut speeds).into();
        last["rival_name"] = name.into();
        last["ratio"] = (ours_median / median(&mut speeds)).into();
        last["rival_memory_bytes"] = most.into();
    }
    figure(&last.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn its_figures_are_found_by_parts_of_their_names() {
        assert_eq!(names("generate").len(), ROWS.len());
        assert_eq!(names("").len(), ROWS.len());
        assert_eq!(names("rows_64"), ["generate.rows_64"]);
        assert!(names("decode").is_empty());
        for (name, alone) in
            [("generate", true), ("generate.rows_8", true), ("rows_8", false), ("", false), ("generates", false)]
        {
            assert_eq!(is_alone(name), alone, "{name}");
        }
    }

    #[test]
    fn a_figure_has_the_medians_of_both_sides_or_no_rival_at_all() {
        let last = json!({"name": "generate.rows_8", "device": "a card", "unit": "tokens/s", "ours": 1.0});
        let answer = |speed: f64, bytes: u64| json!({"rival": speed, "memory_bytes": bytes, "device": "a card"});
        let rivals = [answer(10.0, 5), answer(30.0, 7), answer(20.0, 6)];
        let name = || Some("PyTorch".to_owned());
        let whole = joined(last.clone(), &mut [50.0, 40.0, 30.0], &rivals, name()).expect("a figure");
        assert_eq!((&whole["ours"], &whole["rival"], &whole["ratio"]), (&json!(40.0), &json!(20.0), &json!(2.0)));
        assert_eq!((&whole["rival_name"], &whole["rival_memory_bytes"]), (&json!("PyTorch"), &json!(7)));
        for (rivals, name) in [(&rivals[..2], name()), (&rivals[..0], name()), (&rivals[..], None)] {
            let alone = joined(last.clone(), &mut [50.0, 40.0, 30.0], rivals, name).expect("a figure");
            assert_eq!((&alone["ours"], &alone["rival"]), (&json!(40.0), &Value::Null));
        }
    }
}
