//! Matrix products on slices, by the `gemm` crate, on all threads of rayon's pool or on the caller's alone.
//!
//! Every element of a product is summed over the inner dimension in one order, whichever thread computes it, so
//! a result does not depend on the number of threads.

use gemm::Parallelism;

/// Products with fewer multiplications than this run on one thread.
const PARALLEL_FROM: usize = 1 << 20;

/// A matrix that lies in a slice: element (r, c) at `r * row_stride + c * column_stride`.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row after row without gaps: `[rows, columns]`.
    ///
    /// # Panics
    /// If the slice has another length.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "matrix: {rows} x {columns}");
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Rows that start `row_stride` apart in a wider matrix, of which `data` begins at the first element.
    ///
    /// # Panics
    /// If an element would lie outside of the slice.
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(rows > 0 && columns > 0 && columns <= row_stride, "matrix: {rows} x {columns} every {row_stride}");
        assert!((rows - 1) * row_stride + columns <= data.len(), "matrix: {rows} rows every {row_stride}");
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Number of rows.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(self) -> usize {
        self.columns
    }

    /// The transposed matrix, on the same data.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// `a · b`, row-major, on all threads where that pays.
///
/// # Panics
/// If the inner dimensions differ; so do the other products, and where `out` has another size.
pub fn product(a: Matrix, b: Matrix) -> Vec<f32> {
    let n = a.rows * b.columns;
    let mut out = Vec::with_capacity(n);
    // SAFETY: the capacity is what `multiply` writes, every element of it, and none is read before.
    #[expect(unsafe_code, reason = "zeroing what is overwritten at once would cost a pass over memory")]
    unsafe {
        multiply(out.as_mut_ptr(), a, b, false, parallelism(a, b));
        out.set_len(n);
    }
    out
}

/// `out ← out + a · b`, row-major, on all threads where that pays.
pub fn add_product_on_all(out: &mut [f32], a: Matrix, b: Matrix) {
    add(out, a, b, parallelism(a, b));
}

/// Who computes `a · b`: rayon's pool, or the caller alone where waking the others would cost more.
fn parallelism(a: Matrix, b: Matrix) -> Parallelism {
    match a.rows * a.columns * b.columns {
        0..PARALLEL_FROM => Parallelism::None,
        // 0: as many as rayon's pool has
        _ => Parallelism::Rayon(0),
    }
}

/// `out ← a · b` on the caller's thread, row-major.
pub fn product_into(out: &mut [f32], a: Matrix, b: Matrix) {
    assert_eq!(out.len(), a.rows * b.columns, "product: {} x {}", a.rows, b.columns);
    // SAFETY: `out` has room for the product, as was just checked.
    #[expect(unsafe_code, reason = "one function calls gemm")]
    unsafe {
        multiply(out.as_mut_ptr(), a, b, false, Parallelism::None);
    }
}

/// `out ← out + a · b` on the caller's thread, row-major.
pub fn add_product(out: &mut [f32], a: Matrix, b: Matrix) {
    add(out, a, b, Parallelism::None);
}

fn add(out: &mut [f32], a: Matrix, b: Matrix, parallelism: Parallelism) {
    assert_eq!(out.len(), a.rows * b.columns, "product: {} x {}", a.rows, b.columns);
    // SAFETY: `out` has room for the product, as was just checked, and holds values.
    #[expect(unsafe_code, reason = "one function calls gemm")]
    unsafe {
        multiply(out.as_mut_ptr(), a, b, true, parallelism);
    }
}

/// Writes `a · b`, or adds it where `is_added`, to all of the `a.rows * b.columns` elements from `out` on.
///
/// # Safety
/// `out` points to that many elements which nobody else uses meanwhile; where `is_added` they hold values.
#[expect(unsafe_code, reason = "gemm takes pointers")]
unsafe fn multiply(out: *mut f32, a: Matrix, b: Matrix, is_added: bool, parallelism: Parallelism) {
    assert_eq!(a.columns, b.rows, "product: inner dimensions");
    let stride = |n: usize| n as isize;
    // SAFETY: the constructors of `Matrix` checked that every element of `a` and `b` lies in its slice; for `out`
    // the caller answers. gemm reads `out` only where it is told to.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            stride(b.columns),
            is_added,
            a.data.as_ptr(),
            stride(a.column_stride),
            stride(a.row_stride),
            b.data.as_ptr(),
            stride(b.column_stride),
            stride(b.row_stride),
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests;
