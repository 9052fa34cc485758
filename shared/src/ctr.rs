//! Click rates from few showings: beta-binomial smoothing by empirical Bayes (method B.1.3).
//!
//! In the loop: between the click log and preferences. `k_i ~ Binomial(n_i, p_i)`, `p_i ~ Beta(a, b)`.
//! `n` may be fractional: expected examinations, where slots are seen unequally.
//!
//! The prior comes from moments, or from the likelihood by Minka's fixed point. Both cap the strength a + b:
//! data that are no more dispersed than binomial have no maximum of the likelihood (oracle C3). The cap is
//! ours, the rest is standard (PAPERS.md).

use crate::special::{beta_cdf, beta_quantile, digamma, normal_cdf, trigamma};
use serde::{Deserialize, Serialize};

/// Largest prior strength a + b; under-dispersed data would send it to infinity.
pub const MAX_STRENGTH: f64 = 2_000.0;
/// Smallest prior strength, for data that are dispersed beyond any beta distribution.
const MIN_STRENGTH: f64 = 0.1;
/// Quantile that stands for "at least this good".
pub const LOWER_QUANTILE: f64 = 0.05;

/// Relative change of a and b at which the fixed point counts as reached, and the most sweeps towards it.
const FIXED_POINT_TOLERANCE: f64 = 1e-8;
const MAX_SWEEPS: usize = 5_000;

/// How the prior is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PriorFit {
    /// Moments with unequal showings: closed form.
    Moments,
    /// Maximum of the beta-binomial likelihood, started from the moments.
    #[default]
    Likelihood,
}

/// A beta distribution over a click rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beta {
    /// Clicks, plus prior.
    pub a: f64,
    /// Showings without a click, plus prior.
    pub b: f64,
}

impl Beta {
    /// The prior fitted to `(clicks, showings)` by moments with unequal showings; strength within
    /// [0.1, [`MAX_STRENGTH`]]. Rates of exactly 0 or 1 overall are pulled in by half a click.
    pub fn fit(items: &[(f64, f64)]) -> Self {
        let clicks: f64 = items.iter().map(|(k, _)| k).sum();
        let shown: f64 = items.iter().map(|(_, n)| n).sum();
        let mean = if clicks > 0.0 && clicks < shown { clicks / shown } else { (clicks + 0.5) / (shown + 1.0) };
        let rho = dispersion(items, mean, shown);
        let strength = if rho > 0.0 { (1.0 / rho - 1.0).clamp(MIN_STRENGTH, MAX_STRENGTH) } else { MAX_STRENGTH };
        Self { a: mean * strength, b: (1.0 - mean) * strength }
    }

    /// The prior that maximises the beta-binomial likelihood of `(clicks, showings)`, by Minka's fixed point
    ///
    /// `a <- a Σ[ψ(k+a) - ψ(a)] / D`, `b <- b Σ[ψ(n-k+b) - ψ(b)] / D`, `D = Σ[ψ(n+a+b) - ψ(a+b)]`
    ///
    /// from [`Beta::fit`]. The fixed point alone takes thousands of sweeps; two of them and a squared
    /// extrapolation of (ln a, ln b) (SQUAREM, Varadhan and Roland 2008) take tens. Ends at a relative change of
    /// 1e-8, after 5,000 sweeps, or where a + b passes [`MAX_STRENGTH`], which it is then scaled to.
    pub fn fit_likelihood(items: &[(f64, f64)]) -> Self {
        let mut prior = Self::fit(items);
        for _ in 0..MAX_SWEEPS / 3 {
            let Some(one) = prior.sweep(items) else { return prior };
            let Some(two) = one.sweep(items) else { return one };
            let change = two.ratio(one).map(f64::abs).into_iter().fold(0.0, f64::max);
            if two.a + two.b > MAX_STRENGTH {
                return two.of_strength(MAX_STRENGTH);
            }
            if change < FIXED_POINT_TOLERANCE {
                return two;
            }
            // a sweep from the extrapolated point keeps it on the path of the fixed point
            prior = prior.extrapolated(one, two).sweep(items).unwrap_or(two);
        }
        prior
    }

    /// ln of both parameters over `other`'s.
    fn ratio(self, other: Self) -> [f64; 2] {
        [(self.a / other.a).ln(), (self.b / other.b).ln()]
    }

    /// The same mean at another strength.
    fn of_strength(self, strength: f64) -> Self {
        Self { a: self.mean() * strength, b: (1.0 - self.mean()) * strength }
    }

    /// Where the fixed point's path from here over `one` to `two` leads, at no more than ten times the cap.
    fn extrapolated(self, one: Self, two: Self) -> Self {
        let (first, second) = (one.ratio(self), two.ratio(one));
        let bend = [second[0] - first[0], second[1] - first[1]];
        let norm = |v: [f64; 2]| v[0].hypot(v[1]);
        let step = if norm(bend) > 0.0 { (norm(first) / norm(bend)).max(1.0) } else { 1.0 };
        let at = |start: f64, i: usize| start * (2.0 * step * first[i] + step * step * bend[i]).exp();
        let far = Self { a: at(self.a, 0), b: at(self.b, 1) };
        let usable = far.a > 0.0 && far.b > 0.0 && far.a + far.b < 10.0 * MAX_STRENGTH; // refuses NaN
        if usable { far } else { two }
    }

    /// The prior fitted as `how` says.
    pub fn fit_by(how: PriorFit, items: &[(f64, f64)]) -> Self {
        match how {
            PriorFit::Moments => Self::fit(items),
            PriorFit::Likelihood => Self::fit_likelihood(items),
        }
    }

    /// One sweep of the fixed point; `None` where the data say nothing (no showings, no clicks, or only
    /// clicks), so that a parameter would leave (0, ∞).
    fn sweep(self, items: &[(f64, f64)]) -> Option<Self> {
        let Self { a, b } = self;
        let (mut clicked, mut not, mut shown) = (0.0, 0.0, 0.0);
        for &(k, n) in items {
            clicked += digamma(k + a) - digamma(a);
            not += digamma((n - k).max(0.0) + b) - digamma(b);
            shown += digamma(n + a + b) - digamma(a + b);
        }
        let next = Self { a: a * clicked / shown, b: b * not / shown };
        (next.a > 0.0 && next.b > 0.0 && (next.a + next.b).is_finite()).then_some(next)
    }

    /// After `clicks` in `showings`.
    #[must_use]
    pub fn observe(self, clicks: f64, showings: f64) -> Self {
        Self { a: self.a + clicks, b: self.b + (showings - clicks).max(0.0) }
    }

    /// Expected click rate.
    pub fn mean(self) -> f64 {
        self.a / (self.a + self.b)
    }

    /// Variance of the click rate, m(1-m)/(a+b+1).
    pub fn variance(self) -> f64 {
        self.mean() * (1.0 - self.mean()) / (self.a + self.b + 1.0)
    }

    /// The rate exceeded with probability 0.95.
    pub fn lower(self) -> f64 {
        beta_quantile(LOWER_QUANTILE, self.a, self.b)
    }

    /// Mean and variance of the logit of the rate: ψ(a) - ψ(b), ψ₁(a) + ψ₁(b).
    pub fn logit_moments(self) -> (f64, f64) {
        (digamma(self.a) - digamma(self.b), trigamma(self.a) + trigamma(self.b))
    }

    /// P(this rate > the other) for independent rates, by the trapezoid rule on the logit scale: absolute error
    /// below 1e-8 for a, b >= 0.2. What [`Beta::probability_above`] approximates.
    pub fn probability_above_exact(self, other: Self) -> f64 {
        const N: i32 = 4_000;
        let Self { a, b } = self;
        let log_norm = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b);
        // the density of the logit falls like exp(a t) to the left and exp(-b t) to the right
        let (low, high) = (self.logit_moments().0 - 10.0 - 30.0 / a, self.logit_moments().0 + 10.0 + 30.0 / b);
        let step = (high - low) / f64::from(N);
        (0..=N)
            .map(|i| {
                let t = low + step * f64::from(i);
                // ln p and ln (1 - p) of p = 1/(1 + exp(-t))
                let (log_p, log_q) = (-(-t).exp().ln_1p(), -t.exp().ln_1p());
                let density = (log_norm + a * log_p + b * log_q).exp();
                // the smaller of p and 1 - p is the one that f64 holds well
                let below = if t > 0.0 {
                    1.0 - beta_cdf(log_q.exp(), other.b, other.a)
                } else {
                    beta_cdf(log_p.exp(), other.a, other.b)
                };
                step * density * below
            })
            .sum()
    }

    /// P(this rate > the other), by the normal approximation on the logit scale (error about 2e-3).
    pub fn probability_above(self, other: Self) -> f64 {
        let ((l1, v1), (l2, v2)) = (self.logit_moments(), other.logit_moments());
        normal_cdf((l1 - l2) / (v1 + v2).sqrt())
    }
}

/// Intra-class correlation of method B.1.3; at most 0 where the data are no more dispersed than
/// binomial.
fn dispersion(items: &[(f64, f64)], mean: f64, shown: f64) -> f64 {
    let spread = mean * (1.0 - mean);
    let seen = items.iter().filter(|(_, n)| *n > 0.0);
    let q: f64 = seen.clone().map(|(k, n)| n * (k / n - mean).powi(2)).sum();
    let c = shown - items.iter().map(|(_, n)| n * n).sum::<f64>() / shown;
    let free = seen.count() as f64 - 1.0;
    let rho = (q - free * spread) / (spread * (c - free));
    if rho.is_finite() { rho } else { 0.0 }
}

#[cfg(test)]
mod tests;
