// out[r, offset + n] (+)= sum_c x[r, c] * W[n, c], W in any weight format.

struct MatmulParams {
    n_rows: u32,
    cols: u32,
    n_outputs: u32,
    out_stride: u32,
    out_offset: u32,
    accumulate: u32,
}

@group(0) @binding(0) var<uniform> params: MatmulParams;
@group(0) @binding(3) var<storage, read> x: array<vec4<f32>>; // [R, C / 4]
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // [R, out_stride]

const NORMALISED = false;

fn gain_at(quad: u32) -> Gain {
    return Gain(vec4<f32>(1.0), vec4<f32>(1.0));
}

fn tiles_of(workgroup: u32, first: u32) -> vec4<u32> {
    let tiles = vec4<u32>(workgroup * OUTPUTS + first) + vec4<u32>(0u, 1u, 2u, 3u);
    return min(tiles, vec4<u32>((params.n_outputs - 1u) / TILE));
}

fn store_row(sums: Sums, row: u32, place: Place) {
    let start = row * params.out_stride + params.out_offset;
    let first = place.workgroup * OUTPUTS * TILE + place.column;
    store(start, first, sums.a.x);
    if OUTPUTS > 1u {
        store(start, first + TILE, sums.a.y);
    }
    if OUTPUTS > 2u {
        store(start, first + 2u * TILE, sums.a.z);
        store(start, first + 3u * TILE, sums.a.w);
    }
    if OUTPUTS > 4u {
        store(start, first + 4u * TILE, sums.b.x);
        store(start, first + 5u * TILE, sums.b.y);
        store(start, first + 6u * TILE, sums.b.z);
        store(start, first + 7u * TILE, sums.b.w);
    }
}

fn store(start: u32, n: u32, value: f32) {
    if n < params.n_outputs {
        var sum = value;
        if params.accumulate == 1u {
            sum += out[start + n];
        }
        out[start + n] = sum;
    }
}
