// out[r] = table[ids[r]]: rows gathered from a matrix in any weight format.

struct EmbedParams {
    n_rows: u32,
    cols: u32,
    n_table_rows: u32,
}

@group(0) @binding(0) var<uniform> params: EmbedParams;
@group(0) @binding(3) var<storage, read> ids: array<u32>; // [R]
@group(0) @binding(4) var<storage, read_write> out: array<vec4<f32>>; // [R, C / 4]

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let octets = params.cols / 8u;
    let row = id.y;
    if id.x >= octets || row >= params.n_rows {
        return;
    }
    // an id outside the table reads its last row, as in the twin
    let table_row = min(ids[row], params.n_table_rows - 1u);
    let column = table_row % TILE;
    let block = table_row / TILE * (octets / OCTETS) + id.x / OCTETS;
    let values = octet_at(block, id.x % OCTETS, column, scale_at(block, column));
    let at = (row * octets + id.x) * 2u;
    out[at] = vec4<f32>(values.lo);
    out[at + 1u] = vec4<f32>(values.hi);
}
