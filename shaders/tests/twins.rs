//! Every kernel against its CPU twin on a Vulkan adapter (lavapipe will do), over odd shapes, and a
//! perturbed copy of every kernel, which must not agree.

use beckon_shaders::kernels::attention::{self, AttentionParams, Span};
use beckon_shaders::kernels::embed::{self, EmbedParams};
use beckon_shaders::kernels::matmul::{self, MatmulParams};
use beckon_shaders::kernels::rms_norm::{self, RmsNormParams};
use beckon_shaders::kernels::rope_append::{self, RopeAppendParams, rotary_angles};
use beckon_shaders::kernels::silu_mul::{self, SiluMulParams};
use beckon_shaders::{GpuContext, Kernel, KernelSpec, Recorder, WeightFormat, WeightView, max_diff_within, ready};
use bytemuck::{Pod, cast_slice};
use std::sync::LazyLock;

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

/// Runs one dispatch of `spec` and gives the buffers that it writes, in order of binding.
fn run<P: Pod>(
    spec: &KernelSpec,
    constants: &[(&str, f64)],
    params: &P,
    workgroups: [u32; 2],
    buffers: &[&[u32]],
) -> Vec<Vec<f32>> {
    let gpu = &*GPU;
    let kernel = ready(Kernel::compile(gpu, spec, &[constants])).expect("native").expect("compiles").remove(0);
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
        for (rows, cols, ids) in [(1, 32, vec![0]), (7, 96, vec![6, 0, 99, 3]), (3, 544, vec![2; 5])] {
            let (quants, scales) = Noise(rows as u64).weight(format, rows, cols);
            let table = WeightView { format, rows, cols, quants: &quants, scales: &scales };
            let params = EmbedParams { n_rows: ids.len() as u32, cols: cols as u32, n_table_rows: rows as u32 };
            let mut want = vec![0.0; ids.len() * cols];
            embed::embed(&params, &table, &ids, &mut want);
            let out = vec![0; want.len()];
            let constants = [("FORMAT", format.wgsl_value())];
            let got = run(spec, &constants, &params, params.workgroups(), &[&quants, &scales, &ids, &out]);
            let name = format!("embed {format:?} {rows} x {cols}");
            worst = worst.max(max_diff_within(&name, &got[0], &want, TOLERANCE)?);
        }
    }
    Ok(worst)
}

fn check_rms_norm(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for (n_rows, cols) in [(1, 32), (3, 96), (5, 544), (2, 1024)] {
        let mut noise = Noise(cols as u64);
        let (x, weight) = (noise.floats(n_rows * cols), noise.floats(cols));
        let params = RmsNormParams { n_rows: n_rows as u32, cols: cols as u32, eps: 1e-5 };
        let mut want = vec![0.0; x.len()];
        rms_norm::rms_norm(&params, &x, &weight, &mut want);
        let out = vec![0; x.len()];
        let got = run(spec, &[], &params, params.workgroups(), &[words(&x), words(&weight), &out]);
        worst = worst.max(max_diff_within(&format!("rms_norm {n_rows} x {cols}"), &got[0], &want, TOLERANCE)?);
    }
    Ok(worst)
}

fn check_matmul(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    // the tolerance allows for sums of up to 320 products of order 1
    let shapes = [(1, 32, 1), (1, 320, 33), (3, 96, 7), (4, 64, 50), (8, 32, 64), (9, 160, 31), (17, 64, 100)];
    for format in WeightFormat::ALL {
        for (n_rows, cols, n_outputs) in shapes {
            for accumulate in [0, 1] {
                let mut noise = Noise((n_rows * cols) as u64);
                let x = noise.floats(n_rows * cols);
                let (quants, scales) = noise.weight(format, n_outputs, cols);
                let weight = WeightView { format, rows: n_outputs, cols, quants: &quants, scales: &scales };
                let params = MatmulParams {
                    n_rows: n_rows as u32,
                    cols: cols as u32,
                    n_outputs: n_outputs as u32,
                    out_stride: n_outputs as u32 + 5,
                    out_offset: 3,
                    accumulate,
                };
                let before = noise.floats(n_rows * params.out_stride as usize);
                let mut want = before.clone();
                matmul::matmul(&params, &weight, &x, &mut want);
                for rows in matmul::ROWS {
                    let constants = [("FORMAT", format.wgsl_value()), ("ROWS", f64::from(rows))];
                    let buffers = [&quants[..], &scales, words(&x), words(&before)];
                    let got = run(spec, &constants, &params, params.workgroups(rows), &buffers);
                    let name = format!("matmul {format:?} {n_rows} x {cols} x {n_outputs}, {rows} rows");
                    worst = worst.max(max_diff_within(&name, &got[0], &want, 5.0 * TOLERANCE)?);
                }
            }
        }
    }
    Ok(worst)
}

fn check_rope_append(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for (n_heads, n_kv_heads, half) in [(1, 1, 1), (4, 2, 5), (6, 3, 16), (2, 1, 128)] {
        let slots = [4u32, 0, 2];
        let kv_width = n_kv_heads * 2 * half;
        let mut noise = Noise(half as u64);
        let qkv = noise.floats(slots.len() * (n_heads + 2 * n_kv_heads) * 2 * half);
        let (keys, values) = (noise.floats(5 * kv_width), noise.floats(5 * kv_width));
        let rotary: Vec<_> = [7, 0, 4000].into_iter().flat_map(|p| rotary_angles(p, half, 10_000.0)).collect();
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

fn check_silu_mul(spec: &KernelSpec) -> Result<f64, String> {
    let mut worst = 0.0f64;
    for (n_rows, cols) in [(1, 4), (3, 96), (2, 544)] {
        let mut gate_up: Vec<f32> = Noise(cols as u64).floats(n_rows * 2 * cols).iter().map(|v| 4.0 * v).collect();
        gate_up[0] = -200.0;
        gate_up[1] = 200.0;
        let params = SiluMulParams { n_rows: n_rows as u32, cols: cols as u32 };
        let mut want = vec![0.0; n_rows * cols];
        silu_mul::silu_mul(&params, &gate_up, &mut want);
        let out = vec![0; want.len()];
        let got = run(spec, &[], &params, params.workgroups(), &[words(&gate_up), &out]);
        // values reach 800
        worst = worst.max(max_diff_within(&format!("silu_mul {n_rows} x {cols}"), &got[0], &want, 1e-3)?);
    }
    Ok(worst)
}

/// Kernel, its check, and edits that a careless hand could make; each must be noticed.
type Case = (&'static KernelSpec, Check, &'static [(&'static str, &'static str)]);

const CASES: [Case; 6] = [
    (
        &embed::SPEC,
        check_embed,
        &[("16u, 20u, 24u, 28u", "16u, 24u, 20u, 28u"), ("out[at + 1u] = values.hi", "out[at] = values.hi")],
    ),
    (&rms_norm::SPEC, check_rms_norm, &[("+ params.eps", "+ 2e-4"), ("* scale * weight[i]", "* scale")]),
    (
        &matmul::SPEC,
        check_matmul,
        &[
            ("(block & 1u) == 1u", "(block & 1u) == 0u"),
            ("lo * scale_and_min.x + scale_and_min.y", "lo * scale_and_min.x - scale_and_min.y"),
            ("octet += LANES", "octet += LANES + 1u"),
            ("params.accumulate == 1u", "params.accumulate == 0u"),
            ("dot(w3.hi, hi)", "dot(w2.hi, hi)"),
        ],
    ),
    (
        &rope_append::SPEC,
        check_rope_append,
        &[("- pair.y * turn.y", "+ pair.y * turn.y"), ("head - n_heads) * head_dim", "head - n_kv_heads) * head_dim")],
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
    (&silu_mul::SPEC, check_silu_mul, &[("1.0 + exp", "1.001 + exp"), ("gate_up[at + quads]", "gate_up[at]")]),
];

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn every_kernel_agrees_with_its_twin() {
    for (spec, check, _) in CASES {
        match check(spec) {
            Ok(worst) => eprintln!("{}: largest difference {worst:.1e}", spec.name),
            Err(why) => panic!("{why}"),
        }
    }
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn a_perturbed_kernel_does_not() {
    for (spec, check, edits) in CASES {
        for (from, to) in edits {
            assert!(spec.source.contains(from), "{}: no `{from}`", spec.name);
            let perturbed = KernelSpec { source: spec.source.replace(from, to).leak(), ..spec.clone() };
            assert!(check(&perturbed).is_err(), "{}: `{from}` made `{to}` went unnoticed", spec.name);
        }
    }
}
