use super::*;
use beckon_shared::metrics::assert_close;

fn values(n: usize, step: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * step).sin()).collect()
}

fn element(m: &Matrix, r: usize, c: usize) -> f64 {
    f64::from(m.data[r * m.row_stride + c * m.column_stride])
}

fn check(got: &[f32], a: Matrix, b: Matrix, before: f64) {
    for r in 0..a.rows {
        for c in 0..b.columns {
            let want: f64 = before + (0..a.columns).map(|i| element(&a, r, i) * element(&b, i, c)).sum::<f64>();
            assert_close(&format!("({r}, {c})"), got[r * b.columns + c], want, 1e-4);
        }
    }
}

#[test]
fn products_equal_the_sums_in_every_layout() {
    for (m, n, k) in [(1, 1, 1), (3, 5, 7), (65, 17, 33), (130, 129, 128)] {
        let (a, b) = (values(m * k, 0.7), values(k * n, 0.3));
        let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
        check(&product(a, b), a, b, 0.0);
        let (at, bt) = (values(m * k, 0.2), values(k * n, 0.9));
        let (at, bt) = (Matrix::new(&at, k, m).transposed(), Matrix::new(&bt, n, k).transposed());
        check(&product(at, bt), at, bt, 0.0);
        let wide = values(m * (k + 3), 0.4);
        let strided = Matrix::strided(&wide[2..], m, k, k + 3);
        let mut out = vec![2.0; m * n];
        add_product(&mut out, strided, bt);
        check(&out, strided, bt, 2.0);
        product_into(&mut out, strided, b);
        check(&out, strided, b, 0.0);
        out.fill(-1.0);
        add_product_on_all(&mut out, strided, b);
        check(&out, strided, b, -1.0);
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let (m, n, k) = (257, 130, 300);
    let (a, b) = (values(m * k, 0.7), values(k * n, 0.3));
    for (a, b) in [
        (Matrix::new(&a, m, k), Matrix::new(&b, k, n)),
        (Matrix::new(&a, k, m).transposed(), Matrix::new(&b, n, k).transposed()),
    ] {
        let mut alone = vec![0.0; m * n];
        product_into(&mut alone, a, b);
        for n_threads in [2, 3] {
            let mut out = vec![0.0; m * n];
            // SAFETY: `out` has m · n elements.
            #[expect(unsafe_code, reason = "the number of threads is given here alone")]
            unsafe {
                multiply(out.as_mut_ptr(), a, b, false, Parallelism::Rayon(n_threads));
            }
            assert!(out.iter().zip(&alone).all(|(x, y)| x.to_bits() == y.to_bits()), "{n_threads} threads");
        }
    }
}

#[test]
#[should_panic(expected = "inner dimensions")]
fn shapes_that_do_not_fit_are_refused() {
    product(Matrix::new(&[1.0, 2.0], 1, 2), Matrix::new(&[1.0], 1, 1));
}
