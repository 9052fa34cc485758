//! Simulated people on a site: what they are like, and which of the suggestions shown to them they click.
//!
//! In the loop: stands in for the users of an experiment ([`super::traffic`]). The world decides: a text outside its grammar is
//! never clicked, whoever wrote it.

use super::{EXAMINATION, TAU_CLICK, TAU_SATISFIED, World, grammar::N_INTENTS, satisfaction_effect, standard_normal};
use beckon_shared::prompt::Prompt;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Device classes and their shares.
const TIERS: [(&str, f64); 3] = [("high", 0.3), ("middle", 0.45), ("low", 0.25)];
/// Browsers and their shares.
const BROWSERS: [(&str, f64); 3] = [("chromium", 0.65), ("safari", 0.2), ("firefox", 0.15)];

/// A person; the same seed and number give the same one.
pub struct Visitor {
    /// Pseudonym; says that it is simulated.
    pub unit: String,
    /// Device class.
    pub device_tier: &'static str,
    /// Browser.
    pub browser: &'static str,
    taste: [f64; N_INTENTS],
    rng: ChaCha8Rng,
}

impl Visitor {
    /// Person number `idx` of `seed`.
    pub fn new(seed: u64, idx: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x7669_7369_746f_7273);
        rng.set_stream(idx as u64);
        let taste = std::array::from_fn(|_| standard_normal(&mut rng));
        let (device_tier, browser) = (pick(&TIERS, &mut rng), pick(&BROWSERS, &mut rng));
        Self { unit: format!("simulated-{seed}-{idx}"), device_tier, browser, taste, rng }
    }

    /// The person's own random numbers.
    pub fn rng(&mut self) -> &mut ChaCha8Rng {
        &mut self.rng
    }

    /// Slots of a slate that the person clicks, with the seconds spent on what each led to.
    pub fn clicks<'a>(
        &mut self,
        world: &World,
        prompt: &Prompt,
        slate: impl IntoIterator<Item = &'a str>,
    ) -> Vec<(usize, f64)> {
        let Some(situation) = world.situation(prompt) else { return Vec::new() };
        let mut clicks = Vec::new();
        for (slot, text) in slate.into_iter().enumerate() {
            // slots below those of the model are looked at as rarely as its last
            let examination = EXAMINATION[slot.min(EXAMINATION.len() - 1)];
            // drawn for every slot, so that a change of one outcome does not shift the draws after it
            let (looked, mood) = (self.rng.random::<f64>() < examination, standard_normal(&mut self.rng));
            let (short, long) = (self.rng.random_range(5..80), self.rng.random_range(100..900));
            let Some(phrase) = world.phrase(text).filter(|_| looked) else { continue };
            if world.mean(situation, phrase).is_none() {
                continue;
            }
            let utility = world.utility(situation, phrase, &self.taste, mood);
            if utility > TAU_CLICK {
                let satisfied = utility + satisfaction_effect(phrase.style) > TAU_SATISFIED;
                clicks.push((slot, f64::from(if satisfied { long } else { short }) / 10.0));
            }
        }
        clicks
    }
}

fn pick(shares: &[(&'static str, f64)], rng: &mut ChaCha8Rng) -> &'static str {
    let mut u = rng.random::<f64>();
    let found = shares.iter().find(|(_, share)| {
        u -= share;
        u < 0.0
    });
    // rounding can leave u at 0 after the last
    found.or(shares.last()).map_or("unknown", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_click_as_often_as_the_world_says() {
        let world = World::new(7);
        let prompt = world.sample_prompts(1, 3)[0].clone();
        let best = world
            .suggestions(&prompt)
            .into_iter()
            .max_by(|a, b| world.true_ctr(&prompt, a).total_cmp(&world.true_ctr(&prompt, b)));
        let best = best.expect("a suggestion").to_owned();
        let n = 4_000;
        let n_clicks: usize =
            (0..n).map(|idx| Visitor::new(1, idx).clicks(&world, &prompt, [best.as_str()]).len()).sum();
        let (rate, truth) = (n_clicks as f64 / n as f64, world.true_ctr(&prompt, &best));
        // four standard errors
        let tolerance = 4.0 * (truth * (1.0 - truth) / n as f64).sqrt();
        assert!((rate - truth).abs() <= tolerance, "{rate} against {truth}");
    }

    #[test]
    fn text_outside_the_grammar_is_never_clicked_and_people_are_reproducible() {
        let world = World::new(7);
        let prompt = world.sample_prompts(1, 3)[0].clone();
        assert!((0..200).all(|idx| Visitor::new(1, idx).clicks(&world, &prompt, ["xyzzy", ""]).is_empty()));
        let texts = world.suggestions(&prompt);
        let clicks = |seed| {
            (0..50).map(|i| Visitor::new(seed, i).clicks(&world, &prompt, texts.iter().copied())).collect::<Vec<_>>()
        };
        assert_eq!(clicks(4), clicks(4));
        assert_ne!(clicks(4), clicks(5));
    }
}
