//! Every kernel against its CPU twin on a Vulkan adapter (lavapipe will do), over odd shapes, and a
//! perturbed copy of every kernel, which must not agree.

mod variants;

use beckon_shaders::kernels::attention::{self, AttentionParams, Span};
use beckon_shaders::kernels::embed::{self, EmbedParams};
use beckon_shaders::kernels::heads::{self, HeadsParams, Run};
use beckon_shaders::kernels::low_rank_down::{self, LowRankDownParams};
use beckon_shaders::kernels::low_rank_up::{self, LowRankUpParams};
use beckon_shaders::kernels::matmul::{self, MatmulParams};
use beckon_shaders::kernels::norm_gate_up::{self, NormGateUpParams};
use beckon_shaders::kernels::norm_matmul::{self, NormMatmulParams};
use beckon_shaders::kernels::norm_rows::{self, NormRowsParams};
use beckon_shaders::kernels::product::Tiling;
use beckon_shaders::kernels::rope_append::{self, RopeAppendParams, rotary_angles};
use beckon_shaders::kernels::sample::{self, Draw, SampleParams};
use beckon_shaders::kernels::silu_mul::{self, SiluMulParams};
use beckon_shaders::{
    GpuContext, Kernel, KernelSpec, PackedWeight, Product, Recorder, WeightFormat, WeightView, max_diff_within, ready,
};
use bytemuck::{Pod, cast_slice};
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

/// Largest absolute difference between kernel and twin; values are of order 1.
const TOLERANCE: f64 = 2e-5;

static GPU: LazyLock<GpuContext> = LazyLock::new(|| {
    let gpu = ready(GpuContext::request()).expect("native").expect("a Vulkan adapter");
    eprintln!("kernels run on {}", gpu.adapter_name());
    gpu
});

/// Deterministic values in [-1, 1).
struct Noise(u64);

impl Noise {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.word() as f32 / 2_147_483_648.0 - 1.0).collect()
    }

    /// A matrix with values of about 1; some scales are subnormal.
    fn weight(&mut self, format: WeightFormat, rows: usize, cols: usize) -> (Vec<u32>, Vec<u32>) {
        let (n_quants, n_scales) = format.words(rows * cols);
        match format {
            WeightFormat::F32 => (cast_slice(&self.floats(n_quants)).to_vec(), Vec::new()),
            // f16 0x2000 is 1/128; the subnormal 0x0200 is 3e-5
            WeightFormat::Q8 => {
                let scale = |word: u32| [0x2000_2000, 0x2100_2080, 0x0200_2000, 0xa000_2000][word as usize % 4];
                ((0..n_quants).map(|_| self.word()).collect(), (0..n_scales).map(|_| scale(self.word())).collect())
            }
            // scale 1/8 (0x3000), minimum about -1 (0xbc00)
            WeightFormat::Q4 => {
                let scale = |word: u32| [0xbc00_3000, 0xbb80_2f00, 0x3000_3000, 0xbc00_b000][word as usize % 4];
                ((0..n_quants).map(|_| self.word()).collect(), (0..n_scales).map(|_| scale(self.word())).collect())
            }
        }
    }
}

/// Kernels by source and constants: compiling takes longer than running.
static COMPILED: LazyLock<Mutex<HashMap<(String, String), Kernel>>> = LazyLock::new(Mutex::default);

fn compiled(spec: &KernelSpec, constants: &[(&str, f64)]) -> Kernel {
    let mut compiled = COMPILED.lock().expect("no test panicked while compiling");
    let compile = || ready(Kernel::compile(&GPU, spec, &[constants])).expect("native").expect("compiles").remove(0);
    compiled.entry((spec.source.to_string(), format!("{constants:?}"))).or_insert_with(compile).clone()
}

/// Runs one dispatch of `spec` and gives the buffers that it writes, in order of binding.
fn run<P: Pod>(
    spec: &KernelSpec,
    constants: &[(&str, f64)],
    params: &P,
    workgroups: [u32; 2],
    buffers: &[&[u32]],
) -> Vec<Vec<f32>> {
    let gpu = &*GPU;
    let kernel = compiled(spec, constants);
    let params_buffer = gpu.buffer("params", 256, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST);
    let storage: Vec<_> = buffers.iter().map(|b| gpu.storage_with("test", b)).collect();
    let group = kernel.bind(gpu, &params_buffer, &storage.iter().collect::<Vec<_>>());
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    let mut recorder = Recorder::new(&mut encoder, Vec::new());
    recorder.dispatch(&kernel, &group, params, workgroups);
    gpu.queue.write_buffer(&params_buffer, 0, &recorder.finish());
    let mut results = Vec::new();
    for (i, access) in spec.bindings.iter().enumerate() {
        if *access == beckon_shaders::Access::ReadWrite {
            let staging = gpu.buffer(
                "staging",
                buffers[i].len() * 4,
                wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            );
            encoder.copy_buffer_to_buffer(&storage[i], 0, &staging, 0, buffers[i].len() as u64 * 4);
            results.push((staging, buffers[i].len()));
        }
    }
    gpu.queue.submit([encoder.finish()]);
    results.iter().map(|(staging, n)| ready(gpu.read_f32(staging, *n)).expect("native").expect("readback")).collect()
}

fn words(values: &[f32]) -> &[u32] {
    cast_slice(values)
}

/// Compares one kernel, as `spec` has it, with its twin over its shapes.
type Check = fn(&KernelSpec) -> Result<f64, String>;

fn check_embed(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for format in WeightFormat::ALL {
        for (rows, cols, ids) in [(1, 32, vec![0]), (37, 96, vec![36, 0, 99, 33]), (3, 544, vec![2; 5])] {
            let (quants, scales) = Noise(rows as u64).weight(format, rows, cols);
            let table = WeightView { format, rows, cols, quants: &quants, scales: &scales };
            let params = EmbedParams { n_rows: ids.len() as u32, cols: cols as u32, n_table_rows: rows as u32 };
            let mut want = vec![0.0; ids.len() * cols];
            embed::embed(&params, &table, &ids, &mut want);
            let out = vec![0; want.len()];
            let constants = [("FORMAT", format.wgsl_value())];
            let packed = PackedWeight::stacked(&[table]);
            let buffers = [&packed.quants[..], &packed.scales, &ids, &out];
            let got = run(spec, &constants, &params, params.workgroups(), &buffers);
            let name = format!("embed {format:?} {rows} x {cols}");
            worst = worst.max(max_diff_within(&name, &got[0], &want, TOLERANCE)?);
        }
    }
    Ok(worst)
}

fn check_norm_rows(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for (n_x_rows, cols, rows) in [(1, 32, vec![0]), (3, 96, vec![2, 0, 7]), (5, 544, vec![1, 4]), (2, 1024, vec![1])] {
        let mut noise = Noise(cols as u64);
        let (x, gain) = (noise.floats(n_x_rows * cols), noise.floats(cols));
        let (n_rows, n_x_rows) = (rows.len() as u32, n_x_rows as u32);
        let params = NormRowsParams { n_rows, cols: cols as u32, n_x_rows, eps: 1e-5 };
        let mut want = vec![0.0; rows.len() * cols];
        norm_rows::norm_rows(&params, &rows, &x, &gain, &mut want);
        let out = vec![0; want.len()];
        let got = run(spec, &[], &params, params.workgroups(), &[&rows, words(&x), words(&gain), &out]);
        worst = worst.max(max_diff_within(&format!("norm_rows {n_x_rows} x {cols}"), &got[0], &want, TOLERANCE)?);
    }
    Ok(worst)
}

/// Rows, inputs and outputs of products: tiles and row groups that are not full, and some that are.
const PRODUCTS: [(usize, usize, usize); 7] =
    [(1, 32, 1), (1, 320, 33), (3, 96, 7), (4, 64, 50), (8, 32, 320), (9, 160, 31), (17, 64, 100)];

/// A product's shape with random operands.
struct Case<'a> {
    n_rows: usize,
    cols: usize,
    x: &'a [f32],
    gain: &'a [f32],
    weight: WeightView<'a>,
    packed: &'a PackedWeight,
}

/// Calls `compare` for every format, shape and tiling; `n_weights` of a number of outputs.
fn over_products(
    product: Product,
    n_weights: fn(usize) -> usize,
    compare: &dyn Fn(&Case, &[(&str, f64)], &Tiling, &str) -> Result<f64, String>,
) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for format in WeightFormat::ALL {
        for (n_rows, cols, n_outputs) in PRODUCTS {
            let rows = n_weights(n_outputs);
            let mut noise = Noise((n_rows * cols) as u64);
            let (x, gain) = (noise.floats(n_rows * cols), noise.floats(cols));
            let (quants, scales) = noise.weight(format, rows, cols);
            let weight = WeightView { format, rows, cols, quants: &quants, scales: &scales };
            let packed = PackedWeight::stacked(&[weight]);
            let case = Case { n_rows, cols, x: &x, gain: &gain, weight, packed: &packed };
            for tiling in [false, true].into_iter().flat_map(|software| product.tilings(Tiling::for_adapter(software)))
            {
                let name = format!("{product:?} {format:?} {n_rows} x {cols} x {rows}, {tiling:?}");
                let [r, o, l] = tiling.constants();
                let constants = [("FORMAT", format.wgsl_value()), r, o, l];
                worst = worst.max(compare(&case, &constants, &tiling, &name)?);
            }
        }
    }
    Ok(worst)
}

// the tolerances of products allow for sums of up to 320 products of order 1

fn check_matmul(spec: &KernelSpec) -> Result<f64, String> {
    over_products(Product::Matmul, |n| n, &|case, constants, tiling, name| {
        let mut worst = 0.0f64;
        for accumulate in [0, 1] {
            let n_outputs = case.weight.rows as u32;
            let params = MatmulParams {
                n_rows: case.n_rows as u32,
                cols: case.cols as u32,
                n_outputs,
                out_stride: n_outputs + 5,
                out_offset: 3,
                accumulate,
            };
            let before = Noise(7).floats(case.n_rows * params.out_stride as usize);
            let mut want = before.clone();
            matmul::matmul(&params, &case.weight, case.x, &mut want);
            let buffers = [&case.packed.quants[..], &case.packed.scales, words(case.x), words(&before)];
            let got = run(spec, constants, &params, params.workgroups(tiling), &buffers);
            worst = worst.max(max_diff_within(name, &got[0], &want, 5.0 * TOLERANCE)?);
        }
        Ok(worst)
    })
}

fn check_norm_matmul(spec: &KernelSpec) -> Result<f64, String> {
    over_products(Product::NormMatmul, |n| n, &|case, constants, tiling, name| {
        let (n_rows, n_outputs) = (case.n_rows as u32, case.weight.rows as u32);
        let params = NormMatmulParams { n_rows, cols: case.cols as u32, n_outputs, eps: 1e-2 };
        let mut want = vec![0.0; case.n_rows * case.weight.rows];
        norm_matmul::norm_matmul(&params, &case.weight, case.x, case.gain, &mut want);
        let out = vec![0; want.len()];
        let buffers = [&case.packed.quants[..], &case.packed.scales, words(case.x), words(case.gain), &out];
        let got = run(spec, constants, &params, params.workgroups(tiling), &buffers);
        max_diff_within(name, &got[0], &want, 10.0 * TOLERANCE)
    })
}

fn check_norm_gate_up(spec: &KernelSpec) -> Result<f64, String> {
    over_products(Product::NormGateUp, |n| 2 * n.next_multiple_of(32), &|case, constants, tiling, name| {
        let (n_rows, n_outputs) = (case.n_rows as u32, case.weight.rows as u32 / 2);
        let params = NormGateUpParams { n_rows, cols: case.cols as u32, n_outputs, eps: 1e-2 };
        let mut want = vec![0.0; case.n_rows * n_outputs as usize];
        norm_gate_up::norm_gate_up(&params, &case.weight, case.x, case.gain, &mut want);
        let out = vec![0; want.len()];
        let buffers = [&case.packed.quants[..], &case.packed.scales, words(case.x), words(case.gain), &out];
        let got = run(spec, constants, &params, params.workgroups(tiling), &buffers);
        // products of two sums of order 10
        max_diff_within(name, &got[0], &want, 100.0 * TOLERANCE)
    })
}

fn check_rope_append(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for (n_heads, n_kv_heads, half) in [(1, 1, 1), (4, 2, 5), (6, 3, 16), (2, 1, 128)] {
        let slots = [4u32, 0, 2];
        let kv_width = n_kv_heads * 2 * half;
        let mut noise = Noise(half as u64);
        let qkv = noise.floats(slots.len() * (n_heads + 2 * n_kv_heads) * 2 * half);
        let (keys, values) = (noise.floats(5 * kv_width), noise.floats(5 * kv_width));
        let frequencies: Vec<f64> = (0..half).map(|i| 10_000f64.powf(-(i as f64) / half as f64)).collect();
        let rotary: Vec<_> = [7, 0, 4000].into_iter().flat_map(|p| rotary_angles(p, &frequencies)).collect();
        let params = RopeAppendParams {
            n_rows: slots.len() as u32,
            n_heads: n_heads as u32,
            n_kv_heads: n_kv_heads as u32,
            half_dim: half as u32,
        };
        let mut want = [qkv.clone(), keys.clone(), values.clone()];
        let [q, k, v] = &mut want;
        rope_append::rope_append(&params, &rotary, &slots, q, k, v);
        let buffers = [cast_slice(&rotary), &slots[..], words(&qkv), words(&keys), words(&values)];
        let got = run(spec, &[], &params, params.workgroups(), &buffers);
        for (name, (got, want)) in ["qkv", "keys", "values"].iter().zip(got.iter().zip(&want)) {
            let name = format!("rope_append {name} of {n_heads}, {n_kv_heads} heads by {half}");
            worst = worst.max(max_diff_within(&name, got, want, TOLERANCE)?);
        }
    }
    Ok(worst)
}

fn check_attention(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    let span = |shared_end, own_start, own_len| Span { shared_end, own_start, own_len, pad: 0 };
    for (n_heads, n_kv_heads, half) in [(1, 1, 1), (4, 2, 5), (6, 3, 16), (2, 1, 128)] {
        let spans = [span(1, 0, 0), span(64, 0, 0), span(65, 150, 3), span(0, 190, 1), span(130, 140, 60)];
        let n_slots = 200;
        let kv_width = n_kv_heads * 2 * half;
        let mut noise = Noise(half as u64);
        let qkv: Vec<f32> = noise.floats(spans.len() * (n_heads + 2 * n_kv_heads) * 2 * half);
        // large scores, so that the running maximum matters
        let keys: Vec<f32> = noise.floats(n_slots * kv_width).iter().map(|k| 20.0 * k).collect();
        let values = noise.floats(n_slots * kv_width);
        let params = AttentionParams {
            n_rows: spans.len() as u32,
            n_heads: n_heads as u32,
            n_kv_heads: n_kv_heads as u32,
            half_dim: half as u32,
            scale: 1.0 / (2.0 * half as f32).sqrt(),
        };
        let mut want = vec![0.0; spans.len() * n_heads * 2 * half];
        attention::attention(&params, &spans, &qkv, &keys, &values, &mut want);
        let out = vec![0; want.len()];
        let buffers = [cast_slice(&spans), words(&qkv), words(&keys), words(&values), &out];
        let got = run(spec, &[], &params, params.workgroups(), &buffers);
        let name = format!("attention of {n_heads}, {n_kv_heads} heads by {half}");
        worst = worst.max(max_diff_within(&name, &got[0], &want, 2.0 * TOLERANCE)?);
    }
    Ok(worst)
}

fn check_heads(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for (cols, n_features, lens) in
        [(32, 1, vec![1u32]), (96, 5, vec![3, 1, 7]), (64, 62, vec![2, 9]), (544, 70, vec![4, 1, 1, 12, 2, 3, 5, 6])]
    {
        let mut noise = Noise(cols as u64);
        let n_rows = lens.iter().sum::<u32>() as usize;
        let (hidden, mut weights) = (noise.floats(n_rows * cols), noise.floats(cols * (3 + n_features)));
        weights.iter_mut().for_each(|weight| *weight *= 0.1); // so that squares are of order 1
        let params = HeadsParams {
            n_seqs: lens.len() as u32,
            cols: cols as u32,
            n_features: n_features as u32,
            mean_bias: 0.5,
            variance_bias: -0.25,
        };
        // all rows at once, and after as many as each has but one
        let mut first = 0;
        let whole = lens.iter().map(|len| {
            let run = Run { first, n_rows: *len, n_before: 0, pad: 0 };
            first += len;
            run
        });
        let whole: Vec<Run> = whole.collect();
        let last = whole.iter().map(|run| Run { first: run.first, n_rows: 1, n_before: run.n_rows - 1, ..*run });
        let last: Vec<Run> = last.collect();
        for runs in [whole, last] {
            let before = noise.floats(lens.len() * cols);
            let (mut sums, mut want) = (before.clone(), vec![0.0; lens.len() * heads::OUTPUTS]);
            heads::heads(&params, &runs, &hidden, &weights, &mut sums, &mut want);
            let out = vec![0; want.len()];
            let buffers = [cast_slice(&runs), words(&hidden), words(&weights), words(&before), &out];
            let got = run(spec, &[], &params, params.workgroups(), &buffers);
            let name = format!("heads of {} x {cols}, {n_features} features", lens.len());
            worst = worst.max(max_diff_within(&format!("{name}, sums"), &got[0], &sums, TOLERANCE)?);
            worst = worst.max(max_diff_within(&name, &got[1], &want, 5.0 * TOLERANCE)?);
        }
    }
    Ok(worst)
}

fn check_low_rank_down(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for (n_rows, cols, rank) in [(1, 32, 1), (3, 96, 5), (8, 544, 16), (17, 64, 33)] {
        let mut noise = Noise(cols as u64);
        let (a, x) = (noise.floats(rank * cols), noise.floats(n_rows * cols));
        let params = LowRankDownParams { n_rows: n_rows as u32, cols: cols as u32, rank: rank as u32 };
        let mut want = vec![0.0; n_rows * rank];
        low_rank_down::low_rank_down(&params, &a, &x, &mut want);
        let out = vec![0; want.len()];
        let got = run(spec, &[], &params, params.workgroups(), &[words(&a), words(&x), &out]);
        let name = format!("low_rank_down {n_rows} x {cols} x {rank}");
        worst = worst.max(max_diff_within(&name, &got[0], &want, 2.0 * TOLERANCE)?);
    }
    Ok(worst)
}

fn check_low_rank_up(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for (n_rows, rank, n_outputs, out_stride, out_offset) in
        [(1, 1, 1, 1, 0), (3, 5, 65, 70, 2), (8, 16, 100, 200, 100), (2, 33, 64, 64, 0)]
    {
        let mut noise = Noise(u64::from(rank));
        let params = LowRankUpParams { n_rows, rank, n_outputs, out_stride, out_offset, scale: 0.75 };
        let (b, t) = (noise.floats((n_outputs * rank) as usize), noise.floats((n_rows * rank) as usize));
        let before = noise.floats((n_rows * out_stride) as usize);
        let mut want = before.clone();
        low_rank_up::low_rank_up(&params, &b, &t, &mut want);
        let got = run(spec, &[], &params, params.workgroups(), &[words(&b), words(&t), words(&before)]);
        let name = format!("low_rank_up {n_rows} x {rank} x {n_outputs}");
        worst = worst.max(max_diff_within(&name, &got[0], &want, TOLERANCE)?);
    }
    Ok(worst)
}

fn check_silu_mul(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for (n_rows, cols) in [(1u32, 4u32), (3, 64), (5, 100)] {
        let params = SiluMulParams { n_rows, cols };
        let mut gate_up = Noise(u64::from(cols)).floats((n_rows * 2 * cols) as usize);
        (gate_up[0], gate_up[1]) = (-200.0, 200.0);
        let mut want = vec![0.0; (n_rows * cols) as usize];
        silu_mul::silu_mul(&params, &gate_up, &mut want);
        let out = vec![0; want.len()];
        let got = run(spec, &[], &params, params.workgroups(), &[words(&gate_up), &out]);
        worst = worst.max(max_diff_within(&format!("silu_mul {n_rows} x {cols}"), &got[0], &want, 5.0 * TOLERANCE)?);
    }
    Ok(worst)
}

/// How far a uniform number may lie outside of the part of [0, 1) that belongs to its token.
const DRAW_TOLERANCE: f64 = 1e-4;

fn check_sample(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    let settings = [(0, 1.0, 1.0), (0, 1.0, 0.0), (7, 1.0, 1.25), (0, 0.9, 0.8), (40, 0.95, 1.25), (1, 0.5, 1.0)];
    for vocab_size in [1u32, 5, 283, 1031] {
        for (top_k, top_p, steepness) in settings {
            let n_rows = 5;
            let params = SampleParams { n_rows, vocab_size, top_k, first_draw: 3, top_p, steepness };
            let mut noise = Noise(u64::from(vocab_size));
            // steps of 1/4, so that many logits are equal; some of both zeros, some impossible
            let mut logits: Vec<f32> = noise.floats((n_rows * vocab_size) as usize);
            logits.iter_mut().for_each(|l| *l = (*l * 24.0).round() / 4.0);
            logits.iter_mut().skip(6).step_by(9).for_each(|l| *l = f32::NEG_INFINITY);
            logits.iter_mut().skip(4).step_by(7).for_each(|l| *l = -0.0);
            logits
                .iter_mut()
                .skip(2 * vocab_size as usize)
                .take(vocab_size as usize)
                .for_each(|l| *l = -l.abs() - 0.25);
            let uniforms: Vec<f32> = noise.floats(8).iter().map(|u| u.abs()).collect();
            let got =
                run(spec, &[], &params, params.workgroups(), &[words(&logits), words(&uniforms), &[9; 5], &[7; 32]]);
            let bits: Vec<u32> = got[1].iter().map(|value| value.to_bits()).collect();
            let draws: &[Draw] = cast_slice(&bits);
            let (mut ids, mut want) = ([9; 5], [7; 32]);
            sample::sample(&params, &logits, &uniforms, &mut ids, bytemuck::cast_slice_mut(&mut want));
            let name = format!("sample of {vocab_size}, top_k {top_k}, top_p {top_p}, steepness {steepness}");
            if bits[..12] != want[..12] || got[0].iter().zip(&draws[3..]).any(|(id, draw)| id.to_bits() != draw.token) {
                return Err(format!("{name}: ids {:?}, draws {draws:?}", got[0]));
            }
            for (row, draw) in draws[3..].iter().enumerate() {
                let own = &logits[row * vocab_size as usize..][..vocab_size as usize];
                let interval = sample::interval(&params, own, draw.token as usize);
                let uniform = f64::from(uniforms[3 + row]);
                let outside = (interval.start - uniform).max(uniform - interval.end).max(0.0);
                if interval.is_empty() || steepness > 0.0 && !(outside <= DRAW_TOLERANCE) {
                    return Err(format!("{name}: row {row} drew {} of {interval:?} at {uniform}", draw.token));
                }
                let exact = own.iter().map(|l| f64::from(*l).exp()).sum::<f64>().ln();
                let logp = f64::from(own[draw.token as usize]) - exact;
                let name = format!("{name}: logp of row {row}");
                worst =
                    worst.max(max_diff_within(&name, &[f32::from_bits(draw.logp_bits)], &[logp as f32], TOLERANCE)?);
            }
        }
    }
    // what is no logit is named, and nothing is drawn from it or from nothing
    let (none, nan) = (f32::NEG_INFINITY, f32::NAN);
    let logits = [0.0, 1.0, nan, f32::INFINITY, none, none, none, none, 0.0, f32::INFINITY, nan, 2.0];
    let params = SampleParams { n_rows: 3, vocab_size: 4, top_k: 0, first_draw: 0, top_p: 1.0, steepness: 1.0 };
    let got = run(spec, &[], &params, params.workgroups(), &[words(&logits), &[0; 3], &[0; 3], &[0; 12]]);
    let (mut ids, mut want) = ([0; 3], [0; 12]);
    sample::sample(&params, &logits, &[0.0; 3], &mut ids, bytemuck::cast_slice_mut(&mut want));
    let of_rows = |words: &[u32]| words.chunks(4).map(|w| [w[0], w[3]]).collect::<Vec<_>>();
    let bits: Vec<u32> = got[1].iter().map(|value| value.to_bits()).collect();
    if of_rows(&bits) != of_rows(&want) {
        return Err(format!("sample of what is no logit: {bits:x?}, expected {want:x?}"));
    }
    Ok(worst)
}

/// Kernel, its check, and edits that a careless hand could make; each must be noticed.
type Edited = (&'static KernelSpec, Check, &'static [(&'static str, &'static str)]);

const KERNELS: [Edited; 12] = [
    (
        &low_rank_down::SPEC,
        check_low_rank_down,
        &[("i = 1u; i < THREADS", "i = 2u; i < THREADS"), ("group.x * quads + i", "i")],
    ),
    (
        &low_rank_up::SPEC,
        check_low_rank_up,
        &[("params.scale * sum", "sum"), ("params.out_offset + n", "n"), ("k < params.rank", "k + 1u < params.rank")],
    ),
    (
        &heads::SPEC,
        check_heads,
        &[
            ("sum = sums[sums_at + i]", "sum = 0.0"),
            ("run.z > 0u", "run.z > 9u"),
            ("f32(run.y + run.z)", "f32(run.y)"),
            ("0.0, k < 2u", "0.0, k < 1u"),
            ("1.0, 0.0, k < 2u", "1.0, 1.0, k < 2u"),
            ("product + params.mean_bias", "product"),
            ("product + params.variance_bias", "product + params.mean_bias"),
            ("squares += product * product", "squares = product * product"),
            ("k < 2u + params.n_features", "k < 1u + params.n_features"),
        ],
    ),
    (
        &silu_mul::SPEC,
        check_silu_mul,
        &[("1.0 + exp", "1.01 + exp"), ("(group.y * 2u + 1u) * params.cols", "group.y * 2u * params.cols")],
    ),
    (
        &embed::SPEC,
        check_embed,
        &[
            ("16u, 20u, 24u, 28u", "16u, 24u, 20u, 28u"),
            ("out[at + 1u] = vec4<f32>(values.hi)", "out[at] = vec4<f32>(values.hi)"),
        ],
    ),
    (&norm_rows::SPEC, check_norm_rows, &[("+ params.eps", "+ 2e-4"), ("* scale * gain[i]", "* scale")]),
    (
        &matmul::SPEC,
        check_matmul,
        &[
            ("8u, 12u)) * scale.x + scale.y", "8u, 12u)) * scale.x - scale.y"),
            ("bytes_of(quants[at + TILE])", "bytes_of(quants[at])"),
            ("vec4<u32>(16u, 20u, 24u, 28u)", "vec4<u32>(16u, 20u, 28u, 24u)"),
            ("block += LANES", "block += LANES + 1u"),
            ("for (var i = 1u; i < LANES", "for (var i = 2u; i < LANES"),
            ("params.accumulate == 1u", "params.accumulate == 0u"),
            ("dot(w.o3.hi, hi)", "dot(w.o2.hi, hi)"),
            ("with_row((*rows).r6, w, place.rows_b.z", "with_row((*rows).r6, w, place.rows_b.y"),
            ("store(start, first + 5u * TILE, sums.b.y)", "store(start, first + 5u * TILE, sums.b.x)"),
        ],
    ),
    (
        &norm_matmul::SPEC,
        check_norm_matmul,
        &[
            ("+ params.eps", "+ 2e-2"),
            ("hi *= gain.hi", "hi *= gain.lo"),
            ("sums.square += dot(lo, lo) + dot(hi, hi)", "sums.square += dot(lo, lo)"),
            ("store(start, first + 3u * TILE, sums.a.w * scale)", "store(start, first + 3u * TILE, sums.a.w)"),
        ],
    ),
    (
        &norm_gate_up::SPEC,
        check_norm_gate_up,
        &[
            ("1.0 + exp", "1.01 + exp"),
            ("places % half", "places"),
            (
                "store(start, first + TILE, sums.a.y * scale, sums.a.w * scale)",
                "store(start, first + TILE, sums.a.y * scale, sums.a.z * scale)",
            ),
            ("sums.a.w * scale, sums.b.w * scale", "sums.b.w * scale, sums.a.w * scale"),
        ],
    ),
    (
        &rope_append::SPEC,
        check_rope_append,
        &[("- pair.y * turn.y", "+ pair.y * turn.y"), ("head - n_heads) * head_dim", "head - n_kv_heads) * head_dim")],
    ),
    (
        &sample::SPEC,
        check_sample,
        &[
            ("bits ^ NONE, bits > ZERO", "bits ^ NONE, bits > NONE"),
            ("ZERO, bits == ZERO", "NONE, bits == ZERO"),
            ("ceil(parts)", "floor(parts)"),
            ("floor(parts) + 1.0", "floor(parts)"),
            ("key = max(key, most.key)", "key = min(key, most.key)"),
            ("|| (bits & 0x7fffffffu) > 0x7f800000u", ""),
            ("|| top <= LOWEST", ""),
            ("params.top_p * kept.mass", "params.top_p * all.mass"),
            ("n_last = min(n_last, most.n_last)", "n_last = most.n_last"),
            ("before <= enough", "before < enough"),
            ("- peak - log(mass)", "- log(mass)"),
            ("mass > vec4<f32>(enough)", "mass > vec4<f32>(enough + 1.0)"),
        ],
    ),
    (
        &attention::SPEC,
        check_attention,
        &[
            ("mass * shrink", "mass"),
            ("span.y + i - span.x", "span.y + i"),
            ("n_heads / params.n_kv_heads)", "n_heads)"),
        ],
    ),
];

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn every_kernel_agrees_with_its_twin() {
    for (spec, check, _) in KERNELS {
        match check(spec) {
            Ok(worst) => eprintln!("{}: largest difference {worst:.1e}", spec.name),
            Err(why) => panic!("{why}"),
        }
    }
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn a_perturbed_kernel_does_not() {
    for (spec, check, edits) in KERNELS {
        for (from, to) in edits {
            assert!(spec.source.contains(from), "{}: no `{from}`", spec.name);
            let perturbed = KernelSpec { source: spec.source.replace(from, to).into(), ..spec.clone() };
            assert!(check(&perturbed).is_err(), "{}: `{from}` made `{to}` went unnoticed", spec.name);
        }
    }
}
