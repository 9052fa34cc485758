//! What GaRM and its rivals say of pairs. The rivals, from the simplest: one half always, length, clicks of single texts by
//! their words, words, a linear map of a frozen trunk (Case V), and Bradley-Terry on a trained one. Method B.6.1.

use beckon_shared::engine::Score;
use beckon_shared::lexical::LexicalModel;
use beckon_shared::preference::{Anchor, Pair};
use beckon_shared::special::normal_cdf;

/// What a model says of pairs: P(chosen preferred) and, where it has one, the standard deviation of
/// the difference.
#[derive(Debug, Clone, PartialEq)]
pub struct Predictions {
    /// Name of the model.
    pub model: String,
    /// In pair order.
    pub p: Vec<f64>,
    /// In pair order.
    pub std: Option<Vec<f64>>,
}

impl Predictions {
    /// GaRM: `Φ((mu_a - mu_b)/sqrt(v_a + v_b))` with the aleatoric variance that the likelihood was
    /// trained with; `scores` holds chosen and rejected of each pair in turn.
    pub fn garm(scores: &[Score]) -> Self {
        let std: Vec<f64> = scores
            .chunks_exact(2)
            .map(|s| f64::from(s[0].aleatoric_std).hypot(f64::from(s[1].aleatoric_std)))
            .collect();
        let p = scores.chunks_exact(2).zip(&std).map(|(s, std)| normal_cdf(margin(s) / std)).collect();
        Self { model: "GaRM".into(), p, std: Some(std) }
    }

    /// Bradley-Terry: logistic in the difference of the means.
    pub fn bradley_terry(scores: &[Score]) -> Self {
        Self {
            model: "Bradley-Terry".into(),
            p: scores.chunks_exact(2).map(|s| sigmoid(margin(s))).collect(),
            std: None,
        }
    }

    /// Thurstone's Case V: as [`Self::garm`], with one variance for every text, which says nothing.
    pub fn case_v(scores: &[Score]) -> Self {
        Self { model: "Case V".into(), std: None, ..Self::garm(scores) }
    }

    /// Always one half.
    pub fn constant(n_pairs: usize) -> Self {
        Self { model: "constant".into(), p: vec![0.5; n_pairs], std: None }
    }

    /// Logistic in the words' TF-IDF, fitted on training pairs of the data set.
    pub fn lexical(train: &[&Pair], held_out: &[&Pair]) -> Self {
        Self::of_words("TF-IDF", &LexicalModel::fit(train.iter().copied()), held_out)
    }

    /// Pointwise logistic in the words' TF-IDF, fitted on whether the texts of the data set's training anchors were clicked (in a
    /// randomised test: were not among the lowest quarter); `None` where all of them were, or none.
    pub fn pointwise(anchors: &[&Anchor], held_out: &[&Pair]) -> Option<Self> {
        let is_clicked = |a: &&&Anchor| a.level > 0;
        let n_clicked = anchors.iter().filter(is_clicked).count();
        if n_clicked == 0 || n_clicked == anchors.len() {
            return None;
        }
        let click = |a: &&Anchor| f64::from(u8::from(a.level > 0));
        let texts = anchors.iter().map(|a| (a.suggestion.as_str(), click(a), f64::from(a.weight)));
        Some(Self::of_words("pointwise logistic", &LexicalModel::fit_pointwise(texts), held_out))
    }

    fn of_words(name: &str, model: &LexicalModel, held_out: &[&Pair]) -> Self {
        let p = held_out.iter().map(|pair| model.preference(&pair.chosen, &pair.rejected)).collect();
        Self { model: name.to_owned(), p, std: None }
    }

    /// Logistic in the difference of log lengths, its slope fitted on training pairs of the data set.
    pub fn length(train: &[&Pair], held_out: &[&Pair]) -> Self {
        let slope = fitted_slope(train);
        Self {
            model: "length".into(),
            p: held_out.iter().map(|pair| sigmoid(slope * length_difference(pair))).collect(),
            std: None,
        }
    }
}

fn margin(pair: &[Score]) -> f64 {
    f64::from(pair[0].reward_mean) - f64::from(pair[1].reward_mean)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn length_difference(pair: &Pair) -> f64 {
    let log_length = |text: &str| (text.chars().count().max(1) as f64).ln();
    log_length(&pair.chosen) - log_length(&pair.rejected)
}

/// Newton's method on the weighted logistic likelihood of one slope, with a weak prior N(0, 10²) that
/// keeps it finite where length decides every pair.
fn fitted_slope(pairs: &[&Pair]) -> f64 {
    const PRIOR_PRECISION: f64 = 0.01;
    let mut slope = 0.0;
    for _ in 0..50 {
        let (mut gradient, mut curvature) = (-PRIOR_PRECISION * slope, PRIOR_PRECISION);
        for pair in pairs {
            let (x, w) = (length_difference(pair), f64::from(pair.weight));
            let p = sigmoid(slope * x);
            gradient += w * (f64::from(pair.label) - p) * x;
            curvature += w * p * (1.0 - p) * x * x;
        }
        // a step longer than one would be outside the range where the quadratic holds
        let step = (gradient / curvature).clamp(-1.0, 1.0);
        slope += step;
        if step.abs() < 1e-10 {
            break;
        }
    }
    slope
}
