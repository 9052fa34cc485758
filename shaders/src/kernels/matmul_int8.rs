//! Product of a 4- or 8-bit matrix with rows that are quantized to 8 bits: integer dot products, one
//! instruction set a file. CPU only; the plain-f32 twin of the same product is [`super::matmul`].
//!
//! In the loop: under the CPU executor wherever speed counts (the page, and natively on request). Each block
//! of 32 inputs of a row becomes 32 signed bytes and a scale ([`Int8Rows`]); products and sums within a block
//! are exact integers. Between blocks sums are f32, in the order of the blocks, each step rounded once and no
//! multiply-add fused:
//!
//! `out[n] = sum over b of (sum over i of code[n, b, i] · byte[b, i]) · scale_w[n, b] · scale_x[b]`, for Q4
//! plus `min_w[n, b] · (scale_x[b] · sum over i of byte[b, i])`.
//!
//! So every path gives the same bits as [`scalar`], natively and in a page, whatever rows stand beside a row.
//! Dimension key: `R` rows, `C` inputs, `N` outputs. Source: the idea of quantizing activations by block is
//! llama.cpp's; layout and kernels are ours.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod path;
#[cfg(any(test, all(target_arch = "wasm32", target_feature = "simd128")))]
pub mod relaxed;
mod rows;
mod scalar;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod simd128;
mod tile;

use crate::panel::{OUTPUTS, Panels};
use std::ops::Range;

pub use path::{Int8, KernelPath};
pub use rows::{Int8Rows, TILE};

/// `out[p, r, n] = rows[r] · panels[16 p + n]` for the panels of `range`; out `[panels, R, 16]`.
///
/// Each weight is unpacked once for every [`TILE`] rows. A value depends on its row and its output alone.
///
/// # Panics
/// If the rows were quantized for another format or path, or a length does not fit.
pub fn matmul_int8(int8: Int8, panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) {
    assert!(range.start <= range.end && range.end <= panels.n_panels(), "panels {range:?} of {}", panels.n_panels());
    assert_eq!(rows.cols(), panels.cols(), "columns of the rows");
    assert!(rows.is_for(int8, panels.format()), "rows quantized for another format or path");
    assert_eq!(out.len(), range.len() * rows.n_rows() * OUTPUTS, "products");
    match int8.path() {
        #[cfg(target_arch = "x86_64")]
        KernelPath::Int8Avx2 => avx2::matmul(panels, range, rows, out),
        #[cfg(target_arch = "x86_64")]
        KernelPath::Int8Avx512 => avx512::matmul(panels, range, rows, out),
        #[cfg(target_arch = "aarch64")]
        KernelPath::Int8Neon => neon::matmul(panels, range, rows, out),
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        KernelPath::Int8Simd128 => simd128::matmul(panels, range, rows, out),
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        path @ (KernelPath::Int8RelaxedSimd | KernelPath::Int8RelaxedDot) => {
            relaxed::matmul(path, panels, range, rows, out);
        }
        _ => scalar::matmul(panels, range, rows, out),
    }
}

/// Where [`place`] writes.
#[derive(Debug, Clone, Copy)]
pub struct Placing {
    /// R.
    pub n_rows: usize,
    /// N of the whole product.
    pub n_outputs: usize,
    /// Distance of rows in the result.
    pub stride: usize,
    /// First output's place in a row of the result.
    pub offset: usize,
    /// Adds to the result instead of replacing it.
    pub accumulate: bool,
}

/// Products `[panels, R, 16]` of all panels into rows: `out[r, offset + n] (+)= products[n / 16, r, n % 16]`.
///
/// # Panics
/// If a slice does not have its shape.
pub fn place(to: &Placing, products: &[f32], out: &mut [f32]) {
    assert_eq!(products.len(), to.n_outputs.div_ceil(OUTPUTS) * to.n_rows * OUTPUTS, "products");
    for row in 0..to.n_rows {
        let at = row * to.stride + to.offset;
        let (out, rest) = out[at..at + to.n_outputs].as_chunks_mut::<OUTPUTS>();
        let mut from = products.as_chunks::<OUTPUTS>().0[row..].iter().step_by(to.n_rows);
        for (out, from) in out.iter_mut().zip(&mut from) {
            if to.accumulate {
                for i in 0..OUTPUTS {
                    out[i] += from[i];
                }
            } else {
                *out = *from;
            }
        }
        for (out, value) in rest.iter_mut().zip(from.next().into_iter().flatten()) {
            *out = if to.accumulate { *out + value } else { *value };
        }
    }
}

#[cfg(test)]
mod tests;
