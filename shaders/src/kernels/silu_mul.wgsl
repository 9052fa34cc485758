// out[r, f] = silu(gate[r, f]) * up[r, f], silu(z) = z / (1 + exp(-z)); gate and up lie side by side.

struct SiluMulParams {
    n_rows: u32,
    cols: u32, // F
}

@group(0) @binding(0) var<uniform> params: SiluMulParams;
@group(0) @binding(1) var<storage, read> gate_up: array<vec4<f32>>; // [R, 2 F / 4]
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>; // [R, F / 4]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let quads = params.cols / 4u;
    let row = id.y;
    if id.x >= quads || row >= params.n_rows {
        return;
    }
    let at = row * 2u * quads + id.x;
    let gate = gate_up[at];
    // the bound keeps exp finite; silu(-80) is 0 in f32 for every purpose
    out[row * quads + id.x] = gate / (1.0 + exp(min(-gate, vec4<f32>(80.0)))) * gate_up[at + quads];
}
