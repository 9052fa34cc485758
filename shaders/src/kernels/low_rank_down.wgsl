// t = A x for every row: the first half of a low-rank side path. One workgroup a row and value of the rank.

struct LowRankDownParams {
    n_rows: u32,
    cols: u32,
    rank: u32,
}

@group(0) @binding(0) var<uniform> params: LowRankDownParams;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>; // [K, C / 4]
@group(0) @binding(2) var<storage, read> x: array<vec4<f32>>; // [R, C / 4]
@group(0) @binding(3) var<storage, read_write> out: array<f32>; // [R, K]

const THREADS = 32u;

var<workgroup> partial: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let quads = params.cols / 4u;
    var sum = 0.0;
    for (var i = thread; i < quads; i += THREADS) {
        sum += dot(a[group.x * quads + i], x[group.y * quads + i]);
    }
    partial[thread] = sum;
    workgroupBarrier();
    if thread == 0u {
        for (var i = 1u; i < THREADS; i++) {
            sum += partial[i];
        }
        out[group.y * params.rank + group.x] = sum;
    }
}
