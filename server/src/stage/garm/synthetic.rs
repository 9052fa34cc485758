//! Text that nobody should suggest, made from the log: the set N(x) on which GaRM is pulled towards its
//! pessimistic prior. Method B.3 (1).
//!
//! | kind | share | what |
//! | --- | --- | --- |
//! | shuffled context | 40% | a good suggestion of another prompt |
//! | clickbait | 20% | templates and keyword stuffing around the query |
//! | copy | 15% | what the user or the assistant already said |
//! | cut or looped | 15% | the first part of a suggestion, or its last words over and over |
//! | keyboard noise | 10% | a suggestion with a third of its letters hit wrong |

use beckon_shared::prompt::Prompt;
use rand::Rng;
use rand::seq::IndexedRandom;

/// Templates of clickbait; `{}` is the query.
const TEMPLATES: [&str; 8] = [
    "you won't believe {}",
    "click here for free {}",
    "{} {} best cheap {} online {}",
    "top 10 shocking facts about {}",
    "must see {} now!!!",
    "this one weird trick for {}",
    "free free {} download now free",
    "what happens next with {} will amaze you",
];
/// Words of a turn that a copy takes at most.
const COPY_WORDS: usize = 12;
/// Share of letters that keyboard noise replaces.
const NOISE: f64 = 0.35;

/// The log's prompts with their suggestions.
#[derive(Debug, Clone)]
pub struct Material {
    items: Vec<(Prompt, String)>,
}

impl Material {
    /// Keeps `items` to draw from.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(items: Vec<(Prompt, String)>) -> Self {
        assert!(!items.is_empty(), "synthetic text is made from logged text");
        Self { items }
    }

    /// One negative with the prompt it is shown under.
    pub fn draw(&self, rng: &mut impl Rng) -> (Prompt, String) {
        let (prompt, suggestion) = &self.items[rng.random_range(0..self.items.len())];
        let text = match rng.random_range(0..100) {
            0..40 => self.suggestion_of_another(prompt, rng).unwrap_or_else(|| keyboard_noise(suggestion, rng)),
            40..60 => clickbait(prompt.query(), rng),
            60..75 => copied(prompt, rng),
            75..90 => cut_or_looped(suggestion, rng),
            _ => keyboard_noise(suggestion, rng),
        };
        (prompt.clone(), text)
    }

    /// A suggestion made for another prompt; `None` where eight draws found none.
    fn suggestion_of_another(&self, prompt: &Prompt, rng: &mut impl Rng) -> Option<String> {
        (0..8).find_map(|_| {
            let (other, text) = &self.items[rng.random_range(0..self.items.len())];
            (other != prompt).then(|| text.clone())
        })
    }
}

fn clickbait(query: &str, rng: &mut impl Rng) -> String {
    TEMPLATES[rng.random_range(0..TEMPLATES.len())].replace("{}", query)
}

/// The first words of a turn, the last one most often.
fn copied(prompt: &Prompt, rng: &mut impl Rng) -> String {
    let text = match prompt.turns.choose(rng) {
        Some(turn) if rng.random_bool(0.3) => &turn.text,
        _ => prompt.query(),
    };
    text.split_whitespace().take(COPY_WORDS).collect::<Vec<_>>().join(" ")
}

fn cut_or_looped(suggestion: &str, rng: &mut impl Rng) -> String {
    let words: Vec<&str> = suggestion.split_whitespace().collect();
    if rng.random_bool(0.5) {
        let chars: Vec<char> = suggestion.chars().collect();
        let keep = (chars.len() as f64 * rng.random_range(0.3..0.7)) as usize;
        return chars[..keep.max(1).min(chars.len())].iter().collect();
    }
    let n_looped = rng.random_range(1..=2.min(words.len().max(1)));
    let tail = &words[words.len().saturating_sub(n_looped)..];
    let n_times = rng.random_range(3..6);
    words.iter().chain(tail.iter().cycle().take(tail.len() * n_times)).copied().collect::<Vec<_>>().join(" ")
}

fn keyboard_noise(suggestion: &str, rng: &mut impl Rng) -> String {
    suggestion
        .chars()
        .map(
            |c| {
                if c.is_alphanumeric() && rng.random_bool(NOISE) {
                    char::from(rng.random_range(b'a'..=b'z'))
                } else {
                    c
                }
            },
        )
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn material() -> Material {
        let item = |q: &str, s: &str| (Prompt::from_query(q), s.to_owned());
        Material::new(vec![
            item("fitbit sync", "fitbit sync iphone"),
            item("aloe vera", "aloe vera gel for hair"),
            item("rome", "flights to rome in may"),
        ])
    }

    #[test]
    fn every_kind_occurs_and_most_text_is_not_the_logged_one() {
        let (material, mut rng) = (material(), ChaCha8Rng::seed_from_u64(1));
        let drawn: Vec<_> = (0..500).map(|_| material.draw(&mut rng)).collect();
        let share = |f: &dyn Fn(&(Prompt, String)) -> bool| drawn.iter().filter(|d| f(d)).count() as f64 / 500.0;
        let logged = |d: &(Prompt, String)| material.items.contains(d);
        assert!(share(&logged) < 0.02, "{}", share(&logged));
        let shuffled = |d: &(Prompt, String)| !logged(d) && material.items.iter().any(|i| i.1 == d.1);
        assert!((0.33..0.47).contains(&share(&shuffled)), "{}", share(&shuffled));
        let copies = |d: &(Prompt, String)| d.1 == d.0.query();
        assert!((0.1..0.2).contains(&share(&copies)), "{}", share(&copies));
        let bait = |d: &(Prompt, String)| TEMPLATES.iter().any(|t| t.replace("{}", d.0.query()) == d.1);
        assert!((0.15..0.25).contains(&share(&bait)), "{}", share(&bait));
    }

    #[test]
    fn a_log_of_one_prompt_and_odd_texts_do_not_panic() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for text in ["", "a", "é", "two words"] {
            let material = Material::new(vec![(Prompt::default(), text.to_owned())]);
            for _ in 0..200 {
                material.draw(&mut rng);
            }
        }
    }
}
