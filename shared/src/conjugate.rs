//! Conjugate gradients (Hestenes and Stiefel 1952): linear systems whose matrix is only known by its products.
//!
//! The inner loop of Newton's method in [`crate::lexical`] and [`crate::garm::probe`].

/// Solves `matrix(x) = target` for a symmetric positive definite matrix, in at most `n_steps` products with it; ends
/// earlier at a residual of `tolerance` times the target.
pub fn conjugate_gradient(
    matrix: impl Fn(&[f64]) -> Vec<f64>,
    target: &[f64],
    n_steps: usize,
    tolerance: f64,
) -> Vec<f64> {
    let inner = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut x = vec![0.0; target.len()];
    let mut residual = target.to_vec();
    let mut direction = residual.clone();
    let mut size = inner(&residual, &residual);
    let enough = tolerance.powi(2) * size;
    for _ in 0..n_steps {
        if size <= enough {
            break;
        }
        let image = matrix(&direction);
        let length = size / inner(&direction, &image);
        x.iter_mut().zip(&direction).for_each(|(x, d)| *x += length * d);
        residual.iter_mut().zip(&image).for_each(|(r, i)| *r -= length * i);
        let next = inner(&residual, &residual);
        direction.iter_mut().zip(&residual).for_each(|(d, r)| *d = r + next / size * *d);
        size = next;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::assert_close;

    #[test]
    fn a_system_of_three_is_solved_in_three_steps() {
        let a = [[4.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 2.0]];
        let product = |v: &[f64]| a.iter().map(|row| row.iter().zip(v).map(|(a, v)| a * v).sum()).collect::<Vec<f64>>();
        let want = [1.0, -2.0, 0.5];
        let got = conjugate_gradient(product, &product(&want), 3, 1e-10);
        for (got, want) in got.into_iter().zip(want) {
            assert_close("solution", got, want, 1e-12);
        }
        assert_eq!(conjugate_gradient(product, &[0.0; 3], 3, 1e-10), [0.0; 3]);
    }
}
