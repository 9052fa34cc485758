//! Time: a monotonic clock for durations, the calendar for display, timers.

use wasm_bindgen::closure::Closure;
use wasm_bindgen::{JsCast, JsValue};
use wasm_bindgen_futures::JsFuture;

/// Seconds since the page or worker started, monotonic.
pub fn now_secs() -> f64 {
    let global = js_sys::global();
    let performance = js_sys::Reflect::get(&global, &JsValue::from_str("performance"))
        .ok()
        .and_then(|p| p.dyn_into::<web_sys::Performance>().ok());
    performance.map_or_else(js_sys::Date::now, |p| p.now()) / 1e3
}

/// Milliseconds since 1970 UTC.
#[expect(clippy::cast_possible_truncation, reason = "fits for 285,000 years")]
pub fn now_millis() -> i64 {
    js_sys::Date::now() as i64
}

/// Date and time of the user's locale.
#[expect(clippy::cast_precision_loss, reason = "a time stamp")]
pub fn local_time(millis: i64) -> String {
    let date = js_sys::Date::new(&JsValue::from_f64(millis as f64));
    String::from(date.to_locale_string("default", &JsValue::UNDEFINED))
}

/// Waits.
pub async fn sleep(millis: i32) {
    let _ = JsFuture::from(after(millis)).await;
}

/// What `promise` brings; `None` where it takes longer than so many milliseconds.
pub async fn within(millis: i32, promise: js_sys::Promise) -> Option<Result<JsValue, JsValue>> {
    let first = js_sys::Promise::race(&js_sys::Array::of2(&promise, &after(millis)));
    let first = JsFuture::from(first).await;
    // the timer brings nothing, a response or a piece of one is an object
    if first == Ok(JsValue::UNDEFINED) { None } else { Some(first) }
}

/// A promise that is kept after so many milliseconds.
fn after(millis: i32) -> js_sys::Promise {
    js_sys::Promise::new(&mut |resolve, _| {
        let set_timeout = js_sys::Reflect::get(&js_sys::global(), &JsValue::from_str("setTimeout"))
            .ok()
            .and_then(|f| f.dyn_into::<js_sys::Function>().ok());
        if let Some(set_timeout) = set_timeout {
            // without a timer the promise would never resolve, so resolve at once
            if set_timeout.call2(&JsValue::UNDEFINED, &resolve, &JsValue::from(millis)).is_ok() {
                return;
            }
        }
        let _ = resolve.call0(&JsValue::UNDEFINED);
    })
}

/// Calls `f` every `millis`, for as long as the page lives.
pub fn every(millis: i32, f: impl FnMut() + 'static) {
    let closure = Closure::<dyn FnMut()>::new(f);
    if let Some(window) = web_sys::window() {
        let _ = window.set_interval_with_callback_and_timeout_and_arguments_0(closure.as_ref().unchecked_ref(), millis);
    }
    closure.forget();
}
