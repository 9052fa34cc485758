use super::*;
use crate::kernels::matmul::{MatmulParams, matmul};
use crate::weight::{BLOCK, WeightFormat, WeightView};

/// Deterministic words.
pub(super) struct Noise(pub u64);

impl Noise {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    /// Values in [-1, 1), a block of zeros and one of large values among them.
    pub fn rows(&mut self, n_rows: usize, cols: usize) -> Vec<f32> {
        let mut x: Vec<f32> = (0..n_rows * cols).map(|_| self.word() as f32 / 2_147_483_648.0 - 1.0).collect();
        for block in x.chunks_exact_mut(BLOCK).step_by(5) {
            block.iter_mut().for_each(|x| *x *= 300.0);
        }
        x.chunks_exact_mut(BLOCK).skip(3).step_by(7).for_each(|block| block.fill(0.0));
        x
    }
}

/// A matrix with every kind of scale: ordinary, subnormal, zero, negative.
pub(super) struct Weights {
    format: WeightFormat,
    rows: usize,
    cols: usize,
    quants: Vec<u32>,
    scales: Vec<u32>,
}

impl Weights {
    pub fn new(format: WeightFormat, rows: usize, cols: usize) -> Self {
        let mut noise = Noise((rows * 1000 + cols) as u64);
        let (n_quants, n_scales) = format.words(rows * cols);
        let scale = |word: u32| match word % 5 {
            0 => 0x0003_0201, // both subnormal
            1 => 0xb400_2c00, // -1/4 and 1/16
            2 => 0x0000_8000,
            3 => 0x2e66_a800, // 0.1 and -1/32
            _ => 0xb000_2800 + (word >> 8) % 900,
        };
        let quants = (0..n_quants).map(|_| noise.word()).collect();
        let scales = (0..n_scales).map(|_| scale(noise.word())).collect();
        Self { format, rows, cols, quants, scales }
    }

    pub fn view(&self) -> WeightView<'_> {
        let Self { format, rows, cols, quants, scales } = self;
        WeightView { format: *format, rows: *rows, cols: *cols, quants, scales }
    }

    fn dense(&self) -> Vec<f32> {
        let mut dense = vec![0.0; self.rows * self.cols];
        dense.chunks_exact_mut(self.cols).enumerate().for_each(|(row, out)| self.view().decode_row(row, out));
        dense
    }
}

fn paths() -> Vec<Int8> {
    let paths: Vec<Int8> = KernelPath::ALL.into_iter().filter_map(Int8::new).collect();
    assert_eq!(paths[0].path(), KernelPath::Int8Scalar);
    paths
}

/// Products `[R, N]` by one path.
fn products(int8: Int8, panels: &Panels, n_rows: usize, x: &[f32]) -> Vec<f32> {
    let mut rows = Int8Rows::default();
    rows.quantize(int8, panels.format(), (n_rows, panels.cols()), x);
    let mut by_panel = vec![f32::NAN; panels.n_panels() * n_rows * OUTPUTS];
    matmul_int8(int8, panels, 0..panels.n_panels(), &rows, &mut by_panel);
    let n_outputs = panels.rows();
    let to = Placing { n_rows, n_outputs, stride: n_outputs, offset: 0, accumulate: false };
    let mut out = vec![f32::NAN; n_rows * n_outputs];
    place(&to, &by_panel, &mut out);
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

pub(super) const FORMATS: [WeightFormat; 2] = [WeightFormat::Q4, WeightFormat::Q8];

#[test]
fn every_path_gives_the_bits_of_the_reference() {
    for format in FORMATS {
        for (n_outputs, cols) in [(1, 32), (16, 64), (17, 96), (33, 160), (50, 544)] {
            let weights = Weights::new(format, n_outputs, cols);
            let panels = Panels::pack(&weights.view());
            for n_rows in [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 23] {
                let x = Noise(n_rows as u64).rows(n_rows, cols);
                let want = products(paths()[0], &panels, n_rows, &x);
                for int8 in paths() {
                    let got = products(int8, &panels, n_rows, &x);
                    assert_eq!(bits(&got), bits(&want), "{} {format:?} {n_rows} x {cols} x {n_outputs}", int8.path());
                }
            }
        }
    }
}

#[test]
fn the_largest_codes_and_bytes_do_not_overflow() {
    for format in FORMATS {
        for code in [0xffff_ffff_u32, 0x8080_8080, 0x7f7f_7f7f, 0] {
            let cols = 96;
            let (n_quants, n_scales) = format.words(16 * cols);
            let (quants, scales) = (vec![code; n_quants], vec![0x3c00_3c00; n_scales]);
            let view = WeightView { format, rows: 16, cols, quants: &quants, scales: &scales };
            for x in [vec![1.0; cols], vec![-1.0; cols]] {
                let mut want = vec![0.0; cols];
                view.decode_row(0, &mut want);
                let want: f32 = want.iter().zip(&x).map(|(w, x)| w * x).sum();
                for int8 in paths() {
                    let got = products(int8, &Panels::pack(&view), 1, &x);
                    let name = format!("{} {format:?} {code:x}", int8.path());
                    crate::assert_all_close(&name, &got, &[want; 16], 1e-2);
                }
            }
        }
    }
}

/// What 8-bit activations may change in `sum of w · x`, and the roundings of the sums between blocks: half a
/// step of the block's scale times each weight's magnitude (and 6e-5 of it for the rounding of scale and
/// quotient), then half a unit in the last place of every part, for each of the blocks and four steps within.
fn bound(weights: &Weights, n: usize, x: &[f32]) -> f64 {
    let (mut of_bytes, mut of_parts) = (0.0, 0.0);
    let mut row = vec![0.0; weights.cols];
    weights.view().decode_row(n, &mut row);
    let mut minima = weights.view();
    let no_codes = vec![0; weights.quants.len()];
    minima.quants = &no_codes;
    let mut min = vec![0.0; weights.cols];
    minima.decode_row(n, &mut min);
    for ((w, min), x) in row.chunks_exact(BLOCK).zip(min.chunks_exact(BLOCK)).zip(x.chunks_exact(BLOCK)) {
        let peak = x.iter().fold(0.0, |peak: f64, x| peak.max(f64::from(x.abs())));
        for ((w, min), x) in w.iter().zip(min).zip(x) {
            let (w, min, x) = (f64::from(*w), f64::from(*min), f64::from(x.abs()));
            of_bytes += w.abs() * peak / 127.0 * 0.500_06;
            of_parts += ((w - min).abs() + min.abs()) * x.max(peak / 127.0);
        }
    }
    of_bytes + of_parts * (weights.cols / BLOCK + 4) as f64 * f64::from(f32::EPSILON)
}

/// Largest share of its bound that a difference from the exact product takes.
fn largest_share(weights: &Weights, n_rows: usize, x: &[f32], got: &[f32]) -> f64 {
    let dense = weights.dense();
    let mut share = 0.0;
    for (x, got) in x.chunks_exact(weights.cols).zip(got.chunks_exact(weights.rows)) {
        for (n, (w, got)) in dense.chunks_exact(weights.cols).zip(got).enumerate() {
            let exact: f64 = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            let difference = (f64::from(*got) - exact).abs();
            let allowed = bound(weights, n, x);
            share = if difference == 0.0 { share } else { f64::max(share, difference / allowed) };
        }
    }
    assert_eq!(got.len(), n_rows * weights.rows);
    share
}

#[test]
fn the_plain_twin_is_within_what_eight_bits_allow() {
    for format in FORMATS {
        for (n_outputs, cols) in [(16, 32), (21, 96), (33, 544)] {
            let weights = Weights::new(format, n_outputs, cols);
            let n_rows = 5;
            let x = Noise(7).rows(n_rows, cols);
            let got = products(paths()[0], &Panels::pack(&weights.view()), n_rows, &x);
            let share = largest_share(&weights, n_rows, &x, &got);
            // the bound is of the worst case, every rounding against us; it is not slack by orders of magnitude
            assert!(share <= 1.0 && share > 0.05, "{format:?} {cols} x {n_outputs}: {share}");
            let (n, c) = (n_outputs as u32, cols as u32);
            let params = MatmulParams { n_rows: 5, cols: c, n_outputs: n, out_stride: n, out_offset: 0, accumulate: 0 };
            let mut twin = vec![0.0; n_rows * n_outputs];
            matmul(&params, &weights.view(), &x, &mut twin);
            assert!(largest_share(&weights, n_rows, &x, &twin) < share, "the twin is closer to the exact product");
        }
    }
}

#[test]
fn any_one_changed_word_is_noticed() {
    for format in FORMATS {
        let (n_outputs, cols, n_rows) = (19, 96, 3);
        let weights = Weights::new(format, n_outputs, cols);
        let x = Noise(11).rows(n_rows, cols);
        let right = products(paths()[0], &Panels::pack(&weights.view()), n_rows, &x);
        for int8 in paths() {
            for word in 0..weights.quants.len() {
                // a code moves by 8: of 15 or of 255
                let mut quants = weights.quants.clone();
                quants[word] ^= if format == WeightFormat::Q4 { 8 << (4 * (word % 8)) } else { 8 << (8 * (word % 4)) };
                let wrong = Weights { quants, scales: vec![0x3000_2c00; weights.scales.len()], ..weights };
                let kept = Weights { quants: weights.quants.clone(), scales: wrong.scales.clone(), ..wrong };
                let of = |weights: &Weights| products(int8, &Panels::pack(&weights.view()), n_rows, &x);
                assert_ne!(bits(&of(&wrong)), bits(&of(&kept)), "{} {format:?}, word {word}", int8.path());
            }
            let mut x = x.clone();
            x[cols + 5] += 3.0;
            let wrong = products(int8, &Panels::pack(&weights.view()), n_rows, &x);
            let same: Vec<bool> = right.iter().zip(&wrong).map(|(a, b)| a.to_bits() == b.to_bits()).collect();
            assert!(same[..n_outputs].iter().all(|same| *same), "another row");
            assert!(same[n_outputs..2 * n_outputs].contains(&false), "its own row");
        }
        let mut swapped = right.clone();
        swapped.swap(0, 1);
        assert!(largest_share(&weights, n_rows, &x, &swapped) > 1.0, "two outputs exchanged");
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours_or_the_split() {
    let weights = Weights::new(WeightFormat::Q4, 70, 96);
    let panels = Panels::pack(&weights.view());
    let (n_rows, x) = (11, Noise(3).rows(11, 96));
    for int8 in paths() {
        let together = products(int8, &panels, n_rows, &x);
        for (x, together) in x.chunks_exact(96).zip(together.chunks_exact(70)) {
            assert_eq!(bits(&products(int8, &panels, 1, x)), bits(together));
        }
        let mut rows = Int8Rows::default();
        rows.quantize(int8, WeightFormat::Q4, (n_rows, 96), &x);
        let of_panel = n_rows * OUTPUTS;
        let (mut whole, mut split) = (vec![0.0; 5 * of_panel], vec![0.0; 5 * of_panel]);
        matmul_int8(int8, &panels, 0..5, &rows, &mut whole);
        let (first, last) = split.split_at_mut(2 * of_panel);
        matmul_int8(int8, &panels, 2..5, &rows, last);
        matmul_int8(int8, &panels, 0..2, &rows, first);
        assert_eq!(bits(&whole), bits(&split));
    }
}

#[test]
fn what_is_not_finite_stays_so_and_tiny_blocks_are_zero() {
    let weights = Weights { scales: vec![0x3c00_3c00; 4], ..Weights::new(WeightFormat::Q4, 1, 128) };
    let panels = Panels::pack(&weights.view());
    for int8 in paths() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 256];
            x[200] = bad;
            let got = products(int8, &panels, 2, &x);
            assert!(got[0].is_finite() && got[1].is_nan(), "{bad}: {got:?}");
        }
        assert_eq!(products(int8, &panels, 1, &[1e-38; 128]), [0.0]);
    }
}

#[test]
fn rows_for_another_format_are_refused() {
    let panels = Panels::pack(&Weights::new(WeightFormat::Q8, 1, 32).view());
    let int8 = paths()[0];
    let mut rows = Int8Rows::default();
    rows.quantize(int8, WeightFormat::Q4, (1, 32), &[1.0; 32]);
    assert!(!rows.is_for(int8, panels.format()) && rows.is_for(int8, WeightFormat::Q4));
    let refused = std::panic::catch_unwind(|| matmul_int8(int8, &panels, 0..1, &rows, &mut [0.0; 16]));
    assert!(refused.is_err());
}

#[test]
fn placing_adds_or_replaces_at_its_place() {
    let products: Vec<f32> = (0..2 * 2 * OUTPUTS).map(|i| i as f32).collect(); // 2 panels, 2 rows
    let mut out = vec![1000.0; 2 * 20];
    let to = Placing { n_rows: 2, n_outputs: 18, stride: 20, offset: 1, accumulate: true };
    place(&to, &products, &mut out);
    assert_eq!([out[0], out[1], out[16], out[17], out[18], out[19]], [1000.0, 1000.0, 1015.0, 1032.0, 1033.0, 1000.0]);
    assert_eq!([out[21], out[37], out[38]], [1016.0, 1048.0, 1049.0]);
    place(&Placing { accumulate: false, ..to }, &products, &mut out);
    assert_eq!([out[0], out[1], out[38]], [1000.0, 0.0, 49.0]);
}

#[test]
fn a_path_is_named_and_the_fastest_is_there() {
    let names: std::collections::BTreeSet<&str> = KernelPath::ALL.iter().map(|path| path.name()).collect();
    assert_eq!(names.len(), KernelPath::ALL.len());
    assert!(KernelPath::fastest().is_available() && KernelPath::fastest() != KernelPath::F32);
    assert_eq!(Int8::new(KernelPath::F32), None);
}
