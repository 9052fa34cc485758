// Rotates the queries in place, and writes rotated keys and plain values to their cache slots.
// A head's element i turns with element i + K/2 by the row's angle i. One invocation a pair.

struct RopeAppendParams {
    n_rows: u32,
    n_heads: u32,
    n_kv_heads: u32,
    half_dim: u32, // K / 2
}

@group(0) @binding(0) var<uniform> params: RopeAppendParams;
@group(0) @binding(1) var<storage, read> rotary: array<vec2<f32>>; // [R, K / 2] cosine, sine
@group(0) @binding(2) var<storage, read> slots: array<u32>; // [R]
@group(0) @binding(3) var<storage, read_write> qkv: array<f32>; // [R, (H + 2 G) K]
@group(0) @binding(4) var<storage, read_write> keys: array<f32>; // [S, G K]
@group(0) @binding(5) var<storage, read_write> values: array<f32>; // [S, G K]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let half_dim = params.half_dim;
    let n_heads = params.n_heads;
    let n_kv_heads = params.n_kv_heads;
    let row = id.y;
    let head = id.x / half_dim;
    let i = id.x % half_dim;
    if head >= n_heads + 2u * n_kv_heads || row >= params.n_rows {
        return;
    }
    let head_dim = 2u * half_dim;
    let source = (row * (n_heads + 2u * n_kv_heads) + head) * head_dim + i;
    let pair = vec2<f32>(qkv[source], qkv[source + half_dim]);
    let turn = rotary[row * half_dim + i];
    let turned = vec2<f32>(pair.x * turn.x - pair.y * turn.y, pair.y * turn.x + pair.x * turn.y);
    if head < n_heads {
        qkv[source] = turned.x;
        qkv[source + half_dim] = turned.y;
    } else if head < n_heads + n_kv_heads {
        let to = (slots[row] * n_kv_heads + head - n_heads) * head_dim + i;
        keys[to] = turned.x;
        keys[to + half_dim] = turned.y;
    } else {
        let to = (slots[row] * n_kv_heads + head - n_heads - n_kv_heads) * head_dim + i;
        values[to] = pair.x;
        values[to + half_dim] = pair.y;
    }
}
