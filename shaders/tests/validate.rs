//! Every WGSL file against naga's validator, the specification beside it and WebGPU's default limits.

use beckon_shaders::{Access, KernelSpec, Variant, kernels::SPECS};
use naga::{AddressSpace, StorageAccess};

fn parsed(spec: &KernelSpec, variant: Variant) -> Result<naga::Module, String> {
    let module = naga::front::wgsl::parse_str(&spec.source).map_err(|e| e.emit_to_string(&spec.source))?;
    // unpack2x16float, which every WebGPU has; beyond it what the variant says
    let mut capabilities = naga::valid::Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(naga::valid::Capabilities::SHADER_FLOAT16, variant.f16);
    capabilities.set(naga::valid::Capabilities::SUBGROUP, variant.subgroups);
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), capabilities);
    validator.validate(&module).map_err(|e| e.emit_to_string(&spec.source))?;
    Ok(module)
}

/// Why the module does not fit its specification or the limits.
fn mismatch(spec: &KernelSpec, module: &naga::Module) -> Option<String> {
    let [entry] = &module.entry_points[..] else {
        return Some(format!("{} entry points", module.entry_points.len()));
    };
    if entry.name != "main" || entry.workgroup_size.iter().product::<u32>() > 256 {
        return Some(format!("entry {} of {:?} invocations", entry.name, entry.workgroup_size));
    }
    let mut storage = Vec::new();
    let mut workgroup_bytes = 0;
    for (_, variable) in module.global_variables.iter() {
        let bytes = module.types[variable.ty].inner.size(module.to_ctx());
        match (variable.space, &variable.binding) {
            (AddressSpace::WorkGroup, None) => workgroup_bytes += bytes,
            (AddressSpace::Private, None) => {}
            (AddressSpace::Uniform, Some(at)) => {
                if (at.group, at.binding, bytes as usize) != (0, 0, spec.params_bytes) {
                    return Some(format!("parameters of {bytes} bytes at {at:?}, expected {}", spec.params_bytes));
                }
            }
            (AddressSpace::Storage { access }, Some(at)) if at.group == 0 => {
                let writes = access.contains(StorageAccess::STORE);
                storage.push((at.binding, if writes { Access::ReadWrite } else { Access::Read }));
            }
            other => return Some(format!("unexpected variable {other:?}")),
        }
    }
    storage.sort_by_key(|(binding, _)| *binding);
    let expected: Vec<_> = spec.bindings.iter().enumerate().map(|(i, access)| (i as u32 + 1, *access)).collect();
    if storage != expected || storage.len() > 8 {
        return Some(format!("storage buffers {storage:?}, expected {expected:?}"));
    }
    (workgroup_bytes > 16 * 1024).then(|| format!("{workgroup_bytes} bytes of workgroup memory"))
}

#[test]
fn every_kernel_is_valid_and_as_specified() {
    for spec in SPECS {
        for variant in std::iter::once(Variant::PLAIN).chain(spec.variants()) {
            let spec = spec.in_variant(variant);
            let module = parsed(&spec, variant).unwrap_or_else(|why| panic!("{} {variant}: {why}", spec.name));
            assert_eq!(mismatch(&spec, &module), None, "{} {variant}", spec.name);
            if variant != Variant::PLAIN {
                assert!(parsed(&spec, Variant::PLAIN).is_err(), "{} {variant} needs nothing", spec.name);
            }
        }
    }
}

#[test]
fn a_broken_kernel_is_noticed() {
    let spec = SPECS[0].clone();
    let broken = |from: &str, to: &str| {
        assert!(spec.source.contains(from), "{from}");
        KernelSpec { source: spec.source.replace(from, to).into(), ..spec.clone() }
    };
    assert!(parsed(&broken("params.half_dim;", "params.no_such_field;"), Variant::PLAIN).is_err());
    let grown = broken("scale: f32,", "scale: f32, more: f32,");
    assert!(mismatch(&grown, &parsed(&grown, Variant::PLAIN).unwrap()).unwrap().contains("parameters of 24 bytes"));
    let heavy = broken("array<vec2<f32>, THREADS>", "array<vec2<f32>, 2048>");
    assert!(mismatch(&heavy, &parsed(&heavy, Variant::PLAIN).unwrap()).unwrap().contains("workgroup memory"));
    let writing = broken("read> keys", "read_write> keys");
    assert!(mismatch(&writing, &parsed(&writing, Variant::PLAIN).unwrap()).unwrap().contains("storage buffers"));
}

#[test]
fn every_wgsl_file_belongs_to_a_kernel() {
    // not where it was built, if two clones share a build directory
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    let folder = format!("{here}/src/kernels");
    let mut n_files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "wgsl") {
            let text = std::fs::read_to_string(&path).unwrap();
            let all = SPECS.iter().flat_map(|s| [Variant::ALL[0], Variant::ALL[2]].map(|v| s.in_variant(v)));
            assert!(all.into_iter().any(|s| s.source.contains(&text)), "{} is in no kernel", path.display());
            n_files += 1;
        }
    }
    assert_eq!(n_files, SPECS.len() + 6, "the kernels and what is common to them");
}
