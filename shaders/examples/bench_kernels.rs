//! The 4-bit product on the native adapter, shape by shape: the tiling that the adapter gets against the other one and against
//! what the adapter can read at most, and each variant of the kernel against the plain one in the same tiling (subgroups in
//! that of a GPU, the other has no lanes); attention in its variant against the plain one.
//!
//! One JSON line a figure, `name, device, unit, ours, rival, rival_name, ratio`; `cargo xtask bench kernel` runs it.
//! The unit is GB/s of weights, scales included, read once a product: many products of one matrix in one submit,
//! the two sides turn and turn about, medians of five. The ratio of a figure `….of_peak` is the share of the peak: of the speed at
//! which a kernel that does nothing else reads the same weights, as often, from wherever in the caches they are by then.
//! `kernel.read.memory` is that kernel over [`MEMORY`] bytes, more than caches hold.

use beckon_shaders::kernels::attention::{self, AttentionParams, Span};
use beckon_shaders::kernels::matmul::MatmulParams;
use beckon_shaders::kernels::product::Tiling;
use beckon_shaders::{
    Access, GpuContext, Kernel, KernelSpec, PackedWeight, Product, Recorder, Variant, WeightFormat, WeightView, ready,
};
use std::borrow::Cow;
use std::time::Instant;

/// Inputs and outputs.
const SHAPES: [(usize, usize); 4] = [(576, 576), (576, 1536), (1536, 576), (576, 49_152)];
/// Rows of x.
const ROWS: [usize; 3] = [1, 8, 64];
/// Multiplications of one submit, about: on a CPU in disguise, and on a GPU, where less is lost in the way there and back.
const BUDGETS: [usize; 2] = [1 << 28, 1 << 34];
const N_REPEATS: usize = 5;
/// Name of attention's figures.
const ATTENTION: &str = "kernel.attention.rows_8";
/// Name of the adapter's speed over [`MEMORY`].
const MEMORY_READ: &str = "kernel.read.memory";
/// Bytes, where the adapter binds as many.
const MEMORY: u64 = 256 << 20;
/// Invocations of a workgroup of [`READ`].
const READERS: u32 = 256;
/// Invocations that keep any adapter busy; beyond them each reads more.
const MANY_READERS: u32 = 1 << 18;

/// Reads two buffers and nothing else; what it would write is never due, but no compiler knows.
const READ: KernelSpec = KernelSpec {
    name: "read",
    source: Cow::Borrowed(
        "struct Params { n_a: u32, n_b: u32, n_each: u32, pad: u32 }
        @group(0) @binding(0) var<uniform> params: Params;
        @group(0) @binding(1) var<storage, read> a: array<vec4<u32>>;
        @group(0) @binding(2) var<storage, read> b: array<vec4<u32>>;
        @group(0) @binding(3) var<storage, read_write> out: array<u32>;
        @compute @workgroup_size(256)
        fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) reader: u32) {
            var sum = vec4<u32>();
            for (var k = 0u; k < params.n_each; k++) {
                let i = (group.x * params.n_each + k) * 256u + reader;
                if i < params.n_a { sum += a[i]; } else if i - params.n_a < params.n_b { sum += b[i - params.n_a]; }
            }
            if all(sum == vec4<u32>(0x9e3779b9u)) { out[0] = sum.x; }
        }
        ",
    ),
    bindings: &[Access::Read, Access::Read, Access::ReadWrite],
    params_bytes: 16,
};

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

/// Products of one submit.
fn n_times(gpu: &GpuContext, operands: &Operands, n_rows: usize) -> usize {
    let budget = BUDGETS[usize::from(!gpu.is_software())];
    (budget / (operands.cols as usize * operands.n_outputs as usize * n_rows)).clamp(1, 64)
}

/// Seconds of one product.
fn secs(gpu: &GpuContext, kernel: &Kernel, tiling: &Tiling, operands: &Operands, n_rows: usize) -> f64 {
    let (cols, n_outputs, n_rows) = (operands.cols, operands.n_outputs, n_rows as u32);
    let n_times = n_times(gpu, operands, n_rows as usize);
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

/// Seconds of reading two buffers once.
fn read_secs(gpu: &GpuContext, kernel: &Kernel, buffers: [&wgpu::Buffer; 2], n_times: usize) -> f64 {
    let params = gpu.buffer("params", 64 * 256, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
    let out = gpu.storage("out", 1);
    let [n_a, n_b] = buffers.map(|buffer| (buffer.size() / 16) as u32);
    let n_each = ((n_a + n_b) / MANY_READERS).clamp(1, 8);
    let n_groups = (n_a + n_b).div_ceil(READERS * n_each);
    let group = kernel.bind(gpu, &params, &[buffers[0], buffers[1], &out]);
    timed(gpu, n_times, &params, |recorder| {
        recorder.dispatch(kernel, &group, &[n_a, n_b, n_each, 0], [n_groups, 1]);
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
    let is_of_product = SHAPES.iter().any(|shape| ROWS.iter().any(|rows| related(&name(*shape, *rows), &only)));
    if !is_of_product && !related(ATTENTION, &only) && !related(MEMORY_READ, &only) {
        return;
    }
    let gpu = match ready(GpuContext::request()).expect("native") {
        Ok(gpu) => gpu,
        Err(why) => return eprintln!("not run on a gpu: {why}"),
    };
    let read = ready(Kernel::compile(&gpu, &READ, &[&[]])).expect("native").expect("compiles").remove(0);
    if MEMORY_READ.contains(&only) {
        memory(&gpu, &read);
    }
    for shape in SHAPES {
        let operands = operands(&gpu, shape.0, shape.1);
        for n_rows in ROWS {
            of_product(&gpu, &read, &operands, (&name(shape, n_rows), n_rows), &only);
        }
    }
    of_attention(&gpu, &only);
}

/// How fast the adapter reads what its caches do not hold.
fn memory(gpu: &GpuContext, read: &Kernel) {
    let n_bytes = MEMORY.min(gpu.device.limits().max_storage_buffer_binding_size);
    // half of them in each buffer
    let halves = ["a", "b"].map(|label| gpu.storage(label, n_bytes as usize / 8));
    let secs = || read_secs(gpu, read, halves.each_ref(), 4);
    secs(); // warm
    let per_sec = n_bytes as f64 / median((0..N_REPEATS).map(|_| secs()).collect()) / 1e9;
    println!(r#"{{"name":"{MEMORY_READ}","device":"{}","unit":"GB/s","ours":{per_sec}}}"#, gpu.adapter_name());
}

/// The figures of the product with one matrix for a number of rows.
fn of_product(gpu: &GpuContext, read: &Kernel, operands: &Operands, (name, n_rows): (&str, usize), only: &str) {
    let tilings = [gpu.is_software(), !gpu.is_software()].map(Tiling::for_adapter);
    let other = if gpu.is_software() { "tiling of a GPU" } else { "tiling of a CPU" };
    let [own, foreign] = tilings.each_ref().map(|tilings| Tiling::choose(tilings, n_rows));
    let plain = Variant::PLAIN;
    let per_sec = |secs: f64| operands.n_bytes as f64 / secs / 1e9;
    let mut contests = vec![(name.to_owned(), [(own, plain), (foreign, plain)], other)];
    for variant in Product::Matmul.spec().variants() {
        let tiling = if variant.subgroups { Tiling::choose(&Tiling::PARALLEL, n_rows) } else { own };
        let name = format!("{name}.{}", variant.to_string().replace(' ', "_"));
        if gpu.has(variant, tiling.lanes) {
            contests.push((name, [(tiling, variant), (tiling, plain)], "plain kernel"));
        } else {
            eprintln!("{name} not run: {} has not what it needs", gpu.adapter_name());
        }
    }
    for (name, sides, rival_name) in contests.into_iter().filter(|(name, ..)| name.contains(only)) {
        let kernels = sides.map(|(tiling, variant)| compiled(gpu, tiling, variant));
        let time = |side: usize| secs(gpu, &kernels[side], sides[side].0, operands, n_rows);
        contest(gpu, (&name, "GB/s", rival_name), &time, &per_sec);
    }
    let name = format!("{name}.of_peak");
    if name.contains(only) {
        let kernel = compiled(gpu, own, plain);
        let n_times = n_times(gpu, operands, n_rows);
        let time = |side: usize| match side {
            0 => secs(gpu, &kernel, own, operands, n_rows),
            _ => read_secs(gpu, read, operands.weights.each_ref(), n_times),
        };
        contest(gpu, (&name, "GB/s", "nothing but reading the weights"), &time, &per_sec);
    }
}

/// The figures of attention.
fn of_attention(gpu: &GpuContext, only: &str) {
    for variant in attention::SPEC.variants() {
        let name = format!("{ATTENTION}.{variant}");
        if !gpu.has(variant, 1) {
            eprintln!("{name} not run: {} has not what it needs", gpu.adapter_name());
        } else if name.contains(only) {
            let kernels = [variant, Variant::PLAIN].map(|variant| {
                let kernels = ready(Kernel::compile(gpu, &attention::SPEC.in_variant(variant), &[&[]]));
                kernels.expect("native").expect("compiles").remove(0)
            });
            let time = |side: usize| attention_secs(gpu, &kernels[side]);
            contest(gpu, (&name, "1/s", "plain kernel"), &time, &|secs| 1.0 / secs);
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
