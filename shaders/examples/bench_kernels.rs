//! The 4-bit product on the native adapter, shape by shape: the tiling that the adapter gets against the other one, and each
//! variant of the kernel against the plain one in the same tiling (subgroups in that of a GPU, the other has no lanes).
//!
//! One JSON line a figure, `name, device, unit, ours, rival, rival_name, ratio`; `cargo xtask bench kernel` runs it.
//! The unit is GB/s of weights, scales included, read once a product: many products of one matrix in one submit,
//! the two sides turn and turn about, medians of five.

use beckon_shaders::kernels::matmul::MatmulParams;
use beckon_shaders::kernels::product::Tiling;
use beckon_shaders::{GpuContext, Kernel, PackedWeight, Product, Recorder, Variant, WeightFormat, WeightView, ready};
use std::time::Instant;

/// Inputs and outputs.
const SHAPES: [(usize, usize); 4] = [(576, 576), (576, 1536), (1536, 576), (576, 49_152)];
/// Rows of x.
const ROWS: [usize; 3] = [1, 8, 64];
/// Multiplications of one submit, about.
const BUDGET: usize = 1 << 28;
const N_REPEATS: usize = 5;

struct Operands {
    cols: u32,
    n_outputs: u32,
    weights: [wgpu::Buffer; 2],
    n_bytes: usize,
}

fn operands(gpu: &GpuContext, cols: usize, n_outputs: usize) -> Operands {
    let (n_quants, n_scales) = WeightFormat::Q4.words(cols * n_outputs);
    let quants: Vec<u32> = (0..n_quants as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
    let scales = vec![0xb000_2400; n_scales]; // 1/64, -1/8
    let view = WeightView { format: WeightFormat::Q4, rows: n_outputs, cols, quants: &quants, scales: &scales };
    let packed = PackedWeight::stacked(&[view]);
    Operands {
        cols: cols as u32,
        n_outputs: n_outputs as u32,
        weights: [gpu.storage_with("quants", &packed.quants), gpu.storage_with("scales", &packed.scales)],
        n_bytes: (packed.quants.len() + packed.scales.len()) * 4,
    }
}

/// The kernel for one tiling.
fn compiled(gpu: &GpuContext, tiling: &Tiling, variant: Variant) -> Kernel {
    let [rows, outputs, lanes] = tiling.constants();
    let constants = [("FORMAT", WeightFormat::Q4.wgsl_value()), rows, outputs, lanes];
    let kernels =
        ready(Kernel::compile(gpu, &Product::Matmul.spec().in_variant(variant), &[&constants])).expect("native");
    kernels.expect("compiles").remove(0)
}

/// Seconds of one product.
fn secs(gpu: &GpuContext, kernel: &Kernel, tiling: &Tiling, operands: &Operands, n_rows: usize) -> f64 {
    let (cols, n_outputs, n_rows) = (operands.cols, operands.n_outputs, n_rows as u32);
    let n_times = (BUDGET / (cols * n_outputs * n_rows) as usize).clamp(1, 64);
    let params = gpu.buffer("params", 64 * 256, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
    let x = gpu.storage("x", (n_rows * cols) as usize);
    let out = gpu.storage("out", (n_rows * n_outputs) as usize);
    let [quants, scales] = &operands.weights;
    let group = kernel.bind(gpu, &params, &[quants, scales, &x, &out]);
    let of_kernel = MatmulParams { n_rows, cols, n_outputs, out_stride: n_outputs, out_offset: 0, accumulate: 0 };
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let mut recorder = Recorder::new(&mut encoder, Vec::new());
    for _ in 0..n_times {
        recorder.dispatch(kernel, &group, &of_kernel, of_kernel.workgroups(tiling));
    }
    gpu.queue.write_buffer(&params, 0, &recorder.finish());
    let commands = encoder.finish();
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is there");
    let start = Instant::now();
    gpu.queue.submit([commands]);
    gpu.device.poll(wgpu::PollType::wait_indefinitely()).expect("the device is there");
    start.elapsed().as_secs_f64() / n_times as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let only = std::env::args().nth(1).unwrap_or_default();
    let name = |(cols, n): (usize, usize), rows: usize| format!("kernel.q4.{cols}x{n}.rows_{rows}");
    if !SHAPES
        .iter()
        .any(|shape| ROWS.iter().any(|rows| only.contains(&name(*shape, *rows)) || name(*shape, *rows).contains(&only)))
    {
        return;
    }
    let gpu = match ready(GpuContext::request()).expect("native") {
        Ok(gpu) => gpu,
        Err(why) => return eprintln!("not run on a gpu: {why}"),
    };
    let tilings = [gpu.is_software(), !gpu.is_software()].map(Tiling::for_adapter);
    let other = if gpu.is_software() { "tiling of a GPU" } else { "tiling of a CPU" };
    for shape in SHAPES {
        let operands = operands(&gpu, shape.0, shape.1);
        for n_rows in ROWS {
            let name = name(shape, n_rows);
            let [own, foreign] = tilings.each_ref().map(|tilings| Tiling::choose(tilings, n_rows));
            let plain = Variant::PLAIN;
            let mut contests = vec![(name.clone(), [(own, plain), (foreign, plain)], other)];
            for variant in Product::Matmul.spec().variants() {
                let tiling = if variant.subgroups { Tiling::choose(&Tiling::PARALLEL, n_rows) } else { own };
                let name = format!("{name}.{}", variant.to_string().replace(' ', "_"));
                if gpu.has(variant, tiling.lanes) {
                    contests.push((name, [(tiling, variant), (tiling, plain)], "plain kernel"));
                } else {
                    eprintln!("{name} not run: {} has not what it needs", gpu.adapter_name());
                }
            }
            for (name, sides, rival_name) in contests.into_iter().filter(|(name, ..)| name.contains(&only)) {
                contest(&gpu, &operands, n_rows, (&name, sides, rival_name));
            }
        }
    }
}

/// Prints a figure of two kernels that take turns.
fn contest(
    gpu: &GpuContext,
    operands: &Operands,
    n_rows: usize,
    (name, sides, rival_name): (&str, [(&Tiling, Variant); 2], &str),
) {
    let kernels = sides.map(|(tiling, variant)| compiled(gpu, tiling, variant));
    let time = |side: usize| secs(gpu, &kernels[side], sides[side].0, operands, n_rows);
    [0, 1].iter().for_each(|side| _ = time(*side)); // warm
    let (ours, rival): (Vec<f64>, Vec<f64>) = (0..N_REPEATS).map(|_| (time(0), time(1))).unzip();
    let per_sec = |secs: f64| operands.n_bytes as f64 / secs / 1e9;
    let (ours, rival) = (per_sec(median(ours)), per_sec(median(rival)));
    println!(
        r#"{{"name":"{name}","device":"{}","unit":"GB/s","ours":{ours},"rival":{rival},"rival_name":"{rival_name}","ratio":{}}}"#,
        gpu.adapter_name(),
        ours / rival
    );
}
