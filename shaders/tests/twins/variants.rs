//! The variants of kernels that the adapter has against the twins, and perturbed ones.

use super::*;
use beckon_shaders::Variant;

/// A kernel with f16 products against its twin in f32: relative to the sum of the products' sizes it errs by about 2^-11 of one.
fn f16_error(spec: &KernelSpec, lanes_of_gpu: bool) -> f64 {
    let mut worst = 0.0f64;
    for format in WeightFormat::ALL {
        for (n_rows, cols, n_outputs) in PRODUCTS {
            let mut noise = Noise((n_rows * cols) as u64);
            let x = noise.floats(n_rows * cols);
            let (quants, scales) = noise.weight(format, n_outputs, cols);
            let weight = WeightView { format, rows: n_outputs, cols, quants: &quants, scales: &scales };
            let packed = PackedWeight::stacked(&[weight]);
            for tiling in Product::Matmul.tilings(Tiling::for_adapter(!lanes_of_gpu)) {
                let [r, o, l] = tiling.constants();
                let n = n_outputs as u32;
                let params = MatmulParams {
                    n_rows: n_rows as u32,
                    cols: cols as u32,
                    n_outputs: n,
                    out_stride: n,
                    out_offset: 0,
                    accumulate: 0,
                };
                let mut want = vec![0.0; n_rows * n_outputs];
                matmul::matmul(&params, &weight, &x, &mut want);
                let out = vec![0; want.len()];
                let buffers = [&packed.quants[..], &packed.scales, words(&x), &out];
                let constants = [("FORMAT", format.wgsl_value()), r, o, l];
                let got = run(spec, &constants, &params, params.workgroups(&tiling), &buffers).remove(0);
                let mut decoded = vec![0.0; cols];
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    weight.decode_row(i % n_outputs, &mut decoded);
                    let row = &x[i / n_outputs * cols..][..cols];
                    let size: f64 = row.iter().zip(&decoded).map(|(x, w)| f64::from(x * w).abs()).sum();
                    worst = worst.max((f64::from(*got) - f64::from(*want)).abs() / size);
                }
            }
        }
    }
    worst
}

#[test]
#[ignore = "needs a Vulkan adapter (lavapipe will do)"]
fn every_variant_agrees_with_the_twin_of_its_kernel() {
    for (spec, check, edits) in KERNELS {
        for variant in spec.variants() {
            // the widest tiling has eight lanes
            let n_lanes = if edits.iter().any(|(from, _)| from.contains("LANES")) { 8 } else { 1 };
            if !GPU.has(variant, n_lanes) {
                eprintln!("{} with {variant}: NOT RUN, {} has not what it needs", spec.name, GPU.adapter_name());
                continue;
            }
            let of_variant = spec.in_variant(variant);
            if !variant.f16 {
                let worst = check(&of_variant).unwrap_or_else(|why| panic!("{} with {variant}: {why}", spec.name));
                eprintln!("{} with {variant}: largest difference {worst:.1e}", spec.name);
            } else if spec.name == matmul::SPEC.name {
                let worst = [false, true].map(|of_gpu| f16_error(&of_variant, of_gpu)).into_iter().fold(0.0, f64::max);
                eprintln!("{} with {variant}: largest difference {worst:.1e} of the products", spec.name);
                assert!(worst < 1e-3, "{} with {variant}: {worst}", spec.name);
                assert!(worst > 1e-5, "{} with {variant} is as exact as f32: {worst}", spec.name);
            }
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
