// As lanes.wgsl, with the lanes of an output side by side in one subgroup: no barrier and no memory, and words of weights read less
// side by side. Subgroups are full and at least LANES wide.

fn over_lanes(value: vec4<f32>, lane: u32, column: u32) -> vec4<f32> {
    var total = value;
    for (var step = 1u; step < LANES; step *= 2u) {
        total += subgroupShuffleXor(total, step);
    }
    return total;
}

@compute @workgroup_size(TILE * LANES)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) width: u32,
    @builtin(subgroup_invocation_id) place: u32,
) {
    let thread = subgroup * width + place;
    product(workgroup, thread / LANES, thread % LANES);
}
