//! How GGUF stores tensors, and repacking between its blocks and ours without loss.
//!
//! | GGUF | bytes of a block of 32 (Q6_K: 256) | ours |
//! | --- | --- | --- |
//! | Q4_0 | f16 d, 16 bytes: value i in a low, i + 16 in a high nibble; d · (q - 8) | Q4 with minimum -8 · d |
//! | Q4_1 | f16 d, f16 m, nibbles as in Q4_0; d · q + m | Q4 |
//! | Q8_0 | f16 d, 32 signed bytes; d · q | Q8 |
//! | Q6_K | 128 bytes low nibbles, 64 bytes upper pairs of bits, 16 signed scales, f16 d; d · scale · (q - 32) | F32 |
//! | F32, F16, BF16 | plain (no blocks) | F32 |
//!
//! Q4_0 stays exact: -8 · d is a half again (three steps of the exponent) unless |d| > 8,188, which no real
//! model has and which is refused; d · q - 8 · d, computed in f32, is d · (q - 8) to the bit, because both
//! products and their difference fit 24 bits. Q6_K is exact in f32: 11 bits of d, 7 of a scale and 5 of a value make 23
//! (-128 and -32 are powers of two). Written files hold Q4 as Q4_1, Q8 as Q8_0, F32 as F32.
//! Source: the block structures of ggml.

use super::GgufError;
use crate::quant::{BLOCK, BlockFormat, Matrix, f16_from_f32, f32_from_f16};

/// How a tensor of a file is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, missing_docs)] // ggml's own names
pub enum TensorKind {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q8_0,
    Q6_K,
}

/// Values of a Q6_K block: 16 scales for 16 values each.
const SUPER_BLOCK: usize = 256;

/// ggml's names of types by number, for messages; gaps are types that it removed.
const NAMES: [&str; 35] = [
    "F32", "F16", "Q4_0", "Q4_1", "Q4_2", "Q4_3", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K",
    "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32",
    "I64", "F64", "IQ1_M", "BF16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0",
];

impl TensorKind {
    /// The kind with this number; `None` for one that Beckon does not read.
    pub fn from_id(id: u32) -> Option<Self> {
        match id {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            2 => Some(Self::Q4_0),
            3 => Some(Self::Q4_1),
            8 => Some(Self::Q8_0),
            14 => Some(Self::Q6_K),
            30 => Some(Self::BF16),
            _ => None,
        }
    }

    /// Number of the kind in a file.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q8_0 => 8,
            Self::Q6_K => 14,
            Self::BF16 => 30,
        }
    }

    /// ggml's name of a type, `unknown` beyond those of its table.
    pub fn name_of_id(id: u32) -> &'static str {
        usize::try_from(id).ok().and_then(|id| NAMES.get(id)).copied().unwrap_or("unknown")
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        Self::name_of_id(self.id())
    }

    /// Values of a block; 1 where there are no blocks.
    pub fn block_values(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q8_0 => BLOCK,
            Self::Q6_K => SUPER_BLOCK,
        }
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q8_0 => 34,
            Self::Q6_K => 210,
        }
    }

    /// Bytes of a tensor of this (row-major) shape; `None` where a row is not whole blocks or the size overflows.
    pub fn n_bytes(self, shape: &[usize]) -> Option<u64> {
        let cols = *shape.last()?;
        if !cols.is_multiple_of(self.block_values()) {
            return None;
        }
        let n_values = shape.iter().try_fold(1u64, |n, extent| n.checked_mul(*extent as u64))?;
        (n_values / self.block_values() as u64).checked_mul(self.block_bytes() as u64)
    }

    /// The format that holds this kind's values exactly.
    pub fn exact_format(self) -> BlockFormat {
        match self {
            Self::F32 | Self::F16 | Self::BF16 | Self::Q6_K => BlockFormat::F32,
            Self::Q4_0 | Self::Q4_1 => BlockFormat::Q4,
            Self::Q8_0 => BlockFormat::Q8,
        }
    }
}

/// A matrix `[rows, cols]` from the bytes of a tensor, with the same values. Row `row` of the result is row
/// `source_row(row)` of the file; `name` is for errors.
///
/// # Errors
/// [`GgufError::TensorBytes`] for bytes that do not fill the matrix, [`GgufError::Block`] for a scale that is not
/// finite, or is too large for Q4.
///
/// # Panics
/// If `source_row` leaves the matrix.
pub fn matrix_from_bytes(
    name: &str,
    kind: TensorKind,
    (rows, cols): (usize, usize),
    bytes: &[u8],
    source_row: &dyn Fn(usize) -> usize,
) -> Result<Matrix, GgufError> {
    let want = kind.n_bytes(&[rows, cols]).unwrap_or(u64::MAX);
    if want != bytes.len() as u64 {
        return Err(GgufError::TensorBytes { name: name.to_owned(), want, got: bytes.len() as u64 });
    }
    let format = kind.exact_format();
    let row_bytes = cols / kind.block_values() * kind.block_bytes();
    let (n_quants, n_scales) = format.n_words(rows, cols).unwrap_or_default();
    let mut matrix =
        Matrix { rows, cols, format, quants: Vec::with_capacity(n_quants), scales: Vec::with_capacity(n_scales) };
    let mut halves = Vec::new(); // scales of Q8, two a word at the end
    for row in 0..rows {
        let from = source_row(row) * row_bytes;
        let row_of_file = &bytes[from..from + row_bytes];
        for (i, block) in row_of_file.chunks_exact(kind.block_bytes()).enumerate() {
            let finite = match kind {
                TensorKind::F32 => {
                    push_value(&mut matrix.quants, f32::from_le_bytes([block[0], block[1], block[2], block[3]]))
                }
                TensorKind::F16 => push_value(&mut matrix.quants, f32_from_f16(half(block))),
                TensorKind::BF16 => push_value(&mut matrix.quants, f32::from_bits(u32::from(half(block)) << 16)),
                TensorKind::Q4_0 => {
                    push_nibbles(&block[2..], &mut matrix.quants);
                    let minimum = f16_from_f32(-8.0 * f32_from_f16(half(block)));
                    push_halves(&mut matrix.scales, half(block), minimum)
                }
                TensorKind::Q4_1 => {
                    push_nibbles(&block[4..], &mut matrix.quants);
                    push_halves(&mut matrix.scales, half(block), half(&block[2..]))
                }
                TensorKind::Q8_0 => {
                    let words = block[2..].as_chunks::<4>().0;
                    matrix.quants.extend(words.iter().map(|word| u32::from_le_bytes(*word)));
                    halves.push(half(block));
                    f32_from_f16(half(block)).is_finite()
                }
                TensorKind::Q6_K => push_six_bits(block, &mut matrix.quants),
            };
            if !finite {
                let block_idx = from / kind.block_bytes() + i;
                return Err(not_finite(name, kind, block_idx, half(block)));
            }
        }
    }
    if kind == TensorKind::Q8_0 {
        matrix.scales =
            halves.chunks(2).map(|pair| u32::from(pair[0]) | pair.get(1).map_or(0, |h| u32::from(*h) << 16)).collect();
    }
    Ok(matrix)
}

fn half(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

/// Whether the value is finite.
fn push_value(quants: &mut Vec<u32>, value: f32) -> bool {
    quants.push(value.to_bits());
    value.is_finite()
}

/// Whether both halves are finite.
fn push_halves(scales: &mut Vec<u32>, low: u16, high: u16) -> bool {
    scales.push(u32::from(low) | u32::from(high) << 16);
    f32_from_f16(low).is_finite() && f32_from_f16(high).is_finite()
}

fn not_finite(name: &str, kind: TensorKind, block_idx: usize, scale: u16) -> GgufError {
    let scale = f32_from_f16(scale);
    let reason = if kind == TensorKind::Q4_0 && scale.is_finite() {
        format!("scale {scale} is beyond 8,188, so that its minimum -8 · scale is no half")
    } else {
        "a value is not finite: the file is damaged".to_owned()
    };
    GgufError::Block { name: name.to_owned(), block_idx, reason }
}

/// 16 bytes of a block, where value i is the low nibble of byte i and value i + 16 its high one, into four words of
/// eight values in order.
fn push_nibbles(bytes: &[u8], quants: &mut Vec<u32>) {
    for shift in [0, 4] {
        for eight in bytes.as_chunks::<8>().0 {
            let word = eight.iter().rev().fold(0u32, |word, byte| word << 4 | u32::from(byte >> shift & 15));
            quants.push(word);
        }
    }
}

/// The 256 values of a block of 210 bytes; whether they are finite. Each half of them is four runs of 32: the first two
/// runs are the low nibbles of 64 bytes, the next two the high ones; run k has bits 2 k and 2 k + 1 of 32 further bytes.
fn push_six_bits(block: &[u8], quants: &mut Vec<u32>) -> bool {
    let d = f32_from_f16(half(&block[208..]));
    for i in 0..SUPER_BLOCK {
        let low = (block[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4)) & 15;
        let high = (block[128 + i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2)) & 3;
        let scale = d * f32::from(block[192 + i / 16] as i8);
        quants.push((scale * (f32::from(low | (high << 4)) - 32.0)).to_bits());
    }
    d.is_finite()
}

/// A matrix as the bytes of a tensor with the same values. Row `row` of the file is row `source_row(row)` of
/// `matrix`.
///
/// # Panics
/// If `source_row` leaves the matrix, or the matrix does not hold what its shape says.
pub fn bytes_from_matrix(matrix: &Matrix, source_row: &dyn Fn(usize) -> usize) -> (TensorKind, Vec<u8>) {
    let kind = match matrix.format {
        BlockFormat::F32 => TensorKind::F32,
        BlockFormat::Q8 => TensorKind::Q8_0,
        BlockFormat::Q4 => TensorKind::Q4_1,
    };
    let blocks_of_row = matrix.cols / kind.block_values();
    let mut bytes = Vec::with_capacity(matrix.rows * blocks_of_row * kind.block_bytes());
    for row in 0..matrix.rows {
        let first = source_row(row) * blocks_of_row;
        for b in first..first + blocks_of_row {
            match kind {
                TensorKind::Q8_0 => {
                    bytes.extend(((matrix.scales[b / 2] >> (16 * (b % 2))) as u16).to_le_bytes());
                    bytes.extend(matrix.quants[b * 8..][..8].iter().flat_map(|word| word.to_le_bytes()));
                }
                TensorKind::Q4_1 => {
                    bytes.extend(matrix.scales[b].to_le_bytes());
                    let words = &matrix.quants[b * 4..][..4];
                    let nibble = |i: usize| (words[i / 8] >> (4 * (i % 8)) & 15) as u8;
                    bytes.extend((0..16).map(|i| nibble(i) | nibble(i + 16) << 4));
                }
                _ => bytes.extend(matrix.quants[b].to_le_bytes()),
            }
        }
    }
    (kind, bytes)
}
