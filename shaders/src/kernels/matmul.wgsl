// out[r, offset + n] (+)= sum_c x[r, c] * W[n, c], W in any weight format.
//
// A workgroup makes 32 outputs of ROWS rows: 8 groups of 4 outputs by 8 lanes, which share a row of
// W octet by octet and add up their parts at the end. A weight is decoded once for all ROWS rows.

struct MatmulParams {
    n_rows: u32,
    cols: u32,
    n_outputs: u32,
    out_stride: u32,
    out_offset: u32,
    accumulate: u32,
}

override ROWS: u32 = 8u; // at most 8

@group(0) @binding(0) var<uniform> params: MatmulParams;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>; // [R, C / 4]
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [R, out_stride]

const LANES = 8u;
const GROUPS = 8u;
const MAX_ROWS = 8u;

var<workgroup> partial: array<vec4<f32>, 512>; // [ROWS, GROUPS, LANES], 8 KiB

@compute @workgroup_size(LANES, GROUPS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    let lane = local.x;
    let octets = params.cols / 8u;
    let first_row = workgroup.y * ROWS;
    let last_row = params.n_rows - 1u;

    // outputs and rows past the end repeat the last one and are not stored
    let n = (workgroup.x * GROUPS + local.y) * 4u;
    let last_n = params.n_outputs - 1u;
    let w_at = min(vec4<u32>(n, n + 1u, n + 2u, n + 3u), vec4<u32>(last_n)) * octets;

    var sums: array<vec4<f32>, MAX_ROWS>;
    for (var octet = lane; octet < octets; octet += LANES) {
        let w0 = octet_at(w_at.x + octet);
        let w1 = octet_at(w_at.y + octet);
        let w2 = octet_at(w_at.z + octet);
        let w3 = octet_at(w_at.w + octet);
        for (var r = 0u; r < ROWS; r++) {
            let at = (min(first_row + r, last_row) * octets + octet) * 2u;
            let lo = x[at];
            let hi = x[at + 1u];
            sums[r] += vec4<f32>(
                dot(w0.lo, lo) + dot(w0.hi, hi),
                dot(w1.lo, lo) + dot(w1.hi, hi),
                dot(w2.lo, lo) + dot(w2.hi, hi),
                dot(w3.lo, lo) + dot(w3.hi, hi),
            );
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        partial[(r * GROUPS + local.y) * LANES + lane] = sums[r];
    }
    workgroupBarrier();

    // lane r of a group finishes row r
    let row = first_row + lane;
    if lane >= ROWS || row >= params.n_rows {
        return;
    }
    var total = vec4<f32>(0.0);
    for (var i = 0u; i < LANES; i++) {
        total += partial[(lane * GROUPS + local.y) * LANES + i];
    }
    let start = row * params.out_stride + params.out_offset;
    for (var i = 0u; i < 4u; i++) {
        if n + i < params.n_outputs {
            let at = start + n + i;
            out[at] = total[i] + select(0.0, out[at], params.accumulate == 1u);
        }
    }
}
