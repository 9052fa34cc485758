//! The variants of kernels that the adapter has against the twins, and perturbed ones.

use super::*;
use beckon_shaders::Variant;
use beckon_shaders::kernels::VARIED;
use beckon_shaders::kernels::rms_norm::{RmsNormParams, rms_norm};

/// Errors of products in f16, as a share of the sum of the products' sizes: each is rounded to 2^-11 of itself a few times.
const F16_SHARE: f64 = 1e-3;
/// What f32 stays below.
const F32_SHARE: f64 = 1e-5;
const EPS: f32 = 1e-2;

/// Sums of the sizes of products `[R, N]` of rows with a matrix.
fn sizes(rows: &[f32], w: &WeightView) -> Vec<f64> {
    let mut sizes = vec![0.0; rows.len() / w.cols * w.rows];
    let mut decoded = vec![0.0; w.cols];
    for n in 0..w.rows {
        w.decode_row(n, &mut decoded);
        for (row, x) in rows.chunks_exact(w.cols).enumerate() {
            sizes[row * w.rows + n] = x.iter().zip(&decoded).map(|(x, w)| f64::from(x * w).abs()).sum();
        }
    }
    sizes
}

/// What the twin of a product gives, and the size that errors of each value are measured by.
fn twin(product: Product, case: &Case) -> (Vec<f32>, Vec<f64>) {
    let (n_rows, cols, n_outputs) = (case.n_rows as u32, case.cols as u32, case.weight.rows as u32);
    let mut sums = vec![0.0; case.n_rows * case.weight.rows]; // [R, N]
    if product == Product::Matmul {
        let params = MatmulParams { n_rows, cols, n_outputs, out_stride: n_outputs, out_offset: 0, accumulate: 0 };
        matmul::matmul(&params, &case.weight, case.x, &mut sums);
        return (sums, sizes(case.x, &case.weight));
    }
    let mut normed = vec![0.0; case.x.len()];
    rms_norm(&RmsNormParams { n_rows, cols, eps: EPS }, case.x, case.gain, &mut normed);
    let params = NormMatmulParams { n_rows, cols, n_outputs, eps: EPS };
    norm_matmul::norm_matmul(&params, &case.weight, case.x, case.gain, &mut sums);
    let sizes = sizes(&normed, &case.weight);
    if product == Product::NormMatmul {
        return (sums, sizes);
    }
    let f = case.weight.rows / 2;
    let params = NormGateUpParams { n_rows, cols, n_outputs: n_outputs / 2, eps: EPS };
    let mut gated = vec![0.0; case.n_rows * f];
    norm_gate_up::norm_gate_up(&params, &case.weight, case.x, case.gain, &mut gated);
    // silu(gate) * up moves by |silu'| <= 1.1 times the error of the gate, and by that of up, and by both together
    let size = |i: usize| {
        let (gate, up) = (i / f * 2 * f + i % f, i / f * 2 * f + i % f + f);
        let (z, up_value) = (f64::from(sums[gate]), f64::from(sums[up]));
        let silu = z / (1.0 + (-z).exp());
        1.1 * sizes[gate] * (up_value.abs() + F16_SHARE * sizes[up]) + silu.abs() * sizes[up]
    };
    let sizes = (0..gated.len()).map(size).collect();
    (gated, sizes)
}

/// Runs a product's kernel over a case.
fn run_product(
    product: Product,
    spec: &KernelSpec,
    case: &Case,
    constants: &[(&str, f64)],
    tiling: &Tiling,
) -> Vec<f32> {
    let (n_rows, cols, n) = (case.n_rows as u32, case.cols as u32, case.weight.rows as u32);
    let (quants, scales) = (&case.packed.quants[..], &case.packed.scales[..]);
    let (x, gain) = (words(case.x), words(case.gain));
    let out = vec![0; case.n_rows * case.weight.rows / if product == Product::NormGateUp { 2 } else { 1 }];
    let mut written = match product {
        Product::Matmul => {
            let params = MatmulParams { n_rows, cols, n_outputs: n, out_stride: n, out_offset: 0, accumulate: 0 };
            run(spec, constants, &params, params.workgroups(tiling), &[quants, scales, x, &out])
        }
        Product::NormMatmul => {
            let params = NormMatmulParams { n_rows, cols, n_outputs: n, eps: EPS };
            run(spec, constants, &params, params.workgroups(tiling), &[quants, scales, x, gain, &out])
        }
        Product::NormGateUp => {
            let params = NormGateUpParams { n_rows, cols, n_outputs: n / 2, eps: EPS };
            run(spec, constants, &params, params.workgroups(tiling), &[quants, scales, x, gain, &out])
        }
    };
    written.remove(0)
}

/// A kernel with f16 products against its twin in f32: the largest error as a share of the products' sizes, at most [`F16_SHARE`].
/// The text of the products is the same in all three kernels, and LLVM takes seconds for each of its tilings: all of them are tried
/// in `matmul`, in the others what only these do.
fn f16_error(product: Product, spec: &KernelSpec) -> Result<f64, String> {
    let n_weights: fn(usize) -> usize =
        if product == Product::NormGateUp { |n| 2 * n.next_multiple_of(32) } else { |n| n };
    over_products(product, n_weights, &|case, constants, tiling, name| {
        let is_tried = case.weight.format == WeightFormat::Q4 && case.n_rows == 4 && tiling.rows == 1;
        if product != Product::Matmul && !is_tried {
            return Ok(0.0);
        }
        let got = run_product(product, spec, case, constants, tiling);
        let (want, sizes) = twin(product, case);
        let mut worst = 0.0f64;
        for (i, ((got, want), size)) in got.iter().zip(&want).zip(sizes).enumerate() {
            let share = (f64::from(*got) - f64::from(*want)).abs() / size;
            if !(share <= F16_SHARE) {
                return Err(format!("{name}[{i}]: got {got}, expected {want}, {share:.1e} of the products"));
            }
            worst = worst.max(share);
        }
        Ok(worst)
    })
}

/// The product that a kernel makes, where it makes one.
fn product_of(spec: &KernelSpec) -> Option<Product> {
    Product::ALL.into_iter().find(|product| product.spec().name == spec.name)
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn every_variant_agrees_with_the_twin_of_its_kernel() {
    for (spec, check, _) in KERNELS {
        for variant in spec.variants() {
            let product = product_of(spec);
            // the widest tiling of a product has eight lanes
            if !GPU.has(variant, if product.is_some() { 8 } else { 1 }) {
                eprintln!("{} with {variant}: NOT RUN, {} has not what it needs", spec.name, GPU.adapter_name());
                continue;
            }
            let of_variant = spec.in_variant(variant);
            let failed = |why: String| -> f64 { panic!("{} with {variant}: {why}", spec.name) };
            if !variant.f16 {
                let worst = check(&of_variant).unwrap_or_else(failed);
                eprintln!("{} with {variant}: largest difference {worst:.1e}", spec.name);
            } else if let Some(product) = product {
                let worst = f16_error(product, &of_variant).unwrap_or_else(failed);
                eprintln!("{} with {variant}: largest difference {worst:.1e} of the products", spec.name);
                assert!(worst > F32_SHARE, "{} with {variant} is as exact as f32: {worst}", spec.name);
            } else {
                assert!(
                    !VARIED.iter().any(|varied| varied.name == spec.name),
                    "{} with {variant} has no check",
                    spec.name
                );
            }
        }
    }
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn a_perturbed_product_in_f16_does_not() {
    let variant = Variant { f16: true, subgroups: false };
    if !GPU.has(variant, 8) {
        return eprintln!("perturbed products with {variant}: NOT RUN, {} has no f16", GPU.adapter_name());
    }
    for (product, edits) in [
        (Product::Matmul, [("dot(w.o3.hi, hi)", "dot(w.o2.hi, hi)"), ("sums.a += products", "sums.a = products")]),
        (Product::NormMatmul, [("hi *= gain.hi", "hi *= gain.lo"), ("+ params.eps", "+ 2e-2")]),
        (Product::NormGateUp, [("80.0))) * up", "80.0))) + up"), ("places % half", "places")]),
    ] {
        let spec = product.spec().in_variant(variant);
        for (from, to) in edits {
            assert!(spec.source.contains(from), "{}: no `{from}`", spec.name);
            let perturbed = KernelSpec { source: spec.source.replace(from, to).into(), ..spec.clone() };
            assert!(
                f16_error(product, &perturbed).is_err(),
                "{} in f16: `{from}` made `{to}` went unnoticed",
                spec.name
            );
        }
    }
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn a_perturbed_variant_does_not() {
    let edits: [Edited; 2] = [
        (
            &matmul::SPEC,
            check_matmul,
            &[("step *= 2u", "step *= 4u"), ("thread / LANES, thread % LANES", "thread % TILE, thread / TILE")],
        ),
        (&attention::SPEC, check_attention, &[("sum += parts[i]", "sum = parts[i]"), ("subgroupAdd(own)", "own")]),
    ];
    for (spec, check, edits) in edits {
        let variant = Variant { f16: false, subgroups: true };
        if !GPU.has(variant, 8) {
            eprintln!("{} with {variant}: NOT RUN, {} has not what it needs", spec.name, GPU.adapter_name());
            continue;
        }
        let spec = spec.in_variant(variant);
        for (from, to) in edits {
            assert!(spec.source.contains(from), "{}: no `{from}`", spec.name);
            let perturbed = KernelSpec { source: spec.source.replace(from, to).into(), ..spec.clone() };
            assert!(check(&perturbed).is_err(), "{} with {variant}: `{from}` made `{to}` went unnoticed", spec.name);
        }
    }
}
