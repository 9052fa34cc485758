//! Does GaRM's spread notice text that it was not trained on? AUROC of each part of its opinion for
//! odd text against logged held-out suggestions. Method B.2.8.
//!
//! The odd texts are made here and not by the generator that trains the reward model, so that knowing
//! that generator is no advantage.

use crate::report::OddText;
use beckon_shared::engine::Score;
use beckon_shared::metrics::auc;
use beckon_shared::preference::Pair;
use beckon_shared::prompt::Prompt;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Most texts of one kind.
const MAX_TEXTS: usize = 200;

const TEASERS: [&str; 4] = [
    "doctors hate this one simple thing",
    "number seven will leave you speechless",
    "what happened next will amaze you",
    "click here before it is gone",
];

/// One row a kind of odd text; empty where fewer than two pairs are held out.
pub fn odd_text<E>(
    held_out: &[Pair],
    seed: u64,
    score: &mut dyn FnMut(&[(Prompt, String)]) -> Result<Vec<Score>, E>,
) -> Result<Vec<OddText>, E> {
    let stride = held_out.len().div_ceil(MAX_TEXTS).max(1);
    let logged: Vec<(Prompt, String)> =
        held_out.iter().step_by(stride).map(|p| (p.prompt.clone(), p.chosen.clone())).collect();
    if logged.len() < 2 {
        return Ok(Vec::new());
    }
    let of_logged = score(&logged)?;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows = Vec::new();
    for (kind, texts) in kinds(&logged, &mut rng) {
        if texts.is_empty() {
            continue;
        }
        let of_odd = score(&texts)?;
        let auroc = |part: &dyn Fn(&Score) -> f32| {
            let both = of_logged.iter().chain(&of_odd).map(|s| f64::from(part(s))).collect::<Vec<_>>();
            let labels: Vec<f64> = (0..both.len()).map(|i| f64::from(i >= of_logged.len())).collect();
            auc(&both, &labels)
        };
        rows.push(OddText {
            kind: kind.to_owned(),
            n: texts.len(),
            epistemic_auroc: auroc(&|s| s.epistemic_std),
            aleatoric_auroc: auroc(&|s| s.aleatoric_std),
            mean_auroc: auroc(&|s| -s.reward_mean),
        });
    }
    Ok(rows)
}

type Texts = Vec<(Prompt, String)>;

fn kinds(logged: &[(Prompt, String)], rng: &mut ChaCha8Rng) -> Vec<(&'static str, Texts)> {
    let half = logged.len() / 2;
    // half the list away, so that pairs of one user or query do not meet
    let shuffled = (0..logged.len()).map(|i| (logged[i].0.clone(), logged[(i + half) % logged.len()].1.clone()));
    let shuffled = shuffled.zip(logged).filter(|((_, text), (_, own))| text != own).map(|(row, _)| row).collect();
    let gibberish = logged.iter().map(|(p, text)| (p.clone(), scrambled(text, rng))).collect();
    let copies = logged.iter().map(|(p, _)| (p.clone(), p.query().to_owned())).filter(|(_, q)| !q.is_empty()).collect();
    let teasers = logged.iter().zip(TEASERS.iter().cycle()).map(|((p, _), t)| (p.clone(), (*t).to_owned())).collect();
    vec![
        ("suggestion of another conversation", shuffled),
        ("random letters", gibberish),
        ("copy of the query", copies),
        ("clickbait", teasers),
    ]
}

/// Random letters in the lengths of the words of `text`.
fn scrambled(text: &str, rng: &mut ChaCha8Rng) -> String {
    text.chars().map(|c| if c.is_whitespace() { ' ' } else { char::from(rng.random_range(b'a'..=b'z')) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::metrics::assert_close;
    use beckon_shared::preference::PairKind;

    fn pairs(n: usize) -> Vec<Pair> {
        (0..n)
            .map(|i| Pair {
                source: "s".into(),
                group: i.to_string(),
                prompt: Prompt::from_query(format!("query {i}")),
                chosen: format!("suggestion number {i}"),
                rejected: "r".into(),
                label: 1.0,
                weight: 1.0,
                kind: PairKind::Slate,
                logit_variance: 0.0,
            })
            .collect()
    }

    #[test]
    fn a_scorer_that_knows_logged_text_separates_all_but_what_it_cannot_see() {
        let mut score = |items: &[(Prompt, String)]| {
            let one = |(_, text): &(Prompt, String)| {
                let odd = !text.starts_with("suggestion number");
                Score { reward_mean: 0.0, aleatoric_std: 1.0, epistemic_std: f32::from(u8::from(odd)) }
            };
            Ok::<_, std::convert::Infallible>(items.iter().map(one).collect())
        };
        let rows = odd_text(&pairs(30), 0, &mut score).expect("infallible");
        assert_eq!(rows.len(), 4);
        for row in rows {
            let seen = if row.kind == "suggestion of another conversation" { 0.5 } else { 1.0 };
            assert_close(&row.kind, row.epistemic_auroc, seen, 1e-12);
            assert_close(&row.kind, row.aleatoric_auroc, 0.5, 1e-12);
        }
    }

    #[test]
    fn too_few_pairs_give_no_rows() {
        let mut never = |_: &[(Prompt, String)]| -> Result<Vec<Score>, ()> { Err(()) };
        assert_eq!(odd_text(&pairs(1), 0, &mut never), Ok(Vec::new()));
    }
}
