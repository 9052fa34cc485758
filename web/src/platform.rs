//! Everything that the page asks of the browser; no other module calls `web_sys` or `js_sys` for it
//! (events arrive through Leptos and are read here).
//!
//! The page and the worker share [`http`] and [`clock`]; [`dom`], [`storage`], [`stream`] and [`worker_link`]
//! need a document, [`worker_scope`] needs a worker; [`kept`], [`kernels`] and [`picked`] are the worker's.

pub mod clock;
pub mod dom;
pub mod http;
pub mod kept;
pub mod kernels;
pub mod picked;
pub mod promise;
pub mod storage;
pub mod stream;
pub mod worker_link;
pub mod worker_scope;

use wasm_bindgen::{JsCast, JsValue};

/// What went wrong below us, as text for people.
pub fn error_text(error: &JsValue) -> String {
    if let Some(error) = error.dyn_ref::<js_sys::Error>() {
        return String::from(error.message());
    }
    error.as_string().unwrap_or_else(|| format!("{error:?}"))
}

/// Runs a future on this thread.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    wasm_bindgen_futures::spawn_local(future);
}
