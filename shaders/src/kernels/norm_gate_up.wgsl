// out[r, f] = silu(gate) * up with gate = norm(x[r]) . W[f], up = norm(x[r]) . W[F + f],
// silu(z) = z / (1 + exp(-z)), norm as in norm_matmul.wgsl.
//
// Half of an invocation's outputs are gates, the others the ups beside them, so neither is ever stored.

struct NormGateUpParams {
    n_rows: u32,
    cols: u32,
    n_outputs: u32, // F, a multiple of 32; W has twice as many
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: NormGateUpParams;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>; // [R, C / 4]
@group(0) @binding(4) var<storage, read> gain: array<vec4<f32>>; // [C / 4]
@group(0) @binding(5) var<storage, read_write> out: array<f32>; // [R, F]

const NORMALISED = true;

fn gain_at(quad: u32) -> Gain {
    return Gain(gain[quad], gain[quad + 1u]);
}

// Of 8 tiles 0 to 3 are gates; of 4 tiles 0 and 1; of 2 tiles 0.
fn tiles_of(workgroup: u32, first: u32) -> vec4<u32> {
    let half = OUTPUTS / 2u;
    let places = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u);
    let n_tiles = params.n_outputs / TILE;
    let gates = min(vec4<u32>(workgroup * half) + places % half, vec4<u32>(n_tiles - 1u));
    return gates + select(vec4<u32>(0u), vec4<u32>(n_tiles), places / half == vec4<u32>(1u));
}

fn store_row(sums: Sums, row: u32, place: Place) {
    let scale = inverseSqrt(sums.square / f32(params.cols) + params.eps);
    let start = row * params.n_outputs;
    let first = place.workgroup * (OUTPUTS / 2u) * TILE + place.column;
    if OUTPUTS == 2u {
        store(start, first, sums.a.x * scale, sums.a.y * scale);
    }
    if OUTPUTS == 4u {
        store(start, first, sums.a.x * scale, sums.a.z * scale);
        store(start, first + TILE, sums.a.y * scale, sums.a.w * scale);
    }
    if OUTPUTS == 8u {
        store(start, first, sums.a.x * scale, sums.b.x * scale);
        store(start, first + TILE, sums.a.y * scale, sums.b.y * scale);
        store(start, first + 2u * TILE, sums.a.z * scale, sums.b.z * scale);
        store(start, first + 3u * TILE, sums.a.w * scale, sums.b.w * scale);
    }
}

fn store(start: u32, f: u32, gate: f32, up: f32) {
    if f < params.n_outputs {
        // the bound keeps exp finite; silu(-80) is 0 in f32 for every purpose
        out[start + f] = gate / (1.0 + exp(min(-gate, 80.0))) * up;
    }
}
