//! Weight matrices as the WGSL kernels read them; twin of `kernels/dequantize.wgsl`.
//!
//! Outputs lie in tiles of 32. A tile holds its blocks of 32 inputs one after the other, and a block a word
//! of each of the 32 outputs before the next word: invocations side by side, one an output, then read words
//! side by side. Scales are a word a block in the same order, f16 scale in the low half, f16 minimum in the
//! high half, also for Q8, whose minimum is 0.
//!
//! | format | words of a block | values of a word |
//! | --- | --- | --- |
//! | F32 | 32 | the bits of one |
//! | Q8 | 8 | 4 signed bytes, least significant first |
//! | Q4 | 4 | 8 nibbles, least significant first |

use crate::weight::{BLOCK, WeightFormat, WeightView};

/// Outputs that lie interleaved.
pub const TILE: usize = 32;

/// One or more matrices with the same inputs, on top of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedWeight {
    /// How it is stored.
    pub format: WeightFormat,
    /// Outputs, without those that fill the last tile.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// `[ceil(rows / 32), cols / 32, words of a block, 32]`.
    pub quants: Vec<u32>,
    /// `[ceil(rows / 32), cols / 32, 32]`; empty for F32.
    pub scales: Vec<u32>,
}

impl PackedWeight {
    /// Packs `parts` in order. Parts of different formats take the wider one, which holds the narrower
    /// one's values exactly.
    ///
    /// # Panics
    /// If there is no part, a part is not whole, or the parts have different numbers of inputs.
    pub fn stacked(parts: &[WeightView]) -> Self {
        let (first, cols) = (parts[0].format, parts[0].cols);
        let format = parts.iter().map(|part| part.format).fold(first, wider);
        let rows = parts.iter().map(|part| part.rows).sum::<usize>();
        let n_blocks = rows.div_ceil(TILE) * (cols / BLOCK);
        let n_words = words_of_block(format);
        let n_scales = if format == WeightFormat::F32 { 0 } else { n_blocks * TILE };
        let mut packed =
            Self { format, rows, cols, quants: vec![0; n_blocks * n_words * TILE], scales: vec![0; n_scales] };
        let mut row = 0;
        for part in parts {
            part.assert_whole();
            assert_eq!(part.cols, cols, "inputs of stacked weights");
            for part_row in 0..part.rows {
                packed.put(row, part, part_row);
                row += 1;
            }
        }
        packed
    }

    fn put(&mut self, row: usize, part: &WeightView, part_row: usize) {
        let (blocks, column) = (self.cols / BLOCK, row % TILE);
        let mut plain = Vec::new();
        if self.format == WeightFormat::F32 {
            plain.resize(self.cols, 0.0);
            part.decode_row(part_row, &mut plain);
        }
        for idx in 0..blocks {
            let to = row / TILE * blocks + idx;
            let from = part_row * blocks + idx;
            let mut store = |words: &[u32]| {
                for (i, word) in words.iter().enumerate() {
                    self.quants[(to * words.len() + i) * TILE + column] = *word;
                }
            };
            match (self.format, part.format) {
                (WeightFormat::F32, _) => store(bytemuck::cast_slice(&plain[idx * BLOCK..(idx + 1) * BLOCK])),
                (WeightFormat::Q8, WeightFormat::Q4) => store(&bytes_of_nibbles(&part.quants[from * 4..from * 4 + 4])),
                _ => {
                    let n_words = words_of_block(self.format);
                    store(&part.quants[from * n_words..(from + 1) * n_words]);
                }
            }
            if let Some(scale) = scale_word(part, from)
                && let Some(to) = self.scales.get_mut(to * TILE + column)
            {
                *to = scale;
            }
        }
    }
}

/// Words that a block of one output takes.
fn words_of_block(format: WeightFormat) -> usize {
    format.words(BLOCK).0
}

/// The format that holds the values of both; bytes hold nibbles, because both have a minimum here.
fn wider(a: WeightFormat, b: WeightFormat) -> WeightFormat {
    use WeightFormat::{F32, Q4, Q8};
    match (a, b) {
        (F32, _) | (_, F32) => F32,
        (Q8, _) | (_, Q8) => Q8,
        (Q4, Q4) => Q4,
    }
}

/// Scale and minimum of a block of a row-major matrix.
fn scale_word(part: &WeightView, block: usize) -> Option<u32> {
    match part.format {
        WeightFormat::F32 => None,
        WeightFormat::Q8 => Some(part.scales[block / 2] >> (block % 2 * 16) & 0xffff),
        WeightFormat::Q4 => Some(part.scales[block]),
    }
}

/// The 32 nibbles of four words as 32 bytes in eight.
fn bytes_of_nibbles(words: &[u32]) -> [u32; 8] {
    std::array::from_fn(|i| {
        let half = words[i / 2] >> (i % 2 * 16);
        (half & 15) | (half & 0xf0) << 4 | (half & 0xf00) << 8 | (half & 0xf000) << 12
    })
}

#[cfg(test)]
mod tests;
