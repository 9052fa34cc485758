// Entry of the kernels that have 64 threads a workgroup, and what they find over all threads through workgroup memory; stands
// before them. `kernel` is theirs. All threads call a function, or none.

const THREADS = 64u;

var<workgroup> partial: array<f32, THREADS>;
var<workgroup> parts: array<f32, 8>; // of eight threads each

// The sum, for every thread.
fn total(thread: u32, own: f32) -> f32 {
    partial[thread] = own;
    workgroupBarrier();
    if thread < 8u {
        var part = 0.0;
        for (var i = 0u; i < 8u; i++) {
            part += partial[thread * 8u + i];
        }
        parts[thread] = part;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < 8u; i++) {
        sum += parts[i];
    }
    return sum;
}

// The largest, for every thread.
fn largest(thread: u32, own: f32) -> f32 {
    partial[thread] = own;
    workgroupBarrier();
    if thread < 8u {
        var part = partial[thread * 8u];
        for (var i = 1u; i < 8u; i++) {
            part = max(part, partial[thread * 8u + i]);
        }
        parts[thread] = part;
    }
    workgroupBarrier();
    var peak = parts[0];
    for (var i = 1u; i < 8u; i++) {
        peak = max(peak, parts[i]);
    }
    return peak;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    kernel(group, thread);
}
