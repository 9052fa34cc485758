//! The reference of the integer product, one value at a time; also the path of a processor without vectors.

use super::rows::Int8Rows;
use crate::panel::{OUTPUTS, Panels};
use crate::weight::{BLOCK, WeightFormat, f32_from_f16};
use std::ops::Range;

/// As [`super::matmul_int8`]; rows in bytes.
pub(super) fn matmul(panels: &Panels, range: Range<usize>, rows: &Int8Rows, out: &mut [f32]) {
    let lines = panels.lines_of_block();
    let of_panel = out.chunks_exact_mut(rows.n_rows().max(1) * OUTPUTS);
    for (panel, out) in panels.panels(range).zip(of_panel) {
        let mut out = out.iter_mut();
        for tile in rows.tiles() {
            for row in 0..tile.n_rows {
                for output in 0..OUTPUTS {
                    let mut total = 0.0f32;
                    for block in 0..panels.cols() / BLOCK {
                        let words = panel.quants[block * lines..(block + 1) * lines].iter().map(|l| l.0[output]);
                        let bytes = (0..BLOCK / 4).map(|i| tile.words[(block * BLOCK / 4 + i) * tile.n_rows + row]);
                        let at = block * tile.n_rows + row;
                        if panels.format() == WeightFormat::Q4 {
                            let halves = panel.scales[block].0[output];
                            let (scale, min) = (f32_from_f16(halves as u16), f32_from_f16((halves >> 16) as u16));
                            let sum = dot_q4(words, bytes);
                            total += sum as f32 * scale * tile.scales[at] + min * tile.scaled_sums[at];
                        } else {
                            let halves = panel.scales[block / 2].0[output];
                            let scale = f32_from_f16((halves >> (16 * (block % 2))) as u16);
                            total += dot_q8(words, bytes) as f32 * scale * tile.scales[at];
                        }
                    }
                    if let Some(out) = out.next() {
                        *out = total;
                    }
                }
            }
        }
    }
}

/// Sum of nibble times byte: the low nibbles of a word meet one word of bytes, the high ones the next.
fn dot_q4(words: impl Iterator<Item = u32>, mut bytes: impl Iterator<Item = u32>) -> i32 {
    let mut sum = 0;
    for word in words {
        for nibbles in [word & 0x0f0f_0f0f, (word >> 4) & 0x0f0f_0f0f] {
            sum += dot_q8(std::iter::once(nibbles), bytes.by_ref());
        }
    }
    sum
}

/// Sum of signed byte times signed byte.
fn dot_q8(words: impl Iterator<Item = u32>, bytes: impl Iterator<Item = u32>) -> i32 {
    let of_word = |(a, b): (u32, u32)| -> i32 {
        let product = |(a, b): (u8, u8)| i32::from(a as i8) * i32::from(b as i8);
        a.to_le_bytes().into_iter().zip(b.to_le_bytes()).map(product).sum()
    };
    words.zip(bytes).map(of_word).sum()
}
