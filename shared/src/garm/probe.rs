//! Where the mean head starts: the linear map of frozen features that explains the pairs best.
//!
//! A head of chance sends the trunk gradients that mean nothing until the head has learnt; a small data set is then
//! half forgotten and half learnt by heart. Fitting the head first and the trunk after it is LP-FT (Kumar et al.
//! 2022, arXiv 2202.10054). The fit is convex:
//!
//! ```text
//! min  Σ -w [ y log Φ(d·θ) + (1-y) log Φ(-d·θ) ] + λ/2 |θ|²,   d = (f_a - f_b)/std
//! ```
//!
//! How strong the prior is, and which of several sets of features is read, is what explains pairs best that the fit did not
//! see ([`Probe::cross_validated`]).
//!
//! Dimension key: `N` texts, `D` features.

use super::normal::{inverse_mills, log_phi};
use crate::conjugate::conjugate_gradient;

/// Newton steps (by expected information); it converges in about five.
const N_NEWTON_STEPS: usize = 15;
/// Conjugate-gradient steps of one Newton step, and the residual that ends them.
const N_CONJUGATE_STEPS: usize = 100;
const RESIDUAL: f64 = 1e-10;
/// The same of a fit that is only compared with others, which begins at one with a stronger prior.
const N_NEWTON_STEPS_COMPARED: usize = 3;
const RESIDUAL_COMPARED: f64 = 0.03;

/// Two texts by number, and which is preferred.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbePair {
    /// The preferred text.
    pub chosen: usize,
    /// The other.
    pub rejected: usize,
    /// y.
    pub label: f64,
    /// w.
    pub weight: f64,
}

/// Features of texts, each divided by its standard deviation.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Row-major `[N, D]`.
    scaled: Vec<f32>,
    /// `[D]`.
    std: Vec<f64>,
}

impl Probe {
    /// Takes the features of N texts.
    ///
    /// # Panics
    /// If they differ in width.
    pub fn new(features: &[Vec<f32>]) -> Self {
        let (n, d) = (features.len().max(1) as f64, features.first().map_or(0, Vec::len));
        let (mut sum, mut squares) = (vec![0.0; d], vec![0.0; d]);
        for feature in features {
            assert_eq!(feature.len(), d, "features of one width");
            for (k, x) in feature.iter().enumerate() {
                sum[k] += f64::from(*x);
                squares[k] += f64::from(*x).powi(2);
            }
        }
        let variance = |(s, q): (&f64, &f64)| q / n - (s / n).powi(2);
        // a feature that never changes says nothing, whatever it is divided by
        let std: Vec<f64> = sum
            .iter()
            .zip(&squares)
            .map(|sums| Some(variance(sums)).filter(|v| *v > 1e-12).map_or(1.0, f64::sqrt))
            .collect();
        let scaled =
            features.iter().flat_map(|f| f.iter().zip(&std).map(|(x, s)| (f64::from(*x) / s) as f32)).collect();
        Self { scaled, std }
    }

    /// θ in units of the features as they came, `[D]`: z of a pair is θ·(f_a - f_b). `lambda` is the precision of the
    /// prior on the scaled features.
    ///
    /// # Panics
    /// If a pair names a text that is not there.
    pub fn fit(&self, pairs: &[ProbePair], lambda: f64) -> Vec<f64> {
        let mut theta = vec![0.0; self.std.len()];
        self.improve(&mut theta, pairs, lambda, N_NEWTON_STEPS, RESIDUAL);
        theta.iter().zip(&self.std).map(|(t, s)| t / s).collect()
    }

    /// [`Self::nll`] of pairs under fits that have not seen their fold, for each of the precisions `lambdas`; `folds` has the
    /// fold of each pair, from 0. NaN where a fold is all there is.
    ///
    /// # Panics
    /// As [`Self::fit`]; if `folds` is not as long as `pairs`.
    pub fn cross_validated(&self, pairs: &[ProbePair], folds: &[usize], lambdas: &[f64]) -> Vec<f64> {
        assert_eq!(pairs.len(), folds.len(), "a fold for each pair");
        let mut order: Vec<usize> = (0..lambdas.len()).collect();
        order.sort_by(|a, b| lambdas[*b].total_cmp(&lambdas[*a]));
        let mut losses = vec![0.0; lambdas.len()];
        for fold in 0..folds.iter().max().map_or(0, |last| last + 1) {
            let part = |is_left_out: bool| -> Vec<ProbePair> {
                pairs.iter().zip(folds).filter(|(_, f)| (**f == fold) == is_left_out).map(|(p, _)| *p).collect()
            };
            let (seen, left_out) = (part(false), part(true));
            let mut theta = vec![0.0; self.std.len()];
            for &i in &order {
                self.improve(&mut theta, &seen, lambdas[i], N_NEWTON_STEPS_COMPARED, RESIDUAL_COMPARED);
                losses[i] += if seen.is_empty() { f64::NAN } else { self.loss(&left_out, &theta) };
            }
        }
        let total: f64 = pairs.iter().map(|p| p.weight).sum();
        losses.into_iter().map(|loss| loss / total).collect()
    }

    /// Newton's method from `theta`, which is in units of the scaled features.
    fn improve(&self, theta: &mut [f64], pairs: &[ProbePair], lambda: f64, n_steps: usize, residual: f64) {
        for _ in 0..n_steps {
            let mut gradient: Vec<f64> = theta.iter().map(|t| lambda * t).collect();
            let mut information = Vec::with_capacity(pairs.len());
            for pair in pairs {
                let z = self.margin(pair, theta);
                let (up, down) = (inverse_mills(z), inverse_mills(-z));
                self.add(pair, -pair.weight * (pair.label * up - (1.0 - pair.label) * down), &mut gradient);
                information.push(pair.weight * up * down); // φ²/(Φ(1-Φ))
            }
            let product = |v: &[f64]| {
                let mut out: Vec<f64> = v.iter().map(|v| lambda * v).collect();
                for (pair, information) in pairs.iter().zip(&information) {
                    self.add(pair, information * self.margin(pair, v), &mut out);
                }
                out
            };
            let step = conjugate_gradient(product, &gradient, N_CONJUGATE_STEPS, residual);
            theta.iter_mut().zip(&step).for_each(|(t, s)| *t -= s);
            if step.iter().all(|s| s.abs() < 1e-7) {
                break;
            }
        }
    }

    /// Weighted mean of the negative log-likelihood of `pairs`, nats; `theta` as from [`Self::fit`].
    pub fn nll(&self, pairs: &[ProbePair], theta: &[f64]) -> f64 {
        let scaled: Vec<f64> = theta.iter().zip(&self.std).map(|(t, s)| t * s).collect();
        self.loss(pairs, &scaled) / pairs.iter().map(|p| p.weight).sum::<f64>()
    }

    /// Weighted sum of the negative log-likelihood; `theta` in units of the scaled features.
    fn loss(&self, pairs: &[ProbePair], theta: &[f64]) -> f64 {
        let of_pair = |pair: &ProbePair| {
            let z = self.margin(pair, theta);
            -pair.weight * (pair.label * log_phi(z) + (1.0 - pair.label) * log_phi(-z))
        };
        pairs.iter().map(of_pair).sum()
    }

    fn row(&self, text: usize) -> &[f32] {
        let d = self.std.len();
        &self.scaled[text * d..(text + 1) * d]
    }

    /// d·v.
    fn margin(&self, pair: &ProbePair, v: &[f64]) -> f64 {
        let (a, b) = (self.row(pair.chosen), self.row(pair.rejected));
        a.iter().zip(b).zip(v).map(|((a, b), v)| f64::from(a - b) * v).sum()
    }

    /// out += scale d.
    fn add(&self, pair: &ProbePair, scale: f64, out: &mut [f64]) {
        let (a, b) = (self.row(pair.chosen), self.row(pair.rejected));
        out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| *out += scale * f64::from(a - b));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// 60 texts of 4 features of very unlike size, and pairs whose preference is known.
    fn data() -> (Vec<Vec<f32>>, Vec<ProbePair>) {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let sizes = [1.0, 30.0, 0.02, 0.0f32];
        let features: Vec<Vec<f32>> =
            (0..60).map(|_| sizes.iter().map(|s| s * (rng.random::<f32>() - 0.5)).collect()).collect();
        let truth = |f: &[f32]| f64::from(f[0]) * 2.0 - f64::from(f[1]) / 30.0;
        let pairs = (0..600)
            .map(|_| {
                let (a, b) = (rng.random_range(0..60), rng.random_range(0..60));
                let z = truth(&features[a]) - truth(&features[b]);
                ProbePair { chosen: a, rejected: b, label: log_phi(z).exp(), weight: rng.random_range(0.5..2.0) }
            })
            .collect();
        (features, pairs)
    }

    #[test]
    fn with_a_weak_prior_the_truth_comes_back_whatever_the_features_units() {
        let (features, pairs) = data();
        let theta = Probe::new(&features).fit(&pairs, 1e-6);
        for (k, (got, want)) in theta.iter().zip([2.0, -1.0 / 30.0, 0.0, 0.0]).enumerate() {
            assert_close(&format!("theta {k}"), *got, want, 1e-4);
        }
    }

    #[test]
    fn cross_validation_judges_fits_by_pairs_that_they_have_not_seen() {
        // only the first of 8 features says anything
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let texts: Vec<Vec<f32>> = (0..80).map(|_| (0..8).map(|_| rng.random::<f32>() - 0.5).collect()).collect();
        let pair = |(chosen, rejected): (usize, usize)| {
            let z = f64::from(texts[chosen][0] - texts[rejected][0]) * 2.0;
            ProbePair { chosen, rejected, label: log_phi(z).exp(), weight: 1.0 }
        };
        let pairs: Vec<ProbePair> = (0..40).map(|i| pair((2 * i, 2 * i + 1))).collect();
        let folds: Vec<usize> = (0..40).map(|i| i % 4).collect();
        let (probe, lambdas) = (Probe::new(&texts), [1e5, 1.0, 10.0]);
        let compared = probe.cross_validated(&pairs, &folds, &lambdas);
        for (lambda, loss) in lambdas.iter().zip(&compared) {
            let of_fold = |fold: usize| {
                let part =
                    |out: bool| (0..40).filter(|i| (folds[*i] == fold) == out).map(|i| pairs[i]).collect::<Vec<_>>();
                probe.nll(&part(true), &probe.fit(&part(false), *lambda)) / 4.0
            };
            let want: f64 = (0..4).map(of_fold).sum();
            assert_close(&format!("unseen pairs at {lambda}"), *loss, want, 0.02 * want);
        }
        assert_close("under a prior that lets nothing through", compared[0], 2f64.ln(), 1e-3);
        assert!(compared[1] < compared[0] && compared[2] < compared[0], "{compared:?}");
        let one_fold = probe.cross_validated(&pairs, &[0; 40], &lambdas);
        assert!(one_fold.iter().all(|loss| loss.is_nan()), "nothing was left to fit: {one_fold:?}");
    }

    #[test]
    fn the_fit_is_a_stationary_point_of_the_penalised_likelihood() {
        let (features, pairs) = data();
        let (probe, lambda) = (Probe::new(&features), 20.0);
        let theta = probe.fit(&pairs, lambda);
        let total: f64 = pairs.iter().map(|p| p.weight).sum();
        let loss = |theta: &[f64]| {
            let penalty: f64 = theta.iter().zip(&probe.std).map(|(t, s)| (t * s).powi(2)).sum();
            total * probe.nll(&pairs, theta) + 0.5 * lambda * penalty
        };
        for k in 0..3 {
            let h = 1e-4 / probe.std[k];
            let mut moved = [theta.clone(), theta.clone()];
            moved[0][k] += h;
            moved[1][k] -= h;
            assert_close("slope", (loss(&moved[0]) - loss(&moved[1])) / (2.0 * h * probe.std[k]), 0.0, 1e-5);
        }
        assert!(theta[0] < 2.0 && theta[0] > 0.5, "drawn to zero: {}", theta[0]);
    }
}
