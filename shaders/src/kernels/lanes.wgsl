// Entry of the products, and the sum over an output's lanes through workgroup memory; stands before product.wgsl.

var<workgroup> parts: array<vec4<f32>, 256>; // [LANES, TILE], 4 KiB

// The sum of a value over the lanes of an output, for every lane; called by all or none.
fn over_lanes(value: vec4<f32>, lane: u32, column: u32) -> vec4<f32> {
    if LANES == 1u {
        return value;
    }
    parts[lane * TILE + column] = value;
    workgroupBarrier();
    var total = parts[column];
    for (var i = 1u; i < LANES; i++) {
        total += parts[i * TILE + column];
    }
    workgroupBarrier();
    return total;
}

@compute @workgroup_size(TILE, LANES)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_id) local: vec3<u32>) {
    product(workgroup, local.x, local.y);
}
