use super::*;

/// The value at a place of a packed matrix, by the table in the module's header.
fn value(packed: &PackedWeight, row: usize, col: usize) -> f32 {
    let block = row / TILE * (packed.cols / BLOCK) + col / BLOCK;
    let (column, i) = (row % TILE, col % BLOCK);
    let word = |n_words: usize, w: usize| packed.quants[(block * n_words + w) * TILE + column];
    let scaled = |code: f32| {
        let scale = packed.scales[block * TILE + column];
        code * crate::f32_from_f16(scale as u16) + crate::f32_from_f16((scale >> 16) as u16)
    };
    match packed.format {
        WeightFormat::F32 => f32::from_bits(word(32, i)),
        WeightFormat::Q8 => scaled(f32::from((word(8, i / 4) >> (i % 4 * 8)) as u8 as i8)),
        WeightFormat::Q4 => scaled((word(4, i / 8) >> (i % 8 * 4) & 15) as f32),
    }
}

struct Plain {
    format: WeightFormat,
    rows: usize,
    quants: Vec<u32>,
    scales: Vec<u32>,
}

const COLS: usize = 96;

impl Plain {
    fn new(format: WeightFormat, rows: usize) -> Self {
        let (n_quants, n_scales) = format.words(rows * COLS);
        let word = |i: usize| (i as u32 + 7).wrapping_mul(0x9e37_79b9);
        let quants = (0..n_quants).map(|i| if format == WeightFormat::F32 { (i as f32).to_bits() } else { word(i) });
        // halves of 1, -2, 1/128 and so on in both places
        let scales = (0..n_scales).map(|i| [0xc000_3c00, 0x3c00_2000, 0x0200_c000][i % 3]);
        Self { format, rows, quants: quants.collect(), scales: scales.collect() }
    }

    fn view(&self) -> WeightView<'_> {
        WeightView { format: self.format, rows: self.rows, cols: COLS, quants: &self.quants, scales: &self.scales }
    }

    fn decoded(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * COLS];
        for (row, out) in values.chunks_exact_mut(COLS).enumerate() {
            self.view().decode_row(row, out);
        }
        values
    }
}

/// Packs matrices of these formats and rows; every value is where the table says, and the format as expected.
#[track_caller]
fn check(parts: &[(WeightFormat, usize)], want: WeightFormat) {
    let parts: Vec<Plain> = parts.iter().map(|(format, rows)| Plain::new(*format, *rows)).collect();
    let packed = PackedWeight::stacked(&parts.iter().map(Plain::view).collect::<Vec<_>>());
    assert_eq!((packed.format, packed.cols), (want, COLS));
    let values: Vec<f32> = parts.iter().flat_map(Plain::decoded).collect();
    assert_eq!(packed.rows * COLS, values.len());
    for (i, expected) in values.iter().enumerate() {
        assert_eq!(value(&packed, i / COLS, i % COLS), *expected, "row {}, column {}", i / COLS, i % COLS);
    }
    assert_eq!(packed.quants.len(), packed.rows.div_ceil(TILE) * TILE * want.words(COLS).0);
}

#[test]
fn each_format_keeps_its_values() {
    for format in WeightFormat::ALL {
        for rows in [1, 32, 33, 70] {
            check(&[(format, rows)], format);
        }
    }
}

#[test]
fn parts_of_different_formats_are_stacked_exactly() {
    use WeightFormat::{F32, Q4, Q8};
    check(&[(Q4, 5), (Q4, 40)], Q4);
    check(&[(Q4, 5), (Q8, 40)], Q8);
    check(&[(Q8, 33), (Q4, 3)], Q8);
    check(&[(Q4, 5), (F32, 4), (Q8, 3)], F32);
}
