//! Every kernel, in every variant, through Chromium's own compiler: naga takes WGSL that it refuses. `cargo xtask check` runs this
//! before all other tests.

use beckon_shaders::kernels::product::Tiling;
use beckon_shaders::kernels::{Product, SPECS, VARIED, embed};
use beckon_shaders::{KernelSpec, Variant, WeightFormat};
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::process::root;
use beckon_tests::site::Site;
use serde_json::{Value, json};

/// On a device with nothing but what WebGPU guarantees and the named features: messages of modules with their line, then of pipelines.
const COMPILE: &str = "async (kernels, requiredFeatures) => {
  const device = await (await navigator.gpu.requestAdapter()).requestDevice({ requiredFeatures });
  const faults = [];
  for (const { name, source, variants } of kernels) {
    device.pushErrorScope('validation');
    const module = device.createShaderModule({ code: source });
    const { messages } = await module.getCompilationInfo();
    const errors = messages.filter((message) => message.type === 'error');
    for (const { message, lineNum, linePos } of errors) faults.push({ name, line: lineNum, column: linePos, message });
    await device.popErrorScope();
    if (errors.length) continue;
    for (const constants of variants) {
      try {
        await device.createComputePipelineAsync({ layout: 'auto', compute: { module, entryPoint: 'main', constants } });
      } catch (error) { faults.push({ name, line: 0, message: `${JSON.stringify(constants)}: ${error.message}` }) }
    }
  }
  return faults;
}";

/// The kernel with the constants of each of its variants, on every kind of adapter.
fn job(spec: &KernelSpec) -> Value {
    let product =
        [Product::Matmul, Product::NormMatmul, Product::NormGateUp].into_iter().find(|p| p.spec().name == spec.name);
    let mut variants = Vec::new();
    for format in WeightFormat::ALL {
        for tiling in product.iter().flat_map(|p| [true, false].map(|is| p.tilings(Tiling::for_adapter(is)))).flatten()
        {
            let mut constants: serde_json::Map<_, _> =
                tiling.constants().into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
            constants.insert("FORMAT".into(), json!(format.wgsl_value()));
            variants.push(Value::Object(constants));
        }
        if spec.name == embed::SPEC.name {
            variants.push(json!({"FORMAT": format.wgsl_value()}));
        }
    }
    if variants.is_empty() {
        variants.push(json!({}));
    }
    json!({"name": spec.name, "source": spec.source, "variants": variants})
}

/// `file:line` of a 1-based line of a source that was put together from files.
fn place(source: &str, line: usize) -> String {
    let folder = root().join("shaders/src/kernels");
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "wgsl") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let Some(at) = source.find(&text) else { continue };
        let before = source[..at].lines().count();
        if (1..=text.lines().count()).contains(&line.saturating_sub(before)) {
            return format!("{}:{}", path.strip_prefix(root()).unwrap().display(), line - before);
        }
    }
    format!("line {line}")
}

/// What Chromium refuses, one line each.
fn refused(page: &Page, specs: &[&KernelSpec]) -> Vec<String> {
    refused_with(page, specs, &[])
}

fn refused_with(page: &Page, specs: &[&KernelSpec], features: &[&str]) -> Vec<String> {
    let jobs: Vec<Value> = specs.iter().map(|spec| job(spec)).collect();
    let faults = page.eval(&format!("({COMPILE})({}, {})", Value::from(jobs), Value::from(features)));
    let told = faults.as_array().expect("a list").iter().map(|fault| {
        let spec = specs.iter().find(|spec| fault["name"] == spec.name).expect("one of them");
        let (line, column) = (fault["line"].as_u64().unwrap_or(0) as usize, &fault["column"]);
        let message = fault["message"].as_str().unwrap_or_default();
        format!("{} ({}): {column}: {message}", place(&spec.source, line), spec.name)
    });
    told.collect()
}

#[test]
#[ignore = "needs Chromium"]
fn chromium_takes_every_kernel_and_names_the_line_of_a_bad_one() {
    let (site, url) = Site::start(Vec::new(), false).unwrap();
    site.put("/", "<!doctype html><title>kernels</title>");
    let page = Page::open(&url, WebGpu::On);
    let products =
        SPECS.iter().filter(|spec| job(spec)["variants"].as_array().is_some_and(|all| all.len() == 18)).count();
    assert_eq!(products, 3, "products in three formats and six tilings");
    assert_eq!(refused(&page, &SPECS), Vec::<String>::new());

    // what a page may choose where the adapter has f16; without it the browser has to refuse the same text
    let in_f16 = VARIED.map(|spec| spec.in_variant(Variant { f16: true, subgroups: false }));
    let in_f16: Vec<&KernelSpec> = in_f16.iter().filter(|spec| spec.source.starts_with("enable f16;")).collect();
    assert_eq!(in_f16.len(), 3);
    assert_eq!(refused(&page, &in_f16).len(), 3, "f16 passed without being asked for");
    if page.eval("navigator.gpu.requestAdapter().then((adapter) => adapter.features.has('shader-f16'))") == true {
        assert_eq!(refused_with(&page, &in_f16, &["shader-f16"]), Vec::<String>::new());
    } else {
        eprintln!("kernels with f16: NOT RUN, this browser's adapter has no shader-f16");
    }

    // an entry point that is not there, and a name
    let good = Product::Matmul.spec();
    let edited = |source: String| KernelSpec { source: source.into(), ..good.clone() };
    let renamed = edited(good.source.replace("fn main(", "fn other("));
    assert_eq!(refused(&page, &[&renamed]).len(), 18, "a pipeline without its entry point passed");
    let unknown = edited(format!("{}\nfn more() -> u32 {{ return nothing; }}\n", good.source));
    let (told, at) = (refused(&page, &[&unknown]), unknown.source.trim_end().lines().count());
    assert!(told.len() == 1 && told[0].contains(&format!("line {at} (matmul)")), "{told:?}");
    // in a file as it stands the line is that of the file
    let own = std::fs::read_to_string(root().join("shaders/src/kernels/matmul.wgsl")).unwrap();
    let before = good.source.lines().count() - own.lines().count();
    assert_eq!(place(&good.source, before + 3), "shaders/src/kernels/matmul.wgsl:3");
    assert_eq!(place(&good.source, 1), "shaders/src/kernels/dequantize.wgsl:1");
}
