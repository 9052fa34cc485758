//! Block formats of weights: f32, 8-bit and 4-bit blocks of 32 values, and half-precision conversion.
//!
//! In the loop: the exporter packs trained tensors into [`Matrix`], the checkpoint stores its bytes, the
//! engine's kernels read its words as they are. Blocks are numbered through the whole matrix, row by row:
//! block `row · cols/32 + col/32`. Values as in GGUF's Q8_0 and Q4_1; the layout is our own, because a
//! kernel binds quants and scales apart.

use crate::tensor::DenseTensor;
use serde::{Deserialize, Serialize};

/// Values in a block.
pub const BLOCK: usize = 32;

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
    /// F32: empty. Q8: two f16 scales a word, the even block in the low half, the last word padded with 0.
    /// Q4: f16 scale (low half) and f16 minimum (high half), a word a block.
    pub scales: Vec<u32>,
}

/// Why a tensor cannot be packed or unpacked.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum QuantError {
    /// Blocks would cross rows.
    #[error("{format:?} needs a multiple of {BLOCK} columns, got {cols}")]
    Columns {
        /// Format asked for.
        format: BlockFormat,
        /// Columns of the matrix.
        cols: usize,
    },
    /// Neither a vector nor a matrix.
    #[error("expected one or two dimensions, got shape {shape:?}")]
    Shape {
        /// Shape of the tensor.
        shape: Vec<usize>,
    },
    /// NaN, infinite, or beyond what an f16 scale can reach.
    #[error("value {value} at row {row}, column {col} cannot be stored as {format:?}")]
    Value {
        /// Format asked for.
        format: BlockFormat,
        /// Row.
        row: usize,
        /// Column.
        col: usize,
        /// The value.
        value: f32,
    },
    /// Bytes do not fill the matrix.
    #[error("a {rows} x {cols} matrix in {format:?} takes {want} bytes, got {got}")]
    Bytes {
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// Format.
        format: BlockFormat,
        /// Bytes it takes.
        want: u64,
        /// Bytes given.
        got: u64,
    },
}

/// Half-precision bits of `value`, rounded to nearest, ties to even; overflow gives infinity, NaN stays NaN.
pub fn f16_from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    if magnitude > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    if magnitude >= 0x4780_0000 {
        return sign | 0x7c00; // 65,536 and above
    }
    if magnitude < 0x3880_0000 {
        // below 2^-14: a multiple of 2^-24; the f32 addition rounds it (ties to even) into the low mantissa bits of 0.5
        return sign | (f32::from_bits(magnitude) + 0.5).to_bits() as u16;
    }
    // rebias the exponent by 127 - 15, round the 13 bits that go; a carry into the exponent is right, up to infinity
    let odd = (magnitude >> 13) & 1;
    sign | ((magnitude - 0x3800_0000 + 0xfff + odd) >> 13) as u16
}

/// Value of half-precision bits; exact.
pub fn f32_from_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff);
    if magnitude >= 0x7c00 {
        return f32::from_bits(sign | 0x7f80_0000 | ((magnitude & 0x3ff) << 13));
    }
    if magnitude < 0x400 {
        // subnormal: a multiple of 2^-24, exact in f32
        let value = magnitude as f32 * f32::from_bits(0x3380_0000);
        return if sign == 0 { value } else { -value };
    }
    f32::from_bits(sign | ((magnitude << 13) + 0x3800_0000))
}

/// Smallest half that is not below `value` (0 <= value <= 65,504).
fn f16_at_least(value: f32) -> u16 {
    let half = f16_from_f32(value);
    if f32_from_f16(half) < value { half + 1 } else { half }
}

/// Largest half that is not above `value`.
fn f16_at_most(value: f32) -> u16 {
    let half = f16_from_f32(value);
    if f32_from_f16(half) <= value {
        half
    } else if half == 0 {
        0x8001 // below zero: the smallest negative half
    } else if half & 0x8000 == 0 {
        half - 1
    } else {
        half + 1
    }
}

/// Packs one block to 8 bits: q = round(x / scale), scale = max|x| / 127 rounded up, so |error| <= scale / 2.
fn pack_q8(block: &[f32]) -> ([i8; BLOCK], u16) {
    let peak = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let half = f16_at_least(peak / 127.0);
    let scale = f32_from_f16(half);
    let mut quants = [0i8; BLOCK];
    if scale > 0.0 {
        for (q, x) in quants.iter_mut().zip(block) {
            *q = (x / scale).round().clamp(-127.0, 127.0) as i8;
        }
    }
    (quants, half)
}

/// Nibbles of `block` for a given scale and minimum, and their summed squared error.
fn nibbles(block: &[f32], scale: f32, minimum: f32) -> ([u8; BLOCK], f32) {
    let mut quants = [0u8; BLOCK];
    let mut error = 0.0;
    for (q, &x) in quants.iter_mut().zip(block) {
        if scale > 0.0 {
            *q = ((x - minimum) / scale).round().clamp(0.0, 15.0) as u8;
        }
        error += (f32::from(*q) * scale + minimum - x).powi(2);
    }
    (quants, error)
}

/// Packs one block to 4 bits: x ≈ q · scale + minimum. Starts with the range of the block (then |error| <=
/// scale / 2) and improves by least squares on (scale, minimum) for as long as the squared error falls.
fn pack_q4(block: &[f32]) -> ([u8; BLOCK], u16, u16) {
    let low = block.iter().copied().fold(f32::INFINITY, f32::min);
    let high = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut minimum = f16_at_most(low);
    let mut scale = f16_at_least((high - f32_from_f16(minimum)) / 15.0);
    let (mut quants, mut error) = nibbles(block, f32_from_f16(scale), f32_from_f16(minimum));
    for _ in 0..4 {
        let n = BLOCK as f32;
        let (mut sq, mut sqq, mut sx, mut sqx) = (0.0f32, 0.0f32, 0.0f32, 0.0f32);
        for (&q, &x) in quants.iter().zip(block) {
            let q = f32::from(q);
            (sq, sqq, sx, sqx) = (sq + q, sqq + q * q, sx + x, sqx + q * x);
        }
        let determinant = n * sqq - sq * sq;
        if determinant <= 0.0 {
            break; // all quants equal: the block is constant
        }
        let slope = (n * sqx - sq * sx) / determinant;
        let (next_scale, next_minimum) = (f16_from_f32(slope), f16_from_f32((sx - slope * sq) / n));
        if !(f32_from_f16(next_scale) > 0.0) {
            break;
        }
        let (next_quants, next_error) = nibbles(block, f32_from_f16(next_scale), f32_from_f16(next_minimum));
        if !(next_error < error) {
            break;
        }
        (quants, error, scale, minimum) = (next_quants, next_error, next_scale, next_minimum);
    }
    (quants, scale, minimum)
}

impl BlockFormat {
    /// Words of quants and of scales of a `rows` x `cols` matrix; `None` where they overflow or `cols` does not fit.
    pub fn n_words(self, rows: usize, cols: usize) -> Option<(usize, usize)> {
        let n = rows.checked_mul(cols)?;
        match self {
            Self::F32 => Some((n, 0)),
            _ if !cols.is_multiple_of(BLOCK) => None,
            Self::Q8 => Some((n / 4, (n / BLOCK).div_ceil(2))),
            Self::Q4 => Some((n / 8, n / BLOCK)),
        }
    }

    /// Bytes of a `rows` x `cols` matrix; `None` as in [`Self::n_words`].
    pub fn n_bytes(self, rows: usize, cols: usize) -> Option<u64> {
        let (quants, scales) = self.n_words(rows, cols)?;
        (quants as u64).checked_add(scales as u64)?.checked_mul(4)
    }
}

impl Matrix {
    /// Packs a matrix `[rows, cols]`, or a vector `[cols]` as one row.
    ///
    /// # Errors
    /// Another number of dimensions; columns that are no multiple of 32 (Q8, Q4); a value that is not finite
    /// or beyond f16's reach (scale above 65,504; Q4: magnitude above 65,504).
    pub fn from_dense(tensor: &DenseTensor, format: BlockFormat) -> Result<Self, QuantError> {
        let (rows, cols) = match tensor.shape[..] {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => return Err(QuantError::Shape { shape: tensor.shape.clone() }),
        };
        let Some((n_quants, n_scales)) = format.n_words(rows, cols) else {
            return Err(QuantError::Columns { format, cols });
        };
        let limit = match format {
            BlockFormat::F32 => f32::MAX,
            BlockFormat::Q8 => 127.0 * 65_504.0,
            BlockFormat::Q4 => 65_504.0,
        };
        if let Some(i) = tensor.data.iter().position(|x| !(x.abs() <= limit)) {
            return Err(QuantError::Value { format, row: i / cols, col: i % cols, value: tensor.data[i] });
        }
        let mut matrix = Self { rows, cols, format, quants: vec![0; n_quants], scales: vec![0; n_scales] };
        match format {
            BlockFormat::F32 => matrix.quants = tensor.data.iter().map(|x| x.to_bits()).collect(),
            BlockFormat::Q8 => {
                for (b, block) in tensor.data.chunks_exact(BLOCK).enumerate() {
                    let (quants, scale) = pack_q8(block);
                    for (i, q) in quants.into_iter().enumerate() {
                        matrix.quants[b * 8 + i / 4] |= u32::from(q as u8) << (8 * (i % 4));
                    }
                    matrix.scales[b / 2] |= u32::from(scale) << (16 * (b % 2));
                }
            }
            BlockFormat::Q4 => {
                for (b, block) in tensor.data.chunks_exact(BLOCK).enumerate() {
                    let (quants, scale, minimum) = pack_q4(block);
                    for (i, q) in quants.into_iter().enumerate() {
                        matrix.quants[b * 4 + i / 8] |= u32::from(q) << (4 * (i % 8));
                    }
                    matrix.scales[b] = u32::from(scale) | u32::from(minimum) << 16;
                }
            }
        }
        Ok(matrix)
    }

    /// Puts the rows of `below` under those that are there.
    ///
    /// # Panics
    /// If columns or formats differ, or there is an odd number of blocks in Q8, whose scales do not fill their words.
    pub fn append(&mut self, below: Self) {
        assert!((self.cols, self.format) == (below.cols, below.format), "matrices of one kind");
        let n_blocks = self.rows * self.cols / BLOCK;
        assert!(self.format != BlockFormat::Q8 || n_blocks.is_multiple_of(2), "{n_blocks} blocks do not fill words");
        self.rows += below.rows;
        self.quants.extend(below.quants);
        self.scales.extend(below.scales);
    }

    /// Values of row `row` into `out`, `[cols]`.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `cols` long.
    pub fn row_into(&self, row: usize, out: &mut [f32]) {
        assert!(
            row < self.rows && out.len() == self.cols,
            "row {row} of {}, out {} of {}",
            self.rows,
            out.len(),
            self.cols
        );
        let first = row * self.cols;
        match self.format {
            BlockFormat::F32 => {
                for (x, bits) in out.iter_mut().zip(&self.quants[first..]) {
                    *x = f32::from_bits(*bits);
                }
            }
            BlockFormat::Q8 => {
                for (k, block) in out.chunks_exact_mut(BLOCK).enumerate() {
                    let b = first / BLOCK + k;
                    let scale = f32_from_f16((self.scales[b / 2] >> (16 * (b % 2))) as u16);
                    for (i, x) in block.iter_mut().enumerate() {
                        *x = f32::from((self.quants[b * 8 + i / 4] >> (8 * (i % 4))) as u8 as i8) * scale;
                    }
                }
            }
            BlockFormat::Q4 => {
                for (k, block) in out.chunks_exact_mut(BLOCK).enumerate() {
                    let b = first / BLOCK + k;
                    let scale = f32_from_f16(self.scales[b] as u16);
                    let minimum = f32_from_f16((self.scales[b] >> 16) as u16);
                    for (i, x) in block.iter_mut().enumerate() {
                        *x = ((self.quants[b * 4 + i / 8] >> (4 * (i % 8))) & 15) as f32 * scale + minimum;
                    }
                }
            }
        }
    }

    /// All values as `[rows, cols]`.
    pub fn to_dense(&self) -> DenseTensor {
        let mut data = vec![0.0; self.rows * self.cols];
        if self.cols > 0 {
            for (row, out) in data.chunks_exact_mut(self.cols).enumerate() {
                self.row_into(row, out);
            }
        }
        DenseTensor::new(vec![self.rows, self.cols], data)
    }

    /// Quants, then scales, as little-endian words.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.quants.iter().chain(&self.scales).flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Reads [`Self::to_bytes`].
    ///
    /// # Errors
    /// If the bytes do not fill the matrix exactly, or columns do not fit the format.
    pub fn from_bytes(rows: usize, cols: usize, format: BlockFormat, bytes: &[u8]) -> Result<Self, QuantError> {
        let (Some((n_quants, _)), Some(want)) = (format.n_words(rows, cols), format.n_bytes(rows, cols)) else {
            return Err(QuantError::Columns { format, cols });
        };
        if bytes.len() as u64 != want {
            return Err(QuantError::Bytes { rows, cols, format, want, got: bytes.len() as u64 });
        }
        let mut words = bytes.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        let quants = words.by_ref().take(n_quants).collect();
        Ok(Self { rows, cols, format, quants, scales: words.collect() })
    }

    /// Whether every stored value is finite.
    pub fn is_finite(&self) -> bool {
        match self.format {
            BlockFormat::F32 => self.quants.iter().all(|&bits| f32::from_bits(bits).is_finite()),
            _ => self
                .scales
                .iter()
                .all(|&w| f32_from_f16(w as u16).is_finite() && f32_from_f16((w >> 16) as u16).is_finite()),
        }
    }
}

#[cfg(test)]
mod tests;
