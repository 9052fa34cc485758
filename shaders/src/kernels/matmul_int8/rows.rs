//! Rows of activations in blocks of 32 signed bytes, in the order in which a path multiplies them.

use super::{Int8, KernelPath};
use crate::weight::{BLOCK, WeightFormat};

/// Rows that a weight is unpacked for at once, on the paths with many or wide registers.
pub const TILE: usize = 8;

/// How a path takes the bytes of a block, a word at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Four signed bytes a word, 8 words a block.
    Bytes,
    /// Two signed 16-bit halves a word, 16 words a block.
    Halves,
}

/// Where each byte of each row stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    order: Order,
    format: WeightFormat,
    /// Rows of a tile.
    tile: usize,
}

/// Rows `[R, C]` quantized by block: `x = scale · byte`, |error| <= scale / 2.
///
/// `scale = max|x| / 127`; bytes are rounded to nearest, ties to even. A block that holds a NaN or an infinity
/// has a NaN for its scale, so that every product with it is NaN. A block below 1e-30 counts as zero.
#[derive(Debug, Clone, Default)]
pub struct Int8Rows {
    n_rows: usize,
    cols: usize,
    layout: Option<Layout>,
    /// `[tiles, C / 32, words of a block, rows of the tile]`.
    words: Vec<u32>,
    /// `[tiles, C / 32, rows of the tile]`, as the next two.
    scales: Vec<f32>,
    /// Scale times the sum of the bytes.
    scaled_sums: Vec<f32>,
    /// The sum of the bytes.
    sums: Vec<i32>,
}

/// One tile of at most [`TILE`] rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile<'a> {
    pub n_rows: usize,
    pub words: &'a [u32],
    pub scales: &'a [f32],
    pub scaled_sums: &'a [f32],
    pub sums: &'a [i32],
}

impl Int8Rows {
    /// Quantizes rows x `[R, C]` for a product by `int8` with a matrix in `format`; what was there goes.
    ///
    /// # Panics
    /// If rows are not whole blocks, or `x` is shorter than its shape.
    pub fn quantize(&mut self, int8: Int8, format: WeightFormat, (n_rows, cols): (usize, usize), x: &[f32]) {
        assert!(cols > 0 && cols.is_multiple_of(BLOCK), "rows of {cols} are not whole blocks");
        let layout = Layout::of(int8, format);
        let (n_blocks, n_words, tile) = (cols / BLOCK, words_of_block(layout.order), layout.tile);
        (self.n_rows, self.cols, self.layout) = (n_rows, cols, Some(layout));
        self.words.resize(n_rows * n_blocks * n_words, 0);
        self.scales.resize(n_rows * n_blocks, 0.0);
        self.scaled_sums.resize(n_rows * n_blocks, 0.0);
        self.sums.resize(n_rows * n_blocks, 0);
        let places = places(layout.order, format);
        for (row, x) in x[..n_rows * cols].chunks_exact(cols).enumerate() {
            let (first, in_tile) = (row - row % tile, row % tile);
            let of_tile = tile.min(n_rows - first);
            for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
                let Bytes { bytes, scale, sum } = quantize_block(x);
                let at = first * n_blocks + block * of_tile + in_tile;
                (self.scales[at], self.scaled_sums[at], self.sums[at]) = (scale, scale * sum as f32, sum);
                let words = &mut self.words[(first * n_blocks + block * of_tile) * n_words..][..of_tile * n_words];
                let words = words[in_tile..].iter_mut().step_by(of_tile);
                match layout.order {
                    Order::Bytes => {
                        for (word, from) in words.zip(places.as_chunks::<4>().0) {
                            *word = u32::from_le_bytes(from.map(|i| bytes[usize::from(i) % BLOCK] as u8));
                        }
                    }
                    Order::Halves => {
                        for (word, [low, high]) in words.zip(places.as_chunks::<2>().0) {
                            let half = |i: u8| u32::from(bytes[usize::from(i) % BLOCK] as u16);
                            *word = half(*low) | half(*high) << 16;
                        }
                    }
                }
            }
        }
    }

    /// R.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// C.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether the words are in the order that a product by `int8` with a matrix in `format` takes.
    pub fn is_for(&self, int8: Int8, format: WeightFormat) -> bool {
        self.layout == Some(Layout::of(int8, format))
    }

    /// Where words, scales and scaled sums begin; each tile's stand together, tile behind tile.
    #[cfg(any(test, all(target_arch = "wasm32", target_feature = "simd128")))]
    pub(super) fn places(&self) -> [&[u32]; 3] {
        [&self.words, bytemuck::cast_slice(&self.scales), bytemuck::cast_slice(&self.scaled_sums)]
    }

    /// The rows tile by tile; every tile but the last is full.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Tile<'_>> {
        let n_blocks = self.cols / BLOCK;
        let (n_words, tile) = self.layout.map_or((0, TILE), |layout| (words_of_block(layout.order), layout.tile));
        (0..self.n_rows).step_by(tile).map(move |first| {
            let end = (first + tile).min(self.n_rows);
            let (words, scales) =
                (first * n_blocks * n_words..end * n_blocks * n_words, first * n_blocks..end * n_blocks);
            Tile {
                n_rows: end - first,
                words: &self.words[words],
                scales: &self.scales[scales.clone()],
                scaled_sums: &self.scaled_sums[scales.clone()],
                sums: &self.sums[scales],
            }
        })
    }
}

impl Layout {
    fn of(int8: Int8, format: WeightFormat) -> Self {
        let order = match (int8.path(), format) {
            (KernelPath::Int8Simd128, _) | (KernelPath::Int8RelaxedSimd, WeightFormat::Q8) => Order::Halves,
            _ => Order::Bytes,
        };
        let few = [KernelPath::Int8Simd128, KernelPath::Int8RelaxedSimd, KernelPath::Int8RelaxedDot];
        Self { order, format, tile: if few.contains(&int8.path()) { 4 } else { TILE } }
    }
}

fn words_of_block(order: Order) -> usize {
    match order {
        Order::Bytes => BLOCK / 4,
        Order::Halves => BLOCK / 2,
    }
}

/// For each place in a block's words, the input that stands there. A word of Q4 holds nibbles 0 to 7: as bytes
/// the even ones come together and then the odd ones, as halves each with the fourth after it. A word of Q8
/// holds bytes 0 to 3: as halves the even ones and then the odd ones.
fn places(order: Order, format: WeightFormat) -> [u8; BLOCK] {
    let of_step: &[u8] = match (order, format) {
        (Order::Bytes, WeightFormat::Q4) => &[0, 2, 4, 6, 1, 3, 5, 7],
        (Order::Halves, WeightFormat::Q4) => &[0, 4, 1, 5, 2, 6, 3, 7],
        (Order::Bytes, _) => &[0, 1, 2, 3],
        (Order::Halves, _) => &[0, 2, 1, 3],
    };
    let step = of_step.len();
    std::array::from_fn(|i| of_step[i % step] + (i - i % step) as u8)
}

/// A quantized block.
struct Bytes {
    bytes: [i32; BLOCK],
    scale: f32,
    sum: i32,
}

/// See [`Int8Rows`].
#[inline]
fn quantize_block(x: &[f32; BLOCK]) -> Bytes {
    // 1.5 · 2^23: adding it rounds to the nearest whole number, ties to even, and leaves it in the low bits
    const ROUND: f32 = 12_582_912.0;
    // the bits of magnitudes order as the magnitudes do, NaN above all
    let peak = x.iter().fold(0, |peak: u32, x| peak.max(x.to_bits() & 0x7fff_ffff));
    let peak = f32::from_bits(peak);
    if !(peak >= 1e-30 && peak.is_finite()) {
        let scale = if peak < 1e-30 { 0.0 } else { f32::NAN };
        return Bytes { bytes: [0; BLOCK], scale, sum: 0 };
    }
    let inverse = 127.0 / peak;
    let bytes = x.map(|x| ((x * inverse + ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32));
    Bytes { scale: peak / 127.0, sum: bytes.iter().sum(), bytes }
}
