// out += scale * B t for every row: the second half of a low-rank side path. One invocation an output, one workgroup row
// a row.

struct LowRankUpParams {
    n_rows: u32,
    rank: u32,
    n_outputs: u32,
    out_stride: u32,
    out_offset: u32,
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: LowRankUpParams;
@group(0) @binding(1) var<storage, read> b: array<f32>; // [N, K]
@group(0) @binding(2) var<storage, read> t: array<f32>; // [R, K]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [R, out_stride]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let n = group.x * 64u + thread;
    if n >= params.n_outputs {
        return;
    }
    var sum = 0.0;
    for (var k = 0u; k < params.rank; k++) {
        sum += b[n * params.rank + k] * t[group.y * params.rank + k];
    }
    out[group.y * params.out_stride + params.out_offset + n] += params.scale * sum;
}
