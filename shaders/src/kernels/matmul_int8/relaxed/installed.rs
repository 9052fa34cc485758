//! The module's functions in a page: which paths they may be called for, and the call.

use super::{Call, N_WORDS, TILE, WORK, work};
use crate::kernels::matmul_int8::{Int8, Int8Rows, KernelPath, matmul_int8};
use crate::panel::{OUTPUTS, Panels};
use crate::weight::{BLOCK, WeightFormat, WeightView};
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Functions of an instance of [`super::module`] over this module's own memory.
#[derive(Debug, Clone, Copy)]
pub struct Functions {
    /// Takes the place of a [`Call`], the first panel and their number.
    pub matmul: fn(u32, u32, u32),
    /// What the module says of the processor.
    pub has_dot: bool,
    /// Takes what [`team_place`] gives.
    pub share: fn(u32),
    /// Threads that run the module over this memory, this one counted.
    pub n_threads: usize,
}

static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
/// The paths that may be taken.
static PATHS: OnceLock<Vec<KernelPath>> = OnceLock::new();
/// This module writes here by plain stores, before the atomic ones of [`Functions::share`] make them known.
static TEAM: [AtomicU32; N_WORDS] = [const { AtomicU32::new(0) }; N_WORDS];

/// Multiplications of a piece at least: some microseconds, several times what it takes until another core knows of it.
const PIECE_PRODUCTS: usize = 1 << 16;
/// Pieces for each thread, so that one that is slow or late does not hold up the rest.
const PIECES_PER_THREAD: usize = 4;

/// Where the words are by which threads share a product.
pub fn team_place() -> u32 {
    (&raw const TEAM) as usize as u32
}

/// Threads that make products, this one counted.
pub fn n_threads() -> usize {
    FUNCTIONS.get().map_or(1, |functions| functions.n_threads)
}

/// Makes the paths available; only the first call counts. A path whose products are not those of the
/// reference here is left out: V8's baseline compiler in Node 20 gets [`super::Products::Q4InFours`] wrong.
pub fn install(functions: Functions) {
    if FUNCTIONS.set(functions).is_ok() {
        let paths = [(KernelPath::Int8RelaxedSimd, true), (KernelPath::Int8RelaxedDot, functions.has_dot)];
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

/// As [`matmul_int8`], by all threads where it is worth their while.
pub(in super::super) fn matmul(
    path: KernelPath,
    panels: &Panels,
    range: Range<usize>,
    rows: &Int8Rows,
    out: &mut [f32],
) {
    let n_panels = range.len();
    if let Some(functions) = FUNCTIONS.get()
        && let Some(call) = Call::new(path, panels, range, rows, out)
    {
        let place = std::hint::black_box(&raw const call) as usize as u32;
        let of_panel = OUTPUTS * panels.cols() * rows.n_rows();
        let at_most = PIECES_PER_THREAD * functions.n_threads;
        let of_piece = PIECE_PRODUCTS.div_ceil(of_panel).max(n_panels.div_ceil(at_most));
        if functions.n_threads == 1 || of_piece >= n_panels {
            return (functions.matmul)(place, 0, n_panels as u32);
        }
        let words = TEAM[WORK..].iter().zip(work(place, n_panels, of_piece));
        words.for_each(|(to, word)| to.store(word, Ordering::Relaxed));
        (functions.share)(std::hint::black_box(team_place()));
    }
}
