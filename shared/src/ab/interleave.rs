//! Interleaving: two policies share one slate, and each click is a vote for the policy that placed the
//! suggestion. The second design beside arms: every user is their own control, so it needs far fewer clicks to
//! tell which policy is liked better, and says nothing about the click rate of either alone.
//!
//! Team draft (Radlinski, Kurup and Joachims, CIKM 2008): slot by slot in rounds of two, a fair coin says which
//! policy places first, and each places its best suggestion that is not in the slate yet. Between equal
//! policies each slot belongs to either with probability 1/2 whatever users click, so the expected credit is 0:
//! unbiased under A/A.

use super::estimate::{Effect, Estimate};
use super::moments::{Moments, Totals};
use serde::{Deserialize, Serialize};

/// The policy that placed a suggestion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Team {
    /// The first ranking's.
    A,
    /// The second ranking's.
    B,
}

/// A slot of an interleaved slate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The suggestion.
    pub text: String,
    /// Who placed it.
    pub team: Team,
}

/// Draws a slate of at most `n_slots` from two rankings, best first. `coin` is asked once a round (every two
/// slots): true lets A place first. Shorter where both rankings run out.
pub fn team_draft(a: &[String], b: &[String], n_slots: usize, mut coin: impl FnMut() -> bool) -> Vec<Placed> {
    let mut slate: Vec<Placed> = Vec::with_capacity(n_slots);
    while slate.len() < n_slots {
        let before = slate.len();
        let order = if coin() { [Team::A, Team::B] } else { [Team::B, Team::A] };
        for team in order {
            let ranking = if team == Team::A { a } else { b };
            let next = ranking.iter().find(|text| slate.iter().all(|placed| placed.text != **text));
            if let Some(text) = next.filter(|_| slate.len() < n_slots) {
                slate.push(Placed { text: text.clone(), team });
            }
        }
        if slate.len() == before {
            break;
        }
    }
    slate
}

/// The probability, over the coins, that each suggestion of a drawn slate stands where it stands: what off-policy
/// estimates need. Enumerates all 2^ceil(slots/2) outcomes.
///
/// # Panics
/// If the slate is longer than 32 slots.
pub fn propensities(a: &[String], b: &[String], slate: &[Placed]) -> Vec<f64> {
    let n_rounds = slate.len().div_ceil(2);
    assert!(n_rounds <= 16, "a slate of {} slots; at most 32 are enumerated", slate.len());
    let n_outcomes = 1u32 << n_rounds;
    let mut hits = vec![0u32; slate.len()];
    for outcome in 0..n_outcomes {
        let mut round = 0;
        let drawn = team_draft(a, b, slate.len(), || {
            round += 1;
            outcome >> (round - 1) & 1 == 1
        });
        for (i, (drawn, placed)) in drawn.iter().zip(slate).enumerate() {
            hits[i] += u32::from(drawn.text == placed.text);
        }
    }
    hits.into_iter().map(|n| f64::from(n) / f64::from(n_outcomes)).collect()
}

/// Credit of one impression: clicks on B's suggestions minus clicks on A's.
///
/// # Panics
/// If lengths differ.
pub fn credit(slate: &[Placed], clicked: &[bool]) -> f64 {
    assert_eq!(slate.len(), clicked.len(), "as many click flags as slots");
    let vote = |team| if team == Team::B { 1.0 } else { -1.0 };
    slate.iter().zip(clicked).filter(|(_, clicked)| **clicked).map(|(placed, _)| vote(placed.team)).sum()
}

/// Votes of one user, summed over impressions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Votes {
    /// Sum of [`credit`].
    pub net: f64,
    /// Clicks.
    pub n_clicks: f64,
}

/// Net votes per click, in [-1, 1]: Σ net / Σ clicks over users, by the delta method; above 0 where B is
/// preferred. Judge it with [`super::sequential`] (clicks of the test for its burn-in) or [`super::fixed`].
pub fn preference(users: &[Votes]) -> Effect {
    let totals = |user: &Votes| Totals { numerator: user.net, denominator: user.n_clicks, ..Totals::default() };
    Effect::alone(&Estimate::ratio(&Moments::of(users.iter().map(totals))))
}

#[cfg(test)]
mod tests;
