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
    /// Each word and value stands [`WIDE`] times, as a register holds it: no instruction has to spread it.
    is_wide: bool,
}

/// See [`Layout::is_wide`].
const WIDE: usize = 4;

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
    /// -128 times the sum of the bytes: what products are to begin at where codes of Q8 are taken without a sign, each 128 too large.
    biases: Vec<i32>,
}

/// One tile of at most [`TILE`] rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile<'a> {
    pub n_rows: usize,
    pub words: &'a [u32],
    pub scales: &'a [f32],
    pub scaled_sums: &'a [f32],
    pub biases: &'a [i32],
}

impl Int8Rows {
    /// Quantizes rows x `[R, C]` for a product by `int8` with a matrix in `format`; what was there goes.
    ///
    /// # Panics
    /// If rows are not whole blocks, or `x` is shorter than its shape.
    pub fn quantize(&mut self, int8: Int8, format: WeightFormat, (n_rows, cols): (usize, usize), x: &[f32]) {
        assert!(cols > 0 && cols.is_multiple_of(BLOCK), "rows of {cols} are not whole blocks");
        let layout = Layout::of(int8, format);
        let Layout { order, tile, is_wide, .. } = layout;
        let (n_blocks, n_words) = (cols / BLOCK, words_of_block(order));
        let n_values = n_rows * n_blocks * if is_wide { WIDE } else { 1 };
        (self.n_rows, self.cols, self.layout) = (n_rows, cols, Some(layout));
        self.words.resize(n_values * n_words, 0);
        self.scales.resize(n_values, 0.0);
        self.scaled_sums.resize(n_values, 0.0);
        self.biases.resize(n_values, 0);
        let halves = if format == WeightFormat::Q4 {
            const { &places(&[0, 4, 1, 5, 2, 6, 3, 7]) }
        } else {
            const { &places(&[0, 2, 1, 3]) }
        };
        for (row, x) in x[..n_rows * cols].chunks_exact(cols).enumerate() {
            let (first, in_tile) = (row - row % tile, row % tile);
            let of_tile = tile.min(n_rows - first);
            for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
                let Bytes { bytes, scale, sum } = quantize_block(x);
                let at = first * n_blocks + block * of_tile + in_tile;
                set(&mut self.scales, at, is_wide, scale);
                set(&mut self.scaled_sums, at, is_wide, scale * sum as f32);
                set(&mut self.biases, at, is_wide, -128 * sum);
                let at = (first * n_blocks + block * of_tile) * n_words + in_tile;
                let mut set_word = |i: usize, word: u32| set(&mut self.words, at + i * of_tile, is_wide, word);
                match (order, format) {
                    // the places are constants, so that none is looked up
                    (Order::Bytes, WeightFormat::Q4) => {
                        (0..8).for_each(|i| {
                            set_word(i, of_bytes(&bytes, const { &places(&[0, 2, 4, 6, 1, 3, 5, 7]) }, i))
                        });
                    }
                    (Order::Bytes, _) => {
                        (0..8).for_each(|i| set_word(i, of_bytes(&bytes, const { &places(&[0, 1, 2, 3]) }, i)));
                    }
                    (Order::Halves, _) => {
                        (0..16).for_each(|i| set_word(i, of_halves(&bytes, halves, i)));
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

    /// Where words, scales, and scaled sums (with Q8 the biases) begin; each tile's stand together, tile behind tile.
    #[cfg(any(test, all(target_arch = "wasm32", target_feature = "simd128")))]
    pub(super) fn places(&self) -> [&[u32]; 3] {
        let is_q8 = self.layout.is_some_and(|layout| layout.format == WeightFormat::Q8);
        let third = if is_q8 { bytemuck::cast_slice(&self.biases) } else { bytemuck::cast_slice(&self.scaled_sums) };
        [&self.words, bytemuck::cast_slice(&self.scales), third]
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
                biases: &self.biases[scales],
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
        let is_wide = matches!(int8.path(), KernelPath::Int8RelaxedSimd | KernelPath::Int8RelaxedDot);
        let has_few_registers = is_wide || int8.path() == KernelPath::Int8Simd128;
        Self { order, format, tile: if has_few_registers { 4 } else { TILE }, is_wide }
    }
}

fn words_of_block(order: Order) -> usize {
    match order {
        Order::Bytes => BLOCK / 4,
        Order::Halves => BLOCK / 2,
    }
}

/// For each place in a block's words, the input that stands there, given those of the first step. A word of Q4 holds nibbles 0
/// to 7: as bytes the even ones come together and then the odd ones, as halves each with the fourth after it. A word of Q8
/// holds bytes 0 to 3: as halves the even ones and then the odd ones.
const fn places(of_step: &[usize]) -> [usize; BLOCK] {
    let mut places = [0; BLOCK];
    let mut i = 0;
    while i < BLOCK {
        places[i] = of_step[i % of_step.len()] + i - i % of_step.len();
        i += 1;
    }
    places
}

/// Sets the value with number `at`, all its copies.
#[inline(always)]
fn set<T: Copy>(values: &mut [T], at: usize, is_wide: bool, value: T) {
    if is_wide {
        values.as_chunks_mut::<WIDE>().0[at] = [value; WIDE];
    } else {
        values[at] = value;
    }
}

/// Word i of the bytes at these places.
#[inline(always)]
fn of_bytes(bytes: &[i32; BLOCK], places: &[usize; BLOCK], i: usize) -> u32 {
    let byte = |of_word: usize| bytes[places[4 * i + of_word]] as u8;
    u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
}

/// Word i of the bytes at these places, each extended to a half.
#[inline(always)]
fn of_halves(bytes: &[i32; BLOCK], places: &[usize; BLOCK], i: usize) -> u32 {
    let half = |of_word: usize| u32::from(bytes[places[2 * i + of_word] % BLOCK] as u16);
    half(0) | half(1) << 16
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
