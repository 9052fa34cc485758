//! The heads of GaRM (method B.2.5, B.3) over the mean of each candidate's rows: what is left to the host is a softplus and two
//! square roots.

use crate::kernel::{Access, KernelSpec};
use crate::source::text;
use bytemuck::{Pod, Zeroable};

/// The kernel.
pub const SPEC: KernelSpec = KernelSpec {
    name: "heads",
    source: text!("threads.wgsl", "heads.wgsl"),
    // runs, hidden, weights, sums, out
    bindings: &[Access::Read, Access::Read, Access::Read, Access::ReadWrite, Access::ReadWrite],
    params_bytes: size_of::<HeadsParams>(),
};

/// Values that [`heads`] gives of a candidate: mean, variance before its softplus, squared distance.
pub const OUTPUTS: usize = 3;

/// Parameters of [`heads`].
#[repr(C)]
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
pub struct HeadsParams {
    /// M.
    pub n_seqs: u32,
    /// C.
    pub cols: u32,
    /// F, whitened coordinates.
    pub n_features: u32,
    /// Added to the mean.
    pub mean_bias: f32,
    /// Added to the variance before its softplus.
    pub variance_bias: f32,
}

const _: () = assert!(size_of::<HeadsParams>() == 20);

impl HeadsParams {
    /// Extent of the dispatch.
    pub fn workgroups(&self) -> [u32; 2] {
        [self.n_seqs, 1]
    }
}

/// The rows of a candidate in a pass.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Pod, Zeroable)]
pub struct Run {
    /// First row.
    pub first: u32,
    /// Number of rows.
    pub n_rows: u32,
    /// Rows of the passes before, whose sum is there; 0 begins anew.
    pub n_before: u32,
    /// Unused; makes the run a vec4.
    pub pad: u32,
}

/// `f = mean of the rows`; `out[m] = (w · f + b, v · f + c, |W (f - f_mean)|²)` of the rows so far.
///
/// hidden `[R, C]`; weights `[C, 3 + F]`: f_mean, w, v and the rows of W side by side; sums `[M, C]`; out `[M, 3]`. Products are
/// added up in f64.
///
/// # Panics
/// If a slice does not have its shape or a run leaves the rows.
pub fn heads(params: &HeadsParams, runs: &[Run], hidden: &[f32], weights: &[f32], sums: &mut [f32], out: &mut [f32]) {
    let (m, c, stride) = (params.n_seqs as usize, params.cols as usize, 3 + params.n_features as usize);
    assert_eq!(weights.len(), c * stride, "weights of heads");
    let of_seqs =
        runs[..m].iter().zip(sums[..m * c].chunks_exact_mut(c)).zip(out[..m * OUTPUTS].chunks_exact_mut(OUTPUTS));
    for ((run, sums), out) in of_seqs {
        if run.n_before == 0 {
            sums.fill(0.0);
        }
        let rows = run.first as usize * c..(run.first + run.n_rows) as usize * c;
        for row in hidden[rows].chunks_exact(c) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
        }
        let n_rows = f64::from(run.n_before + run.n_rows);
        let mut products = vec![0.0f64; stride - 1];
        for (sum, weights) in sums.iter().zip(weights.chunks_exact(stride)) {
            let feature = f64::from(*sum) / n_rows;
            let centred = feature - f64::from(weights[0]);
            for (k, (product, weight)) in products.iter_mut().zip(&weights[1..]).enumerate() {
                *product += f64::from(*weight) * if k < 2 { feature } else { centred };
            }
        }
        out[0] = products[0] as f32 + params.mean_bias;
        out[1] = products[1] as f32 + params.variance_bias;
        out[2] = products[2..].iter().map(|product| product * product).sum::<f64>() as f32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand_and_in_two_passes() {
        // f_mean (1, 0), w (1, 2), v (0, 1), W ((2, 0), (0, 1))
        let weights = [1.0, 1.0, 0.0, 2.0, 0.0, 0.0, 2.0, 1.0, 0.0, 1.0];
        let params = HeadsParams { n_seqs: 1, cols: 2, n_features: 2, mean_bias: 0.5, variance_bias: -1.0 };
        let hidden = [9.0, 9.0, 1.0, 1.0, 3.0, 1.0];
        let run = |first, n_rows, n_before| [Run { first, n_rows, n_before, pad: 0 }];
        let (mut sums, mut out) = ([7.0; 2], [0.0; 3]);
        // f = (2, 1), W (f - f_mean) = (2, 1)
        heads(&params, &run(1, 2, 0), &hidden, &weights, &mut sums, &mut out);
        assert_eq!(out, [4.5, 0.0, 5.0]);
        heads(&params, &run(1, 1, 0), &hidden, &weights, &mut sums, &mut out);
        heads(&params, &run(2, 1, 1), &hidden, &weights, &mut sums, &mut out);
        assert_eq!(out, [4.5, 0.0, 5.0]);
    }
}
