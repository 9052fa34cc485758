// Draws a token for each row of logits: temperature, top-k, top-p and one uniform number a row, without a sort. What is
// kept is a prefix of the tokens by falling logit (equal ones by rising id), and so is what lies before a draw. Each
// prefix ends at the largest key, in the order of the logits, at which a count or a mass is reached; it is found two
// bits at a time. One workgroup a row.

struct SampleParams {
    n_rows: u32,
    vocab_size: u32,
    top_k: u32, // 0 keeps all
    first_draw: u32, // place of row 0's draw
    top_p: f32, // 1 keeps all
    steepness: f32, // 1 / temperature; 0 takes the largest
}

@group(0) @binding(0) var<uniform> params: SampleParams;
@group(0) @binding(1) var<storage, read> logits: array<f32>; // [R, V]
@group(0) @binding(2) var<storage, read> uniforms: array<f32>; // [first_draw + R]
@group(0) @binding(3) var<storage, read_write> ids: array<u32>; // [R], the next step's tokens
@group(0) @binding(4) var<storage, read_write> draws: array<vec4<u32>>; // [first_draw + R]: token, logp, what is no logit and where

const THREADS = 256u;
const NONE = 0xffffffffu;
const ZERO = 0x80000000u; // key of both zeros
const LOWEST = 0x007fffffu; // key of negative infinity

var<workgroup> sums: array<vec4<f32>, THREADS>;
var<workgroup> firsts: array<u32, THREADS>;

// Rises with the logit.
fn key_of(logit: f32) -> u32 {
    let bits = bitcast<u32>(logit);
    return select(select(bits ^ ZERO, bits ^ NONE, bits > ZERO), ZERO, bits == ZERO);
}

fn logit_of(key: u32) -> f32 {
    return bitcast<f32>(select(key ^ NONE, key ^ ZERO, key >= ZERO));
}

// NaN or positive infinity.
fn is_no_logit(logit: f32) -> bool {
    let bits = bitcast<u32>(logit);
    return bits == 0x7f800000u || (bits & 0x7fffffffu) > 0x7f800000u;
}

// The sum over all threads.
fn total(thread: u32, own: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    sums[thread] = own;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            sums[thread] += sums[thread + half];
        }
    }
    workgroupBarrier();
    return sums[0];
}

// The smallest over all threads.
fn smallest(thread: u32, own: u32) -> u32 {
    workgroupBarrier();
    firsts[thread] = own;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            firsts[thread] = min(firsts[thread], firsts[thread + half]);
        }
    }
    workgroupBarrier();
    return firsts[0];
}

// Of which logits, and what each weighs: exp((logit - peak) * steepness), or 1.
struct Weights {
    start: u32,
    thread: u32,
    peak: f32,
    steepness: f32,
    count: bool,
}

fn weight_of(of_row: Weights, logit: f32) -> f32 {
    // the bound keeps infinity out of exp; e^-200 is 0 in f32
    let weight = exp(max((logit - of_row.peak) * of_row.steepness, -200.0));
    return select(weight, 1.0, of_row.count);
}

// Weight of all tokens whose key is at least each of `keys`.
fn mass_from(of_row: Weights, keys: vec4<u32>) -> vec4<f32> {
    var own = vec4<f32>(0.0);
    for (var i = of_row.thread; i < params.vocab_size; i += THREADS) {
        let logit = logits[of_row.start + i];
        own += select(vec4<f32>(0.0), vec4<f32>(weight_of(of_row, logit)), vec4<u32>(key_of(logit)) >= keys);
    }
    return total(of_row.thread, own);
}

struct Prefix {
    key: u32, // of its last token
    n_last: f32, // tokens of that key in it
    mass: f32,
}

// The shortest prefix whose mass is `enough`, or above it where `above`; at most `most`.
fn prefix(of_row: Weights, enough: f32, above: bool, most: Prefix) -> Prefix {
    var key = 0u;
    for (var shift = 30u; shift < 32u; shift -= 2u) {
        let keys = vec4<u32>(key | (1u << shift), key | (2u << shift), key | (3u << shift), NONE);
        let mass = mass_from(of_row, keys);
        let reached = select(mass >= vec4<f32>(enough), mass > vec4<f32>(enough), vec4<bool>(above));
        // masses fall as keys rise
        key = select(select(select(key, keys.x, reached.x), keys.y, reached.y), keys.z, reached.z);
    }
    // what is behind `most` does not count, and rounding may not lead there
    key = max(key, most.key);
    let before = mass_from(of_row, vec4<u32>(key + 1u)).x;
    let weight = weight_of(of_row, logit_of(key));
    let parts = (enough - before) / weight;
    var n_last = max(select(ceil(parts), floor(parts) + 1.0, above), 1.0);
    if key == most.key {
        n_last = min(n_last, most.n_last);
    }
    return Prefix(key, n_last, before + n_last * weight);
}

// Where the running sum of weights (or, for a key, of its tokens) passes `enough`, in the order of ids; the last token
// that weighs anything where rounding keeps it from that.
fn place_of(of_row: Weights, by_key: bool, key: u32, enough: f32) -> u32 {
    let thread = of_row.thread;
    let span = (params.vocab_size + THREADS - 1u) / THREADS;
    let begin = thread * span;
    let end = min(begin + span, params.vocab_size);
    var own = 0.0;
    for (var i = begin; i < end; i++) {
        let logit = logits[of_row.start + i];
        own += select(weight_of(of_row, logit), select(0.0, 1.0, key_of(logit) == key), by_key);
    }
    workgroupBarrier();
    sums[thread].x = own;
    workgroupBarrier();
    var owner = 0u;
    var before = 0.0;
    var running = 0.0;
    for (var i = 0u; i < THREADS; i++) {
        let part = sums[i].x;
        if part > 0.0 && running <= enough {
            owner = i;
            before = running;
            running += part;
        }
    }
    if thread == owner {
        for (var i = begin; i < end; i++) {
            let logit = logits[of_row.start + i];
            let part = select(weight_of(of_row, logit), select(0.0, 1.0, key_of(logit) == key), by_key);
            if part > 0.0 && before <= enough {
                firsts[0] = i;
                before += part;
            }
        }
    }
    workgroupBarrier();
    return firsts[0];
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
    let start = group.x * params.vocab_size;
    let draw = uniforms[params.first_draw + group.x];
    var strange = NONE;
    var best = 0u;
    for (var i = thread; i < params.vocab_size; i += THREADS) {
        let logit = logits[start + i];
        if is_no_logit(logit) {
            strange = min(strange, i);
        }
        best = max(best, key_of(logit));
    }
    strange = smallest(thread, strange);
    let top = NONE - smallest(thread, NONE - best);
    let peak = logit_of(top);
    let plain = Weights(start, thread, peak, 1.0, false);
    let mass = mass_from(plain, vec4<u32>(0u)).x;
    // in the order of ids where everything is kept, else in that of ranks
    let keeps_all = (params.top_k == 0u || params.top_k >= params.vocab_size) && params.top_p >= 1.0;
    var key = top;
    var enough = 0.0;
    let weighed = Weights(start, thread, peak, params.steepness, false);
    if params.steepness > 0.0 {
        let all = Prefix(0u, f32(params.vocab_size), mass_from(weighed, vec4<u32>(0u)).x);
        var kept = all;
        if params.top_k > 0u && params.top_k < params.vocab_size {
            let counted = Weights(start, thread, peak, params.steepness, true);
            let ranks = prefix(counted, f32(params.top_k), false, all);
            let before = mass_from(weighed, vec4<u32>(ranks.key + 1u)).x;
            kept = Prefix(ranks.key, ranks.n_last, before + ranks.n_last * weight_of(weighed, logit_of(ranks.key)));
        }
        if params.top_p < 1.0 {
            kept = prefix(weighed, params.top_p * kept.mass, false, kept);
        }
        enough = draw * kept.mass;
        if !keeps_all {
            let last = prefix(weighed, enough, true, kept);
            key = last.key;
            enough = last.n_last - 1.0;
        }
    }
    let token = place_of(weighed, params.steepness == 0.0 || !keeps_all, key, enough);
    if thread == 0u {
        let is_bad = strange != NONE || top <= LOWEST;
        let of_token = logits[start + token];
        let of_bad = logits[start + select(strange, 0u, strange == NONE)];
        let drawn = select(token, NONE, is_bad);
        ids[group.x] = drawn;
        let logp = bitcast<u32>(of_token - peak - log(mass));
        draws[params.first_draw + group.x] = vec4<u32>(drawn, logp, bitcast<u32>(of_bad), strange);
    }
}
