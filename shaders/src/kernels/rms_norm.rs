//! Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv:1910.07467); on a GPU a part of
//! `norm_matmul`, `norm_gate_up` and `norm_rows`.

use crate::math::dot;

/// Parameters of [`rms_norm`].
#[derive(Debug, Clone, Copy)]
pub struct RmsNormParams {
    /// R.
    pub n_rows: u32,
    /// C, a multiple of 4.
    pub cols: u32,
    /// Added to the mean square.
    pub eps: f32,
}

/// `out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight`; x and out `[R, C]`, weight `[C]`.
///
/// # Panics
/// If a slice does not have its shape.
pub fn rms_norm(params: &RmsNormParams, x: &[f32], weight: &[f32], out: &mut [f32]) {
    let (r, c) = (params.n_rows as usize, params.cols as usize);
    assert_eq!(weight.len(), c, "norm weight");
    for (x, out) in x[..r * c].chunks_exact(c).zip(out[..r * c].chunks_exact_mut(c)) {
        let scale = 1.0 / (dot(x, x) / c as f32 + params.eps).sqrt();
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_scaled_apart() {
        let params = RmsNormParams { n_rows: 2, cols: 4, eps: 0.0 };
        let mut out = [0.0; 8];
        rms_norm(&params, &[3.0, -3.0, 3.0, 3.0, 0.0, 0.0, 0.0, 2.0], &[1.0, 1.0, 2.0, -1.0], &mut out);
        crate::assert_all_close("norm", &out, &[1.0, -1.0, 2.0, -1.0, 0.0, 0.0, 0.0, -2.0], 1e-6);
    }
}
