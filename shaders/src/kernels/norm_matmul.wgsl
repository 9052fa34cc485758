// out[r, n] = sum_c norm(x[r])[c] * W[n, c] with norm(x) = x / sqrt(mean(x^2) + eps) * gain.
//
// The sum runs over x * gain, and the mean square of the same inputs scales it at the end, so that no
// normalised row is ever stored.

struct NormMatmulParams {
    n_rows: u32,
    cols: u32,
    n_outputs: u32,
    eps: f32,
}

@group(0) @binding(0) var<uniform> params: NormMatmulParams;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>; // [R, C / 4]
@group(0) @binding(4) var<storage, read> gain: array<vec4<f32>>; // [C / 4]
@group(0) @binding(5) var<storage, read_write> out: array<f32>; // [R, N]

const NORMALISED = true;

fn gain_at(quad: u32) -> Gain {
    return Gain(gain[quad], gain[quad + 1u]);
}

fn tiles_of(workgroup: u32, first: u32) -> vec4<u32> {
    let tiles = vec4<u32>(workgroup * OUTPUTS + first) + vec4<u32>(0u, 1u, 2u, 3u);
    return min(tiles, vec4<u32>((params.n_outputs - 1u) / TILE));
}

fn store_row(sums: Sums, row: u32, place: Place) {
    let scale = inverseSqrt(sums.square / f32(params.cols) + params.eps);
    let start = row * params.n_outputs;
    let first = place.workgroup * OUTPUTS * TILE + place.column;
    store(start, first, sums.a.x * scale);
    if OUTPUTS > 1u {
        store(start, first + TILE, sums.a.y * scale);
    }
    if OUTPUTS > 2u {
        store(start, first + 2u * TILE, sums.a.z * scale);
        store(start, first + 3u * TILE, sums.a.w * scale);
    }
    if OUTPUTS > 4u {
        store(start, first + 4u * TILE, sums.b.x * scale);
        store(start, first + 5u * TILE, sums.b.y * scale);
        store(start, first + 6u * TILE, sums.b.z * scale);
        store(start, first + 7u * TILE, sums.b.w * scale);
    }
}

fn store(start: u32, n: u32, value: f32) {
    if n < params.n_outputs {
        out[start + n] = value;
    }
}
