// Reads a packed weight matrix; prepended to the kernels that need it. Twin of packed.rs, which describes
// the layout: tiles of 32 outputs, in each the blocks of 32 inputs one after the other, in a block a
// word of every output before the next word, so that invocations side by side read words side by side.

override FORMAT: u32 = 1u; // 0: f32, 1: Q8, 2: Q4

alias Real = f32; // of decoded weights and their products; f16 in a variant

const TILE = 32u; // outputs that lie interleaved
const OCTETS = 4u; // of a block

@group(0) @binding(1) var<storage, read> quants: array<u32>; // [N / 32, C / 32, words of a block, 32]
@group(0) @binding(2) var<storage, read> scales: array<u32>; // [N / 32, C / 32, 32] scale, minimum

struct Octet {
    lo: vec4<Real>,
    hi: vec4<Real>,
}

// Scale and minimum of an output's block; `block` counts through the tiles.
fn scale_at(block: u32, column: u32) -> vec2<f32> {
    if FORMAT == 0u {
        return vec2<f32>(1.0, 0.0);
    }
    return unpack2x16float(scales[block * TILE + column]);
}

// Eight neighbouring values of an output.
fn octet_at(block: u32, octet: u32, column: u32, scale: vec2<f32>) -> Octet {
    if FORMAT == 0u {
        let at = (block * OCTETS + octet) * 8u * TILE + column;
        let lo = vec4<u32>(quants[at], quants[at + TILE], quants[at + 2u * TILE], quants[at + 3u * TILE]);
        let hi =
            vec4<u32>(quants[at + 4u * TILE], quants[at + 5u * TILE], quants[at + 6u * TILE], quants[at + 7u * TILE]);
        return Octet(vec4<Real>(bitcast<vec4<f32>>(lo)), vec4<Real>(bitcast<vec4<f32>>(hi)));
    }
    if FORMAT == 1u {
        let at = (block * OCTETS + octet) * 2u * TILE + column;
        return Octet(
            vec4<Real>(bytes_of(quants[at]) * scale.x + scale.y),
            vec4<Real>(bytes_of(quants[at + TILE]) * scale.x + scale.y),
        );
    }
    let word = quants[(block * OCTETS + octet) * TILE + column];
    return Octet(
        vec4<Real>(nibbles_of(word, vec4<u32>(0u, 4u, 8u, 12u)) * scale.x + scale.y),
        vec4<Real>(nibbles_of(word, vec4<u32>(16u, 20u, 24u, 28u)) * scale.x + scale.y),
    );
}

// Four signed bytes, least significant first.
fn bytes_of(word: u32) -> vec4<f32> {
    return vec4<f32>((vec4<i32>(i32(word)) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u));
}

// Four nibbles; as signed numbers, because a CPU turns those into floats in one step.
fn nibbles_of(word: u32, shifts: vec4<u32>) -> vec4<f32> {
    return vec4<f32>(vec4<i32>((vec4<u32>(word) >> shifts) & vec4<u32>(15u)));
}
