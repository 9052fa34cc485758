//! A product with a weight and the low-rank side path beside it, `y = x·W + s·(x·A)·B` (Hu et al. 2021, arXiv 2106.09685).
//!
//! In the loop: every matrix of a layer that learns through adapters. The side path is added where the product already
//! lies, and the scale meets the thin rows `[N, r]` alone, so a pass makes no second `[N, O]` or `[N, I]`.

use super::matrix::{Matrix, add_product_on_all, product};

/// What the product is made of.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// Rows `[N, I]`.
    pub x: Matrix<'a>,
    /// `[I, O]`.
    pub weight: Matrix<'a>,
    /// `[I, r]`.
    pub a: Matrix<'a>,
    /// `[r, O]`.
    pub b: Matrix<'a>,
    /// s, which multiplies the side path.
    pub scale: f32,
}

/// Gradients by x, W, A and B; those that were asked for.
pub type Gradients = [Option<Vec<f32>>; 4];

/// y `[N, O]` and the thin rows `s·x·A` `[N, r]`, which the gradient needs.
///
/// # Panics
/// If shapes do not fit.
pub fn forward(operands: Operands) -> (Vec<f32>, Vec<f32>) {
    let Operands { x, weight, a, b, scale } = operands;
    let thin = scaled(product(x, a), scale);
    let mut y = product(x, weight);
    add_product_on_all(&mut y, Matrix::new(&thin, x.rows(), a.columns()), b);
    (y, thin)
}

/// The gradients that `wants` names, from `dy` `[N, O]` and the thin rows of [`forward`].
///
/// # Panics
/// If shapes do not fit.
pub fn backward(dy: Matrix, operands: Operands, thin: &[f32], wants: [bool; 4]) -> Gradients {
    let Operands { x, weight, a, b, scale } = operands;
    let [wants_x, wants_weight, wants_a, wants_b] = wants;
    let (n, r) = (x.rows(), a.columns());
    let dthin = (wants_x || wants_a).then(|| scaled(product(dy, b.transposed()), scale)); // [N, r]
    let dthin = dthin.as_deref().map(|dthin| Matrix::new(dthin, n, r));
    let dx = dthin.filter(|_| wants_x).map(|dthin| {
        let mut dx = product(dy, weight.transposed());
        add_product_on_all(&mut dx, dthin, a.transposed());
        dx
    });
    let da = dthin.filter(|_| wants_a).map(|dthin| product(x.transposed(), dthin));
    let db = wants_b.then(|| product(Matrix::new(thin, n, r).transposed(), dy));
    [dx, wants_weight.then(|| product(x.transposed(), dy)), da, db]
}

fn scaled(mut rows: Vec<f32>, scale: f32) -> Vec<f32> {
    rows.iter_mut().for_each(|value| *value *= scale);
    rows
}
