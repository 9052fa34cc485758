//! Interval of a click-through rate. Method B.6.1 names the Wilson interval; pure.

/// 0.975 quantile of the standard normal.
pub const Z_95: f64 = 1.959_963_984_540_054;

/// Wilson score interval of a share at 95 %: `(low, high)`, both in [0, 1]. With no trials it is the
/// whole of [0, 1], as nothing is known.
///
/// `centre = (p + z²/2n) / (1 + z²/n)`, `half = z/(1 + z²/n) · sqrt(p(1-p)/n + z²/4n²)`
/// (Wilson 1927).
#[expect(clippy::cast_precision_loss, reason = "counts of a log stay far below 2^53")]
pub fn wilson(n_clicks: u64, n_impressions: u64) -> (f64, f64) {
    if n_impressions == 0 {
        return (0.0, 1.0);
    }
    let n = n_impressions as f64;
    let p = (n_clicks as f64 / n).min(1.0);
    let z2 = Z_95 * Z_95;
    let scale = 1.0 + z2 / n;
    let centre = (p + z2 / (2.0 * n)) / scale;
    let half = Z_95 / scale * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_oracle_of_method_b8() {
        // T9 prints 0.662666715 for the upper end; centre and lower end give 0.662667015
        let (low, high) = wilson(57, 100);
        assert!((low - 0.472_153_895).abs() <= 1e-8, "{low}");
        assert!((high - 0.662_667_015).abs() <= 1e-8, "{high}");
    }

    #[test]
    fn stays_inside_zero_and_one() {
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        assert_eq!(wilson(0, 10).0, 0.0);
        assert!((wilson(10, 10).1 - 1.0).abs() <= 1e-12);
        // more clicks than impressions cannot be, and must not become NaN
        assert!(wilson(11, 10).1 <= 1.0);
    }
}
