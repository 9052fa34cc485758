//! The worker's end: text from and to the page, with a file where the user picked one.

use wasm_bindgen::closure::Closure;
use wasm_bindgen::{JsCast, JsValue};

/// Calls `f` with every text that the page sends, and the file that goes along with it.
pub fn on_message(mut f: impl FnMut(String, Option<web_sys::File>) + 'static) {
    let closure = Closure::<dyn FnMut(_)>::new(move |event: web_sys::MessageEvent| {
        let data = event.data();
        let (text, file) = match data.dyn_ref::<js_sys::Array>() {
            Some(both) => (both.get(0), both.get(1).dyn_into().ok()),
            None => (data, None),
        };
        if let Some(text) = text.as_string() {
            f(text, file);
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
