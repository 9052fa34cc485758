// out[i] = norm(x[rows[i]]): chosen rows of the residual stream after the final norm, as in norm_matmul.wgsl.
// One workgroup a row; behind threads.wgsl.

struct NormRowsParams {
    n_rows: u32,
    cols: u32,
    n_x_rows: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: NormRowsParams;
@group(0) @binding(1) var<storage, read> rows: array<u32>; // [R]
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>; // [n_x_rows, C / 4]
@group(0) @binding(3) var<storage, read> gain: array<vec4<f32>>; // [C / 4]
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>; // [R, C / 4]

fn kernel(group: vec3<u32>, thread: u32) {
    let quads = params.cols / 4u;
    // a row outside x reads its last one, as in the twin
    let from_row = min(rows[group.x], params.n_x_rows - 1u) * quads;
    let to_row = group.x * quads;
    var sum = vec4<f32>(0.0);
    for (var i = thread; i < quads; i += THREADS) {
        let value = x[from_row + i];
        sum += value * value;
    }
    let square = total(thread, dot(sum, vec4<f32>(1.0)));
    let scale = inverseSqrt(square / f32(params.cols) + params.eps);
    for (var i = thread; i < quads; i += THREADS) {
        out[to_row + i] = x[from_row + i] * scale * gain[i];
    }
}
