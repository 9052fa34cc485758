// Reads a weight matrix [rows, cols] in blocks of 32 along a row; prepended to the kernels that need it.
// Twin of weight.rs, which describes the formats.

override FORMAT: u32 = 1u; // 0: f32, 1: Q8, 2: Q4

@group(0) @binding(1) var<storage, read> quants: array<u32>; // [rows * cols / values a word]
@group(0) @binding(2) var<storage, read> scales: array<u32>; // [blocks / 2] (Q8), [blocks] (Q4)

struct Octet {
    lo: vec4<f32>,
    hi: vec4<f32>,
}

// Eight neighbouring values, the matrix seen as one long row of octets.
fn octet_at(octet: u32) -> Octet {
    if FORMAT == 0u {
        let at = octet * 8u;
        return Octet(
            bitcast<vec4<f32>>(vec4<u32>(quants[at], quants[at + 1u], quants[at + 2u], quants[at + 3u])),
            bitcast<vec4<f32>>(vec4<u32>(quants[at + 4u], quants[at + 5u], quants[at + 6u], quants[at + 7u])),
        );
    }
    let block = octet / 4u;
    if FORMAT == 1u {
        let pair = unpack2x16float(scales[block / 2u]);
        let scale = select(pair.x, pair.y, (block & 1u) == 1u);
        return Octet(bytes_of(quants[octet * 2u]) * scale, bytes_of(quants[octet * 2u + 1u]) * scale);
    }
    let scale_and_min = unpack2x16float(scales[block]);
    let word = quants[octet];
    let lo = vec4<f32>((vec4<u32>(word) >> vec4<u32>(0u, 4u, 8u, 12u)) & vec4<u32>(15u));
    let hi = vec4<f32>((vec4<u32>(word) >> vec4<u32>(16u, 20u, 24u, 28u)) & vec4<u32>(15u));
    return Octet(lo * scale_and_min.x + scale_and_min.y, hi * scale_and_min.x + scale_and_min.y);
}

// Four signed bytes, least significant first.
fn bytes_of(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<i32>(i32(word)) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}
