//! 4-bit products in the browser against onnxruntime-web's `MatMulNBits`, on the same adapter (SwiftShader where
//! there is no GPU), turn and turn about.
//!
//! One JSON line a figure, `name, device, unit, ours, rival, rival_name, ratio`; `cargo xtask bench q4` runs it.
//! The unit is milliseconds a product, the median of five; ratio = rival / ours. Both sides make the same products
//! of the same weights, several with weights of their own in one submit (one session run), as in a layer; the
//! vocabulary's matrix alone, as in a model. Our side runs the product's WGSL, packed weights and workgroups,
//! handed to the page by this program. The rival is installed by npm into a folder that is thrown away.

mod onnx;

use anyhow::{Context, Result, ensure};
use beckon_shaders::kernels::matmul::MatmulParams;
use beckon_shaders::kernels::product::Tiling;
use beckon_shaders::{PackedWeight, Product, WeightFormat, WeightView, f32_from_f16};
use beckon_tests::browser::{Page, WebGpu};
use beckon_tests::npm;
use beckon_tests::site::Site;
use serde_json::{Value, json};

/// The rival, exactly.
const RIVAL: &str = "onnxruntime-web@1.30.0";
/// Inputs, outputs, products of one submit.
const SHAPES: [(usize, usize, usize); 4] = [(576, 576, 8), (576, 1536, 4), (1536, 576, 4), (576, 49_152, 1)];
/// Rows of x.
const ROWS: [usize; 3] = [1, 8, 64];
/// The two sides may differ by this share of the largest output: sums in another order.
const TOLERANCE: f64 = 1e-4;

/// A random matrix, row-major, in our 4-bit blocks with a minimum of -8 scales, which the rival calls a zero point.
struct Matrix {
    quants: Vec<u32>,
    scales: Vec<u32>,
}

fn random_words(seed: usize, n: usize) -> impl Iterator<Item = u32> {
    let mut state = seed as u64 + 1;
    (0..n).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    })
}

impl Matrix {
    fn random(seed: usize, n_values: usize) -> Self {
        let (n_quants, n_scales) = WeightFormat::Q4.words(n_values);
        // scales of 1/128, 3/256, 1/64 and 1/32 with minima of -1/16, -3/32, -1/8 and -1/4
        let scales = [0xac00_2000, 0xae00_2200, 0xb000_2400, 0xb400_2800];
        Self {
            quants: random_words(seed, n_quants).collect(),
            scales: random_words(seed + 1000, n_scales).map(|word| scales[word as usize % 4]).collect(),
        }
    }
}

fn main() -> Result<()> {
    let only = std::env::args().nth(1).unwrap_or_default();
    let name = |(cols, n, _): (usize, usize, usize), rows: usize| format!("q4.{cols}x{n}.rows_{rows}");
    let jobs = SHAPES.iter().flat_map(|shape| ROWS.map(|rows| (*shape, rows)));
    let jobs: Vec<_> = jobs.filter(|(shape, rows)| name(*shape, *rows).contains(&only)).collect();
    if jobs.is_empty() {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let Some(modules) = npm::installed(dir.path(), RIVAL)? else {
        eprintln!("q4 not run: it needs npm to install {RIVAL}");
        return Ok(());
    };
    let ort = modules.join("onnxruntime-web/dist");
    let (site, url) = Site::start(vec![("/ort/", ort)], false)?;
    site.put("/", "<!doctype html><title>q4</title><script type=module src=page.js></script>");
    site.put("/page.js", include_str!("page.js"));
    site.put("/kernel.wgsl", &*Product::Matmul.spec().source);
    let page = Page::open(&url, WebGpu::On);
    page.wait("the bench page", 60, || (page.eval("window.ready === true") == true).then_some(()));
    let (is_software, device) = adapter(&page)?;
    for (shape, n_rows) in jobs {
        let job = prepare(&site, shape, n_rows, is_software);
        let result = page.eval(&format!("bench({job})"));
        let (ours, rival) = (median(&result["ours"])?, median(&result["rival"])?);
        let difference = result["difference"].as_f64().context("the results of the two sides differ by no number")?;
        let largest = result["largest"].as_f64().context("no largest output")?;
        let name = name(shape, n_rows);
        ensure!(difference <= TOLERANCE * largest, "{name}: the two sides differ by {difference} of {largest}");
        let figure = json!({
            "name": name, "device": device, "unit": "ms", "ours": ours, "rival": rival,
            "rival_name": RIVAL, "ratio": rival / ours,
        });
        println!("{figure}");
    }
    ensure!(page.errors().is_empty(), "console: {:?}", page.errors());
    Ok(())
}

/// Whether the adapter is a CPU, as the product judges it, and its name.
fn adapter(page: &Page) -> Result<(bool, String)> {
    let info = page.eval(
        "navigator.gpu.requestAdapter().then(({ info: i }) => ({ name: `${i.vendor} ${i.architecture}`, \
         subgroup: i.subgroupMaxSize, fallback: i.isFallbackAdapter }))",
    );
    let name = info["name"].as_str().context("no WebGPU adapter")?;
    let width = info["subgroup"].as_u64().unwrap_or(u64::MAX);
    let is_software = info["fallback"] == true || width <= u64::from(beckon_shaders::SOFTWARE_SUBGROUP);
    Ok((is_software, format!("{name}, WebGPU in Chromium")))
}

/// Puts the weights, the input and the rival's model on the site; gives what the page needs to know.
fn prepare(site: &Site, (cols, n_outputs, n_ops): (usize, usize, usize), n_rows: usize, is_software: bool) -> Value {
    let tilings = Product::Matmul.tilings(Tiling::for_adapter(is_software));
    let tiling = Tiling::choose(&tilings, n_rows);
    let matrices: Vec<Matrix> = (0..n_ops).map(|i| Matrix::random(i, cols * n_outputs)).collect();
    for (i, Matrix { quants, scales }) in matrices.iter().enumerate() {
        let view = WeightView { format: WeightFormat::Q4, rows: n_outputs, cols, quants, scales };
        let packed = PackedWeight::stacked(&[view]);
        site.put(format!("/quants/{i}"), bytes_of(&packed.quants));
        site.put(format!("/scales/{i}"), bytes_of(&packed.scales));
    }
    let halves = |m: &Matrix| m.scales.iter().map(|s| f32_from_f16(*s as u16)).collect::<Vec<f32>>();
    let plain: Vec<_> = matrices.iter().map(|m| (bytes_of(&m.quants), halves(m))).collect();
    let nodes: Vec<_> = plain.iter().map(|(quants, scales)| onnx::Node { n_outputs, cols, quants, scales }).collect();
    site.put("/model", onnx::model(n_rows, &nodes));
    // of 2^32 steps from -1 to 1
    let input = random_words(99, n_rows * cols).map(|word| word as f32 / 2_147_483_648.0 - 1.0);
    site.put("/input", input.flat_map(f32::to_le_bytes).collect::<Vec<u8>>());

    let [rows, outputs, lanes] = tiling.constants();
    let constants: serde_json::Map<String, Value> = [("FORMAT", WeightFormat::Q4.wgsl_value()), rows, outputs, lanes]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    let [n_rows, cols, n_outputs] = [n_rows, cols, n_outputs].map(|n| n as u32);
    let params = MatmulParams { n_rows, cols, n_outputs, out_stride: n_outputs, out_offset: 0, accumulate: 0 };
    json!({
        "n_rows": n_rows, "cols": cols, "n_outputs": n_outputs, "n_ops": n_ops, "constants": constants,
        "workgroups": params.workgroups(tiling),
        "params": [n_rows, cols, n_outputs, n_outputs, 0, 0],
    })
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn median(millis: &Value) -> Result<f64> {
    let mut millis: Vec<f64> = millis.as_array().context("no timings")?.iter().filter_map(Value::as_f64).collect();
    ensure!(!millis.is_empty(), "no timings");
    millis.sort_by(f64::total_cmp);
    Ok(millis[millis.len() / 2])
}
