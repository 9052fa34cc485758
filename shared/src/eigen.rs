//! Eigenvalues and eigenvectors of a symmetric matrix. Used by the whitening of GaRM's features and by the Vendi
//! score; small matrices only (`D` up to some hundreds).

/// Sweeps of Jacobi rotations; a matrix of width 256 converges in about ten.
const MAX_SWEEPS: usize = 60;

/// Eigenvalues and eigenvectors (in columns, row-major) of a symmetric matrix `[D, D]`, by cyclic Jacobi
/// rotations (Golub and Van Loan, section 8.5).
pub fn symmetric_eigen(mut a: Vec<f64>, d: usize) -> (Vec<f64>, Vec<f64>) {
    let mut u = vec![0.0; d * d];
    for i in 0..d {
        u[i * d + i] = 1.0;
    }
    let total: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..MAX_SWEEPS {
        let off: f64 = (0..d).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i * d + j].powi(2)).sum();
        if off <= 1e-24 * total {
            break;
        }
        for p in 0..d {
            for q in p + 1..d {
                rotate(&mut a, &mut u, d, p, q);
            }
        }
    }
    ((0..d).map(|i| a[i * d + i]).collect(), u)
}

/// One rotation that makes a[p][q] zero.
fn rotate(a: &mut [f64], u: &mut [f64], d: usize, p: usize, q: usize) {
    let apq = a[p * d + q];
    if apq == 0.0 {
        return;
    }
    let theta = (a[q * d + q] - a[p * d + p]) / (2.0 * apq);
    let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let c = t.hypot(1.0).recip();
    let s = t * c;
    for k in 0..d {
        let (x, y) = (a[k * d + p], a[k * d + q]);
        (a[k * d + p], a[k * d + q]) = (c * x - s * y, s * x + c * y);
    }
    for k in 0..d {
        let (x, y) = (a[p * d + k], a[q * d + k]);
        (a[p * d + k], a[q * d + k]) = (c * x - s * y, s * x + c * y);
    }
    for k in 0..d {
        let (x, y) = (u[k * d + p], u[k * d + q]);
        (u[k * d + p], u[k * d + q]) = (c * x - s * y, s * x + c * y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn eigenpairs_by_hand() {
        // [[2, 1], [1, 2]] has 1 and 3
        let (mut values, vectors) = symmetric_eigen(vec![2.0, 1.0, 1.0, 2.0], 2);
        assert_close("orthogonal", vectors[0] * vectors[1] + vectors[2] * vectors[3], 0.0, 1e-12);
        values.sort_by(f64::total_cmp);
        assert_close("small", values[0], 1.0, 1e-12);
        assert_close("large", values[1], 3.0, 1e-12);
    }

    #[test]
    fn eigenpairs_rebuild_a_random_matrix() {
        let (d, mut rng) = (24, ChaCha8Rng::seed_from_u64(1));
        let mut a = vec![0.0; d * d];
        for i in 0..d {
            for j in 0..=i {
                a[i * d + j] = rng.random_range(-1.0..1.0);
                a[j * d + i] = a[i * d + j];
            }
        }
        let (values, u) = symmetric_eigen(a.clone(), d);
        for i in 0..d {
            for j in 0..d {
                let sum: f64 = (0..d).map(|k| u[i * d + k] * values[k] * u[j * d + k]).sum();
                assert_close(&format!("a[{i}][{j}]"), sum, a[i * d + j], 1e-10);
            }
        }
    }
}
