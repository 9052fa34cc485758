// out = silu(gate) * up: the activation by itself, where a side path adds to gate and up before it. One invocation a value.

struct SiluMulParams {
    n_rows: u32,
    cols: u32,
}

@group(0) @binding(0) var<uniform> params: SiluMulParams;
@group(0) @binding(1) var<storage, read> gate_up: array<f32>; // [R, 2 F]
@group(0) @binding(2) var<storage, read_write> out: array<f32>; // [R, F]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let f = group.x * 64u + thread;
    if f >= params.cols {
        return;
    }
    let gate = gate_up[group.y * 2u * params.cols + f];
    let up = gate_up[(group.y * 2u + 1u) * params.cols + f];
    // the bound keeps exp finite
    out[group.y * params.cols + f] = gate / (1.0 + exp(min(-gate, 80.0))) * up;
}
