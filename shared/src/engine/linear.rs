//! A matrix as memory holds it, once for all that need it: plain or in blocks with f32 activations, or in panels with
//! activations in 8 bits. The CPU executor multiplies with it, the GPU's is uploaded from it.

use super::parallel::{Parallel, n_pieces};
use super::weights::{Part, view};
use crate::quant::{BlockFormat, Matrix};
use beckon_shaders::kernels::embed::{EmbedParams, embed};
use beckon_shaders::kernels::matmul::{MatmulParams, matmul, matmul_of};
use beckon_shaders::kernels::matmul_int8::{Int8, Int8Rows, Placing, matmul_int8, place};
use beckon_shaders::{KernelPath, OUTPUTS, Panels, WeightFormat};
use std::borrow::Cow;

/// A matrix `[N, C]` of either arithmetic.
#[derive(Debug)]
pub(super) enum Linear {
    /// f32 activations: the truth.
    F32(Matrix),
    /// 8-bit activations.
    Int8(Int8, Panels),
}

/// How products are made, and room for them, kept from one to the next.
#[derive(Debug, Clone, Default)]
pub(super) struct Products {
    /// Panels are multiplied as blocks are, with f32 activations.
    pub exact: bool,
    rows: Int8Rows,
    /// Products piece by piece: in 8 bits `[panels, R, 16]`, in f32 `[N, R]`.
    pieces: Vec<f32>,
}

impl Linear {
    /// The form for a path; a plain matrix stays as it is on every path.
    pub fn new(matrix: Matrix, path: KernelPath) -> Self {
        match Int8::new(path) {
            Some(int8) if matrix.format != BlockFormat::F32 => Self::Int8(int8, Panels::pack(&view(&matrix))),
            _ => Self::F32(matrix),
        }
    }

    /// N.
    pub fn n_outputs(&self) -> usize {
        match self {
            Self::F32(matrix) => matrix.rows,
            Self::Int8(_, panels) => panels.rows(),
        }
    }

    /// Rows of the matrix with these ids into out `[R, C]`; the same values on every path.
    pub fn embed(&self, ids: &[u32], out: &mut [f32]) {
        match self {
            Self::F32(matrix) => {
                let (n_rows, cols, n_table_rows) = (ids.len() as u32, matrix.cols as u32, matrix.rows as u32);
                embed(&EmbedParams { n_rows, cols, n_table_rows }, &view(matrix), ids, out);
            }
            Self::Int8(_, panels) => {
                for (id, out) in ids.iter().zip(out.chunks_exact_mut(panels.cols())) {
                    panels.decode_row((*id as usize).min(panels.rows() - 1), out);
                }
            }
        }
    }

    /// The matrix row by row, as a checkpoint has it.
    pub fn row_major(&self) -> Cow<'_, Matrix> {
        match self {
            Self::F32(matrix) => Cow::Borrowed(matrix),
            Self::Int8(_, panels) => {
                let format = if panels.format() == WeightFormat::Q4 { BlockFormat::Q4 } else { BlockFormat::Q8 };
                let (quants, scales) = panels.row_major();
                Cow::Owned(Matrix { rows: panels.rows(), cols: panels.cols(), format, quants, scales })
            }
        }
    }

    /// Products of x `[R, C]` with the matrix to where `to` says.
    pub fn multiply(&self, x: &[f32], to: &Placing, out: &mut [f32], room: &mut Products, threads: &dyn Parallel) {
        let Products { exact, rows, pieces } = room;
        match self {
            Self::Int8(int8, panels) if !*exact => {
                rows.quantize(*int8, panels.format(), (to.n_rows, panels.cols()), x);
                let (n_panels, of_panel) = (panels.n_panels(), to.n_rows * OUTPUTS);
                let pieces = room_for(n_panels * of_panel, pieces);
                let of_piece = n_panels.div_ceil(n_pieces(threads, to.n_rows * panels.rows() * panels.cols()));
                threads.for_chunks(pieces, of_piece * of_panel, &|piece, out| {
                    let first = piece * of_piece;
                    matmul_int8(*int8, panels, first..(first + of_piece).min(n_panels), rows, out);
                });
                place(to, pieces, out);
            }
            _ => multiply_in_f32(&self.row_major(), x, to, out, pieces, threads),
        }
    }
}

/// The first n values of a vector that only grows, whatever they are.
fn room_for(n: usize, values: &mut Vec<f32>) -> &mut [f32] {
    if values.len() < n {
        values.resize(n, 0.0);
    }
    &mut values[..n]
}

/// The product with f32 activations; the same bits on any number of threads.
fn multiply_in_f32(
    matrix: &Matrix,
    x: &[f32],
    to: &Placing,
    out: &mut [f32],
    pieces: &mut Vec<f32>,
    threads: &dyn Parallel,
) {
    let (n_rows, n_outputs, cols) = (to.n_rows, matrix.rows, matrix.cols);
    let n_pieces = n_pieces(threads, n_rows * n_outputs * cols);
    if n_pieces == 1 {
        let params = MatmulParams {
            n_rows: n_rows as u32,
            cols: cols as u32,
            n_outputs: n_outputs as u32,
            out_stride: to.stride as u32,
            out_offset: to.offset as u32,
            accumulate: u32::from(to.accumulate),
        };
        return matmul(&params, &view(matrix), x, out);
    }
    let (w, x, of_piece) = (view(matrix), &x[..n_rows * cols], n_outputs.div_ceil(n_pieces));
    let pieces = room_for(n_outputs * n_rows, pieces);
    threads.for_chunks(pieces, of_piece * n_rows, &|piece, out| {
        let first = piece * of_piece;
        matmul_of(&w, first..(first + of_piece).min(n_outputs), x, out);
    });
    for (n, products) in pieces.chunks_exact(n_rows).enumerate() {
        for (row, product) in products.iter().enumerate() {
            let out = &mut out[row * to.stride + to.offset + n];
            *out = if to.accumulate { *out + product } else { *product };
        }
    }
}

/// `out = x · W` for the parts of one layer.
pub(super) fn replace(
    n_rows: usize,
    parts: &[Part<Linear>],
    x: &[f32],
    (stride, out): (usize, &mut [f32]),
    room: &mut Products,
    threads: &dyn Parallel,
) {
    for Part { first_output, matrix } in parts {
        let n_outputs = matrix.n_outputs();
        let to = Placing { n_rows, n_outputs, stride, offset: *first_output, accumulate: false };
        matrix.multiply(x, &to, out, room, threads);
    }
}

/// `out += x · W`.
pub(super) fn add(
    n_rows: usize,
    matrix: &Linear,
    x: &[f32],
    out: &mut [f32],
    room: &mut Products,
    threads: &dyn Parallel,
) {
    let n_outputs = matrix.n_outputs();
    matrix.multiply(
        x,
        &Placing { n_rows, n_outputs, stride: n_outputs, offset: 0, accumulate: true },
        out,
        room,
        threads,
    );
}
