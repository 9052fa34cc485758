//! The kernels with relaxed vectors: a module of their own over this module's memory. `worker.js` compiles it where the browser takes
//! it, and has several threads run it where others may see that memory.

use beckon_shaders::KernelPath;
use beckon_shaders::kernels::matmul_int8::relaxed;
use js_sys::WebAssembly;
use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = kernels)]
    fn matmul(place: u32, first: u32, n: u32);
    #[wasm_bindgen(js_namespace = kernels)]
    fn share(place: u32);
}

/// The module, for a memory that is shared or not; its functions have to be the global `kernels`.
#[wasm_bindgen]
pub fn kernel_module(is_shared: bool) -> Vec<u8> {
    relaxed::module(is_shared)
}

/// What a thread's `help` is given.
#[wasm_bindgen]
pub fn team_place() -> u32 {
    relaxed::team_place()
}

/// Makes the module's kernel paths available; without threads there is no module.
pub fn install(n_threads: usize, has_dot: bool) {
    if n_threads > 0 {
        relaxed::install(relaxed::Functions { matmul, share, has_dot, n_threads });
    }
}

/// Threads that make products on a path.
pub fn n_threads(path: KernelPath) -> usize {
    let is_shared = matches!(path, KernelPath::Int8RelaxedSimd | KernelPath::Int8RelaxedDot);
    if is_shared { relaxed::n_threads() } else { 1 }
}

/// Size of this module's memory.
pub fn memory_bytes() -> u64 {
    let buffer = wasm_bindgen::memory().unchecked_into::<WebAssembly::Memory>().buffer();
    u64::from(buffer.unchecked_into::<js_sys::ArrayBuffer>().byte_length())
}
