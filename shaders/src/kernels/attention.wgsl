// out[r, h] = softmax(q[r, h] . keys / sqrt(K)) values over two spans of cache slots: [0, end) shared
// by all rows, and [start, start + length) of the row's own.
//
// One workgroup a row and head; 64 slots at a time with a running maximum and sum (online softmax,
// Milakov and Gimelshein 2018, arXiv:1805.02867), so the number of slots has no limit.

struct AttentionParams {
    n_rows: u32,
    n_heads: u32,
    n_kv_heads: u32,
    half_dim: u32, // K / 2, at most 128
    scale: f32,
}

@group(0) @binding(0) var<uniform> params: AttentionParams;
@group(0) @binding(1) var<storage, read> spans: array<vec4<u32>>; // [R] shared end, own start, own length
@group(0) @binding(2) var<storage, read> qkv: array<vec2<f32>>; // [R, (H + 2 G) K / 2]
@group(0) @binding(3) var<storage, read> keys: array<vec2<f32>>; // [S, G K / 2]
@group(0) @binding(4) var<storage, read> values: array<vec2<f32>>; // [S, G K / 2]
@group(0) @binding(5) var<storage, read_write> out: array<vec2<f32>>; // [R, H K / 2]

const THREADS = 64u;
const LOWEST = -3.4028234e38;

var<workgroup> query: array<vec2<f32>, 128>;
var<workgroup> scores: array<f32, THREADS>;

fn slot_of(i: u32, span: vec4<u32>) -> u32 {
    return select(span.y + i - span.x, i, i < span.x);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let head = group.x;
    let row = group.y;
    let half_dim = params.half_dim;
    let kv_head = head / (params.n_heads / params.n_kv_heads);
    let slot_stride = params.n_kv_heads * half_dim;
    let head_at = kv_head * half_dim;
    let span = spans[row];
    let n_slots = span.x + span.z;

    let query_at = (row * (params.n_heads + 2u * params.n_kv_heads) + head) * half_dim;
    for (var i = thread; i < half_dim; i += THREADS) {
        query[i] = qkv[query_at + i] * params.scale;
    }
    workgroupBarrier();

    // this thread's pairs of output elements: thread and thread + 64
    var sum0 = vec2<f32>(0.0);
    var sum1 = vec2<f32>(0.0);
    var largest = LOWEST;
    var mass = 0.0;
    for (var first = 0u; first < n_slots; first += THREADS) {
        let n_here = min(THREADS, n_slots - first);
        if thread < n_here {
            let key_at = slot_of(first + thread, span) * slot_stride + head_at;
            var products = vec2<f32>(0.0);
            for (var i = 0u; i < half_dim; i++) {
                products += query[i] * keys[key_at + i];
            }
            scores[thread] = products.x + products.y;
        }
        workgroupBarrier();

        var now_largest = largest;
        for (var i = 0u; i < n_here; i++) {
            now_largest = max(now_largest, scores[i]);
        }
        let shrink = exp(largest - now_largest);
        largest = now_largest;
        mass *= shrink;
        sum0 *= shrink;
        sum1 *= shrink;
        workgroupBarrier();

        if thread < n_here {
            scores[thread] = exp(scores[thread] - largest);
        }
        workgroupBarrier();

        for (var i = 0u; i < n_here; i++) {
            let share = scores[i];
            mass += share;
            let value_at = slot_of(first + i, span) * slot_stride + head_at + thread;
            if thread < half_dim {
                sum0 += share * values[value_at];
            }
            if thread + THREADS < half_dim {
                sum1 += share * values[value_at + THREADS];
            }
        }
        workgroupBarrier();
    }

    let out_at = (row * params.n_heads + head) * half_dim + thread;
    if thread < half_dim {
        out[out_at] = sum0 / mass;
    }
    if thread + THREADS < half_dim {
        out[out_at + THREADS] = sum1 / mass;
    }
}
