// Rows times a packed weight matrix, the part that matmul, norm_matmul and norm_gate_up have in common;
// stands between dequantize.wgsl with lanes.wgsl and the kernel, which says where inputs and outputs are.
//
// An invocation makes ROWS rows of OUTPUTS outputs, one in each of OUTPUTS tiles, so a weight is decoded
// once for ROWS rows and an input is read once for OUTPUTS outputs. LANES invocations share the blocks of
// an output and add up their parts at the end. On a GPU many lanes and few outputs keep it busy and hide
// latency; on a CPU, where a barrier costs more than the whole sum, one lane and many outputs.
// Rows and octets are written out rather than looped over: no driver is relied on to keep an indexed array
// in registers.

override ROWS: u32 = 8u; // 1, 4 or 8
override OUTPUTS: u32 = 4u; // 1, 2, 4 or 8
override LANES: u32 = 8u; // at most 8

struct Four {
    o0: Octet,
    o1: Octet,
    o2: Octet,
    o3: Octet,
}

struct Weights {
    a: Four,
    b: Four,
}

// What the norm multiplies eight inputs with.
struct Gain {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

// Of one row: outputs in tiles 0 to 3 and 4 to 7, and the sum of the squared inputs.
struct Sums {
    a: vec4<f32>,
    b: vec4<f32>,
    square: f32,
}

struct Rows {
    r0: Sums,
    r1: Sums,
    r2: Sums,
    r3: Sums,
    r4: Sums,
    r5: Sums,
    r6: Sums,
    r7: Sums,
}

struct Scales {
    s0: vec2<f32>,
    s1: vec2<f32>,
    s2: vec2<f32>,
    s3: vec2<f32>,
}

struct BlockScales {
    a: Scales,
    b: Scales,
}

// Where an invocation works: first quad of each row of x, first block of each tile.
struct Place {
    workgroup: u32,
    lane: u32,
    column: u32,
    rows_a: vec4<u32>,
    rows_b: vec4<u32>,
    tiles_a: vec4<u32>,
    tiles_b: vec4<u32>,
}

fn scales_at(blocks: vec4<u32>, column: u32) -> Scales {
    var scales = Scales(scale_at(blocks.x, column), vec2<f32>(), vec2<f32>(), vec2<f32>());
    if OUTPUTS > 1u {
        scales.s1 = scale_at(blocks.y, column);
    }
    if OUTPUTS > 2u {
        scales.s2 = scale_at(blocks.z, column);
        scales.s3 = scale_at(blocks.w, column);
    }
    return scales;
}

fn four_at(blocks: vec4<u32>, octet: u32, column: u32, scales: Scales) -> Four {
    var four: Four;
    four.o0 = octet_at(blocks.x, octet, column, scales.s0);
    if OUTPUTS > 1u {
        four.o1 = octet_at(blocks.y, octet, column, scales.s1);
    }
    if OUTPUTS > 2u {
        four.o2 = octet_at(blocks.z, octet, column, scales.s2);
        four.o3 = octet_at(blocks.w, octet, column, scales.s3);
    }
    return four;
}

fn products(w: Four, lo: vec4<Real>, hi: vec4<Real>) -> vec4<f32> {
    var sums = vec4<f32>(f32(dot(w.o0.lo, lo)) + f32(dot(w.o0.hi, hi)), 0.0, 0.0, 0.0);
    if OUTPUTS > 1u {
        sums.y = f32(dot(w.o1.lo, lo)) + f32(dot(w.o1.hi, hi));
    }
    if OUTPUTS > 2u {
        sums.z = f32(dot(w.o2.lo, lo)) + f32(dot(w.o2.hi, hi));
        sums.w = f32(dot(w.o3.lo, lo)) + f32(dot(w.o3.hi, hi));
    }
    return sums;
}

fn with_row(before: Sums, w: Weights, at: u32, gain: Gain) -> Sums {
    var sums = before;
    var lo = x[at];
    var hi = x[at + 1u];
    if NORMALISED {
        sums.square += dot(lo, lo) + dot(hi, hi);
        lo *= gain.lo;
        hi *= gain.hi;
    }
    sums.a += products(w.a, vec4<Real>(lo), vec4<Real>(hi));
    if OUTPUTS > 4u {
        sums.b += products(w.b, vec4<Real>(lo), vec4<Real>(hi));
    }
    return sums;
}

fn add_octet(rows: ptr<function, Rows>, block: u32, octet: u32, scales: BlockScales, place: Place) {
    var w: Weights;
    w.a = four_at(place.tiles_a + block, octet, place.column, scales.a);
    if OUTPUTS > 4u {
        w.b = four_at(place.tiles_b + block, octet, place.column, scales.b);
    }
    let at = (block * OCTETS + octet) * 2u;
    let gain = gain_at(at);
    (*rows).r0 = with_row((*rows).r0, w, place.rows_a.x + at, gain);
    if ROWS > 1u {
        (*rows).r1 = with_row((*rows).r1, w, place.rows_a.y + at, gain);
        (*rows).r2 = with_row((*rows).r2, w, place.rows_a.z + at, gain);
        (*rows).r3 = with_row((*rows).r3, w, place.rows_a.w + at, gain);
    }
    if ROWS > 4u {
        (*rows).r4 = with_row((*rows).r4, w, place.rows_b.x + at, gain);
        (*rows).r5 = with_row((*rows).r5, w, place.rows_b.y + at, gain);
        (*rows).r6 = with_row((*rows).r6, w, place.rows_b.z + at, gain);
        (*rows).r7 = with_row((*rows).r7, w, place.rows_b.w + at, gain);
    }
}

// Adds up a row's parts and hands it to the kernel; lane `turn` of the output stores it.
fn finish_row(sums: Sums, row: u32, turn: u32, place: Place) {
    var whole = sums;
    whole.a = over_lanes(sums.a, place.lane, place.column);
    if OUTPUTS > 4u {
        whole.b = over_lanes(sums.b, place.lane, place.column);
    }
    if NORMALISED {
        whole.square = over_lanes(vec4<f32>(sums.square), place.lane, place.column).x;
    }
    if row < params.n_rows && place.lane == turn % LANES {
        store_row(whole, row, place);
    }
}

fn product(workgroup: vec3<u32>, column: u32, lane: u32) {
    let n_blocks = params.cols / 32u;
    let quads = params.cols / 4u;
    let row = workgroup.y * ROWS;
    // rows and tiles past the end repeat the last one and are not stored
    let last_row = vec4<u32>(params.n_rows - 1u);
    var place: Place;
    place.workgroup = workgroup.x;
    place.lane = lane;
    place.column = column;
    place.rows_a = min(vec4<u32>(row) + vec4<u32>(0u, 1u, 2u, 3u), last_row) * quads;
    place.rows_b = min(vec4<u32>(row) + vec4<u32>(4u, 5u, 6u, 7u), last_row) * quads;
    place.tiles_a = tiles_of(workgroup.x, 0u) * n_blocks;
    place.tiles_b = tiles_of(workgroup.x, 4u) * n_blocks;

    var rows: Rows;
    for (var block = place.lane; block < n_blocks; block += LANES) {
        var scales: BlockScales;
        scales.a = scales_at(place.tiles_a + block, place.column);
        if OUTPUTS > 4u {
            scales.b = scales_at(place.tiles_b + block, place.column);
        }
        add_octet(&rows, block, 0u, scales, place);
        add_octet(&rows, block, 1u, scales, place);
        add_octet(&rows, block, 2u, scales, place);
        add_octet(&rows, block, 3u, scales, place);
    }
    finish_row(rows.r0, row, 0u, place);
    if ROWS > 1u {
        finish_row(rows.r1, row + 1u, 1u, place);
        finish_row(rows.r2, row + 2u, 2u, place);
        finish_row(rows.r3, row + 3u, 3u, place);
    }
    if ROWS > 4u {
        finish_row(rows.r4, row + 4u, 4u, place);
        finish_row(rows.r5, row + 5u, 5u, place);
        finish_row(rows.r6, row + 6u, 6u, place);
        finish_row(rows.r7, row + 7u, 7u, place);
    }
}
