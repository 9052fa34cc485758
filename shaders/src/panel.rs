//! Quantized matrices laid out for the CPU's integer kernels: 16 outputs side by side.
//!
//! In the loop: the CPU executor packs a checkpoint's 4- and 8-bit matrices into [`Panels`] once, when the
//! network is loaded. A panel holds 16 outputs (rows of the matrix); the words of [`WeightView`] that they
//! have at the same place stand in one cache line, so a register of any width holds one word each of
//! neighbouring outputs and no sum goes across a register. The words are unchanged, only their order is:
//!
//! | format | quants, a line each | scales, a line each |
//! | --- | --- | --- |
//! | Q8 | panel, block, 4 inputs | panel, two blocks: scale of the even one in the low half |
//! | Q4 | panel, block, 8 inputs | panel, block: scale (low half), minimum (high half) |
//!
//! Outputs beyond the matrix, up to a whole panel, are zero.

use crate::weight::{BLOCK, WeightFormat, WeightView, f32_from_f16};
use bytemuck::{Pod, Zeroable};
use std::ops::Range;

/// Outputs of a panel.
pub const OUTPUTS: usize = 16;

/// One word of each of a panel's outputs.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Line(pub [u32; OUTPUTS]);

/// A Q4 or Q8 matrix `[rows, cols]` in panels.
#[derive(Debug, Clone, PartialEq)]
pub struct Panels {
    format: WeightFormat,
    rows: usize,
    cols: usize,
    quants: Vec<Line>,
    scales: Vec<Line>,
}

/// The lines of one panel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel<'a> {
    /// `[C / 32, lines of a block]`.
    pub quants: &'a [Line],
    /// Q4: `[C / 32]`; Q8: `[C / 64, rounded up]`.
    pub scales: &'a [Line],
}

impl Panels {
    /// The same values in the order of panels.
    ///
    /// # Panics
    /// If the matrix is plain f32, or as [`WeightView::assert_whole`].
    pub fn pack(w: &WeightView) -> Self {
        w.assert_whole();
        let mut panels = Self { format: w.format, rows: w.rows, cols: w.cols, quants: Vec::new(), scales: Vec::new() };
        let (n_panels, n_blocks) = (panels.n_panels(), w.cols / BLOCK);
        let (n_quants, n_scales) = (panels.lines_of_block() * n_blocks, panels.scale_lines());
        panels.quants = vec![Line::zeroed(); n_panels * n_quants];
        panels.scales = vec![Line::zeroed(); n_panels * n_scales];
        for row in 0..w.rows {
            let (panel, output) = (row / OUTPUTS, row % OUTPUTS);
            let words = &w.quants[row * n_quants..(row + 1) * n_quants];
            for (line, word) in panels.quants[panel * n_quants..].iter_mut().zip(words) {
                line.0[output] = *word;
            }
            let lines = &mut panels.scales[panel * n_scales..(panel + 1) * n_scales];
            for block in 0..n_blocks {
                let from = row * n_blocks + block;
                match w.format {
                    WeightFormat::Q4 => lines[block].0[output] = w.scales[from],
                    _ => {
                        let half = w.scales[from / 2] >> (16 * (from % 2)) & 0xffff;
                        lines[block / 2].0[output] |= half << (16 * (block % 2));
                    }
                }
            }
        }
        panels
    }

    /// Quants and scales in the order that [`Panels::pack`] was given, word for word.
    #[cold]
    pub fn row_major(&self) -> (Vec<u32>, Vec<u32>) {
        let n_blocks = self.cols / BLOCK;
        let (n_quants, n_scales) = (self.lines_of_block() * n_blocks, self.scale_lines());
        let mut quants = Vec::with_capacity(self.rows * n_quants);
        let mut scales = vec![0; self.format.words(self.rows * self.cols).1];
        // scales of a word: a block's scale and minimum, or the scales of two blocks
        let (of_word, bits) = if self.format == WeightFormat::Q4 { (1, u32::MAX) } else { (2, 0xffff) };
        for row in 0..self.rows {
            let (panel, output) = (row / OUTPUTS, row % OUTPUTS);
            quants.extend(self.quants[panel * n_quants..][..n_quants].iter().map(|line| line.0[output]));
            for block in 0..n_blocks {
                let (line, to) = (panel * n_scales + block / of_word, row * n_blocks + block);
                let scale = self.scales[line].0[output] >> (16 * (block % of_word)) & bits;
                scales[to / of_word] |= scale << (16 * (to % of_word));
            }
        }
        (quants, scales)
    }

    /// How it is stored: Q4 or Q8.
    pub fn format(&self) -> WeightFormat {
        self.format
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Panels that the outputs fill, the last one perhaps in part.
    pub fn n_panels(&self) -> usize {
        self.rows.div_ceil(OUTPUTS)
    }

    /// Bytes of the lines.
    pub fn n_bytes(&self) -> usize {
        size_of_val(&self.quants[..]) + size_of_val(&self.scales[..])
    }

    /// Lines of quants that a block takes.
    ///
    /// # Panics
    /// If the matrix is plain f32.
    pub(crate) fn lines_of_block(&self) -> usize {
        match self.format {
            WeightFormat::Q4 => BLOCK / 8,
            WeightFormat::Q8 => BLOCK / 4,
            WeightFormat::F32 => panic!("a plain matrix has no panels"),
        }
    }

    /// Lines of scales that a panel takes.
    fn scale_lines(&self) -> usize {
        let n_blocks = self.cols / BLOCK;
        if self.format == WeightFormat::Q4 { n_blocks } else { n_blocks.div_ceil(2) }
    }

    /// The lines of some panels, in order.
    pub(crate) fn panels(&self, range: Range<usize>) -> impl Iterator<Item = Panel<'_>> {
        let (n_quants, n_scales) = (self.lines_of_block() * (self.cols / BLOCK), self.scale_lines());
        let quants = self.quants[range.start * n_quants..range.end * n_quants].chunks_exact(n_quants);
        let scales = self.scales[range.start * n_scales..range.end * n_scales].chunks_exact(n_scales);
        quants.zip(scales).map(|(quants, scales)| Panel { quants, scales })
    }

    /// The lines of some panels, quants and scales, each panel's together.
    #[cfg(any(test, all(target_arch = "wasm32", target_feature = "simd128")))]
    pub(crate) fn lines(&self, range: Range<usize>) -> (&[Line], &[Line]) {
        let (n_quants, n_scales) = (self.lines_of_block() * (self.cols / BLOCK), self.scale_lines());
        let of = |n: usize| range.start * n..range.end * n;
        (&self.quants[of(n_quants)], &self.scales[of(n_scales)])
    }

    /// Decodes one row into `out` (length `cols`), with the bits of [`WeightView::decode_row`].
    ///
    /// # Panics
    /// If `row` is out of range or `out` has another length.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(out.len(), self.cols, "decoded row");
        let (panel, output, lines) = (row / OUTPUTS, row % OUTPUTS, self.lines_of_block());
        let Some(panel) = self.panels(panel..panel + 1).next() else { return };
        for (block, out) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
            let words = panel.quants[block * lines..(block + 1) * lines].iter().map(|line| line.0[output]);
            if self.format == WeightFormat::Q4 {
                let halves = panel.scales[block].0[output];
                let (scale, min) = (f32_from_f16(halves as u16), f32_from_f16((halves >> 16) as u16));
                for (out, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                    *out = std::array::from_fn(|i| ((word >> (4 * i)) & 15) as f32 * scale + min);
                }
            } else {
                let scale = f32_from_f16((panel.scales[block / 2].0[output] >> (16 * (block % 2))) as u16);
                for (out, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                    *out = word.to_le_bytes().map(|byte| f32::from(byte as i8) * scale);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
