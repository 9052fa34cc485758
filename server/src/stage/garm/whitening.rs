//! From features of logged suggestions to whitened coordinates: mean, shrunk covariance, its largest
//! principal directions. Method B.3 (2).
//!
//! W = diag(λ^-½) Uᵀ over the D_f largest eigenpairs (λ, U) of (1-s) C + s tr(C)/D I, s = 0.1, then
//! scaled by one number so that E[d²/D_f] = 1 over the features it was fitted to: shrinkage lowers the
//! large eigenvalues, and the epistemic variance starts counting at exactly 1.
//!
//! Dimension key: `N` features, `D` width, `F` = D_f.

use beckon_shared::eigen::symmetric_eigen;
use beckon_shared::garm::epistemic::squared_distance;

/// s.
const SHRINKAGE: f64 = 0.1;

/// m and W.
#[derive(Debug, Clone, PartialEq)]
pub struct Whitening {
    /// m, `[D]`.
    pub mean: Vec<f64>,
    /// W, row-major `[F, D]`.
    pub matrix: Vec<f64>,
}

/// Fits m and W to `features` `[N][D]`.
///
/// # Panics
/// If there are no features, or `feature_dims` exceeds their width.
pub fn fit(features: &[Vec<f32>], feature_dims: usize) -> Whitening {
    let (n, d) = (features.len(), features.first().map_or(0, Vec::len));
    assert!(
        n > 0 && (1..=d).contains(&feature_dims),
        "whitening: {n} features of width {d} to {feature_dims} dimensions"
    );
    let mean: Vec<f64> = (0..d).map(|k| features.iter().map(|f| f64::from(f[k])).sum::<f64>() / n as f64).collect();
    let centred: Vec<Vec<f64>> =
        features.iter().map(|f| f.iter().zip(&mean).map(|(x, m)| f64::from(*x) - m).collect()).collect();
    let (values, vectors) = symmetric_eigen(shrunk_covariance(&centred), d);
    let mut order: Vec<usize> = (0..d).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let mut matrix = Vec::with_capacity(feature_dims * d);
    for &i in &order[..feature_dims] {
        let scale = values[i].max(f64::MIN_POSITIVE).sqrt().recip();
        matrix.extend((0..d).map(|k| scale * vectors[k * d + i]));
    }
    let whitening = Whitening { mean, matrix };
    let mean_distance = centred.iter().map(|c| squared_distance(&whitening.project(c))).sum::<f64>() / n as f64;
    let scale = if mean_distance > 0.0 { (feature_dims as f64 / mean_distance).sqrt() } else { 1.0 };
    Whitening { matrix: whitening.matrix.iter().map(|w| w * scale).collect(), ..whitening }
}

impl Whitening {
    /// W c of a centred feature, `[F]`.
    fn project(&self, centred: &[f64]) -> Vec<f64> {
        self.matrix.chunks_exact(centred.len()).map(|row| row.iter().zip(centred).map(|(w, c)| w * c).sum()).collect()
    }
}

/// (1-s) C + s tr(C)/D I of centred features, row-major `[D, D]`.
fn shrunk_covariance(centred: &[Vec<f64>]) -> Vec<f64> {
    let d = centred[0].len();
    let mut c = vec![0.0; d * d];
    for f in centred {
        for (i, x) in f.iter().enumerate() {
            for (cell, y) in c[i * d..(i + 1) * d].iter_mut().zip(f) {
                *cell += x * y;
            }
        }
    }
    let n = centred.len() as f64;
    let trace: f64 = (0..d).map(|i| c[i * d + i]).sum::<f64>() / n;
    for (i, cell) in c.iter_mut().enumerate() {
        *cell *= (1.0 - SHRINKAGE) / n;
        if i % (d + 1) == 0 {
            *cell += SHRINKAGE * trace / d as f64;
        }
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;
    use beckon_shared::metrics::assert_close;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn logged_features_have_unit_distance_and_strangers_are_far() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let features: Vec<Vec<f32>> = (0..400)
            .map(|_| {
                let a: f32 = rng.random_range(-3.0..3.0);
                let b: f32 = rng.random_range(-1.0..1.0);
                vec![a + 5.0, 0.5 * a + b, b - 2.0, rng.random_range(-0.01..0.01)]
            })
            .collect();
        let whitening = fit(&features, 2);
        let distance = |f: &[f32]| {
            let centred: Vec<f64> = f.iter().zip(&whitening.mean).map(|(x, m)| f64::from(*x) - m).collect();
            squared_distance(&whitening.project(&centred))
        };
        let mean = features.iter().map(|f| distance(f)).sum::<f64>() / 400.0;
        assert_close("E[d²]", mean, 2.0, 1e-9);
        assert!(distance(&[50.0, 0.0, 0.0, 0.0]) > 20.0);
    }
}
