//! Weight matrices in blocks of 32 values along a row, as the kernels read them.
//!
//! | format | quants, a u32 word | scales, a u32 word | value |
//! | --- | --- | --- | --- |
//! | F32 | the bits of one value | none | as it is |
//! | Q8 | 4 signed bytes, least significant first | 2 blocks' f16 scales, low half first | scale · byte |
//! | Q4 | 8 nibbles, least significant first | f16 scale (low), f16 minimum (high) of a block | scale · nibble + minimum |
//!
//! The matrix is row-major and blocks are counted through it, so a word of Q8 scales may belong to two
//! rows. Rows are whole blocks in every format. Twin of `kernels/dequantize.wgsl`.

#[cfg(target_endian = "big")]
compile_error!("words of a weight matrix are read as little-endian bytes");

/// Values a block.
pub const BLOCK: usize = 32;

/// How a matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightFormat {
    /// Plain f32.
    F32,
    /// Signed bytes with one f16 scale a block.
    Q8,
    /// Nibbles with an f16 scale and an f16 minimum a block.
    Q4,
}

impl WeightFormat {
    /// Every format.
    pub const ALL: [Self; 3] = [Self::F32, Self::Q8, Self::Q4];

    /// Value of the override `FORMAT` in `dequantize.wgsl`.
    pub fn wgsl_value(self) -> f64 {
        match self {
            Self::F32 => 0.0,
            Self::Q8 => 1.0,
            Self::Q4 => 2.0,
        }
    }

    /// Words of quants and of scales that `n_values` (whole blocks) take.
    pub fn words(self, n_values: usize) -> (usize, usize) {
        match self {
            Self::F32 => (n_values, 0),
            Self::Q8 => (n_values / 4, (n_values / BLOCK).div_ceil(2)),
            Self::Q4 => (n_values / 8, n_values / BLOCK),
        }
    }
}

/// A borrowed matrix `[rows, cols]`.
#[derive(Debug, Clone, Copy)]
pub struct WeightView<'a> {
    /// How it is stored.
    pub format: WeightFormat,
    /// Outputs.
    pub rows: usize,
    /// Inputs, a multiple of [`BLOCK`].
    pub cols: usize,
    /// Packed values.
    pub quants: &'a [u32],
    /// Packed scales.
    pub scales: &'a [u32],
}

impl<'a> WeightView<'a> {
    /// A plain matrix over f32 values.
    ///
    /// # Panics
    /// As [`WeightView::assert_whole`].
    pub fn from_f32(rows: usize, cols: usize, values: &'a [f32]) -> Self {
        let view = Self { format: WeightFormat::F32, rows, cols, quants: bytemuck::cast_slice(values), scales: &[] };
        view.assert_whole();
        view
    }

    /// # Panics
    /// If a row is not whole blocks, or the words do not fill the matrix.
    pub fn assert_whole(&self) {
        assert!(self.cols > 0 && self.cols.is_multiple_of(BLOCK), "weight rows of {} are not whole blocks", self.cols);
        let (quants, scales) = self.format.words(self.rows * self.cols);
        assert_eq!(self.quants.len(), quants, "words of quants in a {} x {} matrix", self.rows, self.cols);
        assert_eq!(self.scales.len(), scales, "words of scales in a {} x {} matrix", self.rows, self.cols);
    }

    /// Decodes one row into `out` (length `cols`).
    ///
    /// # Panics
    /// If `row` is out of range or `out` has another length.
    #[inline(always)] // so that it is compiled for its caller's processor
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "decoded row");
        let values = row * self.cols..(row + 1) * self.cols;
        let blocks = values.start / BLOCK..values.end / BLOCK;
        match self.format {
            WeightFormat::F32 => out.copy_from_slice(bytemuck::cast_slice(&self.quants[values])),
            WeightFormat::Q8 => {
                let bytes: &[i8] = bytemuck::cast_slice(&self.quants[values.start / 4..values.end / 4]);
                let scales: &[u16] = &bytemuck::cast_slice(self.scales)[blocks];
                let outs = out.as_chunks_mut::<BLOCK>().0;
                for ((bytes, scale), out) in bytes.as_chunks::<BLOCK>().0.iter().zip(scales).zip(outs) {
                    let scale = f32_from_f16(*scale);
                    *out = bytes.map(|byte| f32::from(byte) * scale);
                }
            }
            WeightFormat::Q4 => {
                let bytes: &[u8] = bytemuck::cast_slice(&self.quants[values.start / 8..values.end / 8]);
                decode_q4(bytes, &self.scales[blocks], out);
            }
        }
    }
}

/// Blocks of nibbles; apart into bytes first, a piece at a time, because LLVM vectorises the two steps
/// but not both as one.
#[inline(always)]
fn decode_q4(bytes: &[u8], scales: &[u32], out: &mut [f32]) {
    const PIECE: usize = 8 * BLOCK;
    let mut codes = [0u8; PIECE];
    let pieces = bytes.chunks(PIECE / 2).zip(scales.chunks(PIECE / BLOCK)).zip(out.chunks_mut(PIECE));
    for ((bytes, scales), out) in pieces {
        for (pair, byte) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
            *pair = [byte & 15, byte >> 4];
        }
        let outs = out.as_chunks_mut::<BLOCK>().0;
        for ((codes, word), out) in codes.as_chunks::<BLOCK>().0.iter().zip(scales).zip(outs) {
            let (scale, min) = (f32_from_f16(*word as u16), f32_from_f16((word >> 16) as u16));
            *out = codes.map(|code| f32::from(code) * scale + min);
        }
    }
}

/// The value of an IEEE 754 binary16, subnormals included; exact, without a branch.
#[inline]
pub fn f32_from_f16(half: u16) -> f32 {
    // the exponent's bias differs by 112; multiplying, rather than adding to the bits, carries subnormals over
    const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
    let sign = u32::from(half >> 15) << 31;
    let magnitude = u32::from(half & 0x7fff) << 13;
    let finite = (f32::from_bits(magnitude) * REBIAS).to_bits();
    let beyond = 0x7f80_0000 | magnitude; // infinity, NaN
    f32::from_bits(sign | if half & 0x7c00 == 0x7c00 { beyond } else { finite })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_decode_to_their_values() {
        for (half, value) in [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0x0400, 6.103_515_6e-5),
            (0x0001, 5.960_464_5e-8),
            (0x83ff, -6.097_555e-5),
            (0x7c00, f32::INFINITY),
        ] {
            assert_eq!(f32_from_f16(half), value, "{half:#06x}");
        }
        assert!(f32_from_f16(0x7e00).is_nan());
        assert!(f32_from_f16(0x8000).is_sign_negative());
    }

    #[test]
    fn a_word_of_q8_scales_may_belong_to_two_rows() {
        // two rows of one block: bytes 1 and -2, scales 0.5 and 2
        let quants: Vec<u32> = (0..16).map(|i| if i < 8 { 0x0101_0101 } else { 0xfefe_fefe }).collect();
        let scales = [0x4000_3800];
        let view = WeightView { format: WeightFormat::Q8, rows: 2, cols: 32, quants: &quants, scales: &scales };
        view.assert_whole();
        let mut row = [0.0; 32];
        view.decode_row(0, &mut row);
        assert_eq!(row, [0.5; 32]);
        view.decode_row(1, &mut row);
        assert_eq!(row, [-4.0; 32]);
    }

    #[test]
    fn nibbles_come_least_significant_first() {
        let quants = [0x7654_3210, 0xfedc_ba98, 0, 0];
        let scales = [0xbc00_4000]; // scale 2, minimum -1
        let view = WeightView { format: WeightFormat::Q4, rows: 1, cols: 32, quants: &quants, scales: &scales };
        let mut row = [0.0; 32];
        view.decode_row(0, &mut row);
        for (i, value) in row.iter().enumerate() {
            assert_eq!(*value, if i < 16 { 2.0 * i as f32 - 1.0 } else { -1.0 });
        }
    }
}
