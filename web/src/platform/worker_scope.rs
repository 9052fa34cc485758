//! The worker's end: text from and to the page.

use wasm_bindgen::closure::Closure;
use wasm_bindgen::{JsCast, JsValue};

/// Calls `f` with every text that the page sends.
pub fn on_message(mut f: impl FnMut(String) + 'static) {
    let closure = Closure::<dyn FnMut(_)>::new(move |event: web_sys::MessageEvent| {
        if let Some(text) = event.data().as_string() {
            f(text);
        }
    });
    scope().set_onmessage(Some(closure.as_ref().unchecked_ref()));
    closure.forget();
}

/// Sends text to the page.
pub fn post(text: &str) {
    // fails only for values that cannot be cloned, which text is not
    let _ = scope().post_message(&JsValue::from_str(text));
}

fn scope() -> web_sys::DedicatedWorkerGlobalScope {
    js_sys::global().unchecked_into()
}
