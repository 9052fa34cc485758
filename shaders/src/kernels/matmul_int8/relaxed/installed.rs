//! The module's function in a page: which paths it may be called for, and the call.

use super::{Call, TILE};
use crate::kernels::matmul_int8::{Int8, Int8Rows, KernelPath, matmul_int8};
use crate::panel::{OUTPUTS, Panels};
use crate::weight::{BLOCK, WeightFormat, WeightView};
use std::ops::Range;
use std::sync::OnceLock;

/// Calls the module's function with the place of a [`Call`].
pub type Function = fn(u32);

static FUNCTION: OnceLock<Function> = OnceLock::new();
/// The paths that may be taken.
static PATHS: OnceLock<Vec<KernelPath>> = OnceLock::new();

/// Makes the paths available; only the first call counts. `function` calls the exported function of an instance of [`super::module`]
/// over this module's own memory; `has_dot` is what its [`super::DOT_EXPORT`] says. A path whose products are not those of the
/// reference here is left out: V8's baseline compiler in Node 20 gets [`super::emit::Products::Q4InFours`] wrong.
pub fn install(function: Function, has_dot: bool) {
    if FUNCTION.set(function).is_ok() {
        let paths = [(KernelPath::Int8RelaxedSimd, true), (KernelPath::Int8RelaxedDot, has_dot)];
        let right = paths.into_iter().filter(|(path, is_wanted)| *is_wanted && is_right(*path));
        let _ = PATHS.set(right.map(|(path, _)| path).collect());
    }
}

/// Whether there is a function to call for a path, and it gave the right products.
pub(in super::super) fn is_available(path: KernelPath) -> bool {
    PATHS.get().is_some_and(|paths| paths.contains(&path))
}

/// Compares a small product with the reference.
fn is_right(path: KernelPath) -> bool {
    const COLS: usize = 3 * BLOCK;
    const N_ROWS: usize = TILE + 1;
    let x: Vec<f32> = (0..N_ROWS * COLS).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
    [WeightFormat::Q4, WeightFormat::Q8].into_iter().all(|format| {
        let (n_quants, n_scales) = format.words(OUTPUTS * COLS);
        let quants: Vec<u32> = (1..=n_quants as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let scales = vec![0x3c00_3c00; n_scales]; // halves of 1
        let panels = Panels::pack(&WeightView { format, rows: OUTPUTS, cols: COLS, quants: &quants, scales: &scales });
        let products = |path| {
            let (int8, mut rows, mut out) = (Int8::unchecked(path), Int8Rows::default(), vec![0.0; N_ROWS * OUTPUTS]);
            rows.quantize(int8, format, (N_ROWS, COLS), &x);
            matmul_int8(int8, &panels, 0..1, &rows, &mut out);
            out
        };
        products(path) == products(KernelPath::Int8Scalar)
    })
}

/// As [`matmul_int8`].
pub(in super::super) fn matmul(
    path: KernelPath,
    panels: &Panels,
    range: Range<usize>,
    rows: &Int8Rows,
    out: &mut [f32],
) {
    if let Some(function) = FUNCTION.get()
        && let Some(call) = Call::new(path, panels, range, rows, out)
    {
        function(std::hint::black_box(&raw const call) as usize as u32);
    }
}
