//! The product's job in the browser on one CPU thread: a prompt of 64 tokens, eight suggestions of twelve tokens, all
//! scored by GaRM; against wllama writing eight completions one after the other (it scores nothing), turn and turn
//! about.
//!
//! One JSON line a figure, `name, device, unit, ours, rival, rival_name, ratio`; `cargo xtask bench suggest` runs it.
//! Medians of five rounds; ratio = rival / ours. Who runs, and on what: [`beckon_tests::wllama`].

use anyhow::Result;
use beckon_tests::wllama::{Duel, N_ROUNDS, RIVAL_NAME, median};
use serde_json::json;

const N_CANDIDATES: usize = 8;
const N_TOKENS: usize = 12;
const NAME: &str = "suggest.eight_of_twelve";

fn main() -> Result<()> {
    if !NAME.contains(&std::env::args().nth(1).unwrap_or_default()) {
        return Ok(());
    }
    let Some(duel) = Duel::start("suggest")? else { return Ok(()) };
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
        "name": NAME, "device": duel.device, "unit": "s", "ours": ours, "rival": rival, "rival_name": RIVAL_NAME,
        "ratio": rival / ours,
    });
    println!("{figure}");
    duel.finish()
}
