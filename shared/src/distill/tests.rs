//! Oracle C11; gates and self-containedness before scores; the order of candidates changes nothing.

use super::*;
use crate::metrics::assert_close;
use rand::SeedableRng;

fn candidate(text: &str, origin: Origin, clicks: f64, examinations: f64) -> Candidate {
    Candidate { text: text.into(), origin, clicks, examinations, teacher: None }
}

const PRIOR: Beta = Beta { a: 1.0, b: 15.0 };

fn rng() -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(1)
}

#[test]
fn c11() {
    let weight = |lower: f64, beta: f64| click_weight(odds_ratio(lower, 0.06), beta);
    let mut weights = [0.02, 0.05, 0.12].map(|lower| weight(lower, 1.0));
    for (w, want) in weights.iter().zip([0.319727891, 0.824561404, 2.136363636]) {
        assert_close("w", *w, want, 1e-9);
    }
    normalise_mean(&mut weights);
    for (w, want) in weights.iter().zip([0.292375845, 0.754021917, 1.953602238]) {
        assert_close("normalised", *w, want, 1e-9);
    }
    assert_eq!([1e-6, 0.9].map(|lower| weight(lower, 1.0)), [WEIGHT_RANGE.0, WEIGHT_RANGE.1]);
    // beta comes before the bounds: logit 0.9 - logit 0.06 = 4.949, logit 1e-3 - logit 0.06 = -4.155
    assert_close("at beta 4", weight(0.9, 4.0), 3.446_0, 1e-3);
    assert_close("at beta 4", weight(1e-3, 4.0), 0.353_9, 1e-3);
    let mut none: [f64; 0] = [];
    normalise_mean(&mut none);
}

fn pool() -> Pool {
    Pool {
        prompt: Prompt::from_query("fitbit sync"),
        candidates: vec![
            candidate("how to reset my fitbit", Origin::Clicked, 9.0, 40.0),
            candidate("fitbit battery life", Origin::Clicked, 1.0, 40.0),
            candidate("fitbit sync", Origin::Clicked, 5.0, 10.0),
            candidate("as an ai i can help", Origin::Teacher, 0.0, 0.0),
            candidate("is that it", Origin::NextQuery, 0.0, 0.0),
            candidate("best fitness trackers for swimming", Origin::NextQuery, 0.0, 0.0),
        ],
    }
}

#[test]
fn rules_come_before_scores() {
    let (chosen, told) = select(&pool(), PRIOR, &DistillConfig::default(), &mut rng());
    let texts: Vec<&str> = chosen.iter().map(|c| c.candidate.text.as_str()).collect();
    // the copy of the query and the assistant's voice are out, and what nobody understands alone
    assert_eq!((told.n_candidates, told.n_gated, told.n_not_self_contained), (6, 2, 1));
    assert_eq!((told.n_chosen, told.n_not_selected, texts.len()), (3, 0, 3));
    assert_eq!(texts[0], "how to reset my fitbit");
    let weight = |text: &str| chosen.iter().find(|c| c.candidate.text == text).expect("chosen").weight;
    assert!(weight("how to reset my fitbit") > weight("fitbit battery life"));
    let lenient = DistillConfig { min_self_containedness: 0.0, ..DistillConfig::default() };
    assert_eq!(select(&pool(), PRIOR, &lenient, &mut rng()).1.n_not_self_contained, 0);
}

#[test]
fn the_order_of_candidates_changes_nothing() {
    let config = DistillConfig { n_select: 2, temperature: 2.0, ..DistillConfig::default() };
    let mut reversed = pool();
    reversed.candidates.reverse();
    for seed in 0..10 {
        let of = |pool: &Pool| select(pool, PRIOR, &config, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_eq!(of(&pool()), of(&reversed));
    }
}

#[test]
fn a_teacher_can_tip_the_scale() {
    let mut pool = Pool {
        prompt: Prompt::from_query("garden"),
        candidates: vec![
            candidate("plan a vegetable patch", Origin::Clicked, 2.0, 20.0),
            candidate("tools for small lawns", Origin::Clicked, 2.0, 20.0),
        ],
    };
    let cold = DistillConfig { n_select: 1, temperature: 1e-3, relevance_weight: 0.0, ..DistillConfig::default() };
    for best in [0, 1] {
        for (i, c) in pool.candidates.iter_mut().enumerate() {
            c.teacher = Some(if i == best { 3.0 } else { -1.0 });
        }
        let (chosen, _) = select(&pool, PRIOR, &cold, &mut rng());
        assert_eq!(chosen[0].candidate.text, pool.candidates[best].text);
    }
    // a candidate without a teacher's score stands at the mean of the others
    let scores = scores(&pool.prompt, &pool.candidates, &[0.1, 0.1], &cold);
    assert_close("sum of z", scores.iter().sum::<f64>(), 0.0, 1e-12);
}

#[test]
fn z_scores_of_one_or_equal_values_are_zero() {
    assert_eq!(z_scores(&[3.0]), [0.0]);
    assert_eq!(z_scores(&[2.0, 2.0]), [0.0, 0.0]);
    assert_close("z", z_scores(&[1.0, 3.0])[1], 0.5f64.sqrt(), 1e-12);
    assert!(z_scores(&[]).is_empty());
}

#[test]
fn impossible_settings_are_named() {
    for (config, field) in [
        (DistillConfig { n_select: 0, ..DistillConfig::default() }, "n_select"),
        (DistillConfig { temperature: f64::NAN, ..DistillConfig::default() }, "temperature"),
        (DistillConfig { teacher_weight: -1.0, ..DistillConfig::default() }, "teacher_weight"),
        (DistillConfig { max_similarity: 1.5, ..DistillConfig::default() }, "max_similarity"),
    ] {
        let error = config.validate().expect_err(field).to_string();
        assert!(error.contains(&format!("preferences.distill.{field} is")), "{error}");
    }
    assert_eq!(DistillConfig::default().validate(), Ok(()));
}
