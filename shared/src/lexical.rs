//! Which of two texts people prefer, from their words alone: a logistic regression on the difference of their TF-IDF
//! vectors of words and word pairs; or, fitted to single texts, which of them was clicked ([`LexicalModel::fit_pointwise`]).
//!
//! Two jobs. As a baseline it says what a reward model must beat (method B.6.1). Trained on held-out pairs it is a
//! judge that training never sees, of another architecture and on other data (method B.5.5): [`Judge`].
//!
//! Dimension key: `N` pairs, `F` features.

use crate::conjugate::conjugate_gradient;
use crate::preference::Pair;
use crate::prompt::Prompt;
use crate::reward::similarity::words;
use std::collections::HashMap;

/// Inverse regularisation strength: the penalty is |theta|² / (2 C), as in scikit-learn, whose default this is.
const INVERSE_REGULARISATION: f64 = 1.0;
/// Newton steps; it converges in about six.
const N_NEWTON_STEPS: usize = 20;
/// Conjugate-gradient steps of one Newton step.
const N_CONJUGATE_STEPS: usize = 60;
/// Residual that ends them.
const RESIDUAL: f64 = 1e-10;
/// Value of the feature that every single text has: so large that the prior hardly holds back the base rate.
const INTERCEPT: f64 = 10.0;
/// Fewest pairs that a judge is made of: below, its word is noise.
const MIN_JUDGE_PAIRS: usize = 100;

/// Says how good a suggestion is without having been seen by the training that it judges.
pub trait Judge {
    /// One value a text, higher is better; only differences under one prompt mean anything.
    fn values(&self, prompt: &Prompt, texts: &[String]) -> Vec<f64>;
}

/// A sparse vector: features in ascending order with their values.
type Sparse = Vec<(u32, f64)>;

/// The regression.
#[derive(Debug, Clone, PartialEq)]
pub struct LexicalModel {
    /// Feature number and inverse document frequency of each word and word pair.
    vocabulary: HashMap<String, (u32, f64)>,
    /// theta `[F]`.
    weights: Vec<f64>,
}

impl LexicalModel {
    /// Fits theta to soft labels, each pair with its weight. Every text of the pairs is a document.
    pub fn fit<'a>(pairs: impl IntoIterator<Item = &'a Pair>) -> Self {
        let pairs: Vec<&Pair> = pairs.into_iter().collect();
        let texts = pairs.iter().flat_map(|p| [p.chosen.as_str(), p.rejected.as_str()]);
        let mut model = Self { vocabulary: vocabulary(texts), weights: Vec::new() };
        model.weights = vec![0.0; model.vocabulary.len()];
        let rows: Vec<Sparse> =
            pairs.iter().map(|p| difference(&model.vector(&p.chosen), &model.vector(&p.rejected))).collect();
        let labels: Vec<f64> = pairs.iter().map(|p| f64::from(p.label)).collect();
        let weights: Vec<f64> = pairs.iter().map(|p| f64::from(p.weight)).collect();
        fit_logistic(&rows, &labels, &weights, &mut model.weights);
        model
    }

    /// Fits theta, and a base rate that no word has a part in, to whether single texts were clicked: (text, label in [0, 1],
    /// weight). [`Self::preference`] is then P(`a` was clicked), given that one of two was and each alone decided its own click.
    pub fn fit_pointwise<'a>(texts: impl IntoIterator<Item = (&'a str, f64, f64)>) -> Self {
        let texts: Vec<(&str, f64, f64)> = texts.into_iter().collect();
        let mut model = Self { vocabulary: vocabulary(texts.iter().map(|t| t.0)), weights: Vec::new() };
        let n_features = model.vocabulary.len();
        let row = |text: &str| -> Sparse {
            let mut row = model.vector(text);
            row.push((u32::try_from(n_features).unwrap_or(u32::MAX), INTERCEPT));
            row
        };
        let rows: Vec<Sparse> = texts.iter().map(|t| row(t.0)).collect();
        let labels: Vec<f64> = texts.iter().map(|t| t.1).collect();
        let weights: Vec<f64> = texts.iter().map(|t| t.2).collect();
        let mut theta = vec![0.0; n_features + 1];
        fit_logistic(&rows, &labels, &weights, &mut theta);
        theta.truncate(n_features);
        model.weights = theta;
        model
    }

    /// A judge from pairs that training did not see; `None` for fewer than 100.
    pub fn judge(held_out: &[Pair]) -> Option<Self> {
        (held_out.len() >= MIN_JUDGE_PAIRS).then(|| Self::fit(held_out))
    }

    /// theta · x of a text.
    pub fn value(&self, text: &str) -> f64 {
        self.vector(text).iter().map(|(i, x)| self.weights[*i as usize] * x).sum()
    }

    /// P(`a` preferred to `b`).
    pub fn preference(&self, a: &str, b: &str) -> f64 {
        sigmoid(self.value(a) - self.value(b))
    }

    /// TF-IDF of the known words and word pairs, of length 1 (empty where none is known).
    fn vector(&self, text: &str) -> Sparse {
        let mut counts: HashMap<u32, (f64, f64)> = HashMap::new();
        for feature in features(text) {
            if let Some((i, idf)) = self.vocabulary.get(&feature) {
                counts.entry(*i).or_insert((0.0, *idf)).0 += 1.0;
            }
        }
        let mut vector: Sparse = counts.into_iter().map(|(i, (tf, idf))| (i, tf * idf)).collect();
        vector.sort_unstable_by_key(|(i, _)| *i);
        let norm = vector.iter().map(|(_, x)| x * x).sum::<f64>().sqrt();
        vector.iter_mut().for_each(|(_, x)| *x /= norm);
        vector
    }
}

impl Judge for LexicalModel {
    fn values(&self, _prompt: &Prompt, texts: &[String]) -> Vec<f64> {
        texts.iter().map(|text| self.value(text)).collect()
    }
}

/// Words, and each with its follower.
fn features(text: &str) -> Vec<String> {
    let words = words(text);
    let pairs: Vec<String> = words.windows(2).map(|w| w.join(" ")).collect();
    words.into_iter().chain(pairs).collect()
}

/// Numbers and smoothed inverse document frequencies ln((1 + n)/(1 + df)) + 1, in the order of first sight.
fn vocabulary<'a>(texts: impl Iterator<Item = &'a str>) -> HashMap<String, (u32, f64)> {
    let mut seen: HashMap<String, (u32, u32)> = HashMap::new();
    let mut n_documents = 0.0;
    for text in texts {
        n_documents += 1.0;
        let mut own = features(text);
        own.sort_unstable();
        own.dedup();
        for feature in own {
            let next = u32::try_from(seen.len()).unwrap_or(u32::MAX);
            seen.entry(feature).or_insert((next, 0)).1 += 1;
        }
    }
    let idf = |df: u32| ((1.0 + n_documents) / (1.0 + f64::from(df))).ln() + 1.0;
    seen.into_iter().map(|(feature, (i, df))| (feature, (i, idf(df)))).collect()
}

fn difference(a: &Sparse, b: &Sparse) -> Sparse {
    let mut joined: Sparse = a.iter().copied().chain(b.iter().map(|(i, x)| (*i, -x))).collect();
    joined.sort_by_key(|(i, _)| *i);
    joined.dedup_by(|next, kept| {
        let same = next.0 == kept.0;
        if same {
            kept.1 += next.1;
        }
        same
    });
    joined
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn dot(row: &Sparse, dense: &[f64]) -> f64 {
    row.iter().map(|(i, x)| x * dense[*i as usize]).sum()
}

/// Newton's method with conjugate gradients on the penalised weighted logistic likelihood, which is convex.
/// Labels are P(first preferred) of pairs, each once in the order given, which need no intercept; or P(clicked).
fn fit_logistic(rows: &[Sparse], labels: &[f64], weights: &[f64], theta: &mut [f64]) {
    let precision = 1.0 / INVERSE_REGULARISATION;
    for _ in 0..N_NEWTON_STEPS {
        let mut gradient: Vec<f64> = theta.iter().map(|t| precision * t).collect();
        let mut curvature = Vec::with_capacity(rows.len());
        for ((row, label), weight) in rows.iter().zip(labels).zip(weights) {
            let p = sigmoid(dot(row, theta));
            row.iter().for_each(|(i, x)| gradient[*i as usize] += weight * (p - label) * x);
            curvature.push(weight * p * (1.0 - p));
        }
        let hessian = |v: &[f64]| {
            let mut out: Vec<f64> = v.iter().map(|v| precision * v).collect();
            for (row, c) in rows.iter().zip(&curvature) {
                let scale = c * dot(row, v);
                row.iter().for_each(|(i, x)| out[*i as usize] += scale * x);
            }
            out
        };
        let step = conjugate_gradient(hessian, &gradient, N_CONJUGATE_STEPS, RESIDUAL);
        theta.iter_mut().zip(&step).for_each(|(t, s)| *t -= s);
        if step.iter().all(|s| s.abs() < 1e-8) {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;
    use crate::preference::PairKind;

    fn pair(chosen: &str, rejected: &str, label: f32, weight: f32) -> Pair {
        Pair {
            source: "test".into(),
            group: "g".into(),
            prompt: Prompt::from_query("q"),
            chosen: chosen.into(),
            rejected: rejected.into(),
            label,
            weight,
            kind: PairKind::Slate,
            logit_variance: 0.0,
        }
    }

    #[test]
    fn words_that_win_are_liked_and_labels_are_met() {
        let pairs: Vec<Pair> =
            (0..200).flat_map(|i| [pair(&format!("best topic{i}"), &format!("dull topic{i}"), 0.8, 1.0)]).collect();
        let model = LexicalModel::fit(&pairs);
        assert!(model.value("the best of all") > model.value("a dull one"));
        // 200 pairs against a prior of one: near the label, drawn to one half
        let p = model.preference("best topic7", "dull topic7");
        assert!((0.7..0.8).contains(&p), "{p}");
        assert_close("symmetric", p + model.preference("dull topic7", "best topic7"), 1.0, 1e-12);
        assert_close("unknown words", model.value("zzz"), 0.0, 0.0);
    }

    #[test]
    fn clicks_of_single_texts_tell_their_words_from_the_base_rate() {
        let texts: Vec<String> =
            (0..400).map(|i| format!("{} topic{i}", if i < 200 { "best" } else { "dull" })).collect();
        let fit = |best: f64, dull: f64| {
            let label = |i: usize| if i < 200 { best } else { dull };
            LexicalModel::fit_pointwise(texts.iter().enumerate().map(|(i, text)| (text.as_str(), label(i), 1.0)))
        };
        // odds 0.25 against 0.053: their ratio is at odds with a prior of one
        let p = fit(0.2, 0.05).preference("best topic7", "dull topic207");
        assert!((0.6..0.826).contains(&p), "{p}");
        let rare = fit(0.05, 0.05);
        assert_close("as good as each other", rare.preference("best topic7", "dull topic207"), 0.5, 1e-6);
        assert_close("a rate that no word is to blame for", rare.value("best topic7"), 0.0, 0.05);
    }

    #[test]
    fn the_fit_is_a_stationary_point() {
        let rows = vec![vec![(0, 1.0), (1, -0.5)], vec![(1, 1.0)], vec![(0, -1.0), (2, 2.0)]];
        let (labels, weights) = ([1.0, 0.3, 0.6], [1.0, 2.0, 0.5]);
        let mut theta = vec![0.0; 3];
        fit_logistic(&rows, &labels, &weights, &mut theta);
        let loss = |theta: &[f64]| -> f64 {
            let nll = |((row, y), w): ((&Sparse, &f64), &f64)| {
                let p = sigmoid(dot(row, theta));
                -w * (y * p.ln() + (1.0 - y) * (1.0 - p).ln())
            };
            rows.iter().zip(&labels).zip(&weights).map(nll).sum::<f64>()
                + theta.iter().map(|t| t * t / 2.0).sum::<f64>()
        };
        for i in 0..3 {
            let mut moved = [theta.clone(), theta.clone()];
            moved[0][i] += 1e-5;
            moved[1][i] -= 1e-5;
            assert_close("slope", (loss(&moved[0]) - loss(&moved[1])) / 2e-5, 0.0, 1e-8);
        }
    }

    #[test]
    fn a_few_pairs_make_no_judge() {
        let pairs = vec![pair("a b", "c d", 1.0, 1.0); 100];
        assert!(LexicalModel::judge(&pairs[..99]).is_none());
        let judge = LexicalModel::judge(&pairs).expect("enough");
        let values = judge.values(&Prompt::from_query("q"), &["a b".into(), "c d".into()]);
        assert!(values[0] > values[1]);
    }
}
