//! The 4-bit product on the native adapter, shape by shape: the tiling that the adapter gets against the other one, and each
//! variant of the kernel against the plain one in the same tiling (subgroups in that of a GPU, the other has no lanes);
//! attention in its variant against the plain one.
//!
//! One JSON line a figure, `name, device, unit, ours, rival, rival_name, ratio`; `cargo xtask bench kernel` runs it.
//! The unit is GB/s of weights, scales included, read once a product: many products of one matrix in one submit,
//! the two sides turn and turn about, medians of five.

use beckon_shaders::kernels::attention::{self, AttentionParams, Span};
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
/// Name of attention's figures.
const ATTENTION: &str = "kernel.attention.rows_8";

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
    timed(gpu, n_times, &params, |recorder| {
        recorder.dispatch(kernel, &group, &of_kernel, of_kernel.workgroups(tiling));
    })
}

/// Seconds of one attention of a batch of candidates behind a shared prompt: SmolLM2's heads, 64 slots and 8 of its own a row.
fn attention_secs(gpu: &GpuContext, kernel: &Kernel) -> f64 {
    let (n_rows, n_heads, n_kv_heads, half_dim) = (8, 9, 3, 32);
    let params = gpu.buffer("params", 64 * 256, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
    let span = |row| Span { shared_end: 64, own_start: 64 + row * 8, own_len: 8, pad: 0 };
    let spans: Vec<Span> = (0..n_rows).map(span).collect();
    let width = 2 * half_dim as usize;
    let n = |heads: u32, rows: u32| (heads * rows) as usize * width;
    let buffers = [
        gpu.storage_with("spans", &spans),
        gpu.storage("qkv", n(n_heads + 2 * n_kv_heads, n_rows)),
        gpu.storage("keys", n(n_kv_heads, 128)),
        gpu.storage("values", n(n_kv_heads, 128)),
        gpu.storage("out", n(n_heads, n_rows)),
    ];
    let group = kernel.bind(gpu, &params, &buffers.each_ref());
    let of_kernel = AttentionParams { n_rows, n_heads, n_kv_heads, half_dim, scale: 0.125 };
    timed(gpu, 64, &params, |recorder| recorder.dispatch(kernel, &group, &of_kernel, of_kernel.workgroups()))
}

/// Seconds of one of `n_times` dispatches in one submit.
fn timed(gpu: &GpuContext, n_times: usize, params: &wgpu::Buffer, dispatch: impl Fn(&mut Recorder)) -> f64 {
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let mut recorder = Recorder::new(&mut encoder, Vec::new());
    (0..n_times).for_each(|_| dispatch(&mut recorder));
    gpu.queue.write_buffer(params, 0, &recorder.finish());
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
    if !SHAPES.iter().any(|shape| ROWS.iter().any(|rows| related(&name(*shape, *rows), &only)))
        && !related(ATTENTION, &only)
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
                let kernels = sides.map(|(tiling, variant)| compiled(&gpu, tiling, variant));
                let time = |side: usize| secs(&gpu, &kernels[side], sides[side].0, &operands, n_rows);
                let per_sec = |secs: f64| operands.n_bytes as f64 / secs / 1e9;
                contest(&gpu, (&name, "GB/s", rival_name), &time, &per_sec);
            }
        }
    }
    for variant in attention::SPEC.variants() {
        let name = format!("{ATTENTION}.{variant}");
        if !gpu.has(variant, 1) {
            eprintln!("{name} not run: {} has not what it needs", gpu.adapter_name());
        } else if name.contains(&only) {
            let kernels = [variant, Variant::PLAIN].map(|variant| {
                let kernels = ready(Kernel::compile(&gpu, &attention::SPEC.in_variant(variant), &[&[]]));
                kernels.expect("native").expect("compiles").remove(0)
            });
            let time = |side: usize| attention_secs(&gpu, &kernels[side]);
            contest(&gpu, (&name, "1/s", "plain kernel"), &time, &|secs| 1.0 / secs);
        }
    }
}

/// Whether one name is a part of the other: a figure's name begins with that of its shape.
fn related(name: &str, only: &str) -> bool {
    name.contains(only) || only.contains(name)
}

/// Prints a figure of two kernels that take turns; `time` gives a side's seconds, `figure` what is made of them.
fn contest(
    gpu: &GpuContext,
    (name, unit, rival_name): (&str, &str, &str),
    time: &dyn Fn(usize) -> f64,
    figure: &dyn Fn(f64) -> f64,
) {
    [0, 1].iter().for_each(|side| _ = time(*side)); // warm
    let (ours, rival): (Vec<f64>, Vec<f64>) = (0..N_REPEATS).map(|_| (time(0), time(1))).unzip();
    let (ours, rival) = (figure(median(ours)), figure(median(rival)));
    println!(
        r#"{{"name":"{name}","device":"{}","unit":"{unit}","ours":{ours},"rival":{rival},"rival_name":"{rival_name}","ratio":{}}}"#,
        gpu.adapter_name(),
        ours / rival
    );
}
