//! The module in Node against the scalar path, bit by bit, over odd shapes; a page is tested in Chromium end to end.

use super::*;
use crate::kernels::matmul_int8::tests::{FORMATS, Noise, Weights};
use crate::kernels::matmul_int8::{Int8, KernelPath, matmul_int8};
use crate::panel::OUTPUTS;
use crate::weight::WeightFormat;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs the module over an image of a memory: module, image and the call's place in, the image afterwards out.
const SCRIPT: &str = r#"
const fs = require("fs");
// the baseline compiler of Node 20 adds some products in fours twice; the optimizing one does not, nor does Chromium 156
["--experimental-wasm-relaxed-simd", "--no-liftoff"].forEach(require("v8").setFlagsFromString);
const [folder, place] = process.argv.slice(1);
const image = fs.readFileSync(folder + "/image");
const memory = new WebAssembly.Memory({ initial: Math.ceil(image.length / 65536) });
new Uint8Array(memory.buffer).set(image);
const module = new WebAssembly.Module(fs.readFileSync(folder + "/module"));
const { exports } = new WebAssembly.Instance(module, { page: { memory } });
exports.matmul(Number(place));
fs.writeFileSync(folder + "/image", new Uint8Array(memory.buffer, 0, image.length));
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

/// Products `[panels, R, 16]` by a module, run in Node.
fn in_node(module: &[u8], path: KernelPath, panels: &Panels, rows: &Int8Rows, range: Range<usize>) -> Vec<f32> {
    static N_RUNS: AtomicUsize = AtomicUsize::new(0);
    let name = format!("beckon-relaxed-{}-{}", std::process::id(), N_RUNS.fetch_add(1, Ordering::Relaxed));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let mut image = Image::default();
    image.put(&[7; 3]); // nothing stands at a round place
    let (quants, scales) = panels.lines(range.clone());
    let n_out = range.len() * rows.n_rows() * OUTPUTS;
    let [words, row_scales, scaled_sums] = rows.places().map(|part| image.put(part));
    // the call of this process, its places exchanged for those of the image
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
    let place = image.put(bytemuck::cast_slice(&[call]));
    std::fs::write(folder.join("module"), module).unwrap();
    std::fs::write(folder.join("image"), bytemuck::cast_slice::<u32, u8>(&image.0)).unwrap();
    let done = Command::new("node").args(["-e", SCRIPT]).arg(&folder).arg(place.to_string()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let bytes = std::fs::read(folder.join("image")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let (before, after) = (&image.0, bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)));
    let after: Vec<u32> = after.collect();
    let at = out as usize / 4;
    assert_eq!((&after[..at], &after[at + n_out..]), (&before[..at], &before[at + n_out..]), "it wrote elsewhere");
    after[at..at + n_out].iter().map(|word| f32::from_bits(*word)).collect()
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
            let rows = |path| {
                let mut rows = Int8Rows::default();
                rows.quantize(of(path), format, (n_rows, cols), &x);
                rows
            };
            for range in [0..panels.n_panels(), panels.n_panels() - 1..panels.n_panels()] {
                let mut want = vec![0.0; range.len() * n_rows * OUTPUTS];
                let scalar = of(KernelPath::Int8Scalar);
                matmul_int8(scalar, &panels, range.clone(), &rows(KernelPath::Int8Scalar), &mut want);
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                for path in PATHS {
                    let got = in_node(&module(), path, &panels, &rows(path), range.clone());
                    assert_eq!(bits(&got), bits(&want), "{path} {format:?} {n_rows} x {cols} x {n_outputs}");
                }
            }
        }
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
                let got = in_node(&module(), path, &Panels::pack(&view), &rows, 0..1);
                crate::assert_all_close(path.name(), &got, &vec![x[0] * (largest + min) * 96.0; 64], 1e-2);
            }
        }
    }
}

#[test]
#[ignore = "needs Node"]
fn a_module_changed_by_hand_gives_other_products() {
    // a shift by 4 and its instruction; the scale's mask; additions of 16-bit sums made subtractions; the mask of signs; the
    // subtraction of what they count made an addition
    let shift: (&[u8], &[u8]) = (&[0x41, 4, 0xfd, 0x8d, 1], &[0x41, 3, 0xfd, 0x8d, 1]);
    let mask: (&[u8], &[u8]) = (&[0x00, 0xe0, 0xff, 0x8f], &[0x00, 0xe0, 0xff, 0x8e]);
    let add: (&[u8], &[u8]) = (&[0xfd, 0x8e, 1], &[0xfd, 0x91, 1]);
    let signs: (&[u8], &[u8]) = (&[1, 1, 1, 1, 0xfd, 0x4e], &[1, 1, 0, 1, 0xfd, 0x4e]);
    let sub: (&[u8], &[u8]) = (&[0xfd, 0xb1, 1], &[0xfd, 0xae, 1]);
    for (path, format, edits) in [
        (KernelPath::Int8RelaxedSimd, WeightFormat::Q4, &[shift, mask, add][..]),
        (KernelPath::Int8RelaxedDot, WeightFormat::Q4, &[shift, mask]),
        (KernelPath::Int8RelaxedDot, WeightFormat::Q8, &[mask, signs, sub]),
    ] {
        let panels = Panels::pack(&Weights::new(format, 17, 96).view());
        let mut rows = Int8Rows::default();
        rows.quantize(Int8::unchecked(path), format, (4, 96), &Noise(5).rows(4, 96));
        let right = in_node(&module(), path, &panels, &rows, 0..2);
        for (from, to) in edits {
            let mut wrong = module();
            let places: Vec<usize> = (0..wrong.len()).filter(|at| wrong[*at..].starts_with(from)).collect();
            assert!(!places.is_empty(), "no {from:x?}");
            places.into_iter().for_each(|at| wrong[at..at + to.len()].copy_from_slice(to));
            assert_ne!(in_node(&wrong, path, &panels, &rows, 0..2), right, "{path} {format:?} {from:x?}");
        }
    }
}
