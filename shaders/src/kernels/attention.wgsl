// out[r, h] = softmax(q[r, h] . keys / sqrt(K)) values over two spans of cache slots: [0, end) shared
// by all rows, and [start, start + length) of the row's own.
//
// One workgroup a row and head; 64 slots at a time with a running maximum and sum (online softmax,
// Milakov and Gimelshein 2018, arXiv:1805.02867), so the number of slots has no limit. A thread scores
// one slot (behind threads.wgsl); then it adds up one or two pairs of output elements over every n-th slot.

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

const LOWEST = -3.4028234e38;

var<workgroup> query: array<vec2<f32>, 128>;
var<workgroup> scores: array<f32, THREADS>;
var<workgroup> sums: array<vec2<f32>, THREADS>;

fn slot_of(i: u32, span: vec4<u32>) -> u32 {
    return select(span.y + i - span.x, i, i < span.x);
}

fn kernel(group: vec3<u32>, thread: u32) {
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

    // threads side by side over the pairs of the output, as many times as they fit
    let width = min(half_dim, THREADS);
    let n_sharing = THREADS / width;
    let first_pair = thread % width;
    let share_of_slots = thread / width;

    var sum0 = vec2<f32>(0.0); // pair first_pair
    var sum1 = vec2<f32>(0.0); // pair first_pair + 64
    var peak = LOWEST;
    var mass = 0.0; // of this thread's slots
    for (var first = 0u; first < n_slots; first += THREADS) {
        let n_here = min(THREADS, n_slots - first);
        var score = LOWEST;
        if thread < n_here {
            let key_at = slot_of(first + thread, span) * slot_stride + head_at;
            var products = vec2<f32>(0.0);
            for (var i = 0u; i < half_dim; i++) {
                products += query[i] * keys[key_at + i];
            }
            score = products.x + products.y;
        }
        // behind its barrier all threads have added up the slots before
        let now_peak = max(peak, largest(thread, score));
        let shrink = exp(peak - now_peak);
        peak = now_peak;
        let weight = select(0.0, exp(score - peak), thread < n_here);
        scores[thread] = weight;
        mass = mass * shrink + weight;
        sum0 *= shrink;
        sum1 *= shrink;
        workgroupBarrier();

        if share_of_slots < n_sharing {
            for (var i = share_of_slots; i < n_here; i += n_sharing) {
                let value_at = slot_of(first + i, span) * slot_stride + head_at + first_pair;
                sum0 += scores[i] * values[value_at];
                if first_pair + THREADS < half_dim {
                    sum1 += scores[i] * values[value_at + THREADS];
                }
            }
        }
    }

    sums[thread] = sum0; // read behind the barrier of the total
    let whole_mass = total(thread, mass);
    if thread < width {
        var sum = vec2<f32>(0.0);
        for (var i = 0u; i < n_sharing; i++) {
            sum += sums[i * width + thread];
        }
        let out_at = (row * params.n_heads + head) * half_dim + thread;
        out[out_at] = sum / whole_mass;
        if thread + THREADS < half_dim {
            out[out_at + THREADS] = sum1 / whole_mass;
        }
    }
}
