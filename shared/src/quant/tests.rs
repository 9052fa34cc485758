use super::*;
use crate::metrics::assert_close;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

fn random(rows: usize, cols: usize, seed: u64) -> DenseTensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // sums of uniforms with a different centre and size per row
    let data = (0..rows * cols)
        .map(|i| {
            let size = 0.01 * (1 + i / cols) as f32;
            let noise: f32 = (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum();
            size * (noise + 0.3)
        })
        .collect();
    DenseTensor::new(vec![rows, cols], data)
}

#[test]
fn every_half_survives_the_way_through_f32() {
    for half in 0..=u16::MAX {
        let value = f32_from_f16(half);
        if value.is_nan() {
            assert!(f32_from_f16(f16_from_f32(value)).is_nan());
        } else {
            assert_eq!(f16_from_f32(value), half, "{value}");
        }
    }
}

#[test]
fn halves_by_hand() {
    for (value, half) in [
        (1.0, 0x3c00),
        (-2.0, 0xc000),
        (65_504.0, 0x7bff),
        (65_519.0, 0x7bff),
        (65_520.0, 0x7c00),
        (f32::MIN_POSITIVE, 0),
        (5.960_464_5e-8, 1),
        (6.103_515_6e-5, 0x0400),
        // 1 + 2^-11 is a tie and goes to the even 1; 1 + 3·2^-11 to 1 + 2^-9
        (1.0 + 1.0 / 2048.0, 0x3c00),
        (1.0 + 3.0 / 2048.0, 0x3c02),
        (f32::INFINITY, 0x7c00),
    ] {
        assert_eq!(f16_from_f32(value), half, "{value}");
    }
    assert!(f32_from_f16(f16_from_f32(f32::NAN)).is_nan());
}

#[test]
fn rounding_goes_to_the_nearest_half() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..20_000 {
        let value = f32::from_bits(rng.random::<u32>());
        if !(value.abs() <= 65_504.0) {
            continue;
        }
        let half = f16_from_f32(value);
        let error = (f32_from_f16(half) - value).abs();
        for other in [half.wrapping_sub(1), half.wrapping_add(1)] {
            let neighbour = f32_from_f16(other);
            assert!(
                !neighbour.is_finite() || error <= (neighbour - value).abs(),
                "{value} gave {}",
                f32_from_f16(half)
            );
        }
        let (low, high) = (f32_from_f16(f16_at_most(value)), f32_from_f16(f16_at_least(value.abs())));
        assert!(low <= value && high >= value.abs());
    }
}

#[test]
fn q8_error_is_at_most_half_a_step() {
    let dense = random(5, 96, 2);
    let back = Matrix::from_dense(&dense, BlockFormat::Q8).unwrap().to_dense();
    for (got, want) in back.data.chunks(BLOCK).zip(dense.data.chunks(BLOCK)) {
        let peak = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        // the scale is an f16: at most one part in 1,024 above peak / 127
        let half_step = peak / 127.0 * (1.0 + 1.0 / 1024.0) / 2.0 + 1e-7;
        for (g, w) in got.iter().zip(want) {
            assert_close("q8", *g, *w, f64::from(half_step));
        }
    }
}

#[test]
fn q4_error_is_at_most_that_of_half_a_step() {
    let dense = random(7, 64, 3);
    let back = Matrix::from_dense(&dense, BlockFormat::Q4).unwrap().to_dense();
    for (got, want) in back.data.chunks(BLOCK).zip(dense.data.chunks(BLOCK)) {
        let (low, high) = want.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        let step = (high - low) / 15.0 * 1.01;
        let rms = (got.iter().zip(want).map(|(g, w)| (g - w).powi(2)).sum::<f32>() / BLOCK as f32).sqrt();
        assert!(rms <= step / 2.0, "rms {rms}, step {step}");
        // uniform rounding gives step / sqrt(12); least squares must not be worse than a little above
        assert!(rms <= step * 0.35, "rms {rms}, step {step}");
    }
}

#[test]
fn words_by_hand() {
    let data: Vec<f32> = (0..64).map(|i| if i < 32 { i as f32 - 16.0 } else { 127.0 }).collect();
    let q8 = Matrix::from_dense(&DenseTensor::new(vec![2, 32], data), BlockFormat::Q8).unwrap();
    assert_eq!((q8.quants.len(), q8.scales.len()), (16, 1));
    // row 0: peak 16, so -16 becomes -127; row 1: 127 · 1.0, scale in the high half
    assert_eq!(q8.quants[0] as u8 as i8, -127);
    assert_eq!(q8.quants[8], 0x7f7f_7f7f);
    assert_eq!(q8.scales[0] >> 16, 0x3c00);
    let data: Vec<f32> = (0..32).map(|i| (i % 16) as f32 - 8.0).collect();
    let q4 = Matrix::from_dense(&DenseTensor::new(vec![32], data.clone()), BlockFormat::Q4).unwrap();
    assert_eq!((q4.rows, q4.cols), (1, 32));
    assert_eq!(q4.quants, [0x7654_3210, 0xfedc_ba98, 0x7654_3210, 0xfedc_ba98]);
    assert_eq!(q4.scales, [u32::from(f16_from_f32(1.0)) | u32::from(f16_from_f32(-8.0)) << 16]);
    assert_eq!(q4.to_dense().data, data);
}

#[test]
fn odd_numbers_of_blocks_and_constant_blocks() {
    for value in [0.0, -3.25, 1e-30, 4e4] {
        for format in [BlockFormat::F32, BlockFormat::Q8, BlockFormat::Q4] {
            let dense = DenseTensor::new(vec![3, 32], vec![value; 96]);
            let matrix = Matrix::from_dense(&dense, format).unwrap();
            assert!(matrix.is_finite());
            for x in matrix.to_dense().data {
                assert_close(&format!("{format:?} of {value}"), x, value, f64::from(value.abs()) * 1e-3 + 1e-7);
            }
        }
    }
}

#[test]
fn bytes_round_trip_and_lengths_are_checked() {
    for format in [BlockFormat::F32, BlockFormat::Q8, BlockFormat::Q4] {
        let matrix = Matrix::from_dense(&random(3, 32, 4), format).unwrap();
        let bytes = matrix.to_bytes();
        assert_eq!(bytes.len() as u64, format.n_bytes(3, 32).unwrap());
        assert_eq!(Matrix::from_bytes(3, 32, format, &bytes).unwrap(), matrix);
        let cut = Matrix::from_bytes(3, 32, format, &bytes[1..]);
        assert!(matches!(cut, Err(QuantError::Bytes { .. })), "{cut:?}");
    }
    assert_eq!(BlockFormat::F32.n_bytes(usize::MAX, 2), None);
    assert_eq!(BlockFormat::Q4.n_bytes(4, 33), None);
}

#[test]
fn refuses_what_does_not_fit() {
    let odd = DenseTensor::new(vec![2, 40], vec![0.0; 80]);
    assert_eq!(
        Matrix::from_dense(&odd, BlockFormat::Q8),
        Err(QuantError::Columns { format: BlockFormat::Q8, cols: 40 })
    );
    assert!(Matrix::from_dense(&odd, BlockFormat::F32).is_ok());
    let cube = DenseTensor::new(vec![2, 2, 32], vec![0.0; 128]);
    assert!(matches!(Matrix::from_dense(&cube, BlockFormat::F32), Err(QuantError::Shape { .. })));
    for bad in [f32::NAN, f32::INFINITY, 1e30] {
        let mut dense = DenseTensor::new(vec![2, 32], vec![0.0; 64]);
        dense.data[33] = bad;
        for format in [BlockFormat::Q8, BlockFormat::Q4] {
            let error = Matrix::from_dense(&dense, format).unwrap_err();
            assert!(matches!(error, QuantError::Value { row: 1, col: 1, .. }), "{error}");
        }
    }
}
