//! Block formats of weights. To be written (types are fixed).

use serde::{Deserialize, Serialize};

/// How a matrix is stored. Blocks run along a row (the input dimension) and hold 32 values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlockFormat {
    /// Plain f32.
    F32,
    /// Signed bytes and one f16 scale per block (values of GGUF's Q8_0).
    Q8,
    /// Nibbles, f16 scale and f16 minimum per block (values of GGUF's Q4_1).
    Q4,
}

/// A matrix `[rows, cols]` in a block format, split into what a kernel binds.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// Output dimension.
    pub rows: usize,
    /// Input dimension; a multiple of 32 unless F32.
    pub cols: usize,
    /// Format.
    pub format: BlockFormat,
    /// F32: bits of the values. Q8: four values a word, least significant byte first. Q4: eight
    /// values a word, least significant nibble first. Row-major, in order of columns.
    pub quants: Vec<u32>,
    /// F32: empty. Q8: two f16 scales a word. Q4: f16 scale (low half) and f16 minimum (high half), a word a block.
    pub scales: Vec<u32>,
}
