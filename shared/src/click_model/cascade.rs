//! Cascade model: the user reads from the top, clicks the first suggestion that attracts, and stops.
//! Method B.1.2, oracle C9 and C10.
//!
//! `P(click on slot k) = γ_k Π_{j<k} (1 - γ_j)`. What stands above a click was examined and refused, what
//! stands below it was not seen, and without a click everything was seen: γ is clicks over examinations, in
//! closed form, and always identified under the model's assumption.
//!
//! Dimension key: `K` slots, `I` items.

use super::log::ClickLog;

/// P(click) of each slot of a slate with attractions `gamma`.
pub fn click_probabilities(gamma: &[f64]) -> Vec<f64> {
    gamma.iter().zip(examination(gamma)).map(|(g, seen)| g * seen).collect()
}

/// P(examined) of each slot: nothing above it was clicked.
pub fn examination(gamma: &[f64]) -> Vec<f64> {
    let above = |seen: &mut f64, g: &f64| {
        let here = *seen;
        *seen *= 1.0 - g;
        Some(here)
    };
    gamma.iter().scan(1.0, above).collect()
}

/// P(any click) of independent slots, 1 - Π(1 - p): for a cascade's attractions and for a position model's
/// click probabilities alike.
pub fn any_click(p: &[f64]) -> f64 {
    1.0 - p.iter().map(|p| 1.0 - p).product::<f64>()
}

/// γ by item.
#[derive(Debug, Clone, PartialEq)]
pub struct CascadeModel {
    /// `[I]`.
    pub gamma: Vec<f64>,
    /// Share of slates in which each slot was examined, `[K]`.
    pub examined: Vec<f64>,
}

/// γ and examination of a log, each slate weighted by its user; an item that was never examined gets the
/// mean rate. Slots after the first click count as unseen.
pub fn fit(log: &ClickLog, user_weights: &[f64]) -> CascadeModel {
    let mut items = vec![(0.0, 0.0); log.n_items];
    let mut slots = vec![(0.0, 0.0); log.n_slots];
    for slate in &log.slates {
        let weight = user_weights[slate.user];
        let first = slate.shown.iter().position(|s| s.clicked).unwrap_or(slate.shown.len());
        for (i, shown) in slate.shown.iter().enumerate() {
            slots[shown.slot].1 += weight;
            if i <= first {
                slots[shown.slot].0 += weight;
                items[shown.item].0 += if shown.clicked { weight } else { 0.0 };
                items[shown.item].1 += weight;
            }
        }
    }
    let total = items.iter().fold((0.0, 0.0), |t, i| (t.0 + i.0, t.1 + i.1));
    let ratio = |(a, b): (f64, f64), otherwise: f64| if b > 0.0 { a / b } else { otherwise };
    let mean = ratio(total, 0.0);
    CascadeModel {
        gamma: items.into_iter().map(|i| ratio(i, mean)).collect(),
        examined: slots.into_iter().map(|s| ratio(s, 1.0)).collect(),
    }
}

#[cfg(test)]
mod tests;
