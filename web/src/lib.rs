//! The page: one Leptos page per step of the loop (Data, Train, Checkpoints, Preview, Experiments) and one for the server, and the worker that hosts
//! the engine. Both are the same wasm module: the document calls `page_main`, the worker calls
//! `worker_main`.
//!
//! Layout: modules that only compute ([`analysis_form`], [`curve`], [`eta`], [`experiment_form`], [`mod@format`], [`interval`], [`log_format`], [`route`],
//! [`run_form`], [`slate`], [`wire`]) compile and are tested everywhere; the rest needs a browser, and reaches it through
//! `platform` alone.

pub mod analysis_form;
pub mod curve;
pub mod eta;
pub mod experiment_form;
pub mod format;
pub mod interval;
pub mod log_format;
pub mod route;
pub mod run_form;
pub mod slate;
pub mod wire;

#[cfg(target_arch = "wasm32")]
mod api;
#[cfg(target_arch = "wasm32")]
mod app;
#[cfg(target_arch = "wasm32")]
mod component;
#[cfg(target_arch = "wasm32")]
mod embed;
#[cfg(target_arch = "wasm32")]
mod engine_link;
#[cfg(target_arch = "wasm32")]
mod fetch;
#[cfg(target_arch = "wasm32")]
mod live;
#[cfg(target_arch = "wasm32")]
mod page;
#[cfg(target_arch = "wasm32")]
mod platform;
#[cfg(target_arch = "wasm32")]
mod worker;

/// Starts the page in the document's body.
#[cfg(target_arch = "wasm32")]
#[wasm_bindgen::prelude::wasm_bindgen]
pub fn page_main() {
    console_error_panic_hook::set_once();
    platform::dom::remove("boot");
    leptos::mount::mount_to_body(app::App);
}

/// Starts the engine host inside a dedicated worker, with what [`platform::kernels::install`] wants to know.
#[cfg(target_arch = "wasm32")]
#[wasm_bindgen::prelude::wasm_bindgen]
pub fn worker_main(n_threads: usize, has_dot: bool) {
    console_error_panic_hook::set_once();
    platform::kernels::install(n_threads, has_dot);
    worker::run();
}
