//! The product's job in the browser on the CPU, on one thread and on two: a prompt of 64 tokens, eight suggestions of twelve tokens,
//! all scored by GaRM; against wllama writing eight completions one after the other (it scores nothing), turn and turn
//! about.
//!
//! One JSON line a figure, `name, device, unit, ours, rival, rival_name, ratio`; `cargo xtask bench suggest` runs it.
//! Medians of five rounds; ratio = rival / ours. Who runs, and on what: [`beckon_tests::wllama`].

use anyhow::Result;
use beckon_tests::wllama::{Duel, N_ROUNDS, median};
use serde_json::json;

const N_CANDIDATES: usize = 8;
const N_TOKENS: usize = 12;
const NAMES: [(&str, usize); 2] = [("suggest.eight_of_twelve", 1), ("suggest.eight_of_twelve.two_threads", 2)];

fn main() -> Result<()> {
    let only = std::env::args().nth(1).unwrap_or_default();
    for (name, n_threads) in NAMES {
        if name.contains(&only) {
            run(name, n_threads)?;
        }
    }
    Ok(())
}

fn run(name: &str, n_threads: usize) -> Result<()> {
    let Some(duel) = Duel::start(name, n_threads)? else { return Ok(()) };
    let (mut ours, mut rival) = (Vec::new(), Vec::new());
    for round in [Duel::WARM_UP].into_iter().chain(0..N_ROUNDS) {
        let of_round = (duel.ours(round, N_CANDIDATES, N_TOKENS)?, duel.rival(round, N_CANDIDATES, N_TOKENS)?);
        if round != Duel::WARM_UP {
            ours.push(of_round.0.secs);
            rival.push(of_round.1.secs);
        }
    }
    let (ours, rival) = (median(ours), median(rival));
    let figure = json!({
        "name": name, "device": duel.device, "unit": "s", "ours": ours, "rival": rival, "rival_name": duel.rival_name,
        "ratio": rival / ours,
    });
    println!("{figure}");
    duel.finish()
}
