//! Totals of users and their first two moments, which is all that the statistics of a ratio metric need: count,
//! means and covariances of four totals, streamed in one pass and merged without loss.

use serde::{Deserialize, Serialize};

/// What one user did: the parts of the metric's ratio during the test and before it. For the click rate
/// the numerator is clicks, the denominator impressions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Numerator.
    pub numerator: f64,
    /// Denominator.
    pub denominator: f64,
    /// Numerator of the time before the test; 0 for a new user.
    pub pre_numerator: f64,
    /// Denominator of the time before the test; 0 for a new user.
    pub pre_denominator: f64,
}

impl Totals {
    fn to_array(self) -> [f64; 4] {
        [self.numerator, self.denominator, self.pre_numerator, self.pre_denominator]
    }
}

/// Which of the four totals of [`Totals`].
pub(super) const NUMERATOR: usize = 0;
pub(super) const DENOMINATOR: usize = 1;
pub(super) const PRE_NUMERATOR: usize = 2;
pub(super) const PRE_DENOMINATOR: usize = 3;

/// Count, means `[4]` and centred cross products `[4, 4]` of the [`Totals`] of some users.
///
/// Welford's update and Chan's merge: no difference of two large sums is taken, so that rates of 1e-3 over 1e8
/// users keep their digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    n: u64,
    mean: [f64; 4],
    scatter: [[f64; 4]; 4],
}

impl Moments {
    /// The moments of some users.
    pub fn of(users: impl IntoIterator<Item = Totals>) -> Self {
        let mut moments = Self::default();
        users.into_iter().for_each(|user| moments.push(user));
        moments
    }

    /// Adds a user.
    pub fn push(&mut self, user: Totals) {
        self.n += 1;
        let n = self.n as f64;
        let value = user.to_array();
        let before: [f64; 4] = std::array::from_fn(|i| value[i] - self.mean[i]);
        for (mean, before) in self.mean.iter_mut().zip(before) {
            *mean += before / n;
        }
        let after: [f64; 4] = std::array::from_fn(|i| value[i] - self.mean[i]);
        for (row, before) in self.scatter.iter_mut().zip(before) {
            for (cell, after) in row.iter_mut().zip(after) {
                *cell += before * after;
            }
        }
    }

    /// The moments of both groups of users together.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        if self.n == 0 {
            return other;
        }
        let (a, b) = (self.n as f64, other.n as f64);
        let total = a + b;
        let gap: [f64; 4] = std::array::from_fn(|i| other.mean[i] - self.mean[i]);
        for (i, row) in self.scatter.iter_mut().enumerate() {
            for (j, cell) in row.iter_mut().enumerate() {
                *cell += other.scatter[i][j] + gap[i] * gap[j] * (a * b / total);
            }
        }
        for (mean, gap) in self.mean.iter_mut().zip(gap) {
            *mean += gap * (b / total);
        }
        self.n += other.n;
        self
    }

    /// Users.
    pub fn n(&self) -> u64 {
        self.n
    }

    pub(super) fn mean(&self, i: usize) -> f64 {
        self.mean[i]
    }

    /// Sample covariance (n - 1); NaN for fewer than two users.
    pub(super) fn covariance(&self, i: usize, j: usize) -> f64 {
        if self.n < 2 { f64::NAN } else { self.scatter[i][j] / (self.n - 1) as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    fn user(a: f64, b: f64, c: f64, d: f64) -> Totals {
        Totals { numerator: a, denominator: b, pre_numerator: c, pre_denominator: d }
    }

    #[test]
    fn covariances_by_hand() {
        let moments = Moments::of([user(1.0, 2.0, 0.0, 1.0), user(2.0, 4.0, 1.0, 1.0), user(6.0, 3.0, 2.0, 1.0)]);
        assert_eq!(moments.n(), 3);
        assert_close("mean", moments.mean(NUMERATOR), 3.0, 1e-12);
        // deviations (-2, -1, 3) and (-1, 1, 0)
        assert_close("variance", moments.covariance(NUMERATOR, NUMERATOR), 7.0, 1e-12);
        assert_close("covariance", moments.covariance(NUMERATOR, DENOMINATOR), 0.5, 1e-12);
        assert_close("constant", moments.covariance(PRE_DENOMINATOR, PRE_NUMERATOR), 0.0, 1e-12);
        assert!(Moments::of([user(1.0, 1.0, 0.0, 0.0)]).covariance(0, 0).is_nan());
    }

    #[test]
    fn merged_parts_are_the_whole() {
        let users: Vec<Totals> =
            (0..50).map(|i| f64::from(i * i % 7)).map(|x| user(x, x + 1.0, 1e6 + x, 3.0)).collect();
        let whole = Moments::of(users.iter().copied());
        for cut in [0, 1, 20, 50] {
            let merged = Moments::of(users[..cut].iter().copied()).merge(Moments::of(users[cut..].iter().copied()));
            assert_eq!(merged.n(), whole.n());
            for i in 0..4 {
                assert_close("mean", merged.mean(i), whole.mean(i), 1e-9);
                for j in 0..4 {
                    assert_close("covariance", merged.covariance(i, j), whole.covariance(i, j), 1e-6);
                }
            }
        }
    }
}
