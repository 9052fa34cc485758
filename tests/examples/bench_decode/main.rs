//! Prefill and decoding in the browser on the CPU against wllama, turn and turn about, and what a batch costs: on one thread each, then
//! on two.
//!
//! One JSON line a figure, `name, device, unit, ours, rival, rival_name, ratio`; `cargo xtask bench decode` runs it.
//! Figures are medians of five rounds. Who runs, and on what: [`beckon_tests::wllama`].

use anyhow::Result;
use beckon_tests::wllama::{Duel, N_ROUNDS, PROMPT_TOKENS, Work, median};
use serde_json::json;

/// Tokens of a completion; the first comes out of the prefill.
const N_TOKENS: usize = 33;
/// Candidates of the batch.
const BATCH: usize = 8;

fn main() -> Result<()> {
    let only = std::env::args().nth(1).unwrap_or_default();
    for (n_threads, behind) in [(1, ""), (2, ".two_threads")] {
        let names = ["decode.one_sequence", "decode.prefill_64", "decode.eight_for_one"];
        let names = names.map(|name| format!("{name}{behind}"));
        if names.iter().any(|name| name.contains(&only)) {
            run(&names, n_threads)?;
        }
    }
    Ok(())
}

fn run(names: &[String; 3], n_threads: usize) -> Result<()> {
    let Some(duel) = Duel::start("decode", n_threads)? else { return Ok(()) };
    let (mut one, mut eight, mut rival) = (Vec::new(), Vec::new(), Vec::new());
    for round in [Duel::WARM_UP].into_iter().chain(0..N_ROUNDS) {
        let of_round = (duel.ours(round, 1, N_TOKENS)?, duel.rival(round, 1, N_TOKENS)?);
        let batch = duel.ours(round, BATCH, N_TOKENS)?;
        if round != Duel::WARM_UP {
            one.push(of_round.0);
            rival.push(of_round.1);
            eight.push(batch);
        }
    }
    let speeds = |works: &[Work], speed: &dyn Fn(&Work) -> f64| median(works.iter().map(speed).collect());
    let decode = |work: &Work| (N_TOKENS - 1) as f64 / work.decode_secs;
    let prefill = |work: &Work| PROMPT_TOKENS as f64 / work.prefill_secs;
    for (name, speed) in [(&names[0], &decode as &dyn Fn(&Work) -> f64), (&names[1], &prefill)] {
        let (ours, theirs) = (speeds(&one, speed), speeds(&rival, speed));
        let figure = json!({
            "name": name, "device": duel.device, "unit": "tokens/s", "ours": ours, "rival": theirs,
            "rival_name": duel.rival_name, "ratio": ours / theirs,
        });
        println!("{figure}");
    }
    let cost = median(eight.iter().zip(&one).map(|(eight, one)| eight.decode_secs / one.decode_secs).collect());
    let unit = "times one candidate's decoding, for eight";
    println!("{}", json!({ "name": names[2], "device": duel.device, "unit": unit, "ours": cost }));
    duel.finish()
}
