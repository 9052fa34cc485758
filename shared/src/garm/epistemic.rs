//! Epistemic spread: how far a suggestion's feature is from those that the reward model was trained on.
//! Method B.3 (2), oracle T4.
//!
//! d² = (f - m)ᵀ C⁻¹ (f - m) for features of width D_f; E[d²/D_f] = 1 in distribution, so
//! v_ep = kappa · max(0, d²/D_f - 1). The Mahalanobis penalty follows the idea of latent-space outlier
//! detection for reward models (method B.3 table); turning it into a variance is our design.

/// d² of a feature that is already whitened, `whitened` = W (f - m) with WᵀW = C⁻¹, `[D_f]`.
pub fn squared_distance(whitened: &[f64]) -> f64 {
    whitened.iter().map(|x| x * x).sum()
}

/// v_ep = kappa · max(0, d²/D_f - 1); `squared_distance` = d², `feature_dims` = D_f.
pub fn epistemic_variance(squared_distance: f64, feature_dims: usize, kappa: f64) -> f64 {
    kappa * (squared_distance / feature_dims as f64 - 1.0).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::garm::effective::penalised;
    use crate::metrics::assert_close;
    use crate::special::chi_square_tail;

    #[test]
    fn oracle_t4() {
        // C = [[2, .5], [.5, 1]] has the Cholesky factor L; W = L⁻¹ whitens
        let (l11, l21) = (2f64.sqrt(), 0.5 / 2f64.sqrt());
        let l22 = (1.0 - l21 * l21).sqrt();
        let (h1, h2) = (2.0, -1.0);
        let w1 = h1 / l11;
        let w2 = (h2 - l21 * w1) / l22;
        let d2 = squared_distance(&[w1, w2]);
        assert_close("d2", d2, 4.571428571, 1e-9);
        assert_close("chi2_2 tail", chi_square_tail(d2, 2.0), 0.101701392, 1e-9);
        let stds = [(12.0, 0.0, 0.7), (40.0, 0.612372436, 0.087627564), (90.0, 1.075290658, -0.375290658)];
        for (d2, std, reward) in stds {
            let epistemic_std = epistemic_variance(d2, 16, 0.25).sqrt();
            assert_close("sigma_ep", epistemic_std, std, 1e-9);
            assert_close("r", penalised(0.8, 0.4, epistemic_std, 0.25, 1.0), reward, 1e-9);
        }
    }
}
