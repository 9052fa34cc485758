//! The module in Node against the scalar path, bit by bit, over odd shapes; a page is tested in Chromium end to end.

use super::*;
use crate::kernels::matmul_int8::tests::{FORMATS, Noise, Weights};
use crate::kernels::matmul_int8::{Int8, KernelPath, matmul_int8};
use crate::panel::OUTPUTS;
use crate::weight::WeightFormat;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs the module over an image of a memory: module, image, the call's place, the first panel and their number in, the image
/// afterwards out.
const SCRIPT: &str = r#"
const fs = require("fs");
// the baseline compiler of Node 20 adds some products in fours twice; the optimizing one does not, nor does Chromium 156
["--experimental-wasm-relaxed-simd", "--no-liftoff"].forEach(require("v8").setFlagsFromString);
const [folder, ...numbers] = process.argv.slice(1);
const image = fs.readFileSync(folder + "/image");
const memory = new WebAssembly.Memory({ initial: Math.ceil(image.length / 65536), maximum: 65536 });
new Uint8Array(memory.buffer).set(image);
const module = new WebAssembly.Module(fs.readFileSync(folder + "/module"));
const { exports } = new WebAssembly.Instance(module, { page: { memory } });
exports.matmul(...numbers.map(Number));
fs.writeFileSync(folder + "/image", new Uint8Array(memory.buffer, 0, image.length));
"#;

/// The same by three threads, many times over, with pieces of different size: module, image, the call's place, its number of panels, the
/// place of the team's words, and where the products are and how many. What a product leaves must be the same every time.
const TEAM_SCRIPT: &str = r#"
const fs = require("fs");
const { Worker } = require("worker_threads");
["--experimental-wasm-relaxed-simd", "--no-liftoff"].forEach(require("v8").setFlagsFromString);
const [folder, ...numbers] = process.argv.slice(1);
const [call, n_panels, team, out, n_out] = numbers.map(Number);
const image = fs.readFileSync(folder + "/image");
const memory = new WebAssembly.Memory({ initial: Math.ceil(image.length / 65536), maximum: 65536, shared: true });
new Uint8Array(memory.buffer).set(image);
const module = new WebAssembly.Module(fs.readFileSync(folder + "/module"));
const { exports } = new WebAssembly.Instance(module, { page: { memory } });
const words = new Int32Array(memory.buffer);
const helper = `
  ["--experimental-wasm-relaxed-simd", "--no-liftoff"].forEach(require("v8").setFlagsFromString);
  const { module, memory, team } = require("worker_threads").workerData;
  new WebAssembly.Instance(module, { page: { memory } }).exports.help(team);`;
for (let i = 0; i < 2; i++) new Worker(helper, { eval: true, workerData: { module, memory, team } });
const products = new Int32Array(memory.buffer, out, n_out);
const nap = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
const n_sleepers = () => Atomics.load(words, team / 4 + 3);
const until_they_sleep = () => {
  for (let i = 0; n_sleepers() < 2; i++) {
    if (i === 500) throw new Error("helpers do not sleep");
    nap();
  }
};
const work = (of_piece) => {
  products.fill(-1);
  words.set([Math.ceil(n_panels / of_piece), of_piece, n_panels, call], team / 4 + 4);
  exports.share(team);
  return products.slice();
};
const join = (values) => values.join();
setTimeout(() => { // workers are there
  const first = join(work(n_panels));
  for (let i = 0; i < 3000; i++) {
    if (i % 300 == 0) until_they_sleep();
    const again = join(work(1 + i % 5));
    if (again !== first) throw new Error(`product ${i} differs`);
  }
  if (Atomics.load(words, team / 4 + 2) !== 3001) throw new Error("products are not counted");
  fs.writeFileSync(folder + "/image", new Uint8Array(memory.buffer.slice(0, image.length)));
  process.exit();
}, 300);
"#;

const PATHS: [KernelPath; 2] = [KernelPath::Int8RelaxedSimd, KernelPath::Int8RelaxedDot];

/// Words of the memory, and where each part begins.
#[derive(Default)]
struct Image(Vec<u32>);

impl Image {
    fn put(&mut self, words: &[u32]) -> u32 {
        self.0.extend(words);
        (self.0.len() - words.len()) as u32 * 4
    }
}

/// Products `[panels, R, 16]` by a module, run in Node: by one thread, or by a team where the module is for a shared memory.
fn in_node(
    (module, is_shared): (&[u8], bool),
    path: KernelPath,
    panels: &Panels,
    rows: &Int8Rows,
    range: Range<usize>,
) -> Vec<f32> {
    static N_RUNS: AtomicUsize = AtomicUsize::new(0);
    let name = format!("beckon-relaxed-{}-{}", std::process::id(), N_RUNS.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let mut image = Image::default();
    image.put(&[7; 3]); // nothing stands at a round place
    let n_out = range.len() * rows.n_rows() * OUTPUTS;
    let [words, row_scales, scaled_sums] = rows.places().map(|part| image.put(part));
    // the call of this process, its places exchanged for those of the image; the panels before the range are there, and skipped
    let (first, n_panels) = (range.start, range.len());
    let (quants, scales) = panels.lines(0..range.end);
    let mut products = vec![f32::NAN; n_out];
    let call = Call::new(path, panels, range, rows, &mut products).unwrap();
    let call = Call {
        quants: image.put(bytemuck::cast_slice(quants)),
        scales: image.put(bytemuck::cast_slice(scales)),
        words,
        row_scales,
        scaled_sums,
        out: image.put(bytemuck::cast_slice(&products)),
        ..call
    };
    let out = call.out;
    let skipped = (first * rows.n_rows() * OUTPUTS * 4) as u32;
    let place = image.put(bytemuck::cast_slice(&[Call { out: out.wrapping_sub(skipped), ..call }]));
    let team = image.put(&[0; N_WORDS]);
    std::fs::write(folder.join("module"), module).unwrap();
    std::fs::write(folder.join("image"), bytemuck::cast_slice::<u32, u8>(&image.0)).unwrap();
    let (script, numbers) = if is_shared {
        assert_eq!(first, 0, "a team makes all panels");
        (TEAM_SCRIPT, vec![place, n_panels as u32, team, out, n_out as u32])
    } else {
        (SCRIPT, vec![place, first as u32, n_panels as u32])
    };
    let numbers = numbers.iter().map(u32::to_string);
    let done = Command::new("node").args(["-e", script]).arg(&folder).args(numbers).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let bytes = std::fs::read(folder.join("image")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let (before, after) = (&image.0, bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)));
    let after: Vec<u32> = after.collect();
    let (at, team) = (out as usize / 4, team as usize / 4);
    assert_eq!(
        (&after[..at], &after[at + n_out..team]),
        (&before[..at], &before[at + n_out..team]),
        "it wrote elsewhere"
    );
    after[at..at + n_out].iter().map(|word| f32::from_bits(*word)).collect()
}

/// Every second value zero. Node 20 makes the product in fours of sums of two that are cut to 16 bits, which two bytes out of its range
/// would overflow; a path is not taken where that is so, and what one instruction makes of all bytes is compared with the
/// reference in every page before it is (`installed.rs`).
fn thinned(x: &[f32]) -> Vec<f32> {
    x.iter().enumerate().map(|(i, x)| if i % 2 == 0 { *x } else { 0.0 }).collect()
}

#[test]
#[ignore = "needs Node"]
fn the_module_gives_the_bits_of_the_reference() {
    let of = |path| Int8::unchecked(path);
    let shapes = [(1, 32), (33, 160), (50, 544)];
    for (format, (n_outputs, cols)) in FORMATS.into_iter().flat_map(|format| shapes.map(|shape| (format, shape))) {
        let panels = Panels::pack(&Weights::new(format, n_outputs, cols).view());
        for n_rows in [1, 2, 3, 4, 5, 6, 7, 8, 13] {
            let x = Noise(n_rows as u64).rows(n_rows, cols);
            let rows_of = |path, x: &[f32]| {
                let mut rows = Int8Rows::default();
                rows.quantize(of(path), format, (n_rows, cols), x);
                rows
            };
            for range in [0..panels.n_panels(), panels.n_panels() - 1..panels.n_panels()] {
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                for path in PATHS {
                    let x = if (format, path) == (WeightFormat::Q8, KernelPath::Int8RelaxedDot) {
                        thinned(&x)
                    } else {
                        x.clone()
                    };
                    let mut want = vec![0.0; range.len() * n_rows * OUTPUTS];
                    let scalar = KernelPath::Int8Scalar;
                    matmul_int8(of(scalar), &panels, range.clone(), &rows_of(scalar, &x), &mut want);
                    let got = in_node((&module(false), false), path, &panels, &rows_of(path, &x), range.clone());
                    assert_eq!(bits(&got), bits(&want), "{path} {format:?} {n_rows} x {cols} x {n_outputs}");
                }
            }
        }
    }
}

#[test]
#[ignore = "needs Node"]
fn a_team_gives_the_bits_of_one_thread_however_it_shares() {
    // as the script writes them
    assert_eq!((WORK, work(9, 23, 5)), (4, [5, 5, 23, 9]));
    for (format, path, n_rows) in [
        (WeightFormat::Q4, KernelPath::Int8RelaxedSimd, 5),
        (WeightFormat::Q8, KernelPath::Int8RelaxedSimd, 1),
        (WeightFormat::Q4, KernelPath::Int8RelaxedDot, 1),
    ] {
        let panels = Panels::pack(&Weights::new(format, 16 * 22 + 1, 64).view());
        let mut rows = Int8Rows::default();
        rows.quantize(Int8::unchecked(path), format, (n_rows, 64), &Noise(7).rows(n_rows, 64));
        let [alone, team] = [false, true]
            .map(|is_shared| in_node((&module(is_shared), is_shared), path, &panels, &rows, 0..panels.n_panels()));
        assert_eq!(alone, team, "{path} {format:?} {n_rows}");
    }
}

#[test]
#[ignore = "needs Node"]
fn the_largest_codes_and_bytes_do_not_overflow_in_the_module() {
    let cols = 96;
    for (format, code, largest) in [(WeightFormat::Q4, 0xffff_ffff, 15.0), (WeightFormat::Q8, 0x8080_8080, -128.0)] {
        let (n_quants, n_scales) = format.words(16 * cols);
        let (quants, scales) = (vec![code; n_quants], vec![0x3c00_3c00; n_scales]);
        let view = crate::weight::WeightView { format, rows: 16, cols, quants: &quants, scales: &scales };
        let min = if format == WeightFormat::Q4 { 1.0 } else { 0.0 };
        for x in [vec![1.0; 4 * cols], vec![-1.0; 4 * cols]] {
            for path in PATHS {
                let mut rows = Int8Rows::default();
                rows.quantize(Int8::unchecked(path), format, (4, cols), &x);
                let got = in_node((&module(false), false), path, &Panels::pack(&view), &rows, 0..1);
                crate::assert_all_close(path.name(), &got, &vec![x[0] * (largest + min) * 96.0; 64], 1e-2);
            }
        }
    }
}

#[test]
#[ignore = "needs Node"]
fn a_module_changed_by_hand_gives_other_products() {
    // a shift by 4 and its instruction; the scale's mask; additions of 16-bit sums made subtractions; what makes floats of sums an
    // addition; codes not turned round; sums that begin elsewhere
    let shift: (&[u8], &[u8]) = (&[0x41, 4, 0xfd, 0x8d, 1], &[0x41, 3, 0xfd, 0x8d, 1]);
    let mask: (&[u8], &[u8]) = (&[0x00, 0xe0, 0xff, 0x8f], &[0x00, 0xe0, 0xff, 0x8e]);
    let add: (&[u8], &[u8]) = (&[0xfd, 0x8e, 1], &[0xfd, 0x91, 1]);
    let sub: (&[u8], &[u8]) = (&[0xfd, 0xe5, 1], &[0xfd, 0xe4, 1]);
    let turn: (&[u8], &[u8]) = (&[0xfd, 0x51], &[0xfd, 0x4e]);
    let begin: (&[u8], &[u8]) = (&[0xfd, 0x4f], &[0xfd, 0x4e]);
    for (path, format, edits) in [
        (KernelPath::Int8RelaxedSimd, WeightFormat::Q4, &[shift, mask, add][..]),
        (KernelPath::Int8RelaxedDot, WeightFormat::Q4, &[shift, mask, sub]),
        (KernelPath::Int8RelaxedDot, WeightFormat::Q8, &[mask, turn, begin]),
    ] {
        let panels = Panels::pack(&Weights::new(format, 17, 96).view());
        let mut rows = Int8Rows::default();
        rows.quantize(Int8::unchecked(path), format, (4, 96), &Noise(5).rows(4, 96));
        let right = in_node((&module(false), false), path, &panels, &rows, 0..2);
        for (from, to) in edits {
            let mut wrong = module(false);
            let places: Vec<usize> = (0..wrong.len()).filter(|at| wrong[*at..].starts_with(from)).collect();
            assert!(!places.is_empty(), "no {from:x?}");
            places.into_iter().for_each(|at| wrong[at..at + to.len()].copy_from_slice(to));
            assert_ne!(in_node((&wrong, false), path, &panels, &rows, 0..2), right, "{path} {format:?} {from:x?}");
        }
    }
}
