//! Several comparisons at once: Holm's step-down (1979), which keeps the chance of any false claim at most
//! alpha whatever the dependence between the comparisons. Always-valid p-values stay so under it.

/// Adjusted p-values in the order given: the k-th smallest of m becomes max over j <= k of min(1, (m - j + 1)
/// p_(j)). A NaN (nothing could be tested) counts as a comparison and stays NaN.
pub fn adjust(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![f64::NAN; p_values.len()];
    let mut least = 0.0f64;
    for (rank, &i) in order.iter().enumerate() {
        let scaled = (p_values.len() - rank) as f64 * p_values[i];
        if !scaled.is_nan() {
            least = least.max(scaled.min(1.0));
            adjusted[i] = least;
        }
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    #[test]
    fn by_hand() {
        // sorted .01, .02, .03, .4: 4·.01, max(.04, 3·.02), max(.06, 2·.03), 1·.4
        let adjusted = adjust(&[0.03, 0.01, 0.4, 0.02]);
        for (i, want) in [0.06, 0.04, 0.4, 0.06].into_iter().enumerate() {
            assert_close("holm", adjusted[i], want, 1e-12);
        }
        assert_eq!(adjust(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(adjust(&[]).is_empty());
        let with_nan = adjust(&[f64::NAN, 0.01]);
        assert!(with_nan[0].is_nan());
        assert_close("NaN counts as a comparison", with_nan[1], 0.02, 1e-12);
    }
}
