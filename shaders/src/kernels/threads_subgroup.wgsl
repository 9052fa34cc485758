// As threads.wgsl, each subgroup by itself first, whatever its width. Between two calls the kernel has a barrier.

const THREADS = 64u;

var<workgroup> parts: array<f32, THREADS>; // one a subgroup
var<private> subgroup: u32;
var<private> n_subgroups: u32;
var<private> is_first: bool; // of its subgroup

fn total(thread: u32, own: f32) -> f32 {
    let part = subgroupAdd(own);
    if is_first {
        parts[subgroup] = part;
    }
    workgroupBarrier();
    var sum = parts[0];
    for (var i = 1u; i < n_subgroups; i++) {
        sum += parts[i];
    }
    return sum;
}

fn largest(thread: u32, own: f32) -> f32 {
    let part = subgroupMax(own);
    if is_first {
        parts[subgroup] = part;
    }
    workgroupBarrier();
    var peak = parts[0];
    for (var i = 1u; i < n_subgroups; i++) {
        peak = max(peak, parts[i]);
    }
    return peak;
}

@compute @workgroup_size(THREADS)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
    @builtin(subgroup_id) id: u32,
    @builtin(num_subgroups) n: u32,
    @builtin(subgroup_invocation_id) place: u32,
) {
    subgroup = id;
    n_subgroups = n;
    is_first = place == 0u;
    kernel(group, thread);
}
