//! Intervals by resampling users with replacement: clicks of one user hang together, so users are drawn and
//! not impressions. Percentile intervals, seeded.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Quantiles of a 95% interval.
const LEVELS: (f64, f64) = (0.025, 0.975);

/// Draws of each user: how often it comes in a sample of `n_users` with replacement, `[n_users]`.
pub fn draw(n_users: usize, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let mut counts = vec![0.0; n_users];
    for _ in 0..n_users {
        counts[rng.random_range(0..n_users)] += 1.0;
    }
    counts
}

/// 95% intervals of each value that `estimate` gives for user weights, over `n_resamples` draws; a draw for
/// which it gives `None` is left out. `None` with fewer than two users, or where less than half of the draws
/// gave anything.
pub fn intervals(
    n_users: usize,
    n_resamples: usize,
    seed: u64,
    mut estimate: impl FnMut(&[f64]) -> Option<Vec<f64>>,
) -> Option<Vec<(f64, f64)>> {
    if n_users < 2 || n_resamples == 0 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let draws: Vec<Vec<f64>> = (0..n_resamples).filter_map(|_| estimate(&draw(n_users, &mut rng))).collect();
    if 2 * draws.len() < n_resamples {
        return None;
    }
    let n_values = draws.first().map_or(0, Vec::len);
    let interval = |k: usize| {
        let mut values: Vec<f64> = draws.iter().map(|d| d[k]).collect();
        values.sort_by(f64::total_cmp);
        let at = |q: f64| values[((values.len() - 1) as f64 * q).round() as usize];
        (at(LEVELS.0), at(LEVELS.1))
    };
    Some((0..n_values).map(interval).collect())
}
