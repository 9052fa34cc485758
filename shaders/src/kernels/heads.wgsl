// GaRM's heads for each candidate, from the mean of its rows: mean, variance before its softplus, squared distance from the
// training features in whitened coordinates. A candidate whose rows come in several passes has their sum kept between them.
// One workgroup a candidate; a thread makes every 64th product.

struct HeadsParams {
    n_seqs: u32,
    cols: u32,
    n_features: u32,
    mean_bias: f32,
    variance_bias: f32,
}

@group(0) @binding(0) var<uniform> params: HeadsParams;
@group(0) @binding(1) var<storage, read> runs: array<vec4<u32>>; // [M] first row, rows, rows of the passes before
@group(0) @binding(2) var<storage, read> hidden: array<f32>; // [R, C]
@group(0) @binding(3) var<storage, read> weights: array<f32>; // [C, 3 + F] features' mean, mean, variance, whitening
@group(0) @binding(4) var<storage, read_write> sums: array<f32>; // [M, C]
@group(0) @binding(5) var<storage, read_write> out: array<f32>; // [M, 3]

fn kernel(group: vec3<u32>, thread: u32) {
    let seq = group.x;
    let run = runs[seq];
    let sums_at = seq * params.cols;
    for (var i = thread; i < params.cols; i += THREADS) {
        var sum = 0.0;
        if run.z > 0u {
            sum = sums[sums_at + i];
        }
        for (var row = run.x; row < run.x + run.y; row++) {
            sum += hidden[row * params.cols + i];
        }
        sums[sums_at + i] = sum;
    }
    storageBarrier();

    let n_rows = f32(run.y + run.z);
    let stride = 3u + params.n_features;
    var squares = 0.0;
    for (var k = thread; k < 2u + params.n_features; k += THREADS) {
        let centring = select(1.0, 0.0, k < 2u);
        var product = 0.0;
        for (var i = 0u; i < params.cols; i++) {
            let feature = sums[sums_at + i] / n_rows;
            product += weights[i * stride + 1u + k] * (feature - centring * weights[i * stride]);
        }
        if k == 0u {
            out[seq * 3u] = product + params.mean_bias;
        } else if k == 1u {
            out[seq * 3u + 1u] = product + params.variance_bias;
        } else {
            squares += product * product;
        }
    }
    squares = total(thread, squares);
    if thread == 0u {
        out[seq * 3u + 2u] = squares;
    }
}
