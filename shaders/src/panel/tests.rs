use super::*;

/// Words that all differ.
fn matrix(format: WeightFormat, rows: usize, cols: usize) -> (Vec<u32>, Vec<u32>) {
    let (n_quants, n_scales) = format.words(rows * cols);
    let quants = (0..n_quants as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
    // halves between 0.25 and 0.5, negative ones among them
    let scales = (0..n_scales as u32).map(|i| 0x3400_b400 + (i % 500) * 0x0002_0001).collect();
    (quants, scales)
}

#[test]
fn rows_decode_to_the_bits_they_had() {
    for format in [WeightFormat::Q4, WeightFormat::Q8] {
        for (rows, cols) in [(1, 32), (16, 64), (17, 96), (47, 160)] {
            let (quants, scales) = matrix(format, rows, cols);
            let view = WeightView { format, rows, cols, quants: &quants, scales: &scales };
            let panels = Panels::pack(&view);
            assert_eq!(panels.row_major(), kept(format, rows * cols, quants.clone(), scales.clone()));
            assert_eq!((panels.rows(), panels.cols(), panels.n_panels()), (rows, cols, rows.div_ceil(16)));
            let (mut got, mut want) = (vec![0.0; cols], vec![0.0; cols]);
            for row in 0..rows {
                panels.decode_row(row, &mut got);
                view.decode_row(row, &mut want);
                assert_eq!(got, want, "{format:?} {rows} x {cols}, row {row}");
            }
        }
    }
}

/// The words, without the half of the last scale that belongs to no block.
fn kept(format: WeightFormat, n_values: usize, quants: Vec<u32>, mut scales: Vec<u32>) -> (Vec<u32>, Vec<u32>) {
    if format == WeightFormat::Q8
        && (n_values / BLOCK) % 2 == 1
        && let Some(last) = scales.last_mut()
    {
        *last &= 0xffff;
    }
    (quants, scales)
}

#[test]
fn the_blocks_take_no_more_room_than_before() {
    let (quants, scales) = matrix(WeightFormat::Q4, 32, 64);
    let view = WeightView { format: WeightFormat::Q4, rows: 32, cols: 64, quants: &quants, scales: &scales };
    assert_eq!(Panels::pack(&view).n_bytes(), 4 * (quants.len() + scales.len()));
}

#[test]
#[should_panic(expected = "no panels")]
fn a_plain_matrix_is_refused() {
    Panels::pack(&WeightView::from_f32(1, 32, &[0.0; 32]));
}
